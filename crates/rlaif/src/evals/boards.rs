//! Policies against a reference, as AlpacaEval counts them.

use std::collections::BTreeMap;

use rlaif_core::{Judgment, Outcome};
use rlaif_eval::{AlpacaWinRate, Proportion, alpaca_win_rate, length_controlled_win_rate};
use serde::Serialize;

use super::first_won;

/// What a comparison counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// The probability that the policy's output is better.
    Probabilities,
    /// 1 for a verdict in its favour, 0 for one against it, ½ for a tie.
    Verdicts,
}

/// One comparison of a policy's output with the reference's.
pub struct Versus {
    /// Who wrote the output.
    pub policy: String,
    /// Who wrote the reference.
    pub reference: String,
    /// Share of the comparison that the policy wins, in [0, 1]; `None` where there is no judgment.
    pub won: Option<f64>,
    /// How it ended, where it was judged here.
    pub outcome: Outcome,
    /// Characters of the policy's output.
    pub length: usize,
    /// Characters of the reference's.
    pub reference_length: usize,
}

/// What the policy's output wins of a judgment; it is the response given second.
#[must_use]
pub fn won_by_second(judgment: &Judgment, count: Count) -> Option<f64> {
    let p = judgment.p_first.get()?;
    Some(match (count, first_won(judgment)) {
        (Count::Probabilities, _) => 1.0 - p,
        (Count::Verdicts, Some(true)) => 0.0,
        (Count::Verdicts, Some(false)) => 1.0,
        (Count::Verdicts, None) => 0.5,
    })
}

/// A line of the leaderboard.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// The policy.
    pub policy: String,
    /// What it is held against.
    pub reference: String,
    /// AlpacaEval's figures, in percent; `null` without comparisons.
    #[serde(flatten)]
    pub figures: Option<AlpacaWinRate>,
    /// Win rate at the reference's length, in percent, by the length term alone: not the
    /// leaderboard's figure, which needs its difficulty of each of 805 prompts.
    pub length_controlled_minimal: Option<f64>,
    /// Mean characters of its outputs.
    pub mean_length: f64,
    /// Mean characters of the reference's.
    pub mean_reference_length: f64,
    /// Share of comparisons decided that it won, with its 95 % interval; ties beside.
    pub decided: Option<Proportion>,
    /// Comparisons without a judgment; in no figure.
    pub left_out: u64,
    /// Those by outcome.
    pub left_out_by: BTreeMap<&'static str, u64>,
}

/// The leaderboard, best first.
#[must_use]
pub fn standings(all: &[Versus]) -> Vec<Standing> {
    let mut by: BTreeMap<(&str, &str), Vec<&Versus>> = BTreeMap::new();
    for v in all {
        by.entry((&v.policy, &v.reference)).or_default().push(v);
    }
    let mut standings: Vec<Standing> = by
        .into_iter()
        .map(|((policy, reference), rows)| standing(policy, reference, &rows))
        .collect();
    let rate = |s: &Standing| s.figures.as_ref().map_or(f64::NEG_INFINITY, |f| f.win_rate);
    standings.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(a.policy.cmp(&b.policy)));
    standings
}

fn standing(policy: &str, reference: &str, rows: &[&Versus]) -> Standing {
    let counted: Vec<(f64, f64)> = rows
        .iter()
        .filter_map(|v| Some((v.won?, v.length as f64 - v.reference_length as f64)))
        .collect();
    let (won, difference): (Vec<f64>, Vec<f64>) = counted.iter().copied().unzip();
    let mean = |length: &dyn Fn(&Versus) -> usize| {
        rows.iter().map(|v| length(v) as f64).sum::<f64>() / rows.len().max(1) as f64
    };
    let mut left_out_by = BTreeMap::new();
    for v in rows.iter().filter(|v| v.won.is_none()) {
        *left_out_by.entry(v.outcome.as_str()).or_default() += 1;
    }
    Standing {
        policy: policy.to_owned(),
        reference: reference.to_owned(),
        figures: alpaca_win_rate(&won).ok(),
        length_controlled_minimal: length_controlled_win_rate(&won, &difference).ok(),
        mean_length: mean(&|v| v.length),
        mean_reference_length: mean(&|v| v.reference_length),
        decided: Proportion::of(won.iter().filter(|v| **v != 0.5).map(|v| *v > 0.5)),
        left_out: (rows.len() - won.len()) as u64,
        left_out_by,
    }
}
