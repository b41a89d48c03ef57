//! What a report says about one judge: [`JudgeSummary::from_judgments`].

use rlaif_core::{Judgment, Outcome, PresentationOrder, Verdict};
use serde::{Deserialize, Serialize};

use crate::agreement::{LengthBin, agreement_by_length};
use crate::calibration::{Binning, ReliabilityBin, brier, ece, log_loss, reliability};
use crate::error::{Result, same_len};
use crate::interval::{Bootstrap, BootstrapInterval, Proportion, bootstrap_clustered};
use crate::length::{LengthPreference, first_won, length_preference, words};
use crate::position::{PositionBias, both_orders, position_bias, reading};

/// Edges, in words, of the bins of [`HumanAgreement::by_length`]: symmetric about 0, since a bin
/// includes its lower edge and not its upper one.
pub const LENGTH_EDGES: [i64; 4] = [-50, -10, 11, 51];

/// Bins of [`HumanAgreement::ece`]. A confidence lies in [½, 1], so half of them can hold rows.
pub const ECE_BINS: usize = 10;

/// How many rows ended in which way. The fields bear the names of the outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // one field an outcome, documented there
pub struct OutcomeCounts {
    /// All rows; the sum of the others.
    pub rows: u64,
    pub decided: u64,
    pub tie: u64,
    pub abstained: u64,
    pub unparseable: u64,
    pub refused: u64,
    pub truncated: u64,
    pub failed: u64,
    pub not_run: u64,
}

impl OutcomeCounts {
    /// Counts outcomes.
    #[must_use]
    pub fn of(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut counts = OutcomeCounts::default();
        for outcome in outcomes {
            counts.rows += 1;
            *match outcome {
                Outcome::Decided => &mut counts.decided,
                Outcome::Tie => &mut counts.tie,
                Outcome::Abstained => &mut counts.abstained,
                Outcome::Unparseable => &mut counts.unparseable,
                Outcome::Refused => &mut counts.refused,
                Outcome::Truncated => &mut counts.truncated,
                Outcome::Failed => &mut counts.failed,
                Outcome::NotRun => &mut counts.not_run,
            } += 1;
        }
        counts
    }
}

/// A judge against human labels.
///
/// There is no kappa here: which response is given first is an accident of the file (`chosen` often
/// is), and where all labels name the first, Cohen's kappa is 0 for every judge. Chance is one half.
///
/// Only rows with a label for one side count anywhere in here; what
/// the judge left undecided is in no share, so read these beside [`JudgeSummary::undecided`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HumanAgreement {
    /// Rows whose label names a side.
    pub labeled: u64,
    /// Rows whose label is a tie; they count nowhere else.
    pub label_ties: u64,
    /// Of the decided rows, the share where judge and label name the same response.
    pub agreement: Option<Proportion>,
    /// [`agreement`](Self::agreement) with a percentile bootstrap over prompts (1,000 replicates,
    /// seed 0); `null` unless some prompt has several labeled and decided rows, where Wilson's interval
    /// would be too narrow.
    pub agreement_by_prompt: Option<BootstrapInterval>,
    /// The same share among the rows read in both orders.
    pub both_orders: Option<Proportion>,
    /// Agreement of single readings with the label, each order by itself and all together: what a
    /// judge asked once would have reached. Readings of exactly ½ are left out.
    pub single_order: Option<Proportion>,
    /// Single readings with the response given first shown first.
    pub given_order: Option<Proportion>,
    /// Single readings with it shown second.
    pub swapped_order: Option<Proportion>,
    /// Agreement by words of the response that the label prefers less words of the other.
    pub by_length: Vec<LengthBin>,
    /// Brier score of the confidence max(p, 1 − p) in the verdict, over decided rows; equal to that
    /// of p itself.
    pub brier: Option<f64>,
    /// Log loss, in nats, over the same rows.
    pub log_loss: Option<f64>,
    /// Expected calibration error of the confidence, [`ECE_BINS`] bins of equal width on [0, 1].
    pub ece: Option<f64>,
    /// The bins behind it. `happened` is the share of verdicts that agree with the label.
    pub reliability: Vec<ReliabilityBin>,
}

/// One judge on one set of pairs. Exchanging the two responses of any pair, with its readings and
/// its label, changes nothing here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeSummary {
    /// How the rows ended.
    pub outcomes: OutcomeCounts,
    /// Share of rows that are not decided, for whatever reason; `null` without rows.
    pub undecided: Option<Proportion>,
    /// Position bias; `null` where no pair was read in both orders.
    pub position: Option<PositionBias>,
    /// Preference for length; `null` where nothing was decided.
    pub length: Option<LengthPreference>,
    /// Against human labels; `null` where there are none.
    pub human: Option<HumanAgreement>,
}

