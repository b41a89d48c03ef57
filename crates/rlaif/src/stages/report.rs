//! report: whatever a run folder holds → one self-contained HTML page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_core::dataset::Dataset;
use rlaif_core::run::{RunFolder, write_atomic};
use rlaif_core::{Judgment, Revision};
use rlaif_eval::JudgeSummary;
use serde::de::DeserializeOwned;

use super::{Context, read_records};
use crate::error::Error;
use crate::evaluation::{LABELS, Label};
use crate::report::training::{Trained, Training};
use crate::report::{Page, render};
use crate::{evaluation, figures};

/// The page.
pub const FILE: &str = "report.html";

/// Writes the run's page, and returns its path with the judge's figures, where anything was judged.
///
/// # Errors
/// As [`write()`].
pub fn run(cx: &Context<'_>) -> Result<(PathBuf, Option<JudgeSummary>), Error> {
    let page = cx.file(FILE);
    let title = match cx.recipe.path.as_os_str().is_empty() {
        true => cx.folder.path().display().to_string(),
        false => cx.recipe.path.display().to_string(),
    };
    let summary = write(cx.folder.path(), &page, &title, Some(cx.prompts))?;
    Ok((page, summary))
}

/// Writes the page of a run folder. `prompts` are the run's, for the labels that their file holds.
///
/// # Errors
/// A file of the run that cannot be read, a page that cannot be written.
pub fn write(
    run: &Path,
    page: &Path,
    title: &str,
    prompts: Option<&Dataset>,
) -> Result<Option<JudgeSummary>, Error> {
    let judgments: Vec<Judgment> = records(&run.join(super::judge::FILE))?;
    let revisions: Vec<Revision> = records(&run.join(super::revise::FILE))?;
    // The input's own labels, and what an evaluator knows where there are none.
    let known: Vec<Label> = records(&run.join(LABELS))?;
    let mut labels: BTreeMap<String, f64> = known.into_iter().map(|l| (l.id, l.p_first)).collect();
    labels.extend(
        prompts
            .iter()
            .flat_map(|d| &d.rows)
            .filter_map(|row| Some((row.id.clone(), row.label.get()?))),
    );
    let summary = figures::summary(&judgments, &labels)?;
    let training = training(run, &judgments)?;
    let html = render(&Page {
        title,
        judgments: &judgments,
        sample_of: judgments.len(),
        revisions: &revisions,
        summary: &summary,
        training: &training,
    });
    write_atomic(page, html.as_bytes())?;
    Ok((!judgments.is_empty()).then_some(summary))
}

/// Logs, summaries and the evaluation of a run folder.
fn training(run: &Path, judgments: &[Judgment]) -> Result<Training, Error> {
    let mut stages = Vec::new();
    for stage in ["sft", "reward", "ppo", "dpo"] {
        let folder = run.join(stage);
        let summary = folder.join("summary.json");
        // Written last: without it the stage has not ended.
        if let Ok(text) = std::fs::read_to_string(&summary) {
            let summary = serde_json::from_str(&text).map_err(|e| {
                Error::Core(rlaif_core::Error::Format {
                    path: summary,
                    problem: e.to_string(),
                })
            })?;
            stages.push(Trained {
                stage: stage.to_owned(),
                log: records(&folder.join("log.jsonl"))?,
                summary,
            });
        }
    }
    let manifest = RunFolder::read(run)?;
    let pace = manifest.stages.get("judge").and_then(|s| s.pace);
    Ok(Training {
        labels_per_sec: pace.and_then(|p| p.per_sec()),
        labels: if stages.is_empty() {
            0
        } else {
            judgments.len()
        },
        stages,
        evaluation: evaluation::read(run)?,
        samples: records(&run.join(evaluation::FILE))?,
    })
}

fn records<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    if path.is_file() {
        read_records(path)
    } else {
        Ok(Vec::new())
    }
}
