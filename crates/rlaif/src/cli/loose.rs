//! One stage on files that the user has: `critique`, `revise`, `judge`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rlaif::error::Error;
use rlaif::figures::{self, Totals};
use rlaif::progress::Progress;
use rlaif::rows::{Ended, RunOptions, Stop, Tally, check_failed, for_each_row, tally_of};
use rlaif::stages::{commonest_error, critique as critiques, judge as judges, revise as revisions};
use rlaif::views::Views;
use rlaif::{
    Constitution, Critique, CritiqueConfig, Judgment, Model, Outcome, Prompt, ReviseConfig,
};
use rlaif_core::dataset::{self, Dataset, Row};
use rlaif_core::export::write_rows;
use rlaif_core::pairs::{Pairs, pairs};
use rlaif_core::rowlog::RowLog;
use rlaif_core::{Cost, Rater, seed};
use rlaif_feedback::FeedbackError;
use serde_json::{Map, Value, json};

#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};

use super::args::{
    CritiqueArgs, EndpointArgs, FilesArgs, Global, JudgeArgs, ReviseArgs, RunLimits,
};
use super::dashboard::Dashboard;
use super::metrics;
use super::models::{JOURNAL, Models, width_of};
use super::show::Bars;

/// What every loose verb begins with.
pub struct Desk {
    pub constitution: Constitution,
    pub dataset: Dataset,
    pub progress: Arc<dyn Progress>,
    bars: Arc<Bars>,
    models: Models,
    stop: Stop,
    pub seed: u64,
    begun: Instant,
    log_path: PathBuf,
    keeps_log: bool,
    served: std::cell::Cell<bool>,
}

impl Desk {
    pub fn open(
        files: &FilesArgs,
        verb: &str,
        limits: &RunLimits,
        global: &Global,
    ) -> Result<Self, Error> {
        let constitution = Constitution::read(&files.constitution)?;
        let mut dataset = dataset::read(&files.input)?;
        let bars = Arc::new(Bars::new());
        let progress: Arc<dyn Progress> = Arc::clone(&bars) as Arc<dyn Progress>;
        note_faults(&dataset, &*progress);
        if let Some(limit) = files.limit {
            dataset.rows.truncate(limit);
        }
        let whole = |p: &Path| std::fs::canonicalize(p).ok();
        if let (Some(input), Some(out)) = (whole(&files.input), whole(&files.out))
            && input == out
        {
            return Err(Error::input(
                format!(
                    "`{}` is the input and would be overwritten",
                    files.out.display()
                ),
                "give another file by `--out`",
            ));
        }
        if dataset.rows.is_empty() {
            return Err(Error::input(
                format!("`{}` has no row that can be read", files.input.display()),
                "see the table of columns in the README",
            ));
        }
        let (log_path, keeps_log) = match &files.run {
            Some(folder) => (folder.join("log").join(format!("{verb}.jsonl")), true),
            None => {
                let mut name = files.out.as_os_str().to_owned();
                name.push(".partial");
                (PathBuf::from(name), false)
            }
        };
        let journal = match &files.run {
            Some(folder) => folder.join(JOURNAL),
            None => {
                let mut name = log_path.as_os_str().to_owned();
                name.push(".calls");
                PathBuf::from(name)
            }
        };
        let models = Models::with_ledger(&journal, limits)?;
        bars.watch(models.watch());
        let stop = Stop::default();
        stop_on_interrupt(&stop);
        Ok(Desk {
            constitution,
            dataset,
            progress,
            bars,
            models,
            stop,
            seed: global.seed.unwrap_or(0),
            begun: Instant::now(),
            log_path,
            keeps_log,
            served: std::cell::Cell::new(false),
        })
    }

    /// Opens a model that an argument names.
    pub fn model(&mut self, name: &str, url: &str, args: &EndpointArgs) -> Result<Model, Error> {
        self.models.of_argument(name, url, args, &self.progress)
    }