impl JudgeSummary {
    /// Summarizes the judgments of one judge.
    ///
    /// `labels`, where given, has one entry a judgment: the human choice ([`Verdict::A`] for the
    /// response given first) or `None` where there is none.
    ///
    /// No rows are no error: every figure is then `None`.
    ///
    /// # Errors
    /// As many labels as judgments are needed.
    pub fn from_judgments(
        judgments: &[Judgment],
        labels: Option<&[Option<Verdict>]>,
    ) -> Result<Self> {
        let outcomes = OutcomeCounts::of(judgments.iter().map(|j| j.outcome));
        let human = match labels {
            None => None,
            Some(labels) => {
                same_len("a summary with labels", judgments.len(), labels.len())?;
                HumanAgreement::of(judgments, labels)?
            }
        };
        Ok(JudgeSummary {
            outcomes,
            undecided: Proportion::new(outcomes.rows - outcomes.decided, outcomes.rows),
            position: position_bias(judgments),
            length: length_preference(judgments),
            human,
        })
    }
}

impl HumanAgreement {
    fn of(judgments: &[Judgment], labels: &[Option<Verdict>]) -> Result<Option<Self>> {
        let label_ties = labels.iter().filter(|l| **l == Some(Verdict::Tie)).count() as u64;
        let rows: Vec<(&Judgment, bool)> = judgments
            .iter()
            .zip(labels)
            .filter_map(|(judgment, label)| match label {
                Some(Verdict::A) => Some((judgment, true)),
                Some(Verdict::B) => Some((judgment, false)),
                Some(Verdict::Tie | Verdict::Unparseable) | None => None,
            })
            .collect();
        if rows.is_empty() && label_ties == 0 {
            return Ok(None);
        }

        let decided: Vec<Decided<'_>> = rows
            .iter()
            .filter_map(|&(judgment, label)| {
                let p = judgment.p_first.get()?;
                Some(Decided {
                    judgment,
                    verdict: first_won(judgment)?,
                    label,
                    confidence: p.max(1.0 - p),
                })
            })
            .collect();
        let agrees: Vec<bool> = decided.iter().map(Decided::agrees).collect();
        let confidence: Vec<f64> = decided.iter().map(|d| d.confidence).collect();
        let in_order = |order| {
            rows.iter().filter_map(move |&(judgment, label)| {
                let p = reading(judgment, order)?;
                (p != 0.5).then_some((p > 0.5) == label)
            })
        };
        let (given, swapped) = (PresentationOrder::Given, PresentationOrder::Swapped);
        let difference: Vec<i64> = decided.iter().map(Decided::label_length).collect();
        let bins = Binning::EqualWidth(ECE_BINS);
        // What is left undefined below is so for want of rows, or because all labels are alike.
        Ok(Some(HumanAgreement {
            labeled: rows.len() as u64,
            label_ties,
            agreement: Proportion::of(agrees.iter().copied()),
            agreement_by_prompt: by_prompt(&decided),
            both_orders: Proportion::of(
                decided
                    .iter()
                    .filter(|d| both_orders(d.judgment).is_some())
                    .map(Decided::agrees),
            ),
            single_order: Proportion::of(in_order(given).chain(in_order(swapped))),
            given_order: Proportion::of(in_order(given)),
            swapped_order: Proportion::of(in_order(swapped)),
            by_length: agreement_by_length(&difference, &agrees, &LENGTH_EDGES)?,
            brier: brier(&confidence, &agrees).ok(),
            log_loss: log_loss(&confidence, &agrees).ok(),
            ece: ece(&confidence, &agrees, bins).ok(),
            reliability: reliability(&confidence, &agrees, bins).unwrap_or_default(),
        }))
    }
}

/// A decided judgment with its label.
struct Decided<'a> {
    judgment: &'a Judgment,
    /// The judge prefers the response given first.
    verdict: bool,
    /// The person does.
    label: bool,
    confidence: f64,
}

impl Decided<'_> {
    fn agrees(&self) -> bool {
        self.verdict == self.label
    }

    /// Words of the response that the label prefers less words of the other.
    fn label_length(&self) -> i64 {
        let length = |text: &str| i64::try_from(words(text)).unwrap_or(i64::MAX);
        let difference =
            length(&self.judgment.response_a).saturating_sub(length(&self.judgment.response_b));
        if self.label { difference } else { -difference }
    }
}

fn by_prompt(decided: &[Decided<'_>]) -> Option<BootstrapInterval> {
    let groups: Vec<String> = decided
        .iter()
        .map(|d| d.judgment.prompt.to_text())
        .collect();
    let mut distinct: Vec<&String> = groups.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() == groups.len() {
        return None;
    }
    let share = |sample: &[&Decided<'_>]| {
        let agree = sample.iter().filter(|d| d.agrees()).count();
        (!sample.is_empty()).then(|| agree as f64 / sample.len() as f64)
    };
    bootstrap_clustered(decided, &groups, share, &Bootstrap::new(0)).ok()
}
