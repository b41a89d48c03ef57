//! Each response by itself: the label follows from two scores.

use rlaif_core::{Opinion, Outcome, Principle, Probability};

use super::{ALIKE, End, Item, Judge, settings, verdict};
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
            let both = [item.response_a, item.response_b];
            let rated = score::rate(scorer, model, item.id, item.prompt, &both, *principle).await?;
            end.usage.add(&rated.usage);
            for rating in &rated.ratings {
                end.shortened = end.shortened.or(rating.shortened);
                reasons.push(match &rating.error {
                    Some(error) => error.clone(),
                    None => rating.reason.clone(),
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
            match rated.ratings.as_slice() {
                _ if rated.alike => {
                    opinion.outcome = Outcome::Abstained;
                    reasons.push(ALIKE.into());
                }
                [a, b] => match (a.score, b.score) {
                    (Some(x), Some(y)) => {
                        opinion.p_first = score::p_better(a, b);
                        total += weight;
                        sums[0] += weight * x;
                        sums[1] += weight * y;
                    }
                    (None, _) => opinion.outcome = a.outcome,
                    (_, None) => opinion.outcome = b.outcome,
                },
                _ => opinion.outcome = Outcome::Failed,
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
