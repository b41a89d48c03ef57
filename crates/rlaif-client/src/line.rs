//! The line to one server: a request goes out, its dialect applied, and what comes back is read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use rlaif_core::ModelError;
use serde_json::{Map, Value};

use crate::call::{Answer, Call, Failure, FailureKind};
use crate::config::{ClientError, EndpointConfig, Price, Secret};
use crate::dialect::Dialect;
use crate::endpoint::Notice;
use crate::journal::Journal;
use crate::meter::{Meter, lock};
use crate::retry::retry_after;
use crate::wire::{Api, error_text, shorten};

/// What the lines of one endpoint share.
pub(crate) struct Shared {
    pub(crate) api: Api,
    pub(crate) key_env: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) price: Option<Price>,
    pub(crate) dialect: Mutex<Dialect>,
    pub(crate) notice: Mutex<Option<Notice>>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) journal: Option<Arc<Journal>>,
    /// The model's name in the journal and in notices.
    pub(crate) name: Arc<str>,
    /// Every call must have an upper bound: there is a budget of money.
    pub(crate) must_bound: bool,
    /// Warnings given already, by their first words.
    pub(crate) told: Mutex<BTreeSet<String>>,
}

impl Shared {
    /// Tells a person, and keeps what was learned.
    pub(crate) fn tell(&self, news: Option<String>) {
        let Some(news) = news else { return };
        if let Some(journal) = &self.journal {
            journal.learned(&self.name, lock(&self.dialect).keep());
        }
        self.say(&news);
    }

    /// Warns of something once, however its numbers change.
    fn tell_once(&self, warning: &str) {
        let kind = warning.chars().filter(|c| !c.is_ascii_digit()).collect();
        if lock(&self.told).insert(kind) {
            self.say(warning);
        }
    }

    pub(crate) fn say(&self, text: &str) {
        let notice = lock(&self.notice).clone();
        if let Some(notice) = notice {
            notice(&format!("{}: {text}", self.name));
        }
    }
}

/// A request as it leaves.
pub(crate) struct Encoded {
    /// Fields with the dialect applied, where that changed anything.
    sent: Option<Map<String, Value>>,
    /// What goes over the line.
    pub(crate) body: Bytes,
    /// Fields that the endpoint refuses.
    pub(crate) lost: Vec<String>,
}

impl Shared {
    /// What is sent for a call: its dialect applied, in the API's form.
    pub(crate) fn encode(&self, call: &Call) -> Result<Encoded, Failure> {
        let dialect = {
            let dialect = lock(&self.dialect);
            let as_it_is = dialect.is_plain() && self.api == Api::Openai;
            (!as_it_is).then(|| dialect.clone())
        };
        let encoded = match dialect {
            None => Encoded {
                sent: None,
                body: call.body.clone(),
                lost: Vec::new(),
            },
            Some(dialect) => {
                let mut fields = call.fields();
                let lost = dialect.apply(&mut fields);
                let body = self.api.encode(fields.clone());
                Encoded {
                    sent: Some(fields),
                    body: Bytes::from(serde_json::to_vec(&body).unwrap_or_default()),
                    lost,
                }
            }
        };
        if self.must_bound && encoded.lost.iter().any(|f| f == "max_tokens") {
            return Err(Failure::last(ModelError::Broken {
                message: format!(
                    "`{}` takes no limit on generated tokens, so that `--max-usd` cannot hold; run \
                     without it, or with `--max-calls`",
                    self.name
                ),
            }));
        }
        Ok(encoded)
    }

    /// A refusal of what was sent: `None` where it taught something, so that the same call may go
    /// again without the field that was refused.
    pub(crate) fn refused(
        &self,
        url: &str,
        status: u16,
        text: &str,
        call: &Call,
        encoded: &Encoded,
    ) -> Option<Failure> {
        if matches!(status, 400 | 422) {
            if let Some(error) = context_too_long(text) {
                return Some(Failure::last(error));
            }
            let fields = call.fields();
            let sent = encoded.sent.as_ref().unwrap_or(&fields);
            let news = lock(&self.dialect).learn(text, sent);
            if news.is_some() {
                self.tell(news);
                return None;
            }
            // Another call in flight may have learned it between sending and refusal.
            let mut again = fields.clone();
            lock(&self.dialect).apply(&mut again);
            if again != *sent {
                return None;
            }
        }
        Some(Failure::last(self.rejected(url, status, text, call)))
    }

