//! The pipeline: one function that lists the stages, a line each. Data moves right only, and each
//! arrow is a file or folder in the run folder.
//!
//! constitution + prompts → **candidates** → **critiques** → **revisions** → **sft** →
//! **sft_candidates** → **judgments** (or **contrast**, pairs without a judge) → **preferences** →
//! **reward** → **ppo** or **dpo** → **evaluation** → **export**, **report**
//!
//! With `[online]`, judgments to ppo come in rounds ([`Round`]): a later one labels what the policy of
//! the one before writes.
//!
//! A stage whose table the recipe lacks is left out; without the training tables a run ends with
//! preferences.

use std::path::PathBuf;

use rlaif_eval::JudgeSummary;
use serde::Serialize;

use crate::error::Error;
use crate::evaluation::{self, Evaluation};
use crate::stages::export::Exported;
use crate::stages::round::Round;
use crate::stages::{self, Context, StageReport};
#[cfg(feature = "local")]
use crate::{plan, recipe::Algorithm};

/// Stages in their order.
pub const STAGES: [&str; 12] = [
    "candidates",
    "critique",
    "revise",
    "sft",
    "sft_candidates",
    "contrast",
    "judge",
    "preferences",
    "reward",
    "ppo",
    "dpo",
    "evaluate",
];

/// Which stages to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These only.
    pub only: Vec<String>,
    /// From this one on.
    pub from: Option<String>,
    /// Up to this one, itself included.
    pub until: Option<String>,
}

impl Selection {
    /// Checks the names.
    ///
    /// # Errors
    /// [`Error::Input`] for a name that is no stage.
    pub fn check(&self) -> Result<(), Error> {
        let named = self.only.iter().chain(&self.from).chain(&self.until);
        for name in named {
            if !STAGES.contains(&name.as_str()) {
                return Err(Error::input(
                    format!("`{name}` is not a stage"),
                    format!("the stages are {}", STAGES.join(", ")),
                ));
            }
        }
        Ok(())
    }

    fn takes(&self, stage: &str) -> bool {
        let at = |name: &str| STAGES.iter().position(|s| *s == name);
        (self.only.is_empty() || self.only.iter().any(|s| s == stage))
            && self
                .from
                .as_deref()
                .is_none_or(|from| at(stage) >= at(from))
            && self
                .until
                .as_deref()
                .is_none_or(|until| at(stage) <= at(until))
    }
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Finished {
    /// Its stages, in their order.
    pub stages: Vec<StageReport>,
    /// Files written for other tools.
    pub exports: Vec<Exported>,
    /// Statistics over the judgments; `null` where nothing was judged.
    pub judge: Option<JudgeSummary>,
    /// What the policies came to; `null` without an evaluation.
    pub evaluation: Option<Evaluation>,
    /// The page.
    pub report: PathBuf,
}

/// Runs the recipe's stages in order. Each is skipped where nothing to its left has changed.
///
/// # Errors
/// The first stage's error; the stages before it are finished and recorded.
pub async fn run(cx: &mut Context<'_>, which: &Selection) -> Result<Finished, Error> {
    let r = cx.recipe;
    #[cfg(feature = "local")]
    for p in plan::training(r, &plan::plan(r, cx.constitution, cx.prompts), cx.prompts)? {
        if which.takes(p.stage) {
            p.memory.check(p.stage)?;
        }
    }
    let mut done = Vec::new();
    if let Some(c) = r.candidates.as_ref().filter(|_| which.takes("candidates")) {
        done.push(stages::candidates::run(cx, c).await?);
    }
    if let Some(c) = r.critique.as_ref().filter(|_| which.takes("critique")) {
        done.push(stages::critique::run(cx, c).await?);
    }
    if let Some(c) = r.revise.as_ref().filter(|_| which.takes("revise")) {
        done.push(stages::revise::run(cx, c).await?);
    }
    #[cfg(feature = "local")]
    if let Some(c) = r.sft.as_ref().filter(|_| which.takes("sft")) {
        done.push(stages::sft::run(cx, c)?);
    }
    let takes = which.takes("sft_candidates");
    if let Some(c) = r.sft_candidates.as_ref().filter(|_| takes) {
        done.push(stages::candidates::run_sft(cx, c).await?);
    }
    if let Some(c) = r.contrast.as_ref().filter(|_| which.takes("contrast")) {
        done.push(stages::contrast::run(cx, c).await?);
    }
    for round in Round::all(r) {
        if let Some(c) = r.labels_by().filter(|_| which.takes("judge")) {
            done.push(stages::judge::run(cx, c, round).await?);
        }
        if r.has_labels() && which.takes("preferences") {
            done.push(stages::preferences::run(cx, round)?);
        }
        #[cfg(feature = "local")]
        {
            if let Some(c) = r.reward.as_ref().filter(|_| which.takes("reward")) {
                done.push(stages::reward::run(cx, c, round)?);
            }
            let takes = r.optimizes_by() == Some(Algorithm::Ppo) && which.takes("ppo");
            let Some(c) = r.ppo.as_ref().filter(|_| takes) else {
                // Without a policy that goes on there is nothing to label in a further round.
                break;
            };
            done.push(stages::ppo::run(cx, c, round)?);
            if let Some((online, sampling)) = r.online().zip(r.samples_by())
                && !round.is_last()
            {
                done.push(stages::candidates::run_online(cx, online, sampling, round).await?);
            }
        }
    }
    #[cfg(feature = "local")]
    {
        let takes = r.optimizes_by() == Some(Algorithm::Dpo) && which.takes("dpo");
        if let Some(c) = r.dpo.as_ref().filter(|_| takes) {
            done.push(stages::dpo::run(cx, c)?);
        }
        if let Some(c) = r.evaluate.as_ref().filter(|_| which.takes("evaluate")) {
            done.push(stages::evaluate::run(cx, c).await?);
        }
    }
    let exports = stages::export::run(cx)?;
    let (report, judge) = stages::report::run(cx)?;
    Ok(Finished {
        stages: done,
        exports,
        judge,
        evaluation: evaluation::read(cx.folder.path())?,
        report,
    })
}
