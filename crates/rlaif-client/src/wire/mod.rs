//! What goes over the line, in the forms that providers speak.

mod anthropic;
mod embeddings;
mod loose;
mod openai;

use rlaif_core::Finish;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use openai::converse;

/// The body of a request in the making. Every field is written once, so that a million bodies are not
/// built as trees first; further fields of the user's stand in the place of those of the same name.
pub(crate) struct Object<'a> {
    extra: &'a Map<String, Value>,
    fields: Vec<u8>,
    max_tokens: u64,
}

/// A body as JSON, with the most tokens that it asks for; 0 where it sets no limit.
pub(crate) struct Body {
    pub(crate) json: Vec<u8>,
    pub(crate) max_tokens: u64,
}

/// Writes `"name":value,`.
fn write_field(into: &mut Vec<u8>, name: &str, value: &(impl Serialize + ?Sized)) {
    // Texts, numbers and JSON values can always be written to memory.
    let _ = serde_json::to_writer(&mut *into, name);
    into.push(b':');
    let _ = serde_json::to_writer(&mut *into, value);
    into.push(b',');
}

impl<'a> Object<'a> {
    /// Without fields yet, but for those of the user's.
    pub(crate) fn with(extra: &'a Map<String, Value>) -> Self {
        Object {
            extra,
            fields: Vec::with_capacity(2048),
            max_tokens: 0,
        }
    }

    /// Adds a field that it does not have yet.
    pub(crate) fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        if !self.extra.contains_key(name) {
            write_field(&mut self.fields, name, value);
        }
    }

    /// Adds the limit on generated tokens.
    pub(crate) fn limit(&mut self, tokens: u32) {
        self.max_tokens = tokens.into();
        self.set(LIMIT, &tokens);
    }

    /// The body for a model.
    pub(crate) fn finish(self, model: &str) -> Body {
        let mut json = Vec::with_capacity(self.fields.len() + model.len() + 64);
        json.push(b'{');
        if !self.extra.contains_key("model") {
            write_field(&mut json, "model", model);
        }
        json.extend_from_slice(&self.fields);
        for (name, value) in self.extra {
            write_field(&mut json, name, value);
        }
        // There is a model, at least.
        json.pop();
        json.push(b'}');
        let max_tokens = match self.extra.get(LIMIT) {
            Some(limit) => limit.as_u64().unwrap_or(0),
            None => self.max_tokens,
        };
        Body { json, max_tokens }
    }
}

const LIMIT: &str = "max_tokens";

/// Which form of API an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// OpenAI's chat completions.
    #[default]
    Openai,
    /// Anthropic's Messages.
    Anthropic,
    /// OpenAI's embeddings: what [`crate::Embedder`] asks. No recipe names it.
    #[serde(skip)]
    Embeddings,
}

impl Api {
    /// Its name in recipes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Api::Openai => "openai",
            Api::Anthropic => "anthropic",
            Api::Embeddings => "embeddings",
        }
    }

    /// The path behind the base URL.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Api::Openai => "/chat/completions",
            Api::Anthropic => "/messages",
            Api::Embeddings => "/embeddings",
        }
    }

    /// Fields that this form does not have.
    pub(crate) fn lacks(self) -> &'static [&'static str] {
        match self {
            Api::Openai | Api::Embeddings => &[],
            Api::Anthropic => &[
                "logprobs",
                "top_logprobs",
                "seed",
                "n",
                "min_p",
                "response_format",
            ],
        }
    }

    /// The body in this form; `fields` are OpenAI's, with the dialect applied.
    pub(crate) fn encode(self, fields: Map<String, Value>) -> Map<String, Value> {
        match self {
            Api::Openai | Api::Embeddings => fields,
            Api::Anthropic => anthropic::encode(fields),
        }
    }

    /// Reads a body that came with status 200.
    pub(crate) fn parse(self, body: &str) -> Result<Reply, Unusable> {
        match self {
            Api::Openai => openai::parse(body),
            Api::Anthropic => anthropic::parse(body),
            Api::Embeddings => embeddings::parse(body),
        }
    }
}

/// A body from which no answer can be read.
#[derive(Clone, Debug)]
pub(crate) struct Unusable {
    pub(crate) message: String,
    /// An answer was made, so that it is charged.
    pub(crate) charged: bool,
}

impl Unusable {
    fn charged(message: impl Into<String>) -> Self {
        Unusable {
            message: message.into(),
            charged: true,
        }
    }

    fn free(message: impl Into<String>) -> Self {
        Unusable {
            message: message.into(),
            charged: false,
        }
    }
}

/// A parsed answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// The answer's text, without reasoning.
    pub(crate) text: String,
    /// An embedding, where that was asked for.
    pub(crate) vector: Vec<f32>,
    /// What a reasoning model thought first.
    pub(crate) reasoning: Option<String>,
    /// What the model said on declining, where the provider marks that.
    pub(crate) refusal: Option<String>,
    /// Why the answer ended.
    pub(crate) finish: Option<Finish>,
    /// Most likely tokens by position, where the server gave them and they are well-formed.
    pub(crate) positions: Option<Vec<Position>>,
    /// Log-probabilities came that cannot be right.
    pub(crate) malformed: bool,
    /// The server told what it counted.
    pub(crate) counted: bool,
    /// Prompt tokens, by the server's count.
    pub(crate) prompt_tokens: u64,
    /// Generated tokens, by the server's count.
    pub(crate) completion_tokens: u64,
}

/// One generated token with its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Position {
    /// The token sampled.
    pub(crate) token: String,
    /// Most likely tokens with natural-log probabilities, the sampled one among them.
    pub(crate) top: Vec<(String, f64)>,
}

/// The words of an error object, wherever the server put them.
pub(crate) fn error_text(value: &Value) -> String {
    for path in ["/error/message", "/message", "/detail", "/error"] {
        match value.pointer(path) {
            Some(Value::String(text)) => return text.clone(),
            Some(Value::Null) | None => {}
            Some(other) => return other.to_string(),
        }
    }
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// At most 300 characters on one line.
pub(crate) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