    /// An answer that came with status 200.
    pub(crate) fn read(
        &self,
        call: &Call,
        request: Bytes,
        response: Bytes,
        lost: Vec<String>,
    ) -> Result<Answer, Failure> {
        let read = std::str::from_utf8(&response)
            .map_err(|e| format!("the answer is no text ({e})"))
            .map(|text| self.api.parse(text));
        let reply = match read {
            Ok(Ok(reply)) => reply,
            Ok(Err(unusable)) => {
                self.meter.failure("unusable answer");
                let mut failure = Failure::lost(unusable.message);
                failure.may_be_charged = unusable.charged;
                return Err(failure);
            }
            Err(message) => {
                self.meter.failure("unusable answer");
                return Err(Failure::lost(message));
            }
        };
        let bound = call.bound();
        if reply.prompt_tokens > bound.prompt_tokens
            || (bound.completion_tokens > 0 && reply.completion_tokens > bound.completion_tokens)
        {
            self.tell_once(&format!(
                "the server counted {} + {} tokens for a request of {} bytes that asked for at most \
                 {}: its count cannot be right, and is what it may charge",
                reply.prompt_tokens,
                reply.completion_tokens,
                bound.prompt_tokens,
                bound.completion_tokens
            ));
        }
        if !reply.counted {
            self.tell_once(
                "the server does not tell how many tokens it counted; upper bounds are charged to \
                 the budget",
            );
        }
        let usd = self
            .price
            .filter(|_| reply.counted)
            .map(|price| price.usd(reply.prompt_tokens, reply.completion_tokens));
        Ok(Answer {
            reply,
            request,
            response,
            lost,
            usd,
            recalled: false,
            adopted: false,
        })
    }

    fn rejected(&self, url: &str, status: u16, body: &str, call: &Call) -> ModelError {
        let said = words(body);
        let message = match (status, &self.key_env) {
            (401 | 403, Some(variable)) => {
                format!("the key in `{variable}` is not accepted: {said}")
            }
            (401 | 403, None) => {
                format!("a key is wanted; name the variable that holds it (`api_key_env`): {said}")
            }
            (404, _) => format!(
                "`{}` knows no model `{}`, or has no `{}`: {said}",
                url,
                call.fields()
                    .get("model")
                    .and_then(Value::as_str)
                    .unwrap_or_default(),
                self.api.path()
            ),
            _ => said,
        };
        ModelError::Rejected { status, message }
    }
}

/// One server.
pub(crate) struct Line {
    pub(crate) url: String,
    /// Where calls go; read once, since a URL costs as much to read as a request's head to write.
    path: reqwest::Url,
    http: reqwest::Client,
    key: Option<Secret>,
    shared: Arc<Shared>,
}

/// Headers with the key in them, and an HTTP client for one host.
pub(crate) fn client(
    config: &EndpointConfig,
    url: &str,
    key: Option<&Secret>,
) -> Result<reqwest::Client, ClientError> {
    let fault = |problem: String| ClientError::Http { problem };
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let (name, value) = match config.api() {
            Api::Openai | Api::Embeddings => {
                (reqwest::header::AUTHORIZATION, format!("Bearer {}", key.0))
            }
            Api::Anthropic => (HeaderName::from_static("x-api-key"), key.0.clone()),
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| fault("the key holds characters that no header can".into()))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if config.api() == Api::Anthropic {
        let name = HeaderName::from_static("anthropic-version");
        headers.insert(name, HeaderValue::from_static("2023-06-01"));
    }
    for (name, value) in &config.headers {
        let name = HeaderName::try_from(name.as_str())
            .map_err(|_| fault(format!("`{name}` cannot be a header's name")))?;
        let value = HeaderValue::try_from(value.as_str())
            .map_err(|_| fault(format!("the value of header `{name}` cannot be sent")))?;
        headers.insert(name, value);
    }
    // A provider may be there already, from another endpoint or from the program around us.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .default_headers(headers)
        .user_agent(concat!("rlaif/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(config.concurrency.most())
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10))
        .timeout(Duration::from_secs(config.timeout_secs));
    let host = reqwest::Url::parse(url).ok();
    let host = host.as_ref().and_then(|u| u.host_str()).unwrap_or_default();
    if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
        builder = builder.no_proxy();
    }
    builder
        .build()
        .map_err(|e| fault(e.without_url().to_string()))
}

impl Line {
    pub(crate) fn open(
        config: &EndpointConfig,
        url: &str,
        key: Option<&Secret>,
        shared: Arc<Shared>,
    ) -> Result<Self, ClientError> {
        let path = format!("{url}{}", shared.api.path());
        Ok(Line {
            http: client(config, url, key)?,
            key: key.cloned(),
            path: path.parse().map_err(|e| ClientError::Http {
                problem: format!("`{path}` is no URL ({e})"),
            })?,
            url: url.to_owned(),
            shared,
        })
    }

    /// Says that the server is left alone for a while, and why.
    pub(crate) fn tell_down(&self, why: &str) {
        self.shared.tell_once(&format!(
            "no answer from the server, which is left alone and tried from time to time: {why}"
        ));
    }

    /// The models that the server lists: name and owner. `None` where it lists none.
    pub(crate) async fn models(&self) -> Option<Vec<(String, String)>> {
        let url = format!("{}/models", self.url);
        let list = async { self.http.get(&url).send().await?.text().await }.await;
        let value: Value = serde_json::from_str(&list.ok()?).ok()?;
        let text = |m: &Value, key: &str| m.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(
            value
                .get("data")?
                .as_array()?
                .iter()
                .filter_map(|m| Some((text(m, "id")?, text(m, "owned_by").unwrap_or_default())))
                .collect(),
        )
    }

