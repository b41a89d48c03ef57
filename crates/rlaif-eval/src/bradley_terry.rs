//! Bradley–Terry strengths from soft comparisons: P(i beats j) = σ(sᵢ − sⱼ).
//!
//! One function, [`bradley_terry`]. Sources: Bradley and Terry 1952; Hunter 2004 (the maximum exists
//! and is unique where the comparisons connect all items and no label is certain).

use serde::Serialize;

use crate::error::{Error, Result, at_least};

const NAME: &str = "a Bradley-Terry ranking";

/// Labels nearer to 0 or 1 than this are taken as this near: a certain one has no finite strength.
const LEAST: f64 = 1e-6;

/// Strengths of n items, with their uncertainty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Strengths {
    /// Log-odds around a mean of 0; n values.
    pub strengths: Vec<f64>,
    /// Standard errors from the observed information, each comparison counted as one trial.
    pub se: Vec<f64>,
    /// 1 is the best; equal strengths share the better rank.
    pub ranks: Vec<usize>,
    /// Items from the best to the worst.
    pub order: Vec<usize>,
}

impl Strengths {
    /// P(i beats j).
    #[must_use]
    pub fn p_better(&self, i: usize, j: usize) -> f64 {
        sigmoid(self.strengths[i] - self.strengths[j])
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Fits strengths to comparisons (i, j, P(i is better)) by Newton's method on
/// Σ p ln σ(sᵢ − sⱼ) + (1 − p) ln σ(sⱼ − sᵢ) under Σ s = 0.
///
/// ```
/// // Two items, one label of 0.8: the difference is its log-odds, ln 4.
/// let found = rlaif_eval::bradley_terry(2, &[(0, 1, 0.8)])?;
/// assert!((found.strengths[0] - found.strengths[1] - 4f64.ln()).abs() < 1e-9);
/// assert_eq!(found.ranks, [1, 2]);
/// # Ok::<(), rlaif_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::TooFew`] for fewer than two items or no comparison; [`Error::OutOfRange`] for a label
/// outside [0, 1] or an item that there is not; [`Error::Undefined`] where the comparisons do not
/// connect all items.
pub fn bradley_terry(n: usize, games: &[(usize, usize, f64)]) -> Result<Strengths> {
    at_least(NAME, 2, n)?;
    at_least(NAME, 1, games.len())?;
    for (row, (i, j, p)) in games.iter().enumerate() {
        if !(0.0..=1.0).contains(p) || i == j || *i >= n || *j >= n {
            return Err(Error::OutOfRange {
                statistic: NAME,
                expected: "labels in [0, 1] on two different items",
                got: *p,
                row,
            });
        }
    }
    if !connected(n, games) {
        return Err(Error::Undefined {
            statistic: NAME,
            reason: "the comparisons that were decided do not connect all items",
        });
    }
    let mut s = vec![0.0; n];
    let mut inverse = Vec::new();
    // Newton converges in a few steps here; the bound only keeps a fault from looping.
    for _ in 0..100 {
        let (gradient, information) = derivatives(&s, games);
        inverse = invert(information).ok_or(Error::Undefined {
            statistic: NAME,
            reason: "the comparisons carry no information",
        })?;
        let step: Vec<f64> = inverse
            .iter()
            .map(|row| row.iter().zip(&gradient).map(|(a, g)| a * g).sum())
            .collect();
        let length = step.iter().fold(0.0f64, |m, d| m.max(d.abs()));
        // The likelihood is flat far out: a step is kept to where its quadratic model is good.
        let scale = if length > 2.0 { 2.0 / length } else { 1.0 };
        s.iter_mut().zip(&step).for_each(|(s, d)| *s += scale * d);
        if length < 1e-12 {
            break;
        }
    }
    let mean = s.iter().sum::<f64>() / n as f64;
    s.iter_mut().for_each(|s| *s -= mean);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| s[*b].total_cmp(&s[*a]).then(a.cmp(b)));
    let better = |i: usize| s.iter().filter(|other| **other > s[i] + 1e-9).count();
    Ok(Strengths {
        // (I + 11ᵀ/n)⁻¹ = I⁺ + 11ᵀ/n: the constant direction's part is taken off again.
        se: (0..n)
            .map(|i| (inverse[i][i] - 1.0 / n as f64).max(0.0).sqrt())
            .collect(),
        ranks: (0..n).map(|i| better(i) + 1).collect(),
        strengths: s,
        order,
    })
}

/// Gradient of the log-likelihood, and the observed information with 11ᵀ/n added, so that it has
/// an inverse: the constant direction has the eigenvalue 1 there and 0 in the information.
fn derivatives(s: &[f64], games: &[(usize, usize, f64)]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = s.len();
    let mut gradient = vec![0.0; n];
    let mut information = vec![vec![1.0 / n as f64; n]; n];
    for (i, j, p) in games {
        let q = sigmoid(s[*i] - s[*j]);
        let residual = p.clamp(LEAST, 1.0 - LEAST) - q;
        gradient[*i] += residual;
        gradient[*j] -= residual;
        let w = q * (1.0 - q);
        information[*i][*i] += w;
        information[*j][*j] += w;
        information[*i][*j] -= w;
        information[*j][*i] -= w;
    }
    (gradient, information)
}

fn connected(n: usize, games: &[(usize, usize, f64)]) -> bool {
    let mut group: Vec<usize> = (0..n).collect();
    for (i, j, _) in games {
        let (from, to) = (group[*i], group[*j]);
        group
            .iter_mut()
            .filter(|g| **g == from)
            .for_each(|g| *g = to);
    }
    group.iter().all(|g| *g == group[0])
}

/// Gauss–Jordan with partial pivoting; the systems have as many rows as a prompt has completions.
fn invert(mut a: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    let n = a.len();
    let mut inverse: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect())
        .collect();
    for column in 0..n {
        let pivot =
            (column..n).max_by(|x, y| a[*x][column].abs().total_cmp(&a[*y][column].abs()))?;
        if a[pivot][column].abs() < 1e-14 {
            return None;
        }
        a.swap(column, pivot);
        inverse.swap(column, pivot);
        let scale = a[column][column];
        for j in 0..n {
            a[column][j] /= scale;
            inverse[column][j] /= scale;
        }
        for i in (0..n).filter(|i| *i != column) {
            let factor = a[i][column];
            for j in 0..n {
                a[i][j] -= factor * a[column][j];
                inverse[i][j] -= factor * inverse[column][j];
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_a_tie_of_all_and_two_islands_are_no_ranking() {
        let found = bradley_terry(3, &[(0, 1, 0.8), (1, 2, 0.8), (2, 0, 0.8)]).unwrap();
        assert!(found.strengths.iter().all(|s| s.abs() < 1e-9));
        assert_eq!(found.ranks, [1, 1, 1]);
        let error = bradley_terry(4, &[(0, 1, 0.8), (2, 3, 0.8)]).unwrap_err();
        assert!(error.to_string().contains("connect"), "{error}");
    }

    #[test]
    fn certain_labels_stay_finite() {
        let found = bradley_terry(2, &[(0, 1, 1.0)]).unwrap();
        // ln((1 - 1e-6) / 1e-6)
        assert!((found.strengths[0] - found.strengths[1] - 13.815_5).abs() < 1e-3);
    }
}
