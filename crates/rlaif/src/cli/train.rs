//! Training verbs on files that the user has: `sft`, `reward`, `dpo`, `ppo`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rlaif::error::Error;
use rlaif::progress::Progress;
use rlaif::rows::Stop;
use rlaif::train::{
    self, At, DpoConfig, FitReport, JudgeSource, Other, PpoConfig, RewardConfig, RewardSource,
    SftConfig, TuneConfig,
};
use rlaif_core::dataset::{self, Dataset};
use rlaif_train::ppo;
use rlaif_train::schedule::Schedule;
use serde::Serialize;
use serde_json::Value;

use super::args::Global;
use super::desk::stop_on_interrupt;
use super::input::note_faults;
use super::show::Bars;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleArg {
    Constant,
    Linear,
    Cosine,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeepArg {
    Last,
    Best,
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
    /// Write a checkpoint every so many seconds.
    #[arg(long, value_name = "SECS", default_value_t = 30.0)]
    pub save_secs: f64,
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
    #[arg(long, value_name = "COMMAND", required_unless_present_any = ["reward", "reward_url", "reward_judge"])]
    pub reward_command: Option<String>,
    /// A reward service in OpenRLHF's form: `POST /get_reward` with `query`, `prompts`, `labels`.
    #[arg(long, value_name = "URL", conflicts_with_all = ["reward", "reward_command"])]
    pub reward_url: Option<String>,
    /// A judge that scores each completion from 1 to 10 by a constitution (direct RLAIF): a model's
    /// folder, or `http://host:port/v1#NAME`. The expected score is mapped to [-1, 1].
    #[arg(long, value_name = "MODEL", requires = "constitution",
          conflicts_with_all = ["reward", "reward_command", "reward_url"])]
    pub reward_judge: Option<String>,
    /// The constitution that --reward-judge scores by.
    #[arg(long, value_name = "FILE")]
    pub constitution: Option<PathBuf>,
    /// Template of --reward-judge: score, lee_direct, zheng_single, prometheus_single, or a file.
    #[arg(long, value_name = "NAME", default_value = "score")]
    pub reward_template: String,
    /// Environment variable that holds the key of --reward-judge.
    #[arg(long, value_name = "VAR")]
    pub api_key_env: Option<String>,
    /// Highest learning rate.
    #[arg(long, value_name = "LR", default_value_t = 1e-5)]
    pub learning_rate: f32,
    /// Completions in all.
    #[arg(long, value_name = "N", default_value_t = 2560)]
    pub total_episodes: usize,
    /// Completions an iteration.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub batch_size: usize,
    /// Completions a prompt. With more than one, the mean of the prompt's other completions is the
    /// baseline of advantages (RLOO), and no value head is trained.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub num_generations: usize,
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
    /// Stop once KL a completion is above this, in nats, and go back to a policy within it.
    #[arg(long, value_name = "NATS")]
    pub kl_budget: Option<f32>,
    /// Which policy to end with: the last one, or that of the best mean reward.
    #[arg(long, value_enum, default_value_t = KeepArg::Last)]
    pub keep: KeepArg,
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
    /// Write a checkpoint every so many seconds.
    #[arg(long, value_name = "SECS", default_value_t = 30.0)]
    pub save_secs: f64,
}

impl FitArgs {
    fn tune(&self) -> TuneConfig {
        TuneConfig {
            learning_rate: self.learning_rate,
            batch_size: self.batch_size,
            num_train_epochs: self.epochs,
            lr_scheduler_type: match self.schedule {
                ScheduleArg::Constant => Schedule::Constant,
                ScheduleArg::Linear => Schedule::Linear,
                ScheduleArg::Cosine => Schedule::Cosine,
            },
            warmup_ratio: self.warmup_ratio,
            weight_decay: self.weight_decay,
            max_length: self.max_length,
            max_tokens: self.max_tokens,
            eval_steps: self.eval_steps,
            lora: self.lora,
            lora_alpha: self.lora_alpha,
            save_secs: self.save_secs,
        }
    }
}

/// `rlaif sft`.
pub fn sft(args: &SftArgs, global: &Global) -> Result<u8, Error> {
    let config = SftConfig {
        tune: args.fit.tune(),
        ..SftConfig::default()
    };
    fit(&args.fit, global, |data, at| train::sft(&config, data, at))
}

/// `rlaif reward`.
pub fn reward(args: &RewardArgs, global: &Global) -> Result<u8, Error> {
    let config = RewardConfig {
        center_rewards_coefficient: args.center_rewards_coefficient,
        tune: args.fit.tune(),
        ..RewardConfig::default()
    };
    fit(&args.fit, global, |data, at| {
        train::reward(&config, data, at)
    })
}

