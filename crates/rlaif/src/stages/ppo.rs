//! ppo: training prompts and the reward model → the policy.

use std::collections::BTreeMap;

use rlaif_core::seed::Split;

use super::training::{Training, dataset};
use super::{Context, StageReport};
use crate::error::Error;
use crate::train::{self, PpoConfig, ROLLOUTS, RewardSource, settings};

/// Optimizes the policy on the prompts of the training split, which alone it may see.
///
/// # Errors
/// As [`train::ppo`]; no prompt in the training split.
pub fn run(cx: &mut Context<'_>, config: &PpoConfig) -> Result<StageReport, Error> {
    let rows: Vec<_> = cx
        .prompts
        .rows
        .iter()
        .filter(|row| Split::of(&row.prompt) == Split::Train)
        .cloned()
        .collect();
    if rows.is_empty() {
        return Err(Error::input(
            format!(
                "`{}` has no prompt in the training split",
                cx.prompts.path.display()
            ),
            "give more prompts: a hash of each decides its split, 80 % train",
        ));
    }
    let data = dataset(cx.prompts.path.clone(), rows, cx.prompts.sha256.clone());
    let reward = cx.model_folder(&config.reward)?;
    let stage = Training {
        name: "ppo",
        base: &config.base,
        inputs: BTreeMap::from([
            ("prompts".to_owned(), cx.prompts.sha256.clone()),
            (config.reward.clone(), cx.local.fingerprint(&reward)?),
        ]),
        config: format!("{}\n{:?}", settings(config), cx.recipe.limit),
        beside: Vec::new(),
        files: &[ROLLOUTS],
    };
    let reward = RewardSource::Model(reward);
    stage.run(cx, |at| {
        Ok(train::ppo(config, &data, &reward, at)?.iterations)
    })
}
