//! Two presentation orders made one probability.
//!
//! Let l be the judge's log-odds for the response given first, and b its additive bias towards
//! whatever is shown first. The given order shows l + b, the swapped one, un-swapped, l − b: their
//! mean is l exactly, whatever b. The mean of *probabilities* (Lee et al. 2023, §2.1) is not:
//! at l = 1.5 and b = 2 it is 0.674 where the truth is 0.818.

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

/// σ of the mean log-odds. Both arguments are P(response given first is better), un-swapped.
///
/// ```
/// use rlaif_feedback::combine::{in_log_odds, sigmoid};
/// // Bias 2, truth 1.5 (METHODS: .971 and .378 give .818).
/// let p = in_log_odds(sigmoid(1.5 + 2.0), sigmoid(1.5 - 2.0));
/// assert!((p - sigmoid(1.5)).abs() < 1e-12);
/// ```
#[must_use]
pub fn in_log_odds(given: f64, swapped: f64) -> f64 {
    sigmoid(0.5 * (logit(given) + logit(swapped)))
}

/// The mean of the probabilities (Lee et al. 2023, §2.1).
///
/// ```
/// assert_eq!(rlaif_feedback::combine::in_probability(0.7, 0.4), 0.55);
/// ```
#[must_use]
pub fn in_probability(given: f64, swapped: f64) -> f64 {
    0.5 * (given + swapped)
}

/// Clamps to [lo, hi]: labels that follow a chain of thought come out near 0 or 1, whatever the
/// judge's real certainty (Bai et al. 2022, §4.1: 40–60 % served best).
#[must_use]
pub fn clamp(p: f64, lo: f64, hi: f64) -> f64 {
    p.max(lo).min(hi)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn certain_orders_stay_finite() {
        assert_eq!(in_log_odds(1.0, 0.0), 0.5);
        assert!(in_log_odds(1.0, 1.0) > 0.999_99);
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
