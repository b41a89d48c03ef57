//! `rlaif eval judge` on rows with several answers to a prompt, the correct ones first (RewardBench
//! 2): each answer is scored by itself, and the scores are compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rlaif::evals::best_of::{BestOfReport, ScoreCost};
use rlaif::rows::{Ended as _, Tally};
use rlaif::stages::judge as judges;
use rlaif::{Error, JudgeConfig, Model};
use rlaif_core::dataset::{Dataset, Row};
use rlaif_core::rowlog::RowLog;
use rlaif_eval::{BestOf, rewardbench2};
use serde::Serialize;
use serde_json::{Map, Value};

use super::args::EvalJudgeArgs;
use super::judge::open_all;
use crate::cli::args::Global;
use crate::cli::desk::Desk;
use crate::cli::judging::RatedRow;

/// A row of the layout: `chosen` is a list of texts.
fn is_best_of(row: &Row) -> bool {
    let first = row
        .columns
        .get("chosen")
        .and_then(Value::as_array)
        .and_then(|chosen| chosen.first());
    first.is_some_and(Value::is_string)
}

/// Where a file's first row of this layout stands, and whether there are others.
pub(super) struct Several {
    place: String,
    pairs: usize,
}

/// The rows of this layout in a file; `None` where there are none.
pub(super) fn several(dataset: &Dataset) -> Option<Several> {
    let first = dataset.rows.iter().find(|row| is_best_of(row))?;
    Some(Several {
        place: format!("{}:{}", dataset.path.display(), first.line),
        pairs: dataset.rows.iter().filter(|row| !is_best_of(row)).count(),
    })
}

#[derive(Serialize)]
struct Out<'a> {
    judges: &'a [BestOfReport],
}

/// Scores the rows of one file by every judge.
pub(super) async fn measure(
    args: &EvalJudgeArgs,
    global: &Global,
    config: &JudgeConfig,
    input: PathBuf,
    several: &Several,
) -> Result<u8, Error> {
    if several.pairs > 0 {
        return Err(Error::input(
            format!(
                "`{}` has several chosen answers, and {} other rows are pairs",
                several.place, several.pairs
            ),
            "measure the two kinds apart, a file each",
        ));
    }
    if args.attacks || args.repeats > 0 || !config.jury.is_empty() {
        return Err(Error::input(
            format!(
                "`{}` has several chosen answers, which are scored one by one; `--attacks`, \
                 `--repeats` and `--juror` are for pairs",
                several.place
            ),
            "leave them out",
        ));
    }
    let files = args.output.files(input, args.constitution.as_ref())?;
    let mut desk = Desk::open(&files, "eval-judge", &args.endpoint.run, global)?;
    let models = open_all(&mut desk, args, 0)?;
    let mut log = desk.log()?;
    let (mut total, mut stopped, mut reports) = (Tally::default(), None, Vec::new());
    let mut asked = Vec::new();
    for (name, model) in models {
        let (report, keys, tally) =
            by_one(&desk, args, config, &mut log, (name, model), &mut stopped).await?;
        reports.push(report);
        asked.extend(keys);
        total.add(&tally);
    }
    let kept = (&log, asked.iter().map(Ok));
    let gate = desk.gate::<RatedRow>("eval-judge", &args.endpoint, kept, &total, stopped);
    desk.close(log, &total)?;
    let html = rlaif::report::evals::best_of("How good are these judges?", &reports);
    let out = Out { judges: &reports };
    super::write(&args.output.out, args.output.report.as_deref(), &out, &html)?;
    let mut extra = Map::new();
    extra.insert(
        "report".into(),
        serde_json::to_value(&out).unwrap_or_default(),
    );
    let words: Vec<String> = reports.iter().map(BestOfReport::lines).collect();
    desk.end(
        global,
        &args.output.out,
        &total,
        gate,
        extra,
        &words.join("\n"),
    )
}

/// One judge's scores of all rows.
async fn by_one(
    desk: &Desk,
    args: &EvalJudgeArgs,
    config: &JudgeConfig,
    log: &mut RowLog,
    (name, model): (String, Model),
    stopped: &mut Option<Error>,
) -> Result<(BestOfReport, Vec<String>, Tally), Error> {
    let scorer = judges::scorer_of(config, model, &desk.constitution, Path::new(""), desk.seed)?;
    let settings = judges::scorer_settings(&scorer);
    let rows = desk
        .input
        .rows()?
        .collect::<Result<Vec<Arc<Row>>, Error>>()?;
    let keys: Vec<String> = rows
        .iter()
        .map(|row| RatedRow::key(&settings, row))
        .collect();
    let scorer = &scorer;
    let begun = Instant::now();
    let mut tally = Tally::default();
    if stopped.is_none() {
        let items = keys
            .iter()
            .cloned()
            .zip(rows.iter().map(Arc::clone))
            .collect();
        (tally, *stopped) = desk
            .ask(
                &name,
                &args.endpoint,
                log,
                items,
                |row: Arc<Row>| async move { RatedRow::ask(scorer, &row).await },
            )
            .await?;
    }
    let secs = begun.elapsed().as_secs_f64();
    let (mut scored, mut open, mut cost) = (Vec::new(), 0, ScoreCost::default());
    for (key, row) in keys.iter().zip(&rows) {
        let rated: Option<RatedRow> = log.get(key)?;
        let Some(rated) = rated.filter(|r| !r.outcome().is_open()) else {
            open += 1;
            continue;
        };
        cost.add(rated.cost(), row.completions.len());
        let chosen = row.columns.get("chosen").and_then(Value::as_array);
        let n_correct = chosen.map_or(1, Vec::len);
        scored.push(BestOf {
            subset: subset_of(row, args.subset.as_deref()),
            id: row.id.clone(),
            n_correct,
            scores: rated.scores(&desk.constitution),
        });
    }
    let fresh = tally.rows.saturating_sub(tally.reused);
    cost.secs = (fresh > 0).then(|| secs / fresh as f64);
    let report = BestOfReport {
        judge: name,
        source: desk.input.path.display().to_string(),
        rows: rows.len() as u64,
        open,
        // A prompt without an answer would be counted as lost or as a draw: neither is known.
        rewardbench2: rewardbench2(&scored).filter(|_| open == 0),
        cost,
    };
    Ok((report, keys, tally))
}

/// The row's subset; rows without one are one of their own.
fn subset_of(row: &Row, column: Option<&str>) -> String {
    let text = row.columns.get(column.unwrap_or("subset"));
    text.and_then(Value::as_str).unwrap_or("all").to_owned()
}
