//! What the stages write: one record a row, each with its provenance.
//!
//! Records hold nothing that differs between two runs of the same thing: no times of day, no
//! durations, no counts of retries. So an undisturbed run and a resumed one give equal files.

use serde::{Deserialize, Serialize};

use crate::message::Prompt;
use crate::model::{Evidence, ModelId, Sampling, Usage};
use crate::outcome::{Outcome, Probability};

/// Who gave a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Rater {
    /// A model.
    Model(ModelId),
    /// A person, by the name that the data gives.
    Human(String),
}

/// Where a record comes from: enough to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model asked.
    pub model: ModelId,
    /// How it was sampled; absent where choices were scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// SHA-256 of the prompt template, or empty where none was used.
    pub template: String,
    /// SHA-256 of the constitution, or empty where none was used.
    pub constitution: String,
    /// The seed of this item.
    pub seed: u64,
    /// Version of rlaif.
    pub version: String,
    /// Request fields that the endpoint refused, so that this record went without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// What a record cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Answers used.
    pub calls: u32,
    /// Prompt tokens, by the server's count.
    pub prompt_tokens: u64,
    /// Generated tokens, by the server's count.
    pub completion_tokens: u64,
    /// Money; `null` where the model has no price.
    pub usd: Option<f64>,
}

impl Cost {
    /// Costs together; money is known only where every one of them is.
    #[must_use]
    pub fn sum(costs: impl IntoIterator<Item = Cost>) -> Self {
        let mut sum = Cost {
            usd: Some(0.0),
            ..Cost::default()
        };
        for cost in costs {
            sum.calls += cost.calls;
            sum.prompt_tokens += cost.prompt_tokens;
            sum.completion_tokens += cost.completion_tokens;
            sum.usd = sum.usd.zip(cost.usd).map(|(a, b)| a + b);
        }
        sum
    }
}

impl From<&Usage> for Cost {
    fn from(usage: &Usage) -> Self {
        Cost {
            calls: usage.calls,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            usd: usage.usd,
        }
    }
}

/// A completion waiting for judgment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The row's id.
    pub id: String,
    /// Which draw for this prompt, from 0.
    pub draw: u32,
    /// The conversation up to the completion.
    pub prompt: Prompt,
    /// The completion; empty unless decided.
    pub completion: String,
    /// `decided` where a completion came.
    pub outcome: Outcome,
    /// Why there is none, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it cost.
    pub cost: Cost,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// How far a response follows one principle, in the critic's eyes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adherence {
    /// The principle's id.
    pub principle: String,
    /// From 1 (violates it) to 5 (follows it fully); absent where the critic gave no grade.
    pub grade: Option<u8>,
}

/// A critic's view of one response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Critique {
    /// The row's id.
    pub id: String,
    /// Step in a chain of critiques and revisions, from 0.
    pub step: u32,
    /// The conversation up to the response.
    pub prompt: Prompt,
    /// The response.
    pub response: String,
    /// The critique in the critic's words; empty unless decided.
    pub text: String,
    /// One entry a principle that the critic was asked about.
    pub adherence: Vec<Adherence>,
    /// From 1 to 10; absent where the critic gave none.
    pub quality: Option<u8>,
    /// What to change, one a line of advice.
    pub suggestions: Vec<String>,
    /// The principles asked about.
    pub principles: Vec<String>,
    /// `decided` where a critique came.
    pub outcome: Outcome,
    /// Why there is none, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who wrote it.
    pub rater: Rater,
    /// What it cost.
    pub cost: Cost,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// What is wrong with a revision, found by comparing texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionFlag {
    /// It says what the response said.
    Unchanged,
    /// It repeats the critique instead of answering the prompt.
    RepeatsCritique,
    /// It is empty.
    Empty,
    /// It declines to answer where the response did not.
    Refusal,
}

