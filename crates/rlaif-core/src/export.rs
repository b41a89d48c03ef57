//! Rows of other tools, made from preferences and revisions. Only decided rows have two sides;
//! the others are left out and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::message::{Message, Prompt, Role};
use crate::outcome::Outcome;
use crate::record::{Preference, Rater, Revision};
use crate::run::{Atomic, OutputFile, sha256_file};
use crate::seed::{hex, sha256_hex};

/// Whose layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// TRL, explicit preference (`RewardTrainer`, `DPOTrainer`).
    Trl,
    /// OpenRLHF's reward and DPO data, as messages.
    OpenRlhf,
    /// verl: prompts with the chosen answer as ground truth.
    Verl,
    /// distilabel's `FormatTextGenerationDPO`.
    Distilabel,
    /// Every preference record as it is, undecided ones too.
    Jsonl,
}

impl Target {
    /// All of them, by name.
    pub const ALL: [(&'static str, Target); 5] = [
        ("trl", Target::Trl),
        ("openrlhf", Target::OpenRlhf),
        ("verl", Target::Verl),
        ("distilabel", Target::Distilabel),
        ("jsonl", Target::Jsonl),
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Target::ALL
            .iter()
            .find(|(_, t)| *t == self)
            .map_or("jsonl", |(name, _)| name)
    }

    /// The ending that its tool reads.
    #[must_use]
    pub fn ending(self) -> &'static str {
        if self == Target::Verl {
            "parquet"
        } else {
            "jsonl"
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Target::ALL
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, t)| *t)
            .ok_or_else(|| Error::Value {
                expected: "`trl`, `openrlhf`, `verl`, `distilabel` or `jsonl`",
                got: text.to_owned(),
            })
    }
}

/// Rows for another tool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// The rows.
    pub rows: Vec<Value>,
    /// Rows left out, by outcome.
    pub left_out: BTreeMap<String, usize>,
}

fn messages(list: &[Message]) -> Value {
    list.iter()
        .map(|m| json!({"role": m.role.as_str(), "content": m.content}))
        .collect()
}

fn turn(text: &str) -> Value {
    json!([{"role": "assistant", "content": text}])
}

/// Prompts of a single user turn are written as text, so that a base model can train on them;
/// a file with any longer conversation is written as messages throughout, since `datasets` needs
/// one type a column.
fn as_messages<'a>(mut prompts: impl Iterator<Item = &'a Prompt>) -> bool {
    prompts.any(|p| !matches!(p.0.as_slice(), [m] if m.role == Role::User))
}

/// Preferences in a tool's layout.
#[must_use]
pub fn preferences(preferences: &[Preference], target: Target) -> Made {
    let mut made = Made::default();
    if target == Target::Jsonl {
        made.rows = preferences
            .iter()
            .filter_map(|p| serde_json::to_value(p).ok())
            .collect();
        return made;
    }
    let decided = |p: &&Preference| p.chosen.is_some() && p.rejected.is_some();
    let conversational = as_messages(preferences.iter().filter(decided).map(|p| &p.prompt));
    for (index, p) in preferences.iter().enumerate() {
        let (Some(chosen), Some(rejected)) = (&p.chosen, &p.rejected) else {
            *made
                .left_out
                .entry(p.outcome.as_str().to_owned())
                .or_default() += 1;
            continue;
        };
        let p_chosen = p.p_chosen.get();
        made.rows.push(match target {
            Target::Trl if conversational => json!({
                "prompt": messages(&p.prompt.0), "chosen": turn(chosen),
                "rejected": turn(rejected), "p_chosen": p_chosen,
            }),
            Target::Trl => json!({
                "prompt": p.prompt.to_text(), "chosen": chosen, "rejected": rejected,
                "p_chosen": p_chosen,
            }),
            Target::OpenRlhf => json!({
                "prompt": messages(&p.prompt.0), "chosen": turn(chosen),
                "rejected": turn(rejected),
            }),
            Target::Verl => json!({
                "data_source": "rlaif",
                "prompt": messages(&p.prompt.0),
                "ability": "alignment",
                "reward_model": {"style": "rule", "ground_truth": chosen},
                "extra_info": {"split": p.split, "index": index, "id": p.id},
            }),
            _ => distilabel(p, chosen, rejected),
        });
    }
    made
}

