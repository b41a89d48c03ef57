//! Direct preference optimization (Rafailov et al. 2023) and its variants.
//!
//! h = [log π(y_c) − log π_ref(y_c)] − [log π(y_r) − log π_ref(y_r)], sums over the completions' tokens.
//! Sigmoid: L = −[p log σ(βh) + (1 − p) log σ(−βh)], p the soft label (TRL's `label_smoothing` ε is
//! p = 1 − ε). Robust (Chowdhury et al. 2024): L = [−p log σ(βh) + (1 − p) log σ(−βh)] / (2p − 1).
//! IPO (Azar et al. 2023): L = (h − 1/(2β))², h not averaged over length. Mean over pairs.

use serde::{Deserialize, Serialize};

use crate::fit::Objective;
use crate::waist::{Loss, Row, TokenBatch, TokenGrads, TokenOutputs, log_sigmoid, sigmoid};

/// Which loss, under TRL's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Cross-entropy against the (soft) label.
    #[default]
    Sigmoid,
    /// Unbiased under labels flipped with probability 1 − p.
    Robust,
    /// Squared distance to 1/(2β).
    Ipo,
}

/// A labeled pair and the reference's log-probabilities of its completions.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The response given first; chosen where p = 1.
    pub chosen: Row,
    /// The other.
    pub rejected: Row,
    /// P(first better), in [0, 1].
    pub p: f32,
    /// log π_ref of the two completions.
    pub reference: (f32, f32),
}

/// What to watch; sums over pairs, TRL's names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DpoMetrics {
    /// Pairs.
    pub pairs: f64,
    /// β (log π − log π_ref) of the preferred responses.
    pub rewards_chosen: f64,
    /// Likewise of the others.
    pub rewards_rejected: f64,
    /// Pairs with a label other than ½.
    pub decided: f64,
    /// Decided pairs whose implicit rewards agree with the label.
    pub correct: f64,
}

/// The objective; an example is a pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpo {
    /// Strength of the pull to the reference.
    pub beta: f32,
    /// Which loss.
    pub loss_type: LossType,
}

impl Default for Dpo {
    fn default() -> Self {
        Dpo {
            beta: 0.1,
            loss_type: LossType::Sigmoid,
        }
    }
}

impl Objective for Dpo {
    type Example = Pair;
    type Metrics = DpoMetrics;

    fn rows<'a>(&self, e: &'a Pair) -> Vec<&'a Row> {
        vec![&e.chosen, &e.rejected]
    }

    fn weight(&self, _: &Pair) -> f64 {
        1.0
    }

    fn loss(
        &self,
        examples: &[&Pair],
        b: &TokenBatch,
        out: &TokenOutputs,
        total: f64,
    ) -> Loss<DpoMetrics> {
        let mut logprobs = vec![0.0; b.tokens.len()];
        let mut m = DpoMetrics::default();
        let mut sum = 0.0;
        let beta = self.beta;
        for (i, e) in examples.iter().enumerate() {
            let first = b.sum(2 * i, &out.logprobs) - e.reference.0;
            let second = b.sum(2 * i + 1, &out.logprobs) - e.reference.1;
            let h = first - second;
            let (x, p) = (beta * h, e.p);
            let (value, dh) = match self.loss_type {
                LossType::Sigmoid => (
                    -(p * log_sigmoid(x) + (1.0 - p) * log_sigmoid(-x)),
                    beta * (sigmoid(x) - p),
                ),
                LossType::Robust => {
                    let scale = 1.0 / (2.0 * p - 1.0);
                    (
                        scale * (-p * log_sigmoid(x) + (1.0 - p) * log_sigmoid(-x)),
                        -scale * beta * (p * sigmoid(-x) + (1.0 - p) * sigmoid(x)),
                    )
                }
                LossType::Ipo => {
                    let off = h - 1.0 / (2.0 * beta);
                    (off * off, 2.0 * off)
                }
            };
            sum += f64::from(value);
            let dh = dh / total as f32;
            for (row, sign) in [(2 * i, 1.0), (2 * i + 1, -1.0)] {
                for t in b.row(row).filter(|t| b.wanted[*t]) {
                    logprobs[t] = sign * dh;
                }
            }
            let (better, worse) = if p >= 0.5 {
                (first, second)
            } else {
                (second, first)
            };
            m.pairs += 1.0;
            m.rewards_chosen += f64::from(beta * better);
            m.rewards_rejected += f64::from(beta * worse);
            if p != 0.5 {
                m.decided += 1.0;
                m.correct += if better == worse {
                    0.5
                } else {
                    f64::from(u8::from(better > worse))
                };
            }
        }
        Loss {
            value: (sum / total) as f32,
            grads: TokenGrads {
                logprobs,
                ..TokenGrads::default()
            },
            metrics: m,
        }
    }

    fn add(&self, into: &mut DpoMetrics, part: &DpoMetrics) {
        into.pairs += part.pairs;
        into.rewards_chosen += part.rewards_chosen;
        into.rewards_rejected += part.rewards_rejected;
        into.decided += part.decided;
        into.correct += part.correct;
    }
}