/// A response rewritten in the light of a critique.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The row's id.
    pub id: String,
    /// Step in a chain, from 0.
    pub step: u32,
    /// The conversation up to the response.
    pub prompt: Prompt,
    /// What was revised.
    pub original: String,
    /// The revised response; empty unless decided.
    pub text: String,
    /// The critique that it follows.
    pub critique: String,
    /// The principles that the critique was about.
    pub principles: Vec<String>,
    /// Share of words in common with the original, in [0, 1] (Jaccard over distinct words).
    pub similarity: Option<f64>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<RevisionFlag>,
    /// `decided` where a revision came.
    pub outcome: Outcome,
    /// Why there is none, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it cost.
    pub cost: Cost,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// Which response the judge saw first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresentationOrder {
    /// The response given first was shown first.
    Given,
    /// The response given second was shown first.
    Swapped,
}

/// One presentation of a pair to a judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "WrittenOrder")]
pub struct OrderResult {
    /// Which response was shown first.
    pub order: PresentationOrder,
    /// P(the response *given* first is better): already un-swapped.
    pub p_first: Probability,
    /// P(the answer was neither choice), in [0, 1].
    pub off_choice_mass: Option<f32>,
    /// How the probability was obtained.
    pub evidence: Option<Evidence>,
    /// How this presentation ended.
    pub outcome: Outcome,
    /// What the judge wrote.
    pub raw: String,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the judge told beside its verdict.
    #[serde(flatten)]
    pub told: Told,
}

/// An [`OrderResult`] as it is read: flattened fields would be held a second time on the way, for
/// each of a million records.
#[derive(Deserialize)]
struct WrittenOrder {
    order: PresentationOrder,
    p_first: Probability,
    off_choice_mass: Option<f32>,
    evidence: Option<Evidence>,
    outcome: Outcome,
    raw: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    tie_mass: Option<f64>,
    #[serde(default)]
    abstain_mass: Option<f64>,
    #[serde(default)]
    rationale: String,
    #[serde(default)]
    reasoning: String,
}

impl From<WrittenOrder> for OrderResult {
    fn from(read: WrittenOrder) -> Self {
        OrderResult {
            order: read.order,
            p_first: read.p_first,
            off_choice_mass: read.off_choice_mass,
            evidence: read.evidence,
            outcome: read.outcome,
            raw: read.raw,
            error: read.error,
            told: Told {
                tie_mass: read.tie_mass,
                abstain_mass: read.abstain_mass,
                rationale: read.rationale,
                reasoning: read.reasoning,
            },
        }
    }
}

/// What a judge told beside its verdict; all of it absent where it told nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Told {
    /// P(tie), in [0, 1], where the template offers a tie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie_mass: Option<f64>,
    /// P(the judge abstains), in [0, 1], where it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abstain_mass: Option<f64>,
    /// The rationale before the verdict; several samples are parted by a line `---`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rationale: String,
    /// What a reasoning model thought, kept apart from its answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
}

/// One judge's view by one principle, where a judgment combines several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// Who judged.
    pub judge: ModelId,
    /// Id of the principle judged by; `null` where the whole constitution was.
    pub principle: Option<String>,
    /// Its weight in the mean, above 0.
    pub weight: f64,
    /// P(the response given first is better), both orders combined; `null` unless decided or tie.
    pub p_first: Probability,
    /// How it ended.
    pub outcome: Outcome,
    /// The orders name the same response; `null` where fewer than two were read.
    pub orders_agree: Option<bool>,
    /// Each presentation.
    pub orders: Vec<OrderResult>,
}

/// What a judge was shown of a pair that did not fit: shares of the characters, in (0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shortened {
    /// Of the prompt.
    pub prompt: f64,
    /// Of each response; the same for all, so that none is at a disadvantage.
    pub responses: f64,
}

/// A judge's comparison of two responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgment {
    /// The row's id.
    pub id: String,
    /// The conversation up to the responses.
    pub prompt: Prompt,
    /// The response given first.
    pub response_a: String,
    /// The response given second.
    pub response_b: String,
    /// Id of the principle judged by; `null` where the whole constitution was.
    pub principle: Option<String>,
    /// P(the response given first is better), both orders combined; `null` unless decided or tie.
    pub p_first: Probability,
    /// How it ended.
    pub outcome: Outcome,
    /// The orders name the same response; `null` where fewer than two were read.
    pub orders_agree: Option<bool>,
    /// Why, in the judge's words; empty where it was not asked.
    pub reason: String,
    /// Each presentation. Of several judges or principles: the mean of each order.
    pub orders: Vec<OrderResult>,
    /// Each judge's view by each principle, where there are several; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opinions: Vec<Opinion>,
    /// The scores of both responses, where the label comes from scores; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<f64>,
    /// What did not fit; absent where the judge was shown everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortened: Option<Shortened>,
    /// Who judged.
    pub rater: Rater,
    /// What it cost.
    pub cost: Cost,
    /// Where it comes from; absent for a label read from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

