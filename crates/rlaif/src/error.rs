//! Errors of the façade, each with advice and an exit code: one place for each decision.

use std::path::PathBuf;

use rlaif_core::ModelError;
use rlaif_feedback::FeedbackError;

/// Whatever can end a call of the library or a run of the tool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder.
    #[error(transparent)]
    Core(#[from] rlaif_core::Error),
    /// A template, or a model that cannot be asked at all.
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    /// A model in memory.
    #[cfg(feature = "local")]
    #[error(transparent)]
    Engine(#[from] rlaif_engine::EngineError),
    /// A model that cannot be opened.
    #[error("cannot open the model `{model}`: {problem}")]
    Open {
        /// What was asked for, without secrets.
        model: String,
        /// Why not.
        problem: String,
    },
    /// What the user gave cannot be used.
    #[error("{problem}")]
    Input {
        /// What failed, expected, got, where.
        problem: String,
        /// What to do.
        advice: String,
    },
    /// A recipe has faults; each was listed with its place.
    #[error("recipe `{}` has {} fault{}", path.display(), faults.len(), if faults.len() == 1 { "" } else { "s" })]
    Recipe {
        /// Which file.
        path: PathBuf,
        /// Its text, for showing the places.
        text: String,
        /// All of them.
        faults: Vec<crate::recipe::Fault>,
    },
    /// The journal of a run.
    #[error("{problem}")]
    Journal {
        /// What failed, with the file.
        problem: String,
        /// What to do.
        advice: String,
        /// The environment's fault rather than the user's.
        environment: bool,
    },
    /// The run was stopped before its end and can go on.
    #[error(
        "stopped before the end: {done} of {total} rows of `{stage}` have an answer, which is kept"
    )]
    Stopped {
        /// Which stage.
        stage: String,
        /// Rows that need no further asking.
        done: usize,
        /// All rows.
        total: usize,
        /// Why, where a model is the cause.
        cause: Option<ModelError>,
    },
    /// More rows of an input cannot be read than the run allows.
    #[error(
        "{faults} of {total} rows of `{}` cannot be read, more than the allowed share of {allowed}",
        path.display()
    )]
    TooManyUnread {
        /// Which file.
        path: PathBuf,
        /// Rows that cannot be read.
        faults: usize,
        /// All rows.
        total: usize,
        /// The limit, in [0, 1].
        allowed: f64,
    },
    /// More rows failed than the run allows.
    #[error(
        "{failed} of {total} rows of `{stage}` failed, more than the allowed share of {allowed}"
    )]
    TooManyFailed {
        /// Which stage.
        stage: String,
        /// Rows without an answer.
        failed: usize,
        /// All rows.
        total: usize,
        /// The limit, in [0, 1].
        allowed: f64,
        /// The commonest reason.
        reason: String,
    },
}

impl Error {
    /// A fault of what the user gave, with advice.
    pub fn input(problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Input {
            problem: problem.into(),
            advice: advice.into(),
        }
    }

    /// A budget's end stopped the run: a wish, not a fault.
    #[must_use]
    pub fn is_budget(&self) -> bool {
        let Error::Stopped { cause, .. } = self else {
            return false;
        };
        matches!(cause, Some(ModelError::BudgetReached))
    }

    /// 1 a gate failed or a run stopped early, 2 the user's fault, 3 the environment's or ours.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::TooManyFailed { .. }
            | Error::TooManyUnread { .. }
            | Error::Stopped { cause: None, .. } => 1,
            Error::Stopped {
                cause: Some(cause), ..
            }
            | Error::Feedback(FeedbackError::Stop(cause)) => match cause {
                ModelError::BudgetReached => 1,
                ModelError::Rejected { .. } => 2,
                _ => 3,
            },
            Error::Core(rlaif_core::Error::Io { source, .. })
                if source.kind() != std::io::ErrorKind::NotFound =>
            {
                3
            }
            Error::Journal {
                environment: true, ..
            } => 3,
            #[cfg(feature = "local")]
            Error::Engine(rlaif_engine::EngineError::Io { source, .. })
                if source.kind() != std::io::ErrorKind::NotFound =>
            {
                3
            }
            #[cfg(feature = "local")]
            Error::Engine(
                rlaif_engine::EngineError::NotFinite { .. }
                | rlaif_engine::EngineError::Memory { .. },
            ) => 1,
            _ => 2,
        }
    }

    /// What to do about it; empty where the message says all.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Error::Input { advice, .. } | Error::Journal { advice, .. } => advice.clone(),
            Error::Core(rlaif_core::Error::Locked { .. }) => {
                "wait for the other process to end, or give this one another folder".into()
            }
            Error::Core(rlaif_core::Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                "free some space and give the same command again: what is finished is kept".into()
            }
            Error::Core(rlaif_core::Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                "check the path; relative paths in a recipe start at the recipe's own folder".into()
            }
            Error::Stopped { cause: None, .. } => {
                "give the same command again to go on from here".into()
            }
            Error::Stopped {
                cause: Some(cause), ..
            } => model_advice(cause),
            Error::Feedback(FeedbackError::Stop(cause)) => model_advice(cause),
            Error::TooManyUnread { .. } => "the rows that can be read are done; mend the others \
                 (each was named with its line) and give the same command again, or allow more with \
                 `--max-failed`"
                .into(),
            Error::TooManyFailed { reason, .. } => format!(
                "the commonest reason was: {reason}; mend it and give the same command again (only \
                 the failed rows are asked again), or allow more with `--max-failed`"
            ),
            _ => String::new(),
        }
    }
}

fn model_advice(cause: &ModelError) -> String {
    match cause {
        ModelError::Rejected {
            status: 401 | 403, ..
        } => "check the key: `--api-key-env VAR` (or `api_key_env` in the recipe) names the \
             environment variable that holds it"
            .into(),
        ModelError::Rejected { status: 404, .. } => {
            "check the base URL (it usually ends in /v1) and the model's name".into()
        }
        ModelError::BudgetReached => {
            "what is finished is kept: raise `--max-usd` or `--max-calls` \
             and give the same command again to go on"
                .into()
        }
        ModelError::Rejected { status: 402, .. } => {
            "the provider's quota is used up; once there is more, give the same command again to \
             go on"
                .into()
        }
        ModelError::ContextTooLong { .. } => {
            "show less of each row by `--max-input-chars`, or serve the model with more room; then \
             give the same command again"
                .into()
        }
        ModelError::Broken { .. } => {
            "once that is mended, give the same command again: what is finished is kept".into()
        }
        ModelError::Exhausted { .. } => {
            "is the server running, and is the address right? Give the same command again to go on"
                .into()
        }
        _ => "give the same command again to go on from here".into(),
    }
}
