//! Reward modeling on soft labels (Bradley and Terry 1952; Bai et al. 2022, section 4.2).
//!
//! L = −[p log σ(Δ) + (1 − p) log σ(−Δ)] + c (r_c + r_r)², Δ = r_c − r_r − m; r is the scalar head's
//! output at a row's last token, p the label P(first better), m TRL's `margin`, c its
//! `center_rewards_coefficient`. Mean over pairs.

use serde::{Deserialize, Serialize};

use crate::fit::Objective;
use crate::waist::{Loss, Row, TokenBatch, TokenGrads, TokenOutputs, log_sigmoid, sigmoid};

/// A labeled pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The response given first; chosen where p = 1.
    pub chosen: Row,
    /// The other.
    pub rejected: Row,
    /// P(first better), in [0, 1].
    pub p: f32,
    /// Subtracted from the difference of rewards.
    pub margin: f32,
}

/// What to watch; sums over pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RewardMetrics {
    /// Pairs.
    pub pairs: f64,
    /// Pairs whose label is not ½.
    pub decided: f64,
    /// Decided pairs that the rewards order as the label does (equal rewards count half).
    pub correct: f64,
    /// Sum of Δ.
    pub margin: f64,
    /// Sum of all rewards.
    pub reward: f64,
}

/// The objective; an example is a pair.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BradleyTerry {
    /// Pulls rewards towards a mean of zero; TRL recommends 0.01.
    pub center_rewards_coefficient: f32,
}

impl Objective for BradleyTerry {
    type Example = Pair;
    type Metrics = RewardMetrics;

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
    ) -> Loss<RewardMetrics> {
        let mut values = vec![0.0; b.tokens.len()];
        let mut m = RewardMetrics::default();
        let mut sum = 0.0;
        let c = self.center_rewards_coefficient;
        let scale = (1.0 / total) as f32;
        for (i, e) in examples.iter().enumerate() {
            let (a, z) = (b.row(2 * i).end - 1, b.row(2 * i + 1).end - 1);
            let (ra, rz) = (out.values[a], out.values[z]);
            let delta = ra - rz - e.margin;
            sum -= f64::from(e.p * log_sigmoid(delta) + (1.0 - e.p) * log_sigmoid(-delta));
            sum += f64::from(c * (ra + rz) * (ra + rz));
            // d/dΔ of the cross-entropy is σ(Δ) − p.
            let d = sigmoid(delta) - e.p;
            let center = 2.0 * c * (ra + rz);
            values[a] += scale * (d + center);
            values[z] += scale * (center - d);
            m.pairs += 1.0;
            m.margin += f64::from(delta);
            m.reward += f64::from(ra + rz);
            if e.p != 0.5 {
                m.decided += 1.0;
                m.correct += if ra == rz {
                    0.5
                } else {
                    f64::from(u8::from((ra > rz) == (e.p > 0.5)))
                };
            }
        }
        Loss {
            value: (sum / total) as f32,
            grads: TokenGrads {
                values,
                ..TokenGrads::default()
            },
            metrics: m,
        }
    }

    fn add(&self, into: &mut RewardMetrics, part: &RewardMetrics) {
        into.pairs += part.pairs;
        into.decided += part.decided;
        into.correct += part.correct;
        into.margin += part.margin;
        into.reward += part.reward;
    }
}
