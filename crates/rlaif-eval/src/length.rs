//! Length preference: whether a judge prefers the longer response.

use std::collections::BTreeMap;

use rlaif_core::{Judgment, Outcome};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least, same_len};
use crate::interval::Proportion;
use crate::logistic::sigmoid;

/// Length of a text in words: its parts between white space. Scripts without spaces come out short;
/// both sides of a pair are usually in one script, which is what a difference needs.
#[must_use]
pub fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Change of the log-odds of winning for each unit of x.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogOddsSlope {
    /// Log-odds per unit of x; 0.01 per word means odds 2.7 times as high at 100 words more.
    pub slope: f64,
    /// Standard error, from the Fisher information at the maximum.
    pub std_error: f64,
    /// Rows.
    pub n: u64,
}

/// Logistic regression through the origin: P(yᵢ = 1) = σ(β xᵢ).
///
/// β maximizes the likelihood, Σ xᵢ (yᵢ − σ(β xᵢ)) = 0, and its standard error is
/// 1/√(Σ xᵢ² σᵢ (1 − σᵢ)). No intercept: xᵢ is the difference between the two sides of a pair, and
/// exchanging the sides (x → −x, y → 1 − y) must not change β.
///
/// # Errors
/// Fewer than two rows; lists of different lengths; a value that is not finite; x that is 0
/// throughout; x whose sign predicts y without an error, where β has no finite maximum.
pub fn log_odds_slope(x: &[f64], won: &[bool]) -> Result<LogOddsSlope> {
    const NAME: &str = "the log-odds slope";
    same_len(NAME, x.len(), won.len())?;
    at_least(NAME, 2, x.len())?;
    all_valid(NAME, "finite values", x, f64::is_finite)?;
    slope_of_wins(
        x.iter()
            .zip(won)
            .map(|(x, won)| (if *won { *x } else { -x }, 1)),
    )
}

/// [`log_odds_slope`] of rows that are counted: (x towards the side that won, how many).
fn slope_of_wins(rows: impl Iterator<Item = (f64, u64)> + Clone) -> Result<LogOddsSlope> {
    const NAME: &str = "the log-odds slope";
    let n: u64 = rows.clone().map(|(_, times)| times).sum();
    at_least(NAME, 2, usize::try_from(n).unwrap_or(usize::MAX))?;
    let undefined = |reason| Error::Undefined {
        statistic: NAME,
        reason,
    };
    // In units of the largest |x|, steps and tolerances mean the same for words and characters.
    let unit = rows.clone().fold(0.0f64, |most, (v, _)| most.max(v.abs()));
    if unit == 0.0 {
        return Err(undefined("x is 0 in every row"));
    }
    // Towards the side that won: the likelihood is Π σ(β zᵢ).
    let z: Vec<(f64, f64)> = rows.map(|(x, times)| (x / unit, times as f64)).collect();
    if z.iter().all(|&(z, _)| z >= 0.0) || z.iter().all(|&(z, _)| z <= 0.0) {
        return Err(undefined("the sign of x predicts every row"));
    }
    // The derivative of the log-likelihood, Σ z σ(−β z), falls in β; information is −its slope.
    let gradient = |beta: f64| {
        z.iter()
            .map(|(z, n)| n * z * sigmoid(-beta * z))
            .sum::<f64>()
    };
    let information = |beta: f64| {
        z.iter()
            .map(|(z, n)| n * z * z * sigmoid(beta * z) * sigmoid(-beta * z))
            .sum::<f64>()
    };

    // Bracket the root, then Newton steps that fall back on halving: Newton alone may run away.
    let direction = if gradient(0.0) >= 0.0 { 1.0 } else { -1.0 };
    let mut far = 1.0;
    while gradient(direction * far) * direction > 0.0 {
        far *= 2.0;
        if !f64::is_finite(far) {
            return Err(undefined("the maximum of the likelihood is out of range"));
        }
    }
    let (mut low, mut high) = if direction > 0.0 {
        (0.0, far)
    } else {
        (-far, 0.0)
    };
    let mut beta = 0.0;
    for _ in 0..200 {
        let g = gradient(beta);
        if g > 0.0 {
            low = beta;
        } else {
            high = beta;
        }
        let newton = beta + g / information(beta);
        let next = if newton > low && newton < high {
            newton
        } else {
            0.5 * (low + high)
        };
        let moved = (next - beta).abs();
        beta = next;
        if moved <= 1e-15 * beta.abs() {
            break;
        }
    }
    let std_error = 1.0 / information(beta).sqrt();
    all_valid(
        NAME,
        "finite results",
        &[beta / unit, std_error / unit],
        f64::is_finite,
    )?;
    Ok(LogOddsSlope {
        slope: beta / unit,
        std_error: std_error / unit,
        n,
    })
}

