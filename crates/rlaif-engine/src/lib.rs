//! Models in memory: checkpoints, tokenizers, chat templates, generation, forward and backward.

mod config;
mod convert;
mod error;
mod infer;
mod kernels;
mod local;
mod rope;
mod sampler;
mod schedule;
mod template;
mod tokenizer;
mod tune;
mod weights;

pub use config::{LlamaConfig, RopeScaling};
pub use convert::{Converted, convert};
pub use error::EngineError;
pub use infer::{Cache, Inference, Sequence, Work};
pub use local::LocalModel;
pub use sampler::{Stream, argmax, draw, log_sum_exp};
pub use schedule::{Finished, Job, Options, Scheduler};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
pub use tune::{AdamW, Adapter, Batch, Footprint, LoraConfig, Outputs, Parameters, Tape, Tuner};
pub use weights::{Block, Matrix, PROJECTIONS, Weights};
