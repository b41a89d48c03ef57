//! How good a judge is: one [`JudgeReport`] a judge, and judges side by side.

use std::collections::BTreeMap;

use rlaif_core::{Judgment, Outcome, seed};
use rlaif_eval::summary::ECE_BINS;
use rlaif_eval::{
    Binning, Bootstrap, BootstrapInterval, Estimate, JudgeSummary, Pick, Proportion, Recalibration,
    ReliabilityBin, RewardBench, agreement_by, bootstrap, brier, ece, log_loss, logistic,
    reliability, rewardbench, rewardbench::is_subset,
};
use serde::Serialize;

use super::attacks::AttackTable;
use super::{first_won, more_words};
use crate::error::Error;
use crate::figures;

/// Fewest rows of a half: on fewer, a fitted map and a diagram of it show only chance.
pub const CALIBRATION_ROWS: usize = 20;

/// One judge's labels on a set of pairs, with all that is known beside them.
pub struct Labels {
    /// The judge's name.
    pub judge: String,
    /// Where the labels come from: a file.
    pub source: String,
    /// The labels.
    pub judgments: Vec<Judgment>,
    /// P(the response given first is better) by the reference, a judgment each.
    pub references: Vec<Option<f64>>,
    /// The subset that each judgment's row belongs to.
    pub subsets: Vec<Option<String>>,
    /// The same pairs judged again, a list a repeat, in the same order.
    pub repeats: Vec<Vec<Option<Judgment>>>,
    /// Seconds for the rows that were asked now, and how many those are.
    pub time: Option<(f64, usize)>,
    /// Cost is known: labels read from a file do not carry it.
    pub costed: bool,
}

/// Change of a verdict's log-odds for each word by which a response is longer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LengthLogit {
    /// Log-odds a word.
    pub per_word: f64,
    /// Standard error.
    pub std_error: f64,
    /// Decided rows.
    pub n: u64,
}

/// A map's worth on the rows that it was not fitted on.
#[derive(Clone, Debug, Serialize)]
pub struct Calibrated {
    /// The map; `null` for the judge's own confidence.
    pub map: Option<Recalibration>,
    /// Brier score.
    pub brier: f64,
    /// Expected calibration error, [`ECE_BINS`] bins of equal width.
    pub ece: f64,
    /// Log loss, in nats.
    pub log_loss: f64,
    /// The reliability diagram's bins.
    pub reliability: Vec<ReliabilityBin>,
}

/// Calibration fitted on one half of the prompts and shown on the other; halves by the prompts'
/// hash.
#[derive(Clone, Debug, Serialize)]
pub struct Calibration {
    /// Rows of the half that maps were fitted on.
    pub fitted_on: u64,
    /// Rows of the half that they are shown on.
    pub shown_on: u64,
    /// As the judge gave it, then by `temperature`, `platt`, `isotonic`, where each can be fitted.
    pub maps: BTreeMap<&'static str, Calibrated>,
}

/// What labels cost. `null` where it is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LabelCost {
    /// Calls a label.
    pub calls: Option<f64>,
    /// Prompt tokens a label.
    pub prompt_tokens: Option<f64>,
    /// Generated tokens a label.
    pub completion_tokens: Option<f64>,
    /// US dollars a label.
    pub usd: Option<f64>,
    /// Seconds of the whole run a label, calls in flight beside each other.
    pub secs: Option<f64>,
}

/// One judge, measured. Every share has its 95 % interval; a figure that is not defined is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct JudgeReport {
    /// The judge's name.
    pub judge: String,
    /// Where its labels come from.
    pub source: String,
    /// Share of decided rows that agree with the reference.
    pub agreement: Option<Proportion>,
    /// The same by subset.
    pub by_subset: BTreeMap<String, Proportion>,
    /// Share of pairs where the same position wins twice.
    pub position_inconsistency: Option<Proportion>,
    /// Mean log-odds towards the response shown first.
    pub position_logit: Option<Estimate>,
    /// Log-odds a word of length difference.
    pub length_logit: Option<LengthLogit>,
    /// The same, with the reference's verdict held fixed: what length does beyond being better.
    pub length_logit_given_reference: Option<LengthLogit>,
    /// Share of rows decided twice whose verdicts are equal.
    pub self_agreement: Option<Proportion>,
    /// Brier score against the reference.
    pub brier: Option<f64>,
    /// Expected calibration error against it.
    pub ece: Option<f64>,
    /// Calibration on held-out rows; `null` with fewer than [`CALIBRATION_ROWS`] in a half.
    pub calibration: Option<Calibration>,
    /// RewardBench's scores, where the rows are its.
    pub rewardbench: Option<RewardBench>,
    /// How easily it is fooled, where that was asked.
    pub attacks: Option<AttackTable>,
    /// What a label costs.
    pub cost_per_label: LabelCost,
    /// All of the statistics, agreement by length difference among them.
    pub summary: JudgeSummary,
}

