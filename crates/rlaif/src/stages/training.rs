//! What the stages that train have in common: skipped where nothing changed, their folder's files
//! in the manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_core::dataset::{Dataset, Row};
use rlaif_core::run::{OutputFile, StageKey, sha256_file};
use rlaif_core::{Outcome, Preference, Probability, seed};
use serde_json::Map;

use super::round::Round;
use super::{Context, StageReport, read_records, record, unchanged};
use crate::error::Error;
use crate::rows::Tally;
use crate::train::{At, LOG, MARK, Other, discard_checkpoint};

/// A stage that trains: a folder of its name in the run folder holds the model.
pub(super) struct Training<'a> {
    /// Its verb.
    pub verb: &'static str,
    /// Its name, and that of its folder.
    pub name: String,
    /// The model to start from, by its name in the recipe.
    pub base: &'a str,
    /// Files to its left and other inputs, by name with a hash.
    pub inputs: BTreeMap<String, String>,
    /// Its settings as text.
    pub config: String,
    /// Files beside the model that it writes, in the run folder.
    pub beside: Vec<(String, OutputFile)>,
    /// Further files of its folder that belong into the manifest; [`MARK`] keeps the checkpoint.
    pub files: &'static [&'static str],
}

impl Training<'_> {
    /// Trains unless nothing has changed; `train` returns the number of steps.
    pub(super) fn run(
        mut self,
        cx: &mut Context<'_>,
        train: impl FnOnce(&At<'_>) -> Result<u64, Error>,
    ) -> Result<StageReport, Error> {
        let base = cx.model_folder(self.base)?;
        self.inputs
            .insert(self.base.to_owned(), cx.local.fingerprint(&base)?);
        let key = StageKey {
            inputs: self.inputs,
            config: seed::sha256_hex(self.config.as_bytes()),
            seed: cx.recipe.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if let Some(report) = unchanged(cx.folder, &self.name, &key) {
            return Ok(report);
        }
        let out = cx.file(&self.name);
        cx.local.close();
        let steps = train(&At {
            base: &base,
            out: &out,
            other: Other::Replace,
            merge: true,
            seed: seed::derive(cx.recipe.seed, &[self.verb]),
            progress: cx.progress,
            stop: cx.stop,
        })?;
        cx.local.forget(&out);
        let mut outputs: BTreeMap<String, OutputFile> = self.beside.into_iter().collect();
        let own = ["model.safetensors", "config.json", LOG];
        for name in own.iter().chain(self.files) {
            outputs.insert(format!("{}/{name}", self.name), written(&out.join(name))?);
        }
        let mut tally = Tally {
            rows: steps as usize,
            ..Tally::default()
        };
        for outcome in Outcome::ALL {
            tally.outcomes.insert(outcome.as_str(), 0);
        }
        tally
            .outcomes
            .insert(Outcome::Decided.as_str(), steps as usize);
        record(cx.folder, &self.name, key, outputs, &tally, None)?;
        if !self.files.contains(&MARK) {
            discard_checkpoint(&out)?;
        }
        Ok(StageReport {
            stage: self.name,
            unchanged: false,
            tally,
        })
    }
}

fn written(path: &Path) -> Result<OutputFile, Error> {
    let rows = if path.extension().is_some_and(|e| e == "jsonl") {
        let text = std::fs::read(path).map_err(rlaif_core::Error::io("read", path))?;
        text.iter().filter(|b| **b == b'\n').count() as u64
    } else {
        0
    };
    Ok(OutputFile {
        sha256: sha256_file(path)?,
        rows,
    })
}

/// A round's preferences as rows to train on: two completions, the chosen one first.
pub(super) fn preferences(cx: &Context<'_>, round: Round) -> Result<Dataset, Error> {
    let path = cx.file(&round.name(super::preferences::FILE));
    let sha256 = sha256_file(&path)?;
    let records: Vec<Preference> = read_records(&path)?;
    let rows = records
        .into_iter()
        .enumerate()
        .map(|(i, p)| Row {
            id: p.id,
            line: i + 1,
            prompt: p.prompt,
            label: p.p_chosen,
            completions: p.chosen.into_iter().chain(p.rejected).collect(),
            columns: Map::new(),
        })
        .collect();
    Ok(dataset(path, rows, sha256))
}

/// Rows that were made here rather than read.
pub(super) fn dataset(path: PathBuf, rows: Vec<Row>, sha256: String) -> Dataset {
    Dataset {
        path,
        rows,
        faults: Vec::new(),
        sha256,
    }
}

/// A row without a label.
pub(super) fn row(id: String, line: usize, prompt: rlaif_core::Prompt, completion: String) -> Row {
    Row {
        id,
        line,
        prompt,
        completions: vec![completion],
        label: Probability::NONE,
        columns: Map::new(),
    }
}
