//! A checkpoint folder as a [`LanguageModel`].

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use futures::channel::oneshot;
use rlaif_core::{
    BoxFuture, CallContext, Capabilities, ChoiceLogprobs, ChoiceRequest, Completion, Evidence,
    Finish, LanguageModel, Message, ModelError, ModelId, SampleRequest, Tokens, Usage,
};

use crate::config::LlamaConfig;
use crate::error::EngineError;
use crate::schedule::{Finished, Job, Options, Scheduler};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

struct Request {
    job: Job,
    stop: Vec<String>,
    sink: Option<rlaif_core::model::Sink>,
    reply: oneshot::Sender<Result<Finished, EngineError>>,
}

/// A model in memory. Calls from any number of tasks are batched by one thread of its own.
pub struct LocalModel {
    positions: usize,
    id: ModelId,
    tokenizer: Arc<Tokenizer>,
    eos: Arc<[u32]>,
    raw: bool,
    queue: mpsc::Sender<Request>,
    calls: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

impl LocalModel {
    /// Opens a checkpoint folder.
    ///
    /// # Errors
    /// Files that are missing, corrupt, contradictory or of another architecture.
    pub fn open(folder: &Path, options: Options) -> Result<Self, EngineError> {
        let config = LlamaConfig::read(folder)?;
        let tokenizer = Tokenizer::read(folder)?;
        if tokenizer.len() > config.vocab {
            return Err(EngineError::format(
                folder.join("tokenizer.json"),
                format!(
                    "has {} tokens and config.json says `vocab_size` {}; the tokenizer belongs to \
                     another model",
                    tokenizer.len(),
                    config.vocab
                ),
            ));
        }
        let weights = Arc::new(Weights::read(folder, &config)?);
        let name = folder
            .file_name()
            .map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        Self::new(&name, &config, &weights, tokenizer, options)
    }

    /// A model from its parts.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(
        name: &str,
        config: &LlamaConfig,
        weights: &Arc<Weights>,
        tokenizer: Tokenizer,
        options: Options,
    ) -> Result<Self, EngineError> {
        let tokenizer = Arc::new(tokenizer);
        let scheduler = Scheduler::of(config, weights, config.max_positions, options);
        let (queue, requests) = mpsc::channel();
        let words = Arc::clone(&tokenizer);
        thread::Builder::new()
            .name("rlaif-engine".into())
            .spawn(move || serve(scheduler, &words, &requests))
            .map_err(|e| EngineError::Request(format!("cannot start a thread: {e}")))?;
        Ok(LocalModel {
            positions: config.max_positions,
            id: ModelId::new(name),
            tokenizer,
            eos: config.eos.clone().into(),
            raw: false,
            queue,
            calls: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
        })
    }

    /// Calls, prompt tokens and generated tokens answered so far.
    #[must_use]
    pub fn answered(&self) -> (u64, u64, u64) {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (
            read(&self.calls),
            read(&self.prompt_tokens),
            read(&self.completion_tokens),
        )
    }

    fn count(&self, usage: Usage) -> Usage {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.prompt_tokens
            .fetch_add(usage.prompt_tokens, Ordering::Relaxed);
        self.completion_tokens
            .fetch_add(usage.completion_tokens, Ordering::Relaxed);
        usage
    }

    /// Replaces the name that records show, the folder's own by default.
    #[must_use]
    pub fn named(mut self, id: &str) -> Self {
        self.id = ModelId::new(id);
        self
    }

    /// Continues the plain text of a single message instead of using the chat template.
    #[must_use]
    pub fn raw(mut self, raw: bool) -> Self {
        self.raw = raw;
        self
    }

    /// The prompt's tokens, where they fit with `more`.
    fn prompt(
        &self,
        messages: &[Message],
        prefill: Option<&str>,
        more: usize,
    ) -> Result<Vec<u32>, ModelError> {
        let ids = match (self.raw, messages) {
            (true, [one]) => self
                .tokenizer
                .encode(&(one.content.clone() + prefill.unwrap_or("")), true),
            _ => self.tokenizer.chat(messages, true, prefill),
        };
        let ids = ids.map_err(|e| refuse(&e))?;
        match ids.len() + more {
            tokens if tokens > self.positions => Err(ModelError::ContextTooLong {
                tokens: tokens as u64,
                limit: self.positions as u64,
            }),
            _ => Ok(ids),
        }
    }

