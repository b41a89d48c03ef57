//! An endpoint: a configuration, a connection pool, what was learned, and the model trait.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rlaif_core::{
    BoxFuture, CallContext, Capabilities, ChoiceLogprobs, ChoiceRequest, Completion, Evidence,
    Finish, LanguageModel, ModelError, ModelId, SampleRequest, Sampling, Usage,
    choice::read_choice, seed,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use crate::choice::masses;
use crate::config::{ClientError, EndpointConfig, key_of};
use crate::dialect::Dialect;
use crate::retry::{Failure, is_passing, pause, retry_after};
use crate::wire::{self, Reply, error_text, shorten};

/// Receives what is worth telling a person, once each.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// What an endpoint was asked so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Answers received.
    pub calls: u64,
    /// Attempts made again.
    pub retries: u64,
    /// Calls that ended without an answer.
    pub failed: u64,
    /// Prompt tokens, by the server's count.
    pub prompt_tokens: u64,
    /// Generated tokens, by the server's count.
    pub completion_tokens: u64,
    /// Money; `null` where the model has no price.
    pub usd: Option<f64>,
    /// Request fields that the endpoint refused.
    pub lost: BTreeSet<String>,
}

/// A model behind an OpenAI-compatible chat-completions endpoint.
pub struct Endpoint {
    config: EndpointConfig,
    id: ModelId,
    http: reqwest::Client,
    permits: Semaphore,
    model: OnceCell<String>,
    dialect: Mutex<Dialect>,
    stats: Mutex<Stats>,
    notice: Mutex<Option<Notice>>,
}