impl Judgment {
    /// A label of two responses and whose it is; nothing else is known of it.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        prompt: Prompt,
        [response_a, response_b]: [String; 2],
        outcome: Outcome,
        p_first: Probability,
        rater: Rater,
    ) -> Self {
        Judgment {
            id: id.into(),
            prompt,
            response_a,
            response_b,
            principle: None,
            p_first,
            outcome,
            orders_agree: None,
            reason: String::new(),
            orders: Vec::new(),
            opinions: Vec::new(),
            scores: Vec::new(),
            shortened: None,
            rater,
            cost: Cost::default(),
            provenance: None,
        }
    }

    /// The better response, the worse one, and P(the former is better); `None` for a tie and for
    /// whatever else is not decided: a preference is never made up.
    #[must_use]
    pub fn sides(&self) -> Option<(&str, &str, f64)> {
        let (a, b) = (self.response_a.as_str(), self.response_b.as_str());
        match (self.outcome, self.p_first.get()) {
            (Outcome::Decided, Some(p)) if p > 0.5 => Some((a, b, p)),
            (Outcome::Decided, Some(p)) if p < 0.5 => Some((b, a, 1.0 - p)),
            _ => None,
        }
    }
}

/// A judge's score of one response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rating {
    /// The row's id.
    pub id: String,
    /// The conversation up to the response.
    pub prompt: Prompt,
    /// The response.
    pub response: String,
    /// Id of the principle, or name of the aspect, scored by; `null` where the whole constitution
    /// was.
    pub principle: Option<String>,
    /// Expected score on the template's scale; `null` unless decided.
    pub score: Option<f64>,
    /// P of each score, lowest first; empty unless decided. Sums to 1.
    pub distribution: Vec<f64>,
    /// P(the answer was no score), in [0, 1].
    pub off_choice_mass: Option<f32>,
    /// How the distribution was obtained.
    pub evidence: Option<Evidence>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in the judge's words; empty where it gave no words.
    pub reason: String,
    /// What the judge wrote.
    pub raw: String,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What did not fit; absent where the judge was shown everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortened: Option<Shortened>,
    /// Who scored.
    pub rater: Rater,
    /// What it cost.
    pub cost: Cost,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// A judgment turned into the two sides of a preference pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// The row's id.
    pub id: String,
    /// The conversation up to the responses.
    pub prompt: Prompt,
    /// The better response; `null` unless decided.
    pub chosen: Option<String>,
    /// The worse response; `null` unless decided.
    pub rejected: Option<String>,
    /// P(chosen is better), at least one half; `null` unless decided.
    pub p_chosen: Probability,
    /// P(the response given first is better).
    pub p_first: Probability,
    /// The orders name the same response.
    pub orders_agree: Option<bool>,
    /// How the judgment ended.
    pub outcome: Outcome,
    /// Id of the principle judged by.
    pub principle: Option<String>,
    /// Who judged.
    pub judge: Rater,
    /// Part of the data that the prompt belongs to.
    pub split: crate::seed::Split,
}

impl From<&Judgment> for Preference {
    fn from(judgment: &Judgment) -> Self {
        let sides = judgment.sides();
        Preference {
            id: judgment.id.clone(),
            prompt: judgment.prompt.clone(),
            chosen: sides.map(|(chosen, _, _)| chosen.to_owned()),
            rejected: sides.map(|(_, rejected, _)| rejected.to_owned()),
            p_chosen: sides.map_or(Probability::NONE, |(_, _, p)| Probability::new(p)),
            p_first: judgment.p_first,
            orders_agree: judgment.orders_agree,
            outcome: judgment.outcome,
            principle: judgment.principle.clone(),
            judge: judgment.rater.clone(),
            split: crate::seed::Split::of(&judgment.prompt),
        }
    }
}
