//! Arguments of `rlaif eval`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use rlaif::Error;

use crate::cli::args::{EndpointArgs, FilesArgs};
use crate::cli::judging::{HowArgs, QuestionArgs};

#[derive(Subcommand)]
pub enum EvalVerb {
    /// How good judges are: agreement, position and length bias, calibration, attacks, cost.
    #[command(after_help = "\
Examples:
  rlaif eval judge labels-a.jsonl labels-b.jsonl --out judges.json
  rlaif eval judge pairs.jsonl --constitution default.toml \\
      --critic http://localhost:8000/v1#small --critic http://localhost:8001/v1#large \\
      --repeats 1 --attacks --out judges.json

The reference is the label that the rows carry: `chosen` and `rejected`, or `preference`. Rows of
RewardBench (`prompt`, `chosen`, `rejected`, `subset`) are scored by its sections as well; where
`chosen` and `rejected` are lists (RewardBench 2), every answer is scored by itself with
`--score-template`, and the file by that benchmark's rule. In both orders, position bias cancels; with `--orders given`, `chosen` is always shown first, and agreement
holds the bias.")]
    Judge(EvalJudgeArgs),
    /// How policies fare against a reference, by AlpacaEval's win rate.
    #[command(after_help = "\
Examples:
  rlaif eval policy annotations.json --out board.json
  rlaif eval policy outputs.json --reference baseline.json --constitution default.toml \\
      --critic http://localhost:8000/v1#judge --out board.json

Files in AlpacaEval's layouts: annotations (`instruction`, `output_1`, `output_2`, `generator_1`,
`generator_2`, `preference`), what `rlaif judge` made of them, or outputs (`instruction`, `output`,
`generator`) with those of a reference. `length_controlled_minimal` is alpaca_eval's of that name;
the leaderboard's length-controlled win rate needs the difficulties of its prompts: `--df-gamed`,
`df_gamed.csv` of the dataset `tatsu-lab/alpaca_eval`.")]
    Policy(EvalPolicyArgs),
    /// Which principles never decide, conflict, say the same, or ask for length.
    #[command(after_help = "\
Example:
  rlaif eval constitution pairs.jsonl --constitution mine.toml \\
      --critic http://localhost:8000/v1#judge --limit 200 --out principles.json

Every pair is judged under every principle: pairs × principles × orders calls.")]
    Constitution(EvalConstitutionArgs),
}

/// Where results go, and where finished rows are kept.
#[derive(Args, Clone)]
pub struct OutArgs {
    /// JSON file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// HTML page to write [default: beside the JSON].
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Folder that keeps finished rows between runs [default: beside the output].
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// At most so many rows of the input.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

impl OutArgs {
    /// As the verbs that ask models take them.
    pub fn files(
        &self,
        input: PathBuf,
        constitution: Option<&PathBuf>,
    ) -> Result<FilesArgs, Error> {
        let constitution = constitution.cloned().ok_or_else(|| {
            Error::input(
                "a judge needs principles to judge by",
                "give `--constitution FILE`, or a supplied one such as `--constitution default.toml`",
            )
        })?;
        Ok(FilesArgs {
            input,
            constitution,
            out: self.out.clone(),
            run: self.run.clone(),
            limit: self.limit,
            overwrite: true,
        })
    }
}

#[derive(Args)]
pub struct EvalJudgeArgs {
    /// Files that `rlaif judge` wrote; with `--critic`, also one file of rows to judge now.
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// A constitution, where rows are judged now.
    #[arg(long, value_name = "FILE")]
    pub constitution: Option<PathBuf>,
    /// A judge to ask: `http://host:port/v1#NAME` or a model folder; repeatable.
    #[arg(long, visible_alias = "judge", value_name = "MODEL")]
    pub critic: Vec<String>,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub how: HowArgs,
    #[command(flatten)]
    pub output: OutArgs,
    /// Judge every pair so many times again, under other seeds and the same principle.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub repeats: u32,
    /// Attack the worse responses in every shipped way, with the judge's template and with the
    /// default question without a fence.
    #[arg(long)]
    pub attacks: bool,
    /// Pairs to attack, drawn from the input; each takes 34 judgments.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub attack_rows: usize,
    /// Column that names a row's subset [default: `subset`, or else `dataset`].
    #[arg(long, value_name = "COLUMN")]
    pub subset: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CountArg {
    /// Verdicts where they were counted from sampled answers, probabilities elsewhere.
    Auto,
    /// The probability that the policy's output is better.
    Probabilities,
    /// 1, 0, or one half for a tie.
    Verdicts,
}

#[derive(Args)]
pub struct EvalPolicyArgs {
    /// Annotations, judged files, or outputs.
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// The reference's outputs, where INPUT holds outputs.
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// AlpacaEval's `df_gamed.csv`: adds the leaderboard's length-controlled win rate. Prompts are
    /// numbered by the column `index`, or by their place where a policy answers all of them.
    #[arg(long, value_name = "FILE")]
    pub df_gamed: Option<PathBuf>,
    /// A constitution, where pairs are judged now.
    #[arg(long, value_name = "FILE")]
    pub constitution: Option<PathBuf>,
    /// The judge to ask; without it, the preferences that the files hold are counted.
    #[arg(long, visible_alias = "judge", value_name = "MODEL")]
    pub critic: Option<String>,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub how: HowArgs,
    #[command(flatten)]
    pub output: OutArgs,
    /// What a comparison counts.
    #[arg(long, value_enum, default_value_t = CountArg::Auto)]
    pub count: CountArg,
}

#[derive(Args)]
pub struct EvalConstitutionArgs {
    /// Rows with two or more completions.
    pub input: PathBuf,
    /// The constitution to measure.
    #[arg(long, value_name = "FILE")]
    pub constitution: PathBuf,
    /// The judge: `http://host:port/v1#NAME` or a model folder.
    #[arg(long, visible_alias = "judge", value_name = "MODEL")]
    pub critic: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub output: OutArgs,
    #[command(flatten)]
    pub question: QuestionArgs,
    /// Pairs of a row with more than two completions: all, adjacent, best-worst, random:N.
    #[arg(long, value_name = "WHICH", default_value = "all")]
    pub pairs: String,
}
