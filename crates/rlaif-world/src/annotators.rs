//! Simulated annotators, and what labels cost.

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

/// What a label costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Short name.
    pub name: &'static str,
    /// US dollars a label.
    pub usd: f64,
    /// Where the figure is from.
    pub source: &'static str,
}

/// Named prices of a label.
pub const PRICES: [Price; 5] = [
    Price {
        name: "ai_seed",
        usd: 0.01,
        source: "the order of magnitude that RLAIF is known for: about a cent a label",
    },
    Price {
        name: "ai_lee",
        usd: 0.06,
        source: "Lee et al. 2023, appendix: 830 prompt and 61 generated tokens, twice, at GPT-4's price",
    },
    Price {
        name: "human_dollar",
        usd: 1.0,
        source: "the order of magnitude of expert annotation: a dollar and more a label",
    },
    Price {
        name: "human_lee",
        usd: 0.67,
        source: "Lee et al. 2023, appendix: 304 words at $0.11 for 50",
    },
    Price {
        name: "human_alpaca_farm",
        usd: 0.3,
        source: "Dubois et al. 2023: $300 for 1,000 labels",
    },
];
