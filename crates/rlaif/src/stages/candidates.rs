//! candidates: prompts → completions of the policy.

use std::collections::BTreeMap;

#[cfg(feature = "local")]
use rlaif_core::Sampling;
use rlaif_core::dataset::Row;
use rlaif_core::{Candidate, Cost, Outcome, Provenance, seed};
use rlaif_feedback::{CandidatesConfig, Sampler, candidate};

#[cfg(feature = "local")]
use super::round::{OnlineConfig, Round};
use super::{Context, NOT_REACHED, StageReport, StageSpec, fixed, line, run_stage};
use crate::error::Error;
use crate::rows::row_key;

/// The stage's file.
pub const FILE: &str = "candidates.jsonl";

/// The file of those that the fine-tuned policy writes.
pub const SFT_FILE: &str = "sft_candidates.jsonl";

/// Samples `n` completions a prompt from the policy.
///
/// # Errors
/// As [`run_stage`].
pub async fn run(cx: &mut Context<'_>, config: &CandidatesConfig) -> Result<StageReport, Error> {
    let all: Vec<&Row> = cx.prompts.rows.iter().collect();
    let hash = cx.prompts.sha256.clone();
    sample(cx, "candidates", FILE, config, cx.recipe.seed, &all, hash).await
}

/// The same from the fine-tuned policy.
///
/// # Errors
/// As [`run_stage`].
pub async fn run_sft(
    cx: &mut Context<'_>,
    config: &CandidatesConfig,
) -> Result<StageReport, Error> {
    let all: Vec<&Row> = cx.prompts.rows.iter().collect();
    let hash = cx.prompts.sha256.clone();
    let seed = seed::derive(cx.recipe.seed, &["sft_candidates"]);
    sample(cx, "sft_candidates", SFT_FILE, config, seed, &all, hash).await
}

/// The same from the policy as it is at the end of a round.
///
/// # Errors
/// As [`run_stage`].
#[cfg(feature = "local")]
pub async fn run_online(
    cx: &mut Context<'_>,
    online: &OnlineConfig,
    sampling: &Sampling,
    round: Round,
) -> Result<StageReport, Error> {
    let config = CandidatesConfig {
        model: round.name("ppo"),
        n: online.n,
        sampling: sampling.clone(),
    };
    let n = online.limit.unwrap_or(usize::MAX);
    let some: Vec<&Row> = cx.prompts.rows.iter().take(n).collect();
    let hash = format!("{} {}", cx.prompts.sha256, some.len());
    let name = round.name("candidates");
    let seed = seed::derive(cx.recipe.seed, &[&name]);
    sample(cx, &name, &round.name(FILE), &config, seed, &some, hash).await
}

/// Samples completions of prompts into a stage's file; `hash` stands for the prompts.
pub(super) async fn sample(
    cx: &mut Context<'_>,
    name: &str,
    file: &str,
    config: &CandidatesConfig,
    seed: u64,
    prompts: &[&Row],
    hash: String,
) -> Result<StageReport, Error> {
    let model = cx.model(&config.model)?;
    let settings = [
        model.id().as_str(),
        &fixed(&config.sampling),
        &seed.to_string(),
    ]
    .join("\n");
    let items = prompts.iter().flat_map(|row| {
        let prompt = fixed(&row.prompt);
        let settings = &settings;
        (0..config.n).map(move |draw| {
            let parts = ["candidates", settings, &row.id, &prompt, &draw.to_string()];
            (row_key(&parts), (*row, draw))
        })
    });
    let items: Vec<_> = items.collect();
    let spec = StageSpec {
        name,
        log: name,
        output: file,
        inputs: BTreeMap::from([("prompts".to_owned(), hash)]),
        config: format!("{settings}\n{}\n{:?}", config.n, cx.recipe.limit),
        max_failed: cx.recipe.max_failed,
        concurrency: cx.in_flight(&config.model),
        seed,
        progress: cx.progress,
        stop: cx.stop,
    };
    let sampler = Sampler {
        model,
        config: config.clone(),
        seed,
    };
    let sampler = &sampler;
    run_stage(
        cx.folder,
        spec,
        items,
        |(row, draw)| async move { candidate(sampler, &row.id, draw, &row.prompt).await },
        |record: &Candidate| line(record),
        |(row, draw)| not_run(sampler, row, *draw),
    )
    .await
}

/// A completion that was never asked for.
fn not_run(sampler: &Sampler, row: &Row, draw: u32) -> Candidate {
    Candidate {
        id: row.id.clone(),
        draw,
        prompt: row.prompt.clone(),
        completion: String::new(),
        outcome: Outcome::NotRun,
        error: Some(NOT_REACHED.into()),
        cost: Cost::default(),
        provenance: Provenance {
            model: sampler.model.id().clone(),
            sampling: Some(sampler.config.sampling.clone()),
            template: String::new(),
            constitution: String::new(),
            seed: sampler.seed,
            version: rlaif_feedback::VERSION.to_owned(),
            lost: Vec::new(),
        },
    }
}
