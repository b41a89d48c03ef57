//! What a run tells whoever watches it. The library prints nothing; the binary draws bars.

use rlaif_core::{Judgment, Outcome};

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Rows of its output.
    Rows,
    /// Steps of an optimizer.
    Steps,
    /// Rounds of sampling and learning.
    Iterations,
}

impl Unit {
    /// Several of them, in words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Rows => "rows",
            Unit::Steps => "steps",
            Unit::Iterations => "iterations",
        }
    }
}

/// A listener to a run. Methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A stage begins with `total` of a unit, `done` of which are finished already.
    fn start(&self, stage: &str, unit: Unit, total: usize, done: usize);
    /// A row, step or iteration ended.
    fn row(&self, outcome: Outcome);
    /// A row that ended is a judgment.
    fn judged(&self, _: &Judgment) {}
    /// The stage ended.
    fn finish(&self, stage: &str);
    /// Something worth knowing, once.
    fn note(&self, text: &str);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: Unit, _: usize, _: usize) {}
    fn row(&self, _: Outcome) {}
    fn finish(&self, _: &str) {}
    fn note(&self, _: &str) {}
}