    /// The log that keeps finished rows.
    pub fn log(&self) -> Result<RowLog, Error> {
        Ok(RowLog::open(&self.log_path)?)
    }

    /// Asks for the rows that the log does not hold yet. A budget that is reached is a wish, not a
    /// fault: it stands beside the count of what it allowed.
    pub async fn ask<T, R, F, Fut>(
        &self,
        verb: &str,
        endpoint: &EndpointArgs,
        log: &mut RowLog,
        items: Vec<(String, T)>,
        row: F,
    ) -> Result<(Tally, Option<Error>), Error>
    where
        R: Ended,
        F: Fn(T) -> Fut,
        Fut: Future<Output = Result<R, FeedbackError>>,
    {
        // Several passes of a verb are served at one address.
        if let Some(address) = endpoint.run.metrics.filter(|_| !self.served.replace(true)) {
            metrics::serve(address, self.models.watch(), Arc::clone(&self.bars)).await?;
        }
        let shown = endpoint.run.dashboard;
        let _dashboard = Dashboard::open_if(shown, &self.bars, self.models.watch())?;
        let width = self.models.width();
        let options = RunOptions {
            stage: verb,
            concurrency: width_of(&width),
            max_failed: endpoint.max_failed,
            progress: &*self.progress,
            stop: &self.stop,
        };
        let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
        match for_each_row(items, log, &options, row).await {
            Ok(tally) => Ok((tally, None)),
            Err(stopped) if is_budget(&stopped) => Ok((tally_of::<R>(&keys, log)?, Some(stopped))),
            Err(error) => Err(error),
        }
    }

    /// What the exit code says of a verb's rows: what stopped them, or that too many failed.
    pub fn gate<R: Ended>(
        &self,
        verb: &str,
        endpoint: &EndpointArgs,
        (log, keys): (&RowLog, &[String]),
        tally: &Tally,
        stopped: Option<Error>,
    ) -> Result<(), Error> {
        match stopped {
            Some(stopped) => Err(stopped),
            None => check_failed(verb, tally, endpoint.max_failed, || {
                commonest_error::<R>(log, keys)
            }),
        }
    }

    /// Removes the log where no row is left to ask again.
    pub fn close(&self, log: RowLog, tally: &Tally) -> Result<(), Error> {
        drop(log);
        // Rows that failed are asked again by the same command: the log is what spares the rest.
        if !self.keeps_log && is_finished(tally) {
            std::fs::remove_file(&self.log_path)
                .map_err(rlaif_core::Error::io("remove", &self.log_path))?;
        }
        Ok(())
    }

    /// Runs rows and writes them; `line` makes an output row of an item and its record.
    pub async fn work<T, R, F, Fut>(
        &self,
        verb: &str,
        out: &Path,
        endpoint: &EndpointArgs,
        items: Vec<(String, T)>,
        row: F,
        line: impl Fn(&T, Option<&R>) -> Value,
    ) -> Result<(Tally, Result<(), Error>), Error>
    where
        T: Clone,
        R: Ended,
        F: Fn(T) -> Fut,
        Fut: Future<Output = Result<R, FeedbackError>>,
    {
        let mut log = self.log()?;
        let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
        let (tally, stopped) = self
            .ask(verb, endpoint, &mut log, items.clone(), row)
            .await?;
        let mut at = items.iter().map(|(_, item)| item);
        let mut expand = |record: Option<R>| -> Vec<Value> {
            at.next()
                .map(|item| line(item, record.as_ref()))
                .into_iter()
                .collect()
        };
        let ends = |e: &str| out.extension().is_some_and(|x| x.eq_ignore_ascii_case(e));
        if ends("gz") || ends("parquet") {
            let mut rows: Vec<Value> = Vec::with_capacity(keys.len());
            for key in &keys {
                rows.extend(expand(log.get(key)?));
            }
            write_rows(out, &rows)?;
        } else {
            log.write_partial_artifact(&keys, out, |_, record| Ok(expand(record)))?;
        }
        let gate = self.gate::<R>(verb, endpoint, (&log, &keys), &tally, stopped);
        self.close(log, &tally)?;
        Ok((tally, gate))
    }