    async fn ask(
        &self,
        job: Job,
        stop: Vec<String>,
        sink: Option<rlaif_core::model::Sink>,
    ) -> Result<Finished, ModelError> {
        let (reply, answer) = oneshot::channel();
        let gone = || ModelError::Broken {
            message: "the engine's thread has ended".into(),
        };
        self.queue
            .send(Request {
                job,
                stop,
                sink,
                reply,
            })
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(|e| refuse(&e))
    }
}

fn refuse(e: &EngineError) -> ModelError {
    match e {
        EngineError::Request(message) => ModelError::Rejected {
            status: 400,
            message: message.clone(),
        },
        other => ModelError::Broken {
            message: other.to_string(),
        },
    }
}

fn usage(prompt: usize, completion: usize) -> Usage {
    Usage {
        calls: 1,
        prompt_tokens: prompt as u64,
        completion_tokens: completion as u64,
        usd: Some(0.0),
        ..Usage::default()
    }
}

impl LanguageModel for LocalModel {
    fn id(&self) -> &ModelId {
        &self.id
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            logprobs: Some(true),
            prefill: true,
        }
    }

    fn count_tokens(&self, text: &str) -> Option<usize> {
        self.tokenizer.encode(text, false).ok().map(|ids| ids.len())
    }

    fn sample<'a>(
        &'a self,
        request: &'a SampleRequest,
        cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<Completion, ModelError>> {
        Box::pin(async move {
            let more = (request.sampling.max_new_tokens as usize).saturating_sub(1);
            let prompt = self.prompt(&request.messages, request.prefill.as_deref(), more)?;
            let length = prompt.len();
            let job = Job::Sample {
                prompt,
                sampling: request.sampling.clone(),
                seed: cx.seed,
                eos: Arc::clone(&self.eos),
            };
            let done = self
                .ask(job, request.sampling.stop.clone(), cx.sink.clone())
                .await?;
            let mut text = self.tokenizer.decode(&done.ids).map_err(|e| refuse(&e))?;
            if let Some(at) = request
                .sampling
                .stop
                .iter()
                .filter_map(|s| text.find(s))
                .min()
            {
                text.truncate(at);
            }
            Ok(Completion {
                text,
                reasoning: None,
                usage: self.count(usage(length, done.ids.len())),
                finish: done.finish,
                tokens: Some(Tokens {
                    ids: done.ids,
                    logprobs: done.logprobs,
                }),
            })
        })
    }

    /// Exact, by prefill alone: each spelling's log-probability is the sum over its tokens. A
    /// spelling that continues another of the same choice is contained in it and not added again.
    fn choice_logprobs<'a>(
        &'a self,
        request: &'a ChoiceRequest,
        _cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<ChoiceLogprobs, ModelError>> {
        Box::pin(async move {
            let mut spelled: Vec<Vec<Vec<u32>>> = Vec::new();
            for spellings in &request.choices {
                let mut ids = Vec::new();
                for s in spellings {
                    ids.push(self.tokenizer.encode(s, false).map_err(|e| refuse(&e))?);
                }
                ids.retain(|s| !s.is_empty());
                ids.sort();
                // Sorted, a prefix stands right before what it begins.
                ids.dedup_by(|later, kept| later.starts_with(kept));
                spelled.push(ids);
            }
            let longest = spelled.iter().flatten().map(Vec::len).max().unwrap_or(1);
            let more = longest.saturating_sub(1);
            let prompt = self.prompt(&request.messages, request.prefill.as_deref(), more)?;
            let single: Vec<u32> = spelled
                .iter()
                .flatten()
                .filter(|s| s.len() == 1)
                .map(|s| s[0])
                .collect();
            let length = prompt.len();
            let first = self
                .ask(
                    Job::Score {
                        prompt: prompt.clone(),
                        continuation: Vec::new(),
                        first: single.clone(),
                    },
                    Vec::new(),
                    None,
                )
                .await?
                .first;
            let mut mass = vec![0.0f64; spelled.len()];
            for (choice, spellings) in spelled.iter().enumerate() {
                for s in spellings {
                    let logprob = match s.as_slice() {
                        [one] => single
                            .iter()
                            .position(|id| id == one)
                            .map_or(f32::NEG_INFINITY, |i| first[i]),
                        _ => {
                            let job = Job::Score {
                                prompt: prompt.clone(),
                                continuation: s.clone(),
                                first: Vec::new(),
                            };
                            self.ask(job, Vec::new(), None).await?.logprobs.iter().sum()
                        }
                    };
                    mass[choice] += f64::from(logprob).exp();
                }
            }
            let total: f64 = mass.iter().sum();
            if total <= 0.0 || !total.is_finite() {
                return Err(ModelError::Unparseable {
                    text: String::new(),
                    truncated: false,
                    usage: self.count(usage(length, 0)),
                });
            }
            Ok(ChoiceLogprobs {
                logprobs: mass.iter().map(|m| (m / total).ln() as f32).collect(),
                off_choice_mass: (1.0 - total).clamp(0.0, 1.0) as f32,
                evidence: Evidence::Exact,
                text: String::new(),
                reasoning: None,
                usage: self.count(usage(length, 0)),
            })
        })
    }
}

