//! Maps that turn a judge's probabilities into calibrated ones: temperature, Platt, isotonic. Fit
//! them on one part of the rows and show them on another.
//!
//! They act on the *confidence* in a verdict, c = max(p, 1 − p), and on whether the verdict agrees
//! with the reference: exchanging the two responses of a pair changes neither, so no map depends on
//! which response a file happens to name first.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least, same_len};
use crate::length::log_odds_slope;
use crate::logistic::{logistic, sigmoid};
use crate::position::logit;

/// A fitted map from confidence to P(the verdict agrees).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Recalibration {
    /// σ(logit c / T) (Guo et al. 2017, §4.2).
    Temperature {
        /// T; above 1 the judge was too sure. Negative where its verdicts are wrong more often the
        /// surer it is.
        temperature: f64,
    },
    /// σ(a logit c + b) (Platt 1999, on the log-odds of c).
    Platt {
        /// a.
        slope: f64,
        /// b.
        intercept: f64,
    },
    /// A rising line through `(x, y)`, flat outside (Zadrozny and Elkan 2002).
    Isotonic {
        /// Confidences, rising strictly.
        x: Vec<f64>,
        /// Probabilities, never falling.
        y: Vec<f64>,
    },
}

fn check(statistic: &'static str, p: &[f64], happened: &[bool]) -> Result<()> {
    same_len(statistic, p.len(), happened.len())?;
    at_least(statistic, 2, p.len())?;
    all_valid(statistic, "probabilities in [0, 1]", p, |p| {
        (0.0..=1.0).contains(&p)
    })
}

impl Recalibration {
    /// Maximum likelihood of P(happened) = σ(logit p / T).
    ///
    /// # Errors
    /// Fewer than two rows; lists of different lengths; values outside [0, 1]; rows whose side
    /// predicts every outcome, so that no finite T is best.
    pub fn temperature(p: &[f64], happened: &[bool]) -> Result<Self> {
        const NAME: &str = "the temperature";
        check(NAME, p, happened)?;
        let x: Vec<f64> = p.iter().map(|p| logit(*p)).collect();
        let temperature = 1.0 / log_odds_slope(&x, happened)?.slope;
        if temperature.is_finite() {
            Ok(Recalibration::Temperature { temperature })
        } else {
            Err(Error::Undefined {
                statistic: NAME,
                reason: "the log-odds say nothing of the outcome",
            })
        }
    }

    /// Platt's sigmoid on log-odds, with his targets (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2) in the place
    /// of 1 and 0, which keep the maximum finite.
    ///
    /// # Errors
    /// Fewer than three rows; lists of different lengths; values outside [0, 1]; probabilities that
    /// are all equal.
    ///
    /// Source: Platt 1999, §2.2; scikit-learn's `CalibratedClassifierCV(method="sigmoid")`.
    pub fn platt(p: &[f64], happened: &[bool]) -> Result<Self> {
        check("Platt's sigmoid", p, happened)?;
        let hits = happened.iter().filter(|h| **h).count() as f64;
        let misses = happened.len() as f64 - hits;
        let rows: Vec<Vec<f64>> = p.iter().map(|p| vec![logit(*p), 1.0]).collect();
        let targets: Vec<f64> = happened
            .iter()
            .map(|h| {
                if *h {
                    (hits + 1.0) / (hits + 2.0)
                } else {
                    1.0 / (misses + 2.0)
                }
            })
            .collect();
        let fit = logistic(&rows, &targets)?;
        Ok(Recalibration::Platt {
            slope: fit.coefficients[0],
            intercept: fit.coefficients[1],
        })
    }

    /// The rising function nearest to the outcomes in least squares, by pooling adjacent violators;
    /// rows of equal probability are averaged first.
    ///
    /// # Errors
    /// Fewer than two rows; lists of different lengths; values outside [0, 1].
    ///
    /// Source: Ayer et al. 1955; scikit-learn's `IsotonicRegression(out_of_bounds="clip")`.
    pub fn isotonic(p: &[f64], happened: &[bool]) -> Result<Self> {
        check("the isotonic regression", p, happened)?;
        let mut points: Vec<(f64, f64)> = p
            .iter()
            .zip(happened)
            .map(|(p, h)| (*p, f64::from(u8::from(*h))))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Blocks of (first x, last x, mean y, rows), means rising.
        let mut blocks: Vec<(f64, f64, f64, f64)> = Vec::new();
        for run in points.chunk_by(|a, b| a.0 == b.0) {
            let n = run.len() as f64;
            let mean = run.iter().map(|(_, y)| y).sum::<f64>() / n;
            blocks.push((run[0].0, run[0].0, mean, n));
            while let [.., a, b] = blocks.as_slice() {
                if a.2 < b.2 {
                    break;
                }
                let n = a.3 + b.3;
                let pooled = (a.0, b.1, (a.2 * a.3 + b.2 * b.3) / n, n);
                blocks.truncate(blocks.len() - 2);
                blocks.push(pooled);
            }
        }
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for (first, last, mean, _) in blocks {
            x.push(first);
            y.push(mean);
            if last > first {
                x.push(last);
                y.push(mean);
            }
        }
        Ok(Recalibration::Isotonic { x, y })
    }

    /// The calibrated probability of `p`, a number in [0, 1].
    #[must_use]
    pub fn apply(&self, p: f64) -> f64 {
        match self {
            Recalibration::Temperature { temperature } => sigmoid(logit(p) / temperature),
            Recalibration::Platt { slope, intercept } => sigmoid(slope * logit(p) + intercept),
            Recalibration::Isotonic { x, y } => {
                let above = x.partition_point(|x| *x < p);
                match (above.checked_sub(1), x.get(above)) {
                    (None, _) => y.first().copied().unwrap_or(p),
                    (Some(below), None) => y[below],
                    (Some(below), Some(right)) => {
                        let part = (p - x[below]) / (right - x[below]);
                        y[below] + part * (y[above] - y[below])
                    }
                }
            }
        }
    }
}
