//! critique: candidates → critiques of each.

use std::collections::BTreeMap;
use std::path::Path;

use rlaif_core::{
    Candidate, Constitution, Cost, Critique, Model, Outcome, Prompt, Provenance, Rater,
};
use rlaif_feedback::{Critic, CritiqueConfig, FeedbackError, Purpose, critique};

use super::{
    Context, NOT_REACHED, StageReport, StageSpec, fixed, line, read_records, run_stage, template,
};
use crate::error::Error;
use crate::rows::row_key;

/// The stage's file.
pub const FILE: &str = "critiques.jsonl";

/// A critic as a recipe or a command line describes it; `folder` holds template files.
///
/// # Errors
/// A template that is wrong.
pub fn critic(
    config: &CritiqueConfig,
    model: Model,
    constitution: &Constitution,
    folder: &Path,
    seed: u64,
) -> Result<Critic, Error> {
    Ok(Critic {
        model,
        constitution: constitution.clone(),
        template: template(&config.template, Purpose::Critique, folder)?,
        config: config.clone(),
        seed,
    })
}

/// All that determines a critique beside its row.
#[must_use]
pub fn settings(critic: &Critic) -> String {
    let CritiqueConfig {
        model: _,
        template: _,
        principles,
        few_shots,
        sampling,
    } = &critic.config;
    fixed(&(
        critic.model.id(),
        critic.template.hash(),
        critic.constitution.hash(),
        principles,
        few_shots,
        sampling,
        critic.seed,
    ))
}

/// Key of one critique in the row log.
#[must_use]
pub fn key(settings: &str, id: &str, prompt: &Prompt, response: &str) -> String {
    row_key(&["critique", settings, id, &fixed(prompt), response])
}

/// A critique that was never asked for, and why.
#[must_use]
pub fn not_run(critic: &Critic, id: &str, prompt: &Prompt, why: String) -> Critique {
    Critique {
        id: id.to_owned(),
        step: 0,
        prompt: prompt.clone(),
        response: String::new(),
        text: String::new(),
        adherence: Vec::new(),
        quality: None,
        suggestions: Vec::new(),
        principles: Vec::new(),
        outcome: Outcome::NotRun,
        error: Some(why),
        rater: Rater::Model(critic.model.id().clone()),
        cost: Cost::default(),
        provenance: Provenance {
            model: critic.model.id().clone(),
            sampling: None,
            template: critic.template.hash().to_owned(),
            constitution: critic.constitution.hash(),
            seed: critic.seed,
            version: rlaif_feedback::VERSION.to_owned(),
            lost: Vec::new(),
        },
    }
}

/// Critiques every candidate.
///
/// # Errors
/// As [`run_stage`].
pub async fn run(cx: &mut Context<'_>, config: &CritiqueConfig) -> Result<StageReport, Error> {
    let folder = cx.templates();
    let model = cx.model(&config.model)?;
    let critic = critic(config, model, cx.constitution, folder, cx.recipe.seed)?;
    let left = cx.file(super::candidates::FILE);
    let candidates: Vec<Candidate> = read_records(&left)?;
    let settings = settings(&critic);
    let items: Vec<_> = candidates
        .into_iter()
        .map(|c| {
            let id = format!("{}/{}", c.id, c.draw);
            (key(&settings, &id, &c.prompt, &c.completion), (id, c))
        })
        .collect();
    let spec = StageSpec {
        name: "critique",
        log: "critique",
        output: FILE,
        inputs: BTreeMap::from([(
            super::candidates::FILE.to_owned(),
            rlaif_core::run::sha256_file(&left)?,
        )]),
        config: settings,
        max_failed: cx.recipe.max_failed,
        concurrency: cx.in_flight(&config.model),
        seed: cx.recipe.seed,
        progress: cx.progress,
        stop: cx.stop,
    };
    let critic = &critic;
    run_stage(
        cx.folder,
        spec,
        items,
        |(id, c)| async move { critique_candidate(critic, &id, &c).await },
        |record: &Critique| line(record),
        |(id, c)| Critique {
            response: c.completion.clone(),
            ..not_run(critic, id, &c.prompt, NOT_REACHED.into())
        },
    )
    .await
}

async fn critique_candidate(
    critic: &Critic,
    id: &str,
    candidate: &Candidate,
) -> Result<Critique, FeedbackError> {
    if candidate.outcome != Outcome::Decided {
        let why = format!(
            "there is no completion: it ended as `{}`",
            candidate.outcome
        );
        return Ok(not_run(critic, id, &candidate.prompt, why));
    }
    critique(critic, id, 0, &candidate.prompt, &candidate.completion).await
}
