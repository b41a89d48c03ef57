//! Runs by recipe: `init`, `plan`, `run`, and what is made of a run: `export`, `report`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rlaif::error::Error;
use rlaif::figures::{self, Totals};
use rlaif::pipeline::{self, Selection};
use rlaif::plan::StagePlan;
use rlaif::progress::Progress;
use rlaif::report::training::Training;
use rlaif::report::{Page, render};
use rlaif::rows::{Stop, Tally, check_unread};
use rlaif::stages::{self, Context, export as exports};
use rlaif::{Constitution, Judgment, Outcome, Recipe};
use rlaif_core::dataset::{self, Dataset};
use rlaif_core::export::{Target, preference_of_judged_row, preferences, write_rows};
use rlaif_core::run::{RunFolder, write_atomic};
use rlaif_core::{ModelId, Probability, Rater};
use serde_json::{Value, json};

use super::args::{
    ExportArgs, Global, InitArgs, JudgeKind, PlanArgs, ReportArgs, RunArgs, RunLimits,
};
use super::dashboard::Dashboard;
use super::desk::{money, stop_on_interrupt};
use super::input::note_faults;
use super::metrics;
use super::models::{JOURNAL, Models, width_of};
use super::show::Bars;

const RECIPE: &str = include_str!("../../templates/recipe.toml");
const PROMPTS: &str = "{\"prompt\": \"How do I ask my neighbor to turn the music down?\"}\n\
    {\"prompt\": \"Can I take ibuprofen and aspirin together?\"}\n\
    {\"prompt\": \"Write a message to a colleague who missed a deadline.\"}\n";

pub fn init(args: &InitArgs) -> Result<u8, Error> {
    let (policy, critic, key, price) = match args.judge {
        JudgeKind::Local => (
            "http://localhost:8000/v1#my-model",
            "http://localhost:8000/v1#my-model",
            "",
            "",
        ),
        JudgeKind::Api => (
            "https://api.openai.com/v1#gpt-4o-mini",
            "https://api.openai.com/v1#gpt-4o",
            "api_key_env = \"OPENAI_API_KEY\"      # the variable that holds the key\n",
            "# Put in today's prices, and `rlaif plan` says what the run can cost at most:\n\
             # price = { prompt_usd_per_mtok = 0.0, completion_usd_per_mtok = 0.0 }\n",
        ),
    };
    let recipe = RECIPE
        .replace("{{policy}}", policy)
        .replace("{{critic}}", critic)
        .replace("{{key}}{{price}}", &format!("{key}{price}"))
        .replace("{{key}}", key);
    let constitution = Constitution::supplied_text("default.toml").unwrap_or_default();
    for (name, text) in [
        ("recipe.toml", recipe.as_str()),
        ("constitution.toml", constitution),
        ("prompts.jsonl", PROMPTS),
    ] {
        let path = args.dir.join(name);
        if path.exists() {
            eprintln!("kept    {}", path.display());
        } else {
            write_atomic(&path, text.as_bytes())?;
            eprintln!("written {}", path.display());
        }
    }
    eprintln!(
        "next: rlaif plan {}",
        args.dir.join("recipe.toml").display()
    );
    Ok(0)
}

/// A checked recipe with what it names read.
struct Ready {
    recipe: Recipe,
    constitution: Constitution,
    prompts: Dataset,
}

