//! evaluate: prompts that nothing was trained on → each policy's completions, compared and measured.
//!
//! The policies are `base`, `sft` and the optimized one. Each writes one completion a prompt; the
//! recipe's critic compares it in both orders with that of base, and that of the optimized policy
//! with that of sft. Reward, KL to what the policy started from, tokens and words stand beside, and
//! whatever the caller's [`crate::evaluation::Evaluator`]s measure: they are asked here, at the end, and nowhere else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rlaif_core::dataset::{self, Row};
use rlaif_core::run::{StageKey, sha256_file, write_atomic, write_lines};
use rlaif_core::seed::{self, Split};
use rlaif_core::{Candidate, Judgment, Message, Outcome, Prompt, Sampling};
use rlaif_eval::{Comparison, Estimate, Proportion, length_preference, slope, win_rate, words};
use rlaif_feedback::{CandidatesConfig, Orders};
use serde::{Deserialize, Serialize};

use super::{
    Context, StageReport, StageSpec, fixed, judge, line, read_records, record, run_stage, unchanged,
};
use crate::error::Error;
use crate::evaluation::{
    Bias, Compared, Evaluation, FILE, IterationFigures, LABELS, Label, Means, Measured, Numbers,
    PolicyFigures, Rater, SUMMARY,
};
use crate::recipe::{Algorithm, Recipe};
use crate::rows::Tally;
use crate::train::{ROLLOUTS, RewardModel, Scored, measure};

/// Comparisons by the critic.
pub const JUDGMENTS: &str = "evaluation/judgments.jsonl";

/// `[evaluate]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateConfig {
    /// At most so many prompts.
    pub limit: Option<usize>,
    /// Further prompts to evaluate on; those of the run's training and validation splits are left
    /// out. Absent: the run's own test split.
    pub prompts: Option<PathBuf>,
    /// The critic compares the policies on at most so many of them, the first ones: each comparison is
    /// as many calls as a label. Whatever else is measured is measured on all.
    pub judge_limit: Option<usize>,
    /// How the policies sample.
    pub sampling: Sampling,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        EvaluateConfig {
            limit: Some(500),
            prompts: None,
            judge_limit: None,
            sampling: Sampling {
                max_new_tokens: 256,
                ..Sampling::default()
            },
        }
    }
}

/// A policy to evaluate.
struct Player<'a> {
    name: &'static str,
    /// Its model's name in the recipe.
    model: &'a str,
    /// Index of the player that it started from.
    from: Option<usize>,
}

fn players<'a>(cx: &Context<'a>) -> Vec<Player<'a>> {
    let r = cx.recipe;
    let mut players: Vec<Player<'a>> = Vec::new();
    let mut add = |name, model: &'a str, base: &'a str| {
        if players.is_empty() {
            players.push(Player {
                name: "base",
                model: base,
                from: None,
            });
        }
        let from = players.iter().position(|p| p.model == base);
        players.push(Player { name, model, from });
    };
    if let Some(c) = &r.sft {
        add("sft", "sft", &c.base);
    }
    match r.optimizes_by() {
        Some(Algorithm::Ppo) => {
            if let Some(c) = &r.ppo {
                add("ppo", "ppo", &c.base);
            }
        }
        Some(Algorithm::Dpo) => {
            if let Some(c) = &r.dpo {
                add("dpo", "dpo", &c.base);
            }
        }
        None => {}
    }
    players
}

/// The reward model that the run trains or optimizes against.
fn reward_model(recipe: &Recipe) -> Option<&str> {
    let ppo = recipe
        .ppo
        .as_ref()
        .filter(|_| recipe.optimizes_by() == Some(Algorithm::Ppo));
    match (ppo, &recipe.reward) {
        (Some(c), _) => Some(&c.reward),
        (None, Some(_)) => Some("reward"),
        (None, None) => None,
    }
}

