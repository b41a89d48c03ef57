//! An endpoint: what is asked of it becomes calls, which pass through the layers; what comes back
//! becomes completions and choices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rlaif_core::{
    BoxFuture, CallContext, Capabilities, ChoiceLogprobs, ChoiceRequest, Completion, Evidence,
    Finish, LanguageModel, ModelError, ModelId, SampleRequest, Sampling, Usage,
    choice::read_choice, seed,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::batch::{self, Batches};
use crate::breaker::Breaker;
use crate::budget::{Budget, Budgeted};
use crate::call::{Answer, Call, Calls, Failure};
use crate::choice::masses;
use crate::config::{ClientError, EndpointConfig, Price, Replica, key_in};
use crate::dialect::Dialect;
use crate::halt::Halt;
use crate::journal::{Journal, Journalled};
use crate::line::{Line, Shared};
use crate::meter::{Meter, Now, Stats, lock};
use crate::pool::{Member, Pool};
use crate::rate::Rate;
use crate::retry::Retry;
use crate::window::{Controller, Window};
use crate::wire::{self, Api, Object, Reply};

/// Receives what is worth telling a person, once each.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// What the endpoints of a run share.
#[derive(Clone, Default)]
pub struct Ledger {
    /// Remembers every call.
    pub journal: Option<Arc<Journal>>,
    /// Limits what is spent.
    pub budget: Option<Arc<Budget>>,
    /// Lets what was sent end, and nothing else be sent.
    pub halt: Arc<Halt>,
}

/// A model behind one server or several that speak OpenAI's or Anthropic's API.
pub struct Endpoint {
    config: EndpointConfig,
    api: Api,
    id: ModelId,
    model: OnceCell<String>,
    constrained: OnceCell<Option<Constraint>>,
    pool: Arc<Pool>,
    batches: Option<Arc<Batches>>,
    calls: Retry,
    shared: Arc<Shared>,
    meter: Arc<Meter>,
}

/// The field by which a server makes an answer one of several texts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Constraint {
    /// vLLM: `structured_outputs`, and `guided_choice` before it.
    Vllm,
    /// SGLang: `regex`.
    Sglang,
    /// llama.cpp: `grammar` in GBNF.
    LlamaCpp,
}

/// Tokens asked for where only a choice is wanted: room for `(A).` and its like.
const CHOICE_TOKENS: u32 = 16;
/// Tokens for a judge that writes before it chooses.
const PROSE_TOKENS: u32 = 64;
/// Tokens for a judge that was cut off before it chose: it reasons.
const REASONING_TOKENS: u32 = 2048;

/// A layer below an endpoint, shared with whoever asks for its width.
struct Shares<T>(Arc<T>);

impl<T: Calls> Calls for Shares<T> {
    fn attempt<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Answer, Failure>> {
        self.0.attempt(call)
    }
}