    /// Prints what the verb came to, and turns the gate into the exit code.
    pub fn end(
        self,
        global: &Global,
        out: &Path,
        tally: &Tally,
        gate: Result<(), Error>,
        extra: Map<String, Value>,
        words: &str,
    ) -> Result<u8, Error> {
        let mut totals = Totals::new(tally, self.begun.elapsed().as_secs_f64());
        self.models.count(&mut totals);
        let reached = gate.as_ref().is_err_and(is_budget);
        if global.json && (gate.is_ok() || reached) {
            let mut value = serde_json::to_value(&totals).unwrap_or_default();
            if let Some(map) = value.as_object_mut() {
                map.insert("malformed".into(), self.dataset.faults.len().into());
                map.insert("out".into(), out.display().to_string().into());
                map.insert("budget_reached".into(), reached.into());
                map.extend(extra);
            }
            println!("{value}");
        }
        eprintln!("{words}");
        eprintln!(
            "{} calls ({} made again, {} taken from before), {} + {} tokens, {:.1} s -> {}",
            totals.calls,
            totals.retries,
            totals.cached,
            totals.prompt_tokens,
            totals.completion_tokens,
            totals.wall_secs,
            out.display()
        );
        if let Some(account) = self.models.account()?.filter(|a| a.settled_usd > 0.0) {
            eprintln!(
                "${:.4} settled and at most ${:.4} unsettled, over all runs with this journal",
                account.settled_usd, account.unsettled_usd
            );
        }
        if !self.keeps_log && is_finished(tally) {
            self.models.remove_journal()?;
        }
        match gate {
            Err(error) if reached => {
                // The object on standard output has been printed already.
                super::show::error(&error, false);
                Ok(error.exit_code())
            }
            gate => gate.map(|()| 0),
        }
    }
}

/// Writes a verb's page: where it was wanted, else beside the output.
pub fn write_page(out: &Path, page: Option<&Path>, html: &str) -> Result<(), Error> {
    let beside = out.with_extension("html");
    rlaif_core::run::write_atomic(page.unwrap_or(&beside), html.as_bytes())?;
    Ok(())
}

/// No row is left to ask again.
fn is_finished(tally: &Tally) -> bool {
    tally.count(Outcome::Failed) == 0 && tally.count(Outcome::NotRun) == 0
}

fn is_budget(error: &Error) -> bool {
    let cause = match error {
        Error::Stopped { cause, .. } => cause.as_ref(),
        _ => None,
    };
    matches!(cause, Some(rlaif::ModelError::BudgetReached))
}

/// Rows that cannot be read are said, with file and line; the others go on.
pub fn note_faults(dataset: &Dataset, progress: &dyn Progress) {
    for fault in dataset.faults.iter().take(10) {
        progress.note(&format!(
            "{}:{}: {}",
            dataset.path.display(),
            fault.line,
            fault.message
        ));
    }
    let n = dataset.faults.len();
    if n > 10 {
        progress.note(&format!(
            "{}: {} more rows cannot be read",
            dataset.path.display(),
            n - 10
        ));
    }
    if n > 0 {
        progress.note(&format!("{n} of {} rows left out", n + dataset.rows.len()));
    }
}

/// Ctrl-C once: rows in flight end, the rest can go on later. Twice: out at once; what is
/// finished is on disk already.
pub fn stop_on_interrupt(stop: &Stop) {
    // A supervisor's way to say it once; it kills what does not end in time.
    #[cfg(unix)]
    for kind in [SignalKind::terminate(), SignalKind::hangup()] {
        if let Ok(mut signal) = signal(kind) {
            let stop = stop.clone();
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    stop.request();
                }
            });
        }
    }
    let stop = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.request();
            eprintln!("stopping: rows in flight end first; Ctrl-C again to stop at once");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(1);
        }
    });
}

