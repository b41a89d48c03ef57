//! How to judge, as arguments; and the verbs `rate` and `contrast`.

mod contrast;
mod rate;

use clap::Args;
use rlaif::error::Error;
use rlaif::{Combine, JudgeConfig, Method, Model, Orders, Principles, Rationale, Ties};
use rlaif_feedback::Juror;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::args::EndpointArgs;
use super::desk::Desk;
use super::models::weighted;
pub use contrast::{ContrastArgs, contrast};
pub use rate::{RateArgs, RatedRow, rate};

/// A word of a recipe, on the command line.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(text)).map_err(|e| e.to_string())
}

/// The question of a comparison, and what counts as a tie.
#[derive(Args, Clone)]
pub struct QuestionArgs {
    /// pair, pair_brief, bai, lee_summary, lee_helpful, lee_harmless, zheng, alpaca_eval,
    /// prometheus, or a template file.
    #[arg(long, value_name = "NAME", default_value = "pair")]
    pub template: String,
    /// A probability this near to one half is a tie.
    #[arg(long, value_name = "X", default_value_t = 0.02)]
    pub tie_margin: f64,
}

/// How pairs are compared, in every verb that compares any.
#[derive(Args, Clone)]
pub struct CompareArgs {
    #[command(flatten)]
    pub question: QuestionArgs,
    /// `sampled` (one principle a pair, by weight), `each` (every one by itself, averaged, each
    /// view kept) or `whole` (the whole constitution in one question).
    #[arg(long, value_parser = word::<Principles>, default_value = "sampled")]
    pub principles: Principles,
    /// `both` (each pair twice: position bias is measured and removed) or `given` (half the calls,
    /// position bias left in).
    #[arg(long, value_parser = word::<Orders>, default_value = "both")]
    pub orders: Orders,
}

impl CompareArgs {
    /// At the defaults otherwise.
    fn unchecked(&self) -> JudgeConfig {
        JudgeConfig {
            template: self.question.template.clone(),
            tie_margin: self.question.tie_margin,
            principles: self.principles,
            orders: self.orders,
            ..JudgeConfig::default()
        }
    }
}

/// How a judge writes what is then read: rationales, verdicts and grades.
#[derive(Args, Clone)]
pub struct WritingArgs {
    /// Rationales, written verdicts or grades sampled for each question, and averaged
    /// (self-consistency).
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub samples: u32,
    /// Temperature of several samples.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
    /// Most tokens of each.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub rationale_tokens: u32,
    /// Ask again so often for what cannot be read or was cut off.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub retries: u32,
}

impl WritingArgs {
    fn over(&self, config: JudgeConfig) -> JudgeConfig {
        JudgeConfig {
            samples: self.samples,
            temperature: self.temperature,
            rationale_tokens: self.rationale_tokens,
            retries: self.retries,
            ..config
        }
    }
}

/// How to judge: the keys of a recipe's `[judge]`.
#[derive(Args, Clone)]
pub struct HowArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    /// `compare` (the two are shown together) or `score` (each by itself; equal scores tie).
    #[arg(long, value_parser = word::<Method>, default_value = "compare")]
    pub method: Method,
    /// `logit` (mean of log-odds: an additive position bias cancels exactly) or `probability`
    /// (Lee et al. 2023).
    #[arg(long, value_parser = word::<Combine>, default_value = "logit")]
    pub combine: Combine,
    /// `none`, `after` (one more call a pair) or `first` (reasoning before the verdict: two calls
    /// an order, labels clamped to [0.4, 0.6]).
    #[arg(long, value_parser = word::<Rationale>, default_value = "none")]
    pub rationale: Rationale,
    /// With `--method score`: score, lee_direct, zheng_single, prometheus_single, or a file.
    #[arg(long, value_name = "NAME", default_value = "score")]
    pub score_template: String,
    /// `margin`, or `disagree` (orders that name different responses are a tie, Zheng et al. 2023).
    #[arg(long, value_parser = word::<Ties>, default_value = "margin")]
    pub ties: Ties,
    /// Further judge, as in `--juror MODEL` or `--juror MODEL=WEIGHT` (the first judge counts 1);
    /// repeatable. Each one's view is kept.
    #[arg(long, value_name = "MODEL")]
    pub juror: Vec<String>,
    /// Least share of the weight of principles and judges that must have an answer.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub quorum: f64,
    #[command(flatten)]
    pub writing: WritingArgs,
    /// Let the judge decline to choose.
    #[arg(long)]
    pub abstain: bool,
    /// Worked examples for a few-shot template: JSONL with `prompt`, `chosen`, `rejected`.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub exemplars: String,
    /// How many of them are shown.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub few_shots: usize,
    /// Most characters of prompt and responses together; both responses are shortened by the same
    /// share, and the row says so.
    #[arg(long, value_name = "N")]
    pub max_input_chars: Option<usize>,
    /// Most tokens of them, for a model in memory.
    #[arg(long, value_name = "N")]
    pub max_input_tokens: Option<usize>,
}

impl HowArgs {
    /// The configuration, and the further judges' models.
    ///
    /// # Errors
    /// A weight that is no number.
    pub fn config(&self) -> Result<(JudgeConfig, Vec<String>), Error> {
        let mut models = Vec::new();
        let mut jury = Vec::new();
        for text in &self.juror {
            let (model, weight) = weighted("--juror", text)?;
            models.push(model.to_owned());
            jury.push(Juror {
                model: String::new(),
                weight,
            });
        }
        let config = JudgeConfig {
            jury,
            method: self.method,
            score_template: self.score_template.clone(),
            combine: self.combine,
            rationale: self.rationale,
            ties: self.ties,
            abstain: self.abstain,
            quorum: self.quorum,
            exemplars: self.exemplars.clone(),
            few_shots: self.few_shots,
            max_input_chars: self.max_input_chars,
            max_input_tokens: self.max_input_tokens,
            ..self.writing.over(self.compare.unchecked())
        };
        checked(config).map(|config| (config, models))
    }
}

/// The further judges that `--juror` names, opened.
///
/// # Errors
/// As [`Desk::model`].
pub(super) fn jury(
    desk: &mut Desk,
    named: &[String],
    endpoint: &EndpointArgs,
) -> Result<Vec<Model>, Error> {
    let numbered = named.iter().enumerate();
    numbered
        .map(|(i, url)| desk.model(&format!("juror {}", i + 1), url, endpoint))
        .collect()
}

/// The configuration, or its first fault in the words of the command line.
pub(super) fn checked(config: JudgeConfig) -> Result<JudgeConfig, Error> {
    match config.faults().first() {
        None => Ok(config),
        Some((key, problem)) => Err(Error::input(
            format!("`--{}` {problem}", key.replace('_', "-")),
            "see `--help`",
        )),
    }
}
