//! From presentations to one view, and from several views to one judgment. Pure.

use rlaif_core::{Opinion, OrderResult, Outcome, PresentationOrder, Probability, Told};

use super::{JudgeConfig, Rationale, Ties};
use crate::combine;

/// A combined probability, how it ended, and whether the orders agree.
pub(super) struct Combined {
    pub p_first: Probability,
    pub outcome: Outcome,
    pub orders_agree: Option<bool>,
}

/// Whether two orders name the same response; `None` where fewer than two were read.
fn agree(orders: &[OrderResult]) -> Option<bool> {
    let [a, b] = orders else { return None };
    let (a, b) = a.p_first.get().zip(b.p_first.get())?;
    Some((a > 0.5) == (b > 0.5) && a != 0.5 && b != 0.5)
}

/// Combines the orders of one view. An order that fails makes the view fail with it: a single one
/// would carry the position bias that the other was to cancel.
pub(super) fn of_orders(config: &JudgeConfig, orders: &[OrderResult]) -> Combined {
    let orders_agree = agree(orders);
    let is_read = |o: &&OrderResult| matches!(o.outcome, Outcome::Decided | Outcome::Tie);
    if let Some(failed) = orders.iter().find(|o| !is_read(o)) {
        return Combined {
            p_first: Probability::NONE,
            outcome: failed.outcome,
            orders_agree,
        };
    }
    let bounded = orders.iter().filter_map(|o| o.p_first.get()).map(|p| {
        let p = match config.rationale {
            Rationale::First => combine::clamp(p, config.cot_clamp[0], config.cot_clamp[1]),
            _ => p,
        };
        (1.0, p)
    });
    let says_tie = !orders.is_empty() && orders.iter().all(|o| o.outcome == Outcome::Tie);
    end(config, config.combine.mean(bounded), orders_agree, says_tie)
}

/// Combines several views by their weights. Views that abstain leave the mean; those that fail may
/// hold at most 1 − `quorum` of the weight, or the judgment fails as the heaviest of them did.
pub(super) fn of_opinions(
    config: &JudgeConfig,
    opinions: &[Opinion],
) -> (Combined, Vec<OrderResult>) {
    let weight_of = |has: &dyn Fn(&Opinion) -> bool| -> f64 {
        opinions.iter().filter(|o| has(o)).map(|o| o.weight).sum()
    };
    let read = |o: &Opinion| o.p_first.get().is_some();
    let abstained = weight_of(&|o| o.outcome == Outcome::Abstained);
    let failed = weight_of(&|o| !read(o) && o.outcome != Outcome::Abstained);
    let total = weight_of(&|_| true);
    let none = |outcome| Combined {
        p_first: Probability::NONE,
        outcome,
        orders_agree: None,
    };
    // A little slack: weights such as 0.1 do not add up exactly.
    if failed > (1.0 - config.quorum) * total + 1e-9 * total {
        let heaviest = opinions
            .iter()
            .filter(|o| !read(o) && o.outcome != Outcome::Abstained)
            .max_by(|a, b| a.weight.total_cmp(&b.weight));
        return (
            none(heaviest.map_or(Outcome::Failed, |o| o.outcome)),
            Vec::new(),
        );
    }
    if abstained + failed >= total - 1e-9 * total {
        return (none(Outcome::Abstained), Vec::new());
    }
    let views: Vec<&Opinion> = opinions.iter().filter(|o| read(o)).collect();
    let mean = config.combine.mean(
        views
            .iter()
            .filter_map(|o| Some((o.weight, o.p_first.get()?))),
    );
    let orders = [PresentationOrder::Given, PresentationOrder::Swapped]
        .into_iter()
        .filter_map(|order| mean_order(config, &views, order))
        .collect::<Vec<_>>();
    let says_tie = views.iter().all(|o| o.outcome == Outcome::Tie);
    let combined = end(config, mean, agree(&orders), says_tie);
    (combined, orders)
}

/// The mean of one presentation order over several views.
fn mean_order(
    config: &JudgeConfig,
    views: &[&Opinion],
    order: PresentationOrder,
) -> Option<OrderResult> {
    let of_order = views.iter().filter_map(|view| {
        let found = view.orders.iter().find(|o| o.order == order)?;
        Some((view.weight, found))
    });
    let p = config.combine.mean(
        of_order
            .clone()
            .filter_map(|(w, o)| Some((w, o.p_first.get()?))),
    )?;
    let off: Vec<f32> = of_order.filter_map(|(_, o)| o.off_choice_mass).collect();
    Some(OrderResult {
        order,
        p_first: Probability::new(p),
        off_choice_mass: (!off.is_empty()).then(|| off.iter().sum::<f32>() / off.len() as f32),
        evidence: None,
        outcome: Outcome::Decided,
        raw: String::new(),
        error: None,
        told: Told::default(),
    })
}

/// Decided or a tie.
fn end(
    config: &JudgeConfig,
    p: Option<f64>,
    orders_agree: Option<bool>,
    says_tie: bool,
) -> Combined {
    let Some(p) = p else {
        return Combined {
            p_first: Probability::NONE,
            outcome: Outcome::Failed,
            orders_agree,
        };
    };
    let disagree = config.ties == Ties::Disagree && orders_agree == Some(false);
    let near = (p - 0.5).abs() < config.tie_margin || p == 0.5;
    Combined {
        p_first: Probability::new(p),
        outcome: if near || disagree || says_tie {
            Outcome::Tie
        } else {
            Outcome::Decided
        },
        orders_agree,
    }
}