/// The input's own columns with those of the output; an input column of the same name is kept as
/// `input_NAME`.
pub fn with_columns(columns: &Map<String, Value>, prompt: &Prompt, added: Value) -> Value {
    let Value::Object(added) = added else {
        return added;
    };
    let mut row = Map::new();
    for (name, value) in columns {
        if added.contains_key(name) && !columns.contains_key("rlaif_id") {
            row.insert(format!("input_{name}"), value.clone());
        } else {
            row.insert(name.clone(), value.clone());
        }
    }
    if !row.contains_key("prompt") {
        let prompt = match prompt.0.as_slice() {
            [only] if only.role == rlaif_core::Role::User => only.content.clone().into(),
            _ => json!(prompt),
        };
        row.insert("prompt".into(), prompt);
    }
    row.extend(added);
    Value::Object(row)
}

/// A row that was not reached.
pub fn not_run(row: &Row, mut known: Value) -> Value {
    if let Some(map) = known.as_object_mut() {
        map.insert("outcome".into(), Outcome::NotRun.as_str().into());
    }
    with_columns(&row.columns, &row.prompt, known)
}

pub fn rater_name(rater: &Rater) -> String {
    match rater {
        Rater::Model(id) => id.to_string(),
        Rater::Human(name) => name.clone(),
    }
}

/// One completion of a row.
#[derive(Clone)]
struct Answer<'a> {
    row: &'a Row,
    id: String,
    response: String,
}

fn answers(dataset: &Dataset) -> Vec<Answer<'_>> {
    let mut all = Vec::new();
    for row in &dataset.rows {
        for (i, response) in row.completions.iter().enumerate() {
            let id = if row.completions.len() == 1 {
                row.id.clone()
            } else {
                format!("{}/{i}", row.id)
            };
            all.push(Answer {
                row,
                id,
                response: response.clone(),
            });
        }
    }
    all
}

pub fn no_completions(files: &FilesArgs, n: &str) -> Error {
    Error::input(
        format!("no row of `{}` has {n}", files.input.display()),
        "give rows with `completions`, `chosen` and `rejected`, or `output_1` and `output_2`; \
         `rlaif run` samples completions from a policy",
    )
}

pub async fn critique(args: &CritiqueArgs, global: &Global) -> Result<u8, Error> {
    let mut desk = Desk::open(&args.files, "critique", &args.endpoint.run, global)?;
    let model = desk.model("critic", &args.critic, &args.endpoint)?;
    let config = CritiqueConfig {
        template: args.template.clone(),
        principles: args.principles.into(),
        ..CritiqueConfig::default()
    };
    let here = Path::new("");
    let critic = critiques::critic(&config, model, &desk.constitution, here, desk.seed)?;
    let settings = critiques::settings(&critic);
    let items: Vec<_> = answers(&desk.dataset)
        .into_iter()
        .map(|a| {
            (
                critiques::key(&settings, &a.id, &a.row.prompt, &a.response),
                a,
            )
        })
        .collect();
    if items.is_empty() {
        return Err(no_completions(&args.files, "a completion to critique"));
    }
    let critic = &critic;
    let (tally, gate) = desk
        .work(
            "critique",
            &args.files.out,
            &args.endpoint,
            items,
            |a: Answer<'_>| async move {
                rlaif_feedback::critique(critic, &a.id, 0, &a.row.prompt, &a.response).await
            },
            |a, c: Option<&Critique>| {
                let Some(c) = c else {
                    return not_run(a.row, json!({ "rlaif_id": a.id, "response": a.response }));
                };
                with_columns(
                    &a.row.columns,
                    &a.row.prompt,
                    json!({
                        "rlaif_id": c.id, "response": c.response, "critique": c.text,
                        "adherence": c.adherence, "quality": c.quality,
                        "suggestions": c.suggestions, "principles": c.principles,
                        "outcome": c.outcome, "error": c.error, "critic": rater_name(&c.rater),
                    }),
                )
            },
        )
        .await?;
    let words = format!(
        "{} of {} responses critiqued",
        tally.count(Outcome::Decided),
        tally.rows
    );
    desk.end(global, &args.files.out, &tally, gate, Map::new(), &words)
}