fn distilabel(p: &Preference, chosen: &str, rejected: &str) -> Value {
    let with = |answer: &str| {
        let mut turns = p.prompt.0.clone();
        turns.push(Message::assistant(answer));
        messages(&turns)
    };
    let prompt = p.prompt.to_text();
    let judge = match &p.judge {
        Rater::Model(id) => id.to_string(),
        Rater::Human(name) => name.clone(),
    };
    json!({
        "prompt_id": sha256_hex(prompt.as_bytes()),
        "prompt": prompt,
        "chosen": with(chosen),
        "rejected": with(rejected),
        // The models that wrote the answers are not part of a preference; the ratings are the
        // judge's probabilities.
        "chosen_model": Value::Null,
        "chosen_rating": p.p_chosen.get(),
        "rejected_model": Value::Null,
        "rejected_rating": p.p_chosen.complement().get(),
        "judge": judge,
    })
}

/// The last usable revision of each chain as prompt and completion (TRL's prompt-completion).
/// Revisions that changed nothing, repeat the critique or are empty are left out as `flagged`.
#[must_use]
pub fn sft(revisions: &[Revision]) -> Made {
    let mut made = Made::default();
    let mut last: Vec<&Revision> = Vec::new();
    for r in revisions {
        match last.last_mut() {
            Some(known) if known.id == r.id => {
                if r.outcome == Outcome::Decided {
                    *known = r;
                }
            }
            _ => last.push(r),
        }
    }
    let conversational = as_messages(last.iter().map(|r| &r.prompt));
    for r in last {
        if r.outcome != Outcome::Decided || !r.flags.is_empty() {
            let why = if r.outcome == Outcome::Decided {
                "flagged"
            } else {
                r.outcome.as_str()
            };
            *made.left_out.entry(why.to_owned()).or_default() += 1;
        } else if conversational {
            made.rows
                .push(json!({"prompt": messages(&r.prompt.0), "completion": turn(&r.text)}));
        } else {
            made.rows
                .push(json!({"prompt": r.prompt.to_text(), "completion": r.text}));
        }
    }
    made
}

/// How rows are written, by the ending of a file's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Gz,
    Parquet,
}

impl Form {
    fn of(path: &Path) -> Self {
        match ending(path).as_str() {
            "parquet" => Form::Parquet,
            "gz" => Form::Gz,
            _ => Form::Lines,
        }
    }
}

fn ending(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}

/// Refuses the name of a file whose ending promises what is not written here.
///
/// # Errors
/// [`Error::Value`] for an ending such as `.csv`.
pub fn check_ending(path: &Path) -> Result<()> {
    const OTHERS: [&str; 9] = [
        "csv", "tsv", "xls", "xlsx", "arrow", "feather", "zip", "zst", "bz2",
    ];
    if OTHERS.contains(&ending(path).as_str()) {
        return Err(Error::Value {
            expected: "an output that ends in `.jsonl`, `.jsonl.gz` or `.parquet`",
            got: path.display().to_string(),
        });
    }
    Ok(())
}

/// Writes rows one at a time by the output's ending: `.parquet`, `.gz` (JSON lines), anything else
/// JSON lines. The file appears whole or not at all.
///
/// Memory: a buffer; for Parquet a group of rows, with the lines on the disk until their schema is
/// known.
pub struct RowWriter {
    path: PathBuf,
    sink: Sink,
    rows: u64,
}

enum Sink {
    Lines(Atomic, Sha256),
    Gz(Box<flate2::write::GzEncoder<Atomic>>),
    Parquet(Atomic),
}

