//! One function runs rows: many in flight, each kept the moment it is finished, stoppable at any
//! time, and never asked twice for the same thing.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt};
use rlaif_core::rowlog::{Brief, Held, RowLog};
use rlaif_core::{
    Candidate, Critique, Judgment, ModelError, Outcome, Revision, says_too_long, seed,
};
use rlaif_feedback::FeedbackError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::progress::{Progress, Unit};

/// A record that ended somehow.
pub trait Ended: Serialize + DeserializeOwned + Send {
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
    /// How it ended and how many calls that took.
    fn brief(&self) -> Brief {
        Brief {
            outcome: self.outcome(),
            calls: self.cost().calls,
        }
    }
}

macro_rules! ended {
    ($($record:ty),*) => {$(
        impl Ended for $record {
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
    /// Of no rows; every outcome is present.
    fn of_none() -> Self {
        Tally {
            outcomes: Outcome::ALL.map(|o| (o.as_str(), 0)).into(),
            ..Tally::default()
        }
    }

    /// Counts a row that an earlier run has finished.
    fn reuse(&mut self, brief: Brief) {
        *self.outcomes.entry(brief.outcome.as_str()).or_default() += 1;
        self.reused += 1;
        self.cached_calls += u64::from(brief.calls);
    }

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
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    seed::hex(&hasher.finalize())
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
    let mut tally = Tally::of_none();
    for key in keys {
        tally.rows += 1;
        if let Some(brief) = closed::<R>(log, key?.as_ref())? {
            tally.reuse(brief);
        }
    }
    Ok(tally)
}

/// How a row ended, where it needs no further asking.
fn closed<R: Ended>(log: &RowLog, key: &str) -> Result<Option<Brief>, Error> {
    let brief = match log.held(key)? {
        Held::No => None,
        Held::As(brief) => Some(brief),
        // It may be none of this version's.
        Held::Unread => log.get::<R>(key)?.map(|record| record.brief()),
    };
    Ok(brief.filter(|brief| !brief.outcome.is_open()))
}

/// A row to run.
struct Row<T> {
    /// Its place among all rows.
    at: usize,
    key: String,
    item: T,
}

/// What comes next.
enum Next<T> {
    Row(Row<T>),
    /// A row that was finished before.
    Passed,
    /// One that an equal row has finished in this run.
    Again(Outcome),
}

/// Rows that were finished before and are passed before answers that came meanwhile are looked at.
const PASSED: usize = 64;

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
    let reused = before.reused;
    let (mut items, mut passed) = (items.into_iter().enumerate(), 0);
    let next = |log: &RowLog| {
        let (at, item) = items.next()?;
        let looked = item.and_then(|(key, item)| {
            let held = match reused {
                0 => None,
                _ => closed::<R>(log, &key)?,
            };
            let Some(brief) = held else {
                return Ok(Next::Row(Row { at, key, item }));
            };
            passed += 1;
            Ok(match passed > reused {
                true => Next::Again(brief.outcome),
                false => Next::Passed,
            })
        });
        Some(looked)
    };
    run(next, |_, _, _| Ok(()), before, log, options, row).await
}

/// What a log holds of rows, and the first of those that it does not.
pub struct Stock<T> {
    /// The count.
    pub tally: Tally,
    /// Those that were finished before.
    pub finished: Arc<Finished>,
    /// The first unfinished rows with their places, so that asking begins without another look at
    /// those before them.
    first: Vec<(usize, T)>,
}

/// Which rows were finished before, a bit each.
#[derive(Debug, Default)]
pub struct Finished(Vec<u64>);

impl Finished {
    fn add(&mut self, at: usize) {
        self.0.resize(at / 64 + 1, 0);
        self.0[at / 64] |= 1 << (at % 64);
    }

    /// True for the row at this place.
    #[must_use]
    pub fn has(&self, at: usize) -> bool {
        let word = self.0.get(at / 64);
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

/// Unfinished rows that are held, at most.
const FIRST: usize = 4096;

impl<T> Stock<T> {
    /// Counts rows, and what a log holds of them that needs no further asking. An empty log needs no
    /// keys.
    ///
    /// # Errors
    /// The log's own, and those of the items.
    pub fn take<R: Ended>(
        items: impl Iterator<Item = Result<T, Error>>,
        key: impl Fn(&T) -> String,
        log: &RowLog,
    ) -> Result<Self, Error> {
        let (mut tally, mut finished) = (Tally::of_none(), Finished::default());
        let mut first = Vec::new();
        for item in items {
            let item = item?;
            let at = tally.rows;
            tally.rows += 1;
            let held = match log.is_empty() {
                true => None,
                false => closed::<R>(log, &key(&item))?,
            };
            if let Some(brief) = held {
                tally.reuse(brief);
                finished.add(at);
            } else if !log.is_empty() && first.len() < FIRST {
                first.push((at, item));
            }
        }
        Ok(Stock {
            tally,
            finished: Arc::new(finished),
            first,
        })
    }
}

/// [`stream_rows`] over all items that are not in stock, with `taker` taking each record when it is in
/// the log.
///
/// Memory: as there, a bit a row, and what the taker holds.
///
/// # Errors
/// As [`stream_rows`], and the taker's; what is in flight then is waited for and kept.
pub async fn stream_unfinished<T, R, F, Fut>(
    (stock, items): (Stock<T>, impl Iterator<Item = Result<T, Error>>),
    key: impl Fn(&T) -> String,
    taker: &mut impl Taker<R>,
    log: &mut RowLog,
    options: &RunOptions<'_>,
    row: F,
) -> Result<(Tally, Option<Error>), Error>
where
    R: Ended,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<R, FeedbackError>>,
{
    let Stock {
        tally,
        finished,
        first,
    } = stock;
    let all_held = first.len() == tally.rows - tally.reused;
    let begin = first.last().map_or(0, |(at, _)| at + 1);
    let mut first = first.into_iter();
    let mut items = items.enumerate();
    let next = |_: &RowLog| {
        let (at, item) = match first.next() {
            Some((at, item)) => (at, item),
            None if all_held => return None,
            None => match items.next()? {
                (at, Ok(_)) if at < begin || finished.has(at) => {
                    return Some(Ok(Next::Passed));
                }
                (at, Ok(item)) => (at, item),
                (_, Err(error)) => return Some(Err(error)),
            },
        };
        let key = key(&item);
        Some(Ok(Next::Row(Row { at, key, item })))
    };
    run(
        next,
        |log, at, record| taker.take(log, at, record),
        tally,
        log,
        options,
        row,
    )
    .await
}

/// Takes records as they end.
pub trait Taker<R> {
    /// Takes the record of the row at a place among all.
    ///
    /// # Errors
    /// Nothing more can be taken.
    fn take(&mut self, log: &RowLog, at: usize, record: R) -> Result<(), Error>;
}

async fn run<T, R, F, Fut>(
    mut next: impl FnMut(&RowLog) -> Option<Result<Next<T>, Error>>,
    mut take: impl FnMut(&RowLog, usize, R) -> Result<(), Error>,
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
    options
        .progress
        .start(options.stage, Unit::Rows, total, tally.reused);
    let row = &row;
    let mut rows = FuturesUnordered::new();
    let mut cause: Option<ModelError> = None;
    let mut untaken: Option<Error> = None;
    let (mut answered, mut failed_first) = (tally.reused, 0usize);
    let mut synced = Instant::now();
    // Nothing to ask: the items are not even read.
    let mut more = tally.reused < total;
    loop {
        let mut passed = 0;
        while more
            && passed < PASSED
            && rows.len() < options.concurrency.rows()
            && !options.stop.is_requested()
        {
            match next(log).transpose()? {
                None => more = false,
                Some(Next::Passed) => passed += 1,
                Some(Next::Again(outcome)) => {
                    passed += 1;
                    *tally.outcomes.entry(outcome.as_str()).or_default() += 1;
                }
                Some(Next::Row(Row { at, key, item })) => {
                    rows.push(async move { (at, key, row(item).await) });
                }
            }
        }
        let ended = match passed < PASSED {
            true => rows.next().await,
            // Others stand behind those that were passed: only what has ended already.
            false => {
                tokio::task::yield_now().await;
                match rows.next().now_or_never() {
                    Some(Some(ended)) => Some(ended),
                    _ => continue,
                }
            }
        };
        let Some((at, key, result)) = ended else {
            break;
        };
        if synced.elapsed() >= SYNC_EVERY {
            log.sync()?;
            synced = Instant::now();
        }
        match result {
            Ok(record) => {
                let brief = record.brief();
                log.append_ended(&key, brief, &record)?;
                let outcome = brief.outcome;
                *tally.outcomes.entry(outcome.as_str()).or_default() += 1;
                if let Some(judgment) = record.judgment() {
                    options.progress.judged(judgment);
                }
                options.progress.row(outcome);
                if outcome == Outcome::Failed {
                    let last = record.error().unwrap_or_default();
                    // A row that is too long was refused by a model that is there.
                    failed_first += usize::from(!says_too_long(&last));
                    if answered == 0 && failed_first >= DOWN_AFTER && cause.is_none() {
                        options.stop.request();
                        cause = Some(ModelError::Exhausted {
                            attempts: failed_first as u32,
                            last,
                        });
                    }
                } else {
                    answered += 1;
                }
                if untaken.is_none()
                    && let Err(error) = take(log, at, record)
                {
                    options.stop.request();
                    untaken = Some(error);
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
    if let Some(error) = untaken {
        return Err(error);
    }
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
