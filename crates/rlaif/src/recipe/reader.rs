//! Reading the parts of a recipe: every fault with its place in the text and the nearest known key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};

use super::{Fault, FolderTable, Head, ModelSource, Recipe};

/// Collects faults while the parts of a recipe are read.
pub(super) struct Reader<'a> {
    pub text: &'a str,
    /// Keys given with `--set`.
    pub overrides: Vec<String>,
    pub faults: Vec<Fault>,
}

impl Reader<'_> {
    pub fn fault(&mut self, path: &[&str], message: String, help: Option<String>) {
        let dotted = path.join(".");
        // A value that came from the command line stands nowhere in the file.
        let from_cli = self.overrides.contains(&dotted);
        let span = if from_cli {
            None
        } else {
            key_span(self.text, path)
        };
        let place = if from_cli {
            " (given with `--set`)"
        } else {
            ""
        };
        self.faults.push(Fault {
            message: format!("{message}{place}"),
            span,
            help,
        });
    }

    /// Reads one table; each unknown key is a fault of its own and is then left out, so that the
    /// faults behind it are found as well.
    fn read<T>(&mut self, at: &[&str], table: toml::Table) -> Option<T>
    where
        T: DeserializeOwned + Default + Serialize,
    {
        // Of a table made of several parts serde does not list the keys; the defaults do.
        let all = serde_json::to_value(T::default()).unwrap_or_default();
        let keys: Vec<String> = all
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect();
        self.read_as(at, table, &keys)
    }

    fn read_as<T: DeserializeOwned>(
        &mut self,
        at: &[&str],
        mut table: toml::Table,
        keys: &[String],
    ) -> Option<T> {
        loop {
            let error = match T::deserialize(toml::Value::Table(table.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let message = error.message().to_owned();
            let Some((unknown, mut known)) = unknown_field(&message) else {
                let (path, message) = self.locate(at, &table, &message);
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                self.fault(&path, message, None);
                return None;
            };
            let mut path: Vec<String> = at.iter().map(|s| (*s).to_owned()).collect();
            if !remove_key(&mut table, &unknown, &mut path) {
                self.fault(at, message, None);
                return None;
            }
            if known.is_empty() {
                known.extend_from_slice(keys);
            }
            let help = nearest(&unknown, &known);
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            self.fault(
                &path,
                format!("unknown key `{}`", path.join(".")),
                Some(help),
            );
        }
    }

    /// The keys above all tables. They have no defaults to list, but `Head` is one struct, whose
    /// keys serde lists.
    pub fn read_head(&mut self, table: toml::Table) -> Option<Head> {
        match Head::deserialize(toml::Value::Table(table.clone())) {
            Ok(head) => Some(head),
            Err(error) => {
                let (path, message) = self.locate(&[], &table, error.message());
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                self.fault(&path, message, None);
                None
            }
        }
    }

    pub fn models(&mut self, tables: toml::Table, folder: &Path) -> BTreeMap<String, ModelSource> {
        let mut models = BTreeMap::new();
        for (name, value) in tables {
            let toml::Value::Table(inner) = value else {
                self.fault(
                    &["models", &name],
                    format!("`models.{name}` must be a table"),
                    Some(format!(
                        "write `[models.{name}]` with `url = \"…\"` or `folder = \"…\"`"
                    )),
                );
                continue;
            };
            let at = ["models", name.as_str()];
            let source = if inner.contains_key("folder") || !cfg!(feature = "remote") {
                let table: Option<FolderTable> = self.read(&at, inner);
                table.map(|t| ModelSource::Folder(folder.join(t.folder)))
            } else {
                self.endpoint(&at, inner)
            };
            models.extend(source.map(|s| (name, s)));
        }
        models
    }

    #[cfg(feature = "remote")]
    fn endpoint(&mut self, at: &[&str], table: toml::Table) -> Option<ModelSource> {
        self.read_as(at, table, &[]).map(ModelSource::Endpoint)
    }

    #[cfg(not(feature = "remote"))]
    fn endpoint(&mut self, _: &[&str], _: toml::Table) -> Option<ModelSource> {
        None
    }

    /// Reads the table of a stage into its place.
    pub fn stage(&mut self, recipe: &mut Recipe, name: &'static str, table: toml::Table) {
        let at = [name];
        match name {
            "candidates" => recipe.candidates = self.read(&at, table),
            "critique" => recipe.critique = self.read(&at, table),
            "revise" => recipe.revise = self.read(&at, table),
            "sft_candidates" => {
                let mut table = table;
                let own = toml::Value::String("sft".into());
                table.entry("model").or_insert(own);
                recipe.sft_candidates = self.read(&at, table);
            }
            "pairs" => recipe.pairs = self.read(&at, table).unwrap_or_default(),
            "contrast" => recipe.contrast = self.read(&at, table),
            "judge" => recipe.judge = self.read(&at, table),
            "export" => recipe.export = self.read(&at, table),
            #[cfg(feature = "local")]
            "sft" => recipe.sft = self.read(&at, table),
            #[cfg(feature = "local")]
            "reward" => recipe.reward = self.read(&at, table),
            #[cfg(feature = "local")]
            "ppo" => recipe.ppo = self.read(&at, table),
            #[cfg(feature = "local")]
            "online" => recipe.online = self.read(&at, table),
            #[cfg(feature = "local")]
            "dpo" => recipe.dpo = self.read(&at, table),
            #[cfg(feature = "local")]
            "evaluate" => recipe.evaluate = self.read(&at, table),
            other => self.fault(
                &at,
                format!("`[{other}]` needs models in memory, which this build does not run"),
                Some("build with `--features local`".into()),
            ),
        }
    }

    /// Finds the key that a message is about, where its value alone can be named.
    fn locate(&self, at: &[&str], table: &toml::Table, message: &str) -> (Vec<String>, String) {
        let mut path: Vec<String> = at.iter().map(|s| (*s).to_owned()).collect();
        let first = message.lines().next().unwrap_or_default().to_owned();
        // "invalid type: string "x", expected u64": look for the value in this table.
        fn shows(value: &toml::Value, message: &str) -> bool {
            match value {
                toml::Value::String(s) => {
                    message.contains(&format!("\"{s}\"")) || message.contains(&format!("`{s}`"))
                }
                toml::Value::Integer(n) => message.contains(&format!("`{n}`")),
                toml::Value::Float(n) => message.contains(&format!("`{n:?}`")),
                toml::Value::Boolean(b) => message.contains(&format!("`{b}`")),
                _ => false,
            }
        }
        fn search(table: &toml::Table, message: &str, path: &mut Vec<String>) -> bool {
            for (key, value) in table {
                path.push(key.clone());
                let found = match value {
                    toml::Value::Table(inner) => search(inner, message, path),
                    other => shows(other, message),
                };
                if found {
                    return true;
                }
                path.pop();
            }
            false
        }
        if search(table, &first, &mut path) {
            let message = format!("`{}`: {first}", path.join("."));
            (path, message)
        } else if at.is_empty() {
            (path, first)
        } else {
            (path, format!("table `{}`: {first}", at.join(".")))
        }
    }
}

/// The field and the known ones of serde's message about an unknown field.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.split("unknown field `").nth(1)?;
    let mut ticks = rest.split('`');
    let unknown = ticks.next()?.to_owned();
    // What is left alternates between words and names in back-ticks.
    let known = ticks.skip(1).step_by(2).map(str::to_owned).collect();
    Some((unknown, known))
}

