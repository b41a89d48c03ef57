//! The run folder: the stages' files, and a manifest with the hashes of whatever determined them.
//!
//! A stage whose inputs, configuration, seed and version are those of the manifest, and whose
//! files are as it left them, is skipped. One process at a time works in a folder.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::seed::hex;

/// Layout of the manifest; a newer one is refused.
const FORMAT: u32 = 1;

/// A file that a stage wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its lines.
    pub rows: u64,
}

/// What determines a stage's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageKey {
    /// Hash of each input, by name.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the configuration.
    pub config: String,
    /// The run's seed.
    pub seed: u64,
    /// Version of rlaif.
    pub version: String,
}

/// A finished stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEntry {
    /// Hash of each input, by name.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the configuration.
    pub config: String,
    /// The run's seed.
    pub seed: u64,
    /// Version of rlaif.
    pub version: String,
    /// Files written, by name.
    pub outputs: BTreeMap<String, OutputFile>,
    /// Rows by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// How fast the rows came that the last run asked for anew; absent where it asked for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
}

/// Rows, and how long they took together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Rows.
    pub rows: u64,
    /// Milliseconds.
    pub millis: u64,
}

impl Pace {
    /// Rows a second; `None` for less than a millisecond.
    #[must_use]
    pub fn per_sec(&self) -> Option<f64> {
        (self.millis > 0).then(|| self.rows as f64 * 1e3 / self.millis as f64)
    }
}

/// What is known of a run folder's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout.
    pub format: u32,
    /// Finished stages, by name.
    pub stages: BTreeMap<String, StageEntry>,
}

/// An open run folder; the lock is held until it is dropped.
pub struct RunFolder {
    path: PathBuf,
    manifest: Manifest,
    _lock: File,
}

impl RunFolder {
    /// Opens or creates a folder, and locks it.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process works in it, [`Error::Io`], or [`Error::Format`]
    /// for a manifest that is damaged or newer than this version.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(Error::io("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                });
            }
            Err(fs::TryLockError::Error(source)) => {
                return Err(Error::io("lock", &lock_path)(source));
            }
        }
        let manifest = Self::read_manifest(&path.join("manifest.json"))?;
        Ok(RunFolder {
            path: path.to_path_buf(),
            manifest,
            _lock: lock,
        })
    }

    /// The manifest of a folder that need not be open; one without stages where there is none.
    ///
    /// # Errors
    /// As [`RunFolder::open`], but for the lock.
    pub fn read(path: &Path) -> Result<Manifest> {
        Self::read_manifest(&path.join("manifest.json"))
    }

    fn read_manifest(path: &Path) -> Result<Manifest> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Manifest {
                    format: FORMAT,
                    stages: BTreeMap::new(),
                });
            }
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let fault = |problem: String| Error::Format {
            path: path.to_path_buf(),
            problem,
        };
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let damaged = |e: serde_json::Error| {
            fault(format!(
                "is damaged ({e}); remove it and run again: finished rows are kept in `log/`"
            ))
        };
        let FormatOnly { format } = serde_json::from_str(&text).map_err(damaged)?;
        if format > FORMAT {
            return Err(fault(format!(
                "has format {format}, written by a newer rlaif (this one knows {FORMAT}); use that \
                 version, or another folder"
            )));
        }
        serde_json::from_str(&text).map_err(damaged)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// True where the stage was finished with this key and its files are as it left them.
    #[must_use]
    pub fn is_current(&self, stage: &str, key: &StageKey) -> bool {
        let Some(entry) = self.manifest.stages.get(stage) else {
            return false;
        };
        let StageKey {
            inputs,
            config,
            seed,
            version,
        } = key;
        entry.inputs == *inputs
            && entry.config == *config
            && entry.seed == *seed
            && entry.version == *version
            && entry.outputs.iter().all(|(name, file)| {
                sha256_file(&self.path.join(name)).is_ok_and(|hash| hash == file.sha256)
            })
    }

    /// Records a finished stage.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record(&mut self, stage: &str, entry: StageEntry) -> Result<()> {
        self.manifest.stages.insert(stage.to_owned(), entry);
        let path = self.path.join("manifest.json");
        let mut text = serde_json::to_string_pretty(&self.manifest).map_err(|e| Error::Format {
            path: path.clone(),
            problem: format!("cannot be written: {e}"),
        })?;
        text.push('\n');
        write_atomic(&path, text.as_bytes())
    }
}

/// SHA-256 of a file's bytes, in hex.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

/// Writes a file whole or not at all: into a temporary file beside it, synced, then renamed.
///
/// # Errors
/// [`Error::Io`]; the file that was there before is untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    persist(path, |sink| {
        sink.write_all(bytes).map_err(Error::io("write", path))
    })
}

