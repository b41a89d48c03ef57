//! `rlaif eval policy`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rlaif::evals::boards::{Count, Standing, Versus, read_benchmark, standings, won_by_second};
use rlaif::stages::judge::{self as judges, Pair};
use rlaif::{Error, Judgment, Outcome, Prompt};
use rlaif_core::dataset::{self, Dataset, Row};
use rlaif_core::model::Evidence;
use rlaif_core::seed;
use rlaif_eval::Benchmark;
use serde::Serialize;
use serde_json::{Map, Value};

use super::args::{CountArg, EvalPolicyArgs};
use crate::cli::args::Global;
use crate::cli::desk::Desk;
use crate::cli::input::note_faults;
use crate::cli::judging::jury;
use crate::cli::run::judgment_of;
use crate::cli::show::Bars;

/// A policy's output beside its reference's.
#[derive(Clone)]
struct Match {
    id: String,
    prompt: Prompt,
    policy: String,
    reference: String,
    output: String,
    reference_output: String,
    /// The prompt's number in the benchmark, where one is given.
    instruction: usize,
}

impl Match {
    fn versus(&self, won: Option<f64>, outcome: Outcome) -> Versus {
        Versus {
            policy: self.policy.clone(),
            reference: self.reference.clone(),
            won,
            outcome,
            length: self.output.chars().count(),
            reference_length: self.reference_output.chars().count(),
            instruction: self.instruction,
        }
    }
}

#[derive(Serialize)]
struct Out<'a> {
    count: &'a str,
    standings: &'a [Standing],
}

pub async fn policy(args: &EvalPolicyArgs, global: &Global) -> Result<u8, Error> {
    let mut files = Vec::new();
    for path in &args.input {
        let dataset = dataset::read(path)?;
        note_faults(&dataset, &Bars::new());
        files.push(dataset);
    }
    let mut matches = matches_of(args, &files)?;
    let benchmark = match &args.df_gamed {
        Some(path) => Some(read_benchmark(path)?),
        None => None,
    };
    if let Some(benchmark) = &benchmark {
        number(&mut matches, benchmark)?;
    }
    let benchmark = benchmark.as_ref();
    let Some(critic) = &args.critic else {
        let (count, versus) = recorded(args, &matches)?;
        let board = standings(&versus, benchmark);
        finish(args, count, &board)?;
        eprintln!("{}\n-> {}", lines(&board), args.output.out.display());
        if global.json {
            let out = Out {
                count,
                standings: &board,
            };
            println!("{}", serde_json::to_value(&out).unwrap_or_default());
        }
        return Ok(0);
    };
    let (config, jurors) = args.how.config()?;
    let first = args.input.first().cloned().unwrap_or_default();
    let files = args.output.files(first, args.constitution.as_ref())?;
    let mut desk = Desk::open(&files, "eval-policy", &args.endpoint.run, global)?;
    let model = desk.model("critic", critic, &args.endpoint)?;
    let jury = jury(&mut desk, &jurors, &args.endpoint)?;
    let by = judges::judge_of(&config, model, &desk.constitution, Path::new(""), desk.seed)?
        .with_jury(jury);
    let settings = judges::settings(&by);
    let limit = args.output.limit.unwrap_or(usize::MAX);
    let items: Vec<(String, (Pair, bool))> = matches
        .iter()
        .take(limit)
        .map(|(m, _)| {
            // Which output is shown first is drawn, and undone below.
            let flip = seed::unit(seed::derive(desk.seed, &["eval-policy", &m.id])) < 0.5;
            let (a, b) = if flip {
                (&m.output, &m.reference_output)
            } else {
                (&m.reference_output, &m.output)
            };
            let pair = Pair {
                id: m.id.clone(),
                prompt: m.prompt.clone(),
                response_a: a.clone(),
                response_b: b.clone(),
            };
            (judges::key(&settings, &pair), (pair, flip))
        })
        .collect();
    let mut log = desk.log()?;
    let by = &by;
    let (tally, stopped) = desk
        .ask(
            "eval-policy",
            &args.endpoint,
            &mut log,
            items.clone(),
            |(pair, _): (Pair, bool)| judges::judge_pair(by, pair),
        )
        .await?;
    let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
    let mut judged: Vec<(&Match, Option<Judgment>, bool)> = Vec::new();
    for ((key, (_, flip)), (m, _)) in items.iter().zip(&matches) {
        judged.push((m, log.get(key)?, *flip));
    }
    let count = resolve(args.count, judged.iter().filter_map(|(_, j, _)| j.as_ref()));
    let versus: Vec<Versus> = judged
        .iter()
        .map(|(m, judgment, flip)| {
            let outcome = judgment.as_ref().map_or(Outcome::NotRun, |j| j.outcome);
            m.versus(
                judgment.as_ref().and_then(|j| won(j, *flip, count)),
                outcome,
            )
        })
        .collect();
    let board = standings(&versus, benchmark);
    finish(args, name(count), &board)?;
    let (endpoint, kept) = (&args.endpoint, (&log, keys.iter().map(Ok)));
    let gate = desk.gate::<Judgment>("eval-policy", endpoint, kept, &tally, stopped);
    desk.close(log, &tally)?;
    let mut extra = Map::new();
    extra.insert("count".into(), name(count).into());
    extra.insert(
        "standings".into(),
        serde_json::to_value(&board).unwrap_or_default(),
    );
    desk.end(
        global,
        &args.output.out,
        &tally,
        gate,
        extra,
        &lines(&board),
    )
}

