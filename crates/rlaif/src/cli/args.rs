//! Arguments. The texts here are the help that teaches.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rlaif_client::Concurrency;

pub use super::judging::{ContrastArgs, HowArgs, RateArgs};

/// Align a language model with a written constitution instead of an annotation team.
#[derive(Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  rlaif judge pairs.jsonl --constitution default.toml \\
      --critic http://localhost:8000/v1#judge --out labels.jsonl
  rlaif init my-run && rlaif plan my-run/recipe.toml && rlaif run my-run/recipe.toml

Exit codes: 0 done, 1 a gate failed or the run was stopped (resumable), 2 a fault in what was
given, 3 a fault of the environment."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Args, Clone)]
pub struct Global {
    /// Print one JSON object on standard output when done; progress goes to standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// Seed of every random choice (a recipe has its own).
    #[arg(long, global = true)]
    pub seed: Option<u64>,
    /// Threads for models in memory [default: all cores] and for connections [default: 1].
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// The whole method on embedded models: from a constitution to an aligned policy, in minutes.
    #[cfg(feature = "local")]
    Quickstart(super::quickstart::QuickstartArgs),
    /// Type a prompt and see a run's policies side by side.
    #[cfg(feature = "local")]
    Chat(super::quickstart::ChatArgs),
    /// Write a commented recipe, a constitution and example prompts to start from.
    Init(InitArgs),
    /// Check a recipe and say what a run would ask: stages, calls, tokens, cost.
    Plan(PlanArgs),
    /// Run a recipe's stages; a second run does only what changed, a stopped one goes on.
    Run(RunArgs),
    /// Write prompts that you do not have yet, after your own.
    Synth(super::synth::SynthArgs),
    /// Let a critic hold responses against a constitution.
    Critique(CritiqueArgs),
    /// Let a policy rewrite responses in the light of critiques.
    Revise(ReviseArgs),
    /// Let a judge compare pairs of responses under a constitution.
    Judge(JudgeArgs),
    /// Let a judge score responses one by one, on a scale or by several aspects.
    Rate(RateArgs),
    /// Make pairs that need no judge: each prompt answered well and badly on purpose (RLCD).
    Contrast(ContrastArgs),
    /// Measure a judge, a policy or a constitution.
    #[command(subcommand)]
    Eval(super::eval::EvalVerb),
    /// Look into a run's journal: what was asked, answered and charged.
    Calls(CallsArgs),
    /// Write a run's preferences for another tool.
    Export(ExportArgs),
    /// Write one self-contained HTML page on a run, or on a file of labels.
    Report(ReportArgs),
    /// Hold two policies against each other on the same held-out prompts, number by number.
    #[cfg(feature = "local")]
    Compare(super::quickstart::CompareArgs),
    /// Complete prompts with a model in memory; ids and log-probabilities beside the text.
    #[cfg(feature = "local")]
    Sample(super::local::SampleArgs),
    /// Score given completions: a reward model's rewards, or a language model's log-probabilities.
    #[cfg(feature = "local")]
    Score(super::local::ScoreArgs),
    /// Fine-tune a model on prompts and answers (loss on the answers only).
    #[cfg(feature = "local")]
    Sft(super::train::SftArgs),
    /// Train a reward model on pairs with soft labels (Bradley-Terry).
    #[cfg(feature = "local")]
    Reward(super::train::RewardArgs),
    /// Optimize a policy on pairs directly (DPO), soft labels too.
    #[cfg(feature = "local")]
    Dpo(super::train::DpoArgs),
    /// Optimize a policy against a reward with PPO.
    #[cfg(feature = "local")]
    Ppo(super::train::PpoArgs),
    /// Turn a GGUF or llama2.c file into a Hugging Face folder.
    #[cfg(feature = "local")]
    Convert(super::local::ConvertArgs),
}

