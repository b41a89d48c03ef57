//! dpo: preferences → the policy, optimized on them directly.

use std::collections::BTreeMap;

use super::round::Round;
use super::training::{Training, preferences};
use super::{Context, StageReport};
use crate::error::Error;
use crate::train::{self, DpoConfig, settings};

/// Optimizes the policy.
///
/// # Errors
/// As [`train::dpo`].
pub fn run(cx: &mut Context<'_>, config: &DpoConfig) -> Result<StageReport, Error> {
    let data = preferences(cx, Round::last(cx.recipe))?;
    let stage = Training {
        verb: "dpo",
        name: "dpo".into(),
        base: &config.base,
        inputs: BTreeMap::from([(super::preferences::FILE.to_owned(), data.sha256.clone())]),
        config: settings(config),
        beside: Vec::new(),
        files: &[],
    };
    stage.run(cx, |at| Ok(train::dpo(config, &data, at)?.steps))
}
