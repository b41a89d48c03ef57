//! What every verb on loose files begins with and ends with: the input, the models, the log that keeps
//! finished rows, the output.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rlaif::error::Error;
use rlaif::figures::Totals;
use rlaif::progress::Progress;
use rlaif::rows::{
    Ended, Finished, RunOptions, Stock, Stop, Taker, Tally, census, check_failed, check_unread,
    stream_rows, stream_unfinished,
};
use rlaif::stages::commonest_error;
use rlaif::{Constitution, Model, Outcome};
use rlaif_client::{Account, Embedder, Halt};
use rlaif_core::export::{RowWriter, check_ending};
use rlaif_core::rowlog::RowLog;
use rlaif_feedback::FeedbackError;
use serde_json::{Map, Value};

#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};

use super::args::{EndpointArgs, FilesArgs, Global, RunLimits};
use super::dashboard::Dashboard;
use super::input::Input;
use super::loose::no_completions;
use super::metrics;
use super::models::{JOURNAL, Models, width_of};
use super::show::Bars;

/// Which verb works on which files.
pub struct Work<'a> {
    pub verb: &'a str,
    pub files: &'a FilesArgs,
    pub endpoint: &'a EndpointArgs,
    /// What a row must have, for the error where none has it.
    pub wanted: &'a str,
}

/// What every loose verb begins with.
pub struct Desk {
    pub constitution: Constitution,
    pub input: Input,
    pub progress: Arc<dyn Progress>,
    bars: Arc<Bars>,
    models: Models,
    stop: Stop,
    pub seed: u64,
    begun: Instant,
    log_path: PathBuf,
    keeps_log: bool,
    served: std::cell::Cell<bool>,
}

impl Desk {
    pub fn open(
        files: &FilesArgs,
        verb: &str,
        limits: &RunLimits,
        global: &Global,
    ) -> Result<Self, Error> {
        let constitution = Constitution::read(&files.constitution)?;
        check_ending(&files.out)?;
        let bars = Arc::new(Bars::new());
        let progress: Arc<dyn Progress> = Arc::clone(&bars) as Arc<dyn Progress>;
        let whole = |p: &Path| std::fs::canonicalize(p).ok();
        if let (Some(input), Some(out)) = (whole(&files.input), whole(&files.out))
            && input == out
        {
            return Err(Error::input(
                format!(
                    "`{}` is the input and would be overwritten",
                    files.out.display()
                ),
                "give another file by `--out`",
            ));
        }
        let (log_path, keeps_log) = match &files.run {
            Some(folder) => (folder.join("log").join(format!("{verb}.jsonl")), true),
            None => {
                let mut name = files.out.as_os_str().to_owned();
                name.push(".partial");
                (PathBuf::from(name), false)
            }
        };
        if !keeps_log && !files.overwrite && files.out.exists() && !log_path.exists() {
            return Err(Error::input(
                format!(
                    "`{}` exists already and is finished: nothing was asked",
                    files.out.display()
                ),
                "give another file by `--out`, or `--overwrite` to ask for all of it again",
            ));
        }
        let input = Input::open(&files.input, files.limit, &progress)?;
        if input.is_empty() {
            return Err(no_rows(&files.input));
        }
        let journal = match &files.run {
            Some(folder) => folder.join(JOURNAL),
            None => {
                let mut name = log_path.as_os_str().to_owned();
                name.push(".calls");
                PathBuf::from(name)
            }
        };
        let models = Models::with_ledger(&journal, limits)?;
        bars.watch(models.watch());
        let stop = Stop::default();
        stop_on_interrupt(&stop, Some(models.halt()));
        Ok(Desk {
            constitution,
            input,
            progress,
            bars,
            models,
            stop,
            seed: global.seed.unwrap_or(0),
            begun: Instant::now(),
            log_path,
            keeps_log,
            served: std::cell::Cell::new(false),
        })
    }

    /// Opens a model that an argument names.
    pub fn model(&mut self, name: &str, url: &str, args: &EndpointArgs) -> Result<Model, Error> {
        self.models.of_argument(name, url, args, &self.progress)
    }