/// Tokens asked for where only a choice is wanted: room for `(A).` and its like.
const CHOICE_TOKENS: u32 = 16;
/// Tokens for a judge that writes before it chooses.
const PROSE_TOKENS: u32 = 64;
/// Tokens for a judge that was cut off before it chose: it reasons.
const REASONING_TOKENS: u32 = 2048;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// Opens an endpoint. No call is made yet; the key is read now, so that a missing one is
    /// known before anything is paid.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn open(config: EndpointConfig) -> Result<Self, ClientError> {
        let config = config.normalized()?;
        let fault = |problem: String| ClientError::Http { problem };
        let mut headers = HeaderMap::new();
        if let Some(key) = key_of(&config)? {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.0))
                .map_err(|_| fault("the key holds characters that no header can".into()))?;
            value.set_sensitive(true);
            headers.insert(reqwest::header::AUTHORIZATION, value);
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
            .pool_max_idle_per_host(config.concurrency)
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(config.timeout_secs));
        let host = reqwest::Url::parse(&config.url).ok();
        let host = host.as_ref().and_then(|u| u.host_str()).unwrap_or_default();
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|e| fault(e.without_url().to_string()))?;
        let id = match &config.model {
            Some(name) => ModelId::new(format!("{}#{name}", config.url)),
            None => ModelId::new(&config.url),
        };
        Ok(Endpoint {
            permits: Semaphore::new(config.concurrency),
            model: OnceCell::new_with(config.model.clone()),
            config,
            id,
            http,
            dialect: Mutex::default(),
            stats: Mutex::default(),
            notice: Mutex::default(),
        })
    }

    /// Sets who is told of what the endpoint refuses. The library itself prints nothing.
    pub fn on_notice(&self, notice: Notice) {
        *lock(&self.notice) = Some(notice);
    }

    /// What it was asked so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        lock(&self.stats).clone()
    }

    fn tell(&self, news: Option<String>) {
        let notice = lock(&self.notice).clone();
        if let (Some(news), Some(notice)) = (news, notice) {
            notice(&format!("{}: {news}", self.id));
        }
    }

    /// The model's name: the configured one, or the only one that the server lists.
    async fn model_name(&self) -> Result<&str, ModelError> {
        self.model
            .get_or_try_init(|| async {
                let url = format!("{}/models", self.config.url);
                let list = async { self.http.get(&url).send().await?.text().await }.await;
                let names: Vec<String> = list
                    .ok()
                    .and_then(|text| serde_json::from_str::<Value>(&text).ok())
                    .and_then(|v| v.get("data").and_then(Value::as_array).cloned())
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|m| m.get("id").and_then(Value::as_str).map(str::to_owned))
                    .collect();
                match names.as_slice() {
                    [only] => Ok(only.clone()),
                    [] => Err(ModelError::Broken {
                        message: format!(
                            "no model was named, and `{url}` lists none; is the server running? \
                             Name the model as in `{}#NAME`",
                            self.config.url
                        ),
                    }),
                    many => Err(ModelError::Broken {
                        message: format!(
                            "no model was named, and `{}` serves {}: {}; name one as in `{0}#{}`",
                            self.config.url,
                            many.len(),
                            many.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
                            many[0]
                        ),
                    }),
                }
            })
            .await
            .map(String::as_str)
    }

    /// One call with its retries, within its deadline.
    async fn call(
        &self,
        mut fields: Map<String, Value>,
        cx: &CallContext,
    ) -> Result<(Reply, Usage), ModelError> {
        let deadline = Instant::now() + cx.deadline;
        let result = match tokio::time::timeout_at(deadline, self.attempts(&mut fields, cx)).await {
            Ok(result) => result,
            Err(_) => Err(ModelError::Deadline),
        };
        let mut stats = lock(&self.stats);
        match &result {
            Ok((reply, usage)) => {
                stats.calls += 1;
                stats.prompt_tokens += reply.prompt_tokens;
                stats.completion_tokens += reply.completion_tokens;
                stats.lost.extend(usage.lost.iter().cloned());
                if let Some(usd) = usage.usd {
                    *stats.usd.get_or_insert(0.0) += usd;
                }
            }
            Err(_) => stats.failed += 1,
        }
        result
    }

    async fn attempts(
        &self,
        fields: &mut Map<String, Value>,
        cx: &CallContext,
    ) -> Result<(Reply, Usage), ModelError> {
        let name = self.model_name().await?;
        fields.insert("model".into(), name.into());
        for (key, value) in &self.config.extra_body {
            fields.insert(key.clone(), value.clone());
        }
        let mut retries = 0;
        loop {
            let mut body = fields.clone();
            let lost = lock(&self.dialect).apply(&mut body);
            let failure = match self.attempt(&body).await {
                Ok(reply) => {
                    let usd = self.config.price.map(|price| {
                        (reply.prompt_tokens as f64 * price.prompt_usd_per_mtok
                            + reply.completion_tokens as f64 * price.completion_usd_per_mtok)
                            / 1e6
                    });
                    let usage = Usage {
                        calls: 1,
                        retries,
                        prompt_tokens: reply.prompt_tokens,
                        completion_tokens: reply.completion_tokens,
                        usd,
                        lost,
                    };
                    return Ok((reply, usage));
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::NoApi { message } => return Err(ModelError::Broken { message }),
                Failure::Refused { status, body: text } => {
                    if matches!(status, 400 | 422) {
                        if let Some(error) = context_too_long(&text) {
                            return Err(error);
                        }
                        let news = lock(&self.dialect).learn(&text, &body);
                        if news.is_some() {
                            self.tell(news);
                            continue;
                        }
                        // Another call in flight may have learned it between sending and refusal.
                        let mut again = fields.clone();
                        lock(&self.dialect).apply(&mut again);
                        if again != body {
                            continue;
                        }
                    }
                    return Err(self.rejected(status, &text));
                }
                Failure::Passing {
                    message,
                    retry_after,
                } => {
                    retries += 1;
                    if retries >= self.config.max_attempts {
                        return Err(ModelError::Exhausted {
                            attempts: retries,
                            last: message,
                        });
                    }
                    lock(&self.stats).retries += 1;
                    tokio::time::sleep(pause(cx.seed, retries, retry_after)).await;
                }
            }
        }
    }

    /// One request. The permit is held while it is under way, and not while waiting to try again.
    async fn attempt(&self, body: &Map<String, Value>) -> Result<Reply, Failure> {
        let passing = |message: String| Failure::Passing {
            message,
            retry_after: None,
        };
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|e| passing(e.to_string()))?;
        let url = format!("{}/chat/completions", self.config.url);
        let response = self
            .http
            .post(&url)
            .json(body)
            .send()
            .await
            .map_err(|e| passing(self.transport(&e)))?;
        let status = response.status().as_u16();
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let wait = retry_after(header("retry-after"));
        let is_page = header("content-type").is_some_and(|t| t.contains("text/html"));
        let text = response
            .text()
            .await
            .map_err(|e| passing(self.transport(&e)))?;
        if is_page && (status < 400 || status == 404) {
            return Err(Failure::NoApi {
                message: format!(
                    "`{url}` answers with a web page; an API's base URL usually ends in /v1"
                ),
            });
        }
        if is_passing(status) {
            if is_spent(&text) {
                return Err(Failure::Refused {
                    status: 402,
                    body: text,
                });
            }
            let message = format!("status {status}: {}", words(&text));
            return Err(Failure::Passing {
                message,
                retry_after: wait,
            });
        }
        if !(200..300).contains(&status) {
            return Err(Failure::Refused { status, body: text });
        }
        wire::parse(&text).map_err(passing)
    }

    /// A transport error in words, with what to check; the URL holds no secret, the rest is left
    /// out.
    fn transport(&self, error: &reqwest::Error) -> String {
        let url = &self.config.url;
        if error.is_timeout() {
            return format!(
                "no answer from `{url}` within {} s",
                self.config.timeout_secs
            );
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if error.is_connect() {
            return format!("cannot connect to `{url}` ({cause})");
        }
        format!("the connection to `{url}` broke ({cause})")
    }

    fn rejected(&self, status: u16, body: &str) -> ModelError {
        let said = words(body);
        let message = match (status, &self.config.api_key_env) {
            (401 | 403, Some(variable)) => {
                format!("the key in `{variable}` is not accepted: {said}")
            }
            (401 | 403, None) => {
                format!("a key is wanted; name the variable that holds it (`api_key_env`): {said}")
            }
            (404, _) => format!(
                "`{}` knows no model `{}`, or no chat completions: {said}",
                self.config.url,
                self.model.get().map_or("", String::as_str)
            ),
            _ => said,
        };
        ModelError::Rejected { status, message }
    }

    fn fields(
        &self,
        messages: &[rlaif_core::Message],
        prefill: Option<&str>,
        sampling: &Sampling,
        call_seed: u64,
    ) -> Map<String, Value> {
        let mut body = wire::body("", messages, prefill);
        let mut set = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        set("max_tokens", sampling.max_new_tokens.into());
        set("temperature", json!(sampling.temperature));
        // Some servers hold a seed in 31 bits.
        set("seed", (call_seed & 0x7fff_ffff).into());
        if let Some(p) = sampling.top_p {
            set("top_p", json!(p));
        }
        if let Some(k) = sampling.top_k {
            set("top_k", k.into());
        }
        if let Some(p) = sampling.min_p {
            set("min_p", json!(p));
        }
        if !sampling.stop.is_empty() {
            set("stop", json!(sampling.stop));
        }
        body
    }

    /// Reads a choice by the probabilities of tokens, or by counting answers.
    async fn choose(
        &self,
        request: &ChoiceRequest,
        cx: &CallContext,
    ) -> Result<ChoiceLogprobs, ModelError> {
        let choices = &request.choices;
        let mut usage = Usage::default();
        let mut answers: Vec<Reply> = Vec::new();
        let ask = |sampling: Sampling, logprobs: bool, draw: u32| {
            let draw_seed = seed::derive(cx.seed, &["draw", &draw.to_string()]);
            let prefill = request.prefill.as_deref();
            let mut body = self.fields(&request.messages, prefill, &sampling, draw_seed);
            if logprobs {
                body.insert("logprobs".into(), true.into());
                body.insert("top_logprobs".into(), 20.into());
            }
            self.call(body, cx)
        };
        let hoped = lock(&self.dialect).gives_logprobs();
        if hoped {
            let (reply, spent) = ask(Sampling::greedy(CHOICE_TOKENS), true, 0).await?;
            usage.add(&spent);
            declined(&reply)?;
            let found = reply
                .positions
                .as_ref()
                .and_then(|positions| masses(positions, &reply.text, choices));
            if let Some(found) = found {
                let sum: f64 = found.choices.iter().sum();
                return Ok(ChoiceLogprobs {
                    logprobs: found
                        .choices
                        .iter()
                        .map(|m| (m / sum).ln() as f32)
                        .collect(),
                    off_choice_mass: (1.0 - sum).clamp(0.0, 1.0) as f32,
                    evidence: Evidence::TopK {
                        unseen_mass: found.unseen.clamp(0.0, 1.0) as f32,
                    },
                    text: reply.text,
                    usage,
                });
            }
            if reply.positions.is_none() && reply.reasoning.is_none() {
                // Asked for and not given, without a word; or given malformed.
                let news = lock(&self.dialect).logprobs_ignored();
                self.tell(news);
                add_lost(&mut usage);
            }
            answers.push(reply);
        }
        if self.config.draws > 1 {
            // A greedy answer is no draw.
            answers.clear();
            for draw in 0..self.config.draws {
                let sampling = Sampling {
                    max_new_tokens: PROSE_TOKENS,
                    ..Sampling::default()
                };
                let (reply, spent) = ask(sampling, true, draw).await?;
                usage.add(&spent);
                answers.push(reply);
            }
        } else if answers.is_empty() {
            let (reply, spent) = ask(Sampling::greedy(PROSE_TOKENS), true, 0).await?;
            usage.add(&spent);
            answers.push(reply);
        }
        let is_cut =
            |r: &Reply| r.finish == Some(Finish::Length) && read_choice(&r.text, choices).is_none();
        if answers.iter().all(is_cut) {
            // Cut off before its verdict: a judge that reasons. Once more, with room for it.
            let (reply, spent) = ask(Sampling::greedy(REASONING_TOKENS), true, 0).await?;
            usage.add(&spent);
            answers = vec![reply];
        }
        for reply in &answers {
            declined(reply)?;
        }
        count(&answers, choices, usage)
    }
}

