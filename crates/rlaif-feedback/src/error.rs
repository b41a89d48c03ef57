//! What stops feedback altogether. A single answer that fails is an outcome, not an error.

use rlaif_core::ModelError;

/// Why no record could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedbackError {
    /// A template is wrong.
    #[error("template `{name}` {problem}")]
    Template {
        /// Its name or path.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A revision was asked for without a critique to follow.
    #[error("there is no critique to revise by: it ended as `{outcome}`")]
    NoCritique {
        /// How the critique ended.
        outcome: rlaif_core::Outcome,
    },
    /// A limit in tokens on a model whose tokenizer is not known.
    #[error(
        "`max_input_tokens` needs a tokenizer, and that of `{model}` is not known; give \
         `max_input_chars` instead"
    )]
    NoTokenizer {
        /// The model.
        model: String,
    },
    /// Settings that contradict each other.
    #[error("{problem}")]
    Settings {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The model cannot be asked at all (a wrong key, a wrong name, a budget reached): every
    /// further call would fail alike.
    #[error(transparent)]
    Stop(#[from] ModelError),
}
