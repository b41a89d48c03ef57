//! Bodies in the journal: zstd with a dictionary of the stage's own first bodies.
//!
//! Requests of one stage share their template, and answers their field names; alone, a body of
//! two kilobytes hardly halves. The dictionary is raw content: bodies one after another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension, params};
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::DecoderDictionary;

use crate::meter::lock;

const LEVEL: i32 = 1;
/// Bodies collected before a stage's dictionary is made.
const SAMPLES: usize = 8;
/// Bytes of a dictionary, at most.
const DICTIONARY_BYTES: usize = 48 * 1024;
/// Bytes of one body in it, at most: a long document teaches little about the next one.
const SAMPLE_BYTES: usize = 6 * 1024;
/// A body longer than this, unpacked, is taken for damage.
const LONGEST: usize = 256 * 1024 * 1024;

enum Stage {
    Collecting(Vec<u8>, usize),
    Ready(i64, Compressor<'static>),
}

/// Packs bodies; used by the writing thread alone.
pub(super) struct Writer {
    plain: Compressor<'static>,
    stages: HashMap<Arc<str>, Stage>,
}

fn fault(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

impl Writer {
    pub(super) fn new(connection: &Connection) -> rusqlite::Result<Self> {
        let mut stages = HashMap::new();
        let mut query =
            connection.prepare("SELECT id, stage, bytes FROM dictionaries ORDER BY id")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let stage: String = row.get(1)?;
            let bytes: Vec<u8> = row.get(2)?;
            let compressor = with_dictionary(&bytes)?;
            stages.insert(Arc::from(stage), Stage::Ready(row.get(0)?, compressor));
        }
        Ok(Writer {
            plain: Compressor::new(LEVEL).map_err(fault)?,
            stages,
        })
    }

    /// Packs a request with its response; returns the dictionary that was used, 0 for none.
    pub(super) fn pack(
        &mut self,
        connection: &Connection,
        stage: &Arc<str>,
        request: &[u8],
        response: &[u8],
    ) -> rusqlite::Result<(i64, Vec<u8>, Vec<u8>)> {
        let state = self
            .stages
            .entry(Arc::clone(stage))
            .or_insert_with(|| Stage::Collecting(Vec::new(), 0));
        if let Stage::Collecting(bytes, n) = state {
            for body in [request, response] {
                bytes.extend_from_slice(&body[..body.len().min(SAMPLE_BYTES)]);
            }
            *n += 1;
            if *n >= SAMPLES || bytes.len() >= DICTIONARY_BYTES {
                bytes.truncate(DICTIONARY_BYTES);
                let compressor = with_dictionary(bytes)?;
                connection.execute(
                    "INSERT INTO dictionaries(stage, bytes) VALUES (?1, ?2)",
                    params![stage.as_ref(), &*bytes],
                )?;
                *state = Stage::Ready(connection.last_insert_rowid(), compressor);
            }
        }
        let (id, compressor) = match state {
            Stage::Ready(id, compressor) => (*id, compressor),
            Stage::Collecting(..) => (0, &mut self.plain),
        };
        Ok((
            id,
            compressor.compress(request).map_err(fault)?,
            compressor.compress(response).map_err(fault)?,
        ))
    }

    /// Forgets what a commit that failed had made.
    pub(super) fn forget(&mut self, connection: &Connection) {
        if let Ok(fresh) = Writer::new(connection) {
            *self = fresh;
        }
    }
}

fn with_dictionary(bytes: &[u8]) -> rusqlite::Result<Compressor<'static>> {
    Compressor::with_dictionary(LEVEL, bytes).map_err(fault)
}

/// Unpacks bodies.
#[derive(Default)]
pub(super) struct Reader {
    dictionaries: Mutex<HashMap<i64, Arc<DecoderDictionary<'static>>>>,
}

impl Reader {
    pub(super) fn unpack(
        &self,
        connection: &Connection,
        dictionary: i64,
        packed: &[u8],
    ) -> rusqlite::Result<Vec<u8>> {
        let length = zstd::zstd_safe::get_frame_content_size(packed)
            .ok()
            .flatten()
            .filter(|n| *n <= LONGEST as u64)
            .ok_or_else(|| damaged("a body has no length"))?;
        if dictionary == 0 {
            let mut plain = Decompressor::new().map_err(fault)?;
            return plain.decompress(packed, length as usize).map_err(fault);
        }
        let known = self.dictionary(connection, dictionary)?;
        Decompressor::with_prepared_dictionary(&known)
            .and_then(|mut d| d.decompress(packed, length as usize))
            .map_err(fault)
    }

    fn dictionary(
        &self,
        connection: &Connection,
        id: i64,
    ) -> rusqlite::Result<Arc<DecoderDictionary<'static>>> {
        if let Some(known) = lock(&self.dictionaries).get(&id) {
            return Ok(Arc::clone(known));
        }
        let query = "SELECT bytes FROM dictionaries WHERE id = ?1";
        let bytes: Option<Vec<u8>> = connection
            .query_row(query, [id], |row| row.get(0))
            .optional()?;
        let bytes = bytes.ok_or_else(|| damaged("a dictionary is missing"))?;
        let made = Arc::new(DecoderDictionary::copy(&bytes));
        lock(&self.dictionaries).insert(id, Arc::clone(&made));
        Ok(made)
    }
}

fn damaged(problem: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(problem.to_owned()),
    )
}
