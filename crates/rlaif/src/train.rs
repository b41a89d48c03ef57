//! Training of models in memory: the engine as the trainer's network, rows as examples, checkpoints.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rlaif_core::dataset::{Dataset, Row as DataRow};
use rlaif_core::seed::{self, Split};
use rlaif_core::{Finish, Message, Sampling};
use rlaif_engine::{
    AdamW, Adapter, Batch, EngineError, Inference, Job, LlamaConfig, LoraConfig, Matrix, Options,
    Outputs, Scheduler, Tape, Tokenizer, Tuner, Weights,
};
use rlaif_train::ppo::{Rollout, Rollouts};
use rlaif_train::{Row, TokenBatch, TokenGrads, TokenOutputs, Trainable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The engine's model as the trainer's network. The reference is the base with the adapter off, or,
/// where all weights train, the weights as they were at the start.
pub struct Network {
    tuner: Tuner,
    start: Arc<Weights>,
    eos: Arc<[u32]>,
    cache_bytes: u64,
}

impl Network {
    /// The tuner behind.
    #[must_use]
    pub fn tuner(&self) -> &Tuner {
        &self.tuner
    }
}

fn batch(b: &TokenBatch) -> Batch<'_> {
    Batch {
        tokens: &b.tokens,
        offsets: &b.offsets,
        wanted: Some(&b.wanted),
        targets: None,
        temperature: b.temperature,
        entropy: b.entropy,
    }
}

fn outputs(o: Outputs) -> TokenOutputs {
    TokenOutputs {
        logprobs: o.logprobs,
        entropy: o.entropy,
        values: o.values,
    }
}

impl Trainable for Network {
    type Tape = Tape;
    type Error = EngineError;

    fn forward(&mut self, b: &TokenBatch) -> Result<(TokenOutputs, Tape), EngineError> {
        let (out, tape) = self.tuner.forward(&batch(b))?;
        Ok((outputs(out), tape))
    }

    fn evaluate(&self, b: &TokenBatch) -> Result<TokenOutputs, EngineError> {
        self.tuner.evaluate(&batch(b), true).map(outputs)
    }

    fn reference(&self, b: &TokenBatch) -> Result<TokenOutputs, EngineError> {
        if self.tuner.adapter().is_some() {
            return self.tuner.evaluate(&batch(b), false).map(outputs);
        }
        self.tuner
            .evaluate_with(&self.start, &batch(b))
            .map(outputs)
    }

    fn backward(&mut self, tape: Tape, g: &TokenGrads) -> Result<(), EngineError> {
        let g = Outputs {
            logprobs: g.logprobs.clone(),
            entropy: g.entropy.clone(),
            values: g.values.clone(),
        };
        self.tuner.backward(tape, &g);
        Ok(())
    }

    fn step(&mut self, lr: f32) -> Result<f32, EngineError> {
        self.tuner.step(lr)
    }
}

impl Rollouts for Network {
    fn generate(
        &mut self,
        prompts: &[&[u32]],
        temperature: f32,
        max_new_tokens: usize,
        seed: u64,
    ) -> Result<Vec<Rollout>, EngineError> {
        let config = self.tuner.config();
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0) + max_new_tokens;
        let options = Options {
            cache_bytes: self.cache_bytes,
            ..Options::default()
        };
        let mut scheduler = Scheduler::of(config, &self.tuner.merged(), longest, options);
        let jobs = prompts
            .iter()
            .enumerate()
            .map(|(i, p)| Job::Sample {
                prompt: p.to_vec(),
                sampling: Sampling {
                    temperature,
                    max_new_tokens: max_new_tokens as u32,
                    ..Sampling::default()
                },
                seed: seed::derive(seed, &[&i.to_string()]),
                eos: Arc::clone(&self.eos),
            })
            .collect();
        Ok(scheduler
            .run(jobs)?
            .into_iter()
            .map(|d| Rollout {
                finished: d.finish == Finish::Stop,
                tokens: d.ids,
            })
            .collect())
    }
}

/// What the last layer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Next-token probabilities.
    Language,
    /// Next-token probabilities and a value head beside (PPO); the head starts at zero.
    LanguageAndValue,
    /// A scalar: a reward model. A language model gets a new head, N(0, 1/√(D+1)).
    Scalar,
}

/// A model to train, with its tokenizer.
pub struct Desk {
    /// The folder it came from.
    pub base: PathBuf,
    /// Its shape.
    pub config: LlamaConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    weights: Arc<Weights>,
    head: Head,
}

impl Desk {
    /// Opens a checkpoint folder for training with a head.
    ///
    /// # Errors
    /// Files that are missing, corrupt or contradictory.
    pub fn open(folder: &Path, head: Head, seed: u64) -> Result<Self, Error> {
        let mut config = LlamaConfig::read(folder)?;
        let tokenizer = Tokenizer::read(folder)?;
        let mut weights = Weights::read(folder, &config)?;
        match head {
            Head::Scalar if !config.scalar_head => {
                config.scalar_head = true;
                weights.lm_head = None;
                weights.score = Weights::random(&head_only(&config), 0.0, seed).score;
            }
            Head::Scalar => {}
            _ if config.scalar_head => {
                return Err(Error::input(
                    format!(
                        "`{}` is a reward model, not a language model",
                        folder.display()
                    ),
                    "give a folder whose config.json names LlamaForCausalLM",
                ));
            }
            Head::LanguageAndValue => weights.score = Some(Matrix::zeros(1, config.hidden)),
            Head::Language => {}
        }
        Ok(Desk {
            base: folder.to_path_buf(),
            config,
            tokenizer,
            weights: Arc::new(weights),
            head,
        })
    }

