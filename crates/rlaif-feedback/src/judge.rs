//! Judgments: which of two responses follows the constitution better, with what probability.
//!
//! One function, [`judge`]. Each presentation order is scored on its own by the log-probabilities
//! of the two choices; a pair of orders is combined in log-odds (see [`crate::combine`]). A
//! presentation that fails makes the judgment fail with it: a single order would carry the
//! position bias that the other was to cancel.
//!
//! Sources: Bai et al. 2022, §4.1 (choices, soft labels, chain of thought and its clamp); Lee et
//! al. 2023, §2.1 (both orders). Difference: log-odds instead of probabilities are averaged.

use std::sync::Arc;

use futures::future;
use minijinja::context;
use rlaif_core::{
    ChoiceRequest, Constitution, Judgment, Message, Model, OrderResult, Outcome, PresentationOrder,
    Principle, Probability, Prompt, Provenance, Rater, Sampling, Usage, seed,
};
use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::ask;
use crate::combine;
use crate::critique::Scope;
use crate::error::FeedbackError;
use crate::template::{Inserts, Purpose, Template, fence};

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

/// How two orders become one probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Mean of log-odds: an additive position bias cancels exactly.
    #[default]
    Logit,
    /// Mean of probabilities, as in Lee et al. 2023.
    Probability,
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

/// How to judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeConfig {
    /// Name of a model in the recipe.
    pub model: String,
    /// `pair`, or the path of a template file.
    pub template: String,
    /// `sampled` (one principle a pair) or `all` (the whole constitution).
    pub principles: Scope,
    /// `both` or `given`.
    pub orders: Orders,
    /// `logit` or `probability`.
    pub combine: Combine,
    /// `none`, `after` or `first`.
    pub rationale: Rationale,
    /// A judgment with |p − ½| below this is a tie; in [0, 0.5].
    pub tie_margin: f64,
    /// Bounds of each order's probability after a chain of thought.
    pub cot_clamp: [f64; 2],
    /// Most tokens of a rationale.
    pub rationale_tokens: u32,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        JudgeConfig {
            model: "critic".into(),
            template: "pair".into(),
            principles: Scope::Sampled,
            orders: Orders::Both,
            combine: Combine::Logit,
            rationale: Rationale::None,
            tie_margin: 0.02,
            cot_clamp: [0.4, 0.6],
            rationale_tokens: 256,
        }
    }
}

/// Everything a judgment needs beside the pair.
pub struct Judge {
    /// The judge.
    pub model: Model,
    /// The principles.
    pub constitution: Constitution,
    /// How to judge.
    pub config: JudgeConfig,
    /// The run's seed.
    pub seed: u64,
    pair: Template,
    reason_first: Template,
    verdict_after_reason: Template,
    reason_after: Template,
}

impl Judge {
    /// A judge with a pair template of the caller's, or the shipped one that the configuration
    /// names.
    ///
    /// # Errors
    /// [`FeedbackError::Template`].
    pub fn new(
        model: Model,
        constitution: Constitution,
        config: JudgeConfig,
        pair: Option<Template>,
        seed: u64,
    ) -> Result<Self, FeedbackError> {
        let pair = match pair {
            Some(template) => template,
            None => Template::shipped(&config.template, Purpose::Pair)?,
        };
        Ok(Judge {
            model,
            constitution,
            config,
            seed,
            pair,
            reason_first: Template::shipped("reason_first", Purpose::ReasonFirst)?,
            verdict_after_reason: Template::shipped(
                "verdict_after_reason",
                Purpose::VerdictAfterReason,
            )?,
            reason_after: Template::shipped("reason_after", Purpose::ReasonAfter)?,
        })
    }

    /// Calls that one pair takes, at most (the reason after a verdict is asked only where there
    /// is one).
    #[must_use]
    pub fn calls_per_pair(config: &JudgeConfig) -> u32 {
        let orders = match config.orders {
            Orders::Both => 2,
            Orders::Given => 1,
        };
        match config.rationale {
            Rationale::None => orders,
            Rationale::After => orders + 1,
            Rationale::First => 2 * orders,
        }
    }

    /// SHA-256 of the pair template: part of what determines a label.
    #[must_use]
    pub fn template_hash(&self) -> &str {
        self.pair.hash()
    }
}

/// A presentation with what its reason needs.
struct Presented {
    result: OrderResult,
    messages: Vec<Message>,
    rationale: String,
    usage: Usage,
}

