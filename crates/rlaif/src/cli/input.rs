//! The rows of an input file, as often as they are wanted: held where the file is small, read again
//! where it is not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif::error::Error;
use rlaif::progress::Progress;
use rlaif_core::dataset::{Dataset, Reader, Row, RowFault};

/// Bytes of a file up to which its rows are held: reading them again costs time, holding them memory.
const HELD: u64 = 16 << 20;

/// An input file.
pub struct Input {
    pub path: PathBuf,
    /// Rows that can be read, up to the limit.
    pub rows: usize,
    /// Rows that cannot.
    pub faults: usize,
    /// Rows with fewer than two completions, and the line of the first.
    pub short: (usize, usize),
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
    /// Reads a file once; rows that cannot be read are said, with file and line.
    ///
    /// # Errors
    /// The file as a whole cannot be read.
    pub fn open(path: &Path, limit: Option<usize>, progress: &dyn Progress) -> Result<Self, Error> {
        Input::with_room(path, limit, progress, HELD)
    }

    fn with_room(
        path: &Path,
        limit: Option<usize>,
        progress: &dyn Progress,
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
            rows: 0,
            faults: 0,
            short: (0, 0),
            held: None,
            state,
        };
        let mut held = small.then(Vec::new);
        for row in Reader::open(path)? {
            if limit.is_some_and(|limit| input.rows == limit) {
                break;
            }
            match row? {
                Ok(row) => {
                    input.rows += 1;
                    if row.completions.len() < 2 {
                        input.short.0 += 1;
                        if input.short.0 == 1 {
                            input.short.1 = row.line;
                        }
                    }
                    if let Some(held) = &mut held {
                        held.push(Arc::new(row));
                    }
                }
                Err(fault) => {
                    input.faults += 1;
                    if input.faults <= NOTED {
                        note(path, &fault, progress);
                    }
                }
            }
        }
        left_out(path, input.faults, input.rows, progress);
        input.held = held;
        Ok(input)
    }

    /// The rows from the beginning, in the file's order.
    ///
    /// # Errors
    /// The file was changed or cannot be opened again; in an item, what became of it further on.
    pub fn rows(&self) -> Result<Rows<'_>, Error> {
        if let Some(held) = &self.held {
            return Ok(Box::new(held.iter().map(|row| Ok(Arc::clone(row)))));
        }
        if state(&self.path) != self.state {
            return Err(Error::input(
                format!("`{}` was changed while it was read", self.path.display()),
                "give the same command again: rows that are as they were are not asked again",
            ));
        }
        let rows = Reader::open(&self.path)?.filter_map(|row| match row {
            Ok(Ok(row)) => Some(Ok(Arc::new(row))),
            Ok(Err(_)) => None,
            Err(error) => Some(Err(error.into())),
        });
        Ok(Box::new(rows.take(self.rows)))
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
        for limit in [None, Some(17)] {
            let held = Input::with_room(&path, limit, &Silent, HELD).unwrap();
            let read = Input::with_room(&path, limit, &Silent, 0).unwrap();
            assert!(held.held.is_some() && read.held.is_none());
            assert_eq!(rows(&held), rows(&read));
            assert_eq!(rows(&read), rows(&read));
            assert_eq!(held.rows, limit.unwrap_or(45));
            assert_eq!((held.faults, held.short), (read.faults, read.short));
        }
        let read = Input::with_room(&path, None, &Silent, 0).unwrap();
        std::fs::write(&path, text + "{\"prompt\": \"more\"}\n").unwrap();
        let error = read.rows().err().unwrap().to_string();
        assert!(error.contains("was changed"), "{error}");
    }
}
