//! Learning-rate schedules, as `transformers`' `get_scheduler` computes them.

use serde::{Deserialize, Serialize};

/// The shape after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Falls linearly to 0.
    #[default]
    Linear,
    /// Falls along half a cosine to 0.
    Cosine,
}

impl Schedule {
    /// Factor on the learning rate at `step` (from 0) of `total`, after `warmup` steps of linear
    /// rise from 0.
    #[must_use]
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f32 {
        if step < warmup {
            return step as f32 / warmup.max(1) as f32;
        }
        let done = (step - warmup) as f64 / (total.saturating_sub(warmup)).max(1) as f64;
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => (1.0 - done).max(0.0) as f32,
            Schedule::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0) as f32,
        }
    }
}