/// Judges one pair. `id` names the row.
///
/// # Errors
/// [`FeedbackError::Template`], or [`FeedbackError::Stop`] where asking on is useless. A judgment
/// that fails is a record whose `outcome` says how, without a probability.
pub async fn judge(
    judge: &Judge,
    id: &str,
    prompt: &Prompt,
    response_a: &str,
    response_b: &str,
) -> Result<Judgment, FeedbackError> {
    let config = &judge.config;
    let item_seed = seed::derive(judge.seed, &["judge", id]);
    let principle = match config.principles {
        Scope::Sampled => Some(
            judge
                .constitution
                .draw(seed::derive(item_seed, &["principle"])),
        ),
        Scope::All => None,
    };
    let standard = standard(&judge.constitution, principle);
    let record = |p_first, outcome, orders_agree, reason, orders, usage: Usage| Judgment {
        id: id.to_owned(),
        prompt: prompt.clone(),
        response_a: response_a.to_owned(),
        response_b: response_b.to_owned(),
        principle: principle.map(|p| p.id.clone()),
        p_first,
        outcome,
        orders_agree,
        reason,
        orders,
        rater: Rater::Model(judge.model.id().clone()),
        cost: (&usage).into(),
        provenance: Some(Provenance {
            model: judge.model.id().clone(),
            sampling: None,
            template: judge.pair.hash().to_owned(),
            constitution: judge.constitution.hash(),
            seed: item_seed,
            version: VERSION.to_owned(),
            lost: usage.lost,
        }),
    };
    if response_a == response_b {
        // Equal texts tie by definition; whatever a judge said of them would be position bias.
        let reason = "the responses are identical".to_owned();
        let half = Probability::new(0.5);
        return Ok(record(
            half,
            Outcome::Tie,
            None,
            reason,
            Vec::new(),
            Usage::default(),
        ));
    }
    let mut usage = Usage::default();
    let given = present(judge, id, prompt, response_a, response_b, &standard, false);
    let presented = match config.orders {
        Orders::Given => vec![given.await?],
        Orders::Both => {
            let swapped = present(judge, id, prompt, response_a, response_b, &standard, true);
            let (given, swapped) = future::join(given, swapped).await;
            vec![given?, swapped?]
        }
    };
    for p in &presented {
        usage.add(&p.usage);
    }
    let (p_first, outcome) = verdict(config, &presented);
    let orders_agree = match presented.as_slice() {
        [a, b] => match (a.result.p_first.get(), b.result.p_first.get()) {
            (Some(a), Some(b)) => Some((a > 0.5) == (b > 0.5) && a != 0.5 && b != 0.5),
            _ => None,
        },
        _ => None,
    };
    let reason = match (config.rationale, outcome) {
        (Rationale::After, Outcome::Decided) => {
            let first_is_better = p_first.get().is_some_and(|p| p > 0.5);
            let (text, spent) = reason_after(judge, id, &presented[0], first_is_better).await?;
            usage.add(&spent);
            text
        }
        (Rationale::First, _) => presented[0].rationale.clone(),
        _ => String::new(),
    };
    let orders = presented.into_iter().map(|p| p.result).collect();
    Ok(record(
        p_first,
        outcome,
        orders_agree,
        reason,
        orders,
        usage,
    ))
}

