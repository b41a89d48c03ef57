//! What a report says about one judge: [`JudgeSummary::from_judgments`].

use rlaif_core::{Judgment, Outcome, PresentationOrder, Verdict, seed};
use serde::{Deserialize, Serialize};

use crate::agreement::{LengthBin, count_by_length, length_bins};
use crate::calibration::{Bins, ReliabilityBin, error_of, square, surprise};
use crate::error::{Result, same_len};
use crate::exact::Exact;
use crate::interval::{Bootstrap, BootstrapInterval, Proportion, bootstrap};
use crate::length::{LengthPreference, Lengths, difference, first_won};
use crate::position::{PositionBias, Readings, both_orders, reading};

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
            counts.add(outcome);
        }
        counts
    }

    /// Counts one more.
    pub fn add(&mut self, outcome: Outcome) {
        self.rows += 1;
        *self.field(outcome) += 1;
    }

    /// Rows with this outcome.
    #[must_use]
    pub fn count(mut self, outcome: Outcome) -> u64 {
        *self.field(outcome)
    }

    fn field(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Decided => &mut self.decided,
            Outcome::Tie => &mut self.tie,
            Outcome::Abstained => &mut self.abstained,
            Outcome::Unparseable => &mut self.unparseable,
            Outcome::Refused => &mut self.refused,
            Outcome::Truncated => &mut self.truncated,
            Outcome::Failed => &mut self.failed,
            Outcome::NotRun => &mut self.not_run,
        }
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
        if let Some(labels) = labels {
            same_len("a summary with labels", judgments.len(), labels.len())?;
        }
        let mut builder = SummaryBuilder::default();
        for (i, judgment) in judgments.iter().enumerate() {
            builder.add(judgment, labels.and_then(|labels| labels[i]));
        }
        Ok(builder.finish())
    }
}

/// Makes a [`JudgeSummary`] of judgments that are added one at a time, as they are finished: their
/// order changes nothing.
///
/// Memory: the differences in length that occur, and 8 bytes for each decided row with a label.
#[derive(Clone, Debug, Default)]
pub struct SummaryBuilder {
    outcomes: OutcomeCounts,
    readings: Readings,
    lengths: Lengths,
    human: Human,
}

impl SummaryBuilder {
    /// Adds a judgment, with the human choice where there is one.
    pub fn add(&mut self, judgment: &Judgment, label: Option<Verdict>) {
        self.outcomes.add(judgment.outcome);
        if let Some((p, q)) = both_orders(judgment) {
            self.readings.add(p, q);
        }
        self.lengths.add(judgment);
        match label {
            Some(Verdict::A) => self.human.add(judgment, true),
            Some(Verdict::B) => self.human.add(judgment, false),
            Some(Verdict::Tie) => self.human.label_ties += 1,
            Some(Verdict::Unparseable) | None => {}
        }
    }

    /// Rows so far, by how they ended.
    #[must_use]
    pub fn outcomes(&self) -> &OutcomeCounts {
        &self.outcomes
    }

    /// The figures.
    #[must_use]
    pub fn finish(self) -> JudgeSummary {
        let outcomes = self.outcomes;
        JudgeSummary {
            outcomes,
            undecided: Proportion::new(outcomes.rows - outcomes.decided, outcomes.rows),
            position: self.readings.bias(),
            length: self.lengths.preference(),
            human: self.human.agreement(),
        }
    }
}

/// Agreeing rows, and all.
#[derive(Clone, Copy, Debug, Default)]
struct Share(u64, u64);

impl Share {
    fn add(&mut self, agrees: bool) {
        self.0 += u64::from(agrees);
        self.1 += 1;
    }

    fn proportion(self) -> Option<Proportion> {
        Proportion::new(self.0, self.1)
    }
}

/// What [`HumanAgreement`] is made of.
#[derive(Clone, Debug)]
struct Human {
    labeled: u64,
    label_ties: u64,
    agreement: Share,
    both_orders: Share,
    given_order: Share,
    swapped_order: Share,
    by_length: [(u64, u64); LENGTH_EDGES.len() + 1],
    squares: Exact,
    surprise: Exact,
    bins: Bins,
    /// A decided row: a hash of its prompt, whose last bit says whether the row agrees.
    prompts: Vec<u64>,
}