#[derive(Args)]
pub struct InitArgs {
    /// Folder to write into; files that exist are kept.
    pub dir: PathBuf,
    /// Where the models come from.
    #[arg(long, value_enum, default_value_t = JudgeKind::Local)]
    pub judge: JudgeKind,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JudgeKind {
    /// A hosted API; the key comes from an environment variable.
    Api,
    /// A server on this machine (vLLM, llama.cpp, `transformers serve`).
    Local,
}

#[derive(Args)]
pub struct PlanArgs {
    /// The recipe.
    pub recipe: PathBuf,
    /// Ask the judge about a set of pairs by each principle, and say which principles it cannot
    /// judge by; done unasked where it is a small model in memory. An endpoint's calls are paid.
    #[cfg(feature = "local")]
    #[arg(long)]
    pub probe: bool,
    /// Replace a key of the recipe, as in `--set judge.orders=given`; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Args)]
pub struct RunArgs {
    /// The recipe.
    pub recipe: PathBuf,
    /// Run folder [default: `run` beside the recipe].
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Run these stages only (candidates, critique, revise, judge, preferences).
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Begin at this stage.
    #[arg(long, value_name = "STAGE")]
    pub from: Option<String>,
    /// End after this stage.
    #[arg(long, value_name = "STAGE")]
    pub until: Option<String>,
    /// Replace a key of the recipe, as in `--set judge.orders=given`; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub limits: RunLimits,
}

/// What a run may spend, and who may watch it.
#[derive(Args, Clone, Default)]
pub struct RunLimits {
    /// US dollars that all runs with this journal may spend together; a model without a price is
    /// refused.
    #[arg(long, value_name = "USD")]
    pub max_usd: Option<f64>,
    /// Calls that they may make together.
    #[arg(long, value_name = "N")]
    pub max_calls: Option<u64>,
    /// Prices that go before the shipped table: TOML, `[[prices]]` with `host` and
    /// `models = { "NAME" = [prompt, generated] }`, in dollars a million tokens.
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
    /// Serve figures of the run for Prometheus at this address, such as 127.0.0.1:9400.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Watch the run in the whole window of the terminal: latencies, failures, how far the judge's
    /// orders agree, the newest labels.
    #[arg(long)]
    pub dashboard: bool,
}

/// Which model, as on every verb that asks one.
#[derive(Args, Clone)]
pub struct EndpointArgs {
    /// The model's name, where the URL does not end in `#NAME`.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Environment variable that holds the key; the key itself is never an argument.
    #[arg(long, value_name = "VAR")]
    pub api_key_env: Option<String>,
    /// Calls in flight at each server, at most; `auto` finds what it bears.
    #[arg(long, value_name = "N", default_value = "auto")]
    pub concurrency: Concurrency,
    /// Further server of the same model, as in `--replica URL` or `--replica URL=WEIGHT`;
    /// repeatable.
    #[arg(long, value_name = "URL")]
    pub replica: Vec<String>,
    /// `openai` or `anthropic` [default: told by the host].
    #[arg(long, value_name = "API")]
    pub api: Option<String>,
    /// Ask by the provider's batch interface: half the price, up to a day for an answer. Leave by
    /// Ctrl-C; the same command collects what came.
    #[arg(long)]
    pub batch: bool,
    /// Seconds between two questions how a batch stands.
    #[arg(long, value_name = "SECS", default_value_t = 30.0, requires = "batch")]
    pub batch_poll: f64,
    /// Requests a minute at each server, at most.
    #[arg(long, value_name = "N")]
    pub requests_per_min: Option<u64>,
    /// Tokens a minute at each server, at most.
    #[arg(long, value_name = "N")]
    pub tokens_per_min: Option<u64>,
    #[command(flatten)]
    pub run: RunLimits,
    /// Share of rows that may fail (no answer at all, or no row that can be read) before the exit
    /// code says so.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub max_failed: f64,
    /// Seconds to wait for one answer.
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    pub timeout: u64,
    /// Answers sampled where the endpoint gives no log-probabilities.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub draws: u32,
}

#[derive(Args, Clone)]
pub struct FilesArgs {
    /// Rows: JSONL, JSON or Parquet, plain or .gz. Columns: see the README.
    pub input: PathBuf,
    /// A constitution: TOML, the published JSON form, or a supplied name such as default.toml.
    #[arg(long, value_name = "FILE")]
    pub constitution: PathBuf,
    /// File to write (.jsonl, .jsonl.gz or .parquet).
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Folder that keeps finished rows between runs [default: beside the output].
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// At most so many rows of the input.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Replace an output that exists: ask for everything again where it is finished, and let it
    /// have fewer rows than before.
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// One principle a row, drawn by weight.
    Sampled,
    /// The whole constitution in one question.
    #[value(alias = "all")]
    Whole,
}

impl From<ScopeArg> for rlaif::Scope {
    fn from(arg: ScopeArg) -> Self {
        match arg {
            ScopeArg::Sampled => rlaif::Scope::Sampled,
            ScopeArg::Whole => rlaif::Scope::Whole,
        }
    }
}

#[derive(Args)]
pub struct CritiqueArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    /// The critic: `http://host:port/v1#NAME`.
    #[arg(long, visible_alias = "judge", value_name = "MODEL")]
    pub critic: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Principles that a response is held against.
    #[arg(long, value_enum, default_value_t = ScopeArg::Whole)]
    pub principles: ScopeArg,
    /// `structured`, `cai`, or a template file.
    #[arg(long, value_name = "NAME", default_value = "structured")]
    pub template: String,
}

#[derive(Args)]
pub struct ReviseArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    /// The policy that rewrites: `http://host:port/v1#NAME`.
    #[arg(long, value_name = "MODEL")]
    pub policy: String,
    /// The critic, where the rows hold no critique yet or for more than one step.
    #[arg(long, visible_alias = "judge", value_name = "MODEL")]
    pub critic: Option<String>,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Critiques and revisions in a chain, from 1 to 16.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub steps: u32,
    /// Temperature of the policy.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
    /// Most tokens of a revision.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_new_tokens: u32,
    /// Write (revision, original) as preference pairs as well, as TRL reads them; revisions that
    /// are flagged make none.
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
}