/// Writes records as JSON lines, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_lines<T: Serialize>(path: &Path, records: &[T]) -> Result<OutputFile> {
    let mut text = Vec::new();
    for record in records {
        serde_json::to_writer(&mut text, record).map_err(|e| Error::Format {
            path: path.to_path_buf(),
            problem: format!("cannot be written: {e}"),
        })?;
        text.push(b'\n');
    }
    write_atomic(path, &text)?;
    Ok(OutputFile {
        sha256: crate::seed::sha256_hex(&text),
        rows: records.len() as u64,
    })
}

/// A file that appears whole or not at all: written beside its place, and put there by
/// [`Atomic::commit`]. Dropped before, it leaves nothing, and the file that was there untouched.
pub(crate) struct Atomic {
    path: PathBuf,
    temporary: PathBuf,
    sink: Option<BufWriter<File>>,
}

impl Atomic {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Self::beside(path, "tmp")
    }

    /// The same, where another temporary file for `path` is open.
    pub(crate) fn beside(path: &Path, ending: &str) -> Result<Self> {
        Self::named(path, &std::process::id().to_string(), ending)
    }

    /// The same, with a temporary name of the caller's, who sees to it that no other process has it
    /// at the same time. One that a killed process left under that name is taken over.
    pub(crate) fn named(path: &Path, name: &str, ending: &str) -> Result<Self> {
        let own = name;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.{own}.{ending}"));
        // Read as well: some formats are made of what was written first.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(Error::io("create", path))?;
        Ok(Atomic {
            path: path.to_path_buf(),
            temporary,
            sink: Some(BufWriter::with_capacity(1 << 16, file)),
        })
    }

    /// What was written so far, from its beginning.
    pub(crate) fn read_back(&mut self) -> Result<File> {
        let mut file = self.flushed().map_err(Error::io("write", &self.path))?;
        file.rewind().map_err(Error::io("read", &self.path))?;
        Ok(file)
    }

    fn flushed(&mut self) -> std::io::Result<File> {
        self.flush()?;
        match &self.sink {
            Some(sink) => sink.get_ref().try_clone(),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    /// Puts the file in its place, safe on the disk.
    pub(crate) fn commit(mut self) -> Result<()> {
        let file = self.flushed().map_err(Error::io("write", &self.path))?;
        file.sync_all().map_err(Error::io("write", &self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::io("replace", &self.path))?;
        self.sink = None;
        Ok(())
    }
}

impl Write for Atomic {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sink.as_mut().map_or(Ok(0), |sink| sink.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Atomic {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            // What is still in the buffer is for nobody.
            drop(sink.into_parts());
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Lets `fill` write a temporary file, then puts it in its place.
pub(crate) fn persist<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut file = Atomic::create(path)?;
    let value = fill(&mut file)?;
    file.commit()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(output: OutputFile) -> StageEntry {
        StageEntry {
            inputs: BTreeMap::from([("prompts".into(), "p".into())]),
            config: "c".into(),
            seed: 1,
            version: "v".into(),
            outputs: BTreeMap::from([("a.jsonl".into(), output)]),
            outcomes: BTreeMap::new(),
            pace: None,
        }
    }

    fn key() -> StageKey {
        StageKey {
            inputs: BTreeMap::from([("prompts".into(), "p".into())]),
            config: "c".into(),
            seed: 1,
            version: "v".into(),
        }
    }

    #[test]
    fn a_stage_is_current_until_anything_that_determines_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = RunFolder::open(folder.path()).unwrap();
        assert!(!run.is_current("s", &key()));
        let output = write_lines(&folder.path().join("a.jsonl"), &[1, 2]).unwrap();
        run.record("s", entry(output)).unwrap();
        assert!(run.is_current("s", &key()));
        for changed in [
            StageKey {
                config: "d".into(),
                ..key()
            },
            StageKey { seed: 2, ..key() },
            StageKey {
                version: "w".into(),
                ..key()
            },
            StageKey {
                inputs: BTreeMap::new(),
                ..key()
            },
        ] {
            assert!(!run.is_current("s", &changed), "{changed:?}");
        }
        drop(run);
        let run = RunFolder::open(folder.path()).unwrap();
        assert!(run.is_current("s", &key()));
        fs::write(folder.path().join("a.jsonl"), "1\n3\n").unwrap();
        assert!(!run.is_current("s", &key()));
    }

    #[test]
    fn a_second_opening_is_refused_while_the_first_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunFolder::open(folder.path()).unwrap();
        let message = RunFolder::open(folder.path()).err().unwrap().to_string();
        assert!(message.contains("in use"), "{message}");
        drop(first);
        RunFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn damaged_and_newer_manifests_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for (text, words) in [
            ("{", "damaged"),
            ("{\"format\": 99, \"stages\": {}}", "newer"),
        ] {
            fs::write(folder.path().join("manifest.json"), text).unwrap();
            let message = RunFolder::open(folder.path()).err().unwrap().to_string();
            assert!(
                message.contains(words) && message.contains("manifest.json"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomic(&path, b"old").unwrap();
        let failed: Result<()> = persist(&path, |sink| {
            sink.write_all(b"half").unwrap();
            Err(Error::Format {
                path: path.clone(),
                problem: "x".into(),
            })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
