//! Simulated annotators.

use crate::dimension::Dimension;
use crate::oracle::Scores;
use crate::rng::Rng;

/// How many there are, as in AlpacaFarm's pool (Dubois et al. 2023).
pub const ANNOTATORS: usize = 13;

/// Share of labels that are turned round, as AlpacaFarm does to imitate disagreement between
/// people and with themselves.
const FLIPS: f64 = 0.25;

/// How far preferences differ: standard deviation of the logarithm of each weight.
const SPREAD: f64 = 0.5;

/// One simulated person: the constitution's weights as this person sees them, and a label that is
/// turned round now and then.
#[derive(Clone, Debug)]
pub struct Annotator {
    /// From 0.
    pub id: usize,
    weights: Vec<(Dimension, f64)>,
}

impl Annotator {
    /// The pool for a constitution's weights; the same seed gives the same people.
    #[must_use]
    pub fn pool(weights: &[(Dimension, f64)], seed: u64) -> Vec<Annotator> {
        (0..ANNOTATORS)
            .map(|id| {
                let mut rng = Rng::of(seed, &["annotator", &id.to_string()]);
                Annotator {
                    id,
                    weights: weights
                        .iter()
                        .map(|(d, w)| (*d, w * (SPREAD * rng.normal()).exp()))
                        .collect(),
                }
            })
            .collect()
    }

    /// Whether this person says that the first of two answers is better. There is no "equal":
    /// where a person sees no difference, the label is a coin.
    #[must_use]
    pub fn prefers_first(&self, a: &Scores, b: &Scores, seed: u64, item: &str) -> bool {
        let mut rng = Rng::of(seed, &["label", &self.id.to_string(), item]);
        let first = match crate::oracle::prefers(a.utility(&self.weights), b.utility(&self.weights))
        {
            Some(first) => first,
            None => rng.chance(0.5),
        };
        first != rng.chance(FLIPS)
    }
}
