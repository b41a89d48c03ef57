//! A training run's folder: what is written while it runs, and exact resume.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::events;
use super::network::Network;
use crate::error::Error;

/// One line a step or iteration.
pub const LOG: &str = "log.jsonl";
/// Completions that PPO sampled and scored.
pub const ROLLOUTS: &str = "rollouts.jsonl";
/// The log's numbers for TensorBoard.
pub const EVENTS: &str = "events.out.tfevents.0.rlaif";

/// What points to the last checkpoint.
pub const MARK: &str = "checkpoint.json";

/// Files that grow while a run goes on. A resumed run cuts them back to its checkpoint.
const GROWING: [&str; 3] = [LOG, ROLLOUTS, EVENTS];

/// What to do with a folder that holds another run: other settings, other data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// An error: the folder is the user's.
    Refuse,
    /// Begin again: the folder belongs to a stage, and its inputs have changed.
    Replace,
}

/// A training run's folder: log, checkpoint, and proof that both belong to the same run.
pub struct Folder {
    out: PathBuf,
    identity: String,
    growing: BTreeMap<&'static str, File>,
    every: Duration,
    last: Instant,
}

#[derive(Serialize, Deserialize)]
struct Mark<S> {
    identity: String,
    folder: String,
    bytes: BTreeMap<String, u64>,
    state: S,
}

impl Folder {
    /// Opens OUT and restores the network from its last checkpoint, if there is one. `identity`
    /// hashes all that determines the run; `every` is the work that a kill may cost.
    ///
    /// # Errors
    /// A folder that holds another run, where that is to be refused; a checkpoint that cannot be
    /// read.
    pub fn open<S: DeserializeOwned + Default>(
        out: &Path,
        identity: &str,
        other: Other,
        every: Duration,
        network: &mut Network,
    ) -> Result<(Self, S), Error> {
        let io = rlaif_core::Error::io;
        let mut mark: Option<Mark<S>> = None;
        let mark_path = out.join(MARK);
        if let Ok(text) = std::fs::read_to_string(&mark_path) {
            match serde_json::from_str::<Mark<S>>(&text) {
                Ok(read) if read.identity == identity => mark = Some(read),
                Ok(_) | Err(_) if other == Other::Replace => {
                    std::fs::remove_dir_all(out).map_err(io("remove", out))?;
                }
                Ok(_) => {
                    return Err(Error::input(
                        format!(
                            "`{}` holds a run with other settings or data",
                            out.display()
                        ),
                        "give another --out, or remove the folder to begin again",
                    ));
                }
                Err(e) => {
                    return Err(Error::input(
                        format!("`{}` cannot be read: {e}", mark_path.display()),
                        "give another --out, or remove the folder",
                    ));
                }
            }
        }
        std::fs::create_dir_all(out).map_err(io("create", out))?;
        if let Some(mark) = &mark {
            network.restore(&out.join(&mark.folder))?;
        }
        let mut growing = BTreeMap::new();
        for name in GROWING {
            let bytes = mark
                .as_ref()
                .and_then(|m| m.bytes.get(name).copied())
                .unwrap_or(0);
            let path = out.join(name);
            if bytes == 0 && !path.exists() {
                continue;
            }
            let mut file = create(&path)?;
            // What came after the checkpoint belongs to steps that will be taken again.
            file.set_len(bytes)
                .and_then(|()| file.seek(SeekFrom::End(0)))
                .map_err(rlaif_core::Error::io("write", &path))?;
            growing.insert(name, file);
        }
        let folder = Folder {
            out: out.to_path_buf(),
            identity: identity.to_string(),
            growing,
            every,
            last: Instant::now(),
        };
        Ok((folder, mark.map_or_else(S::default, |m| m.state)))
    }

