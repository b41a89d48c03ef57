//! Win rates: wins / (wins + losses), ties beside and never split silently.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::interval::{Bootstrap, BootstrapInterval, Proportion, bootstrap_clustered};

/// How one comparison ended for the player whose rate is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// It won.
    Win,
    /// It lost.
    Loss,
    /// Neither.
    Tie,
}

impl Comparison {
    /// The same comparison seen by the other player.
    #[must_use]
    pub fn exchanged(self) -> Self {
        match self {
            Comparison::Win => Comparison::Loss,
            Comparison::Loss => Comparison::Win,
            Comparison::Tie => Comparison::Tie,
        }
    }
}

/// A win rate with the counts that it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// Comparisons won.
    pub wins: u64,
    /// Comparisons lost.
    pub losses: u64,
    /// Comparisons without a winner; outside the rate.
    pub ties: u64,
    /// wins / (wins + losses) with its 95 % Wilson interval; `null` where nothing was decided.
    pub rate: Option<Proportion>,
    /// (wins + ties/2) / all, in [0, 1], as Arena-style boards count; `null` without comparisons.
    pub rate_ties_half: Option<f64>,
}

/// The win rate over comparisons, with Wilson's interval (rows independent of each other).
///
/// Exchanging the players turns a rate w into 1 − w.
#[must_use]
pub fn win_rate(comparisons: &[Comparison]) -> WinRate {
    let count = |kind| comparisons.iter().filter(|&&c| c == kind).count() as u64;
    let (wins, losses, ties) = (
        count(Comparison::Win),
        count(Comparison::Loss),
        count(Comparison::Tie),
    );
    let all = wins + losses + ties;
    WinRate {
        wins,
        losses,
        ties,
        rate: Proportion::new(wins, wins + losses),
        rate_ties_half: (all > 0).then(|| (wins as f64 + 0.5 * ties as f64) / all as f64),
    }
}

/// The win rate with a percentile bootstrap over groups, for several comparisons a prompt.
/// `groups[i]` is the group of `comparisons[i]`.
///
/// # Errors
/// Those of [`bootstrap_clustered`]; nothing decided.
pub fn win_rate_clustered<G: Ord>(
    comparisons: &[Comparison],
    groups: &[G],
    settings: &Bootstrap,
) -> Result<BootstrapInterval> {
    if win_rate(comparisons).rate.is_none() {
        return Err(Error::TooFew {
            statistic: "the win rate",
            expected: 1,
            got: 0,
        });
    }
    let rate = |sample: &[&Comparison]| {
        let (wins, decided) = sample
            .iter()
            .filter(|c| ***c != Comparison::Tie)
            .fold((0u64, 0u64), |(wins, decided), c| {
                (wins + u64::from(**c == Comparison::Win), decided + 1)
            });
        (decided > 0).then(|| wins as f64 / decided as f64)
    };
    bootstrap_clustered(comparisons, groups, rate, settings)
}
