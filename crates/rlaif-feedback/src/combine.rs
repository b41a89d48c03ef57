//! Several probabilities of one thing made one: two presentation orders, several principles,
//! several judges.
//!
//! Let l be the judge's log-odds for the response given first, and b its additive bias towards
//! whatever is shown first. The given order shows l + b, the swapped one, un-swapped, l − b: their
//! mean is l exactly, whatever b. The mean of *probabilities* (Lee et al. 2023, §2.1) is not:
//! at l = 1.5 and b = 2 it is 0.674 where the truth is 0.818.

use serde::{Deserialize, Serialize};

/// How several probabilities become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Mean of log-odds: an additive position bias cancels exactly.
    #[default]
    Logit,
    /// Mean of probabilities, as in Lee et al. 2023.
    Probability,
}

/// Log-odds beyond this carry no information that a judge's answer could hold (p within 1e-6 of
/// 0 or 1), and keep an infinite one from deciding alone.
pub const MAX_LOGIT: f64 = 13.815_509_557_963_774;

/// ln(p / (1 − p)), bounded by ±[`MAX_LOGIT`].
///
/// ```
/// use rlaif_feedback::combine::logit;
/// assert_eq!(logit(0.5), 0.0);
/// assert_eq!(logit(0.0), -logit(1.0));
/// ```
#[must_use]
pub fn logit(p: f64) -> f64 {
    (p.ln() - (1.0 - p).ln()).clamp(-MAX_LOGIT, MAX_LOGIT)
}

/// 1 / (1 + e^−x), without overflow.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

impl Combine {
    /// The weighted mean of (weight, probability) pairs; `None` where no weight is above 0.
    ///
    /// With [`Combine::Logit`] it is σ(Σ wᵢ·logit pᵢ / Σ wᵢ), with [`Combine::Probability`]
    /// Σ wᵢ·pᵢ / Σ wᵢ (Lee et al. 2023, §2.1).
    ///
    /// ```
    /// use rlaif_feedback::combine::{Combine, sigmoid};
    /// // Bias 2, truth 1.5: the orders give .971 and .378.
    /// let orders = [(1.0, sigmoid(1.5 + 2.0)), (1.0, sigmoid(1.5 - 2.0))];
    /// assert!((Combine::Logit.mean(orders).unwrap() - sigmoid(1.5)).abs() < 1e-12);
    /// // (0.7 + 0.4) / 2
    /// assert_eq!(Combine::Probability.mean([(1.0, 0.7), (1.0, 0.4)]), Some(0.55));
    /// ```
    #[must_use]
    pub fn mean(self, parts: impl IntoIterator<Item = (f64, f64)>) -> Option<f64> {
        let (mut total, mut sum) = (0.0, 0.0);
        for (weight, p) in parts {
            total += weight;
            sum += weight
                * match self {
                    Combine::Logit => logit(p),
                    Combine::Probability => p,
                };
        }
        (total > 0.0).then(|| match self {
            Combine::Logit => sigmoid(sum / total),
            Combine::Probability => sum / total,
        })
    }
}

/// Clamps to [lo, hi]: labels that follow a chain of thought come out near 0 or 1, whatever the
/// judge's real certainty (Bai et al. 2022, §4.1: 40–60 % served best).
#[must_use]
pub fn clamp(p: f64, lo: f64, hi: f64) -> f64 {
    p.max(lo).min(hi)
}

/// Laplace's rule of succession: P(choice) = (count + 1) / (n + choices), so that no number of
/// samples makes a certainty.
///
/// ```
/// // Three of four samples for the first of two choices: 4/6 and 2/6.
/// assert_eq!(rlaif_feedback::combine::laplace(&[3.0, 1.0]), [4.0 / 6.0, 2.0 / 6.0]);
/// ```
#[must_use]
pub fn laplace(counts: &[f64]) -> Vec<f64> {
    let total = counts.iter().sum::<f64>() + counts.len() as f64;
    counts.iter().map(|c| (c + 1.0) / total).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_log_odds(a: f64, b: f64) -> f64 {
        Combine::Logit.mean([(1.0, a), (1.0, b)]).unwrap()
    }

    #[test]
    fn certain_orders_stay_finite() {
        assert_eq!(in_log_odds(1.0, 0.0), 0.5);
        assert!(in_log_odds(1.0, 1.0) > 0.999_99);
        assert_eq!(Combine::Logit.mean([(0.0, 0.9)]), None);
    }

    #[test]
    fn weights_count() {
        // Log-odds 3 with weight 2 and 0 with weight 1: 2. Probabilities 0.9, 0.3: 0.7.
        let p = Combine::Logit.mean([(2.0, sigmoid(3.0)), (1.0, 0.5)]);
        assert!((p.unwrap() - sigmoid(2.0)).abs() < 1e-12);
        let p = Combine::Probability.mean([(2.0, 0.9), (1.0, 0.3)]);
        assert!((p.unwrap() - 0.7).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn an_additive_bias_cancels_exactly(l in -4.0f64..4.0, b in -6.0f64..6.0) {
            let p = in_log_odds(sigmoid(l + b), sigmoid(l - b));
            prop_assert!((p - sigmoid(l)).abs() < 1e-9);
        }

        #[test]
        fn exchanging_the_responses_gives_the_complement(a in 0.0f64..=1.0, b in 0.0f64..=1.0) {
            // Exchanged, the given order shows what the swapped one showed.
            prop_assert!((in_log_odds(a, b) + in_log_odds(1.0 - b, 1.0 - a) - 1.0).abs() < 1e-9);
        }
    }
}
