//! Continuous batching: requests join and leave between two forward passes.

use std::collections::VecDeque;
use std::sync::Arc;

use rayon::prelude::*;
use rlaif_core::{Finish, Sampling};

use crate::config::LlamaConfig;
use crate::error::EngineError;
use crate::infer::{Cache, Inference, PAGE, Sequence, Work};
use crate::kernels::on_pool;
use crate::sampler::{Stream, draw, log_sum_exp};
use crate::weights::Weights;

/// Bounds of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Bytes for keys and values; a request that cannot fit is refused, others wait.
    pub cache_bytes: u64,
    /// Most sequences at once.
    pub max_sequences: usize,
    /// Most new tokens in one pass: bounds the activations.
    pub max_rows: usize,
    /// Finished prompts kept for later requests that begin alike, while memory is not needed.
    pub retained: usize,
}

impl Default for Options {
    /// 1 GiB of keys and values, 256 sequences, 1,024 rows, 32 prompts retained.
    fn default() -> Self {
        Options {
            cache_bytes: 1 << 30,
            max_sequences: 256,
            max_rows: 1024,
            retained: 32,
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub enum Job {
    /// Continue a prompt. `stop` is asked after each token with all ids so far.
    Sample {
        /// Prompt ids, at least one.
        prompt: Vec<u32>,
        /// How to sample; its `stop` texts are the caller's to check.
        sampling: Sampling,
        /// Seed of this request's draws.
        seed: u64,
        /// Ids that end the answer; they are kept as its last id.
        eos: Arc<[u32]>,
    },
    /// Log-probabilities of a continuation, and of what could have come in its first place.
    Score {
        /// Prompt ids, at least one.
        prompt: Vec<u32>,
        /// Ids to score; may be empty.
        continuation: Vec<u32>,
        /// Ids whose log-probability right after the prompt is wanted.
        first: Vec<u32>,
    },
}

/// A finished request.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Sampled or scored ids.
    pub ids: Vec<u32>,
    /// Their log-probabilities (sampling: at the sampling temperature).
    pub logprobs: Vec<f32>,
    /// Log-probabilities of `first`.
    pub first: Vec<f32>,
    /// Why sampling ended.
    pub finish: Finish,
    /// Prompt tokens that another sequence had already computed.
    pub reused: usize,
}

struct Active {
    key: u64,
    job: Job,
    /// Prompt and what follows; `sequence.len()` of them are computed.
    tokens: Vec<u32>,
    prompt: usize,
    /// How many of the last tokens give wanted logits, once all are fed.
    want: usize,
    sequence: Sequence,
    rng: Stream,
    done: Finished,
}

/// Runs many requests on one model.
pub struct Scheduler {
    model: Arc<Inference>,
    cache: Cache,
    options: Options,
    queue: VecDeque<(u64, Job)>,
    active: Vec<Active>,
    retained: VecDeque<(Vec<u32>, Sequence)>,
    next: u64,
}

impl Scheduler {
    /// A scheduler over a model.
    #[must_use]
    pub fn new(model: Arc<Inference>, options: Options) -> Self {
        let cache = Cache::new(model.config(), options.cache_bytes);
        Scheduler {
            model,
            cache,
            options,
            queue: VecDeque::new(),
            active: Vec::new(),
            retained: VecDeque::new(),
            next: 0,
        }
    }

    /// Packs weights and makes a scheduler for sequences of at most `positions` tokens.
    #[must_use]
    pub fn of(c: &LlamaConfig, weights: &Arc<Weights>, positions: usize, options: Options) -> Self {
        Self::new(Arc::new(Inference::new(c, weights, positions)), options)
    }

    /// Queues a request; the number names it in what [`Scheduler::step`] returns.
    ///
    /// # Errors
    /// An empty prompt, or a request that can never fit the positions or the memory.
    pub fn submit(&mut self, job: Job) -> Result<u64, EngineError> {
        let (prompt, longest) = extent(&job);
        if prompt == 0 {
            return Err(EngineError::Request("the prompt has no tokens".into()));
        }
        if longest > self.model.positions() {
            return Err(EngineError::Request(format!(
                "{prompt} prompt tokens and up to {} more do not fit the model's {} positions; \
                 shorten the prompt or lower --max-new-tokens",
                longest - prompt,
                self.model.positions()
            )));
        }
        if longest.div_ceil(PAGE) > self.cache.pages() {
            let page = Cache::page_bytes(self.model.config());
            return Err(EngineError::Memory {
                what: format!("a sequence of {longest} tokens"),
                needed: (longest.div_ceil(PAGE) as u64 * page).div_ceil(1 << 20),
                budget: self.options.cache_bytes >> 20,
                lower: "--max-new-tokens",
            });
        }
        let key = self.next;
        self.next += 1;
        self.queue.push_back((key, job));
        Ok(key)
    }

    /// Forgets a request, waiting or running.
    pub fn cancel(&mut self, key: u64) {
        self.queue.retain(|(k, _)| *k != key);
        if let Some(i) = self.active.iter().position(|a| a.key == key) {
            let a = self.active.swap_remove(i);
            self.cache.release(a.sequence);
        }
    }

    /// Ends a running sample early, such as at a stop text, and returns what it has.
    pub fn finish(&mut self, key: u64) -> Option<Finished> {
        let i = self.active.iter().position(|a| a.key == key)?;
        let mut a = self.active.swap_remove(i);
        a.done.finish = Finish::Stop;
        Some(self.retire(a))
    }

    /// Whether nothing waits or runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.active.is_empty()
    }

    /// The ids sampled so far by a running request.
    #[must_use]
    pub fn so_far(&self, key: u64) -> Option<&[u32]> {
        self.active
            .iter()
            .find(|a| a.key == key)
            .map(|a| a.done.ids.as_slice())
    }

    /// One forward pass; returns what finished with it.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn step(&mut self) -> Result<Vec<(u64, Finished)>, EngineError> {
        on_pool(|| self.advance())
    }

