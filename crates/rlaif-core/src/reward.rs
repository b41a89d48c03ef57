//! The reward trait: one result an item, and a failed item is never a number.

use crate::message::Message;
use crate::model::{BoxFuture, CallContext, ModelId};

/// What is to be scored: a prompt and one completion.
#[derive(Clone, Copy, Debug)]
pub struct ScoreItem<'a> {
    /// The conversation up to the completion.
    pub prompt: &'a [Message],
    /// The completion.
    pub completion: &'a str,
}

/// A reward model's output, before KL and penalties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score(pub f32);

/// Why an item has no score.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// The scorer could not be asked, or failed.
    #[error("scoring failed: {message}")]
    Failed {
        /// What happened.
        message: String,
    },
    /// The scorer answered with something that is no finite number.
    #[error("the score is not a finite number: `{got}`")]
    NotANumber {
        /// What it answered.
        got: String,
    },
}

/// Something that scores completions.
///
/// A trainer masks failed items out, counts them, and stops above a limit.
pub trait Reward: Send + Sync {
    /// The name that records show.
    fn id(&self) -> &ModelId;

    /// Scores a batch; the result has the length and order of `items`.
    fn score<'a>(
        &'a self,
        items: &'a [ScoreItem<'a>],
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Vec<Result<Score, RewardError>>>;
}
