//! What an evaluation holds: each policy's completions on prompts that nothing was trained on, who
//! beats whom, and what else was measured. [`crate::stages::evaluate`] makes it, the report shows it.

use std::collections::BTreeMap;
use std::path::Path;

use rlaif_core::{Judgment, Outcome, Prompt};
use rlaif_eval::{Estimate, LogOddsSlope, Proportion, Slope, WinRate};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// One line a prompt and policy.
pub const FILE: &str = "evaluation.jsonl";
/// What they come to: [`Evaluation`].
pub const SUMMARY: &str = "evaluation.json";
/// What evaluators say of the judge's pairs: lines of [`Label`].
pub const LABELS: &str = "evaluation/labels.jsonl";

/// An evaluator's label of a pair that the judge labeled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The pair's id.
    pub id: String,
    /// The evaluator's name.
    pub by: String,
    /// P(the first response is better).
    pub p_first: f64,
}

/// Numbers on a completion, by the evaluator that measured them and their own name.
pub type Numbers = BTreeMap<String, BTreeMap<String, f64>>;

/// Means of [`Numbers`] over completions.
pub type Means = BTreeMap<String, BTreeMap<String, Estimate>>;

/// Who measures completions beside the recipe's critic: a checker, a classifier, known truth.
pub trait Evaluator: Send + Sync {
    /// The name that files and reports show.
    fn name(&self) -> &str;

    /// Numbers on one completion, by name; an empty completion is asked about as well.
    fn measure(&self, prompt: &Prompt, completion: &str, policy: &str) -> BTreeMap<String, f64>;

    /// P(the first response is better) by what this evaluator knows: 1, 0, or ½ where they are equal.
    /// `None`: it does not know. The page holds the judge's labels against it.
    fn label(&self, _judgment: &Judgment) -> Option<f64> {
        None
    }

    /// People whom this evaluator knows, as raters of the pairs that the judge labeled.
    fn raters(&self, _labeled: &[Judgment], _seed: u64) -> Vec<Rater> {
        Vec::new()
    }

    /// The number by which policies are compared, higher is better: the completion with the higher
    /// one wins, equal is a tie. `None`: no comparison.
    fn compares_by(&self) -> Option<&str> {
        None
    }
}

/// Somebody who labels pairs: how steady, and how often right where truth is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rater {
    /// Who.
    pub who: String,
    /// How often the same pair brings the same verdict: a person asked again, a judge that is shown
    /// the pair the other way round.
    pub with_itself: Option<Proportion>,
    /// How often another of the same kind says the same.
    pub with_another: Option<Proportion>,
    /// Share of right labels, of the pairs that known truth decides.
    pub right: Option<Proportion>,
}

/// A completion, measured: one line of [`FILE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The prompt's id.
    pub id: String,
    /// Which policy wrote it.
    pub policy: String,
    /// The conversation up to the completion.
    pub prompt: Prompt,
    /// The completion; empty unless decided.
    pub completion: String,
    /// `decided` where a completion came.
    pub outcome: Outcome,
    /// Its tokens.
    pub tokens: Option<usize>,
    /// Its words.
    pub words: usize,
    /// Score of the reward model.
    pub reward: Option<f32>,
    /// log π − log π_ref of the completion, in nats.
    pub kl: Option<f32>,
    /// What evaluators measured, by their name.
    pub numbers: Numbers,
}

/// A policy on the held-out prompts: means over its completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyFigures {
    /// `base`, `sft`, `ppo` or `dpo`.
    pub policy: String,
    /// Completions that came.
    pub completions: usize,
    /// Prompts without one.
    pub failed: usize,
    /// Tokens.
    pub tokens: Option<Estimate>,
    /// Words.
    pub words: Option<Estimate>,
    /// Score of the reward model.
    pub reward: Option<Estimate>,
    /// KL to `kl_to`, in nats a completion.
    pub kl: Option<Estimate>,
    /// The policy that it started from.
    pub kl_to: Option<String>,
    /// What evaluators measured, by their name.
    pub numbers: Means,
}

/// How often a policy wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Whose rate it is.
    pub policy: String,
    /// Against whom.
    pub against: String,
    /// Who decided: `critic`, or an evaluator's name.
    pub by: String,
    /// Wins, losses, ties, and the rate with its 95 % interval.
    pub result: WinRate,
    /// Share of ties among all that were compared.
    pub tie_rate: Option<f64>,
    /// Prompts that could not be compared: a policy gave no answer, or the judgment failed.
    pub failed: usize,
}

/// How a preference for length grows on its way from the judge to the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bias {
    /// The judge's log-odds of preferring a response, a word of difference.
    pub judge: Option<LogOddsSlope>,
    /// The reward model's difference in score, a word of difference, on held-out pairs.
    pub reward: Option<Slope>,
    /// Words of the last policy less those of the policy that it started from, prompt by prompt.
    pub policy: Option<Estimate>,
}

/// What evaluators measured on PPO's own completions of one iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IterationFigures {
    /// From 1.
    pub iteration: u64,
    /// By evaluator and number.
    pub numbers: Means,
}

/// The evaluation of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Held-out prompts.
    pub prompts: usize,
    /// The policies, as they came one after the other.
    pub policies: Vec<PolicyFigures>,
    /// Who beats whom.
    pub comparisons: Vec<Compared>,
    /// Preference for length.
    pub bias: Bias,
    /// PPO's iterations in the evaluators' eyes; empty without evaluators.
    pub iterations: Vec<IterationFigures>,
    /// The judge as a rater, and the people that evaluators know.
    #[serde(default)]
    pub raters: Vec<Rater>,
}

impl Evaluation {
    /// A comparison by its players and who decided.
    #[must_use]
    pub fn compared(&self, policy: &str, against: &str, by: &str) -> Option<&Compared> {
        self.comparisons
            .iter()
            .find(|c| c.policy == policy && c.against == against && c.by == by)
    }
}

/// The evaluation of a run folder; `None` where it has none.
///
/// # Errors
/// A file that cannot be read.
pub fn read(run: &Path) -> Result<Option<Evaluation>, Error> {
    let path = run.join(SUMMARY);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(rlaif_core::Error::io("read", &path))?;
    let evaluation = serde_json::from_str(&text).map_err(|e| {
        Error::Core(rlaif_core::Error::Format {
            path,
            problem: e.to_string(),
        })
    })?;
    Ok(Some(evaluation))
}
