//! The language-model trait: to whoever asks, a socket, a tensor and a script are the same.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::Message;

/// A boxed future, so that the traits stay object-safe without a macro.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A shared model, whatever is behind it.
pub type Model = Arc<dyn LanguageModel>;

/// The public name of a model, as records and reports show it. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub Arc<str>);

impl ModelId {
    /// A name.
    pub fn new(name: impl AsRef<str>) -> Self {
        ModelId(Arc::from(name.as_ref()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which item a call belongs to: stage, row and draw. It names the call in logs and errors.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ItemId {
    /// Stage, as in the recipe: `judge`, `critique` …
    pub stage: Arc<str>,
    /// The row's own id (a content hash, or the column `id` where the user gave one).
    pub row: Arc<str>,
    /// Which of several draws for the same row.
    pub draw: u32,
}

/// Receives text as it arrives.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// What goes with a call beside its content.
#[derive(Clone)]
pub struct CallContext {
    /// The item, for logs and errors.
    pub item: ItemId,
    /// Seed of every random choice inside the call.
    pub seed: u64,
    /// Time after which the call must have ended, retries included.
    pub deadline: Duration,
    /// Receives text as it arrives, where the model can stream.
    pub sink: Option<Sink>,
}

impl CallContext {
    /// The deadline where nobody sets one.
    pub const DEADLINE: Duration = Duration::from_secs(600);

    /// A context with [`CallContext::DEADLINE`] and no sink.
    #[must_use]
    pub fn new(item: ItemId, seed: u64) -> Self {
        CallContext {
            item,
            seed,
            deadline: CallContext::DEADLINE,
            sink: None,
        }
    }
}

/// How to sample. Field names are those of Hugging Face's generation settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus mass, in (0, 1]; `None` leaves it out of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Number of tokens kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Least probability relative to the best token's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Most tokens to generate.
    pub max_new_tokens: u32,
    /// Texts that end the completion; they are not part of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_p: None,
            top_k: None,
            min_p: None,
            max_new_tokens: 512,
            stop: Vec::new(),
        }
    }
}

impl Sampling {
    /// Greedy decoding of at most `max_new_tokens` tokens.
    #[must_use]
    pub fn greedy(max_new_tokens: u32) -> Self {
        Sampling {
            temperature: 0.0,
            max_new_tokens,
            ..Sampling::default()
        }
    }
}

/// Ask for one completion.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// The conversation so far.
    pub messages: Arc<[Message]>,
    /// Text with which the answer must begin, where the model can be made to.
    pub prefill: Option<String>,
    /// How to sample.
    pub sampling: Sampling,
    /// JSON Schema to which the answer is held where the model can be; a wish, not a promise.
    pub schema: Option<Arc<serde_json::Value>>,
}

/// Ask how likely each of several answers is.
#[derive(Clone, Debug)]
pub struct ChoiceRequest {
    /// The conversation so far.
    pub messages: Arc<[Message]>,
    /// Text with which the answer begins, just before the choice.
    pub prefill: Option<String>,
    /// One inner list a choice: its spellings, such as `["(A)", "A", " A"]`.
    pub choices: Vec<Vec<String>>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended its turn, or a stop text was met.
    Stop,
    /// The token limit was reached: the text is cut off.
    Length,
    /// The provider withheld the answer.
    ContentFilter,
}

/// Token ids of a completion and their log-probabilities, same length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Ids in the model's own vocabulary; empty where the endpoint gives only texts.
    pub ids: Vec<u32>,
    /// Natural-log probabilities of the tokens sampled.
    pub logprobs: Vec<f32>,
}

/// What a call used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Requests answered for this call (sampling k draws takes k).
    pub calls: u32,
    /// Attempts that failed and were made again.
    pub retries: u32,
    /// Prompt tokens, as the server counts them.
    pub prompt_tokens: u64,
    /// Generated tokens, as the server counts them.
    pub completion_tokens: u64,
    /// Money, where the model has a price.
    pub usd: Option<f64>,
    /// Request fields that the endpoint refused, so that this call went without: `logprobs`,
    /// `seed` … Sorted, no duplicates.
    pub lost: Vec<String>,
}

impl Usage {
    /// Adds another call's usage to this one. Money is known only if both sides know it; a side
    /// without calls does not count.
    pub fn add(&mut self, other: &Usage) {
        self.usd = match (self.usd, other.usd) {
            (Some(a), Some(b)) => Some(a + b),
            (None, Some(b)) if self.calls == 0 => Some(b),
            (Some(a), None) if other.calls == 0 => Some(a),
            _ => None,
        };
        self.calls += other.calls;
        self.retries += other.retries;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        for field in &other.lost {
            if let Err(at) = self.lost.binary_search(field) {
                self.lost.insert(at, field.clone());
            }
        }
    }
}

/// A sampled answer.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The answer, without a prefill and without reasoning.
    pub text: String,
    /// What a reasoning model thought first, kept apart.
    pub reasoning: Option<String>,
    /// Ids and log-probabilities, where known.
    pub tokens: Option<Tokens>,
    /// Why it ended.
    pub finish: Finish,
    /// What it used.
    pub usage: Usage,
}