/// What the policy's output wins; `first` where it is the response given first.
fn won(judgment: &Judgment, first: bool, count: Count) -> Option<f64> {
    let second = won_by_second(judgment, count)?;
    Some(if first { 1.0 - second } else { second })
}

fn name(count: Count) -> &'static str {
    match count {
        Count::Probabilities => "probabilities",
        Count::Verdicts => "verdicts",
    }
}

fn resolve<'a>(arg: CountArg, mut judgments: impl Iterator<Item = &'a Judgment>) -> Count {
    let sampled = |j: &Judgment| {
        let sampled = |e: &Evidence| matches!(e, Evidence::Sampled { .. });
        j.orders
            .iter()
            .any(|o| o.evidence.as_ref().is_some_and(sampled))
    };
    match arg {
        CountArg::Probabilities => Count::Probabilities,
        CountArg::Verdicts => Count::Verdicts,
        // A share of sampled answers, smoothed, is no probability to average over comparisons.
        CountArg::Auto if judgments.any(sampled) => Count::Verdicts,
        CountArg::Auto => Count::Probabilities,
    }
}

fn text<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
    row.columns.get(column).and_then(Value::as_str)
}

/// Every comparison that the files hold, with its row; a row that fits no layout is a fault.
fn matches_of<'a>(
    args: &EvalPolicyArgs,
    files: &'a [Dataset],
) -> Result<Vec<(Match, &'a Row)>, Error> {
    let reference = match &args.reference {
        Some(path) => Some((path, reference_outputs(path)?)),
        None => None,
    };
    let mut all = Vec::new();
    let mut unmatched = 0usize;
    for dataset in files {
        for row in &dataset.rows {
            let place = || format!("{}:{}", dataset.path.display(), row.line);
            let policy = |column: &str| text(row, column).unwrap_or("policy").to_owned();
            if let (Some(one), Some(two)) = (text(row, "output_1"), text(row, "output_2")) {
                all.push((
                    Match {
                        id: row.id.clone(),
                        prompt: row.prompt.clone(),
                        policy: policy("generator_2"),
                        reference: text(row, "generator_1").unwrap_or("reference").to_owned(),
                        output: two.to_owned(),
                        reference_output: one.to_owned(),
                        instruction: 0,
                    },
                    row,
                ));
                continue;
            }
            let ([output], Some((_, outputs))) = (row.completions.as_slice(), &reference) else {
                return Err(Error::input(
                    format!(
                        "{}: expected `output_1` and `output_2`, or `output` with `--reference \
                         FILE`",
                        place()
                    ),
                    "AlpacaEval's layouts are told by `rlaif eval policy --help`",
                ));
            };
            let policy = policy("generator");
            match outputs.get(&row.prompt.to_text()) {
                Some((reference, reference_output)) => all.push((
                    Match {
                        // Several models answer the same prompts.
                        id: format!("{policy}/{}", row.id),
                        prompt: row.prompt.clone(),
                        policy,
                        reference: reference.clone(),
                        output: output.clone(),
                        reference_output: reference_output.clone(),
                        instruction: 0,
                    },
                    row,
                )),
                None => unmatched += 1,
            }
        }
    }
    if unmatched > 0 {
        eprintln!("{unmatched} outputs left out: the reference has none for their prompts");
    }
    if all.is_empty() {
        return Err(Error::input(
            "no comparison is left",
            "give outputs for the prompts that the reference answers",
        ));
    }
    Ok(all)
}

