//! Recipes: one TOML file a run, one table a stage. Every fault is found before a model is asked,
//! and all faults are shown at once, each with its place and the nearest known key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rlaif_feedback::{CandidatesConfig, CritiqueConfig, JudgeConfig, ReviseConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

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
    /// Models by name.
    #[cfg(feature = "remote")]
    pub models: BTreeMap<String, EndpointConfig>,
    /// `[candidates]`.
    pub candidates: Option<CandidatesConfig>,
    /// `[critique]`.
    pub critique: Option<CritiqueConfig>,
    /// `[revise]`.
    pub revise: Option<ReviseConfig>,
    /// `[pairs]`.
    pub pairs: PairsConfig,
    /// `[judge]`.
    pub judge: Option<JudgeConfig>,
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
}

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

const TABLES: [&str; 7] = [
    "models",
    "candidates",
    "critique",
    "revise",
    "pairs",
    "judge",
    "export",
];

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
    fn read<T: DeserializeOwned>(&mut self, at: &[&str], mut table: toml::Table) -> Option<T> {
        loop {
            let error = match T::deserialize(toml::Value::Table(table.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let message = error.message().to_owned();
            let Some((unknown, known)) = unknown_field(&message) else {
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
            let help = nearest(&unknown, &known);
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            self.fault(
                &path,
                format!("unknown key `{}`", path.join(".")),
                Some(help),
            );
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
        let heads = [
            "seed",
            "constitution",
            "prompts",
            "limit",
            "concurrency",
            "max_failed",
        ];
        let unknown: Vec<String> = table
            .keys()
            .filter(|k| !heads.contains(&k.as_str()))
            .cloned()
            .collect();
        for key in unknown {
            table.remove(&key);
            let known: Vec<String> = heads
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
        let head: Option<Head> = reader.read(&[], table);
        #[cfg(feature = "remote")]
        let mut models = BTreeMap::new();
        for (name, value) in tables.remove("models").unwrap_or_default() {
            let toml::Value::Table(inner) = value else {
                reader.fault(
                    &["models", &name],
                    format!("`models.{name}` must be a table"),
                    Some(format!("write `[models.{name}]` with `url = \"…\"`")),
                );
                continue;
            };
            #[cfg(feature = "remote")]
            if let Some(config) = reader.read::<EndpointConfig>(&["models", &name], inner) {
                models.insert(name, config);
            }
        }
        let mut stage = |name: &'static str| tables.remove(name).map(|t| (name, t));
        let parts = [
            stage("candidates"),
            stage("critique"),
            stage("revise"),
            stage("pairs"),
            stage("judge"),
            stage("export"),
        ];
        let [candidates, critique, revise, pairs, judge, export] = parts;
        let before = reader.faults.len();
        let candidates: Option<CandidatesConfig> =
            candidates.and_then(|(n, t)| reader.read(&[n], t));
        let critique: Option<CritiqueConfig> = critique.and_then(|(n, t)| reader.read(&[n], t));
        let revise: Option<ReviseConfig> = revise.and_then(|(n, t)| reader.read(&[n], t));
        let pairs: Option<PairsConfig> = pairs.and_then(|(n, t)| reader.read(&[n], t));
        let judge: Option<JudgeConfig> = judge.and_then(|(n, t)| reader.read(&[n], t));
        let export: Option<ExportConfig> = export.and_then(|(n, t)| reader.read(&[n], t));
        let tables_are_whole = reader.faults.len() == before;
        let folder = path.parent().unwrap_or(Path::new(""));
        let head = head?;
        let recipe = Recipe {
            path: path.to_path_buf(),
            text: String::new(),
            seed: head.seed,
            constitution: resolve(folder, head.constitution),
            prompts: resolve(folder, head.prompts),
            limit: head.limit,
            concurrency: head.concurrency,
            max_usd: head.max_usd,
            max_calls: head.max_calls,
            prices: head.prices.map(|p| folder.join(p)),
            max_failed: head.max_failed,
            #[cfg(feature = "remote")]
            models,
            candidates,
            critique,
            revise,
            pairs: pairs.unwrap_or_default(),
            judge,
            export,
        };
        if tables_are_whole {
            recipe.check(reader);
        }
        Some(recipe)
    }

    /// Checks what the types do not: ranges, and names that must exist.
    fn check(&self, reader: &mut Reader<'_>) {
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
        #[cfg(feature = "remote")]
        for (table, model) in self.models_used() {
            if !self.models.contains_key(model) {
                let known: Vec<String> = self.models.keys().cloned().collect();
                let help = if known.is_empty() {
                    format!("add a table `[models.{model}]` with `url = \"http://…/v1#name\"`")
                } else {
                    nearest(model, &known)
                };
                reader.fault(
                    &[table, "model"],
                    format!("`{table}` uses the model `{model}`, which no `[models.…]` defines"),
                    Some(help),
                );
            }
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
            if self.judge.is_some() && self.pairs.compare == Compare::Candidates && c.n < 2 {
                reader.fault(
                    &["candidates", "n"],
                    "comparing candidates needs `candidates.n` of at least 2".into(),
                    None,
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
            if !(0.0..=0.5).contains(&j.tie_margin) {
                let message = format!(
                    "`judge.tie_margin` must be in [0, 0.5], got `{}`",
                    j.tie_margin
                );
                reader.fault(&["judge", "tie_margin"], message, None);
            }
            let [lo, hi] = j.cot_clamp;
            if !(0.0 <= lo && lo <= hi && hi <= 1.0) {
                let message = format!(
                    "`judge.cot_clamp` must be two rising numbers in [0, 1], got `[{lo}, {hi}]`"
                );
                reader.fault(&["judge", "cot_clamp"], message, None);
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
        for config in self.models.values_mut() {
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

    /// Which table uses which model.
    #[must_use]
    pub fn models_used(&self) -> Vec<(&'static str, &str)> {
        let mut used = Vec::new();
        if let Some(c) = &self.candidates {
            used.push(("candidates", c.model.as_str()));
        }
        if let Some(c) = &self.critique {
            used.push(("critique", c.model.as_str()));
        }
        if let Some(c) = &self.revise {
            used.push(("revise", c.model.as_str()));
        }
        if let Some(c) = &self.judge {
            used.push(("judge", c.model.as_str()));
        }
        used
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
