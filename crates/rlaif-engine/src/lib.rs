//! Models in memory: checkpoints, tokenizers, chat templates, generation, forward and backward.

mod config;
mod error;
mod infer;
mod kernels;
mod rope;
mod sampler;
mod weights;

pub use config::{LlamaConfig, RopeScaling};
pub use error::EngineError;
pub use infer::{Cache, Inference, Sequence, Work};
pub use sampler::{Stream, argmax, draw, log_sum_exp};
pub use weights::{Block, Matrix, PROJECTIONS, Weights};