/// The critique that a row holds already, as `rlaif critique` wrote it.
fn held_critique(answer: &Answer<'_>) -> Option<Critique> {
    let columns = &answer.row.columns;
    let text = columns
        .get("critique")?
        .as_str()
        .filter(|t| !t.trim().is_empty())?;
    let list = |name: &str| -> Vec<String> {
        columns
            .get(name)
            .and_then(|v| serde_json::from_value(v.clone()).ok())
            .unwrap_or_default()
    };
    let critic = columns
        .get("critic")
        .and_then(Value::as_str)
        .unwrap_or("a file");
    Some(Critique {
        id: columns
            .get("rlaif_id")
            .and_then(Value::as_str)
            .unwrap_or(&answer.id)
            .to_owned(),
        step: 0,
        prompt: answer.row.prompt.clone(),
        response: answer.response.clone(),
        text: text.to_owned(),
        adherence: Vec::new(),
        quality: None,
        suggestions: list("suggestions"),
        principles: list("principles"),
        outcome: Outcome::Decided,
        error: None,
        rater: Rater::Model(rlaif_core::ModelId::new(critic)),
        cost: Cost::default(),
        provenance: rlaif_core::Provenance {
            model: rlaif_core::ModelId::new(critic),
            sampling: None,
            template: String::new(),
            constitution: String::new(),
            seed: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lost: Vec::new(),
        },
    })
}

