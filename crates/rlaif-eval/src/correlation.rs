//! Correlation between two lists of numbers: Pearson, Spearman, Kendall's tau-b.

use std::cmp::Ordering;

use crate::error::{Error, Result, all_valid, at_least, same_len};

fn check(statistic: &'static str, x: &[f64], y: &[f64]) -> Result<()> {
    same_len(statistic, x.len(), y.len())?;
    at_least(statistic, 2, x.len())?;
    for values in [x, y] {
        all_valid(statistic, "finite values", values, f64::is_finite)?;
        if values.iter().all(|v| *v == values[0]) {
            return Err(Error::Undefined {
                statistic,
                reason: "one of the lists is constant",
            });
        }
    }
    Ok(())
}

/// Pearson's correlation, in [−1, 1]: Σ (xᵢ − x̄)(yᵢ − ȳ) / √(Σ (xᵢ − x̄)² Σ (yᵢ − ȳ)²).
///
/// # Errors
/// Fewer than two rows, lists of different lengths, a value that is not finite, a constant list,
/// values so far apart that the sums overflow.
pub fn pearson(x: &[f64], y: &[f64]) -> Result<f64> {
    check("Pearson's correlation", x, y)?;
    pearson_checked("Pearson's correlation", x, y)
}

fn pearson_checked(statistic: &'static str, x: &[f64], y: &[f64]) -> Result<f64> {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xy += dx * dy;
        xx += dx * dx;
        yy += dy * dy;
    }
    // Two roots rather than the root of the product: the product may overflow where they do not.
    let r = xy / (xx.sqrt() * yy.sqrt());
    // A sum of squares that overflowed would make r a plausible 0.
    if r.is_finite() && xx.is_finite() && yy.is_finite() {
        Ok(r.clamp(-1.0, 1.0))
    } else {
        Err(Error::Undefined {
            statistic,
            reason: "the sums of squares overflow or vanish",
        })
    }
}

/// Correlation about zero (the cosine of the two lists), in [−1, 1]: Σ xᵢ yᵢ / √(Σ xᵢ² Σ yᵢ²).
///
/// For values whose sign is an accident, such as log-odds of the response that a file happens to give
/// first: turning the signs of xᵢ and yᵢ together changes nothing, which is not so of [`pearson`].
///
/// # Errors
/// No rows, lists of different lengths, a value that is not finite, a list of zeros, overflow.
///
/// ```
/// // (1·2 + 2·1) / √(5 · 5).
/// let r = rlaif_eval::correlation_about_zero(&[1.0, -2.0], &[2.0, -1.0]).unwrap();
/// assert!((r - 0.8).abs() < 1e-15);
/// ```
pub fn correlation_about_zero(x: &[f64], y: &[f64]) -> Result<f64> {
    const NAME: &str = "the correlation about zero";
    same_len(NAME, x.len(), y.len())?;
    at_least(NAME, 1, x.len())?;
    for values in [x, y] {
        all_valid(NAME, "finite values", values, f64::is_finite)?;
    }
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let r = sum(x, y) / (sum(x, x).sqrt() * sum(y, y).sqrt());
    if r.is_finite() {
        Ok(r.clamp(-1.0, 1.0))
    } else {
        Err(Error::Undefined {
            statistic: NAME,
            reason: "one of the lists is zero throughout, or the sums overflow",
        })
    }
}

/// Ranks from 1; equal values share the mean of their ranks.
fn mid_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| compare(values[a], values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        // Ranks start+1 … start+len have the mean start + (len + 1)/2.
        let rank = start as f64 + (run.len() as f64 + 1.0) / 2.0;
        for &i in run {
            ranks[i] = rank;
        }
        start += run.len();
    }
    ranks
}

/// Order of finite values; −0 equals 0, as `==` has it, which `total_cmp` would tell apart.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

/// Spearman's rank correlation, in [−1, 1]: [`pearson`] of the ranks, equal values sharing the mean
/// of their ranks.
///
/// # Errors
/// Those of [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Result<f64> {
    const NAME: &str = "Spearman's correlation";
    check(NAME, x, y)?;
    pearson_checked(NAME, &mid_ranks(x), &mid_ranks(y))
}

/// Kendall's tau-b, in [−1, 1]: (C − D) / √((N₀ − N_x)(N₀ − N_y)).
///
/// C and D count concordant and discordant pairs, N₀ = n(n − 1)/2 all pairs, N_x and N_y those tied
/// in x and in y. O(n log n): discordant pairs are the exchanges of a merge sort.
///
/// # Errors
/// Those of [`pearson`] but for overflow.
///
/// Source: Kendall 1945; Knight 1966.
///
/// ```
/// // Pairs of (1,1), (2,3), (3,2): two concordant, one discordant: (2 − 1)/3.
/// let tau = rlaif_eval::kendall_tau_b(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]).unwrap();
/// assert!((tau - 1.0 / 3.0).abs() < 1e-15);
/// ```
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> Result<f64> {
    check("Kendall's tau-b", x, y)?;
    let mut points: Vec<(f64, f64)> = x.iter().copied().zip(y.iter().copied()).collect();
    points.sort_by(|a, b| compare(a.0, b.0).then(compare(a.1, b.1)));
    let pairs_within = |sizes: &mut dyn Iterator<Item = usize>| -> u128 {
        sizes.map(|n| (n as u128) * (n as u128 - 1) / 2).sum()
    };
    let tied_x = pairs_within(&mut points.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len));
    let tied_both = pairs_within(&mut points.chunk_by(|a, b| a == b).map(<[_]>::len));
    let mut by_y: Vec<f64> = points.iter().map(|point| point.1).collect();
    let mut spare = by_y.clone();
    let discordant = sort_counting(&mut by_y, &mut spare);
    let tied_y = pairs_within(&mut by_y.chunk_by(|a, b| a == b).map(<[_]>::len));
    let all = pairs_within(&mut std::iter::once(x.len()));
    // all = C + D + N_x + N_y − N_xy, so C − D = all − N_x − N_y + N_xy − 2 D.
    let difference = (all + tied_both) as f64 - (tied_x + tied_y) as f64 - 2.0 * discordant as f64;
    let scale = ((all - tied_x) as f64).sqrt() * ((all - tied_y) as f64).sqrt();
    Ok((difference / scale).clamp(-1.0, 1.0))
}

/// Sorts `values` by merging and counts the pairs that stood in falling order.
fn sort_counting(values: &mut [f64], spare: &mut [f64]) -> u128 {
    let n = values.len();
    if n < 2 {
        return 0;
    }
    let half = n / 2;
    let mut falling = {
        let (left, right) = values.split_at_mut(half);
        let (spare_left, spare_right) = spare.split_at_mut(half);
        sort_counting(left, spare_left) + sort_counting(right, spare_right)
    };
    let (mut i, mut j) = (0, half);
    for slot in spare.iter_mut() {
        if i < half && (j == n || values[i] <= values[j]) {
            *slot = values[i];
            i += 1;
        } else {
            // What is left of the first half is greater than this value.
            falling += (half - i) as u128;
            *slot = values[j];
            j += 1;
        }
    }
    values.copy_from_slice(spare);
    falling
}
