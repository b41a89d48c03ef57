//! How a judgment ended, and a probability that may be absent.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an item ended. Only `decided` and `tie` carry a probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A verdict, critique or revision was given.
    Decided,
    /// The two are as good as each other.
    Tie,
    /// The judge declined to choose, as it was allowed to.
    Abstained,
    /// An answer came from which nothing could be read.
    Unparseable,
    /// The model or its provider declined to answer.
    Refused,
    /// The answer was cut off before what was asked for.
    Truncated,
    /// No answer came.
    Failed,
    /// The item was not reached: a budget, or an earlier step that failed.
    NotRun,
}

impl Outcome {
    /// All of them, in the order in which reports count them.
    pub const ALL: [Outcome; 8] = [
        Outcome::Decided,
        Outcome::Tie,
        Outcome::Abstained,
        Outcome::Unparseable,
        Outcome::Refused,
        Outcome::Truncated,
        Outcome::Failed,
        Outcome::NotRun,
    ];

    /// The name in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Decided => "decided",
            Outcome::Tie => "tie",
            Outcome::Abstained => "abstained",
            Outcome::Unparseable => "unparseable",
            Outcome::Refused => "refused",
            Outcome::Truncated => "truncated",
            Outcome::Failed => "failed",
            Outcome::NotRun => "not_run",
        }
    }

    /// True where the item is worth asking again in a later run: nothing was answered.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Outcome::Failed | Outcome::NotRun)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A probability, or nothing: a judgment that failed has none, and never a number in its place.
///
/// It prints as the number (`{:.2}` works) or as `none`, and is `null` in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Probability(Option<f64>);

impl Probability {
    /// No probability.
    pub const NONE: Probability = Probability(None);

    /// A probability; `None` for a value outside [0, 1] or not a number.
    #[must_use]
    pub fn new(p: f64) -> Self {
        Probability((0.0..=1.0).contains(&p).then_some(p))
    }

    /// The number, where there is one.
    #[must_use]
    pub fn get(self) -> Option<f64> {
        self.0
    }

    /// 1 − p: the same judgment with the responses exchanged.
    #[must_use]
    pub fn complement(self) -> Self {
        Probability(self.0.map(|p| 1.0 - p))
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(p) => fmt::Display::fmt(&p, f),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_prints_with_precision_and_absence_is_no_number() {
        assert_eq!(format!("{:.2}", Probability::new(0.756)), "0.76");
        assert_eq!(format!("{:.2}", Probability::NONE), "none");
        assert_eq!(Probability::new(f64::NAN), Probability::NONE);
        assert_eq!(Probability::new(1.5), Probability::NONE);
        assert_eq!(serde_json::to_string(&Probability::NONE).unwrap(), "null");
        assert_eq!(
            serde_json::from_str::<Probability>("0.25").unwrap().get(),
            Some(0.25)
        );
    }
}
