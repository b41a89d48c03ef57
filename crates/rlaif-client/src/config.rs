//! What is known of an endpoint before the first call.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::wire::Api;

/// Price of a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// US dollars a million prompt tokens.
    pub prompt_usd_per_mtok: f64,
    /// US dollars a million generated tokens.
    pub completion_usd_per_mtok: f64,
}

impl Price {
    /// US dollars for so many tokens.
    #[must_use]
    pub fn usd(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.prompt_usd_per_mtok
            + completion_tokens as f64 * self.completion_usd_per_mtok)
            / 1e6
    }
}

/// How many requests may be in flight: a number, or `"auto"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// From a few on, as many as the server bears.
    #[default]
    Auto,
    /// From this many on, never more.
    Most(usize),
}

impl Concurrency {
    /// Requests in flight at the start.
    #[must_use]
    pub fn start(self) -> usize {
        match self {
            Concurrency::Auto => 8,
            Concurrency::Most(n) => n,
        }
    }

    /// Requests in flight at most. Every one holds a socket, and systems commonly allow 1,024.
    #[must_use]
    pub fn most(self) -> usize {
        match self {
            Concurrency::Auto => 768,
            Concurrency::Most(n) => n,
        }
    }
}

impl From<usize> for Concurrency {
    fn from(n: usize) -> Self {
        Concurrency::Most(n)
    }
}

impl std::str::FromStr for Concurrency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<usize>() {
            _ if text == "auto" => Ok(Concurrency::Auto),
            Ok(n) if n > 0 => Ok(Concurrency::Most(n)),
            _ => Err(format!(
                "expected `auto` or a number of at least 1, got `{text}`"
            )),
        }
    }
}

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concurrency::Auto => f.write_str("auto"),
            Concurrency::Most(n) => write!(f, "{n}"),
        }
    }
}

impl Serialize for Concurrency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Concurrency::Auto => serializer.serialize_str("auto"),
            Concurrency::Most(n) => serializer.serialize_u64(*n as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Concurrency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`\"auto\"` or a number of at least 1")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Concurrency, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Concurrency, E> {
                if n == 0 {
                    return Err(E::invalid_value(serde::de::Unexpected::Unsigned(n), &self));
                }
                Ok(Concurrency::Most(n as usize))
            }

            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Concurrency, E> {
                match u64::try_from(n) {
                    Ok(n) => self.visit_u64(n),
                    Err(_) => Err(E::invalid_value(serde::de::Unexpected::Signed(n), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A further server of the same model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    /// Its base URL.
    pub url: String,
    /// Share of calls that it takes, relative to the others.
    #[serde(default = "one")]
    pub weight: f64,
    /// Environment variable that holds its key, where that is not the endpoint's.
    #[serde(default)]
    pub api_key_env: Option<String>,
}

fn one() -> f64 {
    1.0
}

/// An endpoint, as a recipe's `[models.NAME]` describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Base URL, usually ending in `/v1`; `URL#name` names the model as well.
    pub url: String,
    /// The model's name; where absent, the only one that the server lists.
    #[serde(default)]
    pub model: Option<String>,
    /// Environment variable that holds the key.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Seconds to wait for one answer.
    #[serde(default = "default_timeout_secs")]
    pub timeout_secs: u64,
    /// Attempts for one call, the first included.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
    /// Requests in flight, at each server: `"auto"`, or a number that is never exceeded.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// `openai` or `anthropic`; where absent, told by the host.
    #[serde(default)]
    pub api: Option<Api>,
    /// Further servers of the same model.
    #[serde(default)]
    pub replicas: Vec<Replica>,
    /// Share of calls that `url` itself takes, relative to the replicas.
    #[serde(default = "one")]
    pub weight: f64,
    /// Requests a minute at each server, at most.
    #[serde(default)]
    pub requests_per_min: Option<u64>,
    /// Tokens a minute at each server, at most.
    #[serde(default)]
    pub tokens_per_min: Option<u64>,
    /// Answers sampled for a choice where the endpoint gives no log-probabilities.
    #[serde(default = "default_draws")]
    pub draws: u32,
    /// Further headers. Secrets do not belong here: they are shown in errors about the recipe.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Further fields of every request body.
    #[serde(default)]
    pub extra_body: serde_json::Map<String, serde_json::Value>,
    /// Price of its tokens.
    #[serde(default)]
    pub price: Option<Price>,
    /// Ask by the provider's batch interface (OpenAI's Batch, Anthropic's Message Batches): half
    /// the price, and up to a day for an answer.
    #[serde(default)]
    pub batch: bool,
    /// Seconds between two questions how a batch stands.
    #[serde(default = "default_poll_secs")]
    pub batch_poll_secs: f64,
}

fn default_poll_secs() -> f64 {
    30.0
}
fn default_timeout_secs() -> u64 {
    120
}
fn default_max_attempts() -> u32 {
    5
}
fn default_draws() -> u32 {
    1
}

/// Why an endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A reward service cannot be used.
    #[error("the reward service `{url}` {problem}")]
    Reward {
        /// Its URL.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The URL cannot be used.
    #[error("{problem}")]
    Url {
        /// Why not, and what would do.
        problem: String,
    },
    /// The variable that should hold the key is not set.
    #[error(
        "the environment variable `{variable}`, which should hold the key, is not set; set it with \
         `export {variable}=…`"
    )]
    NoKey {
        /// Its name.
        variable: String,
    },
    /// A setting is out of range.
    #[error("`{key}` must be {expected}, got `{got}`")]
    Setting {
        /// Which.
        key: &'static str,
        /// What would do.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A table of prices cannot be used.
    #[error("the prices in `{file}` cannot be read: {problem}")]
    Prices {
        /// Which file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A budget of money for a model without a price.
    #[error(
        "`{model}` has no price, so that `--max-usd` cannot hold; give it one in a file for \
         `--prices`, or as `price` in the recipe (0 for a server of your own)"
    )]
    NoPrice {
        /// The model.
        model: String,
    },
    /// The HTTP client cannot be made.
    #[error("cannot prepare the HTTP client: {problem}")]
    Http {
        /// Why not.
        problem: String,
    },
}

