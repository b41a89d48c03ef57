//! reward: preferences → a reward model on their soft labels, the best by held-out loss.

use std::collections::BTreeMap;

use super::round::Round;
use super::training::{Training, preferences};
use super::{Context, StageReport};
use crate::error::Error;
use crate::train::{self, RewardConfig, settings};

/// Trains the reward model; after the first round, the one of the round before on all labels so far.
///
/// # Errors
/// As [`train::reward`].
pub fn run(
    cx: &mut Context<'_>,
    config: &RewardConfig,
    round: Round,
) -> Result<StageReport, Error> {
    let data = preferences(cx, round)?;
    let mut config = config.clone();
    if let (Some(before), Some(online)) = (round.before(), cx.recipe.online()) {
        config.base = before.name("reward");
        config.tune.num_train_epochs = online.num_train_epochs;
    }
    let config = &config;
    let preferences = round.name(super::preferences::FILE);
    let stage = Training {
        verb: "reward",
        name: round.name("reward"),
        base: &config.base,
        inputs: BTreeMap::from([(preferences, data.sha256.clone())]),
        config: settings(config),
        beside: Vec::new(),
        files: &[],
    };
    stage.run(cx, |at| Ok(train::reward(config, &data, at)?.steps))
}
