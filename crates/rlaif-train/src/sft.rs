//! Supervised fine-tuning: mean negative log-likelihood of the completion's tokens.
//!
//! L = −(1/N) Σ log p(yₜ | x, y₍<t₎), N = completion tokens of the *whole* step, so that gradient
//! accumulation over unequal micro-batches changes nothing.

use serde::{Deserialize, Serialize};

use crate::fit::Objective;
use crate::waist::{Loss, Row, TokenBatch, TokenGrads, TokenOutputs};

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SftMetrics {
    /// Completion tokens.
    pub tokens: f64,
}

/// The objective; an example is one row.
#[derive(Clone, Debug, Default)]
pub struct Sft;

impl Objective for Sft {
    type Example = Row;
    type Metrics = SftMetrics;

    fn rows<'a>(&self, example: &'a Row) -> Vec<&'a Row> {
        vec![example]
    }

    fn weight(&self, example: &Row) -> f64 {
        example.wanted.iter().filter(|w| **w).count() as f64
    }

    fn loss(&self, _: &[&Row], b: &TokenBatch, out: &TokenOutputs, total: f64) -> Loss<SftMetrics> {
        let mut sum = 0.0;
        let mut tokens = 0.0;
        let grad = (-1.0 / total) as f32;
        let logprobs = b
            .wanted
            .iter()
            .zip(&out.logprobs)
            .map(|(wanted, lp)| {
                if *wanted {
                    sum += f64::from(*lp);
                    tokens += 1.0;
                    grad
                } else {
                    0.0
                }
            })
            .collect();
        Loss {
            value: (-sum / total) as f32,
            grads: TokenGrads {
                logprobs,
                ..TokenGrads::default()
            },
            metrics: SftMetrics { tokens },
        }
    }

    fn add(&self, into: &mut SftMetrics, part: &SftMetrics) {
        into.tokens += part.tokens;
    }
}
