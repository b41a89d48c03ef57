//! The figures that verbs print and reports show: counts, and statistics from `rlaif-eval`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use rlaif_core::{Judgment, Outcome, Verdict};
use rlaif_eval::summary::OutcomeCounts;
use rlaif_eval::{JudgeSummary, Proportion};
use serde::Serialize;

use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::rows::Tally;

/// What `--json` ends with for `critique`, `revise` and `judge`; scripts rely on these names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// All rows.
    pub rows: usize,
    /// Rows with a verdict.
    pub decided: usize,
    /// Rows as good as each other.
    pub tie: usize,
    /// Rows that the model declined to decide.
    pub abstained: usize,
    /// Rows whose answer could not be read.
    pub unparseable: usize,
    /// Rows that the model refused.
    pub refused: usize,
    /// Rows whose answer was cut off.
    pub truncated: usize,
    /// Rows without an answer.
    pub failed: usize,
    /// Rows not reached.
    pub not_run: usize,
    /// Calls answered in this run.
    pub calls: u64,
    /// Attempts made again in this run.
    pub retries: u64,
    /// Calls taken from an earlier run instead of being made.
    pub cached: u64,
    /// Money spent in this run; `null` where a model has no price.
    pub usd: Option<f64>,
    /// Money of calls whose answer was lost; `null` where a model has no price.
    pub usd_unsettled: Option<f64>,
    /// Prompt tokens of this run, by the servers' count.
    pub prompt_tokens: u64,
    /// Generated tokens of this run, by the servers' count.
    pub completion_tokens: u64,
    /// Time of this run.
    pub wall_secs: f64,
    /// Rows of this run a second, those taken from an earlier one left out.
    pub rows_per_sec: f64,
}

impl Totals {
    /// From rows counted, and the time that they took.
    #[must_use]
    pub fn new(tally: &Tally, wall_secs: f64) -> Self {
        let fresh = tally.rows.saturating_sub(tally.reused);
        Totals {
            rows: tally.rows,
            decided: tally.count(Outcome::Decided),
            tie: tally.count(Outcome::Tie),
            abstained: tally.count(Outcome::Abstained),
            unparseable: tally.count(Outcome::Unparseable),
            refused: tally.count(Outcome::Refused),
            truncated: tally.count(Outcome::Truncated),
            failed: tally.count(Outcome::Failed),
            not_run: tally.count(Outcome::NotRun),
            cached: tally.cached_calls,
            wall_secs,
            rows_per_sec: if wall_secs > 0.0 {
                fresh as f64 / wall_secs
            } else {
                0.0
            },
            ..Totals::default()
        }
    }

    /// Adds what an endpoint counted.
    #[cfg(feature = "remote")]
    pub fn add_stats(&mut self, stats: &rlaif_client::Stats) {
        self.calls += stats.calls;
        self.cached += stats.recalled;
        self.retries += stats.retries;
        self.prompt_tokens += stats.prompt_tokens;
        self.completion_tokens += stats.completion_tokens;
        if let Some(usd) = stats.usd {
            *self.usd.get_or_insert(0.0) += usd;
        }
        if let Some(usd) = stats.usd_unsettled {
            *self.usd_unsettled.get_or_insert(0.0) += usd;
        }
    }
}

/// Rows by outcome in one line: `46 decided, 3 tie, 1 unparseable`.
#[must_use]
pub fn outcome_counts(counts: &OutcomeCounts) -> String {
    let parts: Vec<String> = Outcome::ALL
        .iter()
        .map(|o| (counts.count(*o), o))
        .filter(|(n, _)| *n > 0)
        .map(|(n, o)| format!("{n} {o}"))
        .collect();
    if parts.is_empty() {
        "no rows".into()
    } else {
        parts.join(", ")
    }
}

/// The side that P(the first is better) takes.
#[must_use]
pub fn side(p: f64) -> Verdict {
    match p.total_cmp(&0.5) {
        Ordering::Greater => Verdict::A,
        Ordering::Less => Verdict::B,
        Ordering::Equal => Verdict::Tie,
    }
}

/// The statistics of a judge's labels; `labels` holds P(first better) by row id, of whoever
/// labeled the input.
///
/// # Errors
/// None that judgments written by this tool can cause; it is passed on rather than hidden.
pub fn summary(
    judgments: &[Judgment],
    labels: &BTreeMap<String, f64>,
) -> Result<JudgeSummary, Error> {
    let sides: Vec<Option<Verdict>> = judgments
        .iter()
        .map(|j| labels.get(&j.id).copied().map(side))
        .collect();
    let labels = (!labels.is_empty()).then_some(sides.as_slice());
    JudgeSummary::from_judgments(judgments, labels)
        .map_err(|e| Error::input(format!("the labels cannot be summarized: {e}"), ""))
}

/// A share with its interval and rows: `0.812 [0.700, 0.890] of 64`.
#[must_use]
pub fn share(p: &Proportion) -> String {
    format!("{:.3} [{:.3}, {:.3}] of {}", p.share, p.low, p.high, p.n)
}

/// The summary in words, a line a figure, each with its 95 % interval; what is not defined is
/// left out.
#[must_use]
pub fn lines(summary: &JudgeSummary) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(position) = &summary.position {
        lines.push(format!(
            "position inconsistency {}: the same position won twice",
            share(&position.inconsistency)
        ));
        let error = position
            .logit
            .std_error
            .map(|e| format!(" ± {e:.2}"))
            .unwrap_or_default();
        lines.push(format!(
            "position logit {:+.2}{error}: mean log-odds towards the first shown",
            position.logit.mean
        ));
    }
    if let Some(longer) = summary.length.as_ref().and_then(|l| l.longer_won.as_ref()) {
        lines.push(format!("the longer response won {}", share(longer)));
    }
    if let Some(human) = &summary.human {
        if let Some(agreement) = &human.agreement {
            lines.push(format!(
                "agreement with the file's labels {}",
                share(agreement)
            ));
        }
        if let Some(single) = &human.single_order {
            lines.push(format!("agreement of single orders {}", share(single)));
        }
        if let (Some(brier), Some(ece)) = (human.brier, human.ece) {
            lines.push(format!(
                "Brier {brier:.3}, ECE {ece:.3} (a coin has 0.250 and 0)"
            ));
        }
    }
    lines
}

/// The evaluation in words: who beats whom, a line a comparison.
#[must_use]
pub fn evaluation_lines(evaluation: &Evaluation) -> Vec<String> {
    evaluation
        .comparisons
        .iter()
        .filter_map(|c| {
            let rate = c.result.rate.as_ref()?;
            Some(format!(
                "{} beats {}, says the {}: {} decided, {} ties",
                c.policy,
                c.against,
                c.by,
                share(rate),
                c.result.ties
            ))
        })
        .collect()
}
