//! The pipeline: one function that lists the stages, a line each. Data moves right only, and each
//! arrow is a file in the run folder.
//!
//! constitution + prompts → **candidates** → **critiques** → **revisions** → **judgments** →
//! **preferences** → **export**

use crate::error::Error;
use crate::stages::{self, Context, StageReport};

/// Stages in their order.
pub const STAGES: [&str; 5] = ["candidates", "critique", "revise", "judge", "preferences"];

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

/// Runs the recipe's stages in order. Each is skipped where nothing to its left has changed.
///
/// # Errors
/// The first stage's error; the stages before it are finished and recorded.
pub async fn run(cx: &mut Context<'_>, which: &Selection) -> Result<Vec<StageReport>, Error> {
    let r = cx.recipe;
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
    if let Some(c) = r.judge.as_ref().filter(|_| which.takes("judge")) {
        done.push(stages::judge::run(cx, c).await?);
    }
    if r.judge.is_some() && which.takes("preferences") {
        done.push(stages::preferences::run(cx)?);
    }
    Ok(done)
}
