//! Critique, revise, judge: text in, records out.
//!
//! Main functions: [`candidate::candidate`], [`critique::critique`], [`revise::revise`], [`judge::judge`] and
//! [`score::ratings`]. Each asks a
//! [`rlaif_core::LanguageModel`] and returns a record; an answer that fails is a record with that
//! outcome. An error means that every further call would fail alike.
//!
//! What is absent on purpose: this crate knows no endpoint, no tensor and no file, and draws no
//! random number that does not derive from the item's seed.

pub mod candidate;
pub mod combine;
pub mod contrast;
pub mod critique;
pub mod error;
pub mod judge;
pub mod revise;
pub mod score;
pub mod synth;
pub mod template;

mod ask;
mod reading;
mod shorten;

pub use candidate::{CandidatesConfig, Sampler, candidate};
pub use combine::Combine;
pub use contrast::{Contrast, ContrastConfig, contrast};
pub use critique::{Critic, CritiqueConfig, Scope, critique};
pub use error::FeedbackError;
pub use judge::{
    Exemplar, Judge, JudgeConfig, Juror, Method, Orders, Principles, Rationale, Ties, judge,
};
pub use revise::{ReviseConfig, Reviser, revise};
pub use score::{JudgeReward, Scorer, ratings, ratings_of};
pub use template::{Inserts, Purpose, Template};

/// Version that provenance names.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
