//! How to judge, as arguments; and the verb `rate`.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use rlaif::error::Error;
use rlaif::rows::Ended;
use rlaif::stages::{fixed, judge as judges};
use rlaif::{Combine, JudgeConfig, Method, Orders, Outcome, Principles, Rationale, Ties};
use rlaif_core::dataset::Row;
use rlaif_core::{Cost, Judgment, Model, Rating, Sampling};
use rlaif_feedback::{Contrast, Juror, Scorer, ratings};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::args::{EndpointArgs, FilesArgs, Global};
use super::desk::{Desk, Work};
use super::loose::{judged_row, not_run, rater_name, with_columns};
use super::models::weighted;

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
    /// The configuration, at the defaults otherwise.
    ///
    /// # Errors
    /// A value out of its range.
    pub fn config(&self) -> Result<JudgeConfig, Error> {
        checked(self.unchecked())
    }

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

#[derive(Args)]
pub struct RateArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    /// The judge: `http://host:port/v1#NAME`, or a model's folder.
    #[arg(long, visible_alias = "judge", value_name = "MODEL")]
    pub critic: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// score (1 to 10 by probability, direct RLAIF), lee_direct, zheng_single, prometheus_single,
    /// ultrafeedback (1 to 5 with a rationale), or a template file.
    #[arg(long, value_name = "NAME", default_value = "score")]
    pub template: String,
    /// `whole` (one score by the whole constitution), `each` (a score by every principle) or
    /// `sampled`. With the supplied constitution `ultrafeedback.toml` the principles are
    /// UltraFeedback's aspects.
    #[arg(long, value_parser = word::<Principles>, default_value = "whole")]
    pub principles: Principles,
    #[command(flatten)]
    pub writing: WritingArgs,
    /// Most characters of prompt and response together.
    #[arg(long, value_name = "N")]
    pub max_input_chars: Option<usize>,
}

/// The scores of a row's completions, by principle and completion.
#[derive(Serialize, Deserialize)]
struct RatedRow {
    ratings: Vec<Vec<Rating>>,
}

impl Ended for RatedRow {
    /// Decided where every completion has every score; else how the first without one ended.
    fn outcome(&self) -> Outcome {
        let mut outcomes = self.ratings.iter().flatten().map(|r| r.outcome);
        outcomes
            .find(|o| *o != Outcome::Decided)
            .unwrap_or(Outcome::Decided)
    }

    fn error(&self) -> Option<String> {
        self.ratings.iter().flatten().find_map(|r| r.error.clone())
    }

    fn cost(&self) -> Cost {
        Cost::sum(self.ratings.iter().flatten().map(|r| r.cost))
    }
}