impl RowWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Self::over(path, Atomic::create(path)?)
    }

    /// Begins a file that is written for as long as a row log is open: killed on the way, it leaves
    /// one temporary file, which the next process with that log takes over.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create_beside(path: &Path, log: &Path) -> Result<Self> {
        let log = std::path::absolute(log).unwrap_or_else(|_| log.to_path_buf());
        let mark = sha256_hex(log.as_os_str().as_encoded_bytes());
        Self::over(path, Atomic::named(path, &mark[..8], "tmp")?)
    }

    fn over(path: &Path, file: Atomic) -> Result<Self> {
        let sink = match Form::of(path) {
            Form::Lines => Sink::Lines(file, Sha256::new()),
            Form::Parquet => Sink::Parquet(file),
            Form::Gz => {
                let level = flate2::Compression::default();
                Sink::Gz(Box::new(flate2::write::GzEncoder::new(file, level)))
            }
        };
        Ok(RowWriter {
            path: path.to_path_buf(),
            sink,
            rows: 0,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, row: &Value) -> Result<()> {
        self.write_lines(&line_of(row))
    }

    /// Adds rows that are JSON lines already, each with its end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_lines(&mut self, lines: &[u8]) -> Result<()> {
        self.rows += lines.iter().filter(|b| **b == b'\n').count() as u64;
        let written = match &mut self.sink {
            Sink::Lines(file, hasher) => {
                hasher.update(lines);
                file.write_all(lines)
            }
            Sink::Gz(file) => file.write_all(lines),
            Sink::Parquet(file) => file.write_all(lines),
        };
        written.map_err(Error::io("write", &self.path))
    }

    /// Rows written so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] where rows do not fit one Parquet schema.
    pub fn finish(self) -> Result<OutputFile> {
        let sha256 = match self.sink {
            Sink::Lines(file, hasher) => {
                file.commit()?;
                hex(&hasher.finalize())
            }
            Sink::Gz(file) => {
                let file = file.finish().map_err(Error::io("write", &self.path))?;
                file.commit()?;
                sha256_file(&self.path)?
            }
            Sink::Parquet(mut lines) => {
                let text = lines.read_back()?;
                write_parquet(&self.path, text)?;
                drop(lines);
                sha256_file(&self.path)?
            }
        };
        Ok(OutputFile {
            sha256,
            rows: self.rows,
        })
    }
}