impl Endpoint {
    /// Opens an endpoint on its own. No call is made yet; the key is read now, so that a missing
    /// one is known before anything is paid.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn open(config: EndpointConfig) -> Result<Self, ClientError> {
        Self::open_with(config, &Ledger::default())
    }

    /// Opens an endpoint whose calls are remembered and limited by a run's ledger.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::NoPrice`] for a budget of money and a model without a price.
    pub fn open_with(config: EndpointConfig, ledger: &Ledger) -> Result<Self, ClientError> {
        let mut config = config.normalized()?;
        let api = config.api();
        if config.batch {
            let half = |p: Price| Price {
                prompt_usd_per_mtok: p.prompt_usd_per_mtok * batch::DISCOUNT,
                completion_usd_per_mtok: p.completion_usd_per_mtok * batch::DISCOUNT,
            };
            config.price = config.price.map(half);
        }
        let id = match &config.model {
            Some(name) => ModelId::new(format!("{}#{name}", config.url)),
            None => ModelId::new(&config.url),
        };
        let has_max_usd = ledger
            .budget
            .as_ref()
            .is_some_and(|b| b.limits().max_usd.is_some());
        if has_max_usd && config.price.is_none() {
            return Err(ClientError::NoPrice {
                model: id.to_string(),
            });
        }
        let meter = Arc::new(Meter::default());
        let name: Arc<str> = Arc::from(id.as_str());
        let mut dialect = Dialect::of(api);
        if let Some(kept) = ledger.journal.as_ref().and_then(|j| j.dialect(&name)) {
            dialect.take_up(&kept);
        }
        let shared = Arc::new(Shared {
            api,
            key_env: config.api_key_env.clone(),
            timeout: Duration::from_secs(config.timeout_secs),
            price: config.price,
            dialect: Mutex::new(dialect),
            notice: Mutex::default(),
            meter: Arc::clone(&meter),
            journal: ledger.journal.clone(),
            name: Arc::clone(&name),
            must_bound: has_max_usd,
            told: Mutex::default(),
        });
        let own = Replica {
            url: config.url.clone(),
            weight: config.weight,
            api_key_env: None,
        };
        let mut members = Vec::new();
        for replica in std::iter::once(&own).chain(&config.replicas) {
            let variable = replica.api_key_env.as_ref().or(config.api_key_env.as_ref());
            let key = key_in(variable)?;
            let (start, most) = (config.concurrency.start(), config.concurrency.most());
            let timeout = config.timeout_secs as f64;
            members.push(Member {
                line: Line::open(&config, &replica.url, key.as_ref(), Arc::clone(&shared))?,
                weight: replica.weight,
                window: Window::new(Controller::new(start, most, timeout)),
                requests: config
                    .requests_per_min
                    .map(|n| Mutex::new(Rate::per_min(n))),
                tokens: config.tokens_per_min.map(|n| Mutex::new(Rate::per_min(n))),
                breaker: Mutex::new(Breaker::default()),
            });
        }
        let pool = Arc::new(Pool {
            members,
            meter: Arc::clone(&meter),
            halt: Arc::clone(&ledger.halt),
            begun: Instant::now(),
        });
        let batches = match config.batch {
            true => {
                let key = key_in(config.api_key_env.as_ref())?;
                let (pool, shared) = (Arc::clone(&pool), Arc::clone(&shared));
                let opened = Batches::open(&config, key.as_ref(), pool, shared)?;
                Some(Arc::new(opened))
            }
            false => None,
        };
        let mut calls: Box<dyn Calls> = match &batches {
            Some(batches) => Box::new(Shares(Arc::clone(batches))),
            None => Box::new(Shares(Arc::clone(&pool))),
        };
        if let Some(journal) = &ledger.journal {
            calls = Box::new(Journalled {
                inner: calls,
                journal: Arc::clone(journal),
                model: name,
                api,
                price: config.price,
                meter: Arc::clone(&meter),
                gathers: config.batch,
            });
        }
        if let Some(budget) = &ledger.budget {
            calls = Box::new(Budgeted {
                inner: calls,
                budget: Arc::clone(budget),
                price: config.price,
            });
        }
        let calls = Retry {
            inner: calls,
            max_attempts: config.max_attempts,
            meter: Arc::clone(&meter),
            halt: Arc::clone(&ledger.halt),
        };
        Ok(Endpoint {
            model: OnceCell::new_with(config.model.clone()),
            constrained: OnceCell::new(),
            config,
            api,
            id,
            pool,
            batches,
            calls,
            shared,
            meter,
        })
    }

    /// Sets who is told of what the endpoint refuses. The library itself prints nothing.
    pub fn on_notice(&self, notice: Notice) {
        *lock(&self.shared.notice) = Some(notice);
    }

    /// What it was asked so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.meter.stats()
    }

    /// Its tokens have a price.
    #[must_use]
    pub fn has_price(&self) -> bool {
        self.config.price.is_some()
    }

    /// What is under way.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            in_flight: self.pool.in_flight() + self.batches.as_ref().map_or(0, |b| b.waiting()),
            window: self.pool.width(),
            asleep: self.meter.sleeping(),
            latency_secs: self.meter.percentiles(),
            failures: self.meter.failures(),
        }
    }

    /// Rows that keep the endpoint busy: the window, a quarter more that are ready to leave while others
    /// are written down, and as many again as wait before they are sent once more, up to three
    /// windows.
    #[must_use]
    pub fn width(&self) -> usize {
        if self.batches.is_some() {
            return batch::WIDTH;
        }
        let window = self.pool.width();
        window + window / 4 + self.meter.sleeping().min(3 * window)
    }

    /// The model's name: the configured one, or the only one that the server lists.
    async fn model_name(&self) -> Result<&str, ModelError> {
        self.model
            .get_or_try_init(|| async {
                let listed = match self.pool.members.first() {
                    Some(member) => member.line.models().await.unwrap_or_default(),
                    None => Vec::new(),
                };
                let names: Vec<String> = listed.into_iter().map(|(name, _)| name).collect();
                let url = &self.config.url;
                match names.as_slice() {
                    [only] => Ok(only.clone()),
                    [] => Err(ModelError::Broken {
                        message: format!(
                            "no model was named, and `{url}/models` lists none; is the server \
                             running? Name the model as in `{url}#NAME`"
                        ),
                    }),
                    [first, ..] => Err(ModelError::Broken {
                        message: format!(
                            "no model was named, and `{url}` serves {}: {}; name one as in \
                             `{url}#{first}`",
                            names.len(),
                            names.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
                        ),
                    }),
                }
            })
            .await
            .map(String::as_str)
    }

    /// One call through all layers.
    async fn call(&self, body: Object<'_>, cx: &CallContext) -> Result<(Reply, Usage), ModelError> {
        let name = match self.model.get() {
            Some(name) => name.as_str(),
            None => tokio::time::timeout(cx.deadline, self.model_name())
                .await
                .map_err(|_| ModelError::Deadline)??,
        };
        let mut call = Call::new(self.api, body.finish(name), cx);
        if call.deadline == CallContext::DEADLINE {
            // Nobody asked for less: there is time for each attempt.
            let all = self.shared.timeout * self.config.max_attempts;
            call.deadline = call.deadline.max(all);
        }
        if self.batches.is_some() {
            call.deadline = call.deadline.max(batch::DEADLINE);
        }
        match self.calls.call(&call).await {
            Ok((answer, retries)) => {
                let usage = Usage {
                    calls: 1,
                    retries,
                    prompt_tokens: answer.reply.prompt_tokens,
                    completion_tokens: answer.reply.completion_tokens,
                    usd: answer.usd,
                    lost: answer.lost,
                };
                self.meter.count(|stats| {
                    if answer.recalled {
                        return;
                    }
                    stats.calls += 1;
                    stats.prompt_tokens += usage.prompt_tokens;
                    stats.completion_tokens += usage.completion_tokens;
                    stats.lost.extend(usage.lost.iter().cloned());
                    if let Some(usd) = usage.usd {
                        *stats.usd.get_or_insert(0.0) += usd;
                    }
                });
                Ok((answer.reply, usage))
            }
            Err(error) => {
                self.meter.count(|stats| stats.failed += 1);
                Err(error)
            }
        }
    }

    /// The field by which the server constrains an answer, told by who owns its models.
    async fn constraint(&self) -> Option<Constraint> {
        *self
            .constrained
            .get_or_init(|| async {
                let member = self.pool.members.first()?;
                let models = tokio::time::timeout(self.shared.timeout, member.line.models());
                let owners = models.await.ok()??;
                owners.iter().find_map(|(_, owner)| match owner.as_str() {
                    "vllm" => Some(Constraint::Vllm),
                    "sglang" => Some(Constraint::Sglang),
                    "llamacpp" => Some(Constraint::LlamaCpp),
                    _ => None,
                })
            })
            .await
    }

    fn body(
        &self,
        messages: &[rlaif_core::Message],
        prefill: Option<&str>,
        sampling: &Sampling,
        call_seed: u64,
    ) -> Object<'_> {
        let mut body = Object::with(&self.config.extra_body);
        wire::converse(&mut body, messages, prefill);
        body.limit(sampling.max_new_tokens);
        body.set("temperature", &f64::from(sampling.temperature));
        // Some servers hold a seed in 31 bits.
        body.set("seed", &(call_seed & 0x7fff_ffff));
        if let Some(p) = sampling.top_p {
            body.set("top_p", &f64::from(p));
        }
        if let Some(k) = sampling.top_k {
            body.set("top_k", &k);
        }
        if let Some(p) = sampling.min_p {
            body.set("min_p", &f64::from(p));
        }
        if !sampling.stop.is_empty() {
            body.set("stop", &sampling.stop);
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
        let constraint = Mutex::new(None::<(&str, Value)>);
        let ask = |sampling: Sampling, logprobs: bool, draw: u32| {
            let draw_seed = seed::derive(cx.seed, &["draw", &draw.to_string()]);
            let prefill = request.prefill.as_deref();
            let mut body = self.body(&request.messages, prefill, &sampling, draw_seed);
            if logprobs {
                body.set("logprobs", &true);
                body.set("top_logprobs", &20);
            }
            if let Some((field, value)) = &*lock(&constraint) {
                body.set(field, value);
            }
            self.call(body, cx)
        };
        let hoped = lock(&self.shared.dialect).gives_logprobs();
        for slip in 0..2 {
            if !hoped {
                break;
            }
            // Asked once more after a slip, under another seed: the same call has its answer.
            let (reply, spent) = ask(Sampling::greedy(CHOICE_TOKENS), true, slip).await?;
            usage.add(&spent);
            declined(&reply)?;
            let found = reply
                .positions
                .as_ref()
                .and_then(|positions| masses(positions, &reply.text, choices));
            if reply.positions.is_some() {
                lock(&self.shared.dialect).logprobs_came();
            }
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
                    reasoning: reply.reasoning,
                    usage,
                });
            }
            let mut again = false;
            if reply.positions.is_none() && reply.reasoning.is_none() && spent.lost.is_empty() {
                let news;
                (again, news) = lock(&self.shared.dialect).logprobs_missed(reply.malformed);
                self.shared.tell(news);
                if !again || slip > 0 {
                    add_lost(&mut usage);
                }
            }
            answers = vec![reply];
            if !again {
                break;
            }
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
            |r: &Reply| r.finish == Some(Finish::Length) && choice_of(r, choices).is_none();
        if answers.iter().all(is_cut) {
            // Cut off before its verdict: a judge that reasons. Once more, with room for it.
            let (reply, spent) = ask(Sampling::greedy(REASONING_TOKENS), true, 0).await?;
            usage.add(&spent);
            answers = vec![reply];
        }
        for reply in &answers {
            declined(reply)?;
        }
        let unread =
            |r: &Reply| r.finish != Some(Finish::Length) && read_choice(&r.text, choices).is_none();
        if answers.iter().all(unread)
            && let Some(kind) = self.constraint().await
        {
            // None of the choices, and the server can be held to them.
            for (field, value) in kind.fields(choices) {
                *lock(&constraint) = Some((field, value));
                let asked = ask(Sampling::greedy(PROSE_TOKENS), false, 0).await;
                // A field of another version of the server is refused; the next one is tried.
                let Ok((reply, spent)) = asked else { continue };
                usage.add(&spent);
                answers = vec![reply];
                break;
            }
        }
        count(&answers, choices, usage)
    }
}