pub async fn revise(args: &ReviseArgs, global: &Global) -> Result<u8, Error> {
    if !(1..=16).contains(&args.steps) {
        return Err(Error::input(
            format!("`--steps` must be from 1 to 16, got `{}`", args.steps),
            "Bai et al. 2022 used 4",
        ));
    }
    let mut desk = Desk::open(&args.files, "revise", &args.endpoint.run, global)?;
    let here = Path::new("");
    let policy = desk.model("policy", &args.policy, &args.endpoint)?;
    let config = ReviseConfig {
        steps: args.steps,
        sampling: rlaif_core::Sampling {
            temperature: args.temperature,
            max_new_tokens: args.max_new_tokens,
            ..rlaif_core::Sampling::default()
        },
        ..ReviseConfig::default()
    };
    let reviser = revisions::reviser(&config, policy, &desk.constitution, here, desk.seed)?;
    let critic = match &args.critic {
        Some(url) => {
            let model = desk.model("critic", url, &args.endpoint)?;
            let config = CritiqueConfig {
                principles: rlaif::Scope::Sampled,
                template: "cai".into(),
                ..CritiqueConfig::default()
            };
            Some(critiques::critic(
                &config,
                model,
                &desk.constitution,
                here,
                desk.seed,
            )?)
        }
        None => None,
    };
    let answers = answers(&desk.dataset);
    if answers.is_empty() {
        return Err(no_completions(&args.files, "a completion to revise"));
    }
    let lacking = answers
        .iter()
        .filter(|a| held_critique(a).is_none())
        .count();
    if critic.is_none() && (lacking > 0 || args.steps > 1) {
        return Err(Error::input(
            if lacking > 0 {
                format!("{lacking} of {} responses have no critique", answers.len())
            } else {
                "a chain of more than one step asks for critiques in between".to_owned()
            },
            "give `--critic MODEL`, or the file that `rlaif critique` wrote",
        ));
    }
    let settings = revisions::settings(&reviser, critic.as_ref());
    let by = critic.as_ref().map(critiques::settings).unwrap_or_default();
    let items: Vec<_> = answers
        .into_iter()
        .map(|a| {
            let key = match held_critique(&a) {
                Some(held) => revisions::key(&settings, &held),
                None => {
                    let first = critiques::key(&by, &a.id, &a.row.prompt, &a.response);
                    rlaif::rows::row_key(&["revise", &settings, &first])
                }
            };
            (key, a)
        })
        .collect();
    let (reviser, critic) = (&reviser, critic.as_ref());
    let made = std::cell::RefCell::new(Vec::<Value>::new());
    let (tally, gate) = desk
        .work(
            "revise",
            &args.files.out,
            &args.endpoint,
            items,
            |a: Answer<'_>| async move {
                let first = match (held_critique(&a), critic) {
                    (Some(held), _) => held,
                    (None, Some(critic)) => {
                        rlaif_feedback::critique(critic, &a.id, 0, &a.row.prompt, &a.response)
                            .await?
                    }
                    (None, None) => {
                        return Err(FeedbackError::NoCritique {
                            outcome: Outcome::NotRun,
                        });
                    }
                };
                revisions::chain(reviser, critic, first).await
            },
            |a, chain: Option<&revisions::Chain>| {
                let Some(chain) = chain else {
                    return not_run(a.row, json!({ "rlaif_id": a.id, "response": a.response }));
                };
                let decided = chain
                    .steps
                    .iter()
                    .rev()
                    .find(|r| r.outcome == Outcome::Decided);
                let last = chain.steps.last();
                let text = decided.map(|r| r.text.clone());
                // By construction, not by a judge: the pair carries no probability.
                if let Some(r) = decided.filter(|r| r.flags.is_empty()) {
                    let pair = json!({"chosen": r.text, "rejected": a.response});
                    let mut pair = with_columns(&Map::new(), &a.row.prompt, pair);
                    if let Some(map) = pair.as_object_mut() {
                        map.insert("rlaif_id".into(), a.id.clone().into());
                    }
                    made.borrow_mut().push(pair);
                }
                let mut completions = vec![a.response.clone()];
                completions.extend(text.clone());
                with_columns(
                    &a.row.columns,
                    &a.row.prompt,
                    json!({
                        "rlaif_id": a.id, "response": a.response, "revision": text,
                        "completions": completions,
                        "critique": last.map(|r| &r.critique),
                        "principles": last.map(|r| &r.principles),
                        "similarity": decided.and_then(|r| r.similarity),
                        "flags": decided.map(|r| &r.flags),
                        "outcome": chain.outcome(), "error": chain.error(),
                        "policy": reviser.model.id(),
                    }),
                )
            },
        )
        .await?;
    if let Some(out) = &args.pairs {
        write_rows(out, &made.into_inner())?;
    }
    let words = format!(
        "{} of {} responses revised",
        tally.count(Outcome::Decided),
        tally.rows
    );
    desk.end(global, &args.files.out, &tally, gate, Map::new(), &words)
}

