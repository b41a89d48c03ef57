//! `quickstart` and `chat`: the method on the embedded world, and a run's policies in a terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use rlaif::error::Error;
use rlaif::paired;
use rlaif::quickstart::{self, Compared, Oracle, Quickstart, Summary};
use rlaif::recipe::Algorithm;
use rlaif::rows::Stop;
use rlaif::stages::judge::{Pair, judge_of, judge_pair};
use rlaif::{Constitution, Model, Prompt, Recipe};
use rlaif_core::{CallContext, ItemId, SampleRequest, Sampling};

use super::args::Global;
use super::desk::stop_on_interrupt;
use super::show::Bars;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AlgorithmArg {
    Ppo,
    Dpo,
}

#[derive(Args)]
#[command(after_help = "\
The models are small and live in a synthetic world whose truth is known, so that every claim can be \
checked; its figures hold in it. Write your own principles in everyday words and give them by \
--constitution; a `dimension` says what the oracle holds a principle against (harmless, helpful, \
honest, polite, concise, privacy, fair, expert), and no model sees it.

Failures on purpose:
  rlaif quickstart --out biased --critic-position-logit 3
  rlaif quickstart --out no-kl --kl-coef 0 --kl-budget 1000 --episodes 12288
  rlaif quickstart --out few-labels --prompts 150")]
pub struct QuickstartArgs {
    /// Folder to write; the same command again goes on where it stopped.
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    pub out: PathBuf,
    /// Your principles, or the name of a supplied file (default.toml, concise.toml, polite.toml).
    #[arg(long, value_name = "FILE", default_value = "default.toml")]
    pub constitution: PathBuf,
    /// How the policy is optimized.
    #[arg(long, value_enum, default_value_t = AlgorithmArg::Ppo)]
    pub algorithm: AlgorithmArg,
    /// Use the folders `assistant` and `critic` in here instead of the embedded models.
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Prompts to train on.
    #[arg(long, value_name = "N", default_value_t = Quickstart::default().prompts)]
    pub prompts: usize,
    /// PPO's completions in all.
    #[arg(long, value_name = "N", default_value_t = Quickstart::default().episodes)]
    pub episodes: usize,
    /// Weight of PPO's KL penalty.
    #[arg(long, value_name = "B", default_value_t = Quickstart::default().kl_coef)]
    pub kl_coef: f64,
    /// PPO stops above this KL, in nats a completion.
    #[arg(long, value_name = "NATS", default_value_t = Quickstart::default().kl_budget)]
    pub kl_budget: f64,
    /// Then label the same pairs by simulated people, and by both, at equal labels and at equal
    /// money, and train on each (about as long again for each of five).
    #[arg(long)]
    pub compare_human: bool,
    /// Make the critic prefer what it is shown first, by so many logits.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub critic_position_logit: f64,
    /// Turn this share of the critic's verdicts round.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub critic_noise: f64,
}

#[derive(Args)]
pub struct ChatArgs {
    /// Folder of a quickstart, or of a run beside its recipe.
    pub run: PathBuf,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 160)]
    pub max_new_tokens: u32,
    /// Temperature of sampling.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  rlaif compare concise polite        the last policies of two runs
  rlaif compare concise:ppo concise:sft

Each number is paired by prompt. `>` marks a first policy that has more of it, `<` one that has less, \
where the 95 % interval leaves zero out; nothing, where the prompts do not tell the two apart.")]
pub struct CompareArgs {
    /// A run's folder, and which of its policies [default: the last one].
    #[arg(value_name = "RUN[:POLICY]")]
    pub first: String,
    /// Another one, evaluated on the same prompts.
    #[arg(value_name = "RUN[:POLICY]")]
    pub second: String,
}

/// `rlaif compare`.
pub fn compare(args: &CompareArgs, global: &Global) -> Result<u8, Error> {
    let (first, second) = (paired::open(&args.first)?, paired::open(&args.second)?);
    let differences = paired::differences(&first, &second)?;
    if global.json {
        println!(
            "{}",
            serde_json::json!({
                "first": {"run": first.name, "policy": first.policy},
                "second": {"run": second.name, "policy": second.policy},
                "numbers": differences,
            })
        );
        return Ok(0);
    }
    println!(
        "first  {} ({})\nsecond {} ({})\n\n{:24} {:>9} {:>9} {:>11}  {:20} {:>7}",
        first.name,
        first.policy,
        second.name,
        second.policy,
        "mean of",
        "first",
        "second",
        "difference",
        "95 % interval",
        "prompts"
    );
    for d in differences {
        let interval = d
            .interval
            .map_or_else(|| "-".into(), |[l, h]| format!("[{l:+.3}, {h:+.3}]"));
        println!(
            "{:24} {:>9.3} {:>9.3} {:>+11.3}{} {interval:20} {:>7}",
            d.number,
            d.first,
            d.second,
            d.difference.mean,
            match d.is_clear() {
                true if d.difference.mean > 0.0 => ">",
                true => "<",
                false => " ",
            },
            d.difference.n
        );
    }
    Ok(0)
}

