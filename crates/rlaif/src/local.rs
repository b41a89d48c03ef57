//! What every use of a model in memory needs: conversations as token ids, a model's identity.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif_core::run::sha256_file;
use rlaif_core::{LanguageModel as _, Message, Model};
use rlaif_engine::{LlamaConfig, LocalModel, Options, Tokenizer};

use crate::error::Error;
use crate::rows::row_key;

/// A conversation with its answer as ids, and how many of them are the prompt. With a chat template
/// the prompt is the longest beginning that both renderings share, as TRL's `apply_chat_template`
/// takes it; without one the answer follows the plain prompt and an end token.
///
/// # Errors
/// What the template refuses; a prompt without tokens.
pub fn conversation(
    tokenizer: &Tokenizer,
    config: &LlamaConfig,
    messages: &[Message],
    completion: &str,
) -> Result<(usize, Vec<u32>), Error> {
    let prompt = tokenizer.chat(messages, true, None)?;
    let mut all = messages.to_vec();
    all.push(Message::assistant(completion));
    let whole = if tokenizer.has_template() {
        let mut whole = tokenizer.chat(&all, false, None)?;
        // What a template writes after the end of the turn is no part of the answer.
        if let Some(end) = whole.iter().rposition(|id| config.eos.contains(id)) {
            whole.truncate(end + 1);
        }
        whole
    } else {
        let mut whole = prompt.clone();
        whole.extend(tokenizer.encode(completion, false)?);
        whole.extend(config.eos.first());
        whole
    };
    let shared = prompt
        .iter()
        .zip(&whole)
        .take_while(|(a, b)| a == b)
        .count();
    if shared == 0 || shared == whole.len() {
        return Err(Error::input(
            "a row has no prompt or no answer once it is tokenized",
            "check the chat template of the model's folder",
        ));
    }
    Ok((shared, whole))
}

/// Files of a folder that determine what its model says.
const MODEL_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "chat_template.jinja",
    "adapter_config.json",
];

/// A hash of all that determines what a folder's model says: weights, shape, tokenizer, template.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn fingerprint(folder: &Path) -> Result<String, Error> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map_err(rlaif_core::Error::io("read", folder))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".safetensors") || MODEL_FILES.contains(&name.as_str()))
        .collect();
    names.sort();
    let mut parts = Vec::with_capacity(2 * names.len());
    for name in names {
        parts.push(sha256_file(&folder.join(&name))?);
        parts.push(name);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(row_key(&parts))
}

/// Models of a run that are folders: each opened once, and closed where training needs the memory.
#[derive(Default)]
pub struct LocalModels {
    open: BTreeMap<PathBuf, Arc<LocalModel>>,
    fingerprints: BTreeMap<PathBuf, String>,
    closed: (u64, u64, u64),
}

impl LocalModels {
    /// The model of a folder. Its id is the folder's name and the beginning of its fingerprint, so
    /// that whatever was sampled from other weights under the same name is not taken for its own.
    ///
    /// # Errors
    /// Files that are missing, corrupt or of another architecture.
    pub fn open(&mut self, folder: &Path) -> Result<Model, Error> {
        if let Some(model) = self.open.get(folder) {
            return Ok(Arc::clone(model) as Model);
        }
        let fingerprint = self.fingerprint(folder)?;
        let model = LocalModel::open(folder, Options::default())?;
        let id = format!("{}@{}", model.id(), &fingerprint[..12]);
        let model = Arc::new(model.named(&id));
        self.open.insert(folder.to_path_buf(), Arc::clone(&model));
        Ok(model)
    }

    /// [`fingerprint`], once a folder.
    ///
    /// # Errors
    /// As there.
    pub fn fingerprint(&mut self, folder: &Path) -> Result<String, Error> {
        if let Some(known) = self.fingerprints.get(folder) {
            return Ok(known.clone());
        }
        let made = fingerprint(folder)?;
        self.fingerprints.insert(folder.to_path_buf(), made.clone());
        Ok(made)
    }

    /// Closes all models: their memory is free once no call of theirs is left.
    pub fn close(&mut self) {
        for (_, model) in std::mem::take(&mut self.open) {
            add(&mut self.closed, model.answered());
        }
    }

    /// A folder was written anew.
    pub fn forget(&mut self, folder: &Path) {
        if let Some(model) = self.open.remove(folder) {
            add(&mut self.closed, model.answered());
        }
        self.fingerprints.remove(folder);
    }

    /// Calls, prompt tokens and generated tokens answered so far.
    #[must_use]
    pub fn answered(&self) -> (u64, u64, u64) {
        let mut sum = self.closed;
        for model in self.open.values() {
            add(&mut sum, model.answered());
        }
        sum
    }
}

fn add(sum: &mut (u64, u64, u64), more: (u64, u64, u64)) {
    sum.0 += more.0;
    sum.1 += more.1;
    sum.2 += more.2;
}
