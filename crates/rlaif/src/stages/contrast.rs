//! contrast: prompts → pairs that are labeled by how they were made (RLCD). They stand where a
//! judge's labels would, in the same file.

use std::collections::BTreeMap;

use rlaif_core::Judgment;
use rlaif_core::dataset::Row;
use rlaif_feedback::{Contrast, ContrastConfig, contrast};

use super::judge::{FILE, unasked};
use super::{Context, StageReport, StageSpec, fixed, line, run_stage};
use crate::error::Error;
use crate::rows::row_key;

/// All that determines a pair beside its prompt.
#[must_use]
pub fn settings(by: &Contrast) -> String {
    fixed(&(
        by.model.id(),
        by.constitution.hash(),
        &by.config.positive,
        &by.config.negative,
        &by.config.sampling,
        by.seed,
    ))
}

/// Key of one pair in the row log.
#[must_use]
pub fn key(settings: &str, row: &Row) -> String {
    row_key(&["contrast", settings, &row.id, &fixed(&row.prompt)])
}

/// Makes a pair of every prompt.
///
/// # Errors
/// As [`run_stage`].
pub async fn run(cx: &mut Context<'_>, config: &ContrastConfig) -> Result<StageReport, Error> {
    let by = Contrast {
        model: cx.model(&config.model)?,
        constitution: cx.constitution.clone(),
        config: config.clone(),
        seed: cx.recipe.seed,
    };
    let settings = settings(&by);
    let rows = cx.prompts.rows.iter();
    let items: Vec<_> = rows.map(|row| (key(&settings, row), row)).collect();
    let spec = StageSpec {
        name: "contrast",
        log: "contrast",
        output: FILE,
        inputs: BTreeMap::from([("prompts".to_owned(), cx.prompts.sha256.clone())]),
        config: format!("{settings}\n{:?}", cx.recipe.limit),
        max_failed: cx.recipe.max_failed,
        concurrency: cx.in_flight(&config.model),
        seed: cx.recipe.seed,
        progress: cx.progress,
        stop: cx.stop,
    };
    let by = &by;
    run_stage(
        cx.folder,
        spec,
        items,
        |row| async move { contrast(by, &row.id, &row.prompt).await },
        |record: &Judgment| line(record),
        |row| {
            let model = by.model.id().clone();
            unasked(&row.id, &row.prompt, Default::default(), model)
        },
    )
    .await
}