pub async fn judge(args: &JudgeArgs, global: &Global) -> Result<u8, Error> {
    let (config, jurors) = args.how.config()?;
    let select: Pairs = args.pairs.parse()?;
    let mut desk = Desk::open(&args.files, "judge", &args.endpoint.run, global)?;
    let model = desk.model("critic", &args.critic, &args.endpoint)?;
    let mut jury = Vec::new();
    for (i, url) in jurors.iter().enumerate() {
        jury.push(desk.model(&format!("juror {}", i + 1), url, &args.endpoint)?);
    }
    let by = judges::judge_of(&config, model, &desk.constitution, Path::new(""), desk.seed)?
        .with_jury(jury);
    check_choices(&by, args, &*desk.progress)?;
    let people = match &args.import_human {
        Some(file) => import_human(file, &args.files.out, &*desk.progress)?,
        None => Vec::new(),
    };
    let settings = judges::settings(&by);
    let items = pairs_of(&desk, &select, &settings)?;
    if items.is_empty() {
        return Err(no_completions(&args.files, "two completions to compare"));
    }
    let rows: Vec<&Row> = items.iter().map(|(_, (row, _))| *row).collect();
    let judge = &by;
    let keep = std::cell::RefCell::new(Vec::<Judgment>::new());
    let (tally, gate) = desk
        .work(
            "judge",
            &args.files.out,
            &args.endpoint,
            items.clone(),
            |(_, pair): (&Row, judges::Pair)| async move { judges::judge_pair(judge, pair).await },
            |(row, pair), j: Option<&Judgment>| match j {
                Some(j) => {
                    keep.borrow_mut().push(j.clone());
                    judged_row(row, j)
                }
                None => not_run(
                    row,
                    json!({
                        "rlaif_id": pair.id, "chosen": null, "rejected": null, "p_chosen": null,
                        "p_first": null, "response_a": pair.response_a,
                        "response_b": pair.response_b,
                    }),
                ),
            },
        )
        .await?;
    let judgments = keep.into_inner();
    if !people.is_empty() {
        let added = people
            .iter()
            .map(|h| with_columns(&Map::new(), &h.prompt, label_columns(h)));
        let mut rows: Vec<Value> = rlaif::stages::read_records(&args.files.out)?;
        rows.extend(added);
        write_rows(&args.files.out, &rows)?;
    }
    if let Some(out) = &args.ranking {
        write_rows(out, &super::ranking::rows(&desk.dataset, &judgments))?;
    }
    let labels: BTreeMap<String, f64> = judgments
        .iter()
        .zip(rows)
        .filter_map(|(j, row)| {
            let label = row.label.get().or_else(|| said_of(&people, j))?;
            Some((j.id.clone(), label))
        })
        .collect();
    let summary = figures::summary(&judgments, &labels)?;
    let mut words = figures::outcome_line(&judgments);
    let absences = Views::of(&judgments).absences();
    for line in figures::lines(&summary).into_iter().chain(absences) {
        words.push('\n');
        words.push_str(&line);
    }
    if let Some(page) = &args.report {
        let title = format!("Labels of {}", args.files.input.display());
        let html = rlaif::report::render(&rlaif::report::Page {
            title: &title,
            judgments: &judgments,
            revisions: &[],
            summary: &summary,
            training: &rlaif::report::training::Training::default(),
        });
        rlaif_core::run::write_atomic(page, html.as_bytes())?;
    }
    let mut extra = Map::new();
    extra.insert(
        "judge".into(),
        serde_json::to_value(&summary).unwrap_or_default(),
    );
    desk.end(global, &args.files.out, &tally, gate, extra, &words)
}

/// Choices that are more than one token cannot be read off the probabilities of one place. With a
/// tokenizer that is a fault; without one it is said, for a template of the user's own.
fn check_choices(
    by: &rlaif_feedback::Judge,
    args: &JudgeArgs,
    progress: &dyn Progress,
) -> Result<(), Error> {
    #[cfg(feature = "local")]
    if let Some(folder) = &args.tokenizer {
        let tokenizer = rlaif_engine::Tokenizer::read(folder)?;
        let count = |text: &str| tokenizer.encode(text, false).ok().map(|ids| ids.len());
        if let Some(long) = by.long_choices(&count).first() {
            return Err(Error::input(
                format!(
                    "the choice `{long}` of the template `{}` is more than one token of `{}`, in \
                     every spelling",
                    args.how.template,
                    folder.display()
                ),
                "spell it as one token, such as a letter or a digit",
            ));
        }
        return Ok(());
    }
    let known = by.jurors().all(|(m, _)| m.count_tokens("A").is_some());
    if !known && Path::new(&args.how.template).is_file() {
        progress.note(
            "the judge's tokenizer is not known, so whether each choice of the template is one \
             token was not checked; give `--tokenizer DIR`",
        );
    }
    Ok(())
}

pub type PairItem<'a> = (String, (&'a Row, judges::Pair));

/// The id of two of a row's completions.
pub fn pair_id(row: &Row, i: usize, j: usize) -> String {
    match row.completions.len() {
        2 => row.id.clone(),
        _ => format!("{}/{i}-{j}", row.id),
    }
}

