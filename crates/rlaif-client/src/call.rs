//! One request to a model, what comes of it, and the trait that every layer implements.
//!
//! The layers, from the outside in: [`crate::retry`] asks again, [`crate::budget`] holds money
//! back, [`crate::journal`] remembers, [`crate::pool`] chooses a server and waits for room there,
//! [`crate::line`] speaks to it.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use rlaif_core::{BoxFuture, CallContext, ItemId, ModelError};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::meter::lock;
use crate::wire::{Api, Body, Reply};

/// Names a call by all that determines its answer: kind of API, model, parameters, messages, and
/// the seed, which stands for the sample's index. Neither address nor key is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) [u8; 16]);

/// The most that a call can use, whatever the tokenizer: no token is shorter than a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Tokens of the prompt: the bytes of the request, its JSON included.
    pub(crate) prompt_tokens: u64,
    /// Tokens that may be generated.
    pub(crate) completion_tokens: u64,
}

/// A request, before an endpoint's dialect is applied.
pub(crate) struct Call {
    /// The body as JSON, its fields as OpenAI names them, the model among them.
    pub(crate) body: Bytes,
    max_tokens: u64,
    pub(crate) key: Key,
    pub(crate) item: ItemId,
    pub(crate) seed: u64,
    /// Longest time for all attempts together, waits for room not counted.
    pub(crate) deadline: Duration,
    pub(crate) waits: Waits,
}

/// How long a call has waited for room at its server: the queue is ours, and moves as long as the
/// requests in it end, each of which has a time-out.
#[derive(Default)]
pub(crate) struct Waits(Mutex<(Duration, Option<Instant>)>);

/// Counts the wait until it is dropped.
pub(crate) struct Wait<'a>(&'a Waits);

impl Waits {
    pub(crate) fn begin(&self) -> Wait<'_> {
        lock(&self.0).1 = Some(Instant::now());
        Wait(self)
    }

    pub(crate) fn so_far(&self) -> Duration {
        let (ended, since) = *lock(&self.0);
        ended + since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let total = self.0.so_far();
        *lock(&self.0.0) = (total, None);
    }
}

impl Key {
    /// In 32 hexadecimal digits.
    pub(crate) fn hex(self) -> String {
        rlaif_core::seed::hex(&self.0)
    }
}

impl Call {
    pub(crate) fn new(api: Api, body: Body, cx: &CallContext) -> Self {
        let max_tokens = body.max_tokens;
        let body = Bytes::from(body.json);
        let mut hasher = Sha256::new();
        hasher.update(api.as_str().as_bytes());
        hasher.update([0]);
        hasher.update(&body);
        let digest = hasher.finalize();
        let mut key = [0u8; 16];
        key.copy_from_slice(&digest[..16]);
        Call {
            body,
            max_tokens,
            key: Key(key),
            item: cx.item.clone(),
            seed: cx.seed,
            deadline: cx.deadline,
            waits: Waits::default(),
        }
    }

    pub(crate) fn bound(&self) -> Bound {
        Bound {
            prompt_tokens: self.body.len() as u64,
            completion_tokens: self.max_tokens,
        }
    }

    /// The body's fields, for an endpoint that does not take them as they are.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        // It was written here, as an object.
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    /// The body as it was sent.
    pub(crate) request: Bytes,
    /// The body that came back.
    pub(crate) response: Bytes,
    /// Fields that the endpoint refused, so that the request went without.
    pub(crate) lost: Vec<String>,
    /// Money, by the server's count of tokens; `None` where the model has no price.
    pub(crate) usd: Option<f64>,
    /// It came from the journal: nothing was sent.
    pub(crate) recalled: bool,
    /// It was asked for by an earlier process, whose journal counts it as lost.
    pub(crate) adopted: bool,
}

/// How one attempt failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// What happened, for people.
    pub(crate) message: String,
    /// An answer may have been made and lost on the way, so that it may be charged.
    pub(crate) may_be_charged: bool,
}

/// What to do about a failed attempt.
#[derive(Clone, Debug)]
pub(crate) enum FailureKind {
    /// Another attempt may succeed.
    Passing {
        /// The server's own word on when to come back.
        retry_after: Option<Duration>,
        /// The server has too much to do.
        load: bool,
        /// Nothing came within the time-out.
        timed_out: bool,
        /// Another server of the pool can take it at once.
        elsewhere: bool,
    },
    /// No attempt will succeed.
    Final(ModelError),
}

impl Failure {
    /// A failure that may pass, for which nothing is charged.
    pub(crate) fn passing(message: impl Into<String>) -> Self {
        Failure {
            kind: FailureKind::Passing {
                retry_after: None,
                load: false,
                timed_out: false,
                elsewhere: false,
            },
            message: message.into(),
            may_be_charged: false,
        }
    }

    /// A failure that may pass, after an answer may have been made.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Failure {
            may_be_charged: true,
            ..Failure::passing(message)
        }
    }

    /// No answer within the time-out; one may be made all the same.
    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Failure {
            kind: FailureKind::Passing {
                retry_after: None,
                load: false,
                timed_out: true,
                elsewhere: false,
            },
            ..Failure::lost(message)
        }
    }

    /// A failure that stays.
    pub(crate) fn last(error: ModelError) -> Self {
        Failure {
            message: error.to_string(),
            kind: FailureKind::Final(error),
            may_be_charged: false,
        }
    }
}

/// Whatever answers calls: a layer, or the line at the bottom.
pub(crate) trait Calls: Send + Sync {
    /// The answer, where it is known already. Costs nothing and waits for nothing.
    fn recall(&self, _call: &Call) -> Result<Option<Answer>, Failure> {
        Ok(None)
    }

    /// One attempt.
    fn attempt<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Answer, Failure>>;
}