    fn advance(&mut self) -> Result<Vec<(u64, Finished)>, EngineError> {
        self.admit();
        let mut room = self.options.max_rows;
        // Those that decode come first: one row each.
        self.active
            .sort_by_key(|a| (a.tokens.len() - a.sequence.len() > 1, a.key));
        let mut fed = Vec::new();
        let mut work = Vec::new();
        let mut expected = Vec::new();
        for (i, a) in self.active.iter_mut().enumerate() {
            let from = a.sequence.len();
            let left = a.tokens.len() - from;
            let take = left.min(room);
            if take == 0 {
                continue;
            }
            room -= take;
            // A wanted row may fall into an earlier chunk than the last.
            let wanted_from = (a.tokens.len() - a.want).max(from);
            let want = (from + take).saturating_sub(wanted_from);
            fed.push(i);
            expected.push(want);
            work.push(Work {
                sequence: &mut a.sequence,
                tokens: &a.tokens[from..from + take],
                want,
            });
        }
        let outputs = self.model.forward(&mut self.cache, &mut work)?;
        let width = self.model.outputs();
        let mut at = 0;
        let mut given = Vec::with_capacity(fed.len());
        let mut active = self.active.iter_mut().enumerate();
        for (i, want) in fed.into_iter().zip(expected) {
            let rows = &outputs[at..at + want * width];
            at += want * width;
            if let Some((_, a)) = active.find(|(n, _)| *n == i) {
                given.push((i, a, rows));
            }
        }
        // Each draws from its own stream: the order among them does not matter.
        let mut over: Vec<usize> = given
            .into_par_iter()
            .map_init(Vec::new, |scratch, (i, a, rows)| {
                let first = a.sequence.len() - rows.len() / width;
                for (r, logits) in rows.chunks_exact(width).enumerate() {
                    a.take(first + r, logits, scratch);
                }
                a.is_done().then_some(i)
            })
            .flatten()
            .collect();
        let mut finished = Vec::with_capacity(over.len());
        over.sort_unstable();
        for i in over.into_iter().rev() {
            let a = self.active.swap_remove(i);
            finished.push((a.key, self.retire(a)));
        }
        finished.sort_by_key(|(key, _)| *key);
        Ok(finished)
    }

