//! Batch interfaces, as another way to make the same calls: half the price, up to a day's wait.
//!
//! The layer stands in the pool's place. Calls gather at a desk until none has come for a while,
//! and leave together; the desk asks how the batch stands and hands each call its answer. What is in
//! a batch is on record in the journal before it is submitted, so that a later process finds the
//! batch again and pays for nothing twice. The first call goes directly, at the full price: a wrong
//! key, model or field is known in a second then, and not in a day.

mod service;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rlaif_core::{BoxFuture, ModelError, seed};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::call::{Answer, Call, Calls, Failure, FailureKind, Key};
use crate::config::{ClientError, EndpointConfig, Secret};
use crate::journal::{OpenBatch, unix_ms};
use crate::line::{Shared, client, may_pass, words};
use crate::meter::{Counted, lock};
use crate::pool::Pool;
use service::{Line, MOST_BYTES, MOST_REQUESTS, Service, Status};

/// Time without a new call after which those that wait are submitted.
const QUIET: Duration = Duration::from_secs(2);
/// Longest wait for an answer: providers end a batch after a day.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30 * 3600);
/// Rows that are kept in flight, so that batches are full.
pub(crate) const WIDTH: usize = MOST_REQUESTS;
/// Share of the list price.
pub(crate) const DISCOUNT: f64 = 0.5;

/// What the desk hands to a call.
struct Delivered {
    line: Line,
    adopted: bool,
}

/// A call that waits for its answer.
struct Waiting {
    key: Key,
    body: Bytes,
    answer: oneshot::Sender<Result<Delivered, Failure>>,
}

/// The layer.
pub(crate) struct Batches {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    service: Arc<Service>,
    poll: Duration,
    /// Whether a call has been answered directly, or batches of an earlier process wait.
    scouted: tokio::sync::Mutex<bool>,
    /// Those batches, until the desk takes them up.
    earlier: Mutex<Vec<OpenBatch>>,
    desk: OnceLock<mpsc::UnboundedSender<Waiting>>,
    waiting: Arc<AtomicUsize>,
}

impl Batches {
    pub(crate) fn open(
        config: &EndpointConfig,
        key: Option<&Secret>,
        pool: Arc<Pool>,
        shared: Arc<Shared>,
    ) -> Result<Self, ClientError> {
        let earlier = match &shared.journal {
            Some(journal) => journal.batches(&shared.name),
            None => Vec::new(),
        };
        Ok(Batches {
            service: Arc::new(Service {
                http: client(config, &config.url, key)?,
                url: config.url.clone(),
                api: shared.api,
                key: key.cloned(),
            }),
            pool,
            shared,
            poll: Duration::from_secs_f64(config.batch_poll_secs),
            scouted: tokio::sync::Mutex::new(!earlier.is_empty()),
            earlier: Mutex::new(earlier),
            desk: OnceLock::new(),
            waiting: Arc::default(),
        })
    }

    /// Calls that wait for a batch.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The first call directly; `None` for all others.
    async fn scout(&self, call: &Call) -> Option<Result<Answer, Failure>> {
        let mut scouted = self.scouted.lock().await;
        if *scouted {
            return None;
        }
        let mut result = self.pool.attempt(call).await;
        if let Ok(answer) = &mut result {
            *scouted = true;
            answer.usd = answer.usd.map(|usd| usd / DISCOUNT);
        }
        Some(result)
    }

    fn desk(&self) -> &mpsc::UnboundedSender<Waiting> {
        self.desk.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let desk = Desk {
                service: Arc::clone(&self.service),
                shared: Arc::clone(&self.shared),
                poll: self.poll,
                pending: Vec::new(),
                open: Vec::new(),
                asked: HashMap::new(),
                ready: HashMap::new(),
                receiver,
            };
            let earlier = std::mem::take(&mut *lock(&self.earlier));
            tokio::spawn(desk.run(earlier));
            sender
        })
    }

    async fn through(&self, call: &Call) -> Result<Answer, Failure> {
        if let Some(result) = self.scout(call).await {
            return result;
        }
        let encoded = self.shared.encode(call)?;
        let (answer, delivered) = oneshot::channel();
        let sent = self.desk().send(Waiting {
            key: call.key,
            body: encoded.body.clone(),
            answer,
        });
        let closed = || Failure::passing("the desk for batches is closed");
        sent.map_err(|_| closed())?;
        let _here = Counted::one(&self.waiting);
        // What is in a batch is on record, and a later process collects it.
        let Some(delivered) = self.pool.halt.unless(delivered).await else {
            return Err(Failure::last(ModelError::Stopped));
        };
        let Delivered { line, adopted } = delivered.map_err(|_| closed())??;
        let text = || String::from_utf8_lossy(&line.body).into_owned();
        match line.status {
            200..300 => {
                let read = self
                    .shared
                    .read(call, encoded.body, line.body, encoded.lost);
                read.map(|answer| Answer { adopted, ..answer })
            }
            status if may_pass(status) => {
                self.shared.meter.failure(&format!("status {status}"));
                Err(Failure::passing(format!(
                    "status {status} in the batch: {}",
                    words(&text())
                )))
            }
            status => {
                let refused =
                    self.shared
                        .refused(&self.service.url, status, &text(), call, &encoded);
                Err(refused.unwrap_or_else(|| {
                    Failure::passing("a field was refused, which the next batch leaves out")
                }))
            }
        }
    }
}

