//! Position bias: how far a judge's answer depends on which response it sees first.
//!
//! Every pair is read in both orders. p₁ is the probability that the response *given* first is
//! better, read with that response shown first; p₂ the same probability, read with it shown second.
//! A judge without position bias has p₁ = p₂.

use rlaif_core::{Judgment, Outcome, PresentationOrder};
use serde::{Deserialize, Serialize};

use crate::error::{Result, all_valid, at_least};
use crate::exact::Exact;
use crate::interval::Proportion;

/// Probabilities are clipped to [`LOGIT_CLIP`, 1 − `LOGIT_CLIP`] before a log-odds is taken, so that
/// one saturated reading counts ±13.8 and not infinity.
pub const LOGIT_CLIP: f64 = 1e-6;

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Sample standard deviation / √n; `null` for a single row.
    pub std_error: Option<f64>,
    /// Rows.
    pub n: u64,
}

impl Estimate {
    /// Mean and standard error; `None` without values.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Estimate {
            mean,
            std_error: (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()),
            n: values.len() as u64,
        })
    }
}

/// Position bias of a judge over the pairs read in both orders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionBias {
    /// Share of pairs where the same *position* wins twice, so that the two readings name different
    /// responses. A reading of exactly ½ is won by neither position.
    pub inconsistency: Proportion,
    /// Pairs where the response shown first won twice.
    pub first_twice: u64,
    /// Pairs where the response shown second won twice.
    pub second_twice: u64,
    /// Mean log-odds towards the response shown first: for each pair (logit p₁ − logit p₂)/2, in
    /// which the pair's own log-odds cancel. 0 without bias, positive for a judge that prefers what
    /// it sees first.
    pub logit: Estimate,
}

impl PositionBias {
    /// From readings (p₁, p₂) as the module says.
    ///
    /// Exchanging the responses of a pair turns (p₁, p₂) into (1 − p₂, 1 − p₁) and changes nothing.
    ///
    /// # Errors
    /// No pairs, or a value outside [0, 1].
    ///
    /// Source: Lee et al. 2024, §2.1 (the inconsistent share); the log-odds form is ours.
    ///
    /// ```
    /// // Two logits towards the first on top of a true 1.5: the bias is found, the 1.5 cancels.
    /// let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    /// let bias = rlaif_eval::PositionBias::from_readings(&[(sigmoid(3.5), sigmoid(-0.5))]).unwrap();
    /// assert!((bias.logit.mean - 2.0).abs() < 1e-12);
    /// assert_eq!((bias.first_twice, bias.inconsistency.share), (1, 1.0));
    /// ```
    pub fn from_readings(readings: &[(f64, f64)]) -> Result<Self> {
        const NAME: &str = "the position bias";
        at_least(NAME, 1, readings.len())?;
        let flat: Vec<f64> = readings.iter().flat_map(|&(p, q)| [p, q]).collect();
        all_valid(NAME, "probabilities in [0, 1]", &flat, |p| {
            (0.0..=1.0).contains(&p)
        })?;
        let mut sums = Readings::default();
        for (p, q) in readings {
            sums.add(*p, *q);
        }
        sums.bias().ok_or(crate::Error::TooFew {
            statistic: NAME,
            expected: 1,
            got: 0,
        })
    }
}

/// Readings in both orders, added one at a time; their order changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Readings {
    n: u64,
    first_twice: u64,
    second_twice: u64,
    logits: Exact,
    squares: Exact,
}

impl Readings {
    /// Adds (p₁, p₂), both in [0, 1].
    pub(crate) fn add(&mut self, p: f64, q: f64) {
        self.n += 1;
        self.first_twice += u64::from(p > 0.5 && q < 0.5);
        self.second_twice += u64::from(p < 0.5 && q > 0.5);
        let towards = 0.5 * (logit(p) - logit(q));
        self.logits.add(towards);
        self.squares.add(towards * towards);
    }

    /// `None` without readings.
    pub(crate) fn bias(self) -> Option<PositionBias> {
        let n = self.n as f64;
        let mean = self.logits.value() / n;
        let around = (self.squares.value() - self.logits.value() * mean).max(0.0);
        Some(PositionBias {
            inconsistency: Proportion::new(self.first_twice + self.second_twice, self.n)?,
            first_twice: self.first_twice,
            second_twice: self.second_twice,
            logit: Estimate {
                mean,
                std_error: (self.n > 1).then(|| (around / (n - 1.0) / n).sqrt()),
                n: self.n,
            },
        })
    }
}

/// Log-odds of a probability after clipping by [`LOGIT_CLIP`]; exactly odd about ½.
#[must_use]
pub fn logit(p: f64) -> f64 {
    let p = p.clamp(LOGIT_CLIP, 1.0 - LOGIT_CLIP);
    p.ln() - (-p).ln_1p()
}

/// The position bias over judgments; `None` where no pair was read in both orders.
#[must_use]
pub fn position_bias(judgments: &[Judgment]) -> Option<PositionBias> {
    let readings: Vec<(f64, f64)> = judgments.iter().filter_map(both_orders).collect();
    PositionBias::from_readings(&readings).ok()
}

/// What was read in one order: P(the response given first is better); `None` where that order was
/// not asked for or gave nothing.
pub(crate) fn reading(judgment: &Judgment, order: PresentationOrder) -> Option<f64> {
    judgment
        .orders
        .iter()
        .filter(|o| o.order == order && matches!(o.outcome, Outcome::Decided | Outcome::Tie))
        .find_map(|o| o.p_first.get())
}

/// Both readings of a pair, the given order first.
pub(crate) fn both_orders(judgment: &Judgment) -> Option<(f64, f64)> {
    Some((
        reading(judgment, PresentationOrder::Given)?,
        reading(judgment, PresentationOrder::Swapped)?,
    ))
}
