//! The row log: an append-only file in which each row is kept the moment it is finished.
//!
//! One line a record, `{"key": …, "by": …, "outcome": …, "calls": …, "record": …}`, in any order. The
//! key is a hash of all that determines the record, so a log serves every later run that asks for
//! the same thing: after a kill, after rows were added, after a setting was changed and changed back.
//! How the record ended stands before it, so that going on with a long log reads beginnings of
//! lines. The artefact is written from the log in row order, whole or not at all.
//!
//! Memory: 16 bytes a record. Records are read back from the file when they are needed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
#[cfg(not(unix))]
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::run::{OutputFile, persist};
use crate::seed::hex;
use crate::table::{Table, hash_of};

/// Where a line stands, in one number: 40 bits of offset, and its length in the low 24 (0 for one
/// that is longer than those can say). Later lines have greater numbers.
#[derive(Clone, Copy)]
struct Place(u64);

const LEN_BITS: u32 = 24;

impl Place {
    fn new(offset: u64, len: usize) -> Self {
        let len = Some(len as u64).filter(|n| *n < 1 << LEN_BITS);
        Place((offset << LEN_BITS) | len.unwrap_or(0))
    }

    fn offset(self) -> u64 {
        self.0 >> LEN_BITS
    }

    fn len(self) -> Option<usize> {
        Some((self.0 & ((1 << LEN_BITS) - 1)) as usize).filter(|n| *n > 0)
    }
}

/// An open row log. The newest record of a key counts.
pub struct RowLog {
    path: PathBuf,
    file: Mutex<File>,
    end: u64,
    places: Table,
    unsynced: bool,
    /// Bytes of the longest line so far, up to [`LONG`].
    usual: usize,
}

#[derive(serde::Deserialize)]
struct KeyOnly {
    key: String,
}

#[derive(serde::Deserialize)]
struct LineOf<R> {
    record: R,
}

/// How a record ended, and how many calls that took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// How it ended.
    pub outcome: Outcome,
    /// Calls.
    pub calls: u32,
}

/// What is known of a key before its record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// There is no record.
    No,
    /// There is one, written by this version with its end before it.
    As(Brief),
    /// There is one, and only itself says how it ended: another version wrote it.
    Unread,
}

/// Bytes of a line that hold all that stands before its record, where this version wrote it.
const BEFORE_RECORD: usize = 192;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The beginning of a line as this version writes it: the key, and how the record ended where that
/// was told. `None` for a line that is written otherwise.
fn before_record(line: &[u8]) -> Option<(&str, Option<Brief>)> {
    /// What stands before `end`, and what follows it.
    fn until<'a>(text: &'a [u8], end: &[u8]) -> Option<(&'a str, &'a [u8])> {
        let at = text.iter().position(|b| matches!(b, b'"' | b'\\' | b','))?;
        let word = std::str::from_utf8(&text[..at]).ok()?;
        Some((word, text[at..].strip_prefix(end)?))
    }
    let (key, rest) = until(line.strip_prefix(b"{\"key\":\"")?, b"\",\"")?;
    if rest.starts_with(b"record\":") {
        return Some((key, None));
    }
    let (by, rest) = until(rest.strip_prefix(b"by\":\"")?, b"\",\"outcome\":\"")?;
    let (outcome, rest) = until(rest, b"\",\"calls\":")?;
    let (calls, rest) = until(rest, b",\"")?;
    rest.strip_prefix(b"record\":")?;
    let outcome = Outcome::ALL.into_iter().find(|o| o.as_str() == outcome)?;
    let calls = calls.parse().ok()?;
    let brief = (by == VERSION).then_some(Brief { outcome, calls });
    Some((key, brief))
}

/// The key of a line, told by its beginning and its end alone where it is written as this version
/// writes it: of a long log that is read to go on, nothing else is needed.
fn key_of(line: &[u8]) -> std::result::Result<std::borrow::Cow<'_, str>, serde_json::Error> {
    match before_record(line).filter(|_| line.ends_with(b"}\n")) {
        Some((key, _)) => Ok(key.into()),
        None => serde_json::from_slice::<KeyOnly>(line).map(|line| line.key.into()),
    }
}

