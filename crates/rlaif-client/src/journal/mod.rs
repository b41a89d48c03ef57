//! The journal: every call of a run, kept so that none is paid for twice.
//!
//! A SQLite file in WAL mode. One thread writes ([`store`]); what arrives while it commits goes
//! into the next commit. An *intent* is committed before a call leaves, and replaced by the answer
//! when that is committed. An intent that a process left behind is a call whose answer was lost:
//! it counts with its upper bound, as *unsettled*.
//!
//! A process that is killed loses nothing that was committed, since the system has it; the log is
//! forced to the disk once a second, which is what a power cut can take.

mod bodies;
mod read;
mod seen;
mod store;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rlaif_core::{BoxFuture, ModelError};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::call::{Answer, Call, Calls, Failure, FailureKind, Key};
use crate::config::Price;
use crate::meter::{Meter, lock};
use crate::wire::Api;

pub(crate) use read::OpenBatch;
pub use read::{Account, Entry, Filter, JournalReader, State};
use seen::Seen;
use store::{Attempt, Message, Settled};

/// What can be wrong with a journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process writes it.
    #[error("the journal `{path}` is in use by another process")]
    Locked {
        /// Which file.
        path: PathBuf,
    },
    /// It is no journal, or is damaged.
    #[error("the journal `{path}` cannot be used: {problem}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A newer version wrote it.
    #[error(
        "the journal `{path}` has format {found}, and this version reads up to {known}: a newer \
         rlaif wrote it"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that is known here.
        known: i64,
    },
    /// The file system.
    #[error("cannot {action} the journal `{path}`: {problem}")]
    Io {
        /// `open`, `write` …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's or SQLite's reason.
        problem: String,
        /// No space is left on the disk.
        full: bool,
    },
}

impl JournalError {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            JournalError::Locked { .. } => {
                "wait for the other process to end, or give this one another folder"
            }
            JournalError::Damaged { .. } => {
                "move the file away to go on without it: finished rows are kept in their own log"
            }
            JournalError::Newer { .. } => "use the newer rlaif, or another folder",
            JournalError::Io { full: true, .. } => {
                "free some space and give the same command again: what is finished is kept"
            }
            JournalError::Io { .. } => "check the path, its permissions and the space left",
        }
    }

    pub(crate) fn sqlite(action: &'static str, path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        let problem = error.to_string();
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                JournalError::Damaged { path, problem }
            }
            code => JournalError::Io {
                action,
                path,
                problem,
                full: code == Some(rusqlite::ErrorCode::DiskFull),
            },
        }
    }
}

/// An open journal: this process alone writes it, until it is dropped.
pub struct Journal {
    path: PathBuf,
    sender: Option<Sender<Message>>,
    threads: Vec<JoinHandle<()>>,
    reader: Mutex<Connection>,
    bodies: bodies::Reader,
    /// Calls that have an answer here.
    seen: Seen,
    _lock: File,
}

