//! Training of models in memory: rows as examples, the engine as the trainer's network, exact
//! resume. [`sft`], [`reward`], [`dpo`] and [`ppo`] are what the verbs and the stages of those
//! names call.
//!
//! The functions block for as long as training takes; from async code, give them a thread of their
//! own unless nothing else waits.

mod desk;
mod events;
mod examples;
mod fit;
mod folder;
mod measure;
mod memory;
mod network;
mod ppo;
mod scorer;

use std::path::Path;

use rlaif_engine::LoraConfig;
use rlaif_train::TrainError;

pub use desk::{Desk, Head};
pub use examples::{Made, Splits, label};
pub use fit::{DpoConfig, FitReport, RewardConfig, SftConfig, TuneConfig, dpo, reward, sft};
pub use folder::{LOG, MARK, Other, ROLLOUTS, discard_checkpoint};
pub use measure::{Measured, measure};
pub use memory::{Need, available};
pub use network::Network;
pub use ppo::{Part, PpoConfig, PpoReport, Scored, ppo};
pub use scorer::{JudgeSource, RewardModel, RewardSource};

use crate::error::Error;
use crate::progress::Progress;
use crate::rows::Stop;

/// Where a training run reads and writes, and who listens.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The folder of the model that it starts from.
    pub base: &'a Path,
    /// The folder to write: model, log, checkpoints, summary.
    pub out: &'a Path,
    /// What to do where `out` holds another run.
    pub other: Other,
    /// Whether an adapter is also written as a whole model, which whatever comes next can open.
    pub merge: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// Listener.
    pub progress: &'a dyn Progress,
    /// Stops the run at its next step, after a checkpoint.
    pub stop: &'a Stop,
}

/// What ends a training loop when it is asked to stop.
const STOPPED: &str = "stopped";

fn ended(e: TrainError<rlaif_engine::EngineError>, verb: &str, step: u64, total: u64) -> Error {
    match e {
        TrainError::Model(e) => e.into(),
        TrainError::Stopped(why) if why == STOPPED => Error::Stopped {
            stage: verb.into(),
            done: step as usize,
            total: total as usize,
            cause: None,
        },
        other => Error::input(other.to_string(), "mend it and give the same command again"),
    }
}

fn lora(rank: Option<usize>, alpha: Option<f32>) -> Option<LoraConfig> {
    rank.map(|r| LoraConfig {
        r,
        lora_alpha: alpha.unwrap_or(2.0 * r as f32),
        ..LoraConfig::default()
    })
}

/// Settings as text, without those that change how often a run is saved but not what it comes to.
pub(crate) fn settings<T: serde::Serialize>(config: &T) -> String {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("save_secs");
    }
    value.to_string()
}

fn write_summary(out: &Path, summary: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(summary).unwrap_or_default() + "\n";
    rlaif_core::run::write_atomic(&out.join("summary.json"), text.as_bytes())?;
    Ok(())
}
