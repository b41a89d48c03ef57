//! AlpacaEval's length-controlled win rate (Dubois et al. 2024): what a model would win if its
//! outputs were as long as its reference's.
//!
//! Notation: vᵢ in [0, 1] is what the model wins of comparison i, dᵢ the characters of the
//! reference's output less those of the model's, s their sample standard deviation, γᵢ the
//! difficulty of the instruction. With a benchmark's gamed baselines
//!
//! P(vᵢ) = σ(β tanh(dᵢ/s) + ψ γᵢ + θ),
//!
//! without them P(vᵢ) = σ(β tanh(dᵢ/s) + θ); the win rate is 100 times the mean of P at d = 0 over
//! all comparisons.
//!
//! "Exactly" takes in the fit: an L1 penalty whose strength C is chosen among ten by
//! cross-validation, solved by LIBLINEAR to its default, loose tolerance. That solver stops up to
//! 0.16 points from the optimum on AlpacaEval's own annotations, so it is followed step by step
//! (`liblinear.rs`) and not only its objective.

mod liblinear;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least};
use crate::logistic::sigmoid;
use crate::position::Estimate;
use liblinear::{SEEDS, Sample, fit};

const NAME: &str = "the length-controlled win rate";

/// Folds of the cross-validation.
const FOLDS: usize = 5;

/// λ of the gamed baselines' weight, halved because there are two of them.
const GAMED_WEIGHT: f64 = 0.2 / 2.0;

/// One comparison of a model with its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// What the model wins, in [0, 1]; without a judgment a comparison is in no fit, but its
    /// instruction counts in the mean, as in alpaca_eval.
    pub won: Option<f64>,
    /// Characters of the reference's output less those of the model's.
    pub length_difference: f64,
    /// The instruction's number in the benchmark, where one is given.
    pub instruction: usize,
}

/// One annotation of a gamed baseline, a row of alpaca_eval's `df_gamed.csv`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GamedRow {
    /// The instruction's number.
    pub instruction: usize,
    /// What the baseline wins, in [0, 1]; without it the row tells its difficulty alone.
    pub won: Option<f64>,
    /// Difference in length, in units of its standard deviation.
    pub length_difference: f64,
    /// Difficulty of the instruction.
    pub difficulty: f64,
}

/// What a benchmark knows beside the annotations: how hard its instructions are, and how baselines
/// fare that were told to be brief or wordy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Benchmark {
    gamed: Vec<GamedRow>,
    difficulty: BTreeMap<usize, f64>,
}

impl Benchmark {
    /// From the gamed baselines' rows; an instruction's difficulty is that of its first row.
    ///
    /// # Errors
    /// No rows; a value that is not finite, or a win outside [0, 1].
    pub fn new(gamed: Vec<GamedRow>) -> Result<Self> {
        at_least("a benchmark's baselines", 1, gamed.len())?;
        let column = |of: fn(&GamedRow) -> f64| gamed.iter().map(of).collect::<Vec<f64>>();
        let share = |v: f64| (0.0..=1.0).contains(&v);
        all_valid(
            NAME,
            "wins in [0, 1]",
            &column(|g| g.won.unwrap_or(0.5)),
            share,
        )?;
        all_valid(
            NAME,
            "finite lengths",
            &column(|g| g.length_difference),
            f64::is_finite,
        )?;
        all_valid(
            NAME,
            "finite difficulties",
            &column(|g| g.difficulty),
            f64::is_finite,
        )?;
        let mut difficulty = BTreeMap::new();
        for row in &gamed {
            difficulty.entry(row.instruction).or_insert(row.difficulty);
        }
        Ok(Benchmark { gamed, difficulty })
    }

    /// Instructions whose difficulty is known.
    #[must_use]
    pub fn instructions(&self) -> usize {
        self.difficulty.len()
    }

    /// Whether the instruction is one of them.
    #[must_use]
    pub fn knows(&self, instruction: usize) -> bool {
        self.difficulty.contains_key(&instruction)
    }
}

/// A win rate at equal lengths, in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthControlled {
    /// 100 times the mean of P at equal lengths.
    pub win_rate: f64,
    /// 100 s/√n of those P; 0 where no difficulties are known, since all P are equal then. It is
    /// alpaca_eval's figure and says nothing of how uncertain the fit is.
    pub standard_error: Option<f64>,
    /// β, of tanh(d/s).
    pub length: f64,
    /// ψ, of the difficulty; `null` without a benchmark.
    pub difficulty: Option<f64>,
    /// θ, the model's own.
    pub model: f64,
    /// The strength that was chosen.
    pub strength: f64,
}

