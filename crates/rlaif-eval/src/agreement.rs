//! Agreement between two raters: share, Cohen's kappa, by subset, by difference in length.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least, same_len};
use crate::interval::Proportion;

/// Share of rows on which two raters agree (accuracy, where the second is the truth), with its 95 %
/// Wilson interval. `left` and `right` have one label a row.
///
/// # Errors
/// No rows, or lists of different lengths.
///
/// ```
/// let got = rlaif_eval::agreement(&["A", "B", "B"], &["A", "A", "B"]).unwrap();
/// assert_eq!((got.count, got.n), (2, 3));
/// ```
pub fn agreement<L: PartialEq>(left: &[L], right: &[L]) -> Result<Proportion> {
    same_len("agreement", left.len(), right.len())?;
    Proportion::of(left.iter().zip(right).map(|(a, b)| a == b)).ok_or(Error::TooFew {
        statistic: "agreement",
        expected: 1,
        got: 0,
    })
}

/// [`agreement`] for each subset; `keys[i]` names the subset of row `i`. A subset without rows does
/// not appear.
///
/// # Errors
/// Lists of different lengths.
pub fn agreement_by<K: Ord + Clone, L: PartialEq>(
    keys: &[K],
    left: &[L],
    right: &[L],
) -> Result<BTreeMap<K, Proportion>> {
    same_len("agreement by subset", keys.len(), left.len())?;
    same_len("agreement by subset", left.len(), right.len())?;
    let mut flags: BTreeMap<K, Vec<bool>> = BTreeMap::new();
    for (key, (a, b)) in keys.iter().zip(left.iter().zip(right)) {
        flags.entry(key.clone()).or_default().push(a == b);
    }
    Ok(flags
        .into_iter()
        .filter_map(|(key, flags)| Some((key, Proportion::of(flags)?)))
        .collect())
}

/// Agreement among the rows whose difference in length lies in [`from`, `to`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthBin {
    /// Least difference, inclusive; `null` for no limit.
    pub from: Option<i64>,
    /// Greatest difference, exclusive; `null` for no limit.
    pub to: Option<i64>,
    /// Agreement; `null` where no row falls in.
    pub agreement: Option<Proportion>,
}

/// Agreement by difference in length.
///
/// `difference[i]` is the length of the response that the reference label prefers less that of the
/// other, in the caller's unit (words here): a judge that merely likes length agrees where it is
/// positive and disagrees where it is negative. `agrees[i]` says whether the raters agree. `edges`
/// rise strictly; k edges make k + 1 bins, the outer two open.
///
/// # Errors
/// Lists of different lengths, or edges that do not rise.
pub fn agreement_by_length(
    difference: &[i64],
    agrees: &[bool],
    edges: &[i64],
) -> Result<Vec<LengthBin>> {
    const NAME: &str = "agreement by length";
    same_len(NAME, difference.len(), agrees.len())?;
    if edges.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Error::Undefined {
            statistic: NAME,
            reason: "the edges of its bins do not rise",
        });
    }
    let mut counts = vec![(0, 0); edges.len() + 1];
    for (d, &agrees) in difference.iter().zip(agrees) {
        count_by_length(edges, &mut counts, *d, agrees);
    }
    Ok(length_bins(edges, &counts))
}

/// Counts a row in the bin of its difference; `counts` holds (agreeing, all), one more than edges.
pub(crate) fn count_by_length(
    edges: &[i64],
    counts: &mut [(u64, u64)],
    difference: i64,
    agrees: bool,
) {
    let bin = edges.partition_point(|edge| *edge <= difference);
    if let Some((agreeing, all)) = counts.get_mut(bin) {
        *agreeing += u64::from(agrees);
        *all += 1;
    }
}

/// The bins of what was counted.
pub(crate) fn length_bins(edges: &[i64], counts: &[(u64, u64)]) -> Vec<LengthBin> {
    counts
        .iter()
        .enumerate()
        .map(|(bin, (agreeing, all))| LengthBin {
            from: bin.checked_sub(1).map(|below| edges[below]),
            to: edges.get(bin).copied(),
            agreement: Proportion::new(*agreeing, *all),
        })
        .collect()
}

/// Cohen's kappa with what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kappa {
    /// (observed − expected) / (1 − expected), at most 1; 0 is agreement by chance.
    pub kappa: f64,
    /// Share of rows on which the raters agree, in [0, 1].
    pub observed: f64,
    /// Share on which they would by chance, given how often each uses each label, in [0, 1).
    pub expected: f64,
    /// Rows.
    pub n: u64,
}

/// Cohen's kappa: agreement beyond chance.
///
/// κ = (p_o − p_e) / (1 − p_e), p_o the share of equal labels, p_e = Σ_k (n_k¹/n)(n_k²/n).
///
/// # Errors
/// No rows; lists of different lengths; both raters use one and the same label throughout, so that
/// chance alone gives full agreement and κ is 0/0.
///
/// Source: Cohen 1960.
///
/// ```
/// // p_o = 3/4; labels A 2+1, B 2+3 of 4: p_e = (2·1 + 2·3)/16 = 1/2; κ = (3/4 − 1/2)/(1/2) = 1/2.
/// let got = rlaif_eval::cohen_kappa(&["A", "A", "B", "B"], &["A", "B", "B", "B"]).unwrap();
/// assert_eq!(got.kappa, 0.5);
/// ```
pub fn cohen_kappa<L: Ord>(left: &[L], right: &[L]) -> Result<Kappa> {
    const NAME: &str = "Cohen's kappa";
    same_len(NAME, left.len(), right.len())?;
    at_least(NAME, 1, left.len())?;
    let mut uses: BTreeMap<&L, (u64, u64)> = BTreeMap::new();
    let mut equal = 0u64;
    for (a, b) in left.iter().zip(right) {
        uses.entry(a).or_default().0 += 1;
        uses.entry(b).or_default().1 += 1;
        equal += u64::from(a == b);
    }
    let n = left.len() as f64;
    let observed = equal as f64 / n;
    let expected = uses
        .values()
        .map(|&(a, b)| a as f64 * b as f64)
        .sum::<f64>()
        / (n * n);
    if uses.len() == 1 {
        return Err(Error::Undefined {
            statistic: NAME,
            reason: "both raters give one and the same label to every row",
        });
    }
    let kappa = (observed - expected) / (1.0 - expected);
    all_valid(NAME, "a finite ratio", &[kappa], f64::is_finite)?;
    Ok(Kappa {
        kappa,
        observed,
        expected,
        n: left.len() as u64,
    })
}
