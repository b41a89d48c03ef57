//! Recipes: one TOML file a run, one table a stage. Every fault is found before a model is asked,
//! and all faults are shown at once, each with its place and the nearest known key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rlaif_feedback::{CandidatesConfig, CritiqueConfig, JudgeConfig, ReviseConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

#[cfg(feature = "local")]
use crate::stages::evaluate::EvaluateConfig;
#[cfg(feature = "local")]
use crate::train::{DpoConfig, PpoConfig, RewardConfig, SftConfig};
#[cfg(feature = "remote")]
use rlaif_client::EndpointConfig;

/// One fault of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// Bytes of the recipe's text that it is about, where known.
    pub span: Option<Range<usize>>,
    /// What to do.
    pub help: Option<String>,
}

/// What the judge compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// The last revision with the response that the chain began with.
    #[default]
    Revision,
    /// Candidates of one prompt with each other.
    Candidates,
    /// Candidates of the fine-tuned policy with each other.
    SftCandidates,
}

/// How the policy is optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Against a reward model.
    Ppo,
    /// On the preferences directly.
    Dpo,
}

impl Algorithm {
    /// Its stage, and the name of the policy that the stage writes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Ppo => "ppo",
            Algorithm::Dpo => "dpo",
        }
    }
}

/// Where a model of a recipe comes from.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // a recipe names a handful of models
pub enum ModelSource {
    /// A Hugging Face folder, run in memory.
    Folder(PathBuf),
    /// An endpoint.
    #[cfg(feature = "remote")]
    Endpoint(EndpointConfig),
}

/// `[models.NAME]` for a model in memory.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderTable {
    folder: PathBuf,
}

/// One place of a recipe that names a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelUse<'a> {
    /// The table.
    pub table: &'static str,
    /// The key in it.
    pub key: &'static str,
    /// The model's name: of a `[models.…]` table, or of the stage that writes it.
    pub name: &'a str,
}

/// Which pairs are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairsConfig {
    /// `revision` or `candidates`.
    pub compare: Compare,
    /// Among candidates: `all`, `adjacent` or `random:N`.
    pub select: String,
}

impl Default for PairsConfig {
    fn default() -> Self {
        PairsConfig {
            compare: Compare::Revision,
            select: "all".into(),
        }
    }
}

/// What the run writes for other tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportConfig {
    /// Any of `trl`, `openrlhf`, `verl`, `distilabel`, `jsonl`.
    pub to: Vec<String>,
}

impl Default for ExportConfig {
    fn default() -> Self {
        ExportConfig {
            to: vec!["trl".into()],
        }
    }
}

/// A checked recipe. A stage whose table is absent is not run.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// The constitution's path, relative paths resolved against the recipe's folder.
    pub constitution: PathBuf,
    /// The prompts' path, likewise.
    pub prompts: PathBuf,
    /// At most so many prompts.
    pub limit: Option<usize>,
    /// Calls in flight to each model, at most; `None` is as many as it bears.
    pub concurrency: Option<usize>,
    /// US dollars that all runs in the folder may spend together.
    pub max_usd: Option<f64>,
    /// Calls that they may make together.
    pub max_calls: Option<u64>,
    /// A file of prices that goes before the shipped table.
    pub prices: Option<PathBuf>,
    /// Share of rows that may fail, in [0, 1].
    pub max_failed: f64,
    /// Which of `[ppo]` and `[dpo]` is run; absent: the one that there is.
    pub algorithm: Option<Algorithm>,
    /// Models by name.
    pub models: BTreeMap<String, ModelSource>,
    /// `[candidates]`.
    pub candidates: Option<CandidatesConfig>,
    /// `[critique]`.
    pub critique: Option<CritiqueConfig>,
    /// `[revise]`.
    pub revise: Option<ReviseConfig>,
    /// `[sft]`.
    #[cfg(feature = "local")]
    pub sft: Option<SftConfig>,
    /// `[sft_candidates]`.
    pub sft_candidates: Option<CandidatesConfig>,
    /// `[pairs]`.
    pub pairs: PairsConfig,
    /// `[judge]`.
    pub judge: Option<JudgeConfig>,
    /// `[reward]`.
    #[cfg(feature = "local")]
    pub reward: Option<RewardConfig>,
    /// `[ppo]`.
    #[cfg(feature = "local")]
    pub ppo: Option<PpoConfig>,
    /// `[dpo]`.
    #[cfg(feature = "local")]
    pub dpo: Option<DpoConfig>,
    /// `[evaluate]`.
    #[cfg(feature = "local")]
    pub evaluate: Option<EvaluateConfig>,
    /// `[export]`.
    pub export: Option<ExportConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    seed: u64,
    constitution: PathBuf,
    prompts: PathBuf,
    limit: Option<usize>,
    #[serde(default, deserialize_with = "concurrency")]
    concurrency: Option<usize>,
    max_usd: Option<f64>,
    max_calls: Option<u64>,
    prices: Option<PathBuf>,
    #[serde(default = "one_percent")]
    max_failed: f64,
    algorithm: Option<Algorithm>,
}

