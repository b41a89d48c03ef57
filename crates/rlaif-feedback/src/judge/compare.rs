//! Both responses in one question: a view for each judge and principle, and why.

use futures::future;
use minijinja::context;
use rlaif_core::{Message, Model, Opinion, Outcome, Principle, Sampling, Shortened, Usage};

use super::config::{Orders, Rationale};
use super::present::{Pair, Presented, present};
use super::{End, Item, Judge, standard, verdict};
use crate::ask;
use crate::error::FeedbackError;
use crate::shorten::fit;
use crate::template::{Inserts, VerdictForm};

/// One judge's view by one principle, with what a reason needs.
struct View {
    opinion: Opinion,
    messages: Vec<Message>,
    shortened: Option<Shortened>,
    usage: Usage,
}

/// A label from comparing the two responses, by every judge and principle.
pub(super) async fn compare(
    judge: &Judge,
    item: &Item<'_>,
    principles: &[(Option<&Principle>, f64)],
) -> Result<End, FeedbackError> {
    let mut asked = Vec::new();
    for (n, (model, weight)) in judge.jurors().enumerate() {
        for (principle, by) in principles {
            asked.push(view(
                judge,
                item,
                model,
                n,
                *principle,
                weight * by,
                principles.len(),
            ));
        }
    }
    let mut views = Vec::with_capacity(asked.len());
    for view in future::join_all(asked).await {
        views.push(view?);
    }
    let mut end = End::default();
    for view in &views {
        end.usage.add(&view.usage);
        end.shortened = end.shortened.or(view.shortened);
    }
    // The reason of a judgment is in the words of the first judge that has an opinion.
    let first = views
        .iter()
        .position(|v| v.opinion.outcome == Outcome::Decided);
    let (combined, orders) = match views.as_slice() {
        [only] => (
            verdict::of_orders(&judge.config, &only.opinion.orders),
            only.opinion.orders.clone(),
        ),
        several => {
            end.opinions = several.iter().map(|v| v.opinion.clone()).collect();
            verdict::of_opinions(&judge.config, &end.opinions)
        }
    };
    (end.p_first, end.outcome) = (combined.p_first, Some(combined.outcome));
    end.orders_agree = combined.orders_agree;
    let first = first.and_then(|at| views.get(at)).or(views.first());
    let Some(first) = first else { return Ok(end) };
    match (judge.config.rationale, combined.outcome) {
        (Rationale::After, Outcome::Decided) => {
            let first_is_better = combined.p_first.get().is_some_and(|p| p > 0.5);
            let messages = &first.messages;
            let (text, spent) = reason_after(judge, item.id, messages, first_is_better).await?;
            end.usage.add(&spent);
            end.reason = text;
        }
        (Rationale::First, _) => {
            let given = first.opinion.orders.first();
            end.reason = given.map(|o| o.told.rationale.clone()).unwrap_or_default();
        }
        _ => {}
    }
    if judge.pair.verdict() == VerdictForm::Written && end.reason.is_empty() {
        let given = first.opinion.orders.first();
        end.reason = given.map(|o| o.raw.clone()).unwrap_or_default();
    }
    end.orders = orders;
    Ok(end)
}

async fn view(
    judge: &Judge,
    item: &Item<'_>,
    model: &Model,
    juror: usize,
    principle: Option<&Principle>,
    weight: f64,
    principles: usize,
) -> Result<View, FeedbackError> {
    let responses = [item.response_a, item.response_b];
    let shown = fit(judge.room(), model.as_ref(), item.prompt, &responses)?;
    let (response_a, response_b) = match shown.responses.as_slice() {
        [a, b] => (a.as_str(), b.as_str()),
        _ => (item.response_a, item.response_b),
    };
    let standard = standard(&judge.constitution, principle);
    let mut label = String::new();
    if let Some(principle) = principle.filter(|_| principles > 1) {
        label.push_str(&format!(", by {}", principle.id));
    }
    if juror > 0 {
        label.push_str(&format!(", juror {juror}"));
    }
    let pair = Pair {
        id: item.id,
        prompt: &shown.prompt,
        response_a,
        response_b,
        standard: &standard,
        principle,
        model,
        label: &label,
    };
    let given = present(judge, &pair, false);
    let presented: Vec<Presented> = match judge.config.orders {
        Orders::Given => vec![given.await?],
        Orders::Both => {
            let (given, swapped) = future::join(given, present(judge, &pair, true)).await;
            vec![given?, swapped?]
        }
    };
    let mut usage = Usage::default();
    let mut messages = Vec::new();
    let mut orders = Vec::with_capacity(presented.len());
    for (i, p) in presented.into_iter().enumerate() {
        usage.add(&p.usage);
        if i == 0 {
            messages = p.messages;
        }
        orders.push(p.result);
    }
    let combined = verdict::of_orders(&judge.config, &orders);
    Ok(View {
        opinion: Opinion {
            judge: model.id().clone(),
            principle: principle.map(|p| p.id.clone()),
            weight,
            p_first: combined.p_first,
            outcome: combined.outcome,
            orders_agree: combined.orders_agree,
            orders,
        },
        messages,
        shortened: shown.shortened,
        usage,
    })
}

/// Asks why, in the words of the given order, where the response given first is option (A).
async fn reason_after(
    judge: &Judge,
    id: &str,
    judged: &[Message],
    first_is_better: bool,
) -> Result<(String, Usage), FeedbackError> {
    // As the template spells it, without the brackets that the question puts round it.
    let spelled = judge.pair.choices().get(usize::from(!first_is_better));
    let verdict = spelled
        .and_then(|s| s.first())
        .map(|s| s.trim_matches(|c: char| !c.is_alphanumeric()))
        .unwrap_or_default();
    let (judged, _) = ask::with_prefill(judged.to_vec());
    let inserts = Inserts {
        judged: &judged,
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