struct Running {
    key: u64,
    stop: Vec<String>,
    sink: Option<rlaif_core::model::Sink>,
    shown: usize,
    reply: oneshot::Sender<Result<Finished, EngineError>>,
}

fn serve(mut scheduler: Scheduler, tokenizer: &Tokenizer, requests: &mpsc::Receiver<Request>) {
    let mut running: Vec<Running> = Vec::new();
    loop {
        // Sleep only when there is nothing to do; leave when nobody can ask any more.
        let mut next = if scheduler.is_idle() {
            match requests.recv() {
                Ok(r) => Some(r),
                Err(_) => return,
            }
        } else {
            requests.try_recv().ok()
        };
        while let Some(r) = next {
            match scheduler.submit(r.job) {
                Ok(key) => running.push(Running {
                    key,
                    stop: r.stop,
                    sink: r.sink,
                    shown: 0,
                    reply: r.reply,
                }),
                // A caller that has gone does not need the error.
                Err(e) => drop(r.reply.send(Err(e))),
            }
            next = requests.try_recv().ok();
        }
        running.retain(|r| {
            let gone = r.reply.is_canceled();
            if gone {
                scheduler.cancel(r.key);
            }
            !gone
        });
        let mut finished = match scheduler.step() {
            Ok(f) => f,
            Err(e) => {
                for r in running.drain(..) {
                    scheduler.cancel(r.key);
                    drop(r.reply.send(Err(EngineError::Request(e.to_string()))));
                }
                continue;
            }
        };
        for r in &mut running {
            if r.stop.is_empty() && r.sink.is_none() {
                continue;
            }
            let Some(ids) = scheduler.so_far(r.key) else {
                continue;
            };
            let Ok(text) = tokenizer.decode(ids) else {
                continue;
            };
            // An unfinished character is shown once it is whole.
            if let (Some(sink), Some(new)) = (&r.sink, text.get(r.shown..))
                && !new.is_empty()
                && !new.ends_with('\u{fffd}')
            {
                sink(new);
                r.shown = text.len();
            }
            if r.stop.iter().any(|s| text.contains(s))
                && let Some(done) = scheduler.finish(r.key)
            {
                finished.push((r.key, done));
            }
        }
        for (key, mut done) in finished {
            if let Some(i) = running.iter().position(|r| r.key == key) {
                let r = running.swap_remove(i);
                if done.finish == Finish::Length
                    && !r.stop.is_empty()
                    && let Ok(text) = tokenizer.decode(&done.ids)
                    && r.stop.iter().any(|s| text.contains(s))
                {
                    done.finish = Finish::Stop;
                }
                drop(r.reply.send(Ok(done)));
            }
        }
    }
}
