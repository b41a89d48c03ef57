//! preferences: judgments → the two sides of each pair. Asks no model.

use std::collections::BTreeMap;

use rlaif_core::run::{StageKey, sha256_file, write_lines};
use rlaif_core::{Judgment, Outcome, Preference};

use super::{Context, StageReport, read_records, record};
use crate::error::Error;
use crate::rows::Tally;

/// The stage's file.
pub const FILE: &str = "preferences.jsonl";

/// Turns every judgment into a preference.
///
/// # Errors
/// A file that cannot be read or written.
pub fn run(cx: &mut Context<'_>) -> Result<StageReport, Error> {
    let left = cx.file(super::judge::FILE);
    let judgments: Vec<Judgment> = read_records(&left)?;
    let key = StageKey {
        inputs: BTreeMap::from([(super::judge::FILE.to_owned(), sha256_file(&left)?)]),
        config: String::new(),
        seed: cx.recipe.seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut tally = Tally {
        rows: judgments.len(),
        ..Tally::default()
    };
    for outcome in Outcome::ALL {
        let n = judgments.iter().filter(|j| j.outcome == outcome).count();
        tally.outcomes.insert(outcome.as_str(), n);
    }
    let unchanged = cx.folder.is_current("preferences", &key);
    if !unchanged {
        let preferences: Vec<Preference> = judgments.iter().map(Preference::from).collect();
        let written = write_lines(&cx.file(FILE), &preferences)?;
        let outputs = BTreeMap::from([(FILE.to_owned(), written)]);
        record(cx.folder, "preferences", key, outputs, &tally, None)?;
    }
    Ok(StageReport {
        stage: "preferences".into(),
        unchanged,
        tally,
    })
}
