//! Datasets, read by the columns that people have.
//!
//! | columns | read as |
//! |---|---|
//! | `prompt` (text or messages), `completions` / `completion` / `response` | prompt and completions |
//! | `prompt`, `chosen`, `rejected` (text or messages) | two completions, the first preferred |
//! | `chosen`, `rejected` (whole transcripts, HH-RLHF, or message lists) | the shared beginning is the prompt |
//! | `conversations`, `chosen`, `rejected` (ShareGPT) | likewise |
//! | `instruction`, `output_1`, `output_2` [, `preference`] (AlpacaEval, AlpacaFarm) | two completions, labeled |
//! | `instruction` [, `input`], `generations` (distilabel) | completions |
//! | `instruction` [, `input`] [, `output`] (Alpaca) | prompt and completion |
//! | `messages` | the last assistant turn is the completion |
//! | `question` | prompt |
//! | a text instead of an object, also nested in objects and lists | prompt |
//!
//! A row that fits none of these is a fault with file and line; the rows around it are read.

mod columns;
mod files;
mod human;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use human::{Verdicts, read_verdicts};

use crate::error::Result;
use crate::message::Prompt;
use crate::outcome::Probability;
use crate::run::sha256_file;
use crate::table::{Table, hash_of};

/// One row of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The column `id` or `prompt_id`, or a hash of prompt and completions; unique in the file.
    pub id: String,
    /// Line of the file, from 1; for Parquet and JSON arrays the row's number.
    pub line: usize,
    /// The conversation up to the completions.
    pub prompt: Prompt,
    /// Completions, in the file's order.
    pub completions: Vec<String>,
    /// P(the first of two completions is better), by whoever labeled the file.
    pub label: Probability,
    /// The file's own columns.
    pub columns: Map<String, Value>,
}

/// A row that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// Line of the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// A file's rows, and what could not be read of it.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// Rows, in the file's order.
    pub rows: Vec<Row>,
    /// Rows that could not be read.
    pub faults: Vec<RowFault>,
    /// SHA-256 of the file's bytes.
    pub sha256: String,
}

/// A file's rows, one at a time, in the file's order; a row that cannot be read comes as its fault.
///
/// Memory: 16 bytes a row, by which an id that comes again is known, and one row (a batch of a
/// Parquet file; all of a JSON document that is not one value a line).
pub struct Reader {
    values: files::Values,
    ids: Table,
    again: HashMap<u64, usize>,
}

impl Reader {
    /// Opens a file: `.jsonl`, `.json` (lines, a list, or nested texts), both also `.gz`, or
    /// `.parquet`.
    ///
    /// # Errors
    /// [`crate::Error::Io`], or [`crate::Error::Format`] where the file as a whole cannot be read.
    /// What is wrong further on (a damaged archive) comes as an error in its place.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Reader {
            values: files::Values::open(path)?,
            ids: Table::default(),
            again: HashMap::new(),
        })
    }

    /// Share of the file that was read, in [0, 1].
    #[must_use]
    pub fn share(&self) -> f64 {
        self.values.share()
    }

    /// How often this id has come, this time included.
    fn times(&mut self, id: &str) -> usize {
        let hash = hash_of(id);
        if self.ids.get(hash).next().is_none() {
            self.ids.insert(hash, 0);
            return 1;
        }
        let again = self.again.entry(hash).or_insert(1);
        *again += 1;
        *again
    }
}

impl Iterator for Reader {
    type Item = Result<std::result::Result<Row, RowFault>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (line, value) = match self.values.next()? {
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(match value.and_then(columns::row) {
            Err(message) => Err(RowFault { line, message }),
            Ok(mut row) => {
                row.line = line;
                let times = self.times(&row.id);
                if times > 1 {
                    row.id = format!("{}-{times}", row.id);
                }
                Ok(row)
            }
        }))
    }
}

/// Reads a whole file, as [`Reader::open`] says.
///
/// # Errors
/// As [`Reader::open`]. Single rows that cannot be read are in [`Dataset::faults`].
pub fn read(path: &Path) -> Result<Dataset> {
    let mut dataset = Dataset {
        path: path.to_path_buf(),
        rows: Vec::new(),
        faults: Vec::new(),
        sha256: sha256_file(path)?,
    };
    for row in Reader::open(path)? {
        match row? {
            Ok(row) => dataset.rows.push(row),
            Err(fault) => dataset.faults.push(fault),
        }
    }
    Ok(dataset)
}

/// Reads one value as a row, by its columns; its line is 0.
///
/// # Errors
/// What is wrong with it, in words.
pub fn row_of(value: Value) -> std::result::Result<Row, String> {
    columns::row(value)
}

#[cfg(test)]
mod tests;