#[derive(Args)]
pub struct JudgeArgs {
    #[command(flatten)]
    pub files: FilesArgs,
    /// The judge: `http://host:port/v1#NAME`.
    #[arg(long, visible_alias = "judge", value_name = "MODEL")]
    pub critic: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub how: HowArgs,
    /// Pairs of a row with more than two completions: all, adjacent, best-worst, random:N.
    #[arg(long, value_name = "WHICH", default_value = "all")]
    pub pairs: String,
    /// Write a ranking of each row's completions as well: Bradley-Terry strengths from the labels
    /// of its pairs, with their uncertainty; `rlaif export` reads it (best against worst).
    #[arg(long, value_name = "FILE")]
    pub ranking: Option<PathBuf>,
    /// Add people's verdicts as rows with their rater, and measure the judge against them where
    /// they are about the same pairs: AlpacaFarm's, AlpacaEval's, argilla's or Label Studio's shape.
    #[arg(long, value_name = "FILE")]
    pub import_human: Option<PathBuf>,
    /// A folder with the judge's `tokenizer.json`, to check that each choice is one token.
    #[cfg(feature = "local")]
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Write an HTML page on the labels as well.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CallState {
    /// With an answer.
    Answered,
    /// Attempts without one.
    Failed,
    /// Under way, or left so by a process that was killed.
    InFlight,
}

#[derive(Args)]
pub struct CallsArgs {
    /// A run folder, or a journal.
    pub run: PathBuf,
    /// Show one call whole, request and response included.
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub show: Option<i64>,
    /// Write the calls to a JSONL file, requests and responses included.
    #[arg(long, value_name = "FILE")]
    pub export: Option<PathBuf>,
    /// Of this stage.
    #[arg(long, value_name = "STAGE")]
    pub stage: Option<String>,
    /// Of this row.
    #[arg(long, value_name = "ID")]
    pub row: Option<String>,
    /// Of models whose name holds this text.
    #[arg(long, value_name = "TEXT")]
    pub model: Option<String>,
    /// That ended like this.
    #[arg(long, value_enum)]
    pub state: Option<CallState>,
    /// Whose charge is not known: the answer was lost.
    #[arg(long)]
    pub unsettled: bool,
    /// List the newest so many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
}

#[derive(Args)]
pub struct ExportArgs {
    /// A run folder, or a file that `rlaif judge` wrote.
    pub run: PathBuf,
    /// trl, openrlhf, verl, distilabel or jsonl.
    #[arg(long, value_name = "TOOL", default_value = "trl")]
    pub to: String,
    /// File to write (.jsonl, .jsonl.gz, .parquet) [default: in the run folder's `export`].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub struct ReportArgs {
    /// A run folder, or a file that `rlaif judge` wrote.
    pub run: PathBuf,
    /// Page to write [default: report.html in the run folder or beside the file].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
