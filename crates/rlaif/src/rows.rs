//! One function runs rows: many in flight, each kept the moment it is finished, stoppable at any
//! time, and never asked twice for the same thing.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use rlaif_core::rowlog::RowLog;
use rlaif_core::{Candidate, Critique, Judgment, ModelError, Outcome, Revision, seed};
use rlaif_feedback::FeedbackError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::progress::Progress;

/// How a record ended and how many calls that took, read without the rest of it.
pub type Brief = (Outcome, u32);

/// A record that ended somehow.
pub trait Ended: Serialize + DeserializeOwned + Send {
    /// Its [`Brief`] from a log, where this version wrote it. A log of a million rows is read to go
    /// on, and most of each record is texts.
    ///
    /// # Errors
    /// The log's.
    fn brief(log: &RowLog, key: &str) -> Result<Option<Brief>, Error> {
        let record = log.get::<Self>(key)?;
        Ok(record.map(|record| (record.outcome(), record.cost().calls)))
    }
    /// How.
    fn outcome(&self) -> Outcome;
    /// Why it failed, in words.
    fn error(&self) -> Option<String>;
    /// What it cost.
    fn cost(&self) -> rlaif_core::Cost;
    /// The judgment, where it is one.
    fn judgment(&self) -> Option<&Judgment> {
        None
    }
}

/// The fields of a stage's record that its [`Brief`] is made of.
#[derive(Deserialize)]
struct BriefFields {
    outcome: Outcome,
    cost: Calls,
    provenance: Option<Version>,
}

#[derive(Deserialize)]
struct Calls {
    calls: u32,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

/// The brief of a record of type `R`; one that another version wrote is read whole, since it may be
/// none of this version's.
fn brief_of<R: Ended>(log: &RowLog, key: &str) -> Result<Option<Brief>, Error> {
    let fields = log.get::<BriefFields>(key)?;
    let ours = |fields: &BriefFields| {
        let by = fields.provenance.as_ref();
        by.is_some_and(|by| by.version == rlaif_feedback::VERSION)
    };
    if let Some(fields) = fields.filter(ours) {
        return Ok(Some((fields.outcome, fields.cost.calls)));
    }
    let record = log.get::<R>(key)?;
    Ok(record.map(|record| (record.outcome(), record.cost().calls)))
}

macro_rules! ended {
    ($($record:ty),*) => {$(
        impl Ended for $record {
            fn brief(log: &RowLog, key: &str) -> Result<Option<Brief>, Error> {
                brief_of::<Self>(log, key)
            }
            fn outcome(&self) -> Outcome {
                self.outcome
            }
            fn error(&self) -> Option<String> {
                self.error.clone()
            }
            fn cost(&self) -> rlaif_core::Cost {
                self.cost
            }
        }
    )*};
}
ended!(Candidate, Critique, Revision);

impl Ended for Judgment {
    fn brief(log: &RowLog, key: &str) -> Result<Option<Brief>, Error> {
        brief_of::<Self>(log, key)
    }

    fn judgment(&self) -> Option<&Judgment> {
        Some(self)
    }

    fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn error(&self) -> Option<String> {
        let views = self.opinions.iter().flat_map(|view| &view.orders);
        let told = self
            .orders
            .iter()
            .chain(views)
            .find_map(|o| o.error.clone());
        // A label from scores has no presentation; its reason says what failed.
        let failed = self.outcome == Outcome::Failed && !self.reason.is_empty();
        told.or_else(|| failed.then(|| self.reason.clone()))
    }

    fn cost(&self) -> rlaif_core::Cost {
        self.cost
    }
}

/// What a run of rows came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// All rows.
    pub rows: usize,
    /// Rows by outcome; every outcome is present.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// Rows taken from an earlier run of the same thing.
    pub reused: usize,
    /// Calls of the rows taken from an earlier run.
    pub cached_calls: u64,
}

impl Tally {
    /// Rows with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.get(outcome.as_str()).copied().unwrap_or(0)
    }

    /// Rows that need no further asking.
    #[must_use]
    pub fn closed(&self) -> usize {
        let open = Outcome::ALL.iter().filter(|o| o.is_open());
        let open: usize = open.map(|o| self.count(*o)).sum();
        self.outcomes.values().sum::<usize>() - open
    }

    /// Adds the rows of another pass.
    pub fn add(&mut self, pass: &Tally) {
        self.rows += pass.rows;
        self.reused += pass.reused;
        self.cached_calls += pass.cached_calls;
        for (name, n) in &pass.outcomes {
            *self.outcomes.entry(name).or_default() += n;
        }
    }
}

