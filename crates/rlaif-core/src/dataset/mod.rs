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

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use human::{Verdicts, read_verdicts};

use crate::error::Result;
use crate::message::Prompt;
use crate::outcome::Probability;

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

/// Reads a file: `.jsonl`, `.json` (lines, a list, or nested texts), both also `.gz`, or
/// `.parquet`.
///
/// # Errors
/// [`crate::Error::Io`], or [`crate::Error::Format`] where the file as a whole cannot be read.
/// Single rows that cannot be read are in [`Dataset::faults`].
pub fn read(path: &Path) -> Result<Dataset> {
    let (bytes_hash, values) = files::read_values(path)?;
    let mut dataset = Dataset {
        path: path.to_path_buf(),
        rows: Vec::new(),
        faults: Vec::new(),
        sha256: bytes_hash,
    };
    let mut ids = std::collections::HashMap::<String, usize>::new();
    for (line, value) in values {
        match value.and_then(columns::row) {
            Err(message) => dataset.faults.push(RowFault { line, message }),
            Ok(mut row) => {
                row.line = line;
                let seen = ids.entry(row.id.clone()).or_default();
                *seen += 1;
                if *seen > 1 {
                    row.id = format!("{}-{seen}", row.id);
                }
                dataset.rows.push(row);
            }
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
