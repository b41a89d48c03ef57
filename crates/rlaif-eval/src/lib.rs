//! Statistics over records: agreement, win rates, calibration, position bias, correlation, and
//! [`JudgeSummary`], which puts together what a report says about a judge.
//!
//! What is absent on purpose: no model, no file, no clock, no global random state. A value depends
//! on its arguments alone; the bootstrap draws from a seed that the caller gives.
//!
//! **No number is made up.** Where a statistic is not defined (no rows, a constant variable, two
//! classes that separate perfectly) the answer is a typed [`Error`] or `None`, and never NaN or a
//! default. Everything that can be printed derives `Serialize`, so a missing figure is `null`.

pub mod agreement;
pub mod alpaca;
pub mod bradley_terry;
pub mod calibration;
pub mod correlation;
pub mod error;
mod exact;
pub mod interval;
pub mod length;
pub mod length_controlled;
pub mod logistic;
pub mod position;
pub mod price;
pub mod quantile;
pub mod recalibrate;
pub mod rewardbench;
pub mod rewardbench2;
pub mod summary;
pub mod winrate;

pub use agreement::{Kappa, LengthBin, agreement, agreement_by, agreement_by_length, cohen_kappa};
pub use alpaca::{AlpacaWinRate, alpaca_win_rate};
pub use bradley_terry::{Strengths, bradley_terry};
pub use calibration::{Binning, ReliabilityBin, brier, ece, log_loss, reliability};
pub use correlation::{correlation_about_zero, kendall_tau_b, pearson, spearman};
pub use error::{Error, Result};
pub use interval::{
    Bootstrap, BootstrapInterval, Proportion, bootstrap, bootstrap_clustered, wilson,
};
pub use length::{
    LengthPreference, LogOddsSlope, Slope, length_preference, log_odds_slope, slope, words,
};
pub use length_controlled::{Benchmark, Compared, GamedRow, LengthControlled, length_controlled};
pub use logistic::{Logistic, logistic};
pub use position::{Estimate, PositionBias, position_bias};
pub use price::{LABEL_PRICES, LabelPrice, label_price};
pub use recalibrate::Recalibration;
pub use rewardbench::{Pick, RewardBench, rewardbench};
pub use rewardbench2::{BestOf, RewardBench2, rewardbench2};
pub use summary::{HumanAgreement, JudgeSummary, OutcomeCounts, SummaryBuilder};
pub use winrate::{Comparison, WinRate, win_rate, win_rate_clustered};