impl Default for Human {
    fn default() -> Self {
        Human {
            labeled: 0,
            label_ties: 0,
            agreement: Share::default(),
            both_orders: Share::default(),
            given_order: Share::default(),
            swapped_order: Share::default(),
            by_length: Default::default(),
            squares: Exact::default(),
            surprise: Exact::default(),
            bins: Bins::equal_width(ECE_BINS),
            prompts: Vec::new(),
        }
    }
}

impl Human {
    /// Adds a judgment with the side that a person chose.
    fn add(&mut self, judgment: &Judgment, label: bool) {
        self.labeled += 1;
        let in_order = |order| {
            let p = reading(judgment, order)?;
            (p != 0.5).then_some((p > 0.5) == label)
        };
        if let Some(agrees) = in_order(PresentationOrder::Given) {
            self.given_order.add(agrees);
        }
        if let Some(agrees) = in_order(PresentationOrder::Swapped) {
            self.swapped_order.add(agrees);
        }
        let Some((p, verdict)) = judgment.p_first.get().zip(first_won(judgment)) else {
            return;
        };
        let (agrees, confidence) = (verdict == label, p.max(1.0 - p));
        self.agreement.add(agrees);
        if both_orders(judgment).is_some() {
            self.both_orders.add(agrees);
        }
        // Words of the response that the label prefers less words of the other.
        let difference = difference(judgment);
        let towards = if label { difference } else { -difference };
        count_by_length(&LENGTH_EDGES, &mut self.by_length, towards, agrees);
        self.squares.add(square(confidence, agrees));
        self.surprise.add(surprise(confidence, agrees));
        self.bins.add(confidence, agrees);
        let hash = seed::derive(0, &[&judgment.prompt.to_text()]);
        self.prompts.push((hash & !1) | u64::from(agrees));
    }

    fn agreement(self) -> Option<HumanAgreement> {
        if self.labeled == 0 && self.label_ties == 0 {
            return None;
        }
        let (given, swapped) = (self.given_order, self.swapped_order);
        let decided = self.agreement.1;
        let mean = |sum: Exact| (decided > 0).then(|| sum.value() / decided as f64);
        let reliability = self.bins.reliability();
        // What is left undefined below is so for want of rows, or because all labels are alike.
        Some(HumanAgreement {
            labeled: self.labeled,
            label_ties: self.label_ties,
            agreement: self.agreement.proportion(),
            both_orders: self.both_orders.proportion(),
            single_order: Share(given.0 + swapped.0, given.1 + swapped.1).proportion(),
            given_order: given.proportion(),
            swapped_order: swapped.proportion(),
            by_length: length_bins(&LENGTH_EDGES, &self.by_length),
            brier: mean(self.squares),
            log_loss: mean(self.surprise),
            ece: (decided > 0).then(|| error_of(&reliability)),
            reliability,
            agreement_by_prompt: by_prompt(self.prompts),
        })
    }
}

/// The bootstrap over prompts, drawn in the order of their hashes; `None` where each has one row.
fn by_prompt(mut rows: Vec<u64>) -> Option<BootstrapInterval> {
    rows.sort_unstable();
    let groups: Vec<(u64, u64)> = rows
        .chunk_by(|a, b| a >> 1 == b >> 1)
        .map(|rows| (rows.iter().map(|row| row & 1).sum(), rows.len() as u64))
        .collect();
    if groups.len() == rows.len() {
        return None;
    }
    drop(rows);
    let share = |sample: &[&(u64, u64)]| {
        let agree: u64 = sample.iter().map(|(agree, _)| agree).sum();
        let all: u64 = sample.iter().map(|(_, all)| all).sum();
        (all > 0).then(|| agree as f64 / all as f64)
    };
    bootstrap(&groups, share, &Bootstrap::new(0)).ok()
}
