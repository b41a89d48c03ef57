//! Measuring judges, policies and constitutions: records in, reports out. The verbs under
//! `rlaif eval` ask the models; nothing here does.

pub mod attacks;
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
    let clip = rlaif_eval::position::LOGIT_CLIP;
    let p = judgment.p_first.get()?.clamp(clip, 1.0 - clip);
    Some((p / (1.0 - p)).ln())
}
