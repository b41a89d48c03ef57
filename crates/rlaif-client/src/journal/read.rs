//! The reading side: one answer by its key, the account, and lists of calls. It works beside a
//! process that writes.

use std::path::{Path, PathBuf};

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params, params_from_iter};
use serde::Serialize;

use super::bodies::Reader;
use super::{JournalError, store};
use crate::call::Key;

/// What the calls of a journal were charged.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Account {
    /// Calls answered.
    pub answered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts whose answer was lost or not counted, so that the charge is not known.
    pub unsettled: u64,
    /// Prompt tokens of settled calls, by the servers' count.
    pub prompt_tokens: u64,
    /// Generated tokens of settled calls, by the servers' count.
    pub completion_tokens: u64,
    /// US dollars of settled calls with a price.
    pub settled_usd: f64,
    /// US dollars of unsettled attempts with a price, at most.
    pub unsettled_usd: f64,
    /// Most tokens of unsettled attempts, prompt and answer together.
    pub unsettled_tokens: u64,
    /// Charged calls of models without a price.
    pub unpriced: u64,
}

/// A batch that was submitted and not collected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OpenBatch {
    /// Our name for it.
    pub(crate) token: String,
    /// The provider's; `None` where the process ended before it heard of it.
    pub(crate) name: Option<String>,
    /// The calls in it.
    pub(crate) keys: Vec<Key>,
}

/// Batches of a model, the oldest first.
pub(super) fn batches(connection: &Connection, model: &str) -> rusqlite::Result<Vec<OpenBatch>> {
    let mut list = connection.prepare(
        "SELECT token, name FROM batches
         WHERE model = (SELECT id FROM models WHERE name = ?1) ORDER BY at, token",
    )?;
    let mut keys = connection.prepare("SELECT key FROM batched WHERE token = ?1")?;
    let open = list.query_map([model], |row| {
        Ok(OpenBatch {
            token: row.get(0)?,
            name: row.get(1)?,
            keys: Vec::new(),
        })
    })?;
    open.map(|batch| {
        let mut batch = batch?;
        let found = keys.query_map([&batch.token], |row| row.get::<_, Vec<u8>>(0))?;
        for key in found {
            batch.keys.extend(key?.try_into().ok().map(Key));
        }
        Ok(batch)
    })
    .collect()
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// With an answer.
    Answered,
    /// Without one.
    Failed,
    /// It is under way, or its process was killed and none has gone on yet.
    InFlight,
}

/// Which calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of this stage.
    pub stage: Option<String>,
    /// Of this row.
    pub row: Option<String>,
    /// Of models whose name holds this text.
    pub model: Option<String>,
    /// That ended like this.
    pub state: Option<State>,
    /// Whose charge is not known.
    pub unsettled: bool,
    /// The newest so many.
    pub limit: Option<usize>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Number in the journal; negative while in flight.
    pub id: i64,
    /// What determines the answer, as a hash.
    pub key: String,
    /// Model.
    pub model: String,
    /// Stage.
    pub stage: String,
    /// Row.
    pub row: String,
    /// Draw of the row.
    pub draw: u32,
    /// When it was written down, in milliseconds since 1970.
    pub at_unix_ms: i64,
    /// Milliseconds until it ended.
    pub took_ms: i64,
    /// How it ended.
    pub state: State,
    /// `false` where tokens and money are upper bounds.
    pub settled: bool,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
    /// US dollars, where the model has a price.
    pub usd: Option<f64>,
    /// Fields that the endpoint refused.
    pub lost: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// The body sent.
    pub request: Option<serde_json::Value>,
    /// The body received; text where it is no JSON.
    pub response: Option<serde_json::Value>,
}

pub(super) struct Found {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) usd: Option<f64>,
    pub(super) lost: String,
    pub(super) response: Vec<u8>,
}

pub(super) fn connect(path: &Path) -> Result<Connection, JournalError> {
    let fault = |e: rusqlite::Error| JournalError::sqlite("open", path, &e);
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(fault)?;
    connection
        .execute_batch("PRAGMA busy_timeout = 60000;")
        .map_err(fault)?;
    Ok(connection)
}

pub(super) fn connect_to_write(path: &Path) -> Result<Connection, JournalError> {
    let fault = |e: rusqlite::Error| JournalError::sqlite("open", path, &e);
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(fault)?;
    connection
        .execute_batch("PRAGMA busy_timeout = 60000;")
        .map_err(fault)?;
    Ok(connection)
}