/// Asked to stop: no new row begins, rows in flight end.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// True once asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Rows in flight: a number, or as many as keep the models busy now.
#[derive(Clone, Copy)]
pub enum Width<'a> {
    /// So many.
    Rows(usize),
    /// As many as this says, each time a row may begin.
    Now(&'a (dyn Fn() -> usize + Send + Sync)),
}

impl Width<'_> {
    fn rows(self) -> usize {
        match self {
            Width::Rows(n) => n.max(1),
            Width::Now(now) => now().max(1),
        }
    }
}

impl From<usize> for Width<'_> {
    fn from(n: usize) -> Self {
        Width::Rows(n)
    }
}

/// Limits and listeners of a run of rows.
pub struct RunOptions<'a> {
    /// Stage, for progress and errors.
    pub stage: &'a str,
    /// Rows in flight.
    pub concurrency: Width<'a>,
    /// Share of rows that may fail, in [0, 1].
    pub max_failed: f64,
    /// Listener.
    pub progress: &'a dyn Progress,
    /// Stops the run.
    pub stop: &'a Stop,
}

/// A row's key in the log: all that determines its record, and nothing that does not.
#[must_use]
pub fn row_key(parts: &[&str]) -> String {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    seed::sha256_hex(&bytes)
}

/// A power cut takes at most so much of the log.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How many rows may fail from the start, with none answered, before the endpoint counts as down.
const DOWN_AFTER: usize = 8;

/// Runs `row` over all items that the log does not hold yet, as [`stream_rows`] does.
///
/// # Errors
/// As [`stream_rows`], and [`Error::Stopped`] where the run was stopped or a model cannot be asked
/// at all; what is finished is in the log.
pub async fn for_each_row<T, R, F, Fut>(
    items: Vec<(String, T)>,
    log: &mut RowLog,
    options: &RunOptions<'_>,
    row: F,
) -> Result<Tally, Error>
where
    R: Ended,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<R, FeedbackError>>,
{
    let before = census::<R>(items.iter().map(|(key, _)| Ok(key.as_str())), log)?;
    let items = items.into_iter().map(Ok);
    match stream_rows(items, before, log, options, row).await? {
        (tally, None) => Ok(tally),
        (_, Some(stopped)) => Err(stopped),
    }
}

/// Counts rows, and what a log holds of them that needs no further asking.
///
/// # Errors
/// The log's own, and those of the keys.
pub fn census<R: Ended>(
    keys: impl IntoIterator<Item = Result<impl AsRef<str>, Error>>,
    log: &RowLog,
) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    for outcome in Outcome::ALL {
        tally.outcomes.insert(outcome.as_str(), 0);
    }
    for key in keys {
        tally.rows += 1;
        if let Some((outcome, calls)) = closed::<R>(log, key?.as_ref())? {
            *tally.outcomes.entry(outcome.as_str()).or_default() += 1;
            tally.reused += 1;
            tally.cached_calls += u64::from(calls);
        }
    }
    Ok(tally)
}

/// How a row ended, where it needs no further asking.
fn closed<R: Ended>(log: &RowLog, key: &str) -> Result<Option<Brief>, Error> {
    let brief = R::brief(log, key)?;
    Ok(brief.filter(|(outcome, _)| !outcome.is_open()))
}

