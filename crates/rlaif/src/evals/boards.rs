//! Policies against a reference, as AlpacaEval counts them.

use std::collections::BTreeMap;
use std::path::Path;

use rlaif_core::{Judgment, Outcome};
use rlaif_eval::{
    AlpacaWinRate, Benchmark, Compared, GamedRow, Proportion, alpaca_win_rate, length_controlled,
};
use serde::Serialize;

use super::first_won;
use crate::error::Error;

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
    /// The prompt's number in the benchmark, where one is given.
    pub instruction: usize,
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
    /// AlpacaEval's `length_controlled_v1`, in percent, where its benchmark is given.
    pub length_controlled_winrate: Option<f64>,
    /// Its standard error: how far prompts differ, not how uncertain the fit is.
    pub lc_standard_error: Option<f64>,
    /// AlpacaEval's `length_controlled_minimal`, in percent: by the length term alone, for any
    /// prompts.
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

/// Reads what AlpacaEval knows of its prompts: the gamed baselines' annotations, with each
/// instruction's difficulty, as its `df_gamed.csv` has them.
///
/// # Errors
/// A file that cannot be read, has no such columns, or holds what is no number.
pub fn read_benchmark(path: &Path) -> Result<Benchmark, Error> {
    let wrong = |what: String| {
        Error::input(
            format!("{}: {what}", path.display()),
            "it is `df_gamed.csv` of the dataset `tatsu-lab/alpaca_eval`, with the columns `index`, \
             `preference`, `std_delta_len` and `instruction_difficulty`",
        )
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let place = |name: &str| {
        let found = header.iter().position(|h| h.trim() == name);
        found.ok_or_else(|| wrong(format!("it has no column `{name}`")))
    };
    let (index, won) = (place("index")?, place("preference")?);
    let (length, difficulty) = (place("std_delta_len")?, place("instruction_difficulty")?);
    let mut rows = Vec::new();
    for (at, line) in lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |column: usize| cells.get(column).copied().unwrap_or_default();
        let number = |column: usize| {
            let read = cell(column).parse::<f64>();
            read.map_err(|_| wrong(format!("line {}: `{}` is no number", at + 2, cell(column))))
        };
        rows.push(GamedRow {
            instruction: number(index)? as usize,
            won: match cell(won) {
                "" => None,
                _ => Some(number(won)?),
            },
            length_difference: number(length)?,
            difficulty: number(difficulty)?,
        });
    }
    Benchmark::new(rows).map_err(|e| wrong(e.to_string()))
}

/// The leaderboard, best first.
#[must_use]
pub fn standings(all: &[Versus], benchmark: Option<&Benchmark>) -> Vec<Standing> {
    let mut by: BTreeMap<(&str, &str), Vec<&Versus>> = BTreeMap::new();
    for v in all {
        by.entry((&v.policy, &v.reference)).or_default().push(v);
    }
    let mut standings: Vec<Standing> = by
        .into_iter()
        .map(|((policy, reference), rows)| standing(policy, reference, &rows, benchmark))
        .collect();
    let rate = |s: &Standing| s.figures.as_ref().map_or(f64::NEG_INFINITY, |f| f.win_rate);
    standings.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(a.policy.cmp(&b.policy)));
    standings
}

fn standing(
    policy: &str,
    reference: &str,
    rows: &[&Versus],
    benchmark: Option<&Benchmark>,
) -> Standing {
    let won: Vec<f64> = rows.iter().filter_map(|v| v.won).collect();
    let compared: Vec<Compared> = rows
        .iter()
        .map(|v| Compared {
            won: v.won,
            length_difference: v.reference_length as f64 - v.length as f64,
            instruction: v.instruction,
        })
        .collect();
    let full = benchmark.and_then(|b| length_controlled(&compared, Some(b)).ok());
    let minimal = length_controlled(&compared, None).ok();
    // A reference against itself is even by construction, as in alpaca_eval.
    let even = (policy == reference).then_some(50.0);
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
        length_controlled_winrate: full.as_ref().map(|f| even.unwrap_or(f.win_rate)),
        lc_standard_error: full.and_then(|f| f.standard_error),
        length_controlled_minimal: even.or(minimal.map(|f| f.win_rate)),
        mean_length: mean(&|v| v.length),
        mean_reference_length: mean(&|v| v.reference_length),
        decided: Proportion::of(won.iter().filter(|v| **v != 0.5).map(|v| *v > 0.5)),
        left_out: (rows.len() - won.len()) as u64,
        left_out_by,
    }
}