/// The answer that a row holds to a call.
pub(super) fn answer(
    connection: &Connection,
    bodies: &Reader,
    (key, id): (Key, i64),
) -> rusqlite::Result<Option<Found>> {
    let mut query = connection.prepare_cached(
        "SELECT prompt_tokens, completion_tokens, usd, lost, dictionary, response FROM calls
         WHERE id = ?1 AND key = ?2 AND state = 0",
    )?;
    let row = query
        .query_row(params![id, &key.0[..]], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Option<f64>>(2)?,
                row.get::<_, Option<String>>(3)?,
                row.get::<_, i64>(4)?,
                row.get::<_, Vec<u8>>(5)?,
            ))
        })
        .optional()?;
    let Some((prompt, completion, usd, lost, dictionary, response)) = row else {
        return Ok(None);
    };
    Ok(Some(Found {
        prompt_tokens: prompt.max(0) as u64,
        completion_tokens: completion.max(0) as u64,
        usd,
        lost: lost.unwrap_or_default(),
        response: bodies.unpack(connection, dictionary, &response)?,
    }))
}

/// Hands over the keys of all calls that have an answer, with their rows.
pub(super) fn keys(
    connection: &Connection,
    mut take: impl FnMut(Key, i64),
) -> rusqlite::Result<()> {
    let mut query = connection.prepare("SELECT id, key FROM keys")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        if let Ok(key) = row.get_ref(1)?.as_blob()?.try_into() {
            take(Key(key), row.get(0)?);
        }
    }
    Ok(())
}

pub(super) fn dialect(connection: &Connection, model: &str) -> rusqlite::Result<Option<String>> {
    connection
        .query_row(
            "SELECT dialect FROM models WHERE name = ?1",
            [model],
            |row| row.get(0),
        )
        .optional()
        .map(Option::flatten)
}

impl Filter {
    /// Conditions on `c`, one of [`ALL`], and `m`, its model, with their values.
    fn clauses(&self) -> (String, Vec<Sql>) {
        let mut clauses = vec!["1".to_owned()];
        let mut values: Vec<Sql> = Vec::new();
        let mut add = |text: &str, value: Sql| {
            values.push(value);
            clauses.push(text.replace('?', &format!("?{}", values.len())));
        };
        if let Some(stage) = &self.stage {
            add("c.stage = ?", stage.clone().into());
        }
        if let Some(row) = &self.row {
            add("c.row = ?", row.clone().into());
        }
        if let Some(model) = &self.model {
            add("instr(m.name, ?) > 0", model.clone().into());
        }
        if let Some(state) = self.state {
            let number: i64 = match state {
                State::Answered => 0,
                State::Failed => 1,
                State::InFlight => 2,
            };
            add("c.state = ?", number.into());
        }
        if self.unsettled {
            clauses.push("c.charge = 2".into());
        }
        (clauses.join(" AND "), values)
    }
}

pub(super) fn account(connection: &Connection, filter: &Filter) -> rusqlite::Result<Account> {
    let (clauses, values) = filter.clauses();
    connection.query_row(
        &format!(
            "SELECT count(*) FILTER (WHERE c.state = 0), count(*) FILTER (WHERE c.state = 1),
               count(*) FILTER (WHERE c.charge = 2),
               coalesce(sum(c.prompt_tokens) FILTER (WHERE c.charge = 1), 0),
               coalesce(sum(c.completion_tokens) FILTER (WHERE c.charge = 1), 0),
               coalesce(sum(c.usd) FILTER (WHERE c.charge = 1), 0.0),
               coalesce(sum(c.usd) FILTER (WHERE c.charge = 2), 0.0),
               coalesce(sum(c.prompt_tokens + c.completion_tokens) FILTER (WHERE c.charge = 2), 0),
               count(*) FILTER (WHERE c.charge > 0 AND c.usd IS NULL)
             FROM {ALL} c JOIN models m ON m.id = c.model WHERE {clauses}"
        ),
        params_from_iter(values),
        |row| {
            let count = |i: usize| row.get::<_, i64>(i).map(|n| n.max(0) as u64);
            Ok(Account {
                answered: count(0)?,
                failed: count(1)?,
                unsettled: count(2)?,
                prompt_tokens: count(3)?,
                completion_tokens: count(4)?,
                settled_usd: row.get(5)?,
                unsettled_usd: row.get(6)?,
                unsettled_tokens: count(7)?,
                unpriced: count(8)?,
            })
        },
    )
}

/// A journal open for reading only.
pub struct JournalReader {
    path: PathBuf,
    connection: Connection,
    bodies: Reader,
}

const COLUMNS: &str = "c.id, hex(c.key), m.name, c.stage, c.row, c.draw, c.at, c.took_ms, c.state,
    c.charge, c.prompt_tokens, c.completion_tokens, c.usd, c.lost, c.error, c.dictionary,
    c.request, c.response";

