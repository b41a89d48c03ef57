//! Measuring judges, policies and constitutions: records in, reports out. The verbs under
//! `rlaif eval` ask the models; nothing here does.

pub mod attacks;
pub mod best_of;
pub mod boards;
pub mod judges;
pub mod principles;

use rlaif_core::{Judgment, Outcome};

/// Whether the response given first won; `None` unless the judgment is decided.
pub(crate) fn first_won(judgment: &Judgment) -> Option<bool> {
    let p = judgment.p_first.get()?;
    (judgment.outcome == Outcome::Decided && p != 0.5).then_some(p > 0.5)
}

/// Words of the response given first less those of the other.
pub(crate) fn more_words(judgment: &Judgment) -> f64 {
    rlaif_eval::words(&judgment.response_a) as f64 - rlaif_eval::words(&judgment.response_b) as f64
}

/// Log-odds of the response given first, clipped as the position bias is.
pub(crate) fn log_odds(judgment: &Judgment) -> Option<f64> {
    judgment.p_first.get().map(rlaif_eval::position::logit)
}

#[cfg(test)]
mod tests {
    use rlaif_core::{Judgment, ModelId, Outcome, Probability, Prompt, Rater};

    /// A judgment with this probability; without one it is unparseable.
    pub(super) fn judged(p: Option<f64>, a: &str, b: &str) -> Judgment {
        Judgment::new(
            "row",
            Prompt::from("why?"),
            [a.into(), b.into()],
            match p {
                None => Outcome::Unparseable,
                Some(0.5) => Outcome::Tie,
                Some(_) => Outcome::Decided,
            },
            p.map_or(Probability::NONE, Probability::new),
            Rater::Model(ModelId::new("judge")),
        )
    }
}