/// `rlaif dpo`.
pub fn dpo(args: &DpoArgs, global: &Global) -> Result<u8, Error> {
    let loss_type = serde_json::from_value(Value::from(args.loss_type.as_str())).map_err(|_| {
        Error::input(
            format!("`{}` is no DPO loss", args.loss_type),
            "give --loss-type sigmoid, robust or ipo",
        )
    })?;
    let config = DpoConfig {
        beta: args.beta,
        loss_type,
        tune: args.fit.tune(),
        ..DpoConfig::default()
    };
    fit(&args.fit, global, |data, at| train::dpo(&config, data, at))
}

fn fit(
    args: &FitArgs,
    global: &Global,
    run: impl FnOnce(&Dataset, &At<'_>) -> Result<FitReport, Error>,
) -> Result<u8, Error> {
    let (progress, stop) = (Bars::new(), Stop::default());
    let data = read(&args.input, args.limit, &progress)?;
    stop_on_interrupt(&stop, None);
    let at = at(&args.base, &args.out, global, &progress, &stop);
    show(&run(&data, &at)?, global);
    Ok(0)
}

/// `rlaif ppo`.
pub fn ppo(args: &PpoArgs, global: &Global) -> Result<u8, Error> {
    let (progress, stop) = (Bars::new(), Stop::default());
    let data = read(&args.input, args.limit, &progress)?;
    let config = PpoConfig {
        max_prompt_length: args.max_prompt_length,
        lora: args.lora,
        save_secs: args.save_secs,
        algorithm: ppo::PpoConfig {
            learning_rate: args.learning_rate,
            total_episodes: args.total_episodes,
            batch_size: args.batch_size,
            num_generations: args.num_generations,
            num_ppo_epochs: args.num_ppo_epochs,
            num_mini_batches: args.num_mini_batches,
            kl_coef: args.kl_coef,
            target_kl: args.target_kl,
            kl_budget: args.kl_budget,
            keep: match args.keep {
                KeepArg::Last => ppo::Keep::Last,
                KeepArg::Best => ppo::Keep::Best,
            },
            temperature: args.temperature,
            response_length: args.response_length,
            missing_eos_penalty: Some(args.missing_eos_penalty),
            whiten_rewards: args.whiten_rewards,
            vf_coef: args.vf_coef,
            max_tokens: args.max_tokens,
            ..ppo::PpoConfig::default()
        },
        ..PpoConfig::default()
    };
    let reward = reward_source(args, global)?;
    stop_on_interrupt(&stop, None);
    let at = at(&args.base, &args.out, global, &progress, &stop);
    show(
        &train::ppo(&config, &data, &reward, train::Part::default(), &at)?,
        global,
    );
    Ok(0)
}

/// The reward that the arguments name.
fn reward_source(args: &PpoArgs, global: &Global) -> Result<RewardSource, Error> {
    if let Some(folder) = &args.reward {
        return Ok(RewardSource::Model(folder.clone()));
    }
    if let Some(command) = &args.reward_command {
        return Ok(RewardSource::Command(command.clone()));
    }
    if let Some(url) = &args.reward_url {
        return Ok(RewardSource::Url(url.clone()));
    }
    match (&args.reward_judge, &args.constitution) {
        (Some(model), Some(constitution)) => Ok(RewardSource::Judge(JudgeSource {
            model: model.clone(),
            api_key_env: args.api_key_env.clone(),
            constitution: constitution.clone(),
            template: args.reward_template.clone(),
            seed: global.seed.unwrap_or(0),
        })),
        _ => Err(Error::input(
            "no reward was named",
            "give --reward, --reward-command, --reward-url, or --reward-judge",
        )),
    }
}

fn at<'a>(
    base: &'a Path,
    out: &'a Path,
    global: &Global,
    progress: &'a dyn Progress,
    stop: &'a Stop,
) -> At<'a> {
    At {
        base,
        out,
        other: Other::Refuse,
        merge: false,
        seed: global.seed.unwrap_or(0),
        progress,
        stop,
    }
}

fn show(report: &impl Serialize, global: &Global) {
    if global.json {
        println!("{}", serde_json::to_value(report).unwrap_or_default());
    } else {
        eprintln!(
            "{}",
            serde_json::to_string_pretty(report).unwrap_or_default()
        );
    }
}

fn read(path: &Path, limit: Option<usize>, progress: &Bars) -> Result<Dataset, Error> {
    let mut data = dataset::read(path)?;
    note_faults(&data, progress);
    if let Some(limit) = limit {
        data.rows.truncate(limit);
    }
    Ok(data)
}
