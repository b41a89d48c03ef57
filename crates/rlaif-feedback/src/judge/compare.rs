//! Both responses in one question: a view for each judge and principle, and why.

use futures::future;
use minijinja::context;
use rlaif_core::{
    Message, Model, Opinion, Outcome, Principle, Probability, Sampling, Shortened, Usage,
};

use super::config::{Orders, Rationale};
use super::present::{Pair, Presented, present};
use super::verdict::Combined;
use super::{ALIKE, End, Item, Judge, standard, verdict};
use crate::ask;
use crate::error::FeedbackError;
use crate::shorten::{ATTEMPTS, Room, Shown, fit};
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
            Combined {
                p_first: only.opinion.p_first,
                outcome: only.opinion.outcome,
                orders_agree: only.opinion.orders_agree,
            },
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
    if combined.outcome == Outcome::Abstained && first.opinion.orders.is_empty() {
        end.reason = ALIKE.into();
    }
    match (judge.config.rationale, combined.outcome) {
        (Rationale::After, Outcome::Decided) => {
            let first_is_better = combined.p_first.get().is_some_and(|p| p > 0.5);
            let messages = &first.messages;
            let (text, spent) = reason_after(judge, item.id, messages, first_is_better).await?;
            end.usage.add(&spent);
            end.reason = text;
        }
        (Rationale::First, _) => {
            if let Some(given) = first.opinion.orders.first() {
                end.reason = given.told.rationale.clone();
            }
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
    let standard = standard(&judge.constitution, principle);
    let mut label = String::new();
    if let Some(principle) = principle.filter(|_| principles > 1) {
        label.push_str(&format!(", by {}", principle.id));
    }
    if juror > 0 {
        label.push_str(&format!(", juror {juror}"));
    }
    let mut usage = Usage::default();
    let mut room = judge.room();
    let mut attempt = 0;
    let (shown, presented) = loop {
        let responses = [item.response_a, item.response_b];
        let shown = fit(room, model.as_ref(), item.prompt, &responses)?;
        if shown.responses.first() == shown.responses.get(1) {
            // Whatever a judge said of them would be position bias.
            return Ok(alike(model, principle, weight, shown, usage));
        }
        let asked = Asked {
            item,
            model,
            principle,
            standard: &standard,
            label: &label,
        };
        let presented = present_all(judge, &asked, &shown).await?;
        let told = presented.iter().find_map(|p| p.too_long);
        attempt += 1;
        match told.and_then(|told| Room::after(shown.chars(), told)) {
            Some(tighter) if attempt < ATTEMPTS => room = tighter,
            _ => break (shown, presented),
        }
        // An order that was answered before the other was refused is paid for.
        for refused in &presented {
            usage.add(&refused.usage);
        }
    };
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

/// Who is asked about a pair, and by what.
struct Asked<'a> {
    item: &'a Item<'a>,
    model: &'a Model,
    principle: Option<&'a Principle>,
    standard: &'a str,
    label: &'a str,
}

/// The pair as it is shown, in each order that is asked for.
async fn present_all(
    judge: &Judge,
    asked: &Asked<'_>,
    shown: &Shown,
) -> Result<Vec<Presented>, FeedbackError> {
    let (response_a, response_b) = match shown.responses.as_slice() {
        [a, b] => (a.as_str(), b.as_str()),
        _ => (asked.item.response_a, asked.item.response_b),
    };
    let pair = Pair {
        id: asked.item.id,
        prompt: &shown.prompt,
        response_a,
        response_b,
        standard: asked.standard,
        principle: asked.principle,
        model: asked.model,
        label: asked.label,
    };
    let given = present(judge, &pair, false);
    Ok(match judge.config.orders {
        Orders::Given => vec![given.await?],
        Orders::Both => {
            let (given, swapped) = future::join(given, present(judge, &pair, true)).await;
            vec![given?, swapped?]
        }
    })
}

/// The view of a judge that can be shown no difference between the two.
fn alike(
    model: &Model,
    principle: Option<&Principle>,
    weight: f64,
    shown: Shown,
    usage: Usage,
) -> View {
    View {
        opinion: Opinion {
            judge: model.id().clone(),
            principle: principle.map(|p| p.id.clone()),
            weight,
            p_first: Probability::NONE,
            outcome: Outcome::Abstained,
            orders_agree: None,
            orders: Vec::new(),
        },
        messages: Vec::new(),
        shortened: shown.shortened,
        usage,
    }
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