/// Two judges on the rows that both decided.
#[derive(Clone, Debug, Serialize)]
pub struct SideBySide {
    /// One.
    pub a: String,
    /// The other.
    pub b: String,
    /// Share of those rows where they agree with each other.
    pub agreement: Option<Proportion>,
    /// Agreement with the reference, of `a` less of `b`, on the same rows, with a bootstrap interval.
    pub difference: Option<BootstrapInterval>,
}

/// Measures a judge.
///
/// # Errors
/// None that labels written by this tool can cause.
pub fn report(labels: &Labels, attacks: Option<AttackTable>) -> Result<JudgeReport, Error> {
    let judgments = &labels.judgments;
    let by_id: BTreeMap<String, f64> = judgments
        .iter()
        .zip(&labels.references)
        .filter_map(|(j, p)| Some((j.id.clone(), (*p)?)))
        .collect();
    let summary = figures::summary(judgments, &by_id)?;
    let human = summary.human.as_ref();
    Ok(JudgeReport {
        judge: labels.judge.clone(),
        source: labels.source.clone(),
        agreement: human.and_then(|h| h.agreement),
        by_subset: by_subset(labels),
        position_inconsistency: summary.position.map(|p| p.inconsistency),
        position_logit: summary.position.map(|p| p.logit),
        length_logit: summary
            .length
            .and_then(|l| l.slope_per_word)
            .map(|s| LengthLogit {
                per_word: s.slope,
                std_error: s.std_error,
                n: s.n,
            }),
        length_logit_given_reference: length_given_reference(labels),
        self_agreement: self_agreement(labels),
        brier: human.and_then(|h| h.brier),
        ece: human.and_then(|h| h.ece),
        calibration: calibration(labels),
        rewardbench: bench(labels),
        attacks,
        cost_per_label: cost(labels),
        summary,
    })
}

/// Decided rows with a reference that takes a side: (index, the judge's, the reference's).
fn sides(labels: &Labels) -> impl Iterator<Item = (usize, bool, bool)> + '_ {
    let rows = labels.judgments.iter().zip(&labels.references);
    rows.enumerate().filter_map(|(i, (judgment, reference))| {
        let reference = reference.filter(|p| *p != 0.5)?;
        Some((i, first_won(judgment)?, reference > 0.5))
    })
}

fn by_subset(labels: &Labels) -> BTreeMap<String, Proportion> {
    let (mut keys, mut left, mut right) = (Vec::new(), Vec::new(), Vec::new());
    for (i, judge, reference) in sides(labels) {
        if let Some(subset) = &labels.subsets[i] {
            keys.push(subset.clone());
            left.push(judge);
            right.push(reference);
        }
    }
    // Lists of one length: it cannot fail.
    agreement_by(&keys, &left, &right).unwrap_or_default()
}

fn length_given_reference(labels: &Labels) -> Option<LengthLogit> {
    let (mut rows, mut won) = (Vec::new(), Vec::new());
    for (i, judge, reference) in sides(labels) {
        rows.push(vec![
            more_words(&labels.judgments[i]),
            if reference { 1.0 } else { -1.0 },
        ]);
        won.push(f64::from(u8::from(judge)));
    }
    let fit = logistic(&rows, &won).ok()?;
    Some(LengthLogit {
        per_word: fit.coefficients[0],
        std_error: fit.std_errors[0],
        n: fit.n,
    })
}

fn self_agreement(labels: &Labels) -> Option<Proportion> {
    let pairs = labels.repeats.iter().flat_map(|repeat| {
        labels
            .judgments
            .iter()
            .zip(repeat)
            .filter_map(|(a, b)| Some(first_won(a)? == first_won(b.as_ref()?)?))
    });
    Proportion::of(pairs)
}

