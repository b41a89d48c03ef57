//! ppo: training prompts and the reward model → the policy.

use std::collections::BTreeMap;

use rlaif_core::seed::Split;

use rlaif_train::ppo::iterations;

use super::round::Round;
use super::training::{Training, dataset};
use super::{Context, StageReport};
use crate::error::Error;
use crate::train::{self, MARK, Part, PpoConfig, ROLLOUTS, RewardSource, settings};

/// Optimizes the policy on the prompts of the training split, which alone it may see.
///
/// # Errors
/// As [`train::ppo`]; no prompt in the training split.
pub fn run(cx: &mut Context<'_>, config: &PpoConfig, round: Round) -> Result<StageReport, Error> {
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
    // What `[reward]` trains is trained anew in every round; any other reward stays.
    let name = match config.reward.as_str() {
        "reward" => round.name("reward"),
        other => other.to_owned(),
    };
    let reward = cx.model_folder(&name)?;
    let mut inputs = BTreeMap::from([
        ("prompts".to_owned(), cx.prompts.sha256.clone()),
        (name, cx.local.fingerprint(&reward)?),
    ]);
    let after = round.before().map(|before| before.name("ppo"));
    if let Some(name) = &after {
        let fingerprint = cx.local.fingerprint(&cx.file(name))?;
        inputs.insert(name.clone(), fingerprint);
    }
    let (_, updates) = iterations(&config.algorithm);
    let until = (!round.is_last()).then(|| round.share_of(updates));
    let stage = Training {
        verb: "ppo",
        name: round.name("ppo"),
        base: &config.base,
        inputs,
        config: format!("{}\n{:?}\n{until:?}", settings(config), cx.recipe.limit),
        beside: Vec::new(),
        files: match until {
            Some(_) => &[ROLLOUTS, MARK],
            None => &[ROLLOUTS],
        },
    };
    let reward = RewardSource::Model(reward);
    let after = after.map(|name| cx.file(&name));
    let part = Part {
        after: after.as_deref(),
        until,
    };
    stage.run(cx, |at| {
        Ok(train::ppo(config, &data, &reward, part, at)?.iterations)
    })
}