/// Runs `row` over all items that the log does not hold yet, `concurrency` at a time, and appends
/// each record as it is finished. Records with an open outcome (`failed`) are kept for this run's
/// file, and asked again by the next run. `before` is the [`census`] of the same items.
///
/// Beside the tally stands [`Error::Stopped`], where the run was stopped or a model cannot be asked
/// at all; rows that were not reached are counted as `not_run`. That too many failed is for the
/// caller to say, who has the artefact.
///
/// Memory: the items and records in flight.
///
/// # Errors
/// Those of the items, of the log, and of settings that no row can be run with.
pub async fn stream_rows<T, R, F, Fut>(
    items: impl IntoIterator<Item = Result<(String, T), Error>>,
    before: Tally,
    log: &mut RowLog,
    options: &RunOptions<'_>,
    row: F,
) -> Result<(Tally, Option<Error>), Error>
where
    R: Ended,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<R, FeedbackError>>,
{
    let mut tally = before;
    let total = tally.rows;
    options.progress.start(options.stage, total, tally.reused);
    let row = &row;
    // Nothing to ask: the items are not even read.
    let mut items = (tally.reused < total)
        .then_some(items)
        .into_iter()
        .flatten();
    let mut rows = FuturesUnordered::new();
    let mut cause: Option<ModelError> = None;
    let (mut answered, mut failed_first) = (tally.reused, 0usize);
    let mut synced = Instant::now();
    let mut passed = 0;
    loop {
        while rows.len() < options.concurrency.rows() && !options.stop.is_requested() {
            let Some(next) = items.next() else {
                break;
            };
            let (key, item) = next?;
            let held = match tally.reused {
                0 => None,
                _ => closed::<R>(log, &key)?,
            };
            if let Some((outcome, _)) = held {
                passed += 1;
                // More than were finished before: an equal row was finished in this run.
                if passed > tally.reused {
                    *tally.outcomes.entry(outcome.as_str()).or_default() += 1;
                }
                continue;
            }
            rows.push(async move { (key, row(item).await) });
        }
        let Some((key, result)) = rows.next().await else {
            break;
        };
        if synced.elapsed() >= SYNC_EVERY {
            log.sync()?;
            synced = Instant::now();
        }
        match result {
            Ok(record) => {
                let outcome = record.outcome();
                log.append(&key, &record)?;
                *tally.outcomes.entry(outcome.as_str()).or_default() += 1;
                if let Some(judgment) = record.judgment() {
                    options.progress.judged(judgment);
                }
                options.progress.row(outcome);
                if outcome == Outcome::Failed {
                    failed_first += 1;
                    if answered == 0 && failed_first >= DOWN_AFTER && cause.is_none() {
                        options.stop.request();
                        cause = Some(ModelError::Exhausted {
                            attempts: failed_first as u32,
                            last: record.error().unwrap_or_default(),
                        });
                    }
                } else {
                    answered += 1;
                }
            }
            // A person's wish is no cause that a person should be told of.
            Err(FeedbackError::Stop(ModelError::Stopped)) => options.stop.request(),
            Err(FeedbackError::Stop(error)) => {
                options.stop.request();
                cause.get_or_insert(error);
            }
            Err(error) => {
                options.stop.request();
                return Err(error.into());
            }
        }
    }
    log.sync()?;
    options.progress.finish(options.stage);
    let ended: usize = tally.outcomes.values().sum();
    if ended == total && cause.is_none() {
        return Ok((tally, None));
    }
    // A row that failed is kept as such, and asked again: it is not done.
    let stopped = Error::Stopped {
        stage: options.stage.to_owned(),
        done: tally.closed(),
        total,
        cause,
    };
    *tally.outcomes.entry(Outcome::NotRun.as_str()).or_default() += total.saturating_sub(ended);
    Ok((tally, Some(stopped)))
}

/// The gate on failed rows: an answer that came but could not be used is an outcome of its own
/// and does not count here; a row without any answer does.
///
/// # Errors
/// [`Error::TooManyFailed`].
pub fn check_failed(
    stage: &str,
    tally: &Tally,
    max_failed: f64,
    reason: impl FnOnce() -> String,
) -> Result<(), Error> {
    let count = |list: &[Outcome]| list.iter().map(|o| tally.count(*o)).sum::<usize>();
    let usable = count(&[Outcome::Decided, Outcome::Tie, Outcome::Abstained]);
    // Not one usable row is a failure of all, however each of them ended.
    let failed = match usable == 0 && tally.count(Outcome::NotRun) == 0 {
        true => tally.rows,
        false => tally.count(Outcome::Failed),
    };
    if failed as f64 > max_failed * tally.rows as f64 {
        return Err(Error::TooManyFailed {
            stage: stage.to_owned(),
            failed,
            total: tally.rows,
            allowed: max_failed,
            reason: reason(),
        });
    }
    Ok(())
}

/// The gate on rows that cannot be read: they have no label either. `faults` and `rows` are those
/// that cannot and those that can.
///
/// # Errors
/// [`Error::TooManyUnread`].
pub fn check_unread(
    path: &Path,
    (faults, rows): (usize, usize),
    max_failed: f64,
) -> Result<(), Error> {
    let total = faults + rows;
    if faults as f64 > max_failed * total as f64 {
        return Err(Error::TooManyUnread {
            path: path.to_path_buf(),
            faults,
            total,
            allowed: max_failed,
        });
    }
    Ok(())
}