/// The nearest known key, or all of them.
pub(super) fn nearest(unknown: &str, known: &[String]) -> String {
    let best = known
        .iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(unknown, k), k))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, key)) if score >= 0.5 => format!("did you mean `{key}`?"),
        _ => format!(
            "known here: {}",
            known
                .iter()
                .map(|k| format!("`{k}`"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// Removes a key from a table or the tables inside it, and says where it stood.
fn remove_key(table: &mut toml::Table, key: &str, path: &mut Vec<String>) -> bool {
    if table.remove(key).is_some() {
        path.push(key.to_owned());
        return true;
    }
    for (name, value) in table.iter_mut() {
        if let toml::Value::Table(inner) = value {
            path.push(name.clone());
            if remove_key(inner, key, path) {
                return true;
            }
            path.pop();
        }
    }
    false
}

/// Bytes of a key in the text, or of the innermost table on its way that the text names.
fn key_span(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut span = None;
    for part in path {
        let Some((key, value)) = table.get_key_value(*part) else {
            break;
        };
        span = Some(key.span());
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    span
}

/// Applies `a.b=value`; the value is TOML, or a plain string where it is not.
pub(super) fn set(table: &mut toml::Table, text: &str) -> Result<String, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`--set {text}` has no `=`"))?;
    let (key, value) = (key.trim(), value.trim());
    let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut at = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() {
            return Err(format!("`--set {text}` has an empty key"));
        }
        if parts.peek().is_none() {
            at.insert(part.to_owned(), value);
            break;
        }
        at = at
            .entry(part.to_owned())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("`--set {text}`: `{part}` is not a table"))?;
    }
    Ok(key.to_owned())
}