/// A model that turns texts into vectors, behind a server that speaks OpenAI's embeddings. Its calls
/// pass through the same layers as an [`Endpoint`]'s.
pub struct Embedder {
    endpoint: Arc<Endpoint>,
}

impl Embedder {
    /// Opens it. No call is made yet.
    ///
    /// # Errors
    /// As [`Endpoint::open_with`].
    pub fn open_with(mut config: EndpointConfig, ledger: &Ledger) -> Result<Self, ClientError> {
        config.api = Some(Api::Embeddings);
        config.batch = false;
        let endpoint = Arc::new(Endpoint::open_with(config, ledger)?);
        Ok(Embedder { endpoint })
    }

    /// Its calls, for whoever counts and watches them.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The vector of a text, of no particular length.
    ///
    /// # Errors
    /// [`ModelError`], as for a completion.
    pub async fn embed(
        &self,
        text: &str,
        cx: &CallContext,
    ) -> Result<(Vec<f32>, Usage), ModelError> {
        let mut body = Object::with(&self.endpoint.config.extra_body);
        body.set("input", text);
        let (reply, usage) = self.endpoint.call(body, cx).await?;
        Ok((reply.vector, usage))
    }
}

impl Constraint {
    /// The field or fields that do it, the newest first. Each choice is held to its first
    /// spelling.
    fn fields(self, choices: &[Vec<String>]) -> Vec<(&'static str, Value)> {
        let words: Vec<&str> = choices
            .iter()
            .filter_map(|c| c.first().map(|w| w.trim()))
            .collect();
        match self {
            Constraint::Vllm => vec![
                ("structured_outputs", json!({ "choice": words })),
                ("guided_choice", json!(words)),
            ],
            Constraint::Sglang => {
                let escaped: Vec<String> = words.iter().map(|w| escape(w)).collect();
                vec![("regex", json!(format!("({})", escaped.join("|"))))]
            }
            Constraint::LlamaCpp => {
                let quoted: Vec<String> = words.iter().map(|w| json!(w).to_string()).collect();
                vec![("grammar", json!(format!("root ::= {}", quoted.join(" | "))))]
            }
        }
    }
}