    /// The network: all weights, or an adapter beside them.
    ///
    /// # Errors
    /// An adapter's target that does not exist.
    pub fn network(
        &self,
        lora: Option<LoraConfig>,
        weight_decay: f32,
        positions: usize,
        seed: u64,
    ) -> Result<Network, Error> {
        let adapter = match lora {
            Some(l) => Some(Adapter::new(&self.config, &self.weights, l, seed)?),
            None => None,
        };
        let mut optimizer = AdamW::default();
        optimizer.weight_decay = weight_decay;
        let weights = Arc::clone(&self.weights);
        let start = Arc::clone(&self.weights);
        Ok(Network {
            tuner: Tuner::new(self.config.clone(), weights, adapter, positions, optimizer),
            start,
            eos: self.config.eos.clone().into(),
            cache_bytes: 1 << 30,
        })
    }

    /// A prompt with its answer as a training row; `None` where it is longer than `max_length`.
    ///
    /// # Errors
    /// What the chat template refuses.
    pub fn row(
        &self,
        prompt: &[Message],
        answer: &str,
        max_length: usize,
    ) -> Result<Option<Row>, Error> {
        let (shared, tokens) =
            crate::local::conversation(&self.tokenizer, &self.config, prompt, answer)?;
        Ok((tokens.len() <= max_length).then(|| Row::completion(tokens, shared)))
    }

    /// The model packed for inference.
    #[must_use]
    pub fn inference(&self) -> Inference {
        Inference::new(&self.config, &self.weights, self.config.max_positions)
    }

    /// A network from what [`Desk::save`] wrote: an adapter beside this desk's weights, or a model.
    ///
    /// # Errors
    /// Files that are missing or corrupt.
    pub fn reopen(&self, out: &Path, adapter: bool, positions: usize) -> Result<Network, Error> {
        let (weights, adapter) = if adapter {
            let a = Adapter::read(out, &self.config)?;
            (Arc::clone(&self.weights), Some(a))
        } else {
            (Arc::new(Weights::read(out, &self.config)?), None)
        };
        let config = self.config.clone();
        Ok(Network {
            tuner: Tuner::new(
                config,
                Arc::clone(&weights),
                adapter,
                positions,
                AdamW::default(),
            ),
            start: weights,
            eos: self.config.eos.clone().into(),
            cache_bytes: 1 << 30,
        })
    }

    /// Writes the trained model: an adapter in PEFT's layout, or the whole model; the tokenizer's
    /// files beside.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, network: &Network, out: &Path) -> Result<(), Error> {
        match network.tuner.adapter() {
            Some(a) => {
                let mut a = a.clone();
                if self.head != Head::Scalar {
                    a.score = None;
                }
                a.write(out, &self.base.display().to_string())?;
            }
            None => network.tuner.weights().write(out, &self.config, false)?,
        }
        for name in TOKENIZER_FILES {
            let from = self.base.join(name);
            if from.is_file() {
                std::fs::copy(&from, out.join(name))
                    .map_err(rlaif_core::Error::io("write", out.join(name)))?;
            }
        }
        Ok(())
    }
}

const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "tokenizer.model",
    "generation_config.json",
];

/// The smallest shape with this scalar head, to draw the head alone.
fn head_only(c: &LlamaConfig) -> LlamaConfig {
    let mut small = LlamaConfig::new(1, c.hidden, 1, 0, c.heads, c.kv_heads);
    small.scalar_head = true;
    small
}

/// Examples by the split of their prompts.
#[derive(Debug, Default)]
pub struct Splits<T> {
    /// Trained on.
    pub train: Vec<T>,
    /// Chooses the checkpoint.
    pub validation: Vec<T>,
    /// Measured once, at the end.
    pub test: Vec<T>,
    /// Rows that were longer than the limit.
    pub too_long: usize,
    /// Rows that lack what the objective needs.
    pub unusable: usize,
}

impl<T> Splits<T> {
    /// Sorts rows into splits by their prompts' hashes.
    ///
    /// # Errors
    /// The first row that `make` refuses, with file and line.
    pub fn of(
        data: &Dataset,
        mut make: impl FnMut(&DataRow) -> Result<Made<T>, Error>,
    ) -> Result<Self, Error> {
        let mut splits = Splits {
            train: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
            too_long: 0,
            unusable: 0,
        };
        for row in &data.rows {
            let made = make(row).map_err(|e| {
                Error::input(
                    format!("{}:{}: {e}", data.path.display(), row.line),
                    e.advice(),
                )
            })?;
            match made {
                Made::TooLong => splits.too_long += 1,
                Made::Unusable => splits.unusable += 1,
                Made::Example(example) => match Split::of(&row.prompt) {
                    Split::Train => splits.train.push(example),
                    Split::Validation => splits.validation.push(example),
                    Split::Test => splits.test.push(example),
                },
            }
        }
        if splits.train.is_empty() {
            return Err(Error::input(
                format!(
                    "`{}` has no row to train on ({} too long, {} without what this needs)",
                    data.path.display(),
                    splits.too_long,
                    splits.unusable
                ),
                "raise --max-length, or see the table of columns in the README",
            ));
        }
        Ok(splits)
    }
}

