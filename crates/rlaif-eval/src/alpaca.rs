//! AlpacaEval's aggregation of annotations, in percent as its leaderboards print them.
//!
//! Notation: vᵢ in [0, 1] is the share of comparison i that the model wins: 0 the reference, 1 the
//! model, ½ a draw, or the probability that the model's output is better (`preference − 1` in its
//! files).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least};
use crate::position::Estimate;

/// A model's line on a leaderboard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlpacaWinRate {
    /// 100 mean(v).
    pub win_rate: f64,
    /// 100 s/√n, s the sample standard deviation of v; `null` for one comparison.
    pub standard_error: Option<f64>,
    /// Comparisons.
    pub n_total: u64,
    /// Comparisons with v > ½.
    pub n_wins: u64,
    /// Comparisons with v < ½.
    pub n_wins_base: u64,
    /// Comparisons with v = ½.
    pub n_draws: u64,
    /// 100 wins + draws/2 of all, every comparison counted by its side alone.
    pub discrete_win_rate: f64,
}

/// Win rate and standard error as alpaca_eval computes them.
///
/// # Errors
/// No comparisons; a value outside [0, 1].
///
/// Source: alpaca_eval, `metrics/winrate.py`.
pub fn alpaca_win_rate(won: &[f64]) -> Result<AlpacaWinRate> {
    const NAME: &str = "AlpacaEval's win rate";
    at_least(NAME, 1, won.len())?;
    all_valid(NAME, "shares in [0, 1]", won, |v| (0.0..=1.0).contains(&v))?;
    let estimate = Estimate::of(won).ok_or(Error::TooFew {
        statistic: NAME,
        expected: 1,
        got: 0,
    })?;
    let count = |side: &dyn Fn(f64) -> bool| won.iter().filter(|v| side(**v)).count() as u64;
    let (n_wins, n_wins_base) = (count(&|v| v > 0.5), count(&|v| v < 0.5));
    let n_total = won.len() as u64;
    let n_draws = n_total - n_wins - n_wins_base;
    Ok(AlpacaWinRate {
        win_rate: 100.0 * estimate.mean,
        standard_error: estimate.std_error.map(|e| 100.0 * e),
        n_total,
        n_wins,
        n_wins_base,
        n_draws,
        discrete_win_rate: 100.0 * (n_wins as f64 + 0.5 * n_draws as f64) / n_total as f64,
    })
}
