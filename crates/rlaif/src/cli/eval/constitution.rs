//! `rlaif eval constitution`.

use std::path::Path;

use rlaif::evals::principles;
use rlaif::stages::judge::{self as judges, Pair};
use rlaif::{Error, JudgeConfig, Judgment, Principles};
use rlaif_feedback::Judge;
use serde_json::Map;

use super::args::EvalConstitutionArgs;
use crate::cli::args::Global;
use crate::cli::desk::Desk;
use crate::cli::loose::{no_completions, note_short, pairs_of};

pub async fn constitution(args: &EvalConstitutionArgs, global: &Global) -> Result<u8, Error> {
    let select = args.pairs.parse()?;
    let files = args
        .output
        .files(args.input.clone(), Some(&args.constitution))?;
    let mut desk = Desk::open(&files, "eval-constitution", &args.endpoint.run, global)?;
    let model = desk.model("critic", &args.critic, &args.endpoint)?;
    let config = JudgeConfig {
        template: args.question.template.clone(),
        principles: Principles::Sampled,
        tie_margin: args.question.tie_margin,
        ..JudgeConfig::default()
    };
    // A judge a principle: drawn from one, it is the one.
    let mut by: Vec<Judge> = Vec::new();
    for principle in &desk.constitution.principles {
        let mut only = desk.constitution.clone();
        only.principles = vec![principle.clone()];
        only.principles[0].weight = 1.0;
        by.push(judges::judge_of(
            &config,
            model.clone(),
            &only,
            Path::new(""),
            desk.seed,
        )?);
    }
    note_short(&desk);
    let pairs: Vec<Pair> = pairs_of(&desk, &select)?
        .map(|item| item.map(|(_, pair)| pair))
        .collect::<Result<_, _>>()?;
    if pairs.is_empty() {
        return Err(no_completions(&files, "two completions to compare"));
    }
    let items: Vec<(String, (&Judge, Pair))> = by
        .iter()
        .flat_map(|by| {
            let settings = judges::settings(by);
            pairs
                .iter()
                .map(move |pair| (judges::key(&settings, pair), (by, pair.clone())))
        })
        .collect();
    let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
    let mut log = desk.log()?;
    let (tally, stopped) = desk
        .ask(
            "eval-constitution",
            &args.endpoint,
            &mut log,
            items,
            |(by, pair): (&Judge, Pair)| judges::judge_pair(by, pair),
        )
        .await?;
    let mut judged: Vec<Vec<Option<Judgment>>> = Vec::new();
    for column in keys.chunks(pairs.len()) {
        let mut read = Vec::with_capacity(column.len());
        for key in column {
            read.push(log.get(key)?);
        }
        judged.push(read);
    }
    let ids: Vec<String> = desk
        .constitution
        .principles
        .iter()
        .map(|p| p.id.clone())
        .collect();
    let report = principles::report(&model.id().to_string(), &ids, &judged);
    let title = format!(
        "What {} makes of its principles",
        args.constitution.display()
    );
    let html = rlaif::report::evals::constitution(&title, &report);
    super::write(
        &args.output.out,
        args.output.report.as_deref(),
        &report,
        &html,
    )?;
    let (endpoint, kept) = (&args.endpoint, (&log, keys.iter().map(Ok)));
    let gate = desk.gate::<Judgment>("eval-constitution", endpoint, kept, &tally, stopped);
    desk.close(log, &tally)?;
    let words = if report.advice.is_empty() {
        report.nothing()
    } else {
        report.advice.join("\n")
    };
    let mut extra = Map::new();
    extra.insert(
        "report".into(),
        serde_json::to_value(&report).unwrap_or_default(),
    );
    desk.end(global, &args.output.out, &tally, gate, extra, &words)
}