/// A row as a JSON line.
#[must_use]
pub fn line_of(row: &Value) -> Vec<u8> {
    let mut line = row.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Writes rows as [`RowWriter`] does.
///
/// # Errors
/// As [`RowWriter::finish`].
pub fn write_rows(path: &Path, rows: &[Value]) -> Result<OutputFile> {
    let mut writer = RowWriter::create(path)?;
    for row in rows {
        writer.write(row)?;
    }
    writer.finish()
}

/// Bytes of rows that wait for their group of a Parquet file to be written.
const GROUP_BYTES: usize = 16 * 1024 * 1024;

fn write_parquet(path: &Path, mut lines: File) -> Result<()> {
    let fault = |e: &dyn std::fmt::Display| Error::Format {
        path: path.to_path_buf(),
        problem: format!("cannot be written as Parquet: {e}; write `.jsonl` instead"),
    };
    let (schema, _) = arrow_json::reader::infer_json_schema(BufReader::new(&lines), None)
        .map_err(|e| fault(&e))?;
    lines.rewind().map_err(Error::io("read", path))?;
    let schema = Arc::new(schema);
    let batches = arrow_json::ReaderBuilder::new(schema.clone())
        .build(BufReader::new(&lines))
        .map_err(|e| fault(&e))?;
    // Beside the lines, which have the temporary name of the output itself.
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(Atomic::beside(path, "parquet")?, schema, None)
            .map_err(|e| fault(&e))?;
    for batch in batches {
        writer
            .write(&batch.map_err(|e| fault(&e))?)
            .map_err(|e| fault(&e))?;
        if writer.in_progress_size() > GROUP_BYTES {
            writer.flush().map_err(|e| fault(&e))?;
        }
    }
    writer.into_inner().map_err(|e| fault(&e))?.commit()
}

/// Turns a row that `rlaif judge` wrote back into a preference; `None` for a row of another kind.
#[must_use]
pub fn preference_of_judged_row(row: &Map<String, Value>, prompt: &Prompt) -> Option<Preference> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
    let probability = |name: &str| {
        row.get(name)
            .and_then(Value::as_f64)
            .map_or(crate::Probability::NONE, crate::Probability::new)
    };
    let outcome = serde_json::from_value::<Outcome>(row.get("outcome")?.clone()).ok()?;
    Some(Preference {
        id: text("rlaif_id").or_else(|| text("id")).unwrap_or_default(),
        prompt: prompt.clone(),
        chosen: text("chosen"),
        rejected: text("rejected"),
        p_chosen: probability("p_chosen"),
        p_first: probability("p_first"),
        orders_agree: row.get("orders_agree").and_then(Value::as_bool),
        outcome,
        principle: text("principle"),
        judge: Rater::Model(crate::ModelId::new(text("judge")?)),
        split: crate::seed::Split::of(prompt),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Probability;

    fn preference(prompt: Prompt, decided: bool) -> Preference {
        Preference {
            id: "x".into(),
            split: crate::seed::Split::of(&prompt),
            prompt,
            chosen: decided.then(|| "good".into()),
            rejected: decided.then(|| "bad".into()),
            p_chosen: if decided {
                Probability::new(0.75)
            } else {
                Probability::NONE
            },
            p_first: Probability::new(0.25),
            orders_agree: Some(true),
            outcome: if decided {
                Outcome::Decided
            } else {
                Outcome::Unparseable
            },
            principle: None,
            judge: Rater::Human("ann".into()),
        }
    }

    #[test]
    fn undecided_rows_are_left_out_and_counted() {
        let list = [preference("q".into(), true), preference("q".into(), false)];
        for (name, target) in Target::ALL {
            let made = preferences(&list, target);
            let expected = if target == Target::Jsonl { 2 } else { 1 };
            assert_eq!(made.rows.len(), expected, "{name}");
            assert_eq!(name.parse::<Target>().unwrap(), target);
        }
        let made = preferences(&list, Target::Trl);
        assert_eq!(made.left_out["unparseable"], 1);
        assert_eq!(
            made.rows[0],
            json!({"prompt": "q", "chosen": "good", "rejected": "bad", "p_chosen": 0.75})
        );
    }

    #[test]
    fn one_conversation_makes_all_rows_conversational() {
        let talk = Prompt(vec![Message::system("s"), Message::user("q")]);
        let list = [preference("q".into(), true), preference(talk, true)];
        let made = preferences(&list, Target::Trl);
        assert!(
            made.rows
                .iter()
                .all(|r| r["prompt"].is_array() && r["chosen"].is_array())
        );
        assert_eq!(made.rows[1]["prompt"][0]["role"], "system");
        let made = preferences(&list, Target::Distilabel);
        assert_eq!(made.rows[1]["chosen"][2]["content"], "good");
        assert_eq!(made.rows[0]["rejected_rating"], 0.25);
    }

    #[test]
    fn files_by_their_ending() {
        let folder = tempfile::tempdir().unwrap();
        let rows = preferences(&[preference("q".into(), true)], Target::Verl).rows;
        for name in ["x.jsonl", "x.jsonl.gz", "x.parquet"] {
            let path = folder.path().join(name);
            write_rows(&path, &rows).unwrap();
            let back = crate::dataset::read(&path).unwrap();
            assert_eq!(
                Value::Object(back.rows[0].columns.clone()),
                rows[0],
                "{name}"
            );
        }
    }
}