    /// Begins OUT with the checkpoint of another run's folder and what had grown until then, under
    /// an identity of its own. An OUT that already holds a run of that identity stays as it is.
    ///
    /// # Errors
    /// A folder without a checkpoint; files that cannot be copied.
    pub fn take_over(out: &Path, from: &Path, identity: &str) -> Result<(), Error> {
        let io = rlaif_core::Error::io;
        let read = read_mark::<serde_json::Value>;
        let own = out.join(MARK);
        if read(&own).is_ok_and(|mark| mark.identity == identity) {
            return Ok(());
        }
        let mark = read(&from.join(MARK))?;
        if out.exists() {
            std::fs::remove_dir_all(out).map_err(io("remove", out))?;
        }
        let (there, here) = (from.join(&mark.folder), out.join(&mark.folder));
        std::fs::create_dir_all(&here).map_err(io("create", &here))?;
        for entry in std::fs::read_dir(&there)
            .map_err(io("read", &there))?
            .flatten()
        {
            copy(&entry.path(), &here.join(entry.file_name()))?;
        }
        for name in mark.bytes.keys() {
            copy(&from.join(name), &out.join(name))?;
        }
        let mark = Mark {
            identity: identity.to_owned(),
            ..mark
        };
        let text = serde_json::to_string_pretty(&mark).unwrap_or_default();
        rlaif_core::run::write_atomic(&own, text.as_bytes())?;
        Ok(())
    }

    /// Appends to one of the files that grow with the run.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn append(&mut self, name: &'static str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.out.join(name);
        let file = match self.growing.entry(name) {
            std::collections::btree_map::Entry::Occupied(o) => o.into_mut(),
            std::collections::btree_map::Entry::Vacant(v) => v.insert(create(&path)?),
        };
        file.write_all(bytes)
            .map_err(rlaif_core::Error::io("write", &path))?;
        Ok(())
    }

    /// Logs a step: a line of JSON, and its numbers for TensorBoard.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn log(&mut self, step: u64, line: &impl Serialize) -> Result<(), Error> {
        let mut text = serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
        self.append(LOG, text.as_bytes())?;
        let value = serde_json::to_value(line).unwrap_or_default();
        self.append(EVENTS, &events::scalars(step, &value))
    }

    /// Whether a checkpoint's time has come.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    /// Writes a checkpoint beside the last one, then points to it, then removes the old one.
    ///
    /// # Errors
    /// A file that cannot be written: the last checkpoint stays.
    pub fn checkpoint<S: Serialize>(
        &mut self,
        network: &Network,
        step: u64,
        state: &S,
    ) -> Result<(), Error> {
        let io = rlaif_core::Error::io;
        let name = format!("checkpoint-{step}");
        let folder = self.out.join(&name);
        std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        network.save_state(&folder)?;
        let mut bytes = BTreeMap::new();
        for (name, file) in &self.growing {
            file.sync_all().map_err(io("write", &self.out))?;
            let size = file.metadata().map_err(io("read", &self.out))?.len();
            bytes.insert((*name).to_owned(), size);
        }
        let mark = Mark {
            identity: self.identity.clone(),
            folder: name.clone(),
            bytes,
            state,
        };
        let text = serde_json::to_string_pretty(&mark).unwrap_or_default();
        rlaif_core::run::write_atomic(&self.out.join(MARK), text.as_bytes())?;
        clear(&self.out, &name)?;
        self.last = Instant::now();
        Ok(())
    }
}

/// Removes the checkpoint of a run that has ended and is recorded elsewhere: with the optimizer's
/// moments it takes three times the model's room.
///
/// # Errors
/// A file or folder that cannot be removed.
pub fn discard_checkpoint(out: &Path) -> Result<(), Error> {
    let mark = out.join(MARK);
    if mark.is_file() {
        std::fs::remove_file(&mark).map_err(rlaif_core::Error::io("remove", &mark))?;
    }
    clear(out, "")
}

/// Removes all checkpoints but one.
fn clear(out: &Path, keep: &str) -> Result<(), Error> {
    let entries = std::fs::read_dir(out).map_err(rlaif_core::Error::io("read", out))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") && name != keep {
            let folder = entry.path();
            std::fs::remove_dir_all(&folder).map_err(rlaif_core::Error::io("remove", &folder))?;
        }
    }
    Ok(())
}

fn read_mark<S: DeserializeOwned>(path: &Path) -> Result<Mark<S>, Error> {
    let text = std::fs::read_to_string(path).map_err(rlaif_core::Error::io("read", path))?;
    serde_json::from_str(&text).map_err(|e| {
        Error::Core(rlaif_core::Error::Format {
            path: path.to_path_buf(),
            problem: e.to_string(),
        })
    })
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::copy(from, to).map_err(rlaif_core::Error::io("write", to))?;
    Ok(())
}

fn create(path: &Path) -> Result<File, Error> {
    Ok(OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(rlaif_core::Error::io("write", path))?)
}
