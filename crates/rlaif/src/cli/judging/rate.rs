//! `rlaif rate`: every completion of every row, scored by itself.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use rlaif::error::Error;
use rlaif::rows::Ended;
use rlaif::stages::{fixed, judge as judges};
use rlaif::{Constitution, JudgeConfig, Method, Outcome, Principles};
use rlaif_core::dataset::Row;
use rlaif_core::export::line_of;
use rlaif_core::{Cost, Rating};
use rlaif_feedback::{FeedbackError, Scorer, ratings_of};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{WritingArgs, checked, word};
use crate::cli::args::{EndpointArgs, FilesArgs, Global};
use crate::cli::desk::{Desk, Work};
use crate::cli::loose::{not_run, rater_name, with_columns};

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
pub struct RatedRow {
    pub ratings: Vec<Vec<Rating>>,
}

impl RatedRow {
    /// Scores every completion of a row.
    ///
    /// # Errors
    /// As [`ratings_of`].
    pub async fn ask(scorer: &Scorer, row: &Row) -> Result<Self, FeedbackError> {
        let texts: Vec<&str> = row.completions.iter().map(String::as_str).collect();
        let ratings = ratings_of(scorer, &row.id, &row.prompt, &texts).await?;
        Ok(RatedRow { ratings })
    }

    /// The row's key in a log.
    pub fn key(settings: &str, row: &Row) -> String {
        let prompt = fixed(&row.prompt);
        let mut parts = vec!["rate", settings, &row.id, &prompt];
        parts.extend(row.completions.iter().map(String::as_str));
        rlaif::rows::row_key(&parts)
    }

    /// A score for each completion: the weighted mean over the principles, and none where any of
    /// them is missing, so that no response is scored by fewer aspects than its neighbor.
    pub fn scores(&self, constitution: &Constitution) -> Vec<Option<f64>> {
        let weight = |r: &Rating| {
            let principle = r.principle.as_deref().and_then(|id| constitution.get(id));
            principle.map_or(1.0, |p| p.weight)
        };
        let mean = |of: &Vec<Rating>| {
            let scores: Option<Vec<f64>> = of.iter().map(|r| Some(weight(r) * r.score?)).collect();
            let total: f64 = of.iter().map(weight).sum();
            scores.map(|s| s.iter().sum::<f64>() / total)
        };
        self.ratings.iter().map(mean).collect()
    }
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
fn columns(completions: &[String], rated: &RatedRow, scorer: &Scorer) -> Value {
    let judge = &scorer.model;
    let of = |rating: &Rating| json!(rating.score);
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
        "ratings": rated.scores(&scorer.constitution),
        "rationales": rated.ratings.iter().map(reasons).collect::<Vec<_>>(),
        "aspects": aspects,
        "distributions": rated.ratings.iter().map(|r| r.iter().map(|r| &r.distribution).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "outcomes": rated.ratings.iter().map(|r| r.iter().map(|r| r.outcome).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "raw": rated.ratings.iter().map(|r| r.iter().map(|r| &r.raw).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "outcome": rated.outcome(), "error": rated.error(),
        "shortened": rated.ratings.iter().flatten().find_map(|r| r.shortened),
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
                Ok(rows.filter(some))
            },
            |row: &Arc<Row>| RatedRow::key(&settings, row),
            |row: Arc<Row>| async move { RatedRow::ask(scorer, &row).await },
            |row, rated: Option<RatedRow>| match rated {
                Some(rated) => {
                    let mut added = columns(&row.completions, &rated, scorer);
                    if let (false, Some(map)) = (
                        row.columns.contains_key("instruction"),
                        added.as_object_mut(),
                    ) {
                        map.insert("instruction".into(), row.prompt.to_text().into());
                    }
                    line_of(&with_columns(&row.columns, &row.prompt, added))
                }
                None => line_of(&not_run(row, json!({"rlaif_id": row.id}))),
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