impl Calls for Batches {
    fn attempt<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.through(call))
    }
}

/// A batch under way.
struct Open {
    token: String,
    name: String,
    keys: Vec<Key>,
    /// An earlier process submitted it.
    adopted: bool,
    ask_at: Instant,
}

/// Gathers calls, submits them, and hands out what comes back.
struct Desk {
    service: Arc<Service>,
    shared: Arc<Shared>,
    poll: Duration,
    /// Not submitted yet.
    pending: Vec<Waiting>,
    open: Vec<Open>,
    /// In an open batch.
    asked: HashMap<Key, Vec<Waiting>>,
    /// Answers that nobody has asked for yet.
    ready: HashMap<Key, Delivered>,
    receiver: mpsc::UnboundedReceiver<Waiting>,
}

impl Desk {
    async fn run(mut self, earlier: Vec<OpenBatch>) {
        self.take_up(earlier).await;
        let mut quiet_at = Instant::now() + QUIET;
        loop {
            let next_ask = self.open.iter().map(|o| o.ask_at).min();
            let wake = [next_ask, (!self.pending.is_empty()).then_some(quiet_at)]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                came = self.receiver.recv() => {
                    // The endpoint is gone, and with it all who wait.
                    let Some(waiting) = came else { return };
                    self.take(waiting);
                    quiet_at = Instant::now() + QUIET;
                }
                () = async {
                    match wake {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
            let now = Instant::now();
            let bytes: usize = self.pending.iter().map(|w| w.body.len() + 128).sum();
            let is_full = self.pending.len() >= MOST_REQUESTS || bytes >= MOST_BYTES;
            if is_full || (!self.pending.is_empty() && now >= quiet_at) {
                self.submit().await;
            }
            self.ask(now).await;
        }
    }

    /// A call finds its answer, its batch, or a place in the next one.
    fn take(&mut self, waiting: Waiting) {
        if let Some(delivered) = self.ready.remove(&waiting.key) {
            let _ = waiting.answer.send(Ok(delivered));
            return;
        }
        match self.asked.get_mut(&waiting.key) {
            Some(list) => list.push(waiting),
            None => self.pending.push(waiting),
        }
    }

    /// Batches that an earlier process left at the provider.
    async fn take_up(&mut self, earlier: Vec<OpenBatch>) {
        for batch in earlier {
            let name = match batch.name {
                Some(name) => Some(name),
                None => {
                    let found = self.service.find(&batch.token, batch.keys.len()).await;
                    match found {
                        Ok(found) => found,
                        Err(failure) => {
                            self.shared.say(&format!(
                                "a batch may be under way that cannot be found now ({}); its {} \
                                 calls are asked again",
                                failure.message,
                                batch.keys.len()
                            ));
                            None
                        }
                    }
                }
            };
            let Some(name) = name else {
                self.forget(batch.token);
                continue;
            };
            self.shared.say(&format!(
                "batch `{name}` of an earlier run is taken up, {} calls",
                batch.keys.len()
            ));
            for key in &batch.keys {
                self.asked.entry(*key).or_default();
            }
            self.open.push(Open {
                token: batch.token,
                name,
                keys: batch.keys,
                adopted: true,
                ask_at: Instant::now(),
            });
        }
    }

    async fn submit(&mut self) {
        // Nobody waits any more for a call that was given up.
        self.pending.retain(|waiting| !waiting.answer.is_closed());
        let mut together = Vec::new();
        let mut bytes = 0;
        while let Some(waiting) = self.pending.pop() {
            bytes += waiting.body.len() + 128;
            if !together.is_empty() && (together.len() >= MOST_REQUESTS || bytes > MOST_BYTES) {
                self.pending.push(waiting);
                break;
            }
            together.push(waiting);
        }
        let mut by_key: HashMap<Key, Vec<Waiting>> = HashMap::new();
        let mut requests = Vec::new();
        for waiting in together {
            let list = by_key.entry(waiting.key).or_default();
            if list.is_empty() {
                requests.push((waiting.key, waiting.body.clone()));
            }
            list.push(waiting);
        }
        if requests.is_empty() {
            return;
        }
        let keys: Vec<Key> = requests.iter().map(|(key, _)| *key).collect();
        let first = keys.first().map(|k| k.hex()).unwrap_or_default();
        let token = format!("{:016x}", seed::derive(unix_ms() as u64, &[&first]));
        match self.make(&token, &requests, &keys).await {
            Ok(name) => {
                self.shared.say(&format!(
                    "batch `{name}` submitted, {} calls; an answer may take up to a day. Ctrl-C \
                     leaves it at the provider, and the same command collects it",
                    keys.len()
                ));
                self.asked.extend(by_key);
                self.open.push(Open {
                    token,
                    name,
                    keys,
                    adopted: false,
                    ask_at: Instant::now() + self.poll,
                });
            }
            Err(failure) => {
                for waiting in by_key.into_values().flatten() {
                    let _ = waiting.answer.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Submits, on record before and after.
    async fn make(
        &self,
        token: &str,
        requests: &[(Key, Bytes)],
        keys: &[Key],
    ) -> Result<String, Failure> {
        let kept = |e: ModelError| Failure::last(e);
        let journal = self.shared.journal.as_ref();
        if let Some(journal) = journal {
            let model = Arc::clone(&self.shared.name);
            journal
                .batch_begins(model, token.to_owned(), keys.to_vec())
                .await
                .map_err(kept)?;
        }
        let made = self.service.submit(token, requests).await;
        let Some(journal) = journal else {
            return made;
        };
        match &made {
            Ok(name) => journal
                .batch_named(token.to_owned(), name.clone())
                .await
                .map_err(kept)?,
            // A refusal made nothing. After a broken connection a batch may be there all the same:
            // it stays on record, and a later process looks for it.
            Err(failure) if matches!(failure.kind, FailureKind::Final(_)) => {
                journal.batch_ended(token.to_owned());
            }
            Err(_) => {}
        }
        made
    }

    /// Asks after every batch whose time has come.
    async fn ask(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|o| o.ask_at <= now);
        self.open = later;
        for mut open in due {
            let status = self.service.status(&open.name).await;
            let ended = match status {
                Ok(Status::Ended) => self.service.results(&open.name).await,
                Ok(Status::Gone(why)) => {
                    self.shared.say(&format!(
                        "batch `{}`: {why}; its calls are asked again",
                        open.name
                    ));
                    self.forget(open.token);
                    self.release(&open.keys);
                    continue;
                }
                Ok(Status::Running { done, all }) => {
                    self.shared
                        .say(&format!("batch `{}`: {done} of {all} calls", open.name));
                    open.ask_at = Instant::now() + self.poll;
                    self.open.push(open);
                    continue;
                }
                Err(failure) => Err(failure),
            };
            match ended {
                Ok(lines) => self.deliver(&open, lines),
                Err(failure) => {
                    // Whatever it is, the batch is at the provider: it is asked for again until the
                    // calls' own deadline.
                    self.shared.say(&failure.message);
                    open.ask_at = Instant::now() + self.poll;
                    self.open.push(open);
                }
            }
        }
    }

    fn deliver(&mut self, open: &Open, lines: Vec<Line>) {
        let mut by_id: HashMap<String, Line> =
            lines.into_iter().map(|l| (l.id.clone(), l)).collect();
        for key in &open.keys {
            let id = key.hex();
            let line = by_id.remove(&id).unwrap_or(Line {
                id,
                status: 408,
                body: Bytes::from_static(b"the batch ended without an answer to this call"),
            });
            let waiting = self.asked.remove(key).unwrap_or_default();
            if waiting.is_empty() {
                let adopted = open.adopted;
                self.ready.insert(*key, Delivered { line, adopted });
                continue;
            }
            for one in waiting {
                let _ = one.answer.send(Ok(Delivered {
                    line: line.clone(),
                    adopted: open.adopted,
                }));
            }
        }
    }

    /// A batch that is not, or is no more, at the provider.
    fn forget(&self, token: String) {
        if let Some(journal) = &self.shared.journal {
            journal.batch_ended(token);
        }
    }

    /// Those who wait for these calls go into the next batch.
    fn release(&mut self, keys: &[Key]) {
        for key in keys {
            self.pending
                .extend(self.asked.remove(key).unwrap_or_default());
        }
    }
}
