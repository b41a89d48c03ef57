//! preferences: judgments → the two sides of each pair. Asks no model.

use std::collections::BTreeMap;

use rlaif_core::run::{StageKey, sha256_file, write_lines};
use rlaif_core::{Judgment, Outcome, Preference};

use super::round::Round;
use super::{Context, StageReport, read_records, record};
use crate::error::Error;
use crate::rows::Tally;

/// The stage's file.
pub const FILE: &str = "preferences.jsonl";

/// Turns every judgment of a round into a preference.
///
/// # Errors
/// A file that cannot be read or written.
pub fn run(cx: &mut Context<'_>, round: Round) -> Result<StageReport, Error> {
    let (name, file) = (round.name("preferences"), round.name(FILE));
    let left = round.name(super::judge::FILE);
    let judgments: Vec<Judgment> = read_records(&cx.file(&left))?;
    let hash = sha256_file(&cx.file(&left))?;
    let key = StageKey {
        inputs: BTreeMap::from([(left, hash)]),
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
    let unchanged = cx.folder.is_current(&name, &key);
    if !unchanged {
        let preferences: Vec<Preference> = judgments.iter().map(Preference::from).collect();
        let written = write_lines(&cx.file(&file), &preferences)?;
        let outputs = BTreeMap::from([(file, written)]);
        record(cx.folder, &name, key, outputs, &tally, None)?;
    }
    Ok(StageReport {
        stage: name,
        unchanged,
        tally,
    })
}