impl Journal {
    /// Opens or creates a journal. Intents that an earlier process left behind become calls whose
    /// answer was lost.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: &Path) -> Result<Arc<Self>, JournalError> {
        let io = |action| {
            move |e: std::io::Error| JournalError::Io {
                action,
                path: path.to_path_buf(),
                full: e.kind() == std::io::ErrorKind::StorageFull,
                problem: e.to_string(),
            }
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io("open"))?;
        }
        // A file of its own: closing a second handle of the database would drop SQLite's locks.
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(beside(path, "-lock"))
            .map_err(io("open"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(JournalError::Locked {
                    path: path.to_path_buf(),
                });
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(io("lock")(e)),
        }
        let writer = store::create(path)?;
        let reader = read::connect(path)?;
        let mut entries = Vec::new();
        read::keys(&reader, |key, id| entries.push(seen::entry(key, id)))
            .map_err(|e| JournalError::sqlite("read", path, &e))?;
        let seen = Seen::of(entries);
        let keeper = read::connect_to_write(path)?;
        let (sender, receiver) = channel();
        let at = path.to_path_buf();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map_err(io("open"))
        };
        let (done, stopped) = channel();
        let threads = vec![
            spawn(
                "journal",
                Box::new(move || {
                    store::write(writer, &at, &receiver);
                    drop(done);
                }),
            )?,
            {
                let wal = beside(path, "-wal");
                spawn(
                    "journal-disk",
                    Box::new(move || store::keep_on_disk(&keeper, &wal, &stopped)),
                )?
            },
        ];
        Ok(Arc::new(Journal {
            path: path.to_path_buf(),
            sender: Some(sender),
            threads,
            reader: Mutex::new(reader),
            bodies: bodies::Reader::default(),
            seen,
            _lock: lock,
        }))
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What all runs that wrote it were charged, as far as known.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn account(&self) -> Result<Account, JournalError> {
        read::account(&lock(&self.reader), &Filter::default())
            .map_err(|e| JournalError::sqlite("read", &self.path, &e))
    }

    /// Removes a journal that is needed no more, with the files beside it.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn remove(path: &Path) -> Result<(), JournalError> {
        for ending in ["", "-wal", "-shm", "-lock"] {
            let file = beside(path, ending);
            match std::fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(JournalError::Io {
                        action: "remove",
                        path: file,
                        problem: e.to_string(),
                        full: false,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn send(&self, message: Message) {
        if let Some(sender) = &self.sender {
            // The writer ends only when the sender is dropped.
            let _ = sender.send(message);
        }
    }

    /// Sends a message that is answered when it is committed.
    async fn commit(
        &self,
        message: impl FnOnce(store::Done) -> Message,
    ) -> Result<i64, ModelError> {
        let (done, committed) = oneshot::channel();
        self.send(message(done));
        match committed.await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(ModelError::Broken {
                message: format!("the journal `{}` was closed", self.path.display()),
            }),
        }
    }

    /// Batches that were submitted and not collected yet.
    pub(crate) fn batches(&self, model: &str) -> Vec<OpenBatch> {
        read::batches(&lock(&self.reader), model).unwrap_or_default()
    }

    /// Keeps a batch, by its token, before it is submitted.
    pub(crate) async fn batch_begins(
        &self,
        model: Arc<str>,
        token: String,
        keys: Vec<Key>,
    ) -> Result<(), ModelError> {
        self.commit(|done| Message::BatchBegins {
            model,
            token,
            keys,
            done,
        })
        .await
        .map(|_| ())
    }

    /// Keeps the name that the provider gave it.
    pub(crate) async fn batch_named(&self, token: String, name: String) -> Result<(), ModelError> {
        self.commit(|done| Message::BatchNamed { token, name, done })
            .await
            .map(|_| ())
    }

    /// Forgets a batch whose answers are all kept, or that was never made.
    pub(crate) fn batch_ended(&self, token: String) {
        self.send(Message::BatchEnded { token });
    }

    /// What was learned of a model's dialect by an earlier process, as JSON.
    pub(crate) fn dialect(&self, model: &str) -> Option<String> {
        read::dialect(&lock(&self.reader), model).ok().flatten()
    }

    /// Keeps what was learned.
    pub(crate) fn learned(&self, model: &str, dialect: String) {
        self.send(Message::Dialect {
            model: model.to_owned(),
            dialect,
        });
    }
}

/// A journal's error as a model's: nothing more can be asked then.
fn broken(error: &JournalError) -> ModelError {
    ModelError::Broken {
        message: format!("{error}; {}", error.advice()),
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.sender = None;
        // The connection that is closed last folds the log in and removes it, which one that only reads
        // cannot do.
        let reader = self
            .reader
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Ok(nothing) = Connection::open_in_memory() {
            *reader = nothing;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

pub(crate) fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// The layer that remembers.
pub(crate) struct Journalled {
    pub(crate) inner: Box<dyn Calls>,
    pub(crate) journal: Arc<Journal>,
    /// The model's name as the journal shows it.
    pub(crate) model: Arc<str>,
    pub(crate) api: Api,
    pub(crate) price: Option<Price>,
    pub(crate) meter: Arc<Meter>,
    /// Calls gather for a batch below.
    pub(crate) gathers: bool,
}

/// An intent under way. Dropped without a word (a call given up), its answer counts as lost.
struct Intent<'a> {
    journal: &'a Journal,
    id: i64,
}

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        self.journal.send(Message::Lost { intent: self.id });
    }
}

impl Journalled {
    fn attempt_of(&self, call: &Call) -> Attempt {
        let bound = call.bound();
        Attempt {
            key: call.key,
            model: Arc::clone(&self.model),
            item: call.item.clone(),
            bound,
            usd_bound: self
                .price
                .map(|p| p.usd(bound.prompt_tokens, bound.completion_tokens)),
        }
    }

    async fn journalled(&self, call: &Call) -> Result<Answer, Failure> {
        let attempt = self.attempt_of(call);
        let id = self
            .journal
            .commit(|done| Message::Intent {
                attempt: match self.gathers {
                    true => attempt.clone().gathered(),
                    false => attempt.clone(),
                },
                done,
            })
            .await
            .map_err(Failure::last)?;
        let intent = Intent {
            journal: &self.journal,
            id,
        };
        let begun = Instant::now();
        let result = self.inner.attempt(call).await;
        let took_ms = begun.elapsed().as_millis() as i64;
        match &result {
            Ok(answer) => {
                let settled = Settled {
                    intent: id,
                    took_ms,
                    prompt_tokens: answer.reply.prompt_tokens,
                    completion_tokens: answer.reply.completion_tokens,
                    usd: answer.usd,
                    counted: answer.reply.counted,
                    lost: answer.lost.join(","),
                    adopted: answer.adopted,
                    request: answer.request.clone(),
                    response: answer.response.clone(),
                    attempt,
                };
                let committed = self.journal.commit(|done| Message::Answered {
                    settled: Box::new(settled),
                    done,
                });
                let row = committed.await.map_err(Failure::last)?;
                self.journal.seen.add(call.key, row);
                std::mem::forget(intent);
            }
            // It never left: nothing happened that would be worth a line.
            Err(failure) if matches!(failure.kind, FailureKind::Final(ModelError::Stopped)) => {
                self.journal.send(Message::Withdrawn { intent: id });
                std::mem::forget(intent);
            }
            Err(failure) => {
                self.journal.send(Message::Failed {
                    intent: id,
                    attempt,
                    took_ms,
                    error: failure.message.clone(),
                    may_be_charged: failure.may_be_charged,
                });
                if failure.may_be_charged
                    && let Some(price) = self.price
                {
                    let bound = call.bound();
                    let usd = price.usd(bound.prompt_tokens, bound.completion_tokens);
                    self.meter
                        .count(|s| *s.usd_unsettled.get_or_insert(0.0) += usd);
                }
                std::mem::forget(intent);
            }
        }
        result
    }
}

impl Calls for Journalled {
    fn recall(&self, call: &Call) -> Result<Option<Answer>, Failure> {
        let rows = self.journal.seen.rows(call.key);
        if rows.is_empty() {
            return Ok(None);
        }
        let found = {
            let connection = lock(&self.journal.reader);
            let held = |id| read::answer(&connection, &self.journal.bodies, (call.key, id));
            rows.into_iter()
                .find_map(|id| held(id).transpose())
                .transpose()
        };
        let found = found.map_err(|e| {
            Failure::last(broken(&JournalError::sqlite(
                "read",
                &self.journal.path,
                &e,
            )))
        })?;
        let Some(found) = found else {
            return Ok(None);
        };
        // What was kept had been read once; a version that cannot read it any more asks again.
        let Ok(mut reply) = self.api.parse(&String::from_utf8_lossy(&found.response)) else {
            return Ok(None);
        };
        reply.prompt_tokens = found.prompt_tokens;
        reply.completion_tokens = found.completion_tokens;
        self.meter.count(|s| s.recalled += 1);
        Ok(Some(Answer {
            reply,
            request: call.body.clone(),
            response: found.response.into(),
            lost: found
                .lost
                .split(',')
                .filter(|f| !f.is_empty())
                .map(str::to_owned)
                .collect(),
            usd: found.usd,
            recalled: true,
            adopted: false,
        }))
    }

    fn attempt<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.journalled(call))
    }
}