    /// Opens a model of embeddings that an argument names.
    pub fn embedder(
        &mut self,
        option: &str,
        url: &str,
        args: &EndpointArgs,
    ) -> Result<Arc<Embedder>, Error> {
        self.models.embedder(option, url, args, &self.progress)
    }

    /// The log that keeps finished rows.
    pub fn log(&self) -> Result<RowLog, Error> {
        Ok(RowLog::open(&self.log_path)?)
    }

    /// Serves what is watched from now on. Several passes of a verb are served at one address.
    async fn watched(&self, endpoint: &EndpointArgs) -> Result<Option<Dashboard>, Error> {
        if let Some(address) = endpoint.run.metrics.filter(|_| !self.served.replace(true)) {
            metrics::serve(address, self.models.watch(), Arc::clone(&self.bars)).await?;
        }
        Dashboard::open_if(endpoint.run.dashboard, &self.bars, self.models.watch())
    }

    fn options<'a>(
        &'a self,
        verb: &'a str,
        endpoint: &EndpointArgs,
        width: &'a (dyn Fn() -> usize + Send + Sync),
    ) -> RunOptions<'a> {
        RunOptions {
            stage: verb,
            concurrency: width_of(width),
            max_failed: endpoint.max_failed,
            progress: &*self.progress,
            stop: &self.stop,
        }
    }

    /// Asks for the rows that the log does not hold yet. A budget that is reached is a wish, not a
    /// fault: it stands beside the count of what it allowed.
    pub async fn ask<T, R, F, Fut>(
        &self,
        verb: &str,
        endpoint: &EndpointArgs,
        log: &mut RowLog,
        items: Vec<(String, T)>,
        row: F,
    ) -> Result<(Tally, Option<Error>), Error>
    where
        R: Ended,
        F: Fn(T) -> Fut,
        Fut: Future<Output = Result<R, FeedbackError>>,
    {
        let before = census::<R>(items.iter().map(|(key, _)| Ok(key.as_str())), log)?;
        let items = items.into_iter().map(Ok);
        let _dashboard = self.watched(endpoint).await?;
        let width = self.models.width();
        let options = self.options(verb, endpoint, &width);
        wish(stream_rows(items, before, log, &options, row).await?)
    }

    /// What the exit code says of a verb's rows: what stopped them, or that too many failed.
    pub fn gate<R: Ended>(
        &self,
        verb: &str,
        endpoint: &EndpointArgs,
        (log, keys): (
            &RowLog,
            impl IntoIterator<Item = Result<impl AsRef<str>, Error>>,
        ),
        tally: &Tally,
        stopped: Option<Error>,
    ) -> Result<(), Error> {
        match stopped {
            Some(stopped) => Err(stopped),
            None => check_failed(verb, tally, endpoint.max_failed, || {
                commonest_error::<R>(log, keys)
            })
            .and_then(|()| {
                let counts = self.input.counts();
                let counts = (counts.faults, counts.rows);
                check_unread(&self.input.path, counts, endpoint.max_failed)
            }),
        }
    }

    /// An output with more rows than it would have now is the result of something else: it was paid
    /// for, and is not replaced without a word.
    fn check_larger(&self, files: &FilesArgs, rows: usize) -> Result<(), Error> {
        let held = match files.out.exists() && !files.overwrite {
            true => rows_of(&files.out),
            false => 0,
        };
        if held > rows {
            return Err(Error::input(
                format!(
                    "`{}` has {held} rows and would be replaced by {rows}: nothing was asked",
                    files.out.display()
                ),
                "give another file by `--out`, or `--overwrite` to replace it",
            ));
        }
        Ok(())
    }

    /// Removes the log where no row is left to ask again.
    pub fn close(&self, log: RowLog, tally: &Tally) -> Result<(), Error> {
        drop(log);
        // Rows that failed are asked again by the same command: the log is what spares the rest.
        if !self.keeps_log && is_finished(tally) {
            std::fs::remove_file(&self.log_path)
                .map_err(rlaif_core::Error::io("remove", &self.log_path))?;
        }
        Ok(())
    }

    /// Runs rows and writes them, with `more` behind them. `items` gives the rows from the beginning
    /// each time: they are read again rather than held. `line` makes an output line of an item and
    /// its record, in the input's order, while later ones are still asked.
    ///
    /// Memory: the rows in flight, 16 bytes a record, and what [`Written`] holds.
    pub async fn work<T: Clone, R, F, Fut, I>(
        &self,
        work: Work<'_>,
        items: impl Fn() -> Result<I, Error>,
        key: impl Fn(&T) -> String,
        row: F,
        line: impl FnMut(&T, Option<R>) -> Vec<u8>,
        more: impl IntoIterator<Item = Value>,
    ) -> Result<(Tally, Result<(), Error>), Error>
    where
        I: Iterator<Item = Result<T, Error>>,
        R: Ended,
        F: Fn(T) -> Fut,
        Fut: Future<Output = Result<R, FeedbackError>>,
    {
        let more: Vec<Value> = more.into_iter().collect();
        let mut log = self.log()?;
        let stock = Stock::take::<R>(items()?, &key, &log)?;
        if self.input.is_empty() {
            return Err(no_rows(&work.files.input));
        }
        if stock.tally.rows == 0 {
            return Err(no_completions(work.files, work.wanted));
        }
        self.check_larger(work.files, stock.tally.rows + more.len())?;
        let ahead = Ahead::default();
        let mut written = Written {
            items: items()?,
            read: 0,
            asked: ahead.clone(),
            key: &key,
            line,
            out: RowWriter::create_beside(&work.files.out, &self.log_path)?,
            finished: Arc::clone(&stock.finished),
            next: 0,
            ahead: VecDeque::new(),
            held: 0,
        };
        let dashboard = self.watched(work.endpoint).await?;
        let width = self.models.width();
        let options = self.options(work.verb, work.endpoint, &width);
        let rows = (stock, ahead.fill(items()?));
        let (tally, stopped) =
            wish(stream_unfinished(rows, &key, &mut written, &mut log, &options, row).await?)?;
        drop(dashboard);
        let mut out = written.rest(&log)?;
        self.input.check_unchanged()?;
        for row in more {
            out.write(&row)?;
        }
        out.finish()?;
        let keys = items()?.map(|item| item.map(|item| key(&item)));
        let gate = self.gate::<R>(work.verb, work.endpoint, (&log, keys), &tally, stopped);
        self.close(log, &tally)?;
        Ok((tally, gate))
    }

    /// Prints what the verb came to, and turns the gate into the exit code.
    pub fn end(
        self,
        global: &Global,
        out: &Path,
        tally: &Tally,
        gate: Result<(), Error>,
        extra: Map<String, Value>,
        words: &str,
    ) -> Result<u8, Error> {
        let mut totals = Totals::new(tally, self.begun.elapsed().as_secs_f64());
        self.models.count(&mut totals);
        let reached = gate.as_ref().is_err_and(Error::is_budget);
        if global.json && (gate.is_ok() || reached) {
            let mut value = serde_json::to_value(&totals).unwrap_or_default();
            if let Some(map) = value.as_object_mut() {
                map.insert("malformed".into(), self.input.counts().faults.into());
                map.insert("out".into(), out.display().to_string().into());
                map.insert("budget_reached".into(), reached.into());
                map.extend(extra);
            }
            println!("{value}");
        }
        eprintln!("{words}");
        eprintln!(
            "{} calls ({} made again, {} taken from before), {} + {} tokens, {:.1} s -> {}",
            totals.calls,
            totals.retries,
            totals.cached,
            totals.prompt_tokens,
            totals.completion_tokens,
            totals.wall_secs,
            out.display()
        );
        if let Some(account) = self.models.account()?.filter(|a| a.settled_usd > 0.0) {
            eprintln!("{}", money(&account));
        }
        if !self.keeps_log && is_finished(tally) {
            self.models.remove_journal()?;
        }
        match gate {
            Err(error) if reached => {
                // The object on standard output has been printed already.
                super::show::error(&error, false);
                Ok(error.exit_code())
            }
            gate => gate.map(|()| 0),
        }
    }
}

