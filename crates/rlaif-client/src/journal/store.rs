//! The writing side: the tables, the one thread that changes them, and the one that forces them
//! to the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rlaif_core::ItemId;
use rusqlite::{Connection, OpenFlags, Transaction, params};
use tokio::sync::oneshot;

use super::bodies::Writer;
use super::{JournalError, unix_ms};
use crate::call::{Bound, Key};

/// Layout of the tables; a newer one is refused.
pub(super) const FORMAT: i64 = 2;
/// "RLAF", so that another program's database is not taken for a journal.
const APPLICATION: i64 = 0x524c_4146;
/// Messages in one commit, at most.
const BATCH: usize = 4096;
/// From one commit to the next, at least: what arrives meanwhile shares the next one. A lone caller does
/// not come to wait, and of many callers each waits for less than its answer takes.
const BETWEEN: Duration = Duration::from_millis(1);
/// Bytes of the write-ahead log at which it is folded into the file.
const FOLD_AT: u64 = 32 * 1024 * 1024;
/// Bytes at which writers wait for the folding, so that the log does not grow without end.
const WAIT_AT: u64 = 256 * 1024 * 1024;

const TABLES: &str = "
CREATE TABLE models(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, dialect TEXT);
CREATE TABLE dictionaries(id INTEGER PRIMARY KEY, stage TEXT NOT NULL, bytes BLOB NOT NULL);
-- A request that is about to leave, or has left. Replaced by a row of `calls`.
CREATE TABLE intents(
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, model INTEGER NOT NULL, stage TEXT NOT NULL,
  row TEXT NOT NULL, draw INTEGER NOT NULL, at INTEGER NOT NULL,
  prompt_bound INTEGER NOT NULL, completion_bound INTEGER NOT NULL, usd_bound REAL);
-- state: 0 answered, 1 failed. charge: 0 nothing, 1 as counted by the server, 2 at most as given.
CREATE TABLE calls(
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, model INTEGER NOT NULL, stage TEXT NOT NULL,
  row TEXT NOT NULL, draw INTEGER NOT NULL, at INTEGER NOT NULL, took_ms INTEGER NOT NULL,
  state INTEGER NOT NULL, charge INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, usd REAL, lost TEXT, error TEXT,
  dictionary INTEGER NOT NULL, request BLOB, response BLOB);
";

/// The key of each row of `calls` that holds an answer, written in order (see [`super::Seen`]); and the
/// few calls of which it is not known whether they were charged.
const KEYS: &str = "
CREATE TABLE keys(id INTEGER PRIMARY KEY, key BLOB NOT NULL);
CREATE INDEX calls_lost ON calls(key) WHERE state = 1 AND charge = 2;
";

/// From the first format, which had an index over all keys.
const FROM_1: &str = "
INSERT INTO keys SELECT id, key FROM calls WHERE state = 0 ORDER BY id;
DROP INDEX calls_key;
";

/// Batches under way at the provider; journals of before have none. `name` is the provider's, absent
/// where the process ended between submitting and hearing of it.
const BATCHES: &str = "
CREATE TABLE IF NOT EXISTS batches(
  token TEXT PRIMARY KEY, model INTEGER NOT NULL, at INTEGER NOT NULL, name TEXT);
CREATE TABLE IF NOT EXISTS batched(token TEXT NOT NULL, key BLOB NOT NULL);
";

/// What every attempt is known by.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) key: Key,
    pub(super) model: Arc<str>,
    pub(super) item: ItemId,
    pub(super) bound: Bound,
    pub(super) usd_bound: Option<f64>,
}

/// An answer to keep.
pub(super) struct Settled {
    pub(super) intent: i64,
    pub(super) attempt: Attempt,
    pub(super) took_ms: i64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) usd: Option<f64>,
    pub(super) counted: bool,
    pub(super) lost: String,
    /// An earlier process asked for it, and its attempt is on record as lost.
    pub(super) adopted: bool,
    pub(super) request: Bytes,
    pub(super) response: Bytes,
}

/// Told when a message is committed, with the row's id.
pub(super) type Done = oneshot::Sender<Result<i64, Arc<JournalError>>>;