/// Who is compared with whom: each with base, and the last with sft.
fn matches(players: &[Player<'_>]) -> Vec<(usize, usize)> {
    (1..players.len())
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .collect()
}

/// The prompts that nothing was trained on.
fn held_out(cx: &Context<'_>, config: &EvaluateConfig) -> Result<(Vec<Row>, String), Error> {
    let own = |row: &&Row| Split::of(&row.prompt) == Split::Test;
    let (mut rows, hash) = match &config.prompts {
        None => {
            let rows: Vec<Row> = cx.prompts.rows.iter().filter(own).cloned().collect();
            (rows, cx.prompts.sha256.clone())
        }
        Some(path) => {
            let seen: std::collections::HashSet<String> = cx
                .prompts
                .rows
                .iter()
                .filter(|row| !own(row))
                .map(|row| fixed(&row.prompt))
                .collect();
            let mut read = dataset::read(path)?;
            read.rows.retain(|row| !seen.contains(&fixed(&row.prompt)));
            (read.rows, read.sha256)
        }
    };
    rows.truncate(config.limit.unwrap_or(usize::MAX));
    if rows.is_empty() {
        return Err(Error::input(
            "there is no held-out prompt to evaluate on",
            "give more prompts (a hash of each decides its split, 10 % test), or name a file of \
             others by `evaluate.prompts`",
        ));
    }
    Ok((rows, hash))
}

/// Evaluates the run's policies.
///
/// # Errors
/// As [`run_stage`]; no held-out prompt; a model's folder that cannot be read.
pub async fn run(cx: &mut Context<'_>, config: &EvaluateConfig) -> Result<StageReport, Error> {
    let players = players(cx);
    let (prompts, hash) = held_out(cx, config)?;
    let rows: Vec<&Row> = prompts.iter().collect();
    let run_seed = seed::derive(cx.recipe.seed, &["evaluate"]);
    let mut inputs = BTreeMap::new();
    let mut written: Vec<Vec<Candidate>> = Vec::new();
    for player in &players {
        let sampling = CandidatesConfig {
            model: player.model.to_owned(),
            n: 1,
            sampling: config.sampling.clone(),
        };
        let stage = format!("evaluate/{}", player.name);
        let file = format!("evaluation/{}.jsonl", player.name);
        let hash = format!("{hash} {}", rows.len());
        super::candidates::sample(cx, &stage, &file, &sampling, run_seed, &rows, hash).await?;
        // One policy in memory at a time.
        cx.local.close();
        inputs.insert(file.clone(), sha256_file(&cx.file(&file))?);
        written.push(read_records(&cx.file(&file))?);
    }
    let most = config.judge_limit.unwrap_or(usize::MAX);
    let judgments = compare(cx, &players, &written, most, run_seed).await?;
    cx.local.close();
    if judgments.is_some() {
        inputs.insert(JUDGMENTS.into(), sha256_file(&cx.file(JUDGMENTS))?);
    }
    for player in &players {
        let folder = cx.model_folder(player.model)?;
        inputs.insert(player.name.into(), cx.local.fingerprint(&folder)?);
    }
    let reward = match reward_model(cx.recipe) {
        Some(name) => Some(cx.model_folder(name)?),
        None => None,
    };
    if let Some(folder) = &reward {
        inputs.insert("reward".into(), cx.local.fingerprint(folder)?);
    }
    let labels = cx.file(judge::FILE);
    if labels.is_file() {
        inputs.insert(judge::FILE.into(), sha256_file(&labels)?);
    }
    let evaluators: Vec<&str> = cx.evaluators.iter().map(|e| e.name()).collect();
    let key = StageKey {
        inputs,
        config: seed::sha256_hex(fixed(&(config, evaluators)).as_bytes()),
        seed: run_seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    if let Some(report) = unchanged(cx.folder, "evaluate", &key) {
        return Ok(report);
    }
    let reward = match &reward {
        Some(folder) => {
            let cache_bytes = rlaif_engine::Options::default().cache_bytes;
            Some(RewardModel::open(folder, cache_bytes)?)
        }
        None => None,
    };
    let measured = measure_all(cx, config, &players, &written, reward.as_ref())?;
    let labeled: Vec<Judgment> = match labels.is_file() {
        true => read_records(&labels)?,
        false => Vec::new(),
    };
    let evaluation = Evaluation {
        prompts: prompts.len(),
        policies: figures(&players, &measured),
        comparisons: comparisons(cx, &players, &measured, judgments.as_deref(), most),
        bias: bias(&labeled, &players, &measured, reward.as_ref()),
        iterations: iterations(cx)?,
        raters: raters(cx, &labeled, run_seed),
    };
    let lines: Vec<&Measured> = measured.iter().flatten().collect();
    let known = known_labels(cx, &labeled);
    let mut tally = Tally {
        rows: lines.len(),
        ..Tally::default()
    };
    for outcome in Outcome::ALL {
        let n = lines.iter().filter(|m| m.outcome == outcome).count();
        tally.outcomes.insert(outcome.as_str(), n);
    }
    let summary = serde_json::to_string_pretty(&evaluation).unwrap_or_default() + "\n";
    write_atomic(&cx.file(SUMMARY), summary.as_bytes())?;
    let outputs = BTreeMap::from([
        (FILE.to_owned(), write_lines(&cx.file(FILE), &lines)?),
        (LABELS.to_owned(), write_lines(&cx.file(LABELS), &known)?),
        (
            SUMMARY.to_owned(),
            rlaif_core::run::OutputFile {
                sha256: seed::sha256_hex(summary.as_bytes()),
                rows: summary.lines().count() as u64,
            },
        ),
    ]);
    record(cx.folder, "evaluate", key, outputs, &tally, None)?;
    Ok(StageReport {
        stage: "evaluate".into(),
        unchanged: false,
        tally,
    })
}

/// The judge as a rater, and whom the evaluators know; nobody where nothing was labeled.
fn raters(cx: &Context<'_>, labeled: &[Judgment], seed: u64) -> Vec<Rater> {
    if labeled.is_empty() {
        return Vec::new();
    }
    let steady = labeled.iter().flat_map(|j| {
        let own = j.opinions.is_empty().then_some(j.orders_agree);
        own.into_iter()
            .chain(j.opinions.iter().map(|o| o.orders_agree))
    });
    let right = labeled.iter().filter_map(|j| {
        let p = j.p_first.get()?;
        let truth = cx.evaluators.iter().find_map(|e| e.label(j))?;
        (truth != 0.5).then_some((p > 0.5) == (truth > 0.5))
    });
    let mut all = vec![Rater {
        who: "the judge".into(),
        with_itself: Proportion::of(steady.flatten()),
        with_another: None,
        right: Proportion::of(right),
    }];
    all.extend(cx.evaluators.iter().flat_map(|e| e.raters(labeled, seed)));
    all
}

/// What the evaluators know of the pairs that the judge labeled.
fn known_labels(cx: &Context<'_>, labeled: &[Judgment]) -> Vec<Label> {
    labeled
        .iter()
        .flat_map(|j| {
            cx.evaluators.iter().filter_map(|e| {
                Some(Label {
                    id: j.id.clone(),
                    by: e.name().to_owned(),
                    p_first: e.label(j)?,
                })
            })
        })
        .collect()
}

/// The critic's comparisons on the first `most` prompts; `None` where the recipe has no judge. Both
/// orders, whatever the recipe's labels used: a position bias must not decide who is better.
async fn compare(
    cx: &mut Context<'_>,
    players: &[Player<'_>],
    written: &[Vec<Candidate>],
    most: usize,
    run_seed: u64,
) -> Result<Option<Vec<Judgment>>, Error> {
    let Some(config) = &cx.recipe.judge else {
        return Ok(None);
    };
    let config = rlaif_feedback::JudgeConfig {
        orders: Orders::Both,
        ..config.clone()
    };
    let model = cx.model(&config.model)?;
    let by = judge::judge_of(&config, model, cx.constitution, cx.templates(), run_seed)?
        .with_jury(judge::jury(cx, &config)?);
    let settings = judge::settings(&by);
    let mut items = Vec::new();
    let mut inputs = BTreeMap::new();
    for player in players {
        let file = format!("evaluation/{}.jsonl", player.name);
        inputs.insert(file.clone(), sha256_file(&cx.file(&file))?);
    }
    for (i, j) in matches(players) {
        for (a, b) in written[i].iter().zip(&written[j]).take(most) {
            if a.outcome != Outcome::Decided || b.outcome != Outcome::Decided {
                continue;
            }
            let pair = judge::Pair {
                id: format!("{}-{}/{}", players[i].name, players[j].name, a.id),
                prompt: a.prompt.clone(),
                response_a: a.completion.clone(),
                response_b: b.completion.clone(),
            };
            items.push((judge::key(&settings, &pair), pair));
        }
    }
    let spec = StageSpec {
        name: "evaluate/judge",
        log: "evaluate/judge",
        output: JUDGMENTS,
        inputs,
        config: settings,
        max_failed: cx.recipe.max_failed,
        concurrency: cx.in_flight(&config.model),
        seed: run_seed,
        progress: cx.progress,
        stop: cx.stop,
    };
    let by = &by;
    run_stage(
        cx.folder,
        spec,
        items,
        |pair| async move { judge::judge_pair(by, pair).await },
        |record: &Judgment| line(record),
        |pair| judge::not_run(by, pair),
    )
    .await?;
    Ok(Some(read_records(&cx.file(JUDGMENTS))?))
}

fn measure_all(
    cx: &Context<'_>,
    config: &EvaluateConfig,
    players: &[Player<'_>],
    written: &[Vec<Candidate>],
    reward: Option<&RewardModel>,
) -> Result<Vec<Vec<Measured>>, Error> {
    let mut all = Vec::with_capacity(players.len());
    for (player, candidates) in players.iter().zip(written) {
        let came: Vec<&Candidate> = candidates
            .iter()
            .filter(|c| c.outcome == Outcome::Decided)
            .collect();
        let asked: Vec<(&[Message], &str)> = came
            .iter()
            .map(|c| (c.prompt.0.as_slice(), c.completion.as_str()))
            .collect();
        let from = match player.from {
            Some(i) => Some(cx.model_folder(players[i].model)?),
            None => None,
        };
        let tokens = measure(
            &cx.model_folder(player.model)?,
            from.as_deref(),
            &asked,
            config.sampling.temperature,
            config.sampling.max_new_tokens as usize,
        )?;
        let scores = reward.map(|model| model.score(&asked));
        let mut at = 0;
        all.push(
            candidates
                .iter()
                .map(|c| {
                    let decided = c.outcome == Outcome::Decided;
                    let index = at;
                    at += usize::from(decided);
                    let tokens = decided.then(|| tokens[index]).flatten();
                    let score = scores.as_ref().filter(|_| decided);
                    Measured {
                        id: c.id.clone(),
                        policy: player.name.to_owned(),
                        prompt: c.prompt.clone(),
                        completion: c.completion.clone(),
                        outcome: c.outcome,
                        tokens: tokens.map(|t| t.tokens),
                        words: words(&c.completion),
                        reward: score.and_then(|s| s[index].as_ref().ok().copied()),
                        kl: tokens.and_then(|t| t.kl),
                        // An empty answer is an answer, and evaluators say what it is worth; no
                        // answer is none.
                        numbers: if c.outcome.is_open() {
                            BTreeMap::new()
                        } else {
                            numbers(cx, &c.prompt, &c.completion, player.name)
                        },
                    }
                })
                .collect(),
        );
    }
    Ok(all)
}

fn numbers(cx: &Context<'_>, prompt: &Prompt, completion: &str, policy: &str) -> Numbers {
    cx.evaluators
        .iter()
        .map(|e| (e.name().to_owned(), e.measure(prompt, completion, policy)))
        .collect()
}

fn means<'a>(all: impl Iterator<Item = &'a Numbers>) -> Means {
    let mut lists: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for one in all {
        for (who, numbers) in one {
            let of = lists.entry(who.clone()).or_default();
            for (name, value) in numbers {
                of.entry(name.clone()).or_default().push(*value);
            }
        }
    }
    lists
        .into_iter()
        .map(|(who, numbers)| {
            let numbers = numbers
                .into_iter()
                .filter_map(|(name, values)| Some((name, Estimate::of(&values)?)))
                .collect();
            (who, numbers)
        })
        .collect()
}

fn figures(players: &[Player<'_>], measured: &[Vec<Measured>]) -> Vec<PolicyFigures> {
    let mut all = Vec::with_capacity(players.len());
    for (player, of) in players.iter().zip(measured) {
        let came: Vec<&Measured> = of
            .iter()
            .filter(|m| m.outcome == Outcome::Decided)
            .collect();
        let mean = |value: &dyn Fn(&Measured) -> Option<f64>| {
            let values: Vec<f64> = came.iter().filter_map(|m| value(m)).collect();
            Estimate::of(&values)
        };
        all.push(PolicyFigures {
            policy: player.name.to_owned(),
            completions: came.len(),
            failed: of.len() - came.len(),
            tokens: mean(&|m| m.tokens.map(|t| t as f64)),
            words: mean(&|m| Some(m.words as f64)),
            reward: mean(&|m| m.reward.map(f64::from)),
            kl: mean(&|m| m.kl.map(f64::from)),
            kl_to: player.from.map(|i| players[i].name.to_owned()),
            numbers: means(of.iter().map(|m| &m.numbers)),
        });
    }
    all
}

fn comparisons(
    cx: &Context<'_>,
    players: &[Player<'_>],
    measured: &[Vec<Measured>],
    judgments: Option<&[Judgment]>,
    most: usize,
) -> Vec<Compared> {
    let mut all = Vec::new();
    let mut add = |i: usize, j: usize, by: &str, results: &[Comparison], failed| {
        let ties = results.iter().filter(|c| **c == Comparison::Tie).count();
        all.push(Compared {
            policy: players[i].name.to_owned(),
            against: players[j].name.to_owned(),
            by: by.to_owned(),
            result: win_rate(results),
            tie_rate: (!results.is_empty()).then(|| ties as f64 / results.len() as f64),
            failed,
        });
    };
    for (i, j) in matches(players) {
        if let Some(judgments) = judgments {
            let prefix = format!("{}-{}/", players[i].name, players[j].name);
            let results: Vec<Comparison> = judgments
                .iter()
                .filter(|judgment| judgment.id.starts_with(&prefix))
                .filter_map(
                    |judgment| match (judgment.outcome, judgment.p_first.get()?) {
                        (Outcome::Decided, p) if p > 0.5 => Some(Comparison::Win),
                        (Outcome::Decided, p) if p < 0.5 => Some(Comparison::Loss),
                        (Outcome::Decided | Outcome::Tie, _) => Some(Comparison::Tie),
                        _ => None,
                    },
                )
                .collect();
            let asked = measured[i].len().min(most);
            add(i, j, "critic", &results, asked - results.len());
        }
        for evaluator in cx.evaluators {
            let Some(number) = evaluator.compares_by() else {
                continue;
            };
            let of = |m: &Measured| m.numbers.get(evaluator.name())?.get(number).copied();
            let results: Vec<Comparison> = measured[i]
                .iter()
                .zip(&measured[j])
                .filter_map(|(a, b)| {
                    let (a, b) = (of(a)?, of(b)?);
                    Some(if a > b {
                        Comparison::Win
                    } else if a < b {
                        Comparison::Loss
                    } else {
                        Comparison::Tie
                    })
                })
                .collect();
            let failed = measured[i].len() - results.len();
            add(i, j, evaluator.name(), &results, failed);
        }
    }
    all
}

/// Held-out pairs that suffice for a slope.
const PAIRS_FOR_SLOPE: usize = 1_000;

fn bias(
    labeled: &[Judgment],
    players: &[Player<'_>],
    measured: &[Vec<Measured>],
    reward: Option<&RewardModel>,
) -> Bias {
    let mut bias = Bias {
        judge: length_preference(labeled).and_then(|l| l.slope_per_word),
        ..Bias::default()
    };
    if let Some(model) = reward {
        let held: Vec<&Judgment> = labeled
            .iter()
            .filter(|j| Split::of(&j.prompt) != Split::Train)
            .take(PAIRS_FOR_SLOPE)
            .collect();
        let asked: Vec<(&[Message], &str)> = held
            .iter()
            .flat_map(|j| {
                [&j.response_a, &j.response_b].map(|r| (j.prompt.0.as_slice(), r.as_str()))
            })
            .collect();
        let scores = model.score(&asked);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for (j, pair) in held.iter().zip(scores.chunks_exact(2)) {
            if let [Ok(a), Ok(b)] = pair {
                x.push(words(&j.response_a) as f64 - words(&j.response_b) as f64);
                y.push(f64::from(a - b));
            }
        }
        bias.reward = slope(&x, &y).ok();
    }
    if let Some(last) = players.last()
        && let Some(from) = last.from
    {
        let changes: Vec<f64> = measured[players.len() - 1]
            .iter()
            .zip(&measured[from])
            .filter(|(a, b)| a.outcome == Outcome::Decided && b.outcome == Outcome::Decided)
            .map(|(a, b)| a.words as f64 - b.words as f64)
            .collect();
        bias.policy = Estimate::of(&changes);
    }
    bias
}

/// PPO's own completions in the evaluators' eyes.
fn iterations(cx: &Context<'_>) -> Result<Vec<IterationFigures>, Error> {
    let path = cx.file("ppo").join(ROLLOUTS);
    let ran = cx.recipe.optimizes_by() == Some(Algorithm::Ppo);
    if !ran || cx.evaluators.is_empty() || !path.is_file() {
        return Ok(Vec::new());
    }
    let rollouts: Vec<Scored> = read_records(&path)?;
    let prompts: BTreeMap<&str, &Prompt> = cx
        .prompts
        .rows
        .iter()
        .map(|row| (row.id.as_str(), &row.prompt))
        .collect();
    let mut by: BTreeMap<u64, Vec<Numbers>> = BTreeMap::new();
    for r in &rollouts {
        if let Some(prompt) = prompts.get(r.id.as_str()) {
            let numbers = numbers(cx, prompt, &r.completion, "ppo");
            by.entry(r.iteration).or_default().push(numbers);
        }
    }
    Ok(by
        .into_iter()
        .map(|(iteration, all)| IterationFigures {
            iteration,
            numbers: means(all.iter()),
        })
        .collect())
}