impl EndpointConfig {
    /// An endpoint by its URL, with defaults for the rest.
    ///
    /// ```
    /// use rlaif_client::EndpointConfig;
    /// let config = EndpointConfig::from_url("http://localhost:8000/v1#judge")?;
    /// assert_eq!(config.model.as_deref(), Some("judge"));
    /// assert_eq!(config.url, "http://localhost:8000/v1");
    /// # Ok::<(), rlaif_client::ClientError>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn from_url(url: &str) -> Result<Self, ClientError> {
        EndpointConfig {
            url: url.to_owned(),
            model: None,
            api_key_env: None,
            timeout_secs: default_timeout_secs(),
            max_attempts: default_max_attempts(),
            concurrency: Concurrency::Auto,
            api: None,
            replicas: Vec::new(),
            weight: 1.0,
            requests_per_min: None,
            tokens_per_min: None,
            draws: default_draws(),
            headers: BTreeMap::new(),
            extra_body: serde_json::Map::new(),
            price: None,
            batch: false,
            batch_poll_secs: default_poll_secs(),
        }
        .normalized()
    }

    /// Splits `URL#name`, adds `/v1` to a bare host, and checks ranges.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Setting`].
    pub fn normalized(mut self) -> Result<Self, ClientError> {
        if let Some((url, name)) = self.url.clone().split_once('#') {
            if !name.is_empty() && self.model.is_none() {
                self.model = Some(name.to_owned());
            }
            self.url = url.to_owned();
        }
        self.url = base_url(&self.url)?;
        for replica in &mut self.replicas {
            let url = replica.url.split('#').next().unwrap_or_default();
            replica.url = base_url(url)?;
        }
        for weight in self.replicas.iter().map(|r| r.weight).chain([self.weight]) {
            if !(weight > 0.0 && weight.is_finite()) {
                let (expected, got) = ("a number above 0", weight.to_string());
                let key = "weight";
                return Err(ClientError::Setting { key, expected, got });
            }
        }
        if !(self.batch_poll_secs > 0.0 && self.batch_poll_secs <= 3600.0) {
            return Err(ClientError::Setting {
                key: "batch_poll_secs",
                expected: "a number above 0, at most 3600",
                got: self.batch_poll_secs.to_string(),
            });
        }
        if self.batch && !self.replicas.is_empty() {
            return Err(ClientError::Setting {
                key: "batch",
                expected: "left out where there are replicas: a batch goes to one provider",
                got: "true".into(),
            });
        }
        for (key, got) in [
            ("timeout_secs", self.timeout_secs),
            ("max_attempts", u64::from(self.max_attempts)),
            ("concurrency", self.concurrency.start() as u64),
            ("requests_per_min", self.requests_per_min.unwrap_or(1)),
            ("tokens_per_min", self.tokens_per_min.unwrap_or(1)),
            ("draws", u64::from(self.draws)),
        ] {
            if got == 0 {
                let (expected, got) = ("at least 1", got.to_string());
                return Err(ClientError::Setting { key, expected, got });
            }
        }
        Ok(self)
    }

    /// Which form of API it speaks: the one it names, or its host's.
    #[must_use]
    pub fn api(&self) -> Api {
        self.api.unwrap_or_else(|| {
            let host = reqwest::Url::parse(&self.url).ok();
            let host = host.as_ref().and_then(|u| u.host_str());
            if host == Some("api.anthropic.com") {
                Api::Anthropic
            } else {
                Api::Openai
            }
        })
    }
}

