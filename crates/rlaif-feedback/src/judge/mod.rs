//! Judgments: which of two responses follows the constitution better, with what probability.
//!
//! One function, [`judge`]. Each presentation order is read on its own; a pair of orders is
//! combined in log-odds (see [`crate::combine`]), and so are several principles and several judges.
//! A presentation that fails makes its view fail with it: a single order would carry the position
//! bias that the other was to cancel.
//!
//! Sources: Bai et al. 2022, §4.1 (choices, soft labels, chain of thought and its clamp); Lee et
//! al. 2023, §2.1 (both orders, self-consistency); Zheng et al. 2023, §3.4 (ties). Difference:
//! log-odds instead of probabilities are averaged.

mod compare;
mod config;
mod present;
mod scores;
mod setup;
mod verdict;

use rlaif_core::{
    Constitution, Judgment, Opinion, Outcome, Principle, Probability, Prompt, Provenance, Rater,
    Shortened, Usage, seed,
};

use crate::VERSION;
use crate::error::FeedbackError;
pub use config::{Exemplar, JudgeConfig, Juror, Method, Orders, Principles, Rationale, Ties};
pub use setup::Judge;

/// Why a judge abstains that can be shown no difference.
const ALIKE: &str = "what the judge can be shown of the two responses is identical";

fn settings(problem: String) -> FeedbackError {
    FeedbackError::Settings { problem }
}

/// What is known of a pair before a judge is asked.
struct Item<'a> {
    id: &'a str,
    seed: u64,
    prompt: &'a Prompt,
    response_a: &'a str,
    response_b: &'a str,
}

/// What a judgment came to.
#[derive(Default)]
struct End {
    p_first: Probability,
    outcome: Option<Outcome>,
    orders_agree: Option<bool>,
    reason: String,
    orders: Vec<rlaif_core::OrderResult>,
    opinions: Vec<Opinion>,
    scores: Vec<f64>,
    shortened: Option<Shortened>,
    usage: Usage,
}

impl Judge {
    fn record(&self, item: &Item<'_>, principle: Option<&Principle>, end: End) -> Judgment {
        Judgment {
            id: item.id.to_owned(),
            prompt: item.prompt.clone(),
            response_a: item.response_a.to_owned(),
            response_b: item.response_b.to_owned(),
            principle: principle.map(|p| p.id.clone()),
            p_first: end.p_first,
            outcome: end.outcome.unwrap_or(Outcome::Failed),
            orders_agree: end.orders_agree,
            reason: end.reason,
            orders: end.orders,
            opinions: end.opinions,
            scores: end.scores,
            shortened: end.shortened,
            rater: Rater::Model(self.model.id().clone()),
            cost: (&end.usage).into(),
            provenance: Some(Provenance {
                model: self.model.id().clone(),
                sampling: None,
                template: self.template_hash(),
                constitution: self.constitution_hash.clone(),
                seed: item.seed,
                version: VERSION.to_owned(),
                lost: end.usage.lost,
            }),
        }
    }
}

/// Judges one pair. `id` names the row.
///
/// # Errors
/// [`FeedbackError::Template`] and [`FeedbackError::Settings`], or [`FeedbackError::Stop`] where
/// asking on is useless. A judgment that fails is a record whose `outcome` says how, without a
/// probability.
pub async fn judge(
    judge: &Judge,
    id: &str,
    prompt: &Prompt,
    response_a: &str,
    response_b: &str,
) -> Result<Judgment, FeedbackError> {
    if judge.jury.len() != judge.config.jury.len() {
        let (named, given) = (judge.config.jury.len(), judge.jury.len());
        return Err(settings(format!(
            "the jury has {named} further judges, and {given} were opened"
        )));
    }
    let item = Item {
        id,
        seed: seed::derive(judge.seed, &["judge", id]),
        prompt,
        response_a,
        response_b,
    };
    let principles = judge.principles(item.seed);
    let only = match principles.as_slice() {
        [(only, _)] => *only,
        _ => None,
    };
    if response_a == response_b {
        // Equal texts tie by definition; whatever a judge said of them would be position bias.
        let end = End {
            p_first: Probability::new(0.5),
            outcome: Some(Outcome::Tie),
            reason: "the responses are identical".into(),
            ..End::default()
        };
        return Ok(judge.record(&item, only, end));
    }
    let end = match judge.config.method {
        Method::Compare => compare::compare(judge, &item, &principles).await?,
        Method::Score => scores::by_scores(judge, &item, &principles).await?,
    };
    Ok(judge.record(&item, only, end))
}

/// The standard by which to choose: one principle's words, or all of them as a list.
pub(crate) fn standard(constitution: &Constitution, principle: Option<&Principle>) -> String {
    match principle {
        Some(principle) => principle.preference_text(),
        None => {
            let list: Vec<String> = constitution
                .principles
                .iter()
                .map(|p| format!("- {}", p.preference_text().trim()))
                .collect();
            format!(
                "Choose the option that does better by these principles, taken together:\n{}",
                list.join("\n")
            )
        }
    }
}