pub(super) enum Message {
    Intent {
        attempt: Attempt,
        done: Done,
    },
    Answered {
        settled: Box<Settled>,
        done: Done,
    },
    Failed {
        intent: i64,
        attempt: Attempt,
        took_ms: i64,
        error: String,
        may_be_charged: bool,
    },
    Lost {
        intent: i64,
    },
    /// The call did not leave.
    Withdrawn {
        intent: i64,
    },
    Dialect {
        model: String,
        dialect: String,
    },
    BatchBegins {
        model: Arc<str>,
        token: String,
        keys: Vec<Key>,
        done: Done,
    },
    BatchNamed {
        token: String,
        name: String,
        done: Done,
    },
    BatchEnded {
        token: String,
    },
}

/// Opens or creates the tables, for the writing thread.
pub(super) fn create(path: &Path) -> Result<Connection, JournalError> {
    let fault = |e: rusqlite::Error| JournalError::sqlite("open", path, &e);
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(fault)?;
    let pragma = |name: &str| -> rusqlite::Result<i64> {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    let format = pragma("user_version").map_err(fault)?;
    let application = pragma("application_id").map_err(fault)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(fault)?;
    if tables > 0 && application != APPLICATION {
        return Err(JournalError::Damaged {
            path: path.to_path_buf(),
            problem: "it is another program's database".into(),
        });
    }
    if format > FORMAT {
        return Err(JournalError::Newer {
            path: path.to_path_buf(),
            found: format,
            known: FORMAT,
        });
    }
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 33554432;
             PRAGMA busy_timeout = 60000;",
        )
        .map_err(fault)?;
    if tables == 0 {
        connection
            .execute_batch(&format!(
                "BEGIN; {TABLES} {KEYS} PRAGMA application_id = {APPLICATION};
                 PRAGMA user_version = {FORMAT}; COMMIT;"
            ))
            .map_err(fault)?;
    }
    if tables > 0 && format == 1 {
        connection
            .execute_batch(&format!(
                "BEGIN; {KEYS} {FROM_1} PRAGMA user_version = {FORMAT}; COMMIT;"
            ))
            .map_err(fault)?;
    }
    connection.execute_batch(BATCHES).map_err(fault)?;
    // What an earlier process left in flight: answered or not, nobody knows.
    let tx = connection.unchecked_transaction().map_err(fault)?;
    tx.execute(LOSE_INTENTS, [KILLED])
        .and_then(|_| tx.execute("DELETE FROM intents", []))
        .map_err(fault)?;
    tx.commit().map_err(fault)?;
    // A batch is done with when the answers to all its calls are kept.
    connection
        .execute_batch(
            "DELETE FROM batched WHERE key IN (SELECT key FROM keys);
             DELETE FROM batches WHERE token NOT IN (SELECT token FROM batched);",
        )
        .map_err(fault)?;
    // What waits in a batch is not lost: it is charged when it is collected.
    connection
        .execute(
            &format!("{UNCHARGED} AND key IN (SELECT key FROM batched)"),
            [],
        )
        .map_err(fault)?;
    Ok(connection)
}

/// Takes the charge off attempts that were on record as lost.
const UNCHARGED: &str = "UPDATE calls SET charge = 0, prompt_tokens = 0, completion_tokens = 0, \
     usd = NULL WHERE state = 1 AND charge = 2";

/// Turns intents without an answer into failed calls, for a reason. Each may be charged all of its
/// bound, or nothing where it waited for a batch (see [`Attempt::gathered`]).
const LOSE_INTENTS: &str = "
INSERT INTO calls(key, model, stage, row, draw, at, took_ms, state, charge,
  prompt_tokens, completion_tokens, usd, error, dictionary)
SELECT key, model, stage, row, draw, at, 0, 1, CASE WHEN prompt_bound > 0 THEN 2 ELSE 0 END,
  prompt_bound, completion_bound, usd_bound, ?1, 0 FROM intents";

/// Why an intent of an ended process counts as failed.
const KILLED: &str = "the process ended before the answer was kept";
/// Why an intent of this process does.
const GIVEN_UP: &str = "the call was given up before its answer came";

