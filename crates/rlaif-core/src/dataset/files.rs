//! From a file's bytes to JSON values with their lines, one at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use crate::error::{Error, Result};

/// A value with its line, or what is wrong with that line.
pub(super) type Line = (usize, std::result::Result<Value, String>);

/// The values of a file in their order. Memory: a line, a batch of a Parquet file's rows, or all of
/// a JSON document that is not one line a value.
pub(super) struct Values {
    path: PathBuf,
    kind: Kind,
    /// Bytes of the file that were read.
    read: Arc<AtomicU64>,
    bytes: u64,
}

enum Kind {
    Lines {
        text: Box<dyn BufRead + Send>,
        line: Vec<u8>,
        number: usize,
        found: bool,
    },
    Document(std::iter::Enumerate<std::vec::IntoIter<Value>>),
    Parquet {
        batches: ParquetRecordBatchReader,
        ready: VecDeque<std::result::Result<Value, String>>,
        number: usize,
        rows: usize,
    },
}

/// Counts what is read of a file.
struct Counted(File, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

const BOM: &[u8] = "\u{feff}".as_bytes();

/// The text of a file, unpacked, without a byte-order mark.
fn text(path: &Path, is_gz: bool, read: &Arc<AtomicU64>) -> Result<Box<dyn BufRead + Send>> {
    read.store(0, Ordering::Relaxed);
    let file = File::open(path).map_err(Error::io("read", path))?;
    let packed = BufReader::with_capacity(1 << 16, Counted(file, Arc::clone(read)));
    let mut text: Box<dyn BufRead + Send> = match is_gz {
        true => Box::new(BufReader::new(MultiGzDecoder::new(packed))),
        false => Box::new(packed),
    };
    let begins = text.fill_buf().map_err(|e| unreadable(path, is_gz, e))?;
    let skip = if begins.starts_with(BOM) {
        BOM.len()
    } else {
        0
    };
    text.consume(skip);
    Ok(text)
}

fn unreadable(path: &Path, is_gz: bool, error: std::io::Error) -> Error {
    match is_gz {
        true => Error::Format {
            path: path.to_path_buf(),
            problem: format!("is damaged gzip: {error}"),
        },
        false => Error::io("read", path)(error),
    }
}

/// The first character that is no white space.
fn first(text: &mut dyn BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = text.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        if let Some(byte) = buffer.iter().find(|b| !b.is_ascii_whitespace()) {
            return Ok(Some(*byte));
        }
        let n = buffer.len();
        text.consume(n);
    }
}

impl Values {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let bytes = file.metadata().map_or(0, |m| m.len());
        let mut magic = Vec::new();
        Read::by_ref(&mut file)
            .take(4)
            .read_to_end(&mut magic)
            .map_err(Error::io("read", path))?;
        let read = Arc::new(AtomicU64::new(0));
        let kind = if magic == b"PAR1" {
            parquet(path)?
        } else {
            let is_gz = magic.starts_with(&[0x1f, 0x8b]);
            lines_or_document(path, is_gz, &read)?
        };
        Ok(Values {
            path: path.to_path_buf(),
            kind,
            read,
            bytes,
        })
    }

    /// Share of the file that was read, in [0, 1].
    pub(super) fn share(&self) -> f64 {
        match &self.kind {
            Kind::Lines { .. } => {
                self.read.load(Ordering::Relaxed) as f64 / self.bytes.max(1) as f64
            }
            Kind::Document(_) => 1.0,
            Kind::Parquet { number, rows, .. } => *number as f64 / (*rows).max(1) as f64,
        }
    }
}