/// What a row of a file became.
pub enum Made<T> {
    /// An example.
    Example(T),
    /// Longer than the limit: left out and counted, never cut.
    TooLong,
    /// No completion, or no label.
    Unusable,
}

/// P(the first of two completions is better): `p_chosen`, else the file's label, else 1 where the
/// file says `chosen` and `rejected`.
#[must_use]
pub fn label(row: &DataRow) -> Option<f32> {
    let soft = row
        .columns
        .get("p_chosen")
        .and_then(serde_json::Value::as_f64);
    soft.or(row.label.get()).map(|p| p as f32)
}

/// A training run's folder: log, checkpoint, and proof that both belong to the same command.
pub struct Folder {
    out: PathBuf,
    identity: String,
    log: File,
    every: Duration,
    last: Instant,
}

#[derive(Serialize, Deserialize)]
struct Mark<S> {
    identity: String,
    folder: String,
    log_bytes: u64,
    state: S,
}

impl Folder {
    /// Opens OUT and restores the network from its last checkpoint, if there is one. `identity`
    /// hashes all that determines the run.
    ///
    /// # Errors
    /// A folder that holds a run with other settings, a checkpoint that cannot be read.
    pub fn open<S: DeserializeOwned + Default>(
        out: &Path,
        identity: &str,
        network: &mut Network,
    ) -> Result<(Self, S), Error> {
        let io = rlaif_core::Error::io;
        std::fs::create_dir_all(out).map_err(io("create", out))?;
        let mark_path = out.join("checkpoint.json");
        let mut state = S::default();
        let mut log_bytes = 0;
        if let Ok(text) = std::fs::read_to_string(&mark_path) {
            let mark: Mark<S> = serde_json::from_str(&text).map_err(|e| {
                Error::input(
                    format!("`{}` cannot be read: {e}", mark_path.display()),
                    "give another --out, or remove the folder",
                )
            })?;
            if mark.identity != identity {
                return Err(Error::input(
                    format!(
                        "`{}` holds a run with other settings or data",
                        out.display()
                    ),
                    "give another --out, or remove the folder to begin again",
                ));
            }
            let folder = out.join(&mark.folder);
            let tuner = &mut network.tuner;
            tuner.restore(&folder)?;
            state = mark.state;
            log_bytes = mark.log_bytes;
        }
        let log_path = out.join("log.jsonl");
        let log = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&log_path)
            .map_err(io("write", &log_path))?;
        // Lines after the checkpoint belong to steps that will be taken again.
        log.set_len(log_bytes).map_err(io("write", &log_path))?;
        let mut log = log;
        std::io::Seek::seek(&mut log, std::io::SeekFrom::End(0)).map_err(io("write", &log_path))?;
        let folder = Folder {
            out: out.to_path_buf(),
            identity: identity.to_string(),
            log,
            every: Duration::from_secs(30),
            last: Instant::now(),
        };
        Ok((folder, state))
    }

    /// Appends a line to `log.jsonl`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn log(&mut self, line: &impl Serialize) -> Result<(), Error> {
        let path = self.out.join("log.jsonl");
        let mut text = serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
        self.log
            .write_all(text.as_bytes())
            .map_err(rlaif_core::Error::io("write", &path))?;
        Ok(())
    }

    /// Whether 30 s have passed since the last checkpoint.
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
        network.tuner.save_state(&folder)?;
        self.log.sync_all().map_err(io("write", &self.out))?;
        let log_bytes = self.log.metadata().map_err(io("read", &self.out))?.len();
        let mark = Mark {
            identity: self.identity.clone(),
            folder: name.clone(),
            log_bytes,
            state,
        };
        let text = serde_json::to_string_pretty(&mark).unwrap_or_default();
        rlaif_core::run::write_atomic(&self.out.join("checkpoint.json"), text.as_bytes())?;
        self.clear(Some(&name))?;
        self.last = Instant::now();
        Ok(())
    }

    /// Removes checkpoints, all or all but one.
    ///
    /// # Errors
    /// A folder that cannot be removed.
    pub fn clear(&self, keep: Option<&str>) -> Result<(), Error> {
        let io = rlaif_core::Error::io;
        let entries = std::fs::read_dir(&self.out).map_err(io("read", &self.out))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("checkpoint-") && Some(name.as_str()) != keep {
                let folder = entry.path();
                std::fs::remove_dir_all(&folder)
                    .map_err(rlaif_core::Error::io("remove", &folder))?;
            }
        }
        Ok(())
    }
}