#[derive(Serialize)]
struct LineRef<'a, R> {
    key: &'a str,
    #[serde(flatten)]
    end: Option<End>,
    record: &'a R,
}

/// A record's end, as it stands before the record.
#[derive(Serialize)]
struct End {
    by: &'static str,
    outcome: Outcome,
    calls: u32,
}

/// Reads all of `bytes` from a place of a file, by one call of the system where it has such.
fn read_at(file: &mut File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(not(unix))]
    {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}

/// Writes all of `bytes` at a place of a file, by one call of the system where it has such.
fn write_at(file: &mut File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(not(unix))]
    {
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }
}

/// Longest line for which room is made before it is written, in bytes.
const LONG: usize = 64 * 1024;

impl RowLog {
    /// Opens or creates a log. A last line that was cut off (a kill, a full disk) is removed; a
    /// damaged line elsewhere is an error, since what stands behind it was paid for.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process has it open; [`Error::Io`]; [`Error::Format`] with
    /// the damaged line.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                });
            }
            Err(fs::TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
        }
        let mut places = Table::default();
        let mut end = 0u64;
        let mut reader = BufReader::with_capacity(1 << 18, &file);
        let mut line = Vec::new();
        let mut number = 0usize;
        loop {
            line.clear();
            let n = reader
                .read_until(b'\n', &mut line)
                .map_err(Error::io("read", path))?;
            if n == 0 {
                break;
            }
            number += 1;
            let whole = line.last() == Some(&b'\n');
            match key_of(&line) {
                Ok(key) if whole => {
                    places.insert(hash_of(&key), Place::new(end, n).0);
                    end += n as u64;
                }
                // Only the last line can lack its end, and only a cut can have taken it.
                _ if !whole => break,
                Ok(_) => break,
                Err(e) => {
                    return Err(Error::Format {
                        path: path.to_path_buf(),
                        problem: format!(
                            "is damaged at line {number} ({e}); remove that line to go on with \
                             the rest, or the file to begin again"
                        ),
                    });
                }
            }
        }
        file.set_len(end).map_err(Error::io("shorten", path))?;
        Ok(RowLog {
            path: path.to_path_buf(),
            file: Mutex::new(file),
            end,
            places,
            unsynced: false,
            usual: 0,
        })
    }

    /// Number of records held, those that a newer one has replaced among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True where nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.len() == 0
    }

    /// The record of a key; `None` where there is none, or where it is no record of this kind any
    /// more (an older version wrote it).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn get<R: DeserializeOwned>(&self, key: &str) -> Result<Option<R>> {
        for place in self.places.get(hash_of(key)) {
            let line = self.line(Place(place))?;
            // Two keys may share a hash.
            if key_of(&line).is_ok_and(|found| found == key) {
                let parsed = serde_json::from_slice::<LineOf<R>>(&line);
                return Ok(parsed.ok().map(|line| line.record));
            }
        }
        Ok(None)
    }

    /// How the record of a key ended, by the beginning of its line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn held(&self, key: &str) -> Result<Held> {
        for place in self.places.get(hash_of(key)) {
            let place = Place(place);
            let mut bytes = [0u8; BEFORE_RECORD];
            let n = place.len().unwrap_or(BEFORE_RECORD).min(BEFORE_RECORD);
            let bytes = &mut bytes[..n];
            read_at(&mut self.file(), bytes, place.offset())
                .map_err(Error::io("read", &self.path))?;
            match before_record(bytes) {
                Some((found, brief)) if found == key => {
                    return Ok(brief.map_or(Held::Unread, Held::As));
                }
                // Two keys may share a hash.
                Some(_) => {}
                None => {
                    let line = self.line(place)?;
                    if key_of(&line).is_ok_and(|found| found == key) {
                        return Ok(Held::Unread);
                    }
                }
            }
        }
        Ok(Held::No)
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn line(&self, place: Place) -> Result<Vec<u8>> {
        let mut file = self.file();
        let mut bytes = vec![0u8; place.len().unwrap_or(0)];
        let read = match place.len() {
            Some(_) => read_at(&mut file, &mut bytes, place.offset()),
            None => file.seek(SeekFrom::Start(place.offset())).and_then(|_| {
                BufReader::new(&*file)
                    .read_until(b'\n', &mut bytes)
                    .map(drop)
            }),
        };
        read.map_err(Error::io("read", &self.path))?;
        Ok(bytes)
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// [`Error::Io`]; what was kept before stays kept, and the file is cut back to it.
    pub fn append<R: Serialize>(&mut self, key: &str, record: &R) -> Result<()> {
        self.keep(key, None, record)
    }

    /// Keeps a record, with its end where [`RowLog::held`] finds it.
    ///
    /// # Errors
    /// As [`RowLog::append`].
    pub fn append_ended<R: Serialize>(
        &mut self,
        key: &str,
        brief: Brief,
        record: &R,
    ) -> Result<()> {
        let end = End {
            by: VERSION,
            outcome: brief.outcome,
            calls: brief.calls,
        };
        self.keep(key, Some(end), record)
    }

    fn keep<R: Serialize>(&mut self, key: &str, end: Option<End>, record: &R) -> Result<()> {
        let mut bytes = Vec::with_capacity(self.usual);
        serde_json::to_writer(&mut bytes, &LineRef { key, end, record }).map_err(|e| {
            Error::Format {
                path: self.path.clone(),
                problem: format!("cannot hold a record: {e}"),
            }
        })?;
        bytes.push(b'\n');
        self.usual = self.usual.max(bytes.len().min(LONG));
        let end = self.end;
        let file = self
            .file
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(source) = write_at(file, &bytes, end) {
            // Half a line would be taken for damage once another line stands behind it.
            let _ = file.set_len(end);
            return Err(Error::io("write", &self.path)(source));
        }
        self.places
            .insert(hash_of(key), Place::new(end, bytes.len()).0);
        self.end += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Forces what was appended to the disk. A process that is killed loses nothing without it,
    /// since the system has the bytes; a power cut takes what was appended after the last call.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<()> {
        if self.unsynced {
            let file = self
                .file
                .get_mut()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            file.sync_data().map_err(Error::io("write", &self.path))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Writes an artefact: the records of `keys` in their order, each as the lines that `expand`
    /// makes of it. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] where a key is not held.
    pub fn write_artifact<R: DeserializeOwned>(
        &self,
        keys: &[String],
        out: &Path,
        mut expand: impl FnMut(R) -> Vec<serde_json::Value>,
    ) -> Result<OutputFile> {
        let keys = keys.iter().map(String::as_str);
        self.write_partial_artifact(keys, out, |key, record| match record {
            Some(record) => Ok(expand(record)),
            None => Err(Error::Format {
                path: self.path.clone(),
                problem: format!("lacks the record of key `{key}`"),
            }),
        })
    }

    /// As [`RowLog::write_artifact`], where records may be missing.
    ///
    /// # Errors
    /// [`Error::Io`], and whatever `expand` returns.
    pub fn write_partial_artifact<'k, R: DeserializeOwned>(
        &self,
        keys: impl IntoIterator<Item = &'k str>,
        out: &Path,
        mut expand: impl FnMut(&str, Option<R>) -> Result<Vec<serde_json::Value>>,
    ) -> Result<OutputFile> {
        persist(out, |sink| {
            let mut hasher = Sha256::new();
            let mut rows = 0u64;
            for key in keys {
                for value in expand(key, self.get(key)?)? {
                    let mut line = value.to_string().into_bytes();
                    line.push(b'\n');
                    hasher.update(&line);
                    sink.write_all(&line).map_err(Error::io("write", out))?;
                    rows += 1;
                }
            }
            Ok(OutputFile {
                sha256: hex(&hasher.finalize()),
                rows,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("k{i}")).collect()
    }

    fn artifact(log: &RowLog, n: usize, out: &Path) -> (OutputFile, String) {
        let made = log
            .write_artifact(&keys(n), out, |v: serde_json::Value| vec![v])
            .unwrap();
        (made, fs::read_to_string(out).unwrap())
    }

    #[test]
    fn a_log_cut_at_any_byte_resumes_to_the_same_artifact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log/x.jsonl");
        let record = |i: usize| serde_json::json!({"row": i, "text": format!("zwölf \n {i}")});
        {
            let mut log = RowLog::open(&path).unwrap();
            // Finished out of order; the artefact is in row order all the same.
            for i in [2usize, 0, 3, 1] {
                log.append(&format!("k{i}"), &record(i)).unwrap();
            }
        }
        let whole = fs::read(&path).unwrap();
        let out = folder.path().join("out.jsonl");
        let (expected, text) = artifact(&RowLog::open(&path).unwrap(), 4, &out);
        assert_eq!(text.lines().count(), 4);
        assert!(text.starts_with("{\"row\":0"));
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut log = RowLog::open(&path).unwrap();
            let complete = whole[..cut].iter().filter(|b| **b == b'\n').count();
            assert_eq!(log.len(), complete, "cut at {cut}");
            for i in 0..4 {
                let key = format!("k{i}");
                if log.get::<serde_json::Value>(&key).unwrap().is_none() {
                    log.append(&key, &record(i)).unwrap();
                }
            }
            assert_eq!(artifact(&log, 4, &out).0, expected, "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_end_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        fs::write(
            &path,
            "{\"key\":\"a\",\"record\":1}\n{broken\n{\"key\":\"b\",\"record\":2}\n",
        )
        .unwrap();
        let message = RowLog::open(&path).err().unwrap().to_string();
        assert!(
            message.contains("line 2") && message.contains("x.jsonl"),
            "{message}"
        );
    }

    #[test]
    fn the_newest_record_of_a_key_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let mut log = RowLog::open(&path).unwrap();
        log.append("a", &1).unwrap();
        log.append("a", &2).unwrap();
        assert_eq!(log.get::<u32>("a").unwrap(), Some(2));
        drop(log);
        assert_eq!(
            RowLog::open(&path).unwrap().get::<u32>("a").unwrap(),
            Some(2)
        );
    }

    #[test]
    fn how_a_record_ended_is_told_by_the_beginning_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let brief = |outcome, calls| Brief { outcome, calls };
        let mut log = RowLog::open(&path).unwrap();
        for (i, outcome) in Outcome::ALL.into_iter().enumerate() {
            let text = serde_json::json!({"outcome": "tie", "text": "x".repeat(i * 100)});
            log.append_ended(&format!("k{i}"), brief(outcome, i as u32), &text)
                .unwrap();
        }
        log.append("bare", &1).unwrap();
        log.append("again", &1).unwrap();
        log.append_ended("again", brief(Outcome::Tie, 9), &2)
            .unwrap();
        drop(log);
        // Another version's, and one that is laid out otherwise.
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(
            "{\"key\":\"old\",\"by\":\"0.0.0\",\"outcome\":\"tie\",\"calls\":1,\"record\":7}\n",
        );
        text.push_str("{ \"key\": \"spaced\", \"record\": 8 }\n");
        fs::write(&path, text).unwrap();
        let log = RowLog::open(&path).unwrap();
        for (i, outcome) in Outcome::ALL.into_iter().enumerate() {
            let held = log.held(&format!("k{i}")).unwrap();
            assert_eq!(held, Held::As(brief(outcome, i as u32)));
            assert!(
                log.get::<serde_json::Value>(&format!("k{i}"))
                    .unwrap()
                    .is_some()
            );
        }
        assert_eq!(log.held("again").unwrap(), Held::As(brief(Outcome::Tie, 9)));
        for (key, record) in [("bare", 1), ("old", 7), ("spaced", 8)] {
            assert_eq!(log.held(key).unwrap(), Held::Unread, "{key}");
            assert_eq!(log.get::<u32>(key).unwrap(), Some(record), "{key}");
        }
        assert_eq!(log.held("none").unwrap(), Held::No);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        // /dev/full fails every write with "no space left on device".
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .open("/dev/full")
            .unwrap();
        let mut log = RowLog {
            path: "run/log/judge.jsonl".into(),
            file: Mutex::new(file),
            end: 0,
            places: Table::default(),
            unsynced: false,
            usual: 0,
        };
        let error = log.append("a", &1).unwrap_err();
        assert!(error.to_string().contains("run/log/judge.jsonl"), "{error}");
        assert!(log.is_empty());
    }
}
