//! export: preferences and revisions → files that other tools read.

use std::path::{Path, PathBuf};

use rlaif_core::export::{self, Target};
use rlaif_core::{Preference, Revision};

use super::{Context, read_records};
use crate::error::Error;

/// One file written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Exported {
    /// Which.
    pub path: PathBuf,
    /// Rows in it.
    pub rows: usize,
    /// Rows left out, by outcome: they have no chosen side.
    pub left_out: std::collections::BTreeMap<String, usize>,
}

/// Writes what the recipe asks for, of what the run has come to.
///
/// # Errors
/// A file that cannot be read or written.
pub fn run(cx: &Context<'_>) -> Result<Vec<Exported>, Error> {
    let mut done = Vec::new();
    let Some(config) = &cx.recipe.export else {
        return Ok(done);
    };
    let (run, folder) = (cx.folder.path(), cx.file("export"));
    if run.join(super::preferences::FILE).is_file() {
        for name in &config.to {
            let target: Target = name.parse()?;
            let out = folder.join(format!("{name}.{}", target.ending()));
            done.push(preferences(run, target, &out)?);
        }
    }
    done.extend(revisions(run, &folder.join("sft.jsonl"))?);
    Ok(done)
}

/// Writes the preferences of a run folder for another tool.
///
/// # Errors
/// A file that cannot be read or written.
pub fn preferences(run: &Path, target: Target, out: &Path) -> Result<Exported, Error> {
    let preferences: Vec<Preference> = read_records(&run.join(super::preferences::FILE))?;
    let made = export::preferences(&preferences, target);
    export::write_rows(out, &made.rows)?;
    Ok(Exported {
        path: out.to_path_buf(),
        rows: made.rows.len(),
        left_out: made.left_out,
    })
}

/// Writes the revisions of a run folder as prompt and completion for supervised fine-tuning;
/// nothing where the run has none.
///
/// # Errors
/// A file that cannot be read or written.
pub fn revisions(run: &Path, out: &Path) -> Result<Option<Exported>, Error> {
    let path = run.join(super::revise::FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let revisions: Vec<Revision> = read_records(&path)?;
    let made = export::sft(&revisions);
    export::write_rows(out, &made.rows)?;
    Ok(Some(Exported {
        path: out.to_path_buf(),
        rows: made.rows.len(),
        left_out: made.left_out,
    }))
}
