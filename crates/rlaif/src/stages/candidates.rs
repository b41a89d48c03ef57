//! candidates: prompts → completions of the policy.

use std::collections::BTreeMap;

use rlaif_core::Candidate;
use rlaif_feedback::{CandidatesConfig, Sampler, candidate};

use super::{Context, StageReport, StageSpec, fixed, line, run_stage};
use crate::error::Error;
use crate::rows::row_key;

/// The stage's file.
pub const FILE: &str = "candidates.jsonl";

/// Samples `n` completions a prompt.
///
/// # Errors
/// As [`run_stage`].
pub async fn run(cx: &mut Context<'_>, config: &CandidatesConfig) -> Result<StageReport, Error> {
    let model = cx.model(&config.model)?;
    let seed = cx.recipe.seed;
    let settings = [
        model.id().as_str(),
        &fixed(&config.sampling),
        &seed.to_string(),
    ]
    .join("\n");
    let items = cx.prompts.rows.iter().flat_map(|row| {
        let prompt = fixed(&row.prompt);
        let settings = &settings;
        (0..config.n).map(move |draw| {
            let parts = ["candidates", settings, &row.id, &prompt, &draw.to_string()];
            (row_key(&parts), (row, draw))
        })
    });
    let items: Vec<_> = items.collect();
    let spec = StageSpec {
        name: "candidates",
        output: FILE,
        inputs: BTreeMap::from([("prompts".to_owned(), cx.prompts.sha256.clone())]),
        config: format!("{settings}\n{}\n{:?}", config.n, cx.recipe.limit),
        max_failed: cx.recipe.max_failed,
        concurrency: cx.width,
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
    )
    .await
}