/// A budget that is reached stands beside the count of what it allowed; whatever else stopped rows is
/// an error.
fn wish((tally, stopped): (Tally, Option<Error>)) -> Result<(Tally, Option<Error>), Error> {
    match stopped {
        Some(error) if !error.is_budget() => Err(error),
        stopped => Ok((tally, stopped)),
    }
}

/// Records that wait in memory for those before them, at most; others are read from the log again.
const HELD: usize = 2048;

/// Lines written at once while answers may be waiting.
const AT_ONCE: usize = 32;

/// The output, written in the input's order behind the rows as they end.
///
/// Memory: [`HELD`] records and as many rows, and 16 bytes a row between the first one that has not
/// ended and the last one that has.
struct Written<'a, T, R, I, L> {
    items: I,
    /// Rows that `items` has given.
    read: usize,
    asked: Ahead<T>,
    key: &'a dyn Fn(&T) -> String,
    line: L,
    out: RowWriter,
    finished: Arc<Finished>,
    /// Lines written so far.
    next: usize,
    /// What is known of the rows from `next` on.
    ahead: VecDeque<Record<R>>,
    held: usize,
}

/// Rows that were read to be asked for and wait to be written, with their places: [`HELD`] of them at
/// most, the rest is read again.
struct Ahead<T>(Rc<RefCell<VecDeque<(usize, T)>>>);

