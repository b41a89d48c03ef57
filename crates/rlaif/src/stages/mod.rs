//! The stages, a file each: what is asked for which row. They call the same functions as the
//! agent; reading, keeping and resuming is the business of [`run_stage`] alone.

pub mod candidates;
pub mod contrast;
pub mod critique;
#[cfg(feature = "local")]
pub mod dpo;
#[cfg(feature = "local")]
pub mod evaluate;
pub mod export;
pub mod judge;
#[cfg(feature = "local")]
pub mod ppo;
pub mod preferences;
pub mod report;
pub mod revise;
#[cfg(feature = "local")]
pub mod reward;
pub mod round;
#[cfg(feature = "local")]
pub mod sft;
#[cfg(feature = "local")]
mod training;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rlaif_core::rowlog::RowLog;
use rlaif_core::run::{OutputFile, Pace, RunFolder, StageEntry, StageKey};
use rlaif_core::{Constitution, Model, Outcome, dataset::Dataset, seed};
use rlaif_feedback::{FeedbackError, Purpose, Template};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::evaluation::Evaluator;
#[cfg(feature = "local")]
use crate::local::LocalModels;
use crate::progress::{Progress, Silent};
use crate::recipe::{ModelSource, Recipe};
use crate::rows::{Ended, RunOptions, Stop, Tally, Width, census, check_failed, stream_rows};

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
    /// Models by their name in the recipe: endpoints, and whatever else the caller opened.
    pub models: &'a BTreeMap<String, Model>,
    /// Models by their folder.
    #[cfg(feature = "local")]
    pub local: LocalModels,
    /// Who measures completions in the evaluation, beside the recipe's critic. No stage before it
    /// can reach them.
    pub evaluators: &'a [&'a dyn Evaluator],
    /// Rows in flight for models that are no folders.
    pub width: Width<'a>,
    /// Listener.
    pub progress: &'a dyn Progress,
    /// Stops the run.
    pub stop: &'a Stop,
}

/// Rows in flight that fill the batches of a model in memory.
const BATCHED: usize = 256;

/// Rows in flight where nobody says how many.
const DEFAULT_ROWS: usize = 16;

/// Tells nobody, for a run that nobody watches.
static SILENT: Silent = Silent;

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

impl<'a> Context<'a> {
    /// A run of a recipe in a folder. `models` are those of its models that are no folders.
    #[must_use]
    pub fn new(
        recipe: &'a Recipe,
        constitution: &'a Constitution,
        prompts: &'a Dataset,
        folder: &'a mut RunFolder,
        models: &'a BTreeMap<String, Model>,
        stop: &'a Stop,
    ) -> Self {
        Context {
            recipe,
            constitution,
            prompts,
            folder,
            models,
            #[cfg(feature = "local")]
            local: LocalModels::default(),
            evaluators: &[],
            width: Width::Rows(recipe.concurrency.unwrap_or(DEFAULT_ROWS)),
            progress: &SILENT,
            stop,
        }
    }

    /// A model by its name in the recipe.
    ///
    /// # Errors
    /// [`Error::Open`] for a name that a checked recipe cannot have; those of opening a folder.
    pub fn model(&mut self, name: &str) -> Result<Model, Error> {
        if let Some(model) = self.models.get(name) {
            return Ok(Arc::clone(model));
        }
        let folder = self.model_folder(name)?;
        #[cfg(feature = "local")]
        return self.local.open(&folder);
        #[cfg(not(feature = "local"))]
        crate::open(folder)
    }

    /// The folder of a model by its name in the recipe: given there, or written by a stage.
    ///
    /// # Errors
    /// [`Error::Open`] where it is no folder, or is not written yet.
    pub fn model_folder(&self, name: &str) -> Result<PathBuf, Error> {
        let unknown = |problem: &str| Error::Open {
            model: name.to_owned(),
            problem: problem.into(),
        };
        match self.recipe.models.get(name) {
            Some(ModelSource::Folder(folder)) => Ok(folder.clone()),
            #[cfg(feature = "remote")]
            Some(ModelSource::Endpoint(_)) => Err(unknown("it is no folder")),
            None if self.file(name).join("config.json").is_file() => Ok(self.file(name)),
            None => Err(unknown(
                "neither does a `[models.…]` table define it nor has a stage written it yet",
            )),
        }
    }

    /// Calls, prompt tokens and generated tokens that models in memory have answered.
    #[must_use]
    pub fn answered(&self) -> (u64, u64, u64) {
        #[cfg(feature = "local")]
        return self.local.answered();
        #[cfg(not(feature = "local"))]
        (0, 0, 0)
    }

    /// Rows in flight for a model. One in memory answers a batch in hardly more time than a row.
    pub(crate) fn in_flight(&self, model: &str) -> Width<'a> {
        match self.recipe.models.get(model) {
            _ if self.models.contains_key(model) => self.width,
            #[cfg(feature = "remote")]
            Some(ModelSource::Endpoint(_)) => self.width,
            Some(ModelSource::Folder(_)) | None => {
                Width::Rows(self.recipe.concurrency.unwrap_or(0).max(BATCHED))
            }
        }
    }

    /// Template files of a recipe stand beside it.
    pub(crate) fn templates(&self) -> &'a Path {
        self.recipe.path.parent().unwrap_or(Path::new(""))
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

/// Why a row is `not_run` where a budget ended before it.
pub(crate) const NOT_REACHED: &str = "the budget was reached before this row";