/// Writes until all senders are gone. A commit that fails is told to all who wait for it, and the
/// next one is tried.
pub(super) fn write(mut connection: Connection, path: &Path, receiver: &Receiver<Message>) {
    let mut writer = Writing {
        models: Vec::new(),
        next_intent: 1,
    };
    let mut bodies = match Writer::new(&connection) {
        Ok(bodies) => bodies,
        Err(e) => {
            let error = Arc::new(JournalError::sqlite("read", path, &e));
            for message in receiver {
                tell(message, Err(Arc::clone(&error)));
            }
            return;
        }
    };
    let mut batch = Vec::new();
    let mut committed: Option<Instant> = None;
    while let Ok(first) = receiver.recv() {
        batch.push(first);
        let wait = committed.map(|at| BETWEEN.saturating_sub(at.elapsed()));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            std::thread::sleep(wait);
        }
        while batch.len() < BATCH {
            match receiver.try_recv() {
                Ok(next) => batch.push(next),
                Err(_) => break,
            }
        }
        committed = Some(Instant::now());
        let before = writer.next_intent;
        match writer.commit(&mut connection, &mut bodies, &batch) {
            Ok(ids) => {
                for (message, id) in batch.drain(..).zip(ids) {
                    tell(message, Ok(id));
                }
            }
            Err(e) => {
                bodies.forget(&connection);
                writer.models.clear();
                writer.next_intent = before;
                let error = Arc::new(JournalError::sqlite("write", path, &e));
                for message in batch.drain(..) {
                    tell(message, Err(Arc::clone(&error)));
                }
            }
        }
    }
    // Folded in, so that the file is whole by itself; a failure leaves the log, which is as good.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);");
}

fn tell(message: Message, result: Result<i64, Arc<JournalError>>) {
    match message {
        Message::Intent { done, .. }
        | Message::Answered { done, .. }
        | Message::BatchBegins { done, .. }
        | Message::BatchNamed { done, .. } => {
            let _ = done.send(result);
        }
        _ => {}
    }
}

struct Writing {
    models: Vec<(Arc<str>, i64)>,
    next_intent: i64,
}

impl Attempt {
    /// The same as an intent that waits for a batch: it has not left, and what has left in a batch is
    /// on record there.
    pub(super) fn gathered(self) -> Self {
        Attempt {
            bound: Bound {
                prompt_tokens: 0,
                completion_tokens: 0,
            },
            usd_bound: self.usd_bound.map(|_| 0.0),
            ..self
        }
    }
}

impl Writing {
    fn model(&mut self, tx: &Transaction<'_>, name: &str) -> rusqlite::Result<i64> {
        if let Some((_, id)) = self.models.iter().find(|(n, _)| n.as_ref() == name) {
            return Ok(*id);
        }
        tx.execute("INSERT OR IGNORE INTO models(name) VALUES (?1)", [name])?;
        let id = tx.query_row("SELECT id FROM models WHERE name = ?1", [name], |row| {
            row.get(0)
        })?;
        self.models.push((Arc::from(name), id));
        Ok(id)
    }

    fn commit(
        &mut self,
        connection: &mut Connection,
        bodies: &mut Writer,
        batch: &[Message],
    ) -> rusqlite::Result<Vec<i64>> {
        let tx = connection.transaction()?;
        let mut ids = Vec::with_capacity(batch.len());
        for message in batch {
            ids.push(self.apply(&tx, bodies, message)?);
        }
        tx.commit()?;
        Ok(ids)
    }

