//! Models behind a socket: an OpenAI-compatible chat-completions client.
//!
//! Main type: [`Endpoint`], a [`rlaif_core::LanguageModel`]. A file each: [`wire`] is what goes
//! over the line, `dialect` what an endpoint refuses, `choice` the reading of probabilities,
//! `retry` which failures are worth another attempt.
//!
//! Invariants: a failed call is a typed error and never a number; every wait is bounded; a key
//! comes from a named environment variable and reaches nothing but the request's header.

mod choice;
mod config;
mod dialect;
mod endpoint;
mod retry;
mod reward;
pub mod wire;

pub use config::{ClientError, EndpointConfig, Price};
pub use endpoint::{Endpoint, Stats};
pub use reward::{RewardRequest, rewards};
