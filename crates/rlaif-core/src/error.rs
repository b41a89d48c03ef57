//! Errors of files and data: each carries the facts (path, line, what was expected, what came).

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Short for a result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a file that the user gave or that a run left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// `read`, `write`, `create` …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A whole file is not what it should be.
    #[error("`{path}` {problem}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong, as the end of the sentence "FILE …".
        problem: String,
    },
    /// A constitution is wrong at a place.
    #[error("constitution `{path}`, {place}: {problem}")]
    Constitution {
        /// Which file.
        path: PathBuf,
        /// Line or principle.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A value is none of those that are known.
    #[error("expected {expected}, got `{got}`")]
    Value {
        /// What would do.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// Another process works in the run folder.
    #[error("`{path}` is in use by another process")]
    Locked {
        /// The folder or file.
        path: PathBuf,
    },
}

impl Error {
    /// An I/O error with what was being done to which file.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }
}

/// The line, from 1, on which a span of bytes of a text begins; 1 where the span is not known.
#[must_use]
pub fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let before = span.and_then(|span| text.get(..span.start));
    before.unwrap_or_default().matches('\n').count() + 1
}
