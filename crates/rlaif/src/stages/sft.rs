//! sft: final revisions and helpful samples → the policy that starts reinforcement learning (Bai et
//! al. 2022, §3).
//!
//! A chain's final revision stands as the answer to its prompt; critique and original are left
//! out. Helpful samples keep the policy from learning caution alone: originals that the critic
//! approved, or rows of the user's own file.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_core::dataset::{self, Row};
use rlaif_core::record::RevisionFlag;
use rlaif_core::run::{sha256_file, write_lines};
use rlaif_core::{Critique, Outcome, Prompt, Revision, seed};
use serde::Serialize;

use super::training::{Training, dataset as made, row};
use super::{Context, StageReport, read_records};
use crate::error::Error;
use crate::train::{self, SftConfig, settings};

/// The rows trained on.
pub const FILE: &str = "sft.jsonl";

/// From this grade of 10 on a critic approves a response as a whole.
const GOOD_QUALITY: u8 = 7;
/// From this grade of 5 on a critic approves a response under a principle.
const GOOD_GRADE: u8 = 4;

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    prompt: &'a Prompt,
    completion: &'a str,
    source: &'static str,
}

/// The final revision of each chain: its last that came and is neither empty nor the critique again.
fn finals(revisions: &[Revision]) -> Vec<&Revision> {
    let mut last: BTreeMap<&str, &Revision> = BTreeMap::new();
    let mut order = Vec::new();
    for r in revisions {
        let spoiled = r
            .flags
            .iter()
            .any(|f| matches!(f, RevisionFlag::Empty | RevisionFlag::RepeatsCritique));
        if r.outcome == Outcome::Decided && !spoiled && last.insert(&r.id, r).is_none() {
            order.push(r.id.as_str());
        }
    }
    order.iter().map(|id| last[id]).collect()
}

/// Originals in which the critic found nothing to mend: good grades where it gave any, else a
/// first revision that left the words as they were.
fn approved<'a>(critiques: &'a [Critique], revisions: &[Revision]) -> Vec<&'a Critique> {
    let kept: BTreeSet<&str> = revisions
        .iter()
        .filter(|r| r.step == 0 && r.flags.contains(&RevisionFlag::Unchanged))
        .map(|r| r.id.as_str())
        .collect();
    let good = |c: &&Critique| {
        let grades: Vec<u8> = c.adherence.iter().filter_map(|a| a.grade).collect();
        let graded = c.quality.is_some() || !grades.is_empty();
        if graded {
            c.quality.is_none_or(|q| q >= GOOD_QUALITY) && grades.iter().all(|g| *g >= GOOD_GRADE)
        } else {
            kept.contains(c.id.as_str())
        }
    };
    critiques
        .iter()
        .filter(|c| c.step == 0 && c.outcome == Outcome::Decided)
        .filter(good)
        .collect()
}

/// Helpful rows among `revised` others, for a share of the whole.
fn helpful_rows(revised: usize, share: f64) -> usize {
    (revised as f64 * share / (1.0 - share)).round() as usize
}

/// Fine-tunes the policy.
///
/// # Errors
/// As [`train::sft`].
pub fn run(cx: &mut Context<'_>, config: &SftConfig) -> Result<StageReport, Error> {
    let left = cx.file(super::revise::FILE);
    let mut inputs = BTreeMap::from([(super::revise::FILE.to_owned(), sha256_file(&left)?)]);
    let revisions: Vec<Revision> = read_records(&left)?;
    let mut rows: Vec<(Row, &'static str)> = finals(&revisions)
        .into_iter()
        .map(|r| {
            (
                row(r.id.clone(), 0, r.prompt.clone(), r.text.clone()),
                "revision",
            )
        })
        .collect();
    let mut pool: Vec<Row> = match &config.helpful_file {
        Some(path) => {
            let read = dataset::read(path)?;
            inputs.insert("helpful_file".into(), read.sha256);
            let answered = read.rows.into_iter().filter(|r| !r.completions.is_empty());
            answered.collect()
        }
        None => {
            let path = cx.file(super::critique::FILE);
            inputs.insert(super::critique::FILE.into(), sha256_file(&path)?);
            let critiques: Vec<Critique> = read_records(&path)?;
            approved(&critiques, &revisions)
                .into_iter()
                .map(|c| row(c.id.clone(), 0, c.prompt.clone(), c.response.clone()))
                .collect()
        }
    };
    let run_seed = cx.recipe.seed;
    pool.sort_by_cached_key(|r| seed::derive(run_seed, &["sft", "helpful", &r.id]));
    let wanted = helpful_rows(rows.len(), config.helpful_share);
    if pool.len() < wanted {
        cx.progress.note(&format!(
            "{} helpful samples instead of {wanted}: there are no more",
            pool.len()
        ));
    }
    pool.truncate(wanted);
    rows.extend(pool.into_iter().map(|r| (r, "helpful")));
    let lines: Vec<Line<'_>> = rows
        .iter()
        .map(|(r, source)| Line {
            id: &r.id,
            prompt: &r.prompt,
            completion: &r.completions[0],
            source,
        })
        .collect();
    let path = cx.file(FILE);
    let written = write_lines(&path, &lines)?;
    let rows = rows
        .into_iter()
        .enumerate()
        .map(|(i, (row, _))| Row { line: i + 1, ..row })
        .collect();
    let data = made(path, rows, written.sha256.clone());
    let stage = Training {
        verb: "sft",
        name: "sft".into(),
        base: &config.base,
        inputs,
        config: settings(config),
        beside: vec![(FILE.to_owned(), written)],
        files: &[],
    };
    stage.run(cx, |at| Ok(train::sft(config, &data, at)?.steps))
}