fn add_lost(usage: &mut Usage) {
    let lost = vec!["logprobs".to_owned(), "top_logprobs".to_owned()];
    usage.add(&Usage {
        lost,
        usd: Some(0.0),
        ..Usage::default()
    });
}

/// Counts readable answers; Laplace-smoothed, so that k answers never make a certainty.
fn count(
    answers: &[Reply],
    choices: &[Vec<String>],
    usage: Usage,
) -> Result<ChoiceLogprobs, ModelError> {
    let read: Vec<usize> = answers
        .iter()
        .filter_map(|r| read_choice(&r.text, choices))
        .collect();
    let text = answers
        .iter()
        .map(|r| r.text.as_str())
        .collect::<Vec<_>>()
        .join("\n---\n");
    if read.is_empty() {
        let truncated = answers.iter().all(|r| r.finish == Some(Finish::Length));
        return Err(ModelError::Unparseable {
            text,
            truncated,
            usage,
        });
    }
    let total = (read.len() + choices.len()) as f32;
    let times = |i: usize| read.iter().filter(|r| **r == i).count() as f32;
    Ok(ChoiceLogprobs {
        logprobs: (0..choices.len())
            .map(|i| ((times(i) + 1.0) / total).ln())
            .collect(),
        off_choice_mass: 1.0 - read.len() as f32 / answers.len() as f32,
        evidence: Evidence::Sampled {
            draws: read.len() as u32,
        },
        text,
        usage,
    })
}