/// Numbers each policy's prompts as the benchmark does: by the column `index`, or by their place
/// where a policy answers all of the benchmark's prompts, which alpaca_eval takes for granted.
fn number(matches: &mut [(Match, &Row)], benchmark: &Benchmark) -> Result<(), Error> {
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut by_place = false;
    for (m, row) in matches.iter_mut() {
        let place = places
            .entry((m.policy.clone(), m.reference.clone()))
            .or_default();
        let index = row.columns.get("index").and_then(Value::as_u64);
        by_place |= index.is_none();
        m.instruction = index.map_or(*place, |i| i as usize);
        *place += 1;
        if !benchmark.knows(m.instruction) {
            return Err(Error::input(
                format!(
                    "prompt {} of {} is not in `--df-gamed`",
                    m.instruction, m.policy
                ),
                "give rows the column `index`, the prompt's number in the benchmark",
            ));
        }
    }
    let all = benchmark.instructions();
    match places.iter().find(|(_, n)| by_place && **n != all) {
        None => Ok(()),
        Some(((policy, _), n)) => Err(Error::input(
            format!("{policy} answers {n} of the benchmark's {all} prompts, and which is not said"),
            "give rows the column `index`, the prompt's number in the benchmark",
        )),
    }
}

fn reference_outputs(path: &Path) -> Result<HashMap<String, (String, String)>, Error> {
    let dataset = dataset::read(path)?;
    note_faults(&dataset, &Bars::new());
    let mut outputs = HashMap::new();
    for row in &dataset.rows {
        if let [output] = row.completions.as_slice() {
            let name = text(row, "generator").unwrap_or("reference").to_owned();
            outputs.insert(row.prompt.to_text(), (name, output.clone()));
        }
    }
    Ok(outputs)
}

/// Comparisons as the files have them: judged here before, or by whoever annotated them.
fn recorded(
    args: &EvalPolicyArgs,
    matches: &[(Match, &Row)],
) -> Result<(&'static str, Vec<Versus>), Error> {
    let limit = args.output.limit.unwrap_or(usize::MAX);
    let judged: Vec<Option<Judgment>> = matches
        .iter()
        .map(|(_, row)| row.columns.get("rlaif_id").and_then(|_| judgment_of(row)))
        .collect();
    let count = resolve(args.count, judged.iter().flatten());
    let how = if judged.iter().any(Option::is_some) {
        name(count)
    } else {
        "the file's preferences"
    };
    let mut versus = Vec::new();
    for ((m, row), judgment) in matches.iter().zip(&judged).take(limit) {
        if let Some(j) = judgment {
            let first = j.response_a == m.output;
            versus.push(m.versus(won(j, first, count), j.outcome));
            continue;
        }
        let won = match row.columns.get("preference").and_then(Value::as_f64) {
            // 0 is the older mark of a draw.
            Some(0.0) => Some(0.5),
            Some(p) => Some(p - 1.0),
            None => None,
        };
        let outcome = won.map_or(Outcome::NotRun, |_| Outcome::Decided);
        versus.push(m.versus(won, outcome));
    }
    if versus.iter().all(|v| v.won.is_none()) {
        return Err(Error::input(
            "the files hold no preferences",
            "name a judge with `--critic MODEL`, or give annotations with a `preference` column",
        ));
    }
    Ok((how, versus))
}

fn finish(args: &EvalPolicyArgs, count: &str, board: &[Standing]) -> Result<(), Error> {
    let how = format!("Comparisons count by {count}.");
    let html = rlaif::report::evals::standings("Who beats the reference?", &how, board);
    let out = Out {
        count,
        standings: board,
    };
    super::write(&args.output.out, args.output.report.as_deref(), &out, &html)
}

fn lines(board: &[Standing]) -> String {
    let line = |s: &Standing| match &s.figures {
        None => format!("{}: no comparison has a judgment", s.policy),
        Some(f) => {
            let error = f
                .standard_error
                .map_or(String::new(), |e| format!(" ± {e:.2}"));
            let left = match s.left_out {
                0 => String::new(),
                n => format!(", {n} left out"),
            };
            let controlled = s.length_controlled_winrate.map_or(String::new(), |rate| {
                format!(", length-controlled {rate:.2}")
            });
            format!(
                "{} against {}: win rate {:.2}{error}{controlled} of {}{left}",
                s.policy, s.reference, f.win_rate, f.n_total
            )
        }
    };
    board.iter().map(line).collect::<Vec<_>>().join("\n")
}
