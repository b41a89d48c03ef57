//! How to judge.

use rlaif_core::{Constitution, Message, Principle, seed};
use serde::{Deserialize, Serialize};

use crate::combine::Combine;

/// Which presentation orders are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orders {
    /// Each pair twice, so that position bias can be measured and removed.
    #[default]
    Both,
    /// As given only: half the calls, with the judge's position bias left in.
    Given,
}

/// By what a pair's label is had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The two are compared.
    #[default]
    Compare,
    /// Each is scored by itself, and the scores are compared.
    Score,
}

/// By which principles a pair is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principles {
    /// One, drawn for the pair by weight (Bai et al. 2022, §4.1).
    #[default]
    Sampled,
    /// Every one by itself; their weighted mean is the label, and each one's view is kept.
    Each,
    /// The whole constitution in one question.
    #[serde(alias = "all")]
    Whole,
}

impl Principles {
    /// The principles by which an item is judged, with their weights; `None` is the whole
    /// constitution.
    pub(crate) fn of(
        self,
        constitution: &Constitution,
        item_seed: u64,
    ) -> Vec<(Option<&Principle>, f64)> {
        match self {
            Principles::Sampled => {
                let drawn = constitution.draw(seed::derive(item_seed, &["principle"]));
                vec![(Some(drawn), 1.0)]
            }
            Principles::Each => {
                let weighted = constitution.principles.iter().filter(|p| p.weight > 0.0);
                weighted.map(|p| (Some(p), p.weight)).collect()
            }
            Principles::Whole => vec![(None, 1.0)],
        }
    }
}

/// When the judge is asked why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rationale {
    /// Never: one call an order.
    #[default]
    None,
    /// After the verdict: one more call a pair; the label stays as it is.
    After,
    /// Before the verdict (chain of thought): two calls an order; labels are clamped.
    First,
}

/// What makes a tie, beside a judge that calls it one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// A probability within `tie_margin` of one half.
    #[default]
    Margin,
    /// Orders that name different responses (Zheng et al. 2023, §3.4); the margin counts too.
    Disagree,
}

/// A further judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Juror {
    /// Name of a model in the recipe.
    pub model: String,
    /// What its view counts, where the first judge's counts 1; above 0.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// A worked example of a comparison, for few-shot templates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exemplar {
    /// The conversation up to the responses.
    pub prompt: Vec<Message>,
    /// The better response.
    pub chosen: String,
    /// The worse response.
    pub rejected: String,
    /// The principle that it is judged by, where it names one.
    #[serde(default)]
    pub principle: Option<String>,
}

/// How to judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeConfig {
    /// Name of a model in the recipe.
    pub model: String,
    /// Further judges, whose views are averaged with the model's, which counts 1.
    pub jury: Vec<Juror>,
    /// `compare` or `score`.
    pub method: Method,
    /// A supplied template (`pair`, `bai`, `zheng` …), or the path of a file.
    pub template: String,
    /// The template of `method = "score"`, likewise.
    pub score_template: String,
    /// `sampled` (one principle a pair), `each` (every one, averaged) or `whole`.
    pub principles: Principles,
    /// `both` or `given`.
    pub orders: Orders,
    /// `logit` or `probability`: how orders, principles and judges are averaged.
    pub combine: Combine,
    /// `none`, `after` or `first`.
    pub rationale: Rationale,
    /// `margin` or `disagree`.
    pub ties: Ties,
    /// A judgment with |p − ½| below this is a tie; in [0, 0.5].
    pub tie_margin: f64,
    /// Bounds of each order's probability after a chain of thought.
    pub cot_clamp: [f64; 2],
    /// Most tokens of a rationale or of a written verdict.
    pub rationale_tokens: u32,
    /// Rationales or written verdicts sampled in each order (self-consistency); 1 is greedy.
    pub samples: u32,
    /// Temperature of several samples.
    pub temperature: f32,
    /// The judge may decline to choose, where the template lets it.
    pub abstain: bool,
    /// How often a verdict that cannot be read or was cut off is asked for again; a cut-off one
    /// with twice the tokens.
    pub retries: u32,
    /// Least share of the weight of principles and judges that must have an answer, in (0, 1].
    pub quorum: f64,
    /// A JSONL file of worked examples (`prompt`, `chosen`, `rejected`), for few-shot templates.
    pub exemplars: String,
    /// How many of them are shown.
    pub few_shots: usize,
    /// Most characters of prompt and responses together; longer ones are shortened.
    pub max_input_chars: Option<usize>,
    /// Most tokens of prompt and responses together, where the model's tokenizer is known.
    pub max_input_tokens: Option<usize>,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        JudgeConfig {
            model: "critic".into(),
            jury: Vec::new(),
            method: Method::Compare,
            template: "pair".into(),
            score_template: "score".into(),
            principles: Principles::Sampled,
            orders: Orders::Both,
            combine: Combine::Logit,
            rationale: Rationale::None,
            ties: Ties::Margin,
            tie_margin: 0.02,
            cot_clamp: [0.4, 0.6],
            rationale_tokens: 256,
            samples: 1,
            temperature: 0.7,
            abstain: false,
            retries: 0,
            quorum: 1.0,
            exemplars: String::new(),
            few_shots: 2,
            max_input_chars: None,
            max_input_tokens: None,
        }
    }
}

impl JudgeConfig {
    /// What is wrong with it, as (key, what it must be, what it is).
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let [lo, hi] = self.cot_clamp;
        let weights = self
            .jury
            .iter()
            .find(|j| !(j.weight > 0.0 && j.weight.is_finite()));
        let heat = f64::from(self.temperature);
        let mut found = Vec::new();
        let mut must = |key, holds: bool, wanted: &str, got: String| {
            if !holds {
                found.push((key, format!("must be {wanted}, got `{got}`")));
            }
        };
        let margin = self.tie_margin;
        must(
            "tie_margin",
            (0.0..=0.5).contains(&margin),
            "in [0, 0.5]",
            margin.to_string(),
        );
        must(
            "cot_clamp",
            0.0 <= lo && lo <= hi && hi <= 1.0,
            "two rising numbers in [0, 1]",
            format!("[{lo}, {hi}]"),
        );
        must(
            "samples",
            self.samples > 0,
            "at least 1",
            self.samples.to_string(),
        );
        must(
            "rationale_tokens",
            self.rationale_tokens > 0,
            "at least 1",
            "0".into(),
        );
        must(
            "temperature",
            heat >= 0.0 && heat.is_finite(),
            "at least 0",
            heat.to_string(),
        );
        must(
            "retries",
            self.retries <= 16,
            "at most 16",
            self.retries.to_string(),
        );
        let quorum = self.quorum;
        must(
            "quorum",
            quorum > 0.0 && quorum <= 1.0,
            "in (0, 1]",
            quorum.to_string(),
        );
        if let Some(juror) = weights {
            must(
                "jury",
                false,
                "of judges with a weight above 0",
                juror.weight.to_string(),
            );
        }
        for (key, most) in [
            ("max_input_chars", self.max_input_chars),
            ("max_input_tokens", self.max_input_tokens),
        ] {
            if let Some(n) = most {
                must(key, n >= 100, "at least 100", n.to_string());
            }
        }
        found
    }
}
