//! Why a statistic has no value.

/// Short for a result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a statistic cannot be computed. A caller shows "not defined" and the reason, never a number.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are no rows.
    #[error("{statistic} needs at least {expected} rows, got {got}")]
    TooFew {
        /// Which statistic.
        statistic: &'static str,
        /// The fewest rows it is defined on.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// Two lists that belong together differ in length.
    #[error("{statistic} needs lists of equal length, got {left} and {right}")]
    LengthMismatch {
        /// Which statistic.
        statistic: &'static str,
        /// Length of the first list.
        left: usize,
        /// Length of the second list.
        right: usize,
    },
    /// A value lies outside the range that the statistic is defined on.
    #[error("{statistic} needs {expected}, got `{got}` in row {row}")]
    OutOfRange {
        /// Which statistic.
        statistic: &'static str,
        /// The range, in words.
        expected: &'static str,
        /// The value.
        got: f64,
        /// Its place in the list, from 0.
        row: usize,
    },
    /// The rows are valid, but the statistic has no value on them.
    #[error("{statistic} is not defined: {reason}")]
    Undefined {
        /// Which statistic.
        statistic: &'static str,
        /// Why, in words.
        reason: &'static str,
    },
}

pub(crate) fn same_len(statistic: &'static str, left: usize, right: usize) -> Result<()> {
    if left == right {
        Ok(())
    } else {
        Err(Error::LengthMismatch {
            statistic,
            left,
            right,
        })
    }
}

pub(crate) fn at_least(statistic: &'static str, expected: usize, got: usize) -> Result<()> {
    if got >= expected {
        Ok(())
    } else {
        Err(Error::TooFew {
            statistic,
            expected,
            got,
        })
    }
}

/// Refuses the first value that `is_valid` does not take (NaN included, since it fails every
/// comparison).
pub(crate) fn all_valid(
    statistic: &'static str,
    expected: &'static str,
    values: &[f64],
    is_valid: impl Fn(f64) -> bool,
) -> Result<()> {
    match values.iter().position(|&v| !is_valid(v)) {
        None => Ok(()),
        Some(row) => Err(Error::OutOfRange {
            statistic,
            expected,
            got: values[row],
            row,
        }),
    }
}