/// The columns of a rated row: distilabel's `generations`, `ratings`, `rationales`; and the same by
/// principle, where there are several.
fn columns(completions: &[String], rated: &RatedRow, judge: &Model) -> Value {
    let of = |rating: &Rating| json!(rating.score);
    // `ratings` are means over the principles, and null where any of them is missing: a response
    // is never rated by fewer aspects than its neighbor.
    let mean = |of_completion: &Vec<Rating>| -> Option<f64> {
        let scores: Option<Vec<f64>> = of_completion.iter().map(|r| r.score).collect();
        scores.map(|s| s.iter().sum::<f64>() / s.len().max(1) as f64)
    };
    let reasons = |of_completion: &Vec<Rating>| -> Option<String> {
        let said: Vec<&str> = of_completion.iter().map(|r| r.reason.trim()).collect();
        let said = said.join("\n").trim().to_owned();
        (!said.is_empty()).then_some(said)
    };
    let mut aspects = Map::new();
    for rating in rated.ratings.iter().flatten() {
        let Some(principle) = &rating.principle else {
            continue;
        };
        let entry = aspects
            .entry(principle.clone())
            .or_insert_with(|| json!({"ratings": [], "rationales": []}));
        for (key, value) in [
            ("ratings", of(rating)),
            ("rationales", json!(rating.reason)),
        ] {
            if let Some(Value::Array(list)) = entry.get_mut(key) {
                list.push(value);
            }
        }
    }
    json!({
        "generations": completions,
        "ratings": rated.ratings.iter().map(mean).collect::<Vec<_>>(),
        "rationales": rated.ratings.iter().map(reasons).collect::<Vec<_>>(),
        "aspects": aspects,
        "distributions": rated.ratings.iter().map(|r| r.iter().map(|r| &r.distribution).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "outcomes": rated.ratings.iter().map(|r| r.iter().map(|r| r.outcome).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "raw": rated.ratings.iter().map(|r| r.iter().map(|r| &r.raw).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "outcome": rated.outcome(), "error": rated.error(),
        "model_name": judge.id(),
        "judge": rated.ratings.iter().flatten().next().map(|r| rater_name(&r.rater)),
    })
}

/// `rlaif rate`: scores every completion of every row.
pub async fn rate(args: &RateArgs, global: &Global) -> Result<u8, Error> {
    let mut desk = Desk::open(&args.files, "rate", &args.endpoint.run, global)?;
    let model = desk.model("critic", &args.critic, &args.endpoint)?;
    let config = checked(JudgeConfig {
        method: Method::Score,
        score_template: args.template.clone(),
        principles: args.principles,
        max_input_chars: args.max_input_chars,
        ..args.writing.over(JudgeConfig::default())
    })?;
    let scorer = judges::scorer_of(&config, model, &desk.constitution, Path::new(""), desk.seed)?;
    let settings = judges::scorer_settings(&scorer);
    let scorer: &Scorer = &scorer;
    let (tally, gate) = desk
        .work(
            Work {
                verb: "rate",
                files: &args.files,
                endpoint: &args.endpoint,
                wanted: "a completion to score",
            },
            || {
                let rows = desk.input.rows()?;
                let some = |row: &Result<Arc<Row>, Error>| {
                    row.as_ref().map_or(true, |row| !row.completions.is_empty())
                };
                Ok(rows.filter(some).map(|row| {
                    let row = row?;
                    let prompt = fixed(&row.prompt);
                    let mut parts = vec!["rate", &settings, &row.id, &prompt];
                    parts.extend(row.completions.iter().map(String::as_str));
                    Ok((rlaif::rows::row_key(&parts), row))
                }))
            },
            |row: Arc<Row>| async move {
                let row = &*row;
                let asked = row
                    .completions
                    .iter()
                    .enumerate()
                    .map(|(i, text)| async move {
                        let id = match row.completions.len() {
                            1 => row.id.clone(),
                            _ => format!("{}/{i}", row.id),
                        };
                        ratings(scorer, &id, &row.prompt, text).await
                    });
                let mut rated = Vec::with_capacity(row.completions.len());
                for of_completion in futures::future::join_all(asked).await {
                    rated.push(of_completion?);
                }
                Ok(RatedRow { ratings: rated })
            },
            |row, rated: Option<RatedRow>| match rated {
                Some(rated) => {
                    let mut added = columns(&row.completions, &rated, &scorer.model);
                    if let (false, Some(map)) = (
                        row.columns.contains_key("instruction"),
                        added.as_object_mut(),
                    ) {
                        map.insert("instruction".into(), row.prompt.to_text().into());
                    }
                    with_columns(&row.columns, &row.prompt, added)
                }
                None => not_run(row, json!({"rlaif_id": row.id})),
            },
            [],
        )
        .await?;
    let words = format!(
        "{} of {} rows scored from {} to {}",
        tally.count(Outcome::Decided),
        tally.rows,
        scorer.scale().from,
        scorer.scale().to
    );
    desk.end(global, &args.files.out, &tally, gate, Map::new(), &words)
}

#[derive(Args)]
pub struct ContrastArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    /// The policy that answers: `http://host:port/v1#NAME`, or a model's folder.
    #[arg(long, value_name = "MODEL")]
    pub policy: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Added to the prompt for the better answer; `{principle}` is the row's principle.
    #[arg(long, value_name = "TEXT", default_value = Contrast::POSITIVE)]
    pub positive: String,
    /// Added to the prompt for the worse answer.
    #[arg(long, value_name = "TEXT", default_value = Contrast::NEGATIVE)]
    pub negative: String,
    /// Temperature of the policy.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f32,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_new_tokens: u32,
}

/// `rlaif contrast`: pairs that are labeled by how they were made.
pub async fn contrast(args: &ContrastArgs, global: &Global) -> Result<u8, Error> {
    if args.positive == args.negative {
        return Err(Error::input(
            "`--positive` and `--negative` are the same",
            "the two answers would differ by chance alone",
        ));
    }
    let mut desk = Desk::open(&args.files, "contrast", &args.endpoint.run, global)?;
    let by = Contrast {
        model: desk.model("policy", &args.policy, &args.endpoint)?,
        constitution: desk.constitution.clone(),
        positive: args.positive.clone(),
        negative: args.negative.clone(),
        sampling: Sampling {
            temperature: args.temperature,
            max_new_tokens: args.max_new_tokens,
            ..Sampling::default()
        },
        seed: desk.seed,
    };
    let settings = fixed(&(
        by.model.id(),
        by.constitution.hash(),
        &by.positive,
        &by.negative,
        &by.sampling,
        by.seed,
    ));
    let by = &by;
    let (tally, gate) = desk
        .work(
            Work {
                verb: "contrast",
                files: &args.files,
                endpoint: &args.endpoint,
                wanted: "a prompt",
            },
            || {
                Ok(desk.input.rows()?.map(|row| {
                    let row = row?;
                    let prompt = fixed(&row.prompt);
                    let key = rlaif::rows::row_key(&["contrast", &settings, &row.id, &prompt]);
                    Ok((key, row))
                }))
            },
            |row: Arc<Row>| async move { rlaif_feedback::contrast(by, &row.id, &row.prompt).await },
            |row, pair: Option<Judgment>| match pair {
                Some(pair) => judged_row(row, &pair),
                None => not_run(row, json!({"rlaif_id": row.id})),
            },
            [],
        )
        .await?;
    let words = format!(
        "{} of {} prompts answered twice, labeled by construction",
        tally.count(Outcome::Decided),
        tally.rows
    );
    desk.end(global, &args.files.out, &tally, gate, Map::new(), &words)
}
