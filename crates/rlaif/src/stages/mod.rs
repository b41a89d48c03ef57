//! The stages, a file each: what is asked for which row. They call the same functions as the
//! agent; reading, keeping and resuming is the business of [`run_stage`] alone.

pub mod candidates;
pub mod critique;
pub mod export;
pub mod judge;
pub mod preferences;
pub mod revise;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use rlaif_core::rowlog::RowLog;
use rlaif_core::run::{RunFolder, StageEntry, StageKey};
use rlaif_core::{Constitution, Model, dataset::Dataset, seed};
use rlaif_feedback::{FeedbackError, Purpose, Template};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::rows::{Ended, RunOptions, Stop, Tally, Width, check_failed, for_each_row};

/// What every stage of a run can reach.
pub struct Context<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The principles.
    pub constitution: &'a Constitution,
    /// The prompts.
    pub prompts: &'a Dataset,
    /// The run folder, locked.
    pub folder: &'a mut RunFolder,
    /// Models by their name in the recipe.
    pub models: &'a BTreeMap<String, Model>,
    /// Rows in flight.
    pub width: Width<'a>,
    /// Listener.
    pub progress: &'a dyn Progress,
    /// Stops the run.
    pub stop: &'a Stop,
}

/// What a stage came to.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// Its name.
    pub stage: String,
    /// Nothing had changed: its file was kept as it is.
    pub unchanged: bool,
    /// Its rows.
    pub tally: Tally,
}

impl Context<'_> {
    /// A model by its name in the recipe.
    ///
    /// # Errors
    /// [`Error::Open`]; a checked recipe names known models only.
    pub fn model(&self, name: &str) -> Result<Model, Error> {
        self.models.get(name).cloned().ok_or_else(|| Error::Open {
            model: name.to_owned(),
            problem: "no `[models.…]` table defines it".into(),
        })
    }

    /// Path of a file in the run folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A template by the recipe's word for it: a supplied name, or a file beside the recipe.
///
/// # Errors
/// [`Error::Feedback`] with the place of a fault, or the file's own error.
pub fn template(name: &str, purpose: Purpose, folder: &Path) -> Result<Template, Error> {
    let path = folder.join(name);
    if path.is_file() {
        let text = std::fs::read_to_string(&path).map_err(rlaif_core::Error::io("read", &path))?;
        return Ok(Template::parse(
            &path.display().to_string(),
            purpose,
            &text,
        )?);
    }
    Ok(Template::shipped(name, purpose)?)
}

/// Reads a stage's file back.
///
/// # Errors
/// [`rlaif_core::Error::Format`] with the line that is no record of this kind.
pub fn read_records<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    let text = std::fs::read_to_string(path).map_err(rlaif_core::Error::io("read", path))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| {
                Error::Core(rlaif_core::Error::Format {
                    path: path.to_path_buf(),
                    problem: format!("line {}: {e}", i + 1),
                })
            })
        })
        .collect()
}

/// What distinguishes one stage from another, beside its rows.
pub struct StageSpec<'a> {
    /// Its name, as in the recipe.
    pub name: &'static str,
    /// Its file in the run folder.
    pub output: &'static str,
    /// Files to its left that it reads, and other inputs, by name with a hash.
    pub inputs: BTreeMap<String, String>,
    /// All that determines its result beside the inputs, as text.
    pub config: String,
    /// Rows that may fail.
    pub max_failed: f64,
    /// Rows in flight.
    pub concurrency: Width<'a>,
    /// The run's seed.
    pub seed: u64,
    /// Listener.
    pub progress: &'a dyn Progress,
    /// Stops the run.
    pub stop: &'a Stop,
}

impl StageSpec<'_> {
    fn key(&self) -> StageKey {
        StageKey {
            inputs: self.inputs.clone(),
            config: seed::sha256_hex(self.config.as_bytes()),
            seed: self.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Runs one stage of a run folder: skipped where nothing changed, resumed where it was cut off,
/// its file written whole and recorded in the manifest.
///
/// `expand` turns a record into the lines of the file that it stands for.
///
/// # Errors
/// As [`for_each_row`]; [`Error::TooManyFailed`] after the file is written.
pub async fn run_stage<T, R, F, Fut>(
    folder: &mut RunFolder,
    spec: StageSpec<'_>,
    items: Vec<(String, T)>,
    row: F,
    expand: impl Fn(&R) -> Vec<serde_json::Value>,
) -> Result<StageReport, Error>
where
    R: Ended,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<R, FeedbackError>>,
{
    let key = spec.key();
    if folder.is_current(spec.name, &key) {
        let mut tally = Tally {
            rows: items.len(),
            reused: items.len(),
            ..Tally::default()
        };
        if let Some(entry) = folder.manifest().stages.get(spec.name) {
            for outcome in rlaif_core::Outcome::ALL {
                let n = entry.outcomes.get(outcome.as_str()).copied().unwrap_or(0);
                tally.outcomes.insert(outcome.as_str(), n as usize);
            }
        }
        return Ok(StageReport {
            stage: spec.name.to_owned(),
            unchanged: true,
            tally,
        });
    }
    let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
    let log_path = folder
        .path()
        .join("log")
        .join(format!("{}.jsonl", spec.name));
    let mut log = RowLog::open(&log_path)?;
    let options = RunOptions {
        stage: spec.name,
        concurrency: spec.concurrency,
        max_failed: spec.max_failed,
        progress: spec.progress,
        stop: spec.stop,
    };
    let tally = for_each_row(items, &mut log, &options, row).await?;
    let output = folder.path().join(spec.output);
    let written = log.write_artifact(&keys, &output, |record: R| expand(&record))?;
    check_failed(spec.name, &tally, spec.max_failed, || {
        commonest_error::<R>(&log, &keys)
    })?;
    // A stage with failed rows is not recorded as current: the next run asks those again.
    if tally
        .outcomes
        .iter()
        .all(|(name, n)| *n == 0 || !is_open(name))
    {
        folder.record(
            spec.name,
            StageEntry {
                inputs: key.inputs,
                config: key.config,
                seed: key.seed,
                version: key.version,
                outputs: BTreeMap::from([(spec.output.to_owned(), written)]),
                outcomes: tally
                    .outcomes
                    .iter()
                    .map(|(k, n)| ((*k).to_owned(), *n as u64))
                    .collect(),
            },
        )?;
    }
    Ok(StageReport {
        stage: spec.name.to_owned(),
        unchanged: false,
        tally,
    })
}

fn is_open(name: &str) -> bool {
    rlaif_core::Outcome::ALL
        .iter()
        .any(|o| o.as_str() == name && o.is_open())
}

/// The commonest reason among failed rows.
pub fn commonest_error<R: Ended>(log: &RowLog, keys: &[String]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for key in keys {
        if let Ok(Some(record)) = log.get::<R>(key)
            && record.outcome() == rlaif_core::Outcome::Failed
        {
            *counts
                .entry(record.error().unwrap_or_default())
                .or_default() += 1;
        }
    }
    counts
        .into_iter()
        .max_by_key(|(_, n)| *n)
        .map(|(text, _)| text)
        .unwrap_or_default()
}

/// One line of a file.
pub(crate) fn line<T: Serialize>(record: &T) -> Vec<serde_json::Value> {
    serde_json::to_value(record).into_iter().collect()
}

/// A value as text that is equal for equal values.
pub(crate) fn fixed<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
