//! What is known of an endpoint before the first call.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Price of a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// US dollars a million prompt tokens.
    pub prompt_usd_per_mtok: f64,
    /// US dollars a million generated tokens.
    pub completion_usd_per_mtok: f64,
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
    /// Requests in flight.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
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
}

fn default_timeout_secs() -> u64 {
    120
}
fn default_max_attempts() -> u32 {
    5
}
fn default_concurrency() -> usize {
    32
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
            concurrency: default_concurrency(),
            draws: default_draws(),
            headers: BTreeMap::new(),
            extra_body: serde_json::Map::new(),
            price: None,
        }
        .normalized()
    }

    /// Splits `URL#name`, adds `/v1` to a bare host, and checks ranges.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Setting`].
    pub fn normalized(mut self) -> Result<Self, ClientError> {
        let fault = |problem: &str| ClientError::Url {
            problem: problem.to_owned(),
        };
        if let Some((url, name)) = self.url.clone().split_once('#') {
            if !name.is_empty() && self.model.is_none() {
                self.model = Some(name.to_owned());
            }
            self.url = url.to_owned();
        }
        let parsed = reqwest::Url::parse(&self.url)
            .map_err(|e| fault(&format!("the URL cannot be read: {e}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(fault("the URL must begin with `http://` or `https://`"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(fault(
                "the URL holds a user name or password; name an environment variable with \
                 `api_key_env` instead, so that no secret is written down",
            ));
        }
        if parsed.path() == "/" {
            self.url = format!("{}/v1", self.url.trim_end_matches('/'));
        }
        self.url = self
            .url
            .trim_end_matches('/')
            .trim_end_matches("/chat/completions")
            .to_owned();
        for (key, got) in [
            ("timeout_secs", self.timeout_secs),
            ("max_attempts", u64::from(self.max_attempts)),
            ("concurrency", self.concurrency as u64),
            ("draws", u64::from(self.draws)),
        ] {
            if got == 0 {
                let (expected, got) = ("at least 1", got.to_string());
                return Err(ClientError::Setting { key, expected, got });
            }
        }
        Ok(self)
    }
}

/// A key: usable, never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The key that a configuration names.
pub(crate) fn key_of(config: &EndpointConfig) -> Result<Option<Secret>, ClientError> {
    let Some(variable) = &config.api_key_env else {
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
    fn a_variable_that_is_not_set_is_named() {
        let mut config = EndpointConfig::from_url("http://h").unwrap();
        config.api_key_env = Some("RLAIF_TEST_UNSET_VARIABLE".into());
        let message = key_of(&config).unwrap_err().to_string();
        assert!(message.contains("RLAIF_TEST_UNSET_VARIABLE"), "{message}");
        assert_eq!(format!("{:?}", Secret("hunter2".into())), "Secret(…)");
    }
}
