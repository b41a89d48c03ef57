//! From a file's bytes to JSON values with their lines.

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::seed::sha256_hex;

/// A value with its line, or what is wrong with that line.
pub(super) type Line = (usize, std::result::Result<Value, String>);

pub(super) fn read_values(path: &Path) -> Result<(String, Vec<Line>)> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let hash = sha256_hex(&bytes);
    let fault = |problem: String| Error::Format {
        path: path.to_path_buf(),
        problem,
    };
    if bytes.starts_with(b"PAR1") {
        return Ok((hash, parquet_rows(path).map_err(fault)?));
    }
    let text = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = Vec::new();
        MultiGzDecoder::new(bytes.as_slice())
            .read_to_end(&mut text)
            .map_err(|e| fault(format!("is damaged gzip: {e}")))?;
        text
    } else {
        bytes
    };
    let text = String::from_utf8(text).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        fault(format!(
            "line {line} is not UTF-8; expected JSONL, JSON, Parquet, or these as .gz"
        ))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // One document that spans lines (a list, or nested texts), else a value a line.
    let first = text.trim_start().chars().next();
    let whole = match first {
        Some('[' | '{') => serde_json::from_str::<Value>(text).ok(),
        _ => None,
    };
    let lines = match whole {
        Some(Value::Array(values)) => values
            .into_iter()
            .enumerate()
            .map(|(i, v)| (i + 1, Ok(v)))
            .collect(),
        Some(value) => match nested_texts(&value) {
            Some(texts) => texts
                .into_iter()
                .enumerate()
                .map(|(i, t)| (i + 1, Ok(Value::String(t))))
                .collect(),
            None => vec![(1, Ok(value))],
        },
        None => text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(i, line)| {
                let value = serde_json::from_str(line)
                    .map_err(|e| format!("not JSON: {e} (column {})", e.column()));
                (i + 1, value)
            })
            .collect(),
    };
    Ok((hash, lines))
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

fn parquet_rows(path: &Path) -> std::result::Result<Vec<Line>, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("is no Parquet file that can be read: {e}");
    let file = fs::File::open(path).map_err(|e| wrong(&e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.build())
        .map_err(|e| wrong(&e))?;
    let mut lines = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| wrong(&e))?;
        let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
        writer
            .write(&batch)
            .and_then(|()| writer.finish())
            .map_err(|e| wrong(&e))?;
        for line in writer
            .into_inner()
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
        {
            let value = serde_json::from_slice(line).map_err(|e| e.to_string());
            lines.push((lines.len() + 1, value));
        }
    }
    Ok(lines)
}