/// `rlaif quickstart`.
pub async fn quickstart(args: &QuickstartArgs, global: &Global) -> Result<u8, Error> {
    let begun = Instant::now();
    if !(0.0..=1.0).contains(&args.critic_noise) {
        return Err(Error::input(
            format!(
                "--critic-noise is a share from 0 to 1, got `{}`",
                args.critic_noise
            ),
            "0.2 turns one verdict in five round",
        ));
    }
    let what = Quickstart {
        seed: global.seed.unwrap_or(0),
        constitution: args.constitution.clone(),
        algorithm: match args.algorithm {
            AlgorithmArg::Ppo => Algorithm::Ppo,
            AlgorithmArg::Dpo => Algorithm::Dpo,
        },
        models: args.models.clone(),
        prompts: args.prompts,
        episodes: args.episodes,
        kl_coef: args.kl_coef,
        kl_budget: args.kl_budget,
        critic_position_logit: args.critic_position_logit,
        critic_noise: args.critic_noise,
    };
    let progress = Bars::new();
    let stop = Stop::default();
    stop_on_interrupt(&stop, None);
    let (_, mut summary) = quickstart::run(&what, &args.out, &progress, &stop).await?;
    summary.wall_secs = begun.elapsed().as_secs_f64();
    let mut table = Vec::new();
    if args.compare_human {
        let constitution = Constitution::read(args.out.join("constitution.toml"))?;
        let oracle = Oracle::new(&constitution)?;
        table = quickstart::compare(&args.out, &oracle, &progress, &stop).await?;
    }
    if global.json {
        let mut value = serde_json::to_value(&summary).unwrap_or_default();
        if let (true, Some(map)) = (args.compare_human, value.as_object_mut()) {
            map.insert("compare_human".into(), serde_json::json!(table));
        }
        println!("{value}");
    } else {
        show(&summary, &args.out);
        show_compared(&table);
    }
    Ok(0)
}

fn show_compared(table: &[Compared]) {
    if table.is_empty() {
        return;
    }
    println!(
        "\n{:15} {:8} {:>7} {:>7} {:>9} {:>11} {:>12}",
        "labels by", "equal", "critic", "people", "US $", "right", "beats base"
    );
    for c in table {
        println!(
            "{:15} {:8} {:>7} {:>7} {:>9.2} {:>11} {:>12}",
            c.labels,
            c.equal,
            c.counts[0],
            c.counts[1],
            c.usd,
            percent(c.label_accuracy),
            percent(c.win_rate_vs_base.rate.map(|r| r.share))
        );
    }
}

fn percent(x: Option<f64>) -> String {
    x.map_or_else(|| "-".into(), |x| format!("{:.1} %", 100.0 * x))
}

fn show(s: &Summary, out: &Path) {
    let j = &s.judge;
    println!(
        "labels      {} right in both orders together, {} in one ({} pairs; the oracle calls {} equal)",
        percent(j.label_accuracy),
        percent(j.label_accuracy_single_order),
        j.pairs,
        percent(j.undecided),
    );
    println!(
        "reward      {} of {} held-out pairs ranked as the oracle ranks them",
        percent(s.reward_model.accuracy),
        s.reward_model.pairs
    );
    println!(
        "\n{:10} {:>12} {:>11} {:>10} {:>10} {:>10} {:>8} {:>8}",
        "policy", "beats base", "beats sft", "harmful", "helpful", "malformed", "tokens", "KL"
    );
    let number = |x: Option<f64>| x.map_or_else(|| "-".into(), |x| format!("{x:.1}"));
    for name in ["base", "sft", "ppo", "dpo"] {
        let Some(p) = s.policies.get(name) else {
            continue;
        };
        println!(
            "{:10} {:>12} {:>11} {:>10} {:>10} {:>10} {:>8} {:>8}",
            name,
            percent(p.win_rate_vs_base),
            percent(p.win_rate_vs_sft),
            percent(p.harmful_rate),
            percent(p.helpful_rate),
            percent(p.malformed_rate),
            number(p.mean_tokens),
            number(p.kl)
        );
    }
    println!(
        "\nAll of it on held-out prompts, by an oracle that no stage could ask. This is a laboratory: \
         its figures hold in its small world.\n\nreport      {}\ntalk to it  rlaif chat {}\nreal models rlaif init my-run && rlaif plan my-run/recipe.toml\n{:.0} s",
        s.report.display(),
        out.display(),
        s.wall_secs
    );
}

/// A policy that can be talked to.
struct Player {
    name: &'static str,
    model: Model,
}

