//! Which completions of one prompt are compared with each other.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::seed;

/// A choice of pairs among n completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Every two: n (n − 1) / 2.
    All,
    /// Each with the next: n − 1.
    Adjacent,
    /// The best-rated with the worst-rated: 1.
    BestWorst,
    /// So many of all, drawn without replacement.
    Random(usize),
}

impl FromStr for Pairs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => Ok(Pairs::All),
            "adjacent" => Ok(Pairs::Adjacent),
            "best-worst" => Ok(Pairs::BestWorst),
            other => match other.strip_prefix("random:").map(str::parse) {
                Some(Ok(n)) if n > 0 => Ok(Pairs::Random(n)),
                _ => Err(Error::Value {
                    expected: "`all`, `adjacent`, `best-worst` or `random:N` with N of at least 1",
                    got: text.to_owned(),
                }),
            },
        }
    }
}

/// The pairs of `n` completions as (i, j) with i < j, in rising order.
///
/// ```
/// use rlaif_core::pairs::{Pairs, pairs};
/// assert_eq!(pairs(3, &Pairs::All, None, 0)?, [(0, 1), (0, 2), (1, 2)]);
/// assert_eq!(pairs(3, &Pairs::BestWorst, Some(&[2.0, 5.0, 1.0]), 0)?, [(1, 2)]);
/// # Ok::<(), rlaif_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Value`] where `best-worst` lacks a rating for each completion. Equal ratings
/// throughout give no pair: there is neither a best nor a worst.
pub fn pairs(
    n: usize,
    which: &Pairs,
    ratings: Option<&[f64]>,
    derived_seed: u64,
) -> Result<Vec<(usize, usize)>> {
    let all = || (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)));
    Ok(match which {
        Pairs::All => all().collect(),
        Pairs::Adjacent => (1..n).map(|j| (j - 1, j)).collect(),
        Pairs::BestWorst => {
            let ratings = ratings
                .filter(|r| r.len() == n)
                .ok_or_else(|| Error::Value {
                    expected: "a column `ratings` with a number for each completion (`best-worst`)",
                    got: ratings.map_or("none".into(), |r| format!("{} ratings for {n}", r.len())),
                })?;
            let by = |a: &usize, b: &usize| ratings[*a].total_cmp(&ratings[*b]);
            // `max_by` gives the last of equals, `min_by` the first: with all equal they would
            // still name two completions, so equality is asked for by itself.
            match ((0..n).max_by(by), (0..n).min_by(by)) {
                (Some(best), Some(worst)) if ratings[best] > ratings[worst] => {
                    vec![(best.min(worst), best.max(worst))]
                }
                _ => Vec::new(),
            }
        }
        Pairs::Random(k) => {
            let mut keyed: Vec<_> = all()
                .map(|(i, j)| {
                    (
                        seed::derive(derived_seed, &[&i.to_string(), &j.to_string()]),
                        (i, j),
                    )
                })
                .collect();
            keyed.sort_unstable();
            keyed.truncate(*k);
            let mut drawn: Vec<_> = keyed.into_iter().map(|(_, pair)| pair).collect();
            drawn.sort_unstable();
            drawn
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_refused() {
        assert_eq!("random:3".parse::<Pairs>().unwrap(), Pairs::Random(3));
        for wrong in ["random:0", "random:", "some", "random:-1"] {
            assert!(
                wrong
                    .parse::<Pairs>()
                    .unwrap_err()
                    .to_string()
                    .contains(wrong)
            );
        }
    }

    #[test]
    fn equal_ratings_give_no_pair() {
        // A peer takes max and min over the ratings: all tied, chosen and rejected are the same.
        assert!(
            pairs(3, &Pairs::BestWorst, Some(&[4.0, 4.0, 4.0]), 0)
                .unwrap()
                .is_empty()
        );
        assert!(pairs(3, &Pairs::BestWorst, Some(&[4.0]), 0).is_err());
        assert!(pairs(3, &Pairs::BestWorst, None, 0).is_err());
    }

    #[test]
    fn random_pairs_are_distinct_and_fixed_by_the_seed() {
        let once = pairs(6, &Pairs::Random(5), None, 9).unwrap();
        assert_eq!(once, pairs(6, &Pairs::Random(5), None, 9).unwrap());
        assert_ne!(once, pairs(6, &Pairs::Random(5), None, 10).unwrap());
        let set: std::collections::BTreeSet<_> = once.iter().collect();
        assert_eq!(set.len(), 5);
        assert_eq!(pairs(3, &Pairs::Random(50), None, 9).unwrap().len(), 3);
        assert!(pairs(1, &Pairs::All, None, 0).unwrap().is_empty());
    }
}
