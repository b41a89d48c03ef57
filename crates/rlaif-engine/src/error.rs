//! What can go wrong with a model in memory.

use std::path::PathBuf;

/// An error of the engine. Messages name the file and say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file could not be read or written.
    #[error("cannot {verb} `{path}`: {source}")]
    Io {
        /// What was tried: `read`, `write` …
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("`{path}`: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, what was expected, what to do.
        what: String,
    },
    /// The architecture is not one that the engine runs.
    #[error(
        "`{path}`: architecture `{architecture}` is not supported; supported are LlamaForCausalLM \
         and LlamaForSequenceClassification (Llama 2 and 3, SmolLM2, TinyLlama)"
    )]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The architecture it names.
        architecture: String,
    },
    /// A tokenizer or chat template failed.
    #[error("{0}")]
    Template(String),
    /// A request that the model cannot serve.
    #[error("{0}")]
    Request(String),
    /// Not enough memory for what was asked, said before the work starts.
    #[error(
        "{what} needs {needed} MiB and the memory budget is {budget} MiB; lower {lower} or raise \
         the budget"
    )]
    Memory {
        /// What was asked.
        what: String,
        /// MiB needed.
        needed: u64,
        /// MiB allowed.
        budget: u64,
        /// Which setting to lower.
        lower: &'static str,
    },
    /// A value that is not a number, with the tensor in which it appeared.
    #[error("`{tensor}` is not finite; the last good checkpoint is kept: lower the learning rate")]
    NotFinite {
        /// The tensor's name.
        tensor: String,
    },
}

impl EngineError {
    pub(crate) fn format(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        EngineError::Format {
            path: path.into(),
            what: what.into(),
        }
    }

    pub(crate) fn io(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| EngineError::Io { verb, path, source }
    }
}