    /// One request with its answer. A field that the server refuses is left out and the request
    /// sent again: nothing is charged for a refusal.
    pub(crate) async fn attempt(&self, call: &Call) -> Result<Answer, Failure> {
        loop {
            let encoded = self.shared.encode(call)?;
            let (status, text) = match self.send(encoded.body.clone()).await? {
                Got::Answer(text) => {
                    return self.shared.read(call, encoded.body, text, encoded.lost);
                }
                Got::Refusal(status, text) => (status, text),
            };
            let refused = self
                .shared
                .refused(&self.url, status, &text, call, &encoded);
            if let Some(failure) = refused {
                return Err(failure);
            }
        }
    }

    async fn send(&self, body: Bytes) -> Result<Got, Failure> {
        let sent = self
            .http
            .post(self.path.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body)
            .send()
            .await;
        let response = sent.map_err(|e| self.transport(&e))?;
        let status = response.status().as_u16();
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let wait = retry_after(header("retry-after"));
        let is_page = header("content-type").is_some_and(|t| t.contains("text/html"));
        let text = response.bytes().await.map_err(|e| self.transport(&e))?;
        let text = match &self.key {
            Some(key) => key.out_of(text),
            None => text,
        };
        if is_page && (status < 400 || status == 404) {
            return Err(Failure::last(ModelError::Broken {
                message: format!(
                    "`{}` answers with a web page; an API's base URL usually ends in /v1",
                    self.path
                ),
            }));
        }
        if (200..300).contains(&status) {
            return Ok(Got::Answer(text));
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        if !may_pass(status) {
            return Ok(Got::Refusal(status, text));
        }
        if text.contains("insufficient_quota") {
            // A quota that is used up comes as a 429, and no waiting helps.
            return Ok(Got::Refusal(402, text));
        }
        let load = matches!(status, 429 | 503 | 529);
        self.shared.meter.failure(&format!("status {status}"));
        Err(Failure {
            kind: FailureKind::Passing {
                retry_after: wait,
                load,
                timed_out: false,
                elsewhere: false,
            },
            message: format!("status {status}: {}", words(&text)),
            may_be_charged: false,
        })
    }

    /// A transport error in words, with what to check; the URL holds no secret, the rest is left
    /// out.
    fn transport(&self, error: &reqwest::Error) -> Failure {
        let url = &self.url;
        if error.is_timeout() && !error.is_connect() {
            self.shared.meter.failure("timeout");
            let secs = self.shared.timeout.as_secs();
            return Failure::timed_out(format!("no answer from `{url}` within {secs} s"));
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        self.shared.meter.failure("connection");
        if error.is_connect() {
            let cause = cause.to_string();
            let hint = if cause.contains("certificate") {
                "; the certificate is not trusted: `SSL_CERT_FILE` may name a file of roots"
            } else if cause.contains("InvalidContentType") || cause.contains("handshake eof") {
                "; a server that speaks no TLS does so: is it `http://`?"
            } else {
                ""
            };
            return Failure::passing(format!("cannot connect to `{url}` ({cause}){hint}"));
        }
        Failure::lost(format!("the connection to `{url}` broke ({cause})"))
    }
}

enum Got {
    Answer(Bytes),
    Refusal(u16, String),
}

/// A status after which another attempt may succeed.
pub(crate) fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..=599)
}

/// A server's words on one short line; what is no JSON is quoted as it is.
pub(crate) fn words(body: &str) -> String {
    match serde_json::from_str::<Value>(body) {
        Ok(value) => shorten(&error_text(&value)),
        Err(_) => shorten(body),
    }
}

/// A prompt that does not fit, however the server says so.
fn context_too_long(body: &str) -> Option<ModelError> {
    let lower = body.to_lowercase();
    let says = [
        "context_length_exceeded",
        "maximum context length",
        "exceed context window",
        "exceeds the available context",
        "exceed_context_size",
        "prompt is too long",
        "model's context length",
        "longer than the maximum model length",
    ];
    if !says.iter().any(|s| lower.contains(s)) {
        return None;
    }
    // A status and a request's id stand beside the message, and are no tokens.
    let said = match serde_json::from_str::<Value>(body) {
        Ok(value) => error_text(&value).to_lowercase(),
        Err(_) => lower,
    };
    let numbers = |text: &str| -> Vec<u64> {
        let all = text.split(|c: char| !c.is_ascii_digit());
        all.filter_map(|n| n.parse().ok())
            .filter(|n| *n >= 64)
            .collect()
    };
    let all = numbers(&said);
    let tokens = all.iter().copied().max().unwrap_or(0);
    // The limit follows the word, where it is named: an answer's length may stand there as well.
    let named = said.match_indices("context");
    let named = named.filter_map(|(at, _)| numbers(&said[at..]).first().copied());
    let limit = named.filter(|n| *n < tokens).min();
    let limit = limit.or(all.iter().copied().min().filter(|n| *n < tokens));
    Some(match limit {
        Some(limit) => ModelError::ContextTooLong { tokens, limit },
        // A lone number tells nothing.
        None => ModelError::ContextTooLong {
            tokens: 0,
            limit: 0,
        },
    })
}