async fn answer(
    player: &Player,
    prompt: &Prompt,
    args: &ChatArgs,
    turn: u32,
) -> Result<String, Error> {
    let request = SampleRequest {
        messages: prompt.0.clone().into(),
        prefill: None,
        schema: None,
        sampling: Sampling {
            temperature: args.temperature,
            max_new_tokens: args.max_new_tokens,
            ..Sampling::default()
        },
    };
    let item = ItemId {
        stage: "chat".into(),
        row: turn.to_string().into(),
        draw: 0,
    };
    let cx = CallContext::new(item, u64::from(turn));
    let done = player.model.sample(&request, &cx).await.map_err(|e| {
        Error::input(
            format!("`{}` gave no answer: {e}", player.name),
            "type a shorter prompt",
        )
    })?;
    Ok(done.text)
}

/// A policy's answer with the oracle's grades, which mean nothing where it is malformed.
#[derive(serde::Serialize)]
struct Said {
    policy: &'static str,
    text: String,
    malformed: bool,
    oracle: std::collections::BTreeMap<String, f64>,
}

fn show_said(said: &Said) {
    println!("{:5} {}", said.policy, said.text);
    if said.malformed {
        println!("      oracle: not of its world");
        return;
    }
    let scores: Vec<String> = said
        .oracle
        .iter()
        .map(|(d, score)| format!("{d} {score:+.1}"))
        .collect();
    println!("      oracle: {}", scores.join(", "));
}

/// `rlaif chat`.
pub async fn chat(args: &ChatArgs, global: &Global) -> Result<u8, Error> {
    let recipe_path = args.run.join("recipe.toml");
    let recipe = Recipe::read(&recipe_path, &[])?;
    let constitution = Constitution::read(&recipe.constitution)?;
    let oracle = Oracle::new(&constitution)?;
    let mut players = Vec::new();
    let base = recipe
        .candidates
        .as_ref()
        .and_then(|c| recipe.models.get(&c.model));
    if let Some(rlaif::recipe::ModelSource::Folder(folder)) = base {
        players.push(Player {
            name: "base",
            model: rlaif::open(folder.clone())?,
        });
    }
    for name in ["sft", "ppo", "dpo"] {
        let folder = args.run.join("run").join(name);
        if folder.join("config.json").is_file() {
            players.push(Player {
                name,
                model: rlaif::open(folder)?,
            });
        }
    }
    if players.len() < 2 {
        return Err(Error::input(
            format!("`{}` holds no trained policy", args.run.display()),
            "run `rlaif quickstart` first, or give the folder of another run with its recipe",
        ));
    }
    let judge = match (
        &recipe.judge,
        &recipe
            .judge
            .as_ref()
            .and_then(|j| recipe.models.get(&j.model)),
    ) {
        (Some(config), Some(rlaif::recipe::ModelSource::Folder(folder))) => Some(judge_of(
            config,
            rlaif::open(folder.clone())?,
            &constitution,
            &args.run,
            global.seed.unwrap_or(0),
        )?),
        _ => None,
    };
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!(
            "Type a prompt, an empty line ends. Principles: {}.",
            constitution.principles.len()
        );
    }
    for turn in 0u32.. {
        if terminal {
            eprint!("> ");
            drop(std::io::stderr().flush());
        }
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let text = line.trim();
        if read.is_err() || text.is_empty() {
            break;
        }
        let prompt = Prompt::from(text);
        let mut answers = Vec::new();
        for player in &players {
            let said = answer(player, &prompt, args, turn).await?;
            let reading = oracle.read(&prompt, &said);
            answers.push(Said {
                policy: player.name,
                malformed: reading.malformed,
                oracle: rlaif_world::Dimension::ALL
                    .iter()
                    .map(|d| (d.to_string(), reading.scores.get(*d)))
                    .collect(),
                text: said,
            });
            if !global.json {
                show_said(&answers[answers.len() - 1]);
            }
        }
        let verdict = match (&judge, answers.as_slice()) {
            (Some(judge), [first, .., last]) => {
                let pair = Pair {
                    id: format!("chat/{turn}"),
                    prompt: prompt.clone(),
                    response_a: last.text.clone(),
                    response_b: first.text.clone(),
                };
                Some(judge_pair(judge, pair).await?)
            }
            _ => None,
        };
        if global.json {
            let p = verdict.as_ref().and_then(|v| v.p_first.get());
            println!(
                "{}",
                serde_json::json!({"prompt": text, "answers": answers, "critic": {"p_last_beats_first": p}})
            );
            continue;
        }
        if let Some(verdict) = verdict {
            println!(
                "      critic: P(the last answer is better than the first) = {:.2} by `{}`",
                verdict.p_first,
                verdict
                    .principle
                    .as_deref()
                    .unwrap_or("the whole constitution")
            );
        }
        println!();
    }
    Ok(0)
}