impl<T> Clone for Ahead<T> {
    fn clone(&self) -> Self {
        Ahead(Rc::clone(&self.0))
    }
}

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Ahead(Rc::default())
    }
}

impl<T: Clone> Ahead<T> {
    /// The rows, each kept here as it passes, while there is room.
    fn fill<I>(&self, items: I) -> impl Iterator<Item = Result<T, Error>> + use<T, I>
    where
        I: Iterator<Item = Result<T, Error>>,
    {
        let ahead = self.clone();
        items
            .enumerate()
            .inspect(move |(at, item)| {
                let mut held = ahead.0.borrow_mut();
                if let (Ok(item), true) = (item, held.len() < HELD) {
                    held.push_back((*at, item.clone()));
                }
            })
            .map(|(_, item)| item)
    }
}

impl<T> Ahead<T> {
    /// The row of a place, where it is kept; those before it are wanted no more.
    fn take(&self, place: usize) -> Option<T> {
        let mut held = self.0.borrow_mut();
        while held.front().is_some_and(|(at, _)| *at < place) {
            held.pop_front();
        }
        match held.front() {
            Some((at, _)) if *at == place => held.pop_front().map(|(_, item)| item),
            _ => None,
        }
    }
}

enum Record<R> {
    /// The row has not ended in this run.
    Awaited,
    /// The log holds it.
    Logged,
    Held(Box<R>),
}

impl<T: Clone, R, I, L> Written<'_, T, R, I, L>
where
    R: Ended,
    I: Iterator<Item = Result<T, Error>>,
    L: FnMut(&T, Option<R>) -> Vec<u8>,
{
    /// What is known of the next row.
    fn known(&mut self) -> Record<R> {
        match self.ahead.pop_front() {
            Some(known) => known,
            None if self.finished.has(self.next) => Record::Logged,
            None => Record::Awaited,
        }
    }

    /// The next row: as it was read to be asked for, else read again.
    fn item(&mut self) -> Result<Option<T>, Error> {
        if let Some(item) = self.asked.take(self.next) {
            return Ok(Some(item));
        }
        loop {
            let item = self.items.next().transpose()?;
            self.read += 1;
            if item.is_none() || self.read > self.next {
                return Ok(item);
            }
        }
    }

    /// Writes the next row; `false` where there is none.
    fn write(&mut self, known: Record<R>, log: &RowLog) -> Result<bool, Error> {
        let Some(item) = self.item()? else {
            return Ok(false);
        };
        let record = match known {
            Record::Held(record) => {
                self.held -= 1;
                Some(*record)
            }
            // One that an earlier run could not have answered may be there.
            Record::Awaited if log.is_empty() => None,
            Record::Awaited | Record::Logged => log.get(&(self.key)(&item))?,
        };
        self.out.write_lines(&(self.line)(&item, record))?;
        self.next += 1;
        Ok(true)
    }

    /// Writes all that is left.
    fn rest(mut self, log: &RowLog) -> Result<RowWriter, Error> {
        loop {
            let known = self.known();
            if !self.write(known, log)? {
                return Ok(self.out);
            }
        }
    }
}

