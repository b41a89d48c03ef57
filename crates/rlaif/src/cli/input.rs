//! The rows of an input file, as often as they are wanted: held where the file is small, read again
//! where it is not.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use rlaif::error::Error;
use rlaif::progress::Progress;
use rlaif_core::dataset::{Dataset, Reader, Row, RowFault};

/// Bytes of a file up to which its rows are held: reading them again costs time, holding them memory.
const HELD: u64 = 16 << 20;

/// What was counted of a file's rows, up to the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Rows that can be read.
    pub rows: usize,
    /// Rows that cannot.
    pub faults: usize,
    /// Rows with fewer than two completions, and the line of the first.
    short: (usize, usize),
}

/// An input file.
pub struct Input {
    pub path: PathBuf,
    limit: Option<usize>,
    progress: Arc<dyn Progress>,
    /// Known once the file was read to its end: at once for one that is held, else by whoever reads
    /// it first.
    counts: Cell<Option<Counts>>,
    /// Rows with fewer than two completions are to be told of as soon as they are counted.
    tells_short: Cell<bool>,
    held: Option<Vec<Arc<Row>>>,
    state: State,
}

/// Rows from the beginning.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Arc<Row>, Error>> + 'a>;

/// By what a file is known to be as it was: its size and when it was last written.
type State = Option<(u64, std::time::SystemTime)>;

fn state(path: &Path) -> State {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}

impl Input {
    /// Opens a file, and reads it where it is small; rows that cannot be read are said, with file and
    /// line, as soon as they are come upon.
    ///
    /// # Errors
    /// The file as a whole cannot be read.
    pub fn open(
        path: &Path,
        limit: Option<usize>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self, Error> {
        Input::with_room(path, limit, progress, HELD)
    }

    fn with_room(
        path: &Path,
        limit: Option<usize>,
        progress: &Arc<dyn Progress>,
        room: u64,
    ) -> Result<Self, Error> {
        let state = state(path);
        let bytes = state.map_or(0, |(bytes, _)| bytes);
        // Compressed text grows some five times.
        let packed = path
            .extension()
            .is_some_and(|e| e == "gz" || e == "parquet");
        let small = bytes <= if packed { room / 5 } else { room };
        let mut input = Input {
            path: path.to_path_buf(),
            limit,
            progress: Arc::clone(progress),
            counts: Cell::new(None),
            tells_short: Cell::new(false),
            held: None,
            state,
        };
        if small {
            let rows = input.read()?.collect::<Result<Vec<_>, Error>>()?;
            input.held = Some(rows);
        }
        Ok(input)
    }

    /// What was counted so far; all zeros before the file was read to its end.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.get().unwrap_or_default()
    }

    /// True where the file was read to its end and has no row that can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.get().is_some_and(|counts| counts.rows == 0)
    }

    /// Says which rows have too few completions for a pair: now, or once they are counted.
    pub fn tell_short(&self) {
        self.tells_short.set(true);
        if let Some(counts) = self.counts.get() {
            self.say_short(counts);
        }
    }

    fn say_short(&self, counts: Counts) {
        if let (n @ 1.., line) = counts.short {
            self.progress.note(&format!(
                "{}:{line}: a comparison needs two completions; {n} such rows left out",
                self.path.display(),
            ));
        }
    }

    /// The rows from the beginning, in the file's order.
    ///
    /// # Errors
    /// The file was changed or cannot be opened again; in an item, what became of it further on.
    pub fn rows(&self) -> Result<Rows<'_>, Error> {
        if let Some(held) = &self.held {
            return Ok(Box::new(held.iter().map(|row| Ok(Arc::clone(row)))));
        }
        self.check_unchanged()?;
        Ok(Box::new(self.read()?))
    }

    /// Whether a file that is read several times is as it was.
    ///
    /// # Errors
    /// It was changed.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        if self.held.is_none() && state(&self.path) != self.state {
            return Err(Error::input(
                format!("`{}` was changed while it was read", self.path.display()),
                "give the same command again: rows that are as they were are not asked again",
            ));
        }
        Ok(())
    }

    fn read(&self) -> Result<Reading<'_>, Error> {
        let reader = Reader::open(&self.path)?;
        let (give, batches) = sync_channel(BATCHES);
        let read = move || {
            let mut batch = Vec::with_capacity(BATCH);
            for item in reader {
                batch.push(item);
                if batch.len() == BATCH {
                    let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                    // Nobody wants more.
                    if give.send(full).is_err() {
                        return;
                    }
                }
            }
            // An empty batch is the end: without it the thread has died.
            if batch.is_empty() || give.send(batch).is_ok() {
                let _ = give.send(Vec::new());
            }
        };
        std::thread::Builder::new()
            .name("input".into())
            .spawn(read)
            .map_err(rlaif_core::Error::io("read", &self.path))?;
        Ok(Reading {
            batches: Some(batches),
            ready: Vec::new().into_iter(),
            input: self,
            counts: Counts::default(),
        })
    }
}

/// Rows that are handed from the thread that reads to whoever wants them, and how often that is done
/// ahead.
const BATCH: usize = 64;
const BATCHES: usize = 4;