fn ready(path: &Path, overrides: &[String], progress: &dyn Progress) -> Result<Ready, Error> {
    let mut recipe = Recipe::read(path, overrides)?;
    recipe.complete_models()?;
    let constitution = Constitution::read(&recipe.constitution)?;
    let mut prompts = dataset::read(&recipe.prompts)?;
    note_faults(&prompts, progress);
    if let Some(limit) = recipe.limit.filter(|limit| *limit < prompts.rows.len()) {
        let end = prompts.rows[limit].line;
        prompts.rows.truncate(limit);
        prompts.faults.retain(|fault| fault.line < end);
    }
    if prompts.rows.is_empty() {
        return Err(Error::input(
            format!(
                "`{}` has no prompt that can be read",
                recipe.prompts.display()
            ),
            "write one JSON object a line, as in {\"prompt\": \"…\"}",
        ));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some(c) = &recipe.critique {
        stages::template(&c.template, rlaif_feedback::Purpose::Critique, folder)?;
    }
    if let Some(c) = &recipe.revise {
        stages::template(&c.template, rlaif_feedback::Purpose::Revise, folder)?;
    }
    if let Some(c) = &recipe.judge {
        stages::judge::check(c, &constitution, folder)?;
    }
    Ok(Ready {
        recipe,
        constitution,
        prompts,
    })
}

/// Calls in flight that a plan assumes where the recipe leaves it to the endpoint.
const PLANNED_IN_FLIGHT: usize = 32;

/// A critic in memory up to this size is tried out by `plan` without being told to: it takes seconds.
#[cfg(feature = "local")]
const PROBED_UNASKED: u64 = 20_000_000;

/// How decided the recipe's judge is by each principle; empty where it is not tried out.
#[cfg(feature = "local")]
async fn probe(
    ready: &Ready,
    models: &Models,
    asked: bool,
) -> Result<Vec<rlaif::quickstart::Probed>, Error> {
    use rlaif::recipe::ModelSource;
    let Some(judge) = &ready.recipe.judge else {
        return Ok(Vec::new());
    };
    let model = match ready.recipe.models.get(&judge.model) {
        Some(ModelSource::Folder(folder)) => {
            let size = rlaif_engine::LlamaConfig::read(folder)?.parameters();
            (asked || size <= PROBED_UNASKED)
                .then(|| rlaif::open(folder.clone()))
                .transpose()?
        }
        _ => models.by_name.get(&judge.model).filter(|_| asked).cloned(),
    };
    match model {
        Some(model) => {
            let folder = ready.recipe.path.parent().unwrap_or(Path::new(""));
            rlaif::quickstart::probe(
                &model,
                &ready.constitution,
                judge,
                folder,
                ready.recipe.seed,
            )
            .await
        }
        None => Ok(Vec::new()),
    }
}

#[cfg(feature = "local")]
fn show_probe(probed: &[rlaif::quickstart::Probed]) {
    if probed.is_empty() {
        return;
    }
    println!(
        "\nThe judge on {} pairs by each principle:",
        rlaif::quickstart::PAIRS
    );
    for p in probed {
        let advice = if p.is_decisive() {
            ""
        } else {
            "  it hardly tells answers apart by this one: say it in other words"
        };
        println!(
            "  {:24} mean |p - 1/2| {:.3}{advice}",
            p.principle, p.decisiveness
        );
    }
}

pub async fn plan(args: &PlanArgs, global: &Global) -> Result<u8, Error> {
    let progress: Arc<dyn Progress> = Arc::new(Bars::new());
    let ready = ready(&args.recipe, &args.set, &*progress)?;
    // Opening the models finds a key that is not set; nothing is asked.
    let models = Models::default().of_recipe(&ready.recipe, &progress)?;
    let plans = rlaif::plan::plan(&ready.recipe, &ready.constitution, &ready.prompts);
    #[cfg(feature = "local")]
    let training = rlaif::plan::training(&ready.recipe, &plans, &ready.prompts)?;
    #[cfg(not(feature = "local"))]
    let training: Vec<Value> = Vec::new();
    #[cfg(feature = "local")]
    let probed = probe(&ready, &models, args.probe).await?;
    #[cfg(not(feature = "local"))]
    let probed: Vec<Value> = Vec::new();
    drop(models);
    if global.json {
        println!(
            "{}",
            json!({
                "prompts": ready.prompts.rows.len(), "stages": plans, "training": training,
                "principles": probed
            })
        );
        return Ok(0);
    }
    println!(
        "{} prompts, {} principles\n",
        ready.prompts.rows.len(),
        ready.constitution.principles.len()
    );
    println!(
        "{:12} {:10} {:>8} {:>9} {:>14} {:>16} {:>20}",
        "stage", "model", "rows", "calls", "prompt tokens", "most generated", "$ (least to most)"
    );
    let money = |usd: Option<f64>, range: Option<[f64; 2]>| match (usd, range) {
        (Some(usd), Some([least, most])) => format!("{usd:.2} ({least:.2}-{most:.2})"),
        _ => "no price".into(),
    };
    for p in &plans {
        println!(
            "{:12} {:10} {:>8} {:>9} {:>14} {:>16} {:>20}",
            p.stage,
            p.model,
            p.rows,
            p.calls,
            p.prompt_tokens,
            p.max_completion_tokens,
            money(p.usd, p.usd_range)
        );
    }
    let sum = |f: fn(&StagePlan) -> u64| plans.iter().map(f).sum::<u64>();
    let usd = plans.iter().map(|p| p.usd).sum::<Option<f64>>();
    let range = plans
        .iter()
        .map(|p| p.usd_range)
        .try_fold([0.0, 0.0], |[a, b], r| r.map(|[c, d]| [a + c, b + d]));
    let calls = sum(|p| p.calls);
    let n = ready.recipe.concurrency.unwrap_or(PLANNED_IN_FLIGHT) as u64;
    println!(
        "{:12} {:10} {:>8} {:>9} {:>14} {:>16} {:>20}",
        "all",
        "",
        "",
        calls,
        sum(|p| p.prompt_tokens),
        sum(|p| p.max_completion_tokens),
        money(usd, range)
    );
    println!(
        "\nAt one second an answer and {n} calls in flight: about {} s. Prompt tokens are \
         estimated at four bytes each; the range of money is that of five to three bytes, and of \
         short answers to such as reach their limit.",
        calls.div_ceil(n)
    );
    #[cfg(feature = "local")]
    {
        show_training(&training);
        show_probe(&probed);
    }
    Ok(0)
}

#[cfg(feature = "local")]
fn show_training(plans: &[rlaif::plan::TrainingPlan]) {
    if plans.is_empty() {
        return;
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    println!(
        "\n{:12} {:10} {:>12} {:>8} {:>8} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "training",
        "from",
        "parameters",
        "rows",
        "steps",
        "weights",
        "grad+AdamW",
        "activations",
        "beside",
        "MiB in all"
    );
    for p in plans {
        let t = &p.memory.training;
        println!(
            "{:12} {:10} {:>12} {:>8} {:>8} {:>11} {:>11} {:>11} {:>11} {:>11}",
            p.stage,
            p.base,
            p.parameters,
            p.rows,
            p.steps,
            mib(t.weights),
            mib(t.gradients + t.moments),
            mib(t.activations),
            mib(p.memory.beside),
            mib(p.memory.total())
        );
    }
    if let Some(bytes) = rlaif::train::available() {
        println!(
            "Rows are the most there can be. {} MiB are free now.",
            mib(bytes)
        );
    }
}

pub async fn run(args: &RunArgs, global: &Global) -> Result<u8, Error> {
    let begun = Instant::now();
    let which = Selection {
        only: args.only.clone(),
        from: args.from.clone(),
        until: args.until.clone(),
    };
    which.check()?;
    let bars = Arc::new(Bars::new());
    let progress: Arc<dyn Progress> = Arc::clone(&bars) as Arc<dyn Progress>;
    let ready = ready(&args.recipe, &args.set, &*progress)?;
    let beside = args.recipe.parent().unwrap_or(Path::new("")).join("run");
    let path = args.run.clone().unwrap_or(beside);
    let mut folder = RunFolder::open(&path)?;
    let limits = RunLimits {
        max_usd: args.limits.max_usd.or(ready.recipe.max_usd),
        max_calls: args.limits.max_calls.or(ready.recipe.max_calls),
        prices: args.limits.prices.clone().or(ready.recipe.prices.clone()),
        metrics: args.limits.metrics,
        dashboard: args.limits.dashboard,
    };
    let models =
        Models::with_ledger(&path.join(JOURNAL), &limits)?.of_recipe(&ready.recipe, &progress)?;
    bars.watch(models.watch());
    if let Some(address) = limits.metrics {
        metrics::serve(address, models.watch(), Arc::clone(&bars)).await?;
    }
    let dashboard = Dashboard::open_if(limits.dashboard, &bars, models.watch())?;
    let width = models.width();
    let stop = Stop::default();
    stop_on_interrupt(&stop, Some(models.halt()));
    let mut cx = Context::new(
        &ready.recipe,
        &ready.constitution,
        &ready.prompts,
        &mut folder,
        &models.by_name,
        &stop,
    );
    cx.width = width_of(&width);
    cx.progress = &*progress;
    let done = pipeline::run(&mut cx, &which).await;
    drop(dashboard);
    let spent = models.account()?.filter(|a| a.settled_usd > 0.0);
    let spent = spent.as_ref().map(money);
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            if let Some(spent) = spent {
                eprintln!("{spent}");
            }
            return Err(error);
        }
    };
    let (calls, prompt_tokens, completion_tokens) = cx.answered();
    for report in &done.stages {
        let t = &report.tally;
        let counts: Vec<String> = Outcome::ALL
            .iter()
            .filter(|o| t.count(**o) > 0)
            .map(|o| format!("{} {o}", t.count(*o)))
            .collect();
        let note = if report.unchanged { " (unchanged)" } else { "" };
        eprintln!(
            "{:12} {} rows: {}{note}",
            report.stage,
            t.rows,
            counts.join(", ")
        );
    }
    for e in &done.exports {
        eprintln!(
            "{:12} {} rows -> {}{}",
            "export",
            e.rows,
            e.path.display(),
            left_out(&e.left_out)
        );
    }
    if let Some(summary) = &done.judge {
        for line in figures::lines(summary) {
            eprintln!("{line}");
        }
    }
    if let Some(evaluation) = &done.evaluation {
        for line in figures::evaluation_lines(evaluation) {
            eprintln!("{line}");
        }
    }
    eprintln!("{:12} {}", "report", done.report.display());
    if let Some(spent) = spent {
        eprintln!("{:12} {spent}", "money");
    }
    let prompts = &ready.prompts;
    let counts = (prompts.faults.len(), prompts.rows.len());
    check_unread(&prompts.path, counts, ready.recipe.max_failed)?;
    if global.json {
        let last = done
            .stages
            .last()
            .map_or_else(Tally::default, |r| r.tally.clone());
        let mut totals = Totals::new(&last, begun.elapsed().as_secs_f64());
        models.count(&mut totals);
        totals.calls += calls;
        totals.prompt_tokens += prompt_tokens;
        totals.completion_tokens += completion_tokens;
        let mut value = serde_json::to_value(&done).unwrap_or_default();
        if let (Some(map), Ok(Value::Object(totals))) =
            (value.as_object_mut(), serde_json::to_value(&totals))
        {
            map.insert("run".into(), json!(path));
            map.extend(totals);
        }
        println!("{value}");
    }
    Ok(0)
}