/// Change of y for each unit of x, in a line through the origin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// Units of y per unit of x.
    pub slope: f64,
    /// Standard error.
    pub std_error: f64,
    /// Rows.
    pub n: u64,
}

/// Least squares through the origin: β = Σ xᵢ yᵢ / Σ xᵢ², with standard error √(s² / Σ xᵢ²),
/// s² = Σ (yᵢ − β xᵢ)² / (n − 1). No intercept, for the reason given at [`log_odds_slope`].
///
/// ```
/// // x = (1, 2), y = (1, 3): β = 7/5; residuals −0.4 and 0.2, s² = 0.2, error √(0.2 / 5) = 0.2.
/// let s = rlaif_eval::slope(&[1.0, 2.0], &[1.0, 3.0])?;
/// assert!((s.slope - 1.4).abs() < 1e-12 && (s.std_error - 0.2).abs() < 1e-12);
/// # Ok::<(), rlaif_eval::Error>(())
/// ```
///
/// # Errors
/// Fewer than two rows; lists of different lengths; a value that is not finite; x that is 0
/// throughout.
pub fn slope(x: &[f64], y: &[f64]) -> Result<Slope> {
    const NAME: &str = "the slope through the origin";
    same_len(NAME, x.len(), y.len())?;
    at_least(NAME, 2, x.len())?;
    all_valid(NAME, "finite values", x, f64::is_finite)?;
    all_valid(NAME, "finite values", y, f64::is_finite)?;
    let squares: f64 = x.iter().map(|x| x * x).sum();
    if squares == 0.0 {
        return Err(Error::Undefined {
            statistic: NAME,
            reason: "x is 0 in every row",
        });
    }
    let slope = x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>() / squares;
    let rest: f64 = x.iter().zip(y).map(|(x, y)| (y - slope * x).powi(2)).sum();
    Ok(Slope {
        slope,
        std_error: (rest / (x.len() - 1) as f64 / squares).sqrt(),
        n: x.len() as u64,
    })
}

/// Whether a judge prefers the longer response. Figures of one judge on one set of pairs: where
/// longer responses *are* better they say nothing against it, so read them beside those of people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthPreference {
    /// Share of decided pairs of different length where the longer response (in words) won;
    /// `null` without such pairs.
    pub longer_won: Option<Proportion>,
    /// Decided pairs of equal length; outside the share.
    pub equal_length: u64,
    /// Log-odds per word of difference; `null` where it is not defined (see [`log_odds_slope`]).
    pub slope_per_word: Option<LogOddsSlope>,
}

/// Decided pairs by their difference in words, added one at a time; their order changes nothing.
/// Memory: the differences that occur.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lengths(BTreeMap<i64, u64>);

impl Lengths {
    /// Adds a judgment, where it is decided.
    pub(crate) fn add(&mut self, judgment: &Judgment) {
        if let Some(first_won) = first_won(judgment) {
            let difference = difference(judgment);
            // Towards the side that won.
            let towards = if first_won { difference } else { -difference };
            *self.0.entry(towards).or_default() += 1;
        }
    }

    /// `None` where none was decided.
    pub(crate) fn preference(&self) -> Option<LengthPreference> {
        if self.0.is_empty() {
            return None;
        }
        let longer: u64 = self.0.range(1..).map(|(_, n)| n).sum();
        let shorter: u64 = self.0.range(..0).map(|(_, n)| n).sum();
        let rows = self.0.iter().map(|(towards, n)| (*towards as f64, *n));
        Some(LengthPreference {
            longer_won: Proportion::new(longer, longer + shorter),
            equal_length: self.0.get(&0).copied().unwrap_or(0),
            slope_per_word: slope_of_wins(rows).ok(),
        })
    }
}

/// Words of the response given first less those of the other.
pub(crate) fn difference(judgment: &Judgment) -> i64 {
    let length = |text: &str| i64::try_from(words(text)).unwrap_or(i64::MAX);
    length(&judgment.response_a).saturating_sub(length(&judgment.response_b))
}

/// Length preference over the decided judgments; `None` where none is decided.
#[must_use]
pub fn length_preference(judgments: &[Judgment]) -> Option<LengthPreference> {
    let mut lengths = Lengths::default();
    for judgment in judgments {
        lengths.add(judgment);
    }
    lengths.preference()
}

/// Whether the response given first won; `None` unless the judgment is decided and its probability
/// leans to a side.
pub(crate) fn first_won(judgment: &Judgment) -> Option<bool> {
    let p = judgment.p_first.get()?;
    (judgment.outcome == Outcome::Decided && p != 0.5).then_some(p > 0.5)
}