impl<T: Clone, R, I, L> Taker<R> for Written<'_, T, R, I, L>
where
    R: Ended,
    I: Iterator<Item = Result<T, Error>>,
    L: FnMut(&T, Option<R>) -> Vec<u8>,
{
    fn take(&mut self, log: &RowLog, at: usize, record: R) -> Result<(), Error> {
        while self.ahead.len() <= at - self.next {
            let known = match self.finished.has(self.next + self.ahead.len()) {
                true => Record::Logged,
                false => Record::Awaited,
            };
            self.ahead.push_back(known);
        }
        self.ahead[at - self.next] = match self.held < HELD {
            true => {
                self.held += 1;
                Record::Held(Box::new(record))
            }
            false => Record::Logged,
        };
        for _ in 0..AT_ONCE {
            match self.known() {
                Record::Awaited => {
                    if !self.ahead.is_empty() {
                        self.ahead.push_front(Record::Awaited);
                    }
                    break;
                }
                known => {
                    self.write(known, log)?;
                }
            }
        }
        Ok(())
    }
}

fn no_rows(input: &Path) -> Error {
    Error::input(
        format!("`{}` has no row that can be read", input.display()),
        "see the table of columns in the README",
    )
}

/// What a journal was charged, in words.
pub fn money(account: &Account) -> String {
    format!(
        "${:.4} settled and at most ${:.4} unsettled, over all runs with this journal",
        account.settled_usd, account.unsettled_usd
    )
}

/// Writes a verb's page: where it was wanted, else beside the output.
pub fn write_page(out: &Path, page: Option<&Path>, html: &str) -> Result<(), Error> {
    let beside = out.with_extension("html");
    rlaif_core::run::write_atomic(page.unwrap_or(&beside), html.as_bytes())?;
    Ok(())
}

/// Rows of an output; none where it is no file that this tool writes.
fn rows_of(out: &Path) -> usize {
    if out.extension().is_some_and(|e| e == "gz" || e == "parquet") {
        let rows = rlaif_core::dataset::Reader::open(out).map(|rows| rows.flatten().count());
        return rows.unwrap_or(0);
    }
    let Ok(mut file) = std::fs::File::open(out) else {
        return 0;
    };
    let (mut rows, mut some) = (0, vec![0u8; 1 << 16]);
    while let Ok(n @ 1..) = std::io::Read::read(&mut file, &mut some) {
        rows += some[..n].iter().filter(|b| **b == b'\n').count();
    }
    rows
}

/// No row is left to ask again.
fn is_finished(tally: &Tally) -> bool {
    tally.count(Outcome::Failed) == 0 && tally.count(Outcome::NotRun) == 0
}

/// Ctrl-C, SIGTERM or SIGHUP once: what was sent to a model ends and is kept, the rest can go on
/// later. Twice: out at once; what is finished is on disk already.
pub fn stop_on_interrupt(stop: &Stop, halt: Option<Arc<Halt>>) {
    let (stop, asked) = (stop.clone(), Arc::new(AtomicBool::new(false)));
    let ask = move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        stop.request();
        if let Some(halt) = &halt {
            halt.request();
        }
        // A terminal that went away cannot be written to, which stops nothing.
        let _ = writeln!(
            std::io::stderr(),
            "stopping: what is under way ends and is kept; once more to stop at once"
        );
    };
    // A supervisor's way to say it, and a terminal's that is closed.
    #[cfg(unix)]
    for kind in [SignalKind::terminate(), SignalKind::hangup()] {
        if let Ok(mut signal) = signal(kind) {
            let ask = ask.clone();
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    ask();
                }
            });
        }
    }
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            ask();
        }
    });
}
