//! Logistic regression with several features and soft targets, by Newton's method.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least, same_len};

/// A fitted logistic model, P(y = 1) = σ(β · x).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    /// β, one a feature, in log-odds per unit of it.
    pub coefficients: Vec<f64>,
    /// Standard errors, from the Fisher information at the maximum.
    pub std_errors: Vec<f64>,
    /// Rows.
    pub n: u64,
}

impl Logistic {
    /// P(y = 1) at `x`, which has as many features as the model.
    #[must_use]
    pub fn probability(&self, x: &[f64]) -> f64 {
        sigmoid(dot(&self.coefficients, x))
    }
}

/// σ(t) = 1 / (1 + e⁻ᵗ), without overflow.
pub(crate) fn sigmoid(t: f64) -> f64 {
    let e = (-t.abs()).exp();
    if t >= 0.0 {
        1.0 / (1.0 + e)
    } else {
        e / (1.0 + e)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Log-odds beyond which a fitted row counts as certain: its probability differs from 0 or 1 by
/// less than 10⁻¹³.
const CERTAIN: f64 = 30.0;

/// Maximum likelihood of P(yᵢ = 1) = σ(β · xᵢ), for targets yᵢ in [0, 1]: a soft target p counts as
/// the row twice, as 1 with weight p and as 0 with weight 1 − p. `rows[i]` holds the features of
/// row i; an intercept is a feature that is 1 throughout. No penalty.
///
/// # Errors
/// Fewer rows than features plus one; lists of different lengths; values that are not finite,
/// targets outside [0, 1]; features that depend on each other linearly; features that separate the
/// targets, where β has no finite maximum.
///
/// Source: McCullagh and Nelder 1989, §4.4 (iteratively reweighted least squares).
pub fn logistic(rows: &[Vec<f64>], targets: &[f64]) -> Result<Logistic> {
    const NAME: &str = "the logistic regression";
    let undefined = |reason| Error::Undefined {
        statistic: NAME,
        reason,
    };
    same_len(NAME, rows.len(), targets.len())?;
    let k = rows.first().map_or(0, Vec::len);
    at_least(NAME, k + 1, rows.len())?;
    all_valid(NAME, "targets in [0, 1]", targets, |y| {
        (0.0..=1.0).contains(&y)
    })?;
    for row in rows {
        same_len(NAME, k, row.len())?;
        all_valid(NAME, "finite features", row, f64::is_finite)?;
    }
    // In units of each feature's largest value, steps and tolerances mean the same for all.
    let units: Vec<f64> = (0..k)
        .map(|j| rows.iter().fold(0.0f64, |most, row| most.max(row[j].abs())))
        .collect();
    if units.contains(&0.0) {
        return Err(undefined("a feature is 0 in every row"));
    }
    let rows: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| row.iter().zip(&units).map(|(x, unit)| x / unit).collect())
        .collect();
    // Cross-entropy, from log-odds: ln(1 + e⁻ᶻ) + (1 − y) z.
    let loss = |beta: &[f64]| -> f64 {
        rows.iter()
            .zip(targets)
            .map(|(x, y)| {
                let z = dot(beta, x);
                (-z.abs()).exp().ln_1p() + (-z).max(0.0) + (1.0 - y) * z
            })
            .sum()
    };
    let mut beta = vec![0.0; k];
    let mut converged = false;
    for _ in 0..200 {
        let (gradient, information) = derivatives(&rows, targets, &beta);
        let step = solve(&information, &gradient).ok_or(undefined(
            "the features depend on each other, or separate the targets",
        ))?;
        let before = loss(&beta);
        let mut scale = 1.0;
        let next = loop {
            let next: Vec<f64> = beta.iter().zip(&step).map(|(b, s)| b + scale * s).collect();
            // Rounding may lift the loss by its last bits at the minimum.
            if loss(&next) <= before + 1e-12 * before.abs() || scale < 1e-10 {
                break next;
            }
            scale *= 0.5;
        };
        let moved = beta
            .iter()
            .zip(&next)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        let size = next.iter().fold(1e-12f64, |most, b| most.max(b.abs()));
        beta = next;
        if moved <= 1e-13 * size {
            converged = true;
            break;
        }
        if rows.iter().any(|x| dot(&beta, x).abs() > 20.0 * CERTAIN) {
            break;
        }
    }
    let certain = rows.iter().all(|x| dot(&beta, x).abs() > CERTAIN);
    if !converged || certain {
        return Err(undefined("the features separate the targets"));
    }
    let (_, information) = derivatives(&rows, targets, &beta);
    let mut std_errors = Vec::with_capacity(k);
    for j in 0..k {
        let mut unit = vec![0.0; k];
        unit[j] = 1.0;
        let column =
            solve(&information, &unit).ok_or(undefined("the features depend on each other"))?;
        std_errors.push(column[j].sqrt() / units[j]);
    }
    let coefficients: Vec<f64> = beta.iter().zip(&units).map(|(b, unit)| b / unit).collect();
    all_valid(NAME, "finite results", &coefficients, f64::is_finite)?;
    all_valid(NAME, "finite results", &std_errors, f64::is_finite)?;
    Ok(Logistic {
        coefficients,
        std_errors,
        n: targets.len() as u64,
    })
}

/// Gradient of the log-likelihood, Σ xᵢ (yᵢ − σᵢ), and information, Σ xᵢ xᵢᵀ σᵢ (1 − σᵢ).
fn derivatives(rows: &[Vec<f64>], targets: &[f64], beta: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let k = beta.len();
    let mut gradient = vec![0.0; k];
    let mut information = vec![vec![0.0; k]; k];
    for (x, y) in rows.iter().zip(targets) {
        let z = dot(beta, x);
        let p = sigmoid(z);
        let weight = p * sigmoid(-z);
        for j in 0..k {
            gradient[j] += x[j] * (y - p);
            for l in 0..k {
                information[j][l] += x[j] * x[l] * weight;
            }
        }
    }
    (gradient, information)
}

/// Solves a x = b for a symmetric positive definite a, by Cholesky's decomposition; `None` where it
/// is not, up to rounding.
fn solve(a: &[Vec<f64>], b: &[f64]) -> Option<Vec<f64>> {
    let k = b.len();
    let mut l = vec![vec![0.0f64; k]; k];
    for i in 0..k {
        for j in 0..=i {
            let sum: f64 = a[i][j] - (0..j).map(|m| l[i][m] * l[j][m]).sum::<f64>();
            if i == j {
                if sum <= 1e-13 * a[i][i].abs() || !sum.is_finite() {
                    return None;
                }
                l[i][i] = sum.sqrt();
            } else {
                l[i][j] = sum / l[j][j];
            }
        }
    }
    let mut x = b.to_vec();
    for i in 0..k {
        x[i] = (x[i] - (0..i).map(|j| l[i][j] * x[j]).sum::<f64>()) / l[i][i];
    }
    for i in (0..k).rev() {
        x[i] = (x[i] - (i + 1..k).map(|j| l[j][i] * x[j]).sum::<f64>()) / l[i][i];
    }
    Some(x)
}