/// The standard by which to choose: one principle's words, or all of them as a list.
fn standard(constitution: &Constitution, principle: Option<&Principle>) -> String {
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

/// Shows the pair in one order and scores the choices.
async fn present(
    judge: &Judge,
    id: &str,
    prompt: &Prompt,
    response_a: &str,
    response_b: &str,
    standard: &str,
    swapped: bool,
) -> Result<Presented, FeedbackError> {
    let (order, name, shown_a, shown_b) = if swapped {
        (
            PresentationOrder::Swapped,
            "swapped",
            response_b,
            response_a,
        )
    } else {
        (PresentationOrder::Given, "given", response_a, response_b)
    };
    let prompt_text = prompt.to_text();
    let variables = context! {
        prompt => &prompt_text,
        response_a => shown_a,
        response_b => shown_b,
        principle => standard,
        fence => fence(&[&prompt_text, shown_a, shown_b]),
    };
    let mut usage = Usage::default();
    let mut rationale = String::new();
    let failed = |answer: ask::Answer, messages, rationale, mut usage: Usage| {
        usage.add(&answer.usage);
        Presented {
            result: OrderResult {
                order,
                p_first: Probability::NONE,
                off_choice_mass: None,
                evidence: None,
                outcome: answer.outcome,
                raw: answer.text,
                error: answer.error,
            },
            messages,
            rationale,
            usage,
        }
    };
    let (messages, choices) = if judge.config.rationale == Rationale::First {
        let asked = judge.reason_first.render(variables, &Inserts::default())?;
        let cx = ask::context("judge", id, 0, judge.seed, &format!("{name}, rationale"));
        let sampling = Sampling::greedy(judge.config.rationale_tokens);
        let answer = ask::sample(&judge.model, asked.clone(), &sampling, &cx).await?;
        if answer.outcome != Outcome::Decided {
            return Ok(failed(answer, asked, rationale, usage));
        }
        usage.add(&answer.usage);
        rationale = answer.text;
        let inserts = Inserts {
            judged: &asked,
            ..Inserts::default()
        };
        let template = &judge.verdict_after_reason;
        (
            template.render(context! { rationale => &rationale }, &inserts)?,
            template.choices(),
        )
    } else {
        (
            judge.pair.render(variables, &Inserts::default())?,
            judge.pair.choices(),
        )
    };
    let request = ChoiceRequest {
        messages: Arc::from(messages.as_slice()),
        prefill: None,
        choices: choices.to_vec(),
    };
    let cx = ask::context("judge", id, 0, judge.seed, name);
    let scored = match judge.model.choice_logprobs(&request, &cx).await {
        Ok(scored) => scored,
        Err(error) => return Ok(failed(ask::outcome_of(error)?, messages, rationale, usage)),
    };
    usage.add(&scored.usage);
    let shown_a_wins = match scored.logprobs.as_slice() {
        [a, b] => combine::sigmoid(f64::from(*a) - f64::from(*b)),
        _ => f64::NAN,
    };
    let p_first = Probability::new(if swapped {
        1.0 - shown_a_wins
    } else {
        shown_a_wins
    });
    let (outcome, error) = match p_first.get() {
        Some(_) => (Outcome::Decided, None),
        None => (
            Outcome::Unparseable,
            Some(format!(
                "the model gave {:?} as log-probabilities",
                scored.logprobs
            )),
        ),
    };
    Ok(Presented {
        result: OrderResult {
            order,
            p_first,
            off_choice_mass: Some(scored.off_choice_mass),
            evidence: Some(scored.evidence),
            outcome,
            raw: scored.text,
            error,
        },
        messages,
        rationale,
        usage,
    })
}

/// The combined probability and outcome of the presentations.
fn verdict(config: &JudgeConfig, presented: &[Presented]) -> (Probability, Outcome) {
    if let Some(failed) = presented
        .iter()
        .find(|p| p.result.outcome != Outcome::Decided)
    {
        return (Probability::NONE, failed.result.outcome);
    }
    let bounded = |p: &Presented| {
        p.result.p_first.get().map(|p| match config.rationale {
            Rationale::First => combine::clamp(p, config.cot_clamp[0], config.cot_clamp[1]),
            _ => p,
        })
    };
    let p = match presented {
        [given] => bounded(given),
        [given, swapped] => {
            bounded(given)
                .zip(bounded(swapped))
                .map(|(g, s)| match config.combine {
                    Combine::Logit => combine::in_log_odds(g, s),
                    Combine::Probability => combine::in_probability(g, s),
                })
        }
        _ => None,
    };
    match p {
        None => (Probability::NONE, Outcome::Failed),
        Some(p) if (p - 0.5).abs() < config.tie_margin || p == 0.5 => {
            (Probability::new(p), Outcome::Tie)
        }
        Some(p) => (Probability::new(p), Outcome::Decided),
    }
}

/// Asks why, in the words of the given order, where the response given first is option (A).
async fn reason_after(
    judge: &Judge,
    id: &str,
    given: &Presented,
    first_is_better: bool,
) -> Result<(String, Usage), FeedbackError> {
    let verdict = if first_is_better { "A" } else { "B" };
    let inserts = Inserts {
        judged: &given.messages,
        ..Inserts::default()
    };
    let messages = judge.reason_after.render(context! { verdict }, &inserts)?;
    let cx = ask::context("judge", id, 0, judge.seed, "reason");
    let sampling = Sampling::greedy(judge.config.rationale_tokens);
    // A reason that does not come takes nothing from the verdict: it stays empty.
    let answer = ask::sample(&judge.model, messages, &sampling, &cx).await?;
    Ok((
        if answer.outcome == Outcome::Decided {
            answer.text
        } else {
            String::new()
        },
        answer.usage,
    ))
}