/// What distinguishes one stage from another, beside its rows.
pub struct StageSpec<'a> {
    /// Its name in the manifest.
    pub name: &'a str,
    /// The row log that it keeps, `log/NAME.jsonl`. Stages of one kind that share a log never ask
    /// for the same row twice.
    pub log: &'a str,
    /// Its file in the run folder.
    pub output: &'a str,
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
/// `expand` turns a record into the lines of the file that it stands for; `not_run` makes the record
/// of a row that a budget left unasked, which is in the file and not in the log.
///
/// # Errors
/// As [`stream_rows`]; [`Error::Stopped`] at a budget's end and [`Error::TooManyFailed`], both after
/// the file is written; [`Error::Stopped`] for any other reason, with the file as it was.
pub async fn run_stage<T, R, F, Fut>(
    folder: &mut RunFolder,
    spec: StageSpec<'_>,
    items: Vec<(String, T)>,
    row: F,
    expand: impl Fn(&R) -> Vec<serde_json::Value>,
    not_run: impl Fn(&T) -> R,
) -> Result<StageReport, Error>
where
    T: Clone,
    R: Ended,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<R, FeedbackError>>,
{
    let key = spec.key();
    if let Some(report) = unchanged(folder, spec.name, &key) {
        return Ok(report);
    }
    let keys = || items.iter().map(|(key, _)| key.as_str());
    let log_path = folder
        .path()
        .join("log")
        .join(format!("{}.jsonl", spec.log));
    let mut log = RowLog::open(&log_path)?;
    let options = RunOptions {
        stage: spec.name,
        concurrency: spec.concurrency,
        max_failed: spec.max_failed,
        progress: spec.progress,
        stop: spec.stop,
    };
    let begun = Instant::now();
    let before = census::<R>(keys().map(Ok), &log)?;
    let (tally, stopped) = stream_rows(
        items.iter().cloned().map(Ok),
        before,
        &mut log,
        &options,
        row,
    )
    .await?;
    let stopped = match stopped {
        Some(error) if !error.is_budget() => return Err(error),
        stopped => stopped,
    };
    let pace = Pace {
        rows: tally.rows.saturating_sub(tally.reused) as u64,
        millis: begun.elapsed().as_millis() as u64,
    };
    let output = folder.path().join(spec.output);
    let mut left = items.iter();
    let written = log.write_partial_artifact(keys(), &output, |_, record: Option<R>| {
        let item = left.next();
        let record = record.or_else(|| item.map(|(_, item)| not_run(item)));
        Ok(record.iter().flat_map(&expand).collect())
    })?;
    if let Some(stopped) = stopped {
        return Err(stopped);
    }
    check_failed(spec.name, &tally, spec.max_failed, || {
        commonest_error::<R>(&log, keys().map(Ok))
    })?;
    // A stage with failed rows is not recorded as current: the next run asks those again.
    if tally
        .outcomes
        .iter()
        .all(|(name, n)| *n == 0 || !is_open(name))
    {
        let outputs = BTreeMap::from([(spec.output.to_owned(), written)]);
        let pace = (pace.rows > 0).then_some(pace);
        record(folder, spec.name, key, outputs, &tally, pace)?;
    }
    Ok(StageReport {
        stage: spec.name.to_owned(),
        unchanged: false,
        tally,
    })
}

/// The report of a stage whose inputs, settings and files are as it left them.
pub(crate) fn unchanged(folder: &RunFolder, name: &str, key: &StageKey) -> Option<StageReport> {
    if !folder.is_current(name, key) {
        return None;
    }
    let entry = folder.manifest().stages.get(name)?;
    let mut tally = Tally::default();
    for outcome in Outcome::ALL {
        let n = entry.outcomes.get(outcome.as_str()).copied().unwrap_or(0) as usize;
        tally.outcomes.insert(outcome.as_str(), n);
        tally.rows += n;
    }
    tally.reused = tally.rows;
    Some(StageReport {
        stage: name.to_owned(),
        unchanged: true,
        tally,
    })
}

/// Writes a finished stage into the manifest.
pub(crate) fn record(
    folder: &mut RunFolder,
    name: &str,
    key: StageKey,
    outputs: BTreeMap<String, OutputFile>,
    tally: &Tally,
    pace: Option<Pace>,
) -> Result<(), Error> {
    folder.record(
        name,
        StageEntry {
            inputs: key.inputs,
            config: key.config,
            seed: key.seed,
            version: key.version,
            outputs,
            outcomes: tally
                .outcomes
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n as u64))
                .collect(),
            pace,
        },
    )?;
    Ok(())
}

fn is_open(name: &str) -> bool {
    Outcome::ALL
        .iter()
        .any(|o| o.as_str() == name && o.is_open())
}

/// Different reasons that are counted.
const REASONS: usize = 1_000;

/// The commonest reason among failed rows, over the first thousand different ones.
pub fn commonest_error<R: Ended>(
    log: &RowLog,
    keys: impl IntoIterator<Item = Result<impl AsRef<str>, Error>>,
) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for key in keys.into_iter().flatten() {
        if let Ok(Some(record)) = log.get::<R>(key.as_ref())
            && !matches!(record.outcome(), Outcome::Decided | Outcome::Tie)
        {
            let outcome = record.outcome();
            let why = match record.error() {
                Some(error) => format!("{outcome}: {error}"),
                None => outcome.to_string(),
            };
            if counts.len() < REASONS || counts.contains_key(&why) {
                *counts.entry(why).or_default() += 1;
            }
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
#[must_use]
pub fn fixed<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