fn calibration(labels: &Labels) -> Option<Calibration> {
    let (mut fit, mut show) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (i, judge, reference) in sides(labels) {
        let judgment = &labels.judgments[i];
        let p = judgment.p_first.get()?;
        let prompt = judgment.prompt.to_text();
        let half = if seed::derive(0, &["calibration", &prompt]) & 1 == 0 {
            &mut fit
        } else {
            &mut show
        };
        half.0.push(p.max(1.0 - p));
        half.1.push(judge == reference);
    }
    if fit.0.len().min(show.0.len()) < CALIBRATION_ROWS {
        return None;
    }
    let (p, happened) = &show;
    let bins = Binning::EqualWidth(ECE_BINS);
    let shown = |map: Option<Recalibration>| -> Option<Calibrated> {
        let p: Vec<f64> = match &map {
            Some(map) => p.iter().map(|p| map.apply(*p)).collect(),
            None => p.clone(),
        };
        Some(Calibrated {
            brier: brier(&p, happened).ok()?,
            ece: ece(&p, happened, bins).ok()?,
            log_loss: log_loss(&p, happened).ok()?,
            reliability: reliability(&p, happened, bins).ok()?,
            map,
        })
    };
    let mut maps = BTreeMap::from([("as_given", shown(None)?)]);
    for (name, map) in [
        ("temperature", Recalibration::temperature(&fit.0, &fit.1)),
        ("platt", Recalibration::platt(&fit.0, &fit.1)),
        ("isotonic", Recalibration::isotonic(&fit.0, &fit.1)),
    ] {
        maps.extend(map.ok().and_then(|m| Some((name, shown(Some(m))?))));
    }
    Some(Calibration {
        fitted_on: fit.0.len() as u64,
        shown_on: p.len() as u64,
        maps,
    })
}

/// RewardBench's rule for generative judges gives ½ to what names neither response. A row without
/// any answer is no such answer: with one of these there is no score.
fn bench(labels: &Labels) -> Option<RewardBench> {
    let mut rows = Vec::new();
    for ((judgment, reference), subset) in labels
        .judgments
        .iter()
        .zip(&labels.references)
        .zip(&labels.subsets)
    {
        let (Some(subset), Some(reference)) = (subset.as_deref(), reference) else {
            continue;
        };
        if judgment.outcome.is_open() && is_subset(subset) {
            return None;
        }
        let pick = match first_won(judgment) {
            Some(first) if first == (*reference > 0.5) => Pick::Chosen,
            Some(_) => Pick::Rejected,
            None => Pick::Neither,
        };
        rows.push((subset, pick));
    }
    rewardbench(rows)
}

fn cost(labels: &Labels) -> LabelCost {
    let usable = |j: &&Judgment| matches!(j.outcome, Outcome::Decided | Outcome::Tie);
    let n = labels.judgments.iter().filter(usable).count() as f64;
    let secs = labels
        .time
        .filter(|(_, fresh)| *fresh > 0)
        .map(|(secs, fresh)| secs / fresh as f64);
    if !labels.costed || n == 0.0 {
        return LabelCost {
            secs,
            ..LabelCost::default()
        };
    }
    let costs = || labels.judgments.iter().map(|j| j.cost);
    LabelCost {
        calls: Some(costs().map(|c| f64::from(c.calls)).sum::<f64>() / n),
        prompt_tokens: Some(costs().map(|c| c.prompt_tokens as f64).sum::<f64>() / n),
        completion_tokens: Some(costs().map(|c| c.completion_tokens as f64).sum::<f64>() / n),
        usd: costs()
            .filter(|c| c.calls > 0)
            .map(|c| c.usd)
            .sum::<Option<f64>>()
            .map(|usd| usd / n),
        secs,
    }
}

/// Every two judges on the rows that both decided; rows are the same where id and responses are.
#[must_use]
pub fn side_by_side(all: &[Labels]) -> Vec<SideBySide> {
    let keyed = |labels: &Labels| -> BTreeMap<String, (bool, Option<bool>)> {
        let rows = labels.judgments.iter().zip(&labels.references);
        rows.filter_map(|(j, reference)| {
            let key = crate::rows::row_key(&[&j.id, &j.response_a, &j.response_b]);
            let reference = reference.filter(|p| *p != 0.5).map(|p| p > 0.5);
            Some((key, (first_won(j)?, reference)))
        })
        .collect()
    };
    let sets: Vec<_> = all.iter().map(keyed).collect();
    let mut found = Vec::new();
    for (i, a) in sets.iter().enumerate() {
        for (j, b) in sets.iter().enumerate().skip(i + 1) {
            let both: Vec<(bool, bool, Option<bool>)> = a
                .iter()
                .filter_map(|(key, (a, reference))| Some((*a, b.get(key)?.0, *reference)))
                .collect();
            let scored: Vec<f64> = both
                .iter()
                .filter_map(|(a, b, reference)| {
                    let right = |v: bool| reference.map(|r| f64::from(u8::from(v == r)));
                    Some(right(*a)? - right(*b)?)
                })
                .collect();
            let mean = |sample: &[&f64]| {
                (!sample.is_empty())
                    .then(|| sample.iter().copied().sum::<f64>() / sample.len() as f64)
            };
            found.push(SideBySide {
                a: all[i].judge.clone(),
                b: all[j].judge.clone(),
                agreement: Proportion::of(both.iter().map(|(a, b, _)| a == b)),
                difference: bootstrap(&scored, mean, &Bootstrap::new(0)).ok(),
            });
        }
    }
    found
}
