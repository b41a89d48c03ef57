//! Memory that a training run needs, held against what the machine has, before any work is done.

use std::path::Path;

use rlaif_engine::{EngineError, Footprint, LlamaConfig};
use serde::Serialize;

use crate::error::Error;

/// What a training run needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Weights, gradients, moments, activations of the model that trains.
    #[serde(flatten)]
    pub training: Footprint,
    /// Copies of it and other models beside: the reference, what samples, the policy that was
    /// kept, the reward model.
    pub beside: u64,
}

impl Need {
    /// Of training on examples; DPO's reference is the weights at the start.
    #[must_use]
    pub fn of_examples(c: &LlamaConfig, lora: Option<usize>, tokens: usize, dpo: bool) -> Self {
        let copies = u64::from(dpo && lora.is_none());
        Need {
            training: Footprint::of(c, lora, tokens as u64),
            beside: 4 * copies * c.parameters(),
        }
    }

    /// Of PPO: beside the policy the weights at the start, those packed for sampling, those kept
    /// for the KL budget, and the reward model with its packed weights.
    #[must_use]
    pub fn of_ppo(
        c: &LlamaConfig,
        reward: Option<&LlamaConfig>,
        lora: Option<usize>,
        tokens: usize,
    ) -> Self {
        let copies = if lora.is_some() { 2 } else { 3 };
        let reward = reward.map_or(0, LlamaConfig::parameters);
        Need {
            training: Footprint::of(c, lora, tokens as u64),
            beside: 4 * (copies * c.parameters() + 2 * reward),
        }
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.training.total() + self.beside
    }

    /// Refuses a run that the machine cannot hold.
    ///
    /// # Errors
    /// [`EngineError::Memory`] with both figures.
    pub fn check(&self, stage: &str) -> Result<(), Error> {
        match available() {
            Some(bytes) if self.total() > bytes => Err(EngineError::Memory {
                what: format!("training `{stage}`"),
                needed: self.total() >> 20,
                budget: bytes >> 20,
                lower: "`max_tokens`, train an adapter (`lora`),",
            }
            .into()),
            _ => Ok(()),
        }
    }
}

/// Bytes that this process may still take: the machine's, or its control group's where that is
/// less. `None` where neither is known.
#[must_use]
pub fn available() -> Option<u64> {
    let number = |path: &str| -> Option<u64> {
        let text = std::fs::read_to_string(Path::new(path)).ok()?;
        text.trim().parse().ok()
    };
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(max, now)| max.saturating_sub(now));
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib << 10)
        });
    match (group, machine) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