/// An answer by which the provider or the model declines.
fn declined(reply: &Reply) -> Result<(), ModelError> {
    match (&reply.refusal, reply.finish) {
        (Some(text), _) => Err(ModelError::Refused { text: text.clone() }),
        (None, Some(Finish::ContentFilter)) => Err(ModelError::Refused {
            text: reply.text.clone(),
        }),
        _ => Ok(()),
    }
}

/// A server's words on one short line; what is no JSON is quoted as it is.
fn words(body: &str) -> String {
    match serde_json::from_str::<Value>(body) {
        Ok(value) => shorten(&error_text(&value)),
        Err(_) => shorten(body),
    }
}

/// True for a quota that is used up: it comes as a 429, and no waiting helps.
fn is_spent(body: &str) -> bool {
    body.contains("insufficient_quota")
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
    ];
    if !says.iter().any(|s| lower.contains(s)) {
        return None;
    }
    let numbers: Vec<u64> = lower
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .filter(|n| *n >= 64)
        .collect();
    // The limit is the smaller number of any two; the status or a lone number tells nothing.
    let (tokens, limit) = match (numbers.iter().max(), numbers.iter().min()) {
        (Some(max), Some(min)) if max > min => (*max, *min),
        _ => (0, 0),
    };
    Some(ModelError::ContextTooLong { tokens, limit })
}

impl LanguageModel for Endpoint {
    fn id(&self) -> &ModelId {
        &self.id
    }

    fn capabilities(&self) -> Capabilities {
        let refused = !lock(&self.dialect).gives_logprobs();
        Capabilities {
            logprobs: refused.then_some(false),
            prefill: false,
        }
    }

    fn sample<'a>(
        &'a self,
        request: &'a SampleRequest,
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<Completion, ModelError>> {
        Box::pin(async move {
            let prefill = request.prefill.as_deref();
            let body = self.fields(&request.messages, prefill, &request.sampling, cx.seed);
            let (reply, usage) = self.call(body, cx).await?;
            declined(&reply)?;
            if let Some(sink) = &cx.sink {
                sink(&reply.text);
            }
            Ok(Completion {
                text: reply.text,
                reasoning: reply.reasoning,
                tokens: None,
                finish: reply.finish.unwrap_or(Finish::Stop),
                usage,
            })
        })
    }

    fn choice_logprobs<'a>(
        &'a self,
        request: &'a ChoiceRequest,
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<ChoiceLogprobs, ModelError>> {
        Box::pin(self.choose(request, cx))
    }
}