/// A text as a regular expression that matches it alone.
fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let special = !c.is_alphanumeric() && c.is_ascii() && c != ' ';
            special.then_some('\\').into_iter().chain([c])
        })
        .collect()
}

fn add_lost(usage: &mut Usage) {
    let lost = vec!["logprobs".to_owned(), "top_logprobs".to_owned()];
    usage.add(&Usage {
        lost,
        usd: Some(0.0),
        ..Usage::default()
    });
}

/// The choice that an answer names.
fn choice_of(reply: &Reply, choices: &[Vec<String>]) -> Option<usize> {
    let runs_on = || match reply.finish {
        Some(Finish::Length) => first_of_many(&reply.text, choices),
        _ => None,
    };
    read_choice(&reply.text, choices).or_else(runs_on)
}

/// The first choice of a text that is nothing but choices, one upon the other. A judge that was taught
/// to choose and not to stop goes on so to its limit, and what it says first is its verdict: the place
/// at which log-probabilities are read.
fn first_of_many(text: &str, choices: &[Vec<String>]) -> Option<usize> {
    // Bracketed spellings alone: digits and bare letters run into other words.
    let spelled = |rest: &str| {
        choices.iter().position(|c| {
            c.first()
                .is_some_and(|s| s.starts_with('(') && rest.starts_with(s.as_str()))
        })
    };
    let mut rest = text.trim();
    let first = spelled(rest)?;
    while let Some(at) = spelled(rest) {
        rest = &rest[choices[at][0].len()..];
    }
    let is_cut = |c: &Vec<String>| c.first().is_some_and(|s| s.starts_with(rest));
    (rest.is_empty() || choices.iter().any(is_cut)).then_some(first)
}

