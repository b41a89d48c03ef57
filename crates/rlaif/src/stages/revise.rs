//! revise: critiques → revisions, in chains of critique and revision (Bai et al. 2022, §3.1).

use std::collections::BTreeMap;
use std::path::Path;

use rlaif_core::{Constitution, Cost, Critique, Model, Outcome, Provenance, Revision};
use rlaif_feedback::{Critic, FeedbackError, Purpose, ReviseConfig, Reviser, critique, revise};
use serde::{Deserialize, Serialize};

use super::{
    Context, NOT_REACHED, StageReport, StageSpec, fixed, read_records, run_stage, template,
};
use crate::error::Error;
use crate::rows::{Ended, row_key};

/// The stage's file: one line a step.
pub const FILE: &str = "revisions.jsonl";

/// The revisions of one response, oldest first; at least one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// One a step.
    pub steps: Vec<Revision>,
}

impl Ended for Chain {
    fn outcome(&self) -> Outcome {
        self.steps.last().map_or(Outcome::NotRun, |r| r.outcome)
    }

    fn error(&self) -> Option<String> {
        self.steps.last().and_then(|r| r.error.clone())
    }

    fn cost(&self) -> Cost {
        Cost::sum(self.steps.iter().map(|step| step.cost))
    }
}

/// A reviser as a recipe or a command line describes it; `folder` holds template files.
///
/// # Errors
/// A template that is wrong.
pub fn reviser(
    config: &ReviseConfig,
    model: Model,
    constitution: &Constitution,
    folder: &Path,
    seed: u64,
) -> Result<Reviser, Error> {
    Ok(Reviser {
        model,
        constitution: constitution.clone(),
        template: template(&config.template, Purpose::Revise, folder)?,
        config: config.clone(),
        seed,
    })
}

/// All that determines a chain beside its first critique. The critic counts only where the chain
/// asks it again.
#[must_use]
pub fn settings(reviser: &Reviser, critic: Option<&Critic>) -> String {
    let ReviseConfig {
        model: _,
        template: _,
        steps,
        few_shots,
        sampling,
    } = &reviser.config;
    let again = critic.filter(|_| *steps > 1).map(super::critique::settings);
    fixed(&(
        reviser.model.id(),
        reviser.template.hash(),
        reviser.constitution.hash(),
        steps,
        few_shots,
        sampling,
        reviser.seed,
        again,
    ))
}

/// Key of one chain in the row log.
#[must_use]
pub fn key(settings: &str, critique: &Critique) -> String {
    row_key(&[
        "revise",
        settings,
        &critique.id,
        &fixed(&critique.prompt),
        &critique.response,
        &critique.text,
        &fixed(&critique.suggestions),
        &fixed(&critique.principles),
    ])
}

/// Revises by a critique, then critiques the revision and revises again, `steps` times in all.
/// A step that fails ends the chain; what came before it is kept.
///
/// # Errors
/// As [`revise()`].
pub async fn chain(
    reviser: &Reviser,
    critic: Option<&Critic>,
    first: Critique,
) -> Result<Chain, FeedbackError> {
    if first.outcome != Outcome::Decided {
        return Ok(Chain {
            steps: vec![not_run(
                reviser,
                &first,
                format!("there is no critique: it ended as `{}`", first.outcome),
            )],
        });
    }
    let mut revision = revise(reviser, &first).await?;
    let mut steps = vec![revision.clone()];
    for step in 1..reviser.config.steps {
        let Some(critic) = critic else { break };
        if revision.outcome != Outcome::Decided {
            break;
        }
        let next = critique(critic, &first.id, step, &revision.prompt, &revision.text).await?;
        if next.outcome != Outcome::Decided {
            break;
        }
        revision = revise(reviser, &next).await?;
        steps.push(revision.clone());
    }
    Ok(Chain { steps })
}

fn not_run(reviser: &Reviser, critique: &Critique, why: String) -> Revision {
    Revision {
        id: critique.id.clone(),
        step: 0,
        prompt: critique.prompt.clone(),
        original: critique.response.clone(),
        text: String::new(),
        critique: String::new(),
        principles: critique.principles.clone(),
        similarity: None,
        flags: Vec::new(),
        outcome: Outcome::NotRun,
        error: Some(why),
        cost: Cost::default(),
        provenance: Provenance {
            model: reviser.model.id().clone(),
            sampling: None,
            template: reviser.template.hash().to_owned(),
            constitution: reviser.constitution.hash(),
            seed: reviser.seed,
            version: rlaif_feedback::VERSION.to_owned(),
            lost: Vec::new(),
        },
    }
}

/// The lines of a chain.
#[must_use]
pub fn lines(chain: &Chain) -> Vec<serde_json::Value> {
    chain.steps.iter().flat_map(super::line).collect()
}

/// Revises every critiqued response.
///
/// # Errors
/// As [`run_stage`].
pub async fn run(cx: &mut Context<'_>, config: &ReviseConfig) -> Result<StageReport, Error> {
    let folder = cx.templates();
    let seed = cx.recipe.seed;
    let model = cx.model(&config.model)?;
    let reviser = reviser(config, model, cx.constitution, folder, seed)?;
    let critic = match &cx.recipe.critique {
        Some(c) => {
            let model = cx.model(&c.model)?;
            Some(super::critique::critic(
                c,
                model,
                cx.constitution,
                folder,
                seed,
            )?)
        }
        None => None,
    };
    let left = cx.file(super::critique::FILE);
    let critiques: Vec<Critique> = read_records(&left)?;
    let settings = settings(&reviser, critic.as_ref());
    let items: Vec<_> = critiques
        .into_iter()
        .map(|c| (key(&settings, &c), c))
        .collect();
    let spec = StageSpec {
        name: "revise",
        log: "revise",
        output: FILE,
        inputs: BTreeMap::from([(
            super::critique::FILE.to_owned(),
            rlaif_core::run::sha256_file(&left)?,
        )]),
        config: settings,
        max_failed: cx.recipe.max_failed,
        concurrency: cx.in_flight(&config.model),
        seed,
        progress: cx.progress,
        stop: cx.stop,
    };
    let (reviser, critic) = (&reviser, critic.as_ref());
    run_stage(
        cx.folder,
        spec,
        items,
        |first| async move { chain(reviser, critic, first).await },
        lines,
        |first| Chain {
            steps: vec![not_run(reviser, first, NOT_REACHED.into())],
        },
    )
    .await
}