/// The length-controlled win rate: alpaca_eval's `length_controlled_v1` with its benchmark, its
/// `length_controlled_minimal` without.
///
/// # Errors
/// Fewer than five comparisons with a judgment; a value outside [0, 1] or not finite; lengths that
/// do not differ; an instruction that the benchmark does not know.
///
/// Source: alpaca_eval, `metrics/glm_winrate.py`.
pub fn length_controlled(
    rows: &[Compared],
    benchmark: Option<&Benchmark>,
) -> Result<LengthControlled> {
    let won: Vec<f64> = rows.iter().filter_map(|r| r.won).collect();
    at_least(NAME, FOLDS, won.len())?;
    all_valid(NAME, "shares in [0, 1]", &won, |v| (0.0..=1.0).contains(&v))?;
    let lengths: Vec<f64> = rows.iter().map(|r| r.length_difference).collect();
    all_valid(NAME, "finite lengths", &lengths, f64::is_finite)?;
    let deviation = deviation(&lengths).ok_or(Error::Undefined {
        statistic: NAME,
        reason: "all differences in length are equal",
    })?;
    let difficulties = rows
        .iter()
        .map(|row| match benchmark {
            None => Ok(0.0),
            Some(known) => {
                known
                    .difficulty
                    .get(&row.instruction)
                    .copied()
                    .ok_or(Error::Undefined {
                        statistic: NAME,
                        reason: "an instruction is not one of the benchmark's",
                    })
            }
        })
        .collect::<Result<Vec<f64>>>()?;

    let features = |length: f64, difficulty: f64, own: f64| match benchmark {
        None => vec![length.tanh(), own],
        Some(_) => vec![length.tanh(), difficulty, own],
    };
    // The baselines stand first, as they do in alpaca_eval: folds are dealt by place.
    let gamed = benchmark.map_or(&[][..], |b| &b.gamed);
    let mut training: Vec<Target> = gamed
        .iter()
        .filter_map(|g| {
            Some(Target {
                x: features(g.length_difference, g.difficulty, 0.0),
                won: g.won?,
                weight: GAMED_WEIGHT,
            })
        })
        .collect();
    for (row, difficulty) in rows.iter().zip(&difficulties) {
        if let Some(won) = row.won {
            let x = features(row.length_difference / deviation, *difficulty, 1.0);
            training.push(Target {
                x,
                won,
                weight: 1.0,
            });
        }
    }
    let strength = strength(&training);
    let coefficients = solve(training.iter(), strength, SEEDS[0]);
    let (model, rest) = coefficients
        .split_last()
        .map_or((0.0, &[][..]), |(m, r)| (*m, r));
    let psi = rest.get(1).copied();
    let expected: Vec<f64> = difficulties
        .iter()
        .map(|difficulty| sigmoid(psi.unwrap_or(0.0) * difficulty + model))
        .collect();
    let estimate = Estimate::of(&expected).ok_or(Error::TooFew {
        statistic: NAME,
        expected: FOLDS,
        got: 0,
    })?;
    Ok(LengthControlled {
        win_rate: 100.0 * estimate.mean,
        standard_error: estimate.std_error.map(|e| 100.0 * e),
        length: rest.first().copied().unwrap_or(0.0),
        difficulty: psi,
        model,
        strength,
    })
}

/// Sample standard deviation; `None` where it is not above 0.
fn deviation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let deviation = (squares / (n - 1.0)).sqrt();
    (deviation > 0.0 && deviation.is_finite()).then_some(deviation)
}

/// A soft target: it is fitted as 1 with weight v and as 0 with weight 1 − v.
struct Target {
    x: Vec<f64>,
    won: f64,
    weight: f64,
}

fn solve<'a>(
    targets: impl Iterator<Item = &'a Target> + Clone,
    strength: f64,
    seed: u32,
) -> Vec<f64> {
    let side = |up: bool| {
        targets.clone().map(move |t| Sample {
            x: &t.x,
            up,
            cost: strength * t.weight * if up { t.won } else { 1.0 - t.won },
        })
    };
    fit(side(true).chain(side(false)), seed)
}

/// The strength with the least log loss on held-out folds, the smallest of equals, among
/// scikit-learn's ten: 10⁻⁴ to 10⁴ in equal ratios. The largest penalizes least.
fn strength(targets: &[Target]) -> f64 {
    // scikit-learn's `GroupKFold` deals groups of equal size from the last to the first.
    let fold = |at: usize| (targets.len() - 1 - at) % FOLDS;
    let score = |strength: f64, seed: u32| -> f64 {
        let of_fold = |held_out: usize| -> f64 {
            let part = |inside: bool| {
                let places = targets.iter().enumerate();
                places
                    .filter(move |(at, _)| (fold(*at) == held_out) == inside)
                    .map(|(_, t)| t)
            };
            let coefficients = solve(part(false), strength, seed);
            let losses = part(true).map(|t| {
                let z: f64 = coefficients.iter().zip(&t.x).map(|(b, x)| b * x).sum();
                let p = sigmoid(z).clamp(1e-15, 1.0 - 1e-15);
                t.weight * (t.won * p.ln() + (1.0 - t.won) * (1.0 - p).ln())
            });
            losses.sum::<f64>() / part(true).count() as f64
        };
        (0..FOLDS).map(of_fold).sum::<f64>() / FOLDS as f64
    };
    let mut best = (f64::NEG_INFINITY, 1.0);
    let last = (SEEDS.len() - 1) as f64;
    for (step, seed) in SEEDS.into_iter().enumerate() {
        let strength = 10f64.powf(-4.0 + 8.0 * step as f64 / last);
        let got = score(strength, seed);
        if got > best.0 {
            best = (got, strength);
        }
    }
    best.1
}