/// One document that spans lines (a list, or nested texts), else a value a line.
fn lines_or_document(path: &Path, is_gz: bool, read: &Arc<AtomicU64>) -> Result<Kind> {
    let io = |e| unreadable(path, is_gz, e);
    let mut begin = text(path, is_gz, read)?;
    if let Some(b'[' | b'{') = first(&mut *begin).map_err(io)? {
        // Of a file with a value a line this reads the first and finds another behind it.
        match serde_json::from_reader::<_, Value>(begin) {
            Ok(value) => return Ok(Kind::Document(document(value).into_iter().enumerate())),
            Err(e) if e.is_io() => return Err(io(e.into())),
            Err(_) => {}
        }
    }
    Ok(Kind::Lines {
        text: text(path, is_gz, read)?,
        line: Vec::new(),
        number: 0,
        found: false,
    })
}

fn document(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        value => match nested_texts(&value) {
            Some(texts) => texts.into_iter().map(Value::String).collect(),
            None => vec![value],
        },
    }
}

impl Iterator for Values {
    type Item = Result<Line>;

    fn next(&mut self) -> Option<Result<Line>> {
        match &mut self.kind {
            Kind::Document(values) => values.next().map(|(i, value)| Ok((i + 1, Ok(value)))),
            Kind::Lines {
                text,
                line,
                number,
                found,
            } => loop {
                line.clear();
                match text.read_until(b'\n', line) {
                    Ok(0) => return None,
                    Ok(_) => *number += 1,
                    Err(e) => return Some(Err(unreadable(&self.path, true, e))),
                }
                let words = match std::str::from_utf8(line) {
                    Ok(words) => words.trim(),
                    Err(_) if *found => return Some(Ok((*number, Err("not UTF-8".into())))),
                    Err(_) => {
                        return Some(Err(Error::Format {
                            path: self.path.clone(),
                            problem: format!(
                                "line {number} is not UTF-8; expected JSONL, JSON, Parquet, or \
                                 these as .gz"
                            ),
                        }));
                    }
                };
                if words.is_empty() {
                    continue;
                }
                let value = serde_json::from_str(words)
                    .map_err(|e| format!("not JSON: {e} (column {})", e.column()));
                *found |= value.is_ok();
                return Some(Ok((*number, value)));
            },
            Kind::Parquet {
                batches,
                ready,
                number,
                ..
            } => loop {
                if let Some(value) = ready.pop_front() {
                    *number += 1;
                    return Some(Ok((*number, value)));
                }
                match batches
                    .next()?
                    .map_err(|e| e.to_string())
                    .and_then(|b| rows_of(&b))
                {
                    Ok(values) => ready.extend(values),
                    Err(e) => return Some(Err(no_parquet(&self.path, &e))),
                }
            },
        }
    }
}

/// Texts of a document that is nothing but texts in lists in objects, as topic → questions.
fn nested_texts(value: &Value) -> Option<Vec<String>> {
    fn collect(value: &Value, into: &mut Vec<String>) -> bool {
        match value {
            Value::String(text) => {
                into.push(text.clone());
                true
            }
            Value::Array(items) => items.iter().all(|v| collect(v, into)),
            // Texts directly in an object are columns of a row, not questions.
            Value::Object(map) => map.values().all(|v| !v.is_string() && collect(v, into)),
            _ => false,
        }
    }
    let mut texts = Vec::new();
    (collect(value, &mut texts) && !texts.is_empty()).then_some(texts)
}

fn no_parquet(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        problem: format!("is no Parquet file that can be read: {e}"),
    }
}

fn parquet(path: &Path) -> Result<Kind> {
    let file = File::open(path).map_err(|e| no_parquet(path, &e))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| no_parquet(path, &e))?;
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    Ok(Kind::Parquet {
        batches: builder.build().map_err(|e| no_parquet(path, &e))?,
        ready: VecDeque::new(),
        number: 0,
        rows,
    })
}

fn rows_of(
    batch: &arrow_array::RecordBatch,
) -> std::result::Result<Vec<std::result::Result<Value, String>>, String> {
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    writer
        .write(batch)
        .and_then(|()| writer.finish())
        .map_err(|e| e.to_string())?;
    let lines = writer.into_inner();
    let lines = lines.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let value = |line| serde_json::from_slice(line).map_err(|e| e.to_string());
    Ok(lines.map(value).collect())
}