fn left_out(by: &BTreeMap<String, usize>) -> String {
    if by.is_empty() {
        return String::new();
    }
    let list: Vec<String> = by.iter().map(|(name, n)| format!("{n} {name}")).collect();
    format!(" (left out: {})", list.join(", "))
}

/// Rows of a file that `rlaif judge` wrote.
fn judged_rows(path: &Path) -> Result<Dataset, Error> {
    let dataset = dataset::read(path)?;
    let judged = |row: &dataset::Row| row.columns.contains_key("rlaif_id");
    if dataset.rows.iter().any(judged) {
        return Ok(dataset);
    }
    Err(Error::input(
        format!(
            "`{}` is neither a run folder nor a file that `rlaif judge` wrote",
            path.display()
        ),
        "give the folder of `rlaif run`, or the `--out` of `rlaif judge`",
    ))
}

pub fn export(args: &ExportArgs, global: &Global) -> Result<u8, Error> {
    let target: Target = args.to.parse()?;
    let name = format!("{}.{}", args.to, target.ending());
    let done = if args.run.is_dir() {
        let out = args
            .out
            .clone()
            .unwrap_or_else(|| args.run.join("export").join(name));
        exports::preferences(&args.run, target, &out)?
    } else {
        let dataset = judged_rows(&args.run)?;
        let list: Vec<_> = dataset
            .rows
            .iter()
            .filter_map(|row| preference_of_judged_row(&row.columns, &row.prompt))
            .collect();
        let made = preferences(&list, target);
        let out = args
            .out
            .clone()
            .unwrap_or_else(|| args.run.with_extension(name));
        write_rows(&out, &made.rows)?;
        exports::Exported {
            path: out,
            rows: made.rows.len(),
            left_out: made.left_out,
        }
    };
    eprintln!(
        "{} rows -> {}{}",
        done.rows,
        done.path.display(),
        left_out(&done.left_out)
    );
    if global.json {
        println!("{}", serde_json::to_value(&done).unwrap_or_default());
    }
    Ok(0)
}