/// Pairs of every row that has at least two completions; rows with fewer are said.
pub fn pairs_of<'a>(
    desk: &'a Desk,
    select: &Pairs,
    settings: &str,
) -> Result<Vec<PairItem<'a>>, Error> {
    let mut items = Vec::new();
    let mut short = Vec::new();
    for row in &desk.dataset.rows {
        let n = row.completions.len();
        if n < 2 {
            short.push(row.line);
            continue;
        }
        let ratings: Option<Vec<f64>> = row
            .columns
            .get("ratings")
            .and_then(|v| serde_json::from_value(v.clone()).ok());
        let pair_seed = seed::derive(desk.seed, &["pairs", &row.id]);
        for (i, j) in pairs(n, select, ratings.as_deref(), pair_seed)? {
            let id = pair_id(row, i, j);
            let pair = judges::Pair {
                id,
                prompt: row.prompt.clone(),
                response_a: row.completions[i].clone(),
                response_b: row.completions[j].clone(),
            };
            items.push((judges::key(settings, &pair), (row, pair)));
        }
    }
    if let Some(first) = short.first() {
        desk.progress.note(&format!(
            "{}:{first}: a comparison needs two completions; {} such rows left out",
            desk.dataset.path.display(),
            short.len()
        ));
    }
    Ok(items)
}

/// The input's columns with the label.
pub fn judged_row(row: &Row, j: &Judgment) -> Value {
    with_columns(&row.columns, &row.prompt, label_columns(j))
}

/// The columns of a label.
fn label_columns(j: &Judgment) -> Value {
    let p = rlaif::Preference::from(j);
    json!({
        "rlaif_id": j.id,
        "chosen": p.chosen, "rejected": p.rejected, "p_chosen": p.p_chosen,
        "p_first": j.p_first, "orders_agree": j.orders_agree, "outcome": j.outcome,
        "principle": j.principle, "judge": rater_name(&j.rater), "reason": j.reason,
        "response_a": j.response_a, "response_b": j.response_b, "orders": j.orders,
        "opinions": j.opinions, "scores": j.scores, "shortened": j.shortened, "rater": j.rater,
        "lost": j.provenance.as_ref().map(|p| &p.lost),
    })
}

/// People's verdicts from a file; what cannot be read of it is said.
fn import_human(file: &Path, out: &Path, progress: &dyn Progress) -> Result<Vec<Judgment>, Error> {
    if out.extension().is_none_or(|e| e != "jsonl") {
        return Err(Error::input(
            format!(
                "`--import-human` adds rows to a `.jsonl`, and `--out` is `{}`",
                out.display()
            ),
            "write `--out FILE.jsonl`",
        ));
    }
    let read = dataset::read_verdicts(file)?;
    for fault in read.faults.iter().take(10) {
        progress.note(&format!(
            "{}:{}: {}",
            file.display(),
            fault.line,
            fault.message
        ));
    }
    if read.judgments.is_empty() {
        return Err(Error::input(
            format!(
                "`{}` holds no verdict of a person that can be read",
                file.display()
            ),
            "the shapes of AlpacaFarm, AlpacaEval, argilla and Label Studio are read",
        ));
    }
    let n = read.judgments.len();
    progress.note(&format!(
        "{n} verdicts of people taken from {}",
        file.display()
    ));
    Ok(read.judgments)
}

/// What people said of a judged pair: the mean over raters of P(first is better), where it leans.
fn said_of(people: &[Judgment], judged: &Judgment) -> Option<f64> {
    let (a, b) = (&judged.response_a, &judged.response_b);
    let views = people
        .iter()
        .filter(|h| h.prompt == judged.prompt)
        .filter_map(|h| {
            let p = h.p_first.get()?;
            match (&h.response_a, &h.response_b) {
                (x, y) if (x, y) == (a, b) => Some(p),
                (x, y) if (y, x) == (a, b) => Some(1.0 - p),
                _ => None,
            }
        });
    let views: Vec<f64> = views.collect();
    let mean = views.iter().sum::<f64>() / views.len() as f64;
    (mean - 0.5).abs().gt(&1e-9).then_some(mean)
}