/// Counts readable answers; Laplace-smoothed, so that k answers never make a certainty.
fn count(
    answers: &[Reply],
    choices: &[Vec<String>],
    usage: Usage,
) -> Result<ChoiceLogprobs, ModelError> {
    let read: Vec<usize> = answers
        .iter()
        .filter_map(|r| choice_of(r, choices))
        .collect();
    let thoughts: Vec<&str> = answers
        .iter()
        .filter_map(|r| r.reasoning.as_deref())
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
        reasoning: (!thoughts.is_empty()).then(|| thoughts.join("\n---\n")),
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

impl LanguageModel for Endpoint {
    fn id(&self) -> &ModelId {
        &self.id
    }

    fn capabilities(&self) -> Capabilities {
        let refused = !lock(&self.shared.dialect).gives_logprobs();
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
            let mut body = self.body(&request.messages, prefill, &request.sampling, cx.seed);
            if let Some(schema) = &request.schema {
                let held = json!({"name": "answer", "strict": true, "schema": schema});
                let format = json!({"type": "json_schema", "json_schema": held});
                body.set("response_format", &format);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_as_servers_take_them() {
        let choices = vec![vec!["(A)".to_owned(), "A".into()], vec!["(B)".to_owned()]];
        assert_eq!(
            Constraint::Sglang.fields(&choices),
            [("regex", json!("(\\(A\\)|\\(B\\))"))]
        );
        assert_eq!(
            Constraint::LlamaCpp.fields(&choices),
            [("grammar", json!("root ::= \"(A)\" | \"(B)\""))]
        );
        let vllm = Constraint::Vllm.fields(&choices);
        assert_eq!(
            vllm[0],
            ("structured_outputs", json!({"choice": ["(A)", "(B)"]}))
        );
        assert_eq!(vllm[1].0, "guided_choice");
    }
}