/// A base URL as people write it, brought to one form.
fn base_url(url: &str) -> Result<String, ClientError> {
    let fault = |problem: &str| ClientError::Url {
        problem: problem.to_owned(),
    };
    let parsed =
        reqwest::Url::parse(url).map_err(|e| fault(&format!("the URL cannot be read: {e}")))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(fault("the URL must begin with `http://` or `https://`"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(fault(
            "the URL holds a user name or password; name an environment variable with \
             `api_key_env` instead, so that no secret is written down",
        ));
    }
    let mut url = url.to_owned();
    if parsed.path() == "/" {
        url = format!("{}/v1", url.trim_end_matches('/'));
    }
    Ok(url
        .trim_end_matches('/')
        .trim_end_matches("/chat/completions")
        .trim_end_matches("/messages")
        .to_owned())
}

/// A key: usable, never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

/// A key shorter than this is a word for servers that want none, and may stand in an answer.
const SECRET_BYTES: usize = 12;

impl Secret {
    /// A body without the key, where a server repeats what it was sent.
    pub(crate) fn out_of(&self, body: Bytes) -> Bytes {
        let key = self.0.as_bytes();
        if key.len() < SECRET_BYTES || memchr::memmem::find(&body, key).is_none() {
            return body;
        }
        let mut shown = Vec::with_capacity(body.len());
        let mut from = 0;
        for at in memchr::memmem::find_iter(&body, key) {
            shown.extend_from_slice(&body[from..at]);
            shown.extend_from_slice(b"(the key)");
            from = at + key.len();
        }
        shown.extend_from_slice(&body[from..]);
        shown.into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The key that a variable holds.
pub(crate) fn key_in(variable: Option<&String>) -> Result<Option<Secret>, ClientError> {
    let Some(variable) = variable else {
        return Ok(None);
    };
    match std::env::var(variable) {
        Ok(value) if !value.trim().is_empty() => Ok(Some(Secret(value.trim().to_owned()))),
        _ => Err(ClientError::NoKey {
            variable: variable.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        for (given, url, model) in [
            ("http://h:1", "http://h:1/v1", None),
            ("http://h:1/#m", "http://h:1/v1", Some("m")),
            ("http://h:1/v1/", "http://h:1/v1", None),
            (
                "http://h/v1/chat/completions#org/m",
                "http://h/v1",
                Some("org/m"),
            ),
            ("https://h/api/v3", "https://h/api/v3", None),
        ] {
            let config = EndpointConfig::from_url(given).unwrap();
            assert_eq!(
                (config.url.as_str(), config.model.as_deref()),
                (url, model),
                "{given}"
            );
        }
        for wrong in ["ftp://h", "nonsense", "http://user:hunter2@h/v1"] {
            let message = EndpointConfig::from_url(wrong).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let read = |text: &str| toml::from_str::<EndpointConfig>(text).map_err(|e| e.to_string());
        let auto = read("url = \"http://h\"\nconcurrency = \"auto\"").unwrap();
        assert_eq!(auto.concurrency, Concurrency::Auto);
        let four = read("url = \"http://h\"\nconcurrency = 4").unwrap();
        assert_eq!(four.concurrency, Concurrency::Most(4));
        for wrong in ["0", "-1", "\"many\""] {
            let message = read(&format!("url = \"http://h\"\nconcurrency = {wrong}")).unwrap_err();
            assert!(message.contains("at least 1"), "{message}");
        }
        let mut heavy = EndpointConfig::from_url("http://h").unwrap();
        heavy.weight = 0.0;
        assert!(
            heavy
                .normalized()
                .unwrap_err()
                .to_string()
                .contains("`weight`")
        );
        let claude = EndpointConfig::from_url("https://api.anthropic.com#claude-x").unwrap();
        assert_eq!(
            (claude.api(), claude.url.as_str()),
            (Api::Anthropic, "https://api.anthropic.com/v1")
        );
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let variable = "RLAIF_TEST_UNSET_VARIABLE".to_owned();
        let message = key_in(Some(&variable)).unwrap_err().to_string();
        assert!(message.contains("RLAIF_TEST_UNSET_VARIABLE"), "{message}");
        assert_eq!(format!("{:?}", Secret("hunter2".into())), "Secret(…)");
        let said = |key: &str, body: &'static str| Secret(key.into()).out_of(body.into());
        assert_eq!(
            said("sk-planted-key", "got sk-planted-key, sk-planted-key!"),
            "got (the key), (the key)!"
        );
        assert_eq!(said("sk-planted-key", "sk-planted"), "sk-planted");
        // A server that wants no key is often given a word.
        assert_eq!(said("none", "none of both"), "none of both");
    }
}