/// Intents in the shape of calls, so that one query lists both.
const ALL: &str = "(SELECT id, key, model, stage, row, draw, at, took_ms, state, charge,
      prompt_tokens, completion_tokens, usd, lost, error, dictionary, request, response FROM calls
    UNION ALL SELECT -id, key, model, stage, row, draw, at, 0, 2, 2, prompt_bound,
      completion_bound, usd_bound, NULL, NULL, 0, NULL, NULL FROM intents)";

impl JournalReader {
    /// Opens a journal beside whoever writes it.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        if !path.is_file() {
            return Err(JournalError::Io {
                action: "open",
                path: path.to_path_buf(),
                problem: "there is no such file".into(),
                full: false,
            });
        }
        let connection = connect(path)?;
        let fault = |e: rusqlite::Error| JournalError::sqlite("open", path, &e);
        let format: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fault)?;
        if format > store::FORMAT {
            return Err(JournalError::Newer {
                path: path.to_path_buf(),
                found: format,
                known: store::FORMAT,
            });
        }
        connection
            .query_row("SELECT count(*) FROM intents", [], |_| Ok(()))
            .map_err(|e| JournalError::Damaged {
                path: path.to_path_buf(),
                problem: e.to_string(),
            })?;
        Ok(JournalReader {
            path: path.to_path_buf(),
            connection,
            bodies: Reader::default(),
        })
    }

    /// What the calls that pass the filter were charged; its limit does not count.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn account(&self, filter: &Filter) -> Result<Account, JournalError> {
        account(&self.connection, filter).map_err(|e| JournalError::sqlite("read", &self.path, &e))
    }

    /// Hands every call that passes the filter to `take`, in the order of their numbers; bodies
    /// only where they are wanted. Memory: one call.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn each(
        &self,
        filter: &Filter,
        bodies: bool,
        take: impl FnMut(Entry),
    ) -> Result<(), JournalError> {
        let (clauses, values) = filter.clauses();
        let from = format!("FROM {ALL} c JOIN models m ON m.id = c.model WHERE {clauses}");
        let query = match filter.limit {
            Some(n) => format!(
                "SELECT * FROM (SELECT {COLUMNS} {from} ORDER BY c.at DESC, c.id DESC LIMIT {n})
                 ORDER BY 7, 1"
            ),
            None => format!("SELECT {COLUMNS} {from} ORDER BY c.id"),
        };
        self.run(&query, values, bodies, take)
            .map_err(|e| JournalError::sqlite("read", &self.path, &e))
    }

    /// One call by its number, bodies included.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn entry(&self, id: i64) -> Result<Option<Entry>, JournalError> {
        let query = format!(
            "SELECT {COLUMNS} FROM {ALL} c JOIN models m ON m.id = c.model WHERE c.id = ?1"
        );
        let mut found = None;
        self.run(&query, vec![id.into()], true, |entry| found = Some(entry))
            .map_err(|e| JournalError::sqlite("read", &self.path, &e))?;
        Ok(found)
    }

    fn run(
        &self,
        query: &str,
        values: Vec<Sql>,
        bodies: bool,
        mut take: impl FnMut(Entry),
    ) -> rusqlite::Result<()> {
        let mut query = self.connection.prepare(query)?;
        let mut rows = query.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let dictionary: i64 = row.get(15)?;
            let body = |i: usize| -> rusqlite::Result<Option<serde_json::Value>> {
                let Some(packed) = row.get::<_, Option<Vec<u8>>>(i)?.filter(|_| bodies) else {
                    return Ok(None);
                };
                let bytes = self.bodies.unpack(&self.connection, dictionary, &packed)?;
                Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                    String::from_utf8_lossy(&bytes).into_owned().into()
                })))
            };
            let count = |i: usize| row.get::<_, i64>(i).map(|n| n.max(0) as u64);
            take(Entry {
                id: row.get(0)?,
                key: row.get::<_, String>(1)?.to_lowercase(),
                model: row.get(2)?,
                stage: row.get(3)?,
                row: row.get(4)?,
                draw: row.get(5)?,
                at_unix_ms: row.get(6)?,
                took_ms: row.get(7)?,
                state: match row.get::<_, i64>(8)? {
                    0 => State::Answered,
                    1 => State::Failed,
                    _ => State::InFlight,
                },
                settled: row.get::<_, i64>(9)? != 2,
                prompt_tokens: count(10)?,
                completion_tokens: count(11)?,
                usd: row.get(12)?,
                lost: row
                    .get::<_, Option<String>>(13)?
                    .unwrap_or_default()
                    .split(',')
                    .filter(|f| !f.is_empty())
                    .map(str::to_owned)
                    .collect(),
                error: row.get(14)?,
                request: body(16)?,
                response: body(17)?,
            });
        }
        Ok(())
    }
}
