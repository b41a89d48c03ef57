//! Align a language model with a written constitution instead of an annotation team.
//!
//! [`RlaifAgent`] is the way in from code: it critiques, improves and compares answers under a
//! [`Constitution`]. The binary `rlaif` is this library's user; a run's stages are listed in
//! [`pipeline`], and they call the same functions as the agent.
//!
//! ```no_run
//! use rlaif::{open, blocking::RlaifAgent, Constitution};
//! # fn main() -> Result<(), rlaif::Error> {
//! # let (prompt, answer) = ("How do I boil an egg?", "Boil it.");
//! let agent = RlaifAgent::new(
//!     open("http://localhost:8000/v1#writer")?,
//!     open("http://localhost:8000/v1#judge")?,
//!     Constitution::read("default.toml")?,
//! );
//! let critique = agent.generate_critique(prompt, answer)?;
//! let revision = agent.improve_response(prompt, answer, &critique)?;
//! let verdict = agent.generate_preference_data(prompt, answer, &revision.text)?;
//! println!("{:?} p={:.2}: {}", verdict.outcome, verdict.p_first, verdict.reason);
//! # Ok(())
//! # }
//! ```

pub mod agent;
pub mod blocking;
pub mod error;
pub mod evals;
pub mod evaluation;
pub mod figures;
#[cfg(feature = "local")]
pub mod local;
pub mod open;
pub mod paired;
pub mod pipeline;
pub mod plan;
pub mod progress;
#[cfg(feature = "local")]
pub mod quickstart;
pub mod recipe;
pub mod report;
pub mod rows;
pub mod stages;
#[cfg(feature = "local")]
pub mod train;
pub mod views;

pub use agent::RlaifAgent;
pub use error::Error;
pub use open::open;
pub use recipe::Recipe;
pub use rlaif_core::{
    Constitution, Critique, Judgment, LanguageModel, Message, Model, ModelError, Outcome,
    Preference, Principle, Probability, Prompt, Revision, Verdict, parse_preference,
    script::ScriptedModel,
};
pub use rlaif_feedback::{
    Combine, CritiqueConfig, JudgeConfig, Method, Orders, Principles, Rationale, ReviseConfig,
    Scope, Ties,
};
