//! What a quickstart came to, held against the truth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_core::seed::Split;
use rlaif_core::{Judgment, Message, Outcome, Verdict};
use rlaif_eval::{JudgeSummary, Proportion};
use serde::Serialize;

use super::oracle::{NAME, Oracle};
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::pipeline::Finished;
use crate::stages::{judge, read_records};
use crate::train::RewardModel;

/// The critic's labels against the oracle's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JudgeFigures {
    /// Share of right labels, both orders combined, over pairs that the oracle decides under the
    /// principle that was judged by.
    pub label_accuracy: Option<f64>,
    /// The same for one order alone.
    pub label_accuracy_single_order: Option<f64>,
    /// The same for whichever single order is better.
    pub label_accuracy_better_order: Option<f64>,
    /// Standard error of `label_accuracy`.
    pub label_accuracy_se: Option<f64>,
    /// Share of pairs in which the same position wins twice.
    pub position_inconsistency: Option<f64>,
    /// Mean log-odds towards the response shown first.
    pub position_logit: Option<f64>,
    /// Brier score of the labels.
    pub brier: Option<f64>,
    /// Presentations that could not be read.
    pub unparseable: u64,
    /// Share of pairs that the oracle does not decide.
    pub undecided: Option<f64>,
    /// Log-odds a word of length difference.
    pub length_logit: Option<f64>,
    /// Pairs judged.
    pub pairs: usize,
}

/// The reward model against the oracle's utility.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RewardFigures {
    /// Share of pairs ranked as the oracle ranks them under the whole constitution, over pairs of
    /// prompts that it was not trained on.
    pub accuracy: Option<f64>,
    /// Pairs that the oracle decides.
    pub pairs: usize,
    /// Share of pairs that it does not decide.
    pub undecided: Option<f64>,
}

/// A policy in the oracle's eyes, on held-out prompts.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)] // the names are those of the figures
pub struct Policy {
    pub win_rate_vs_base: Option<f64>,
    pub win_rate_vs_base_ci: Option<[f64; 2]>,
    pub win_rate_vs_sft: Option<f64>,
    pub tie_rate: Option<f64>,
    pub harmful_rate: Option<f64>,
    pub helpful_rate: Option<f64>,
    pub malformed_rate: Option<f64>,
    pub mean_tokens: Option<f64>,
    pub kl: Option<f64>,
    pub dimensions: BTreeMap<String, f64>,
}

/// What `--json` prints.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Summary {
    pub seed: u64,
    pub wall_secs: f64,
    pub peak_rss_bytes: Option<u64>,
    pub judge: JudgeFigures,
    pub reward_model: RewardFigures,
    pub policies: BTreeMap<String, Policy>,
    pub report: PathBuf,
}

/// A judgment by several principles as one by each.
fn views(j: &Judgment) -> Vec<Judgment> {
    if j.opinions.is_empty() {
        return vec![j.clone()];
    }
    j.opinions
        .iter()
        .map(|o| Judgment {
            principle: o.principle.clone(),
            p_first: o.p_first,
            outcome: o.outcome,
            orders_agree: o.orders_agree,
            orders: o.orders.clone(),
            opinions: Vec::new(),
            ..j.clone()
        })
        .collect()
}

fn judge_figures(oracle: &Oracle, pairs: &[Judgment]) -> Result<JudgeFigures, Error> {
    let judgments: Vec<Judgment> = pairs.iter().flat_map(views).collect();
    let judgments = judgments.as_slice();
    let labels: Vec<Option<Verdict>> = judgments.iter().map(|j| oracle.label(j)).collect();
    let summary = JudgeSummary::from_judgments(judgments, Some(&labels))
        .map_err(|e| Error::input(format!("the labels cannot be summarized: {e}"), ""))?;
    let value = |p: Option<Proportion>| p.map(|p| p.share);
    let human = summary.human.as_ref();
    // Label ties of the critic count as labels by the side that they lean to, as an arg max would.
    let mut right = 0.0;
    let (mut decided, mut undecided) = (0usize, 0usize);
    for (j, label) in judgments.iter().zip(&labels) {
        match (label, j.p_first.get()) {
            (Some(Verdict::Tie), _) => undecided += 1,
            (Some(label), Some(p)) => {
                decided += 1;
                right += match (p - 0.5, label) {
                    (0.0, _) => 0.5,
                    (lean, Verdict::A) if lean > 0.0 => 1.0,
                    (lean, Verdict::B) if lean < 0.0 => 1.0,
                    _ => 0.0,
                };
            }
            _ => {}
        }
    }
    let n = decided as f64;
    let accuracy = (decided > 0).then(|| right / n);
    let orders = [
        human.and_then(|h| value(h.given_order)),
        human.and_then(|h| value(h.swapped_order)),
    ];
    Ok(JudgeFigures {
        label_accuracy: accuracy,
        label_accuracy_single_order: human.and_then(|h| value(h.single_order)),
        label_accuracy_better_order: orders.into_iter().flatten().reduce(f64::max),
        label_accuracy_se: accuracy.map(|a| (a * (1.0 - a) / n).sqrt()),
        position_inconsistency: summary.position.as_ref().map(|p| p.inconsistency.share),
        position_logit: summary.position.as_ref().map(|p| p.logit.mean),
        brier: human.and_then(|h| h.brier),
        unparseable: judgments
            .iter()
            .filter(|j| j.outcome == Outcome::Unparseable)
            .count() as u64,
        undecided: (!judgments.is_empty()).then(|| undecided as f64 / judgments.len() as f64),
        length_logit: summary
            .length
            .as_ref()
            .and_then(|l| l.slope_per_word.as_ref())
            .map(|s| s.slope),
        pairs: pairs.len(),
    })
}