/// How log-probabilities of choices were obtained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Evidence {
    /// Every choice was scored in full.
    Exact,
    /// Read off the most likely tokens; `unseen_mass` is the probability outside that list.
    TopK {
        /// Probability of all tokens not listed, in [0, 1].
        unseen_mass: f32,
    },
    /// Counted over sampled answers, Laplace-smoothed.
    Sampled {
        /// How many parseable answers were counted.
        draws: u32,
    },
}

/// Log-probabilities of the choices, normalized over the choices.
#[derive(Clone, Debug)]
pub struct ChoiceLogprobs {
    /// One a choice, natural log; their exponentials sum to 1.
    pub logprobs: Vec<f32>,
    /// Probability that the answer was none of the choices, in [0, 1].
    pub off_choice_mass: f32,
    /// How they were obtained.
    pub evidence: Evidence,
    /// What the model wrote, where it wrote something.
    pub text: String,
    /// What a reasoning model thought first, kept apart.
    pub reasoning: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// What a model can do, so that a plan can say before the first call what labels will lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Choices are scored by probability rather than by counting samples. `None`: not known
    /// before the first answer.
    pub logprobs: Option<bool>,
    /// An answer can be made to begin with a given text.
    pub prefill: bool,
}

/// Why a call gave no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The provider or the model declined to answer.
    #[error("the model refused to answer: {text}")]
    Refused {
        /// What it said instead.
        text: String,
    },
    /// An answer came, but none of the choices could be read from it.
    #[error("no choice could be read from the answer `{text}`")]
    Unparseable {
        /// The answer.
        text: String,
        /// It was cut off by the token limit before a choice appeared.
        truncated: bool,
        /// What it used: an answer that cannot be read is paid for all the same.
        usage: Usage,
    },
    /// The prompt does not fit.
    #[error("{}", does_not_fit(*tokens, *limit))]
    ContextTooLong {
        /// Tokens asked for, with those that the answer may have; 0 where the server did not say.
        tokens: u64,
        /// The model's limit; 0 where the server did not say.
        limit: u64,
    },
    /// The endpoint, or a model in memory, says that the request itself is wrong; asking again is
    /// useless.
    #[error("the request was rejected with status {status}: {message}")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// The server's words, shortened.
        message: String,
    },
    /// Every attempt failed.
    #[error("{attempts} attempts failed, the last one: {last}")]
    Exhausted {
        /// How many.
        attempts: u32,
        /// What the last one said.
        last: String,
    },
    /// Time ran out.
    #[error("no answer before the deadline")]
    Deadline,
    /// The budget does not allow the call.
    #[error("the budget is reached")]
    BudgetReached,
    /// The run was asked to stop before the call left.
    #[error("the run was stopped before this call was sent")]
    Stopped,
    /// The endpoint or its answers cannot be used at all.
    #[error("{message}")]
    Broken {
        /// What is wrong.
        message: String,
    },
}

fn does_not_fit(tokens: u64, limit: u64) -> String {
    if tokens == 0 || limit == 0 {
        return "the prompt does not fit the model".to_owned();
    }
    format!("{tokens} tokens, with the answer's, do not fit the model's {limit}")
}

/// True where a record's error says that its prompt does not fit: the model is there, and another row
/// may fit.
#[must_use]
pub fn says_too_long(error: &str) -> bool {
    // What both forms of `does_not_fit` say.
    error.contains("fit the model")
}

impl ModelError {
    /// True where every further call would fail in the same way (a wrong key, a wrong model name,
    /// a page that is no API), so that a run had better stop than fail row by row.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            ModelError::Rejected { status, .. } => matches!(status, 401..=405),
            ModelError::Broken { .. } => true,
            _ => false,
        }
    }
}

/// A model that continues a conversation: a socket, a tensor or a script.
pub trait LanguageModel: Send + Sync {
    /// The name that records show.
    fn id(&self) -> &ModelId;

    /// What it can do, as far as known.
    fn capabilities(&self) -> Capabilities;

    /// Tokens of a text, where the tokenizer is known; special tokens are not counted.
    fn count_tokens(&self, text: &str) -> Option<usize> {
        let _ = text;
        None
    }

    /// Samples one answer.
    ///
    /// # Errors
    /// Any [`ModelError`]; a caller turns it into an outcome, never into a number.
    fn sample<'a>(
        &'a self,
        request: &'a SampleRequest,
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<Completion, ModelError>>;

    /// Log-probabilities of several answers.
    ///
    /// # Errors
    /// Any [`ModelError`]; [`ModelError::Unparseable`] where answers came and none was a choice.
    fn choice_logprobs<'a>(
        &'a self,
        request: &'a ChoiceRequest,
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<ChoiceLogprobs, ModelError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_does_not_fit_is_told_by_its_words() {
        for (tokens, limit) in [(0, 0), (700, 512)] {
            let error = ModelError::ContextTooLong { tokens, limit };
            assert!(says_too_long(&error.to_string()), "{error}");
        }
        assert!(!says_too_long(&ModelError::Deadline.to_string()));
    }
}