    /// Runs jobs to the end, results in their order.
    ///
    /// # Errors
    /// As [`Scheduler::submit`] and [`Scheduler::step`].
    pub fn run(&mut self, jobs: Vec<Job>) -> Result<Vec<Finished>, EngineError> {
        let first = self.next;
        let mut results: Vec<Option<Finished>> = vec![None; jobs.len()];
        for job in jobs {
            self.submit(job)?;
        }
        while !self.is_idle() {
            for (key, done) in self.step()? {
                results[(key - first) as usize] = Some(done);
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    fn retire(&mut self, a: Active) -> Finished {
        // What begins like this prompt may come again: keep its full pages.
        if self.options.retained > 0 && a.sequence.len() >= PAGE {
            let computed = a.sequence.len().min(a.prompt);
            let known = self.retained.iter().any(|(t, _)| {
                t.len() >= computed / PAGE * PAGE
                    && t[..computed / PAGE * PAGE] == a.tokens[..computed / PAGE * PAGE]
            });
            if !known {
                let kept = self.cache.share(&a.sequence, computed);
                self.retained
                    .push_back((a.tokens[..kept.len()].to_vec(), kept));
                if self.retained.len() > self.options.retained {
                    self.forget();
                }
            }
        }
        self.cache.release(a.sequence);
        a.done
    }

    fn forget(&mut self) -> bool {
        match self.retained.pop_front() {
            Some((_, s)) => {
                self.cache.release(s);
                true
            }
            None => false,
        }
    }

    fn admit(&mut self) {
        let mut waiting = VecDeque::new();
        while self.active.len() < self.options.max_sequences {
            let Some((key, job)) = self.queue.pop_front() else {
                break;
            };
            match self.start(key, job) {
                Start::Running => {}
                Start::Later(job) => waiting.push_back((key, job)),
                Start::Full(job) => {
                    waiting.push_back((key, job));
                    break;
                }
            }
        }
        waiting.append(&mut self.queue);
        self.queue = waiting;
    }

    fn start(&mut self, key: u64, job: Job) -> Start {
        let (prompt, longest) = extent(&job);
        let (tokens, want, seed) = match &job {
            Job::Sample { prompt, seed, .. } => (prompt.clone(), 1, *seed),
            Job::Score {
                prompt,
                continuation,
                ..
            } => {
                let mut t = prompt.clone();
                t.extend(&continuation[..continuation.len().saturating_sub(1)]);
                (t, continuation.len().max(1), 0)
            }
        };
        // Everything before the first wanted row may come from another sequence.
        let usable = tokens.len() - want;
        let common = |other: &[u32]| {
            tokens[..usable]
                .iter()
                .zip(other)
                .take_while(|(a, b)| a == b)
                .count()
        };
        let mut best: (usize, Option<&Sequence>) = (0, None);
        let mut coming = 0;
        for (t, s) in self.retained.iter().map(|(t, s)| (t.as_slice(), s)).chain(
            self.active
                .iter()
                .map(|a| (a.tokens.as_slice(), &a.sequence)),
        ) {
            let same = common(t);
            coming = coming.max(same / PAGE);
            let now = same.min(s.len()) / PAGE;
            if now > best.0 {
                best = (now, Some(s));
            }
        }
        // Another sequence is about to compute a long part of this prompt: wait for it.
        if coming >= best.0 + 2 {
            return Start::Later(job);
        }
        let shared = best.1.cloned();
        let mut sequence = match shared {
            Some(s) => self.cache.share(&s, best.0 * PAGE),
            None => Sequence::default(),
        };
        let more = longest - sequence.len();
        while !self.cache.reserve(&mut sequence, more) {
            if !self.forget() {
                self.cache.release(sequence);
                return Start::Full(job);
            }
        }
        let done = Finished {
            ids: Vec::new(),
            logprobs: Vec::new(),
            first: Vec::new(),
            finish: Finish::Length,
            reused: sequence.len(),
        };
        self.active.push(Active {
            key,
            job,
            tokens,
            prompt,
            want,
            sequence,
            rng: Stream::new(seed),
            done,
        });
        Start::Running
    }
}

enum Start {
    Running,
    Later(Job),
    Full(Job),
}

/// Prompt tokens, and most tokens whose keys are ever held.
fn extent(job: &Job) -> (usize, usize) {
    match job {
        Job::Sample {
            prompt, sampling, ..
        } => (
            prompt.len(),
            prompt.len() + (sampling.max_new_tokens as usize).saturating_sub(1),
        ),
        Job::Score {
            prompt,
            continuation,
            ..
        } => (
            prompt.len(),
            prompt.len() + continuation.len().saturating_sub(1),
        ),
    }
}

impl Active {
    /// Takes the logits that follow the token at `position`.
    fn take(&mut self, position: usize, logits: &[f32], scratch: &mut Vec<f32>) {
        match &self.job {
            Job::Sample { sampling, eos, .. } => {
                if self.done.ids.len() >= sampling.max_new_tokens as usize {
                    return;
                }
                let (id, logprob) = draw(logits, sampling, &mut self.rng, scratch);
                self.done.ids.push(id);
                self.done.logprobs.push(logprob);
                if eos.contains(&id) {
                    self.done.finish = Finish::Stop;
                } else if self.done.ids.len() < sampling.max_new_tokens as usize {
                    self.tokens.push(id);
                }
            }
            Job::Score {
                continuation,
                first,
                ..
            } => {
                let total = log_sum_exp(logits, scratch);
                let at = |id: &u32| {
                    logits
                        .get(*id as usize)
                        .map_or(f32::NEG_INFINITY, |l| l - total)
                };
                let i = position + 1 - self.prompt;
                if i == 0 {
                    self.done.first = first.iter().map(at).collect();
                }
                if let Some(id) = continuation.get(i) {
                    self.done.ids.push(*id);
                    self.done.logprobs.push(at(id));
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        match &self.job {
            Job::Sample { sampling, .. } => {
                self.done.finish == Finish::Stop
                    || self.done.ids.len() >= sampling.max_new_tokens as usize
            }
            Job::Score { .. } => self.sequence.len() == self.tokens.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(bytes: u64) -> Scheduler {
        let mut c = LlamaConfig::new(97, 48, 80, 2, 6, 2);
        c.max_positions = 256;
        let w = Arc::new(Weights::random(&c, 0.3, 9));
        Scheduler::of(
            &c,
            &w,
            256,
            Options {
                cache_bytes: bytes,
                max_rows: 64,
                ..Options::default()
            },
        )
    }

    fn job(i: usize) -> Job {
        Job::Sample {
            prompt: (0..40 + i % 23)
                .map(|t| ((t * 5 + (t / 36) * i) % 97) as u32)
                .collect(),
            sampling: Sampling {
                max_new_tokens: 5 + (i % 30) as u32,
                ..Sampling::default()
            },
            seed: i as u64,
            eos: Arc::from([96u32, 95]),
        }
    }

    /// The same answers alone and in company, in little memory and in much; and the logprobs of
    /// what was sampled are those of a fresh pass.
    #[test]
    fn company_and_memory_change_no_answer() {
        let page = 2 * 2 * 8 * 16 * 2 * 4;
        let jobs: Vec<Job> = (0..40).map(job).collect();
        let together = setup(1 << 26).run(jobs.clone()).unwrap();
        let tight = setup(page * 12).run(jobs.clone()).unwrap();
        for (i, (a, b)) in together.iter().zip(&tight).enumerate() {
            assert_eq!(
                (&a.ids, &a.logprobs, a.finish),
                (&b.ids, &b.logprobs, b.finish),
                "{i}"
            );
            let alone = setup(1 << 26).run(vec![jobs[i].clone()]).unwrap();
            assert_eq!(
                (&a.ids, &a.logprobs),
                (&alone[0].ids, &alone[0].logprobs),
                "{i}"
            );
            let Job::Sample { prompt, .. } = &jobs[i] else {
                unreachable!()
            };
            let score = Job::Score {
                prompt: prompt.clone(),
                continuation: a.ids.clone(),
                first: vec![a.ids[0]],
            };
            let fresh = setup(1 << 26).run(vec![score]).unwrap();
            assert_eq!(fresh[0].logprobs.len(), a.ids.len());
            for (x, y) in fresh[0].logprobs.iter().zip(&a.logprobs) {
                assert!((x - y).abs() < 1e-4, "{x} {y}");
            }
            assert_eq!(fresh[0].first[0], fresh[0].logprobs[0]);
        }
        assert!(
            together.iter().any(|f| f.reused >= 32),
            "prefixes are shared"
        );
        assert!(together.iter().any(|f| f.finish == Finish::Stop));
    }

    #[test]
    fn what_can_never_fit_is_refused_with_figures() {
        let mut s = setup(3 * 4096);
        let e = s.submit(job(22)).unwrap_err().to_string();
        assert!(e.contains("memory budget"), "{e}");
        let long = Job::Score {
            prompt: vec![1; 300],
            continuation: vec![],
            first: vec![],
        };
        let e = setup(1 << 26).submit(long).unwrap_err().to_string();
        assert!(e.contains("256 positions"), "{e}");
    }
}