/// A row, what is wrong with it, or with the file.
type Item = rlaif_core::Result<Result<Row, RowFault>>;

/// Rows from a file, read by a thread of their own, so that a million finished ones are passed in half
/// the time; whoever comes to the end first has counted them.
struct Reading<'a> {
    batches: Option<Receiver<Vec<Item>>>,
    ready: std::vec::IntoIter<Item>,
    input: &'a Input,
    counts: Counts,
}

impl Reading<'_> {
    /// The next item; `None` once the end was come to.
    fn item(&mut self) -> Option<Option<Item>> {
        let batches = self.batches.as_ref()?;
        if self.ready.as_slice().is_empty() {
            match batches.recv() {
                Ok(batch) => self.ready = batch.into_iter(),
                Err(_) => {
                    self.batches = None;
                    let cause = std::io::Error::other("the thread that reads it has ended");
                    let fault = rlaif_core::Error::io("read", &self.input.path);
                    return Some(Some(Err(fault(cause))));
                }
            }
        }
        Some(self.ready.next())
    }

    fn end(&mut self) {
        self.batches = None;
        let Input { path, progress, .. } = self.input;
        if self.input.counts.get().is_none() {
            self.input.counts.set(Some(self.counts));
            left_out(path, self.counts.faults, self.counts.rows, &**progress);
            if self.input.tells_short.get() {
                self.input.say_short(self.counts);
            }
        }
    }
}

impl Iterator for Reading<'_> {
    type Item = Result<Arc<Row>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self
                .input
                .limit
                .is_some_and(|limit| self.counts.rows == limit)
            {
                self.end();
            }
            match self.item()? {
                None => self.end(),
                Some(Err(error)) => return Some(Err(error.into())),
                Some(Ok(Ok(row))) => {
                    let counts = &mut self.counts;
                    counts.rows += 1;
                    if row.completions.len() < 2 {
                        counts.short.0 += 1;
                        if counts.short.0 == 1 {
                            counts.short.1 = row.line;
                        }
                    }
                    return Some(Ok(Arc::new(row)));
                }
                Some(Ok(Err(fault))) => {
                    self.counts.faults += 1;
                    if self.counts.faults <= NOTED && self.input.counts.get().is_none() {
                        note(&self.input.path, &fault, &*self.input.progress);
                    }
                }
            }
        }
    }
}

/// Faults that are shown one by one.
const NOTED: usize = 10;

fn note(path: &Path, fault: &RowFault, progress: &dyn Progress) {
    progress.note(&format!(
        "{}:{}: {}",
        path.display(),
        fault.line,
        fault.message
    ));
}

fn left_out(path: &Path, faults: usize, rows: usize, progress: &dyn Progress) {
    if faults > NOTED {
        progress.note(&format!(
            "{}: {} more rows cannot be read",
            path.display(),
            faults - NOTED
        ));
    }
    if faults > 0 {
        progress.note(&format!("{faults} of {} rows left out", faults + rows));
    }
}

/// Rows that cannot be read are said, with file and line; the others go on.
pub fn note_faults(dataset: &Dataset, progress: &dyn Progress) {
    for fault in dataset.faults.iter().take(NOTED) {
        note(&dataset.path, fault, progress);
    }
    left_out(
        &dataset.path,
        dataset.faults.len(),
        dataset.rows.len(),
        progress,
    );
}

#[cfg(test)]
mod tests {
    use rlaif::progress::Silent;

    use super::*;

    #[test]
    fn rows_read_again_are_those_that_are_held_and_a_changed_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        let text: String = (0..50)
            .map(|i| match i % 10 {
                3 => "{\"prompt\": \n".to_owned(),
                _ => format!("{{\"prompt\": \"Q{}\", \"completion\": \"A\"}}\n", i % 20),
            })
            .collect();
        std::fs::write(&path, &text).unwrap();
        let rows = |input: &Input| -> Vec<Row> {
            input
                .rows()
                .unwrap()
                .map(|r| (*r.unwrap()).clone())
                .collect()
        };
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        for limit in [None, Some(17)] {
            let held = Input::with_room(&path, limit, &silent, HELD).unwrap();
            let read = Input::with_room(&path, limit, &silent, 0).unwrap();
            assert!(held.held.is_some() && read.held.is_none());
            // What is not held is counted by the first pass.
            assert_eq!(read.counts(), Counts::default());
            assert_eq!(rows(&held), rows(&read));
            assert_eq!(rows(&read), rows(&read));
            assert_eq!(held.counts().rows, limit.unwrap_or(45));
            assert_eq!(held.counts(), read.counts());
            // Lines 4 and 14 are broken; all rows have one completion.
            assert_eq!(held.counts().faults, if limit.is_some() { 2 } else { 5 });
            assert_eq!(held.counts().short, (limit.unwrap_or(45), 1));
        }
        let read = Input::with_room(&path, None, &silent, 0).unwrap();
        std::fs::write(&path, text + "{\"prompt\": \"more\"}\n").unwrap();
        let error = read.rows().err().unwrap().to_string();
        assert!(error.contains("was changed"), "{error}");
    }
}
