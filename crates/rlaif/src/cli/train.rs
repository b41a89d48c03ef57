//! Training verbs on files that the user has: `sft`, `reward`, `dpo`, `ppo`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::{Args, ValueEnum};
use rlaif::error::Error;
use rlaif::progress::Progress;
use rlaif::rows::{Stop, row_key};
use rlaif::train::{Desk, Folder, Head, Made, Network, Splits, label};
use rlaif_core::dataset::{self, Dataset};
use rlaif_core::run::sha256_file;
use rlaif_core::{Message, Outcome};
use rlaif_engine::{Cache, Inference, LoraConfig, Sequence, Work};
use rlaif_train::fit::{self, fit};
use rlaif_train::ppo::{self, PpoConfig, PpoState, Rollout, Scores};
use rlaif_train::schedule::Schedule;
use rlaif_train::{
    FitConfig, Objective, State, StepMetrics, TokenBatch, TrainError, Trainable, dpo as dpos,
    reward as rewards, sft as sfts,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::Global;
use super::loose::{note_faults, stop_on_interrupt};
use super::show::Bars;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleArg {
    Constant,
    Linear,
    Cosine,
}

/// What every training verb takes.
#[derive(Args)]
pub struct FitArgs {
    /// Rows: JSONL, JSON or Parquet, plain or .gz. Columns: see the README.
    pub input: PathBuf,
    /// Hugging Face folder to start from.
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Folder to write; the same command again goes on from its last checkpoint.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Highest learning rate [default: 2e-5, with --lora 2e-4; dpo: 1e-6, with --lora 5e-5].
    #[arg(long, value_name = "LR")]
    pub learning_rate: Option<f32>,
    /// Examples a step.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub batch_size: usize,
    /// Passes over the data.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub epochs: f64,
    /// Shape of the learning rate.
    #[arg(long, value_enum, default_value_t = ScheduleArg::Linear)]
    pub schedule: ScheduleArg,
    /// Share of steps in which the learning rate rises.
    #[arg(long, value_name = "SHARE", default_value_t = 0.03)]
    pub warmup_ratio: f64,
    /// Decoupled weight decay (norms are left out).
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub weight_decay: f32,
    /// Rows with more tokens are left out and counted; none is cut.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_length: usize,
    /// Most tokens in memory at once.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_tokens: usize,
    /// Measure the held-out loss every so many steps and keep the best model.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub eval_steps: u64,
    /// Train a LoRA adapter of this rank instead of all weights.
    #[arg(long, value_name = "RANK", num_args = 0..=1, default_missing_value = "16")]
    pub lora: Option<usize>,
    /// The adapter's alpha [default: twice the rank].
    #[arg(long, value_name = "X")]
    pub lora_alpha: Option<f32>,
    /// At most so many rows of the input.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

#[derive(Args)]
pub struct SftArgs {
    #[command(flatten)]
    pub fit: FitArgs,
}

#[derive(Args)]
pub struct RewardArgs {
    #[command(flatten)]
    pub fit: FitArgs,
    /// Pulls rewards towards a mean of zero.
    #[arg(long, value_name = "C", default_value_t = 0.01)]
    pub center_rewards_coefficient: f32,
}

#[derive(Args)]
pub struct DpoArgs {
    #[command(flatten)]
    pub fit: FitArgs,
    /// Strength of the pull to the reference.
    #[arg(long, value_name = "B", default_value_t = 0.1)]
    pub beta: f32,
    /// sigmoid, robust or ipo.
    #[arg(long, value_name = "NAME", default_value = "sigmoid")]
    pub loss_type: String,
}

#[derive(Args)]
pub struct PpoArgs {
    /// Prompts: JSONL, JSON or Parquet, plain or .gz.
    pub input: PathBuf,
    /// Hugging Face folder of the policy; it is the reference too.
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Folder to write; the same command again goes on from its last checkpoint.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A reward model's folder (scalar head).
    #[arg(long, value_name = "DIR", conflicts_with = "reward_command")]
    pub reward: Option<PathBuf>,
    /// A shell command that reads lines {"prompt", "completion"} and answers each with a line
    /// {"score": X} or {"error": "why"}, in order.
    #[arg(long, value_name = "COMMAND", required_unless_present = "reward")]
    pub reward_command: Option<String>,
    /// Highest learning rate.
    #[arg(long, value_name = "LR", default_value_t = 1e-5)]
    pub learning_rate: f32,
    /// Completions in all.
    #[arg(long, value_name = "N", default_value_t = 2560)]
    pub total_episodes: usize,
    /// Completions an iteration.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub batch_size: usize,
    /// Passes over an iteration's completions.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub num_ppo_epochs: usize,
    /// Optimizer steps a pass.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub num_mini_batches: usize,
    /// Weight of the KL penalty; where it starts, with --target-kl.
    #[arg(long, value_name = "B", default_value_t = 0.05)]
    pub kl_coef: f32,
    /// Keep KL a completion near this, in nats, by changing the weight.
    #[arg(long, value_name = "NATS")]
    pub target_kl: Option<f32>,
    /// Stop once KL a completion is above this, in nats.
    #[arg(long, value_name = "NATS")]
    pub kl_budget: Option<f32>,
    /// Temperature of sampling.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
    /// Most tokens of a completion.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub response_length: usize,
    /// Taken off the score of a completion that did not end by itself.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub missing_eos_penalty: f32,
    /// Divide rewards by their deviation.
    #[arg(long)]
    pub whiten_rewards: bool,
    /// Weight of the value loss.
    #[arg(long, value_name = "C", default_value_t = 0.1)]
    pub vf_coef: f32,
    /// Prompts with more tokens are left out and counted.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_prompt_length: usize,
    /// Most tokens in memory at once.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub max_tokens: usize,
    /// Train a LoRA adapter of this rank instead of all weights.
    #[arg(long, value_name = "RANK", num_args = 0..=1, default_missing_value = "16")]
    pub lora: Option<usize>,
    /// At most so many rows of the input.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// `rlaif sft`.
pub fn sft(args: &SftArgs, global: &Global) -> Result<u8, Error> {
    let job = Fit::open(&args.fit, global, "sft", Head::Language, &Value::Null)?;
    let splits = Splits::of(&job.data, |row| {
        let Some(answer) = row.completions.first() else {
            return Ok(Made::Unusable);
        };
        Ok(job
            .desk
            .row(&row.prompt.0, answer, args.fit.max_length)?
            .map_or(Made::TooLong, Made::Example))
    })?;
    let learning_rate = if args.fit.lora.is_some() { 2e-4 } else { 2e-5 };
    job.train(
        &sfts::Sft,
        splits,
        learning_rate,
        |_, examples| Ok(examples),
        |_, _| json!({}),
    )
}

/// `rlaif reward`.
pub fn reward(args: &RewardArgs, global: &Global) -> Result<u8, Error> {
    let extra = json!({"center": args.center_rewards_coefficient});
    let job = Fit::open(&args.fit, global, "reward", Head::Scalar, &extra)?;
    let splits = job.pairs(|chosen, rejected, p, row| rewards::Pair {
        chosen,
        rejected,
        p,
        margin: row
            .columns
            .get("margin")
            .and_then(Value::as_f64)
            .unwrap_or(0.0) as f32,
    })?;
    let objective = rewards::BradleyTerry {
        center_rewards_coefficient: args.center_rewards_coefficient,
    };
    let rate = if args.fit.lora.is_some() { 2e-4 } else { 2e-5 };
    job.train(
        &objective,
        splits,
        rate,
        |_, examples| Ok(examples),
        |_, m| {
            json!({"accuracy": m.correct / m.decided, "pairs": m.pairs, "decided": m.decided,
               "margin": m.margin / m.pairs})
        },
    )
}

/// `rlaif dpo`.
pub fn dpo(args: &DpoArgs, global: &Global) -> Result<u8, Error> {
    let loss_type: dpos::LossType = serde_json::from_value(Value::from(args.loss_type.as_str()))
        .map_err(|_| {
            Error::input(
                format!("`{}` is no DPO loss", args.loss_type),
                "give --loss-type sigmoid, robust or ipo",
            )
        })?;
    let objective = dpos::Dpo {
        beta: args.beta,
        loss_type,
    };
    let extra = json!(objective);
    let job = Fit::open(&args.fit, global, "dpo", Head::Language, &extra)?;
    let splits = job.pairs(|chosen, rejected, p, _| dpos::Pair {
        chosen,
        rejected,
        p,
        reference: (0.0, 0.0),
    })?;
    let rate = if args.fit.lora.is_some() { 5e-5 } else { 1e-6 };
    let max_tokens = args.fit.max_tokens;
    // The reference's log-probabilities once, before the policy moves.
    let prepare = |network: &Network, mut examples: Vec<dpos::Pair>| {
        for part in examples.chunks_mut((max_tokens / 512).max(1)) {
            let batch = TokenBatch::pack(part.iter().flat_map(|e| [&e.chosen, &e.rejected]));
            let out = network.reference(&batch)?;
            for (i, e) in part.iter_mut().enumerate() {
                e.reference = (
                    batch.sum(2 * i, &out.logprobs),
                    batch.sum(2 * i + 1, &out.logprobs),
                );
            }
        }
        Ok(examples)
    };
    job.train(&objective, splits, rate, prepare, |_, m| {
        json!({"rewards/accuracies": m.correct / m.decided, "pairs": m.pairs,
               "decided": m.decided, "rewards/chosen": m.rewards_chosen / m.pairs,
               "rewards/rejected": m.rewards_rejected / m.pairs})
    })
}

/// What the verbs over examples share.
struct Fit<'a> {
    args: &'a FitArgs,
    global: &'a Global,
    verb: &'static str,
    desk: Desk,
    data: Dataset,
    progress: Bars,
    identity: String,
    begun: Instant,
}

impl<'a> Fit<'a> {
    fn open(
        args: &'a FitArgs,
        global: &'a Global,
        verb: &'static str,
        head: Head,
        extra: &Value,
    ) -> Result<Self, Error> {
        let begun = Instant::now();
        let progress = Bars::new();
        let data = read(&args.input, args.limit, &progress)?;
        let seed = global.seed.unwrap_or(0);
        let desk = Desk::open(&args.base, head, seed)?;
        let settings = json!([
            args.learning_rate,
            args.batch_size,
            args.epochs,
            args.schedule as u8,
            args.warmup_ratio,
            args.weight_decay,
            args.max_length,
            args.max_tokens,
            args.eval_steps,
            args.lora,
            args.lora_alpha,
            args.limit,
            seed,
            extra
        ]);
        let weights = model_hash(&args.base)?;
        let identity = row_key(&[verb, &data.sha256, &weights, &settings.to_string()]);
        Ok(Fit {
            args,
            global,
            verb,
            desk,
            data,
            progress,
            identity,
            begun,
        })
    }

    fn pairs<T>(
        &self,
        make: impl Fn(rlaif_train::Row, rlaif_train::Row, f32, &dataset::Row) -> T,
    ) -> Result<Splits<T>, Error> {
        Splits::of(&self.data, |row| {
            let ([first, second], Some(p)) = (row.completions.as_slice(), label(row)) else {
                return Ok(Made::Unusable);
            };
            let long = self.args.max_length;
            let first = self.desk.row(&row.prompt.0, first, long)?;
            let second = self.desk.row(&row.prompt.0, second, long)?;
            Ok(match (first, second) {
                (Some(a), Some(b)) => Made::Example(make(a, b, p, row)),
                _ => Made::TooLong,
            })
        })
    }

    /// Trains, keeps the best by held-out loss, measures the test split once.
    fn train<O: Objective>(
        &self,
        objective: &O,
        splits: Splits<O::Example>,
        learning_rate: f32,
        prepare: impl Fn(&Network, Vec<O::Example>) -> Result<Vec<O::Example>, Error>,
        figures: impl Fn(&O, &O::Metrics) -> Value,
    ) -> Result<u8, Error> {
        let args = self.args;
        let seed = self.global.seed.unwrap_or(0);
        let config = FitConfig {
            learning_rate: args.learning_rate.unwrap_or(learning_rate),
            batch_size: args.batch_size.max(1),
            num_train_epochs: args.epochs,
            lr_scheduler_type: match args.schedule {
                ScheduleArg::Constant => Schedule::Constant,
                ScheduleArg::Linear => Schedule::Linear,
                ScheduleArg::Cosine => Schedule::Cosine,
            },
            warmup_ratio: args.warmup_ratio,
            max_tokens: args.max_tokens,
            eval_steps: args.eval_steps,
            seed,
        };
        for (n, why) in [
            (splits.too_long, "longer than --max-length"),
            (splits.unusable, "without completions or a label"),
        ] {
            if n > 0 {
                self.progress.note(&format!("{n} rows left out: {why}"));
            }
        }
        let lora = lora(args.lora, args.lora_alpha);
        let mut network = self
            .desk
            .network(lora, args.weight_decay, args.max_length, seed)?;
        let (too_long, unusable) = (splits.too_long, splits.unusable);
        let train = prepare(&network, splits.train)?;
        let held_out = prepare(&network, splits.validation)?;
        let test = prepare(&network, splits.test)?;
        let (mut folder, mut state): (Folder, State) =
            Folder::open(&args.out, &self.identity, &mut network)?;
        let stop = Stop::default();
        stop_on_interrupt(&stop);
        let total = fit::steps(&config, train.len());
        self.progress
            .start(self.verb, total as usize, state.step as usize);
        let mut failure = None;
        let ended = fit(
            &mut network,
            objective,
            &train,
            &held_out,
            &config,
            &mut state,
            |network, state, line: &StepMetrics<O::Metrics>| {
                self.progress.row(Outcome::Decided);
                let mut keep = || -> Result<(), Error> {
                    folder.log(line)?;
                    if let Some(loss) = line.eval_loss {
                        self.progress.note(&format!(
                            "step {}: loss {:.4}, held out {loss:.4}",
                            line.step, line.loss
                        ));
                        let best = state.evals.iter().all(|(_, l)| loss <= *l);
                        if best {
                            self.desk.save(network, &args.out)?;
                        }
                    }
                    if folder.is_due() || stop.is_requested() {
                        folder.checkpoint(network, state.step, state)?;
                    }
                    Ok(())
                };
                if let Err(e) = keep() {
                    failure = Some(e);
                    return Err("checkpoint".into());
                }
                if stop.is_requested() {
                    return Err("stopped".into());
                }
                Ok(())
            },
        );
        if let Some(e) = failure {
            return Err(e);
        }
        self.ended(ended, state.step, total)?;
        if held_out.is_empty() {
            self.desk.save(&network, &args.out)?;
        } else {
            // The best by held-out loss, not the last, is what was saved and is measured.
            folder.checkpoint(&network, state.step, &state)?;
        }
        self.progress.finish(self.verb);
        let best = state
            .evals
            .iter()
            .copied()
            .min_by(|a, b| a.1.total_cmp(&b.1));
        let measured = self.measure(objective, &network, &test, best, state.step)?;
        let wall = self.begun.elapsed().as_secs_f64();
        let summary = json!({
            "verb": self.verb, "steps": state.step,
            "train": train.len(), "validation": held_out.len(), "test": test.len(),
            "too_long": too_long, "unusable": unusable,
            "best_step": best.map(|b| b.0), "validation_loss": best.map(|b| b.1),
            "test_loss": measured.as_ref().map(|m| m.0),
            "test_metrics": measured.as_ref().map(|m| figures(objective, &m.1)),
            "wall_secs": wall, "out": args.out,
        });
        let text = serde_json::to_string_pretty(&summary).unwrap_or_default() + "\n";
        rlaif_core::run::write_atomic(&args.out.join("summary.json"), text.as_bytes())?;
        if self.global.json {
            println!("{summary}");
        } else {
            eprintln!("{text}");
        }
        Ok(0)
    }

    fn ended(
        &self,
        ended: Result<(), TrainError<rlaif_engine::EngineError>>,
        step: u64,
        total: u64,
    ) -> Result<(), Error> {
        ended.map_err(|e| finish_error(e, self.verb, step, total))
    }

    /// The test split on the saved model. Where that is not the network as it stands, it is read
    /// back from its files, which proves them as well.
    fn measure<O: Objective>(
        &self,
        objective: &O,
        network: &Network,
        test: &[O::Example],
        best: Option<(u64, f32)>,
        last: u64,
    ) -> Result<Option<(f32, O::Metrics)>, Error> {
        if test.is_empty() {
            return Ok(None);
        }
        let evaluate = |n: &Network| {
            fit::evaluate(n, objective, test, self.args.max_tokens)
                .map_err(|e| finish_error(e, self.verb, last, last))
        };
        match best {
            Some((step, _)) if step != last => evaluate(&self.desk.reopen(
                &self.args.out,
                self.args.lora.is_some(),
                self.args.max_length,
            )?)
            .map(Some),
            _ => evaluate(network).map(Some),
        }
    }
}

fn finish_error(
    e: TrainError<rlaif_engine::EngineError>,
    verb: &str,
    step: u64,
    total: u64,
) -> Error {
    match e {
        TrainError::Model(e) => e.into(),
        TrainError::Stopped(why) if why == "stopped" => Error::Stopped {
            stage: verb.into(),
            done: step as usize,
            total: total as usize,
            cause: None,
        },
        other => Error::input(other.to_string(), "mend it and give the same command again"),
    }
}

fn lora(rank: Option<usize>, alpha: Option<f32>) -> Option<LoraConfig> {
    rank.map(|r| LoraConfig {
        r,
        lora_alpha: alpha.unwrap_or(2.0 * r as f32),
        ..LoraConfig::default()
    })
}

fn read(path: &Path, limit: Option<usize>, progress: &Bars) -> Result<Dataset, Error> {
    let mut data = dataset::read(path)?;
    note_faults(&data, progress);
    if let Some(limit) = limit {
        data.rows.truncate(limit);
    }
    Ok(data)
}

fn model_hash(folder: &Path) -> Result<String, Error> {
    let single = folder.join("model.safetensors");
    let file = if single.is_file() {
        single
    } else {
        folder.join("model.safetensors.index.json")
    };
    if !file.is_file() {
        return Ok(String::new());
    }
    Ok(sha256_file(&file)?)
}

/// `rlaif ppo`.
pub fn ppo(args: &PpoArgs, global: &Global) -> Result<u8, Error> {
    let begun = Instant::now();
    let progress = Bars::new();
    let data = read(&args.input, args.limit, &progress)?;
    let seed = global.seed.unwrap_or(0);
    let desk = Desk::open(&args.base, Head::LanguageAndValue, seed)?;
    let mut prompts = Vec::new();
    let mut conversations = Vec::new();
    for row in &data.rows {
        let ids = desk.tokenizer.chat(&row.prompt.0, true, None)?;
        if ids.len() <= args.max_prompt_length {
            prompts.push(ids);
            conversations.push(row.prompt.0.clone());
        }
    }
    let left_out = data.rows.len() - prompts.len();
    if left_out > 0 {
        progress.note(&format!(
            "{left_out} prompts left out: longer than --max-prompt-length"
        ));
    }
    let config = PpoConfig {
        learning_rate: args.learning_rate,
        total_episodes: args.total_episodes,
        batch_size: args.batch_size,
        num_ppo_epochs: args.num_ppo_epochs,
        num_mini_batches: args.num_mini_batches,
        kl_coef: args.kl_coef,
        target_kl: args.target_kl,
        kl_budget: args.kl_budget,
        temperature: args.temperature,
        response_length: args.response_length,
        missing_eos_penalty: Some(args.missing_eos_penalty),
        whiten_rewards: args.whiten_rewards,
        vf_coef: args.vf_coef,
        max_tokens: args.max_tokens,
        seed,
        ..PpoConfig::default()
    };
    let reward = match (&args.reward, &args.reward_command) {
        (Some(folder), _) => Scorer::model(folder, seed)?,
        (None, Some(command)) => Scorer::Command(command.clone()),
        (None, None) => {
            return Err(Error::input(
                "no reward was named",
                "give --reward or --reward-command",
            ));
        }
    };
    let positions = args.max_prompt_length + args.response_length;
    let mut network = desk.network(lora(args.lora, None), 0.0, positions, seed)?;
    let identity = row_key(&[
        "ppo",
        &data.sha256,
        &model_hash(&args.base)?,
        &json!([
            config,
            args.lora,
            args.limit,
            args.max_prompt_length,
            args.reward_command
        ])
        .to_string(),
        &args
            .reward
            .as_deref()
            .map(model_hash)
            .transpose()?
            .unwrap_or_default(),
    ]);
    let (mut folder, mut state): (Folder, PpoState) =
        Folder::open(&args.out, &identity, &mut network)?;
    let stop = Stop::default();
    stop_on_interrupt(&stop);
    let total = config
        .total_episodes
        .div_ceil(config.batch_size.max(1))
        .max(1);
    progress.start("ppo", total, state.iteration as usize);
    let mut failure = None;
    let mut last = Value::Null;
    let ended = ppo::ppo(
        &mut network,
        &prompts,
        &config,
        &mut state,
        |picked, rollouts| {
            reward
                .score(&desk, &conversations, picked, rollouts)
                .map_err(|e| e.to_string())
        },
        |network, state, line| {
            progress.row(Outcome::Decided);
            progress.note(&format!(
                "iteration {}: score {:.3}, KL {:.3}, length {:.1}, entropy {:.3}, clipped {:.3}",
                line.iteration, line.score, line.kl, line.length, line.entropy, line.clip_fraction
            ));
            last = json!(line);
            let mut keep = || -> Result<(), Error> {
                folder.log(line)?;
                if folder.is_due() || stop.is_requested() {
                    folder.checkpoint(network, state.iteration, state)?;
                }
                Ok(())
            };
            if let Err(e) = keep() {
                failure = Some(e);
                return Err("checkpoint".into());
            }
            if stop.is_requested() {
                return Err("stopped".into());
            }
            Ok(())
        },
    );
    if let Some(e) = failure {
        return Err(e);
    }
    ended.map_err(|e| finish_error(e, "ppo", state.iteration, total as u64))?;
    desk.save(&network, &args.out)?;
    folder.checkpoint(&network, state.iteration, &state)?;
    progress.finish("ppo");
    let summary = json!({"verb": "ppo", "iterations": state.iteration,
        "stopped_by_kl": state.stopped_by_kl, "prompts": prompts.len(), "left_out": left_out,
        "last": last, "wall_secs": begun.elapsed().as_secs_f64(), "out": args.out});
    let text = serde_json::to_string_pretty(&summary).unwrap_or_default() + "\n";
    rlaif_core::run::write_atomic(&args.out.join("summary.json"), text.as_bytes())?;
    if global.json {
        println!("{summary}");
    } else {
        eprintln!("{text}");
    }
    Ok(0)
}

/// Where PPO's scores come from.
enum Scorer {
    Model(Box<(Desk, Inference)>),
    Command(String),
}

#[derive(Serialize)]
struct Asked<'a> {
    prompt: &'a [Message],
    completion: &'a str,
}

impl Scorer {
    fn model(folder: &Path, seed: u64) -> Result<Self, Error> {
        let desk = Desk::open(folder, Head::Scalar, seed)?;
        let inference = desk.inference();
        Ok(Scorer::Model(Box::new((desk, inference))))
    }

    fn score(
        &self,
        policy: &Desk,
        conversations: &[Vec<Message>],
        picked: &[usize],
        rollouts: &[Rollout],
    ) -> Result<Scores, Error> {
        let mut texts = Vec::with_capacity(rollouts.len());
        for r in rollouts {
            texts.push(policy.tokenizer.decode(&r.tokens)?);
        }
        match self {
            Scorer::Model(parts) => {
                let (desk, model) = &**parts;
                let mut cache = Cache::new(&desk.config, 1 << 30);
                let mut scores = Vec::with_capacity(texts.len());
                for (i, text) in picked.iter().zip(&texts) {
                    let row = desk.row(&conversations[*i], text, model.positions());
                    scores.push(match row {
                        Ok(Some(row)) => reward_of(model, &mut cache, &row.tokens),
                        Ok(None) => Err("longer than the reward model's positions".into()),
                        Err(e) => Err(e.to_string()),
                    });
                }
                Ok(scores)
            }
            Scorer::Command(command) => {
                let lines: Vec<String> = picked
                    .iter()
                    .zip(&texts)
                    .map(|(i, completion)| {
                        let asked = Asked {
                            prompt: &conversations[*i],
                            completion,
                        };
                        serde_json::to_string(&asked).unwrap_or_default()
                    })
                    .collect();
                ask_command(command, &lines)
            }
        }
    }
}

fn reward_of(model: &Inference, cache: &mut Cache, tokens: &[u32]) -> Result<f32, String> {
    let mut sequence = Sequence::default();
    if !cache.reserve(&mut sequence, tokens.len()) {
        return Err("does not fit the memory".into());
    }
    let mut work = [Work {
        sequence: &mut sequence,
        tokens,
        want: 1,
    }];
    let out = model.forward(cache, &mut work).map_err(|e| e.to_string());
    cache.release(sequence);
    out?.first().copied().ok_or_else(|| "no score".into())
}

fn ask_command(command: &str, lines: &[String]) -> Result<Scores, Error> {
    let broken = |what: String| {
        Error::input(
            format!("the reward command `{command}` {what}"),
            "it must read one JSON line a completion and answer each with {\"score\": X}",
        )
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| broken(format!("cannot be started: {e}")))?;
    let input = lines.join("\n") + "\n";
    let stdin = child.stdin.take();
    // Written beside, so that a command that answers line by line cannot block on a full pipe.
    let writer = std::thread::spawn(move || {
        use std::io::Write as _;
        stdin.map(|mut pipe| pipe.write_all(input.as_bytes()))
    });
    let output = child
        .wait_with_output()
        .map_err(|e| broken(format!("failed: {e}")))?;
    drop(writer.join());
    if !output.status.success() {
        return Err(broken(format!("ended with {}", output.status)));
    }
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| !l.trim().is_empty())
        .map(|l| serde_json::from_str(l).unwrap_or(Value::Null))
        .collect();
    if answers.len() != lines.len() {
        return Err(broken(format!(
            "answered {} lines to {}",
            answers.len(),
            lines.len()
        )));
    }
    Ok(answers
        .iter()
        .map(|a| match (a["score"].as_f64(), a["error"].as_str()) {
            (Some(s), _) if s.is_finite() => Ok(s as f32),
            (_, Some(why)) => Err(why.to_string()),
            _ => Err(format!("answered `{a}`, which holds no finite `score`")),
        })
        .collect())
}
