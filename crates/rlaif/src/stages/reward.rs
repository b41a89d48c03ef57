//! reward: preferences → a reward model on their soft labels, the best by held-out loss.

use std::collections::BTreeMap;

use super::training::{Training, preferences};
use super::{Context, StageReport};
use crate::error::Error;
use crate::train::{self, RewardConfig, settings};

/// Trains the reward model.
///
/// # Errors
/// As [`train::reward`].
pub fn run(cx: &mut Context<'_>, config: &RewardConfig) -> Result<StageReport, Error> {
    let data = preferences(cx)?;
    let stage = Training {
        name: "reward",
        base: &config.base,
        inputs: BTreeMap::from([(super::preferences::FILE.to_owned(), data.sha256.clone())]),
        config: settings(config),
        beside: Vec::new(),
        files: &[],
    };
    stage.run(cx, |at| Ok(train::reward(config, &data, at)?.steps))
}