const HEADS: [&str; 10] = [
    "seed",
    "constitution",
    "prompts",
    "limit",
    "concurrency",
    "max_usd",
    "max_calls",
    "prices",
    "max_failed",
    "algorithm",
];

/// `"auto"`, or a number of at least 1.
fn concurrency<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Option<usize>, D::Error> {
    match toml::Value::deserialize(reader)? {
        toml::Value::String(word) if word == "auto" => Ok(None),
        toml::Value::Integer(n) if n > 0 => Ok(Some(n as usize)),
        other => Err(serde::de::Error::custom(format!(
            "`concurrency` must be `\"auto\"` or a number of at least 1, got `{other}`"
        ))),
    }
}

fn one_percent() -> f64 {
    0.01
}

const TABLES: [&str; 13] = [
    "models",
    "candidates",
    "critique",
    "revise",
    "sft",
    "sft_candidates",
    "pairs",
    "judge",
    "reward",
    "ppo",
    "dpo",
    "evaluate",
    "export",
];

/// Stages that write a model, which later tables name by the stage.
const WRITERS: [&str; 4] = ["sft", "reward", "ppo", "dpo"];

/// Collects faults while the parts of a recipe are read.
struct Reader<'a> {
    text: &'a str,
    overrides: Vec<String>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, path: &[&str], message: String, help: Option<String>) {
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
    fn read_head(&mut self, table: toml::Table) -> Option<Head> {
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

    fn models(&mut self, tables: toml::Table, folder: &Path) -> BTreeMap<String, ModelSource> {
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
    fn stage(&mut self, recipe: &mut Recipe, name: &'static str, table: toml::Table) {
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
            "judge" => recipe.judge = self.read(&at, table),
            "export" => recipe.export = self.read(&at, table),
            #[cfg(feature = "local")]
            "sft" => recipe.sft = self.read(&at, table),
            #[cfg(feature = "local")]
            "reward" => recipe.reward = self.read(&at, table),
            #[cfg(feature = "local")]
            "ppo" => recipe.ppo = self.read(&at, table),
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
fn nearest(unknown: &str, known: &[String]) -> String {
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

impl Recipe {
    /// Reads a recipe, applies `key=value` overrides (`judge.orders=given`), and checks it.
    ///
    /// # Errors
    /// [`Error::Recipe`] with every fault, or the file's own error.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(rlaif_core::Error::io("read", path))?;
        Self::parse(path, text, overrides)
    }

    /// As [`Recipe::read`], from a text.
    ///
    /// # Errors
    /// [`Error::Recipe`].
    pub fn parse(path: &Path, text: String, overrides: &[String]) -> Result<Self, Error> {
        let mut reader = Reader {
            text: &text,
            overrides: Vec::new(),
            faults: Vec::new(),
        };
        let recipe = Self::assemble(path, &mut reader, overrides);
        let faults = reader.faults;
        match recipe {
            Some(mut recipe) if faults.is_empty() => {
                recipe.text = text;
                Ok(recipe)
            }
            _ => Err(Error::Recipe {
                path: path.to_path_buf(),
                text,
                faults,
            }),
        }
    }

    fn assemble(path: &Path, reader: &mut Reader<'_>, overrides: &[String]) -> Option<Self> {
        let mut table: toml::Table = match toml::from_str(reader.text) {
            Ok(table) => table,
            Err(e) => {
                let message = e.message().to_owned();
                reader.faults.push(Fault {
                    message,
                    span: e.span(),
                    help: None,
                });
                return None;
            }
        };
        for text in overrides {
            match set(&mut table, text) {
                Ok(key) => reader.overrides.push(key),
                Err(message) => reader.faults.push(Fault {
                    message,
                    span: None,
                    help: Some("write `--set table.key=value`".into()),
                }),
            }
        }
        let mut tables = BTreeMap::new();
        for name in TABLES {
            match table.remove(name) {
                Some(toml::Value::Table(inner)) => {
                    tables.insert(name, inner);
                }
                Some(_) => reader.fault(
                    &[name],
                    format!("`{name}` must be a table"),
                    Some(format!("write `[{name}]` on a line of its own")),
                ),
                None => {}
            }
        }
        // A table whose name is unknown: its nearest name is among the tables too.
        let unknown: Vec<String> = table
            .keys()
            .filter(|k| !HEADS.contains(&k.as_str()))
            .cloned()
            .collect();
        for key in unknown {
            table.remove(&key);
            let known: Vec<String> = HEADS
                .iter()
                .chain(&TABLES)
                .map(|s| (*s).to_owned())
                .collect();
            reader.fault(
                &[&key],
                format!("unknown key `{key}`"),
                Some(nearest(&key, &known)),
            );
        }
        let head: Option<Head> = reader.read_head(table);
        let folder = path.parent().unwrap_or(Path::new(""));
        let before = reader.faults.len();
        let models = reader.models(tables.remove("models").unwrap_or_default(), folder);
        let mut recipe = Recipe {
            models,
            ..Recipe::new(PathBuf::new(), PathBuf::new())
        };
        for (name, table) in tables {
            reader.stage(&mut recipe, name, table);
        }
        let tables_are_whole = reader.faults.len() == before;
        let head = head?;
        recipe.path = path.to_path_buf();
        recipe.seed = head.seed;
        recipe.constitution = resolve(folder, head.constitution);
        recipe.prompts = resolve(folder, head.prompts);
        recipe.limit = head.limit;
        recipe.concurrency = head.concurrency;
        recipe.max_usd = head.max_usd;
        recipe.max_calls = head.max_calls;
        recipe.prices = head.prices.map(|p| folder.join(p));
        recipe.max_failed = head.max_failed;
        recipe.algorithm = head.algorithm;
        #[cfg(feature = "local")]
        {
            let files = [
                recipe.sft.as_mut().and_then(|c| c.helpful_file.as_mut()),
                recipe.evaluate.as_mut().and_then(|c| c.prompts.as_mut()),
            ];
            for file in files.into_iter().flatten() {
                *file = folder.join(&*file);
            }
        }
        if tables_are_whole {
            for Found {
                path,
                message,
                help,
            } in recipe.check()
            {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                reader.fault(&path, message, help);
            }
        }
        Some(recipe)
    }

    /// A recipe without a stage, at the defaults, for building one in code.
    #[must_use]
    pub fn new(constitution: PathBuf, prompts: PathBuf) -> Self {
        Recipe {
            path: PathBuf::new(),
            text: String::new(),
            seed: 0,
            constitution,
            prompts,
            limit: None,
            concurrency: None,
            max_usd: None,
            max_calls: None,
            prices: None,
            max_failed: one_percent(),
            algorithm: None,
            models: BTreeMap::new(),
            candidates: None,
            critique: None,
            revise: None,
            #[cfg(feature = "local")]
            sft: None,
            sft_candidates: None,
            pairs: PairsConfig::default(),
            judge: None,
            #[cfg(feature = "local")]
            reward: None,
            #[cfg(feature = "local")]
            ppo: None,
            #[cfg(feature = "local")]
            dpo: None,
            #[cfg(feature = "local")]
            evaluate: None,
            export: None,
        }
    }

    /// Checks a recipe built in code, as one that was read is checked.
    ///
    /// # Errors
    /// [`Error::Recipe`] with every fault.
    pub fn checked(self) -> Result<Self, Error> {
        let without_place = |found: Found| Fault {
            message: found.message,
            span: None,
            help: found.help,
        };
        let faults: Vec<Fault> = self.check().into_iter().map(without_place).collect();
        if faults.is_empty() {
            return Ok(self);
        }
        Err(Error::Recipe {
            path: self.path,
            text: self.text,
            faults,
        })
    }

    /// Which policy optimization is run.
    #[must_use]
    pub fn optimizes_by(&self) -> Option<Algorithm> {
        let tables = [
            (Algorithm::Ppo, self.has("ppo")),
            (Algorithm::Dpo, self.has("dpo")),
        ];
        let there = tables.into_iter().filter(|(_, there)| *there);
        there
            .map(|(a, _)| a)
            .find(|a| self.algorithm.is_none_or(|wanted| wanted == *a))
    }

    /// Whether a stage that writes a model is in the recipe.
    fn has(&self, stage: &str) -> bool {
        #[cfg(feature = "local")]
        match stage {
            "sft" => return self.sft.is_some(),
            "reward" => return self.reward.is_some(),
            "ppo" => return self.ppo.is_some(),
            "dpo" => return self.dpo.is_some(),
            _ => {}
        }
        let _ = stage;
        false
    }

    /// Checks what the types do not: ranges, and names that must exist.
    fn check(&self) -> Vec<Found> {
        let mut reader = Faults(Vec::new());
        self.check_models(&mut reader);
        self.check_training(&mut reader);
        if let Some(usd) = self.max_usd.filter(|usd| !(*usd >= 0.0 && usd.is_finite())) {
            let message = format!("`max_usd` must be at least 0, got `{usd}`");
            reader.fault(&["max_usd"], message, None);
        }
        if !(0.0..=1.0).contains(&self.max_failed) {
            let got = self.max_failed;
            reader.fault(
                &["max_failed"],
                format!("`max_failed` must be in [0, 1], got `{got}`"),
                None,
            );
        }
        let mut samplings = Vec::new();
        if let Some(c) = &self.candidates {
            samplings.push(("candidates", &c.sampling));
            if c.n == 0 {
                reader.fault(
                    &["candidates", "n"],
                    "`candidates.n` must be at least 1".into(),
                    None,
                );
            }
        }
        let compared = match self.pairs.compare {
            Compare::Revision => None,
            Compare::Candidates => Some(("candidates", &self.candidates)),
            Compare::SftCandidates => Some(("sft_candidates", &self.sft_candidates)),
        };
        match compared.filter(|_| self.judge.is_some()) {
            Some((table, Some(c))) if c.n < 2 => reader.fault(
                &[table, "n"],
                format!("comparing candidates needs `{table}.n` of at least 2"),
                None,
            ),
            Some((table, None)) => reader.fault(
                &["pairs", "compare"],
                format!("`pairs.compare` is `{table}`, but there is no `[{table}]` table"),
                Some(format!("add `[{table}]`, or compare something else")),
            ),
            _ => {}
        }
        if let Some(c) = &self.sft_candidates {
            samplings.push(("sft_candidates", &c.sampling));
            if self.pairs.compare != Compare::SftCandidates {
                reader.fault(
                    &["sft_candidates"],
                    "`[sft_candidates]` are sampled but not compared".into(),
                    Some("write `[pairs]` with `compare = \"sft_candidates\"`".into()),
                );
            }
        }
        if let Some(c) = &self.critique {
            samplings.push(("critique", &c.sampling));
        }
        if let Some(c) = &self.revise {
            samplings.push(("revise", &c.sampling));
            if !(1..=16).contains(&c.steps) {
                let message = format!("`revise.steps` must be from 1 to 16, got `{}`", c.steps);
                reader.fault(&["revise", "steps"], message, None);
            }
            if self.critique.is_none() {
                reader.fault(
                    &["revise"],
                    "`[revise]` needs critiques to revise by".into(),
                    Some("add a `[critique]` table".into()),
                );
            }
        }
        for (table, s) in samplings {
            if !(s.temperature >= 0.0 && s.temperature.is_finite()) {
                reader.fault(
                    &[table, "sampling", "temperature"],
                    format!(
                        "`{table}.sampling.temperature` must be at least 0, got `{}`",
                        s.temperature
                    ),
                    None,
                );
            }
            if s.max_new_tokens == 0 {
                reader.fault(
                    &[table, "sampling", "max_new_tokens"],
                    format!("`{table}.sampling.max_new_tokens` must be at least 1"),
                    None,
                );
            }
        }
        if let Some(j) = &self.judge {
            for (key, problem) in j.faults() {
                reader.fault(&["judge", key], format!("`judge.{key}` {problem}"), None);
            }
            if self.pairs.compare == Compare::Revision && self.revise.is_none() {
                reader.fault(
                    &["judge"],
                    "`[judge]` is to compare revisions, but there is no `[revise]` table".into(),
                    Some(
                        "add `[revise]`, or write `[pairs]` with `compare = \"candidates\"`".into(),
                    ),
                );
            }
        }
        if let Err(e) = self.pairs.select.parse::<rlaif_core::pairs::Pairs>() {
            reader.fault(&["pairs", "select"], format!("`pairs.select`: {e}"), None);
        }
        for target in self.export.iter().flat_map(|e| &e.to) {
            if let Err(e) = target.parse::<rlaif_core::export::Target>() {
                reader.fault(&["export", "to"], format!("`export.to`: {e}"), None);
            }
        }
        reader.0
    }

    /// Gives every model without a price the one of the tables, and the run's concurrency to every
    /// model without its own.
    ///
    /// # Errors
    /// A table of prices that cannot be read.
    #[cfg(feature = "remote")]
    pub fn complete_models(&mut self) -> Result<(), Error> {
        let fault = |e: rlaif_client::ClientError| Error::input(e.to_string(), "");
        let mut prices = rlaif_client::Prices::shipped().map_err(fault)?;
        if let Some(path) = &self.prices {
            prices = prices.with_file(path).map_err(fault)?;
        }
        for source in self.models.values_mut() {
            let ModelSource::Endpoint(config) = source else {
                continue;
            };
            let (url, named) = config.url.split_once('#').unwrap_or((&config.url, ""));
            let name = config.model.as_deref().unwrap_or(named);
            if config.price.is_none() {
                config.price = prices.quote(url, name).map(|q| q.price);
            }
            if let (Some(n), rlaif_client::Concurrency::Auto) =
                (self.concurrency, config.concurrency)
            {
                config.concurrency = n.into();
            }
        }
        Ok(())
    }

    /// Every place that names a model, in the order of the stages.
    #[must_use]
    pub fn models_used(&self) -> Vec<ModelUse<'_>> {
        let mut used = Vec::new();
        let mut add = |table, key, name| used.push(ModelUse { table, key, name });
        if let Some(c) = &self.candidates {
            add("candidates", "model", c.model.as_str());
        }
        if let Some(c) = &self.critique {
            add("critique", "model", &c.model);
        }
        if let Some(c) = &self.revise {
            add("revise", "model", &c.model);
        }
        #[cfg(feature = "local")]
        if let Some(c) = &self.sft {
            add("sft", "base", &c.base);
        }
        if let Some(c) = &self.sft_candidates {
            add("sft_candidates", "model", &c.model);
        }
        if let Some(c) = &self.judge {
            add("judge", "model", &c.model);
            for juror in &c.jury {
                add("judge", "model", &juror.model);
            }
        }
        #[cfg(feature = "local")]
        {
            if let Some(c) = &self.reward {
                add("reward", "base", &c.base);
            }
            let by = self.optimizes_by();
            if let Some(c) = self.ppo.as_ref().filter(|_| by == Some(Algorithm::Ppo)) {
                add("ppo", "base", &c.base);
                add("ppo", "reward", &c.reward);
            }
            if let Some(c) = self.dpo.as_ref().filter(|_| by == Some(Algorithm::Dpo)) {
                add("dpo", "base", &c.base);
            }
        }
        used
    }

    fn check_models(&self, reader: &mut Faults) {
        for name in self.models.keys() {
            if WRITERS.contains(&name.as_str()) {
                reader.fault(
                    &["models", name],
                    format!("`models.{name}` has the name of a stage that writes a model"),
                    Some("give it another name".into()),
                );
            }
        }
        let place = |table: &str| TABLES.iter().position(|t| *t == table);
        for ModelUse { table, key, name } in self.models_used() {
            match self.models.get(name) {
                Some(ModelSource::Folder(_)) => continue,
                #[cfg(feature = "remote")]
                Some(ModelSource::Endpoint(_)) if key == "model" => continue,
                #[cfg(feature = "remote")]
                Some(ModelSource::Endpoint(_)) => {
                    reader.fault(
                        &[table, key],
                        format!(
                            "`{table}.{key}` is the model `{name}`, which is an endpoint: only a \
                             folder can be trained"
                        ),
                        Some(format!("write `[models.{name}]` with `folder = \"…\"`")),
                    );
                    continue;
                }
                None => {}
            }
            if self.has(name) && place(name) < place(table) {
                continue;
            }
            let mut known: Vec<String> = self.models.keys().cloned().collect();
            let written = WRITERS.iter().filter(|w| self.has(w));
            known.extend(
                written
                    .filter(|w| place(w) < place(table))
                    .map(|w| (*w).to_owned()),
            );
            let help = if known.is_empty() {
                format!(
                    "add a table `[models.{name}]` with `url = \"http://…/v1#name\"` or \
                     `folder = \"…\"`"
                )
            } else {
                nearest(name, &known)
            };
            reader.fault(
                &[table, key],
                format!("`{table}` uses the model `{name}`, which no `[models.…]` defines"),
                Some(help),
            );
        }
    }

    #[cfg(not(feature = "local"))]
    fn check_training(&self, _: &mut Faults) {}

    #[cfg(feature = "local")]
    fn check_training(&self, reader: &mut Faults) {
        match (self.algorithm, self.ppo.is_some(), self.dpo.is_some()) {
            (None, true, true) => reader.fault(
                &["dpo"],
                "there are tables `[ppo]` and `[dpo]`".into(),
                Some("say which by `algorithm = \"ppo\"` or `\"dpo\"` at the top".into()),
            ),
            (Some(a), ppo, dpo)
                if (a == Algorithm::Ppo && !ppo) || (a == Algorithm::Dpo && !dpo) =>
            {
                let name = a.as_str();
                reader.fault(
                    &["algorithm"],
                    format!("`algorithm` is `{name}`, but there is no `[{name}]` table"),
                    Some(format!("add `[{name}]`")),
                );
            }
            _ => {}
        }
        let labels = self.judge.is_some();
        for (table, there, needed, has) in [
            ("sft", self.sft.is_some(), "[revise]", self.revise.is_some()),
            ("reward", self.reward.is_some(), "[judge]", labels),
            ("dpo", self.dpo.is_some(), "[judge]", labels),
            (
                "evaluate",
                self.evaluate.is_some(),
                "[sft]`, `[ppo]` or `[dpo]",
                self.sft.is_some() || self.optimizes_by().is_some(),
            ),
        ] {
            if there && !has {
                reader.fault(
                    &[table],
                    format!("`[{table}]` needs what `{needed}` makes"),
                    Some(format!("add a `{needed}` table")),
                );
            }
        }
        if let Some(c) = &self.sft
            && !(0.0..1.0).contains(&c.helpful_share)
        {
            let message = format!(
                "`sft.helpful_share` must be in [0, 1), got `{}`",
                c.helpful_share
            );
            reader.fault(&["sft", "helpful_share"], message, None);
        }
        let tunes = [
            ("sft", self.sft.as_ref().map(|c| &c.tune)),
            ("reward", self.reward.as_ref().map(|c| &c.tune)),
            ("dpo", self.dpo.as_ref().map(|c| &c.tune)),
        ];
        for (table, tune) in tunes {
            let Some(t) = tune else { continue };
            let rate = t.learning_rate.is_none_or(|r| r > 0.0 && r.is_finite());
            for (key, holds, wanted) in [
                ("learning_rate", rate, "above 0"),
                ("batch_size", t.batch_size > 0, "at least 1"),
                ("num_train_epochs", t.num_train_epochs > 0.0, "above 0"),
                ("max_length", t.max_length > 1, "at least 2"),
                ("lora", t.lora != Some(0), "at least 1"),
                (
                    "warmup_ratio",
                    (0.0..=1.0).contains(&t.warmup_ratio),
                    "in [0, 1]",
                ),
            ] {
                if !holds {
                    let message = format!("`{table}.{key}` must be {wanted}");
                    reader.fault(&[table, key], message, None);
                }
            }
        }
        if let Some(p) = self.ppo.as_ref().map(|c| &c.algorithm) {
            for (key, holds, wanted) in [
                ("learning_rate", p.learning_rate > 0.0, "above 0"),
                ("batch_size", p.batch_size > 0, "at least 1"),
                (
                    "total_episodes",
                    p.total_episodes >= p.batch_size,
                    "at least `ppo.batch_size`",
                ),
                ("temperature", p.temperature > 0.0, "above 0"),
                ("response_length", p.response_length > 0, "at least 1"),
                ("kl_coef", p.kl_coef >= 0.0, "at least 0"),
                ("kl_budget", p.kl_budget.is_none_or(|b| b > 0.0), "above 0"),
                ("target_kl", p.target_kl.is_none_or(|t| t > 0.0), "above 0"),
            ] {
                if !holds {
                    reader.fault(&["ppo", key], format!("`ppo.{key}` must be {wanted}"), None);
                }
            }
        }
    }
}

/// A fault by the key that it is about.
struct Found {
    path: Vec<String>,
    message: String,
    help: Option<String>,
}

/// Faults found after reading.
struct Faults(Vec<Found>);

impl Faults {
    fn fault(&mut self, path: &[&str], message: String, help: Option<String>) {
        self.0.push(Found {
            path: path.iter().map(|p| (*p).to_owned()).collect(),
            message,
            help,
        });
    }
}

/// A supplied constitution stays a bare name; other relative paths start at the recipe's folder.
fn resolve(folder: &Path, path: PathBuf) -> PathBuf {
    let joined = folder.join(&path);
    let supplied = path
        .to_str()
        .and_then(rlaif_core::Constitution::supplied_text)
        .is_some();
    if supplied && !joined.exists() {
        path
    } else {
        joined
    }
}

/// Applies `a.b=value`; the value is TOML, or a plain string where it is not.
fn set(table: &mut toml::Table, text: &str) -> Result<String, String> {
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

#[cfg(all(test, feature = "remote"))]
mod tests {
    use super::*;

    const GOOD: &str = r#"
seed = 3
constitution = "default.toml"
prompts = "prompts.jsonl"
[models.policy]
url = "http://localhost:8000/v1#writer"
[models.critic]
url = "http://localhost:8000/v1#judge"
[candidates]
n = 2
[critique]
[revise]
[judge]
orders = "both"
"#;

    fn faults(text: &str, overrides: &[&str]) -> Vec<Fault> {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        match Recipe::parse(Path::new("r/recipe.toml"), text.to_owned(), &overrides) {
            Err(Error::Recipe { faults, .. }) => faults,
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_recipe_is_read_and_paths_start_at_its_folder() {
        let recipe = Recipe::parse(Path::new("r/recipe.toml"), GOOD.into(), &[]).unwrap();
        assert_eq!(recipe.prompts, Path::new("r/prompts.jsonl"));
        assert_eq!(recipe.constitution, Path::new("default.toml"));
        assert_eq!(recipe.candidates.unwrap().n, 2);
        let overrides = ["candidates.n=5".to_owned(), "judge.orders=given".to_owned()];
        let recipe = Recipe::parse(Path::new("r.toml"), GOOD.into(), &overrides).unwrap();
        assert_eq!(recipe.candidates.unwrap().n, 5);
        assert_eq!(recipe.judge.unwrap().orders, rlaif_feedback::Orders::Given);
    }

    #[test]
    fn all_faults_are_shown_at_once_with_their_places() {
        let text = GOOD
            .replace(
                "n = 2",
                "n = 2\nsamplng = 1\nsampling = { temprature = 0.5 }",
            )
            .replace("orders", "ordrs")
            .replace("seed = 3", "seed = 3\nlimt = 4");
        let found = faults(&text, &[]);
        let say: Vec<String> = found
            .iter()
            .map(|f| {
                format!(
                    "{} | {} | {}",
                    f.message,
                    &text[f.span.clone().unwrap()],
                    f.help.clone().unwrap()
                )
            })
            .collect();
        assert_eq!(say.len(), 4, "{say:#?}");
        for (i, words) in [
            "unknown key `limt` | limt | did you mean `limit`?",
            "`candidates.samplng` | samplng | did you mean `sampling`?",
            "`candidates.sampling.temprature` | temprature | did you mean `temperature`?",
            "`judge.ordrs` | ordrs | did you mean `orders`?",
        ]
        .iter()
        .enumerate()
        {
            assert!(
                say.iter().any(|s| s.contains(words)),
                "{i}: {words} not in {say:#?}"
            );
        }
    }

    #[test]
    fn values_out_of_range_and_models_unknown_are_faults() {
        let found = faults(
            GOOD,
            &[
                "judge.tie_margin=0.7",
                "judge.model=\"critik\"",
                "candidates.n=0",
            ],
        );
        let say: Vec<_> = found.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(say.len(), 3, "{say:#?}");
        assert!(
            say.iter()
                .any(|s| s.contains("tie_margin") && s.contains("--set") | s.contains("0.7"))
        );
        assert!(
            found
                .iter()
                .any(|f| f.help.as_deref() == Some("did you mean `critic`?"))
        );
        let wrong = faults(&GOOD.replace("n = 2", "n = \"two\""), &[]);
        assert!(wrong[0].message.contains("candidates.n"), "{wrong:?}");
        let syntax = faults("seed = ", &[]);
        assert_eq!(syntax.len(), 1);
    }
}