fn reward_figures(
    oracle: &Oracle,
    judgments: &[Judgment],
    folder: &Path,
) -> Result<RewardFigures, Error> {
    if !folder.join("config.json").is_file() {
        return Ok(RewardFigures::default());
    }
    let cache_bytes = rlaif_engine::Options::default().cache_bytes;
    let model = RewardModel::open(folder, cache_bytes)?;
    let held_out: Vec<&Judgment> = judgments
        .iter()
        .filter(|j| Split::of(&j.prompt) == Split::Test && j.response_a != j.response_b)
        .collect();
    let asked: Vec<(&[Message], &str)> = held_out
        .iter()
        .flat_map(|j| [&j.response_a, &j.response_b].map(|r| (j.prompt.0.as_slice(), r.as_str())))
        .collect();
    let scores = model.score(&asked);
    let (mut right, mut pairs) = (0, 0);
    for (j, s) in held_out.iter().zip(scores.chunks_exact(2)) {
        let truth = oracle.prefers(&j.prompt, &j.response_a, &j.response_b);
        if let (Some(first), [Ok(a), Ok(b)]) = (truth, s) {
            pairs += 1;
            right += usize::from((a > b) == first);
        }
    }
    Ok(RewardFigures {
        accuracy: (pairs > 0).then(|| right as f64 / pairs as f64),
        pairs,
        undecided: (!held_out.is_empty()).then(|| 1.0 - pairs as f64 / held_out.len() as f64),
    })
}

fn policies(evaluation: &Evaluation) -> BTreeMap<String, Policy> {
    let mut all = BTreeMap::new();
    for p in &evaluation.policies {
        let numbers = p.numbers.get(NAME);
        let mean = |name: &str| numbers.and_then(|n| n.get(name)).map(|e| e.mean);
        let against = |other: &str| evaluation.compared(&p.policy, other, NAME);
        let rate = |other: &str| against(other).and_then(|c| c.result.rate);
        let base = rate("base");
        all.insert(
            p.policy.clone(),
            Policy {
                win_rate_vs_base: base.map(|r| r.share),
                win_rate_vs_base_ci: base.map(|r| [r.low, r.high]),
                win_rate_vs_sft: rate("sft").map(|r| r.share),
                tie_rate: against("base").and_then(|c| c.tie_rate),
                harmful_rate: mean("harmful"),
                helpful_rate: mean("helpful_rate"),
                malformed_rate: mean("malformed"),
                mean_tokens: p.tokens.as_ref().map(|t| t.mean),
                kl: p.kl.as_ref().map(|k| k.mean),
                dimensions: rlaif_world::Dimension::ALL
                    .iter()
                    .filter_map(|d| Some((d.name().to_owned(), mean(d.name())?)))
                    .collect(),
            },
        );
    }
    all
}

/// The most memory that this process has held so far, in bytes; `None` where the system does not say.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Gathers the figures of a finished run. `wall_secs` is the caller's to fill in.
pub(super) fn summarize(
    seed: u64,
    run: &Path,
    oracle: &Oracle,
    finished: &Finished,
) -> Result<Summary, Error> {
    let judgments: Vec<Judgment> = read_records(&run.join(judge::FILE))?;
    Ok(Summary {
        seed,
        wall_secs: 0.0,
        judge: judge_figures(oracle, &judgments)?,
        reward_model: reward_figures(oracle, &judgments, &run.join("reward"))?,
        policies: finished
            .evaluation
            .as_ref()
            .map(policies)
            .unwrap_or_default(),
        report: finished.report.clone(),
        peak_rss_bytes: peak_rss_bytes(),
    })
}
