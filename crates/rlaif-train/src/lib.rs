//! Losses and training loops, a file each: numbers in, gradients out.
//!
//! Every objective depends on the network only through per-token log-probabilities, entropies and
//! values ([`TokenOutputs`]). A loss is a pure function of those; [`Trainable`] turns its gradient
//! into parameter updates.

pub mod dpo;
pub mod fit;
pub mod ppo;
pub mod reward;
pub mod schedule;
pub mod sft;
mod waist;

pub use fit::{FitConfig, Objective, State, StepMetrics, fit};
pub use waist::{Loss, Row, TokenBatch, TokenGrads, TokenOutputs, TrainError, Trainable};

#[cfg(test)]
mod golden;
