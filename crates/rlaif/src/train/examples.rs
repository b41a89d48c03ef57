//! Rows of a file as examples, by the split of their prompts.

use rlaif_core::dataset::{Dataset, Row as DataRow};
use rlaif_core::seed::Split;

use crate::error::Error;

/// Examples by the split of their prompts.
#[derive(Debug, Default)]
pub struct Splits<T> {
    /// Trained on.
    pub train: Vec<T>,
    /// Chooses the checkpoint.
    pub validation: Vec<T>,
    /// Measured once, at the end.
    pub test: Vec<T>,
    /// Rows that were longer than the limit.
    pub too_long: usize,
    /// Rows that lack what the objective needs.
    pub unusable: usize,
}

impl<T> Splits<T> {
    /// Sorts rows into splits by their prompts' hashes.
    ///
    /// # Errors
    /// The first row that `make` refuses, with file and line.
    pub fn of(
        data: &Dataset,
        mut make: impl FnMut(&DataRow) -> Result<Made<T>, Error>,
    ) -> Result<Self, Error> {
        let mut splits = Splits {
            train: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
            too_long: 0,
            unusable: 0,
        };
        for row in &data.rows {
            let made = make(row).map_err(|e| {
                Error::input(
                    format!("{}:{}: {e}", data.path.display(), row.line),
                    e.advice(),
                )
            })?;
            match made {
                Made::TooLong => splits.too_long += 1,
                Made::Unusable => splits.unusable += 1,
                Made::Example(example) => match Split::of(&row.prompt) {
                    Split::Train => splits.train.push(example),
                    Split::Validation => splits.validation.push(example),
                    Split::Test => splits.test.push(example),
                },
            }
        }
        if splits.train.is_empty() {
            return Err(Error::input(
                format!(
                    "`{}` has no row to train on ({} too long, {} without what this needs)",
                    data.path.display(),
                    splits.too_long,
                    splits.unusable
                ),
                "raise `max_length`, or see the table of columns in the README",
            ));
        }
        Ok(splits)
    }
}

/// What a row of a file became.
pub enum Made<T> {
    /// An example.
    Example(T),
    /// Longer than the limit: left out and counted, never cut.
    TooLong,
    /// No completion, or no label.
    Unusable,
}

/// P(the first of two completions is better): `p_chosen`, else the file's label, else 1 where the
/// file says `chosen` and `rejected`.
#[must_use]
pub fn label(row: &DataRow) -> Option<f32> {
    let soft = row
        .columns
        .get("p_chosen")
        .and_then(serde_json::Value::as_f64);
    soft.or(row.label.get()).map(|p| p as f32)
}
