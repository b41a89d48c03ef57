//! One presentation of a pair to one judge: rendered, asked, read, and un-swapped.

use minijinja::{Value, context};
use rlaif_core::{
    Message, Model, OrderResult, Outcome, PresentationOrder, Principle, Probability, Prompt,
    Sampling, Told, Usage, seed,
};

use super::{Judge, Rationale};
use crate::ask;
use crate::error::FeedbackError;
use crate::reading::{Asking, Reading};
use crate::shorten::TooLong;
use crate::template::{Inserts, fence};

/// What is presented, and to whom.
pub(super) struct Pair<'a> {
    pub id: &'a str,
    pub prompt: &'a Prompt,
    pub response_a: &'a str,
    pub response_b: &'a str,
    /// The standard in words.
    pub standard: &'a str,
    pub principle: Option<&'a Principle>,
    pub model: &'a Model,
    /// Names this view among several of the pair; empty for a single one.
    pub label: &'a str,
}

/// A presentation with what its reason needs.
pub(super) struct Presented {
    pub result: OrderResult,
    pub messages: Vec<Message>,
    /// What was sent did not fit the model.
    pub too_long: Option<TooLong>,
    pub usage: Usage,
}

/// True where the judge is asked for the *worse* response, so that its probability is turned
/// round: the only place that decides it. A template and a principle that both ask for the worse
/// one are a question about the less bad one.
fn asks_for_worse(judge: &Judge, principle: Option<&Principle>) -> bool {
    let by_principle = match principle {
        Some(principle) => principle.inverted,
        None => judge.whole_is_inverted,
    };
    judge.pair.inverted() != (by_principle && judge.pair.uses_principle())
}

/// The worked examples as a template sees them, each in a drawn order.
fn exemplars(judge: &Judge, item_seed: u64, inverted: bool) -> Value {
    judge
        .exemplars
        .iter()
        .take(judge.config.few_shots)
        .enumerate()
        .map(|(i, e)| {
            let prompt = Prompt(e.prompt.clone());
            let flip = seed::unit(seed::derive(item_seed, &["exemplar", &i.to_string()])) < 0.5;
            let (a, b) = match flip {
                true => (&e.rejected, &e.chosen),
                false => (&e.chosen, &e.rejected),
            };
            context! {
                prompt => prompt.to_text(),
                conversation => prompt.to_transcript(),
                response_a => a,
                response_b => b,
                principle => &e.principle,
                // The answer to the question asked, which may be for the worse one.
                first_is_answer => flip == inverted,
            }
        })
        .collect()
}