/// A judgment as a judged row tells it.
pub fn judgment_of(row: &dataset::Row) -> Option<Judgment> {
    let c = &row.columns;
    let text = |name: &str| {
        c.get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = |name: &str| {
        c.get(name)
            .cloned()
            .unwrap_or_else(|| Value::Array(Vec::new()))
    };
    let outcome = serde_json::from_value(c.get("outcome")?.clone()).ok()?;
    let p_first = c
        .get("p_first")
        .and_then(Value::as_f64)
        .map_or(Probability::NONE, Probability::new);
    let rater = c
        .get("rater")
        .and_then(|r| serde_json::from_value(r.clone()).ok())
        .unwrap_or_else(|| Rater::Model(ModelId::new(text("judge"))));
    let responses = [text("response_a"), text("response_b")];
    Some(Judgment {
        principle: c
            .get("principle")
            .and_then(Value::as_str)
            .map(str::to_owned),
        orders_agree: c.get("orders_agree").and_then(Value::as_bool),
        reason: text("reason"),
        orders: serde_json::from_value(c.get("orders")?.clone()).ok()?,
        opinions: serde_json::from_value(list("opinions")).ok()?,
        scores: serde_json::from_value(list("scores")).ok()?,
        ..Judgment::new(
            text("rlaif_id"),
            row.prompt.clone(),
            responses,
            outcome,
            p_first,
            rater,
        )
    })
}

pub fn report(args: &ReportArgs, global: &Global) -> Result<u8, Error> {
    let title = args.run.display().to_string();
    let page = if args.run.is_dir() {
        let page = args
            .out
            .clone()
            .unwrap_or_else(|| args.run.join("report.html"));
        stages::report::write(&args.run, &page, &title, None)?;
        page
    } else {
        let dataset = judged_rows(&args.run)?;
        let judgments: Vec<Judgment> = dataset.rows.iter().filter_map(judgment_of).collect();
        let summary = figures::summary(&judgments, &BTreeMap::new())?;
        let page = args
            .out
            .clone()
            .unwrap_or_else(|| args.run.with_extension("html"));
        let html = render(&Page {
            title: &title,
            judgments: &judgments,
            sample_of: judgments.len(),
            revisions: &[],
            summary: &summary,
            training: &Training::default(),
        });
        write_atomic(&page, html.as_bytes())?;
        page
    };
    eprintln!("report -> {}", page.display());
    if global.json {
        println!("{}", json!({ "report": page }));
    }
    Ok(0)
}
