//! Recipes: one TOML file a run, one table a stage. Every fault is found before a model is asked,
//! and all faults are shown at once, each with its place and the nearest known key.

mod check;
mod reader;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rlaif_core::Sampling;
use rlaif_feedback::{CandidatesConfig, ContrastConfig, CritiqueConfig, JudgeConfig, ReviseConfig};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use check::Found;
use reader::{Reader, nearest, set};

#[cfg(feature = "local")]
use crate::stages::evaluate::EvaluateConfig;
use crate::stages::round::OnlineConfig;
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
    /// `[contrast]`: with it, pairs are labeled by how they were made, and `[judge]` serves the
    /// evaluation alone.
    pub contrast: Option<ContrastConfig>,
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
    /// `[online]`.
    pub online: Option<OnlineConfig>,
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

const TABLES: [&str; 15] = [
    "models",
    "candidates",
    "critique",
    "revise",
    "sft",
    "sft_candidates",
    "pairs",
    "contrast",
    "judge",
    "reward",
    "ppo",
    "online",
    "dpo",
    "evaluate",
    "export",
];

/// Stages that write a model, which later tables name by the stage.
const WRITERS: [&str; 4] = ["sft", "reward", "ppo", "dpo"];

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
            contrast: None,
            judge: None,
            #[cfg(feature = "local")]
            reward: None,
            #[cfg(feature = "local")]
            ppo: None,
            #[cfg(feature = "local")]
            dpo: None,
            #[cfg(feature = "local")]
            evaluate: None,
            online: None,
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

    /// How PPO's own completions are labeled on its way; none where PPO is not run.
    #[must_use]
    pub fn online(&self) -> Option<&OnlineConfig> {
        let ppo = self.optimizes_by() == Some(Algorithm::Ppo);
        self.online.as_ref().filter(|_| ppo)
    }

    /// How the policy samples what is compared.
    #[must_use]
    pub fn samples_by(&self) -> Option<&Sampling> {
        let tables = [&self.sft_candidates, &self.candidates];
        tables.into_iter().flatten().next().map(|c| &c.sampling)
    }

    /// The judge that labels the pairs; none where they are labeled by how they were made.
    #[must_use]
    pub fn labels_by(&self) -> Option<&JudgeConfig> {
        self.judge.as_ref().filter(|_| self.contrast.is_none())
    }

    /// Whether the recipe makes labels.
    #[must_use]
    pub fn has_labels(&self) -> bool {
        self.judge.is_some() || self.contrast.is_some()
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
        if let Some(c) = &self.contrast {
            add("contrast", "model", &c.model);
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