/// Shows the pair in one order and reads the verdict.
pub(super) async fn present(
    judge: &Judge,
    pair: &Pair<'_>,
    swapped: bool,
) -> Result<Presented, FeedbackError> {
    let config = &judge.config;
    let (order, name, shown_a, shown_b) = match swapped {
        true => (
            PresentationOrder::Swapped,
            "swapped",
            pair.response_b,
            pair.response_a,
        ),
        false => (
            PresentationOrder::Given,
            "given",
            pair.response_a,
            pair.response_b,
        ),
    };
    let inverted = asks_for_worse(judge, pair.principle);
    let item_seed = seed::derive(judge.seed, &["judge", pair.id]);
    let prompt_text = pair.prompt.to_text();
    let variables = |rationale: Option<&str>| {
        context! {
            prompt => &prompt_text,
            conversation => pair.prompt.to_transcript(),
            response_a => shown_a,
            response_b => shown_b,
            principle => pair.standard,
            exemplars => exemplars(judge, item_seed, inverted),
            may_abstain => config.abstain,
            fence => fence(&[&prompt_text, shown_a, shown_b]),
            rationale => rationale,
        }
    };
    let choices = judge.choices();
    let asking = |what: String| Asking {
        model: pair.model,
        template: &judge.pair,
        choices: &choices,
        stage: "judge",
        row: pair.id,
        what,
        seed: judge.seed,
        tokens: config.rationale_tokens,
        temperature: config.temperature,
        retries: config.retries,
    };
    let mut reading = Reading::default();
    let mut rationales = Vec::new();
    let mut messages = Vec::new();
    for sample in 0..config.samples {
        let what = match (pair.label, sample) {
            ("", 0) => name.to_owned(),
            (label, n) => format!("{name}{label}, sample {n}"),
        };
        // One sample is the greedy one; of several each is drawn.
        let greedy = config.samples == 1;
        if config.rationale == Rationale::First {
            let asked = judge.pair.render_reason(variables(None))?;
            let cx = ask::context(
                "judge",
                pair.id,
                0,
                judge.seed,
                &format!("{what}, rationale"),
            );
            let sampling = Sampling {
                temperature: if greedy { 0.0 } else { config.temperature },
                max_new_tokens: config.rationale_tokens,
                ..Sampling::default()
            };
            let answer = ask::sample(pair.model, asked.clone(), &sampling, &cx).await?;
            if answer.outcome != Outcome::Decided {
                reading.fail(answer, &asked);
                messages = asked;
                continue;
            }
            reading.usage.add(&answer.usage);
            if !answer.reasoning.is_empty() {
                reading.reasoning.push(answer.reasoning);
            }
            // The judge's answer began where the request for it ended.
            let (judged, _) = ask::with_prefill(asked);
            messages = judge
                .pair
                .render_after_reason(variables(Some(&answer.text)), &judged)?;
            rationales.push(answer.text);
            // The rationales differ; the verdict on each is had greedily.
            asking(what).ask(&messages, true, &mut reading).await?;
        } else {
            messages = judge.pair.render(variables(None), &Inserts::default())?;
            asking(what).ask(&messages, greedy, &mut reading).await?;
        }
    }
    let reading = reading.finish(choices.len(), true);
    Ok(Presented {
        too_long: reading.too_long,
        usage: reading.usage.clone(),
        result: result(judge, order, inverted, rationales, reading),
        messages,
    })
}

/// The reading as a result for the response that was *given* first.
fn result(
    judge: &Judge,
    order: PresentationOrder,
    inverted: bool,
    rationales: Vec<String>,
    reading: Reading,
) -> OrderResult {
    let mut told = Told {
        rationale: rationales.join("\n---\n"),
        reasoning: reading.reasoning.join("\n---\n"),
        ..Told::default()
    };
    let mut outcome = reading.outcome.unwrap_or(Outcome::Failed);
    let mut p_first = Probability::NONE;
    if let [a, b, rest @ ..] = reading.p.as_slice() {
        let offers_tie = judge.pair.has_tie();
        let tie =
            rest.first().filter(|_| offers_tie).copied().unwrap_or(0.0) + reading.unoffered_tie;
        if offers_tie || reading.unoffered_tie > 0.0 {
            told.tie_mass = Some(tie);
        }
        if judge.may_abstain() {
            told.abstain_mass = rest.last().copied();
        }
        let abstain = told.abstain_mass.unwrap_or(0.0);
        if abstain > a.max(*b).max(tie) {
            outcome = Outcome::Abstained;
        } else {
            // A tie is half a vote for each.
            let shown_a = (a + 0.5 * tie) / (a + b + tie);
            let better = if inverted { 1.0 - shown_a } else { shown_a };
            p_first = Probability::new(match order {
                PresentationOrder::Given => better,
                PresentationOrder::Swapped => 1.0 - better,
            });
            if tie > a.max(*b) {
                outcome = Outcome::Tie;
            }
        }
    }
    OrderResult {
        order,
        p_first,
        off_choice_mass: reading.off_choice_mass,
        evidence: reading.evidence,
        outcome,
        raw: reading.raw.join("\n---\n"),
        error: reading.error,
        told,
    }
}
