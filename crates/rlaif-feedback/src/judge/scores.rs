//! Each response by itself: the label follows from two scores.

use futures::future;
use rlaif_core::{Opinion, Outcome, Principle, Probability};

use super::{End, Item, Judge, settings, verdict};
use crate::error::FeedbackError;
use crate::score;

/// A label from the scores of both responses (see [`score::p_better`]).
pub(super) async fn by_scores(
    judge: &Judge,
    item: &Item<'_>,
    principles: &[(Option<&Principle>, f64)],
) -> Result<End, FeedbackError> {
    let Some(scorer) = &judge.scorer else {
        return Err(settings("`method = \"score\"` has no template".into()));
    };
    let mut end = End::default();
    let (mut total, mut sums) = (0.0, [0.0, 0.0]);
    let mut reasons = Vec::new();
    for (model, juror) in judge.jurors() {
        for (principle, by) in principles {
            let [a, b] = [item.response_a, item.response_b]
                .map(|text| score::rate(scorer, model, item.id, item.prompt, text, *principle));
            let (a, b) = future::join(a, b).await;
            let (a, b) = (a?, b?);
            for r in [&a, &b] {
                end.usage.add(&r.usage);
                end.shortened = end.shortened.or(r.rating.shortened);
                reasons.push(match &r.rating.error {
                    Some(error) => error.clone(),
                    None => r.rating.reason.clone(),
                });
            }
            let weight = juror * by;
            let mut opinion = Opinion {
                judge: model.id().clone(),
                principle: principle.map(|p| p.id.clone()),
                weight,
                p_first: Probability::NONE,
                outcome: Outcome::Decided,
                orders_agree: None,
                orders: Vec::new(),
            };
            match (a.rating.score, b.rating.score) {
                (Some(x), Some(y)) => {
                    opinion.p_first = score::p_better(&a.rating, &b.rating);
                    total += weight;
                    sums[0] += weight * x;
                    sums[1] += weight * y;
                }
                (None, _) => opinion.outcome = a.rating.outcome,
                (_, None) => opinion.outcome = b.rating.outcome,
            }
            end.opinions.push(opinion);
        }
    }
    let (combined, _) = verdict::of_opinions(&judge.config, &end.opinions);
    (end.p_first, end.outcome) = (combined.p_first, Some(combined.outcome));
    if combined.p_first.get().is_some() {
        end.scores = sums.iter().map(|s| s / total).collect();
    }
    reasons.retain(|r| !r.is_empty());
    end.reason = reasons.join("\n---\n");
    if end.opinions.len() == 1 {
        end.opinions.clear();
    }
    Ok(end)
}
