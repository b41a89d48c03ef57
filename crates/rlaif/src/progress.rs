//! What a run tells whoever watches it. The library prints nothing; the binary draws bars.

use rlaif_core::{Judgment, Outcome};

/// A listener to a run. Methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A stage begins with `total` rows, `done` of which are finished already.
    fn start(&self, stage: &str, total: usize, done: usize);
    /// A row ended.
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
    fn start(&self, _: &str, _: usize, _: usize) {}
    fn row(&self, _: Outcome) {}
    fn finish(&self, _: &str) {}
    fn note(&self, _: &str) {}
}