    fn apply(
        &mut self,
        tx: &Transaction<'_>,
        bodies: &mut Writer,
        message: &Message,
    ) -> rusqlite::Result<i64> {
        match message {
            Message::Intent { attempt, .. } => {
                let model = self.model(tx, &attempt.model)?;
                let id = self.next_intent;
                self.next_intent += 1;
                let item = &attempt.item;
                tx.prepare_cached(
                    "INSERT INTO intents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                )?
                .execute(params![
                    id,
                    &attempt.key.0[..],
                    model,
                    item.stage.as_ref(),
                    item.row.as_ref(),
                    item.draw,
                    unix_ms(),
                    attempt.bound.prompt_tokens as i64,
                    attempt.bound.completion_tokens as i64,
                    attempt.usd_bound,
                ])?;
                Ok(id)
            }
            Message::Answered { settled, .. } => {
                let attempt = &settled.attempt;
                let (dictionary, request, response) =
                    bodies.pack(tx, &attempt.item.stage, &settled.request, &settled.response)?;
                let (charge, prompt, completion, usd) = if settled.counted {
                    (
                        1,
                        settled.prompt_tokens,
                        settled.completion_tokens,
                        settled.usd,
                    )
                } else {
                    let bound = attempt.bound;
                    (
                        2,
                        bound.prompt_tokens,
                        bound.completion_tokens,
                        attempt.usd_bound,
                    )
                };
                let model = self.model(tx, &attempt.model)?;
                tx.prepare_cached(
                    "INSERT INTO calls(key, model, stage, row, draw, at, took_ms, state, charge,
                       prompt_tokens, completion_tokens, usd, lost, dictionary, request, response)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
                )?
                .execute(params![
                    &attempt.key.0[..],
                    model,
                    attempt.item.stage.as_ref(),
                    attempt.item.row.as_ref(),
                    attempt.item.draw,
                    unix_ms(),
                    settled.took_ms,
                    charge,
                    prompt as i64,
                    completion as i64,
                    usd,
                    (!settled.lost.is_empty()).then_some(&settled.lost),
                    dictionary,
                    request,
                    response,
                ])?;
                let id = tx.last_insert_rowid();
                tx.prepare_cached("INSERT INTO keys VALUES (?1, ?2)")?
                    .execute(params![id, &attempt.key.0[..]])?;
                remove(tx, settled.intent)?;
                if settled.adopted {
                    tx.prepare_cached(&format!("{UNCHARGED} AND key = ?1"))?
                        .execute([&attempt.key.0[..]])?;
                }
                Ok(id)
            }
            Message::BatchBegins {
                model, token, keys, ..
            } => {
                let id = self.model(tx, model)?;
                tx.execute(
                    "INSERT INTO batches(token, model, at) VALUES (?1, ?2, ?3)",
                    params![token, id, unix_ms()],
                )?;
                let mut insert = tx.prepare_cached("INSERT INTO batched VALUES (?1, ?2)")?;
                for key in keys {
                    insert.execute(params![token, &key.0[..]])?;
                }
                Ok(id)
            }
            Message::BatchNamed { token, name, .. } => {
                tx.execute(
                    "UPDATE batches SET name = ?2 WHERE token = ?1",
                    params![token, name],
                )?;
                Ok(0)
            }
            Message::BatchEnded { token } => {
                tx.execute("DELETE FROM batched WHERE token = ?1", [token])?;
                tx.execute("DELETE FROM batches WHERE token = ?1", [token])?;
                Ok(0)
            }
            Message::Failed {
                intent,
                attempt,
                took_ms,
                error,
                may_be_charged,
            } => {
                let model = self.model(tx, &attempt.model)?;
                let (charge, prompt, completion, usd) = if *may_be_charged {
                    let bound = attempt.bound;
                    (
                        2,
                        bound.prompt_tokens,
                        bound.completion_tokens,
                        attempt.usd_bound,
                    )
                } else {
                    (0, 0, 0, None)
                };
                tx.prepare_cached(
                    "INSERT INTO calls(key, model, stage, row, draw, at, took_ms, state, charge,
                       prompt_tokens, completion_tokens, usd, error, dictionary)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9, ?10, ?11, ?12, 0)",
                )?
                .execute(params![
                    &attempt.key.0[..],
                    model,
                    attempt.item.stage.as_ref(),
                    attempt.item.row.as_ref(),
                    attempt.item.draw,
                    unix_ms(),
                    took_ms,
                    charge,
                    prompt as i64,
                    completion as i64,
                    usd,
                    error,
                ])?;
                let id = tx.last_insert_rowid();
                remove(tx, *intent)?;
                Ok(id)
            }
            Message::Lost { intent } => {
                tx.prepare_cached(&format!("{LOSE_INTENTS} WHERE id = ?2"))?
                    .execute(params![GIVEN_UP, intent])?;
                remove(tx, *intent)?;
                Ok(0)
            }
            Message::Withdrawn { intent } => {
                remove(tx, *intent)?;
                Ok(0)
            }
            Message::Dialect { model, dialect } => {
                let id = self.model(tx, model)?;
                tx.execute(
                    "UPDATE models SET dialect = ?2 WHERE id = ?1",
                    params![id, dialect],
                )?;
                Ok(id)
            }
        }
    }
}

fn remove(tx: &Transaction<'_>, intent: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM intents WHERE id = ?1")?
        .execute([intent])?;
    Ok(())
}

/// Forces the log to the disk once a second and folds it into the file where it is long, beside
/// the writing thread, so that calls do not wait for the disk. Ends with the writing thread.
pub(super) fn keep_on_disk(connection: &Connection, wal: &Path, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(1)) {
        // Nothing here can lose an answer: what fails is tried again in a second.
        let Ok(file) = std::fs::File::open(wal) else {
            continue;
        };
        let _ = file.sync_data();
        let len = file.metadata().map_or(0, |m| m.len());
        if len >= FOLD_AT {
            let mode = if len >= WAIT_AT { "RESTART" } else { "PASSIVE" };
            let _ = connection.execute_batch(&format!("PRAGMA wal_checkpoint({mode});"));
        }
    }
}
