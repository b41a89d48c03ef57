//! Verbs on models in memory: `sample`, `score`, `convert`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use rlaif::error::Error;
use rlaif::progress::{Progress, Unit};
use rlaif::rows::{Ended, RunOptions, Stop, check_failed, for_each_row, row_key};
use rlaif::train::RewardModel;
use rlaif_core::dataset;
use rlaif_core::export::write_rows;
use rlaif_core::rowlog::RowLog;
use rlaif_core::{
    CallContext, Cost, Finish, ItemId, LanguageModel, Message, ModelError, Outcome, SampleRequest,
    Sampling, seed,
};
use rlaif_engine::{Job, LlamaConfig, LocalModel, Options, Scheduler, Tokenizer, Weights};
use rlaif_feedback::FeedbackError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::args::Global;
use super::desk::stop_on_interrupt;
use super::input::note_faults;
use super::show::Bars;

#[derive(Args)]
pub struct SampleArgs {
    /// A Hugging Face folder of a Llama-family model.
    pub model: PathBuf,
    /// Prompts: JSONL, JSON or Parquet, plain or .gz.
    pub input: PathBuf,
    /// File to write (.jsonl, .jsonl.gz or .parquet).
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Most tokens of a completion.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: u32,
    /// 0 is greedy.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f32,
    /// Completions for each prompt.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub num_samples: u32,
    /// Keep the most likely tokens up to this mass, in (0, 1].
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Keep this many most likely tokens.
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Keep tokens at least this likely, relative to the best.
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// A text that ends a completion; repeatable.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Continue the prompt's plain text instead of using the chat template.
    #[arg(long)]
    pub raw: bool,
    /// At most so many rows of the input.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Memory for keys and values.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub cache_mib: u64,
}

#[derive(Args)]
pub struct ScoreArgs {
    /// A Hugging Face folder: a reward model (scalar head) or a language model.
    pub model: PathBuf,
    /// Rows with a prompt and completions: JSONL, JSON or Parquet, plain or .gz.
    pub input: PathBuf,
    /// File to write (.jsonl, .jsonl.gz or .parquet).
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// At most so many rows of the input.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Memory for keys and values.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub cache_mib: u64,
}

#[derive(Args)]
pub struct ConvertArgs {
    /// A GGUF file, or llama2.c's model file.
    pub input: PathBuf,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// llama2.c's tokenizer.bin, which belongs to its model files.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

/// Sets the number of threads that models in memory use.
pub fn threads(n: usize) {
    // Fails only where the pool exists already, and then its size stands.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .build_global();
}

fn options(cache_mib: u64) -> Options {
    Options {
        cache_bytes: cache_mib << 20,
        ..Options::default()
    }
}

/// One prompt's completions, as the log keeps them.
#[derive(Serialize, Deserialize)]
struct Sampled {
    outcome: Outcome,
    error: Option<String>,
    completions: Vec<String>,
    completion_ids: Vec<Vec<u32>>,
    logprobs: Vec<Vec<f32>>,
    finish: Vec<Finish>,
    prompt_tokens: u64,
}

impl Ended for Sampled {
    fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn error(&self) -> Option<String> {
        self.error.clone()
    }

    fn cost(&self) -> Cost {
        Cost::default()
    }
}

/// `rlaif sample`.
pub async fn sample(args: &SampleArgs, global: &Global) -> Result<u8, Error> {
    let begun = Instant::now();
    let named = args.model.to_string_lossy();
    if named.starts_with("http://") || named.starts_with("https://") {
        return Err(Error::input(
            format!("`{named}` is an endpoint; `rlaif sample` runs a model's folder in memory"),
            "`rlaif run` samples from an endpoint: `[candidates]` in the recipe of `rlaif init`",
        ));
    }
    let progress: Arc<dyn Progress> = Arc::new(Bars::new());
    let rows = read(&args.input, args.limit, &*progress)?;
    let model = LocalModel::open(&args.model, options(args.cache_mib))?.raw(args.raw);
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        min_p: args.min_p,
        max_new_tokens: args.max_new_tokens.max(1),
        stop: args.stop.clone(),
    };
    let run_seed = global.seed.unwrap_or(0);
    let identity = rlaif::local::fingerprint(&args.model)?;
    let settings = json!([sampling, args.num_samples, args.raw, run_seed]).to_string();
    let items: Vec<(String, &dataset::Row)> = rows
        .iter()
        .map(|row| {
            let prompt = serde_json::to_string(&row.prompt).unwrap_or_default();
            (
                row_key(&["sample", &identity, &settings, &row.id, &prompt]),
                row,
            )
        })
        .collect();
    let stop = Stop::default();
    stop_on_interrupt(&stop, None);
    let mut log_path = args.out.as_os_str().to_owned();
    log_path.push(".partial");
    let log_path = PathBuf::from(log_path);
    let mut log = RowLog::open(&log_path)?;
    let run = RunOptions {
        stage: "sample",
        concurrency: 256.into(),
        max_failed: 0.01,
        progress: &*progress,
        stop: &stop,
    };
    let (model, sampling) = (&model, &sampling);
    let tally = for_each_row(items.clone(), &mut log, &run, |row: &dataset::Row| {
        let (id, messages): (Arc<str>, Arc<[Message]>) =
            (row.id.as_str().into(), row.prompt.0.clone().into());
        async move {
            let request = SampleRequest {
                messages,
                prefill: None,
                schema: None,
                sampling: sampling.clone(),
            };
            let mut done = Sampled {
                outcome: Outcome::Decided,
                error: None,
                completions: Vec::new(),
                completion_ids: Vec::new(),
                logprobs: Vec::new(),
                finish: Vec::new(),
                prompt_tokens: 0,
            };
            // All draws at once: they share the prompt's keys and values.
            let calls = (0..args.num_samples.max(1)).map(|draw| {
                let item = ItemId {
                    stage: "sample".into(),
                    row: Arc::clone(&id),
                    draw,
                };
                let drawn = seed::derive(run_seed, &["sample", &id, &draw.to_string()]);
                let request = &request;
                async move { model.sample(request, &CallContext::new(item, drawn)).await }
            });
            for answer in futures::future::join_all(calls).await {
                match answer {
                    Ok(c) => {
                        let tokens = c.tokens.unwrap_or_default();
                        done.prompt_tokens = c.usage.prompt_tokens;
                        done.completions.push(c.text);
                        done.completion_ids.push(tokens.ids);
                        done.logprobs.push(tokens.logprobs);
                        done.finish.push(c.finish);
                    }
                    Err(e @ ModelError::Broken { .. }) => return Err(FeedbackError::Stop(e)),
                    Err(e) => {
                        done.outcome = Outcome::Failed;
                        done.error = Some(e.to_string());
                    }
                }
            }
            Ok(done)
        }
    })
    .await?;
    let mut lines = Vec::with_capacity(items.len());
    let (mut tokens, mut prompt_tokens) = (0, 0);
    for (key, row) in &items {
        let Some(done) = log.get::<Sampled>(key)? else {
            continue;
        };
        tokens += done.completion_ids.iter().map(Vec::len).sum::<usize>();
        prompt_tokens += done.prompt_tokens;
        let mut line = row.columns.clone();
        if let ([one], 1) = (done.completions.as_slice(), args.num_samples) {
            line.insert("completion".into(), json!(one));
        }
        line.insert("completions".into(), json!(done.completions));
        line.insert("completion_ids".into(), json!(done.completion_ids));
        line.insert("logprobs".into(), json!(done.logprobs));
        line.insert("finish".into(), json!(done.finish));
        line.insert("error".into(), json!(done.error));
        lines.push(Value::Object(line));
    }
    write_rows(&args.out, &lines)?;
    let keys: Vec<String> = items.into_iter().map(|(key, _)| key).collect();
    let gate = check_failed("sample", &tally, 0.01, || {
        rlaif::stages::commonest_error::<Sampled>(&log, keys.iter().map(Ok))
    });
    drop(log);
    if gate.is_ok() {
        std::fs::remove_file(&log_path).map_err(rlaif_core::Error::io("remove", &log_path))?;
    }
    let secs = begun.elapsed().as_secs_f64();
    if global.json && gate.is_ok() {
        println!(
            "{}",
            json!({"rows": tally.rows, "failed": tally.count(Outcome::Failed),
                   "prompt_tokens": prompt_tokens, "completion_tokens": tokens,
                   "wall_secs": secs, "out": args.out})
        );
    }
    eprintln!(
        "{} prompts, {tokens} tokens in {secs:.1} s -> {}",
        tally.rows,
        args.out.display()
    );
    gate.map(|()| 0)
}

/// `rlaif score`.
pub fn score(args: &ScoreArgs, global: &Global) -> Result<u8, Error> {
    let begun = Instant::now();
    let progress = Bars::new();
    let rows = read(&args.input, args.limit, &progress)?;
    if let Some(row) = rows.iter().find(|r| r.completions.is_empty()) {
        return Err(Error::input(
            format!(
                "{}:{}: the row has no completion",
                args.input.display(),
                row.line
            ),
            "give a column `completion`, `completions`, or `chosen` and `rejected`",
        ));
    }
    progress.start("score", Unit::Rows, rows.len(), 0);
    let lines = if LlamaConfig::read(&args.model)?.scalar_head {
        rewards(args, &rows, &progress)?
    } else {
        logprobs(args, &rows, &progress)?
    };
    progress.finish("score");
    write_rows(&args.out, &lines)?;
    let secs = begun.elapsed().as_secs_f64();
    if global.json {
        println!(
            "{}",
            json!({"rows": rows.len(), "wall_secs": secs, "out": args.out})
        );
    }
    eprintln!(
        "{} rows in {secs:.1} s -> {}",
        rows.len(),
        args.out.display()
    );
    Ok(0)
}

/// Rows scored at a time: enough to fill the passes, few enough for progress to be seen.
const SCORED_AT_ONCE: usize = 64;

fn rewards(
    args: &ScoreArgs,
    rows: &[dataset::Row],
    progress: &dyn Progress,
) -> Result<Vec<Value>, Error> {
    let model = RewardModel::open(&args.model, args.cache_mib << 20)?;
    let mut lines = Vec::with_capacity(rows.len());
    for batch in rows.chunks(SCORED_AT_ONCE) {
        let asked: Vec<(&[Message], &str)> = batch
            .iter()
            .flat_map(|row| {
                row.completions
                    .iter()
                    .map(|c| (row.prompt.0.as_slice(), c.as_str()))
            })
            .collect();
        let mut scores = model.score(&asked).into_iter();
        for row in batch {
            let mut line = row.columns.clone();
            let each: Result<Vec<f32>, String> =
                scores.by_ref().take(row.completions.len()).collect();
            let each = each.map_err(|e| {
                Error::input(
                    format!("{}:{}: {e}", args.input.display(), row.line),
                    "shorten the row, or leave it out",
                )
            })?;
            line.insert("scores".into(), json!(each));
            lines.push(Value::Object(line));
            progress.row(Outcome::Decided);
        }
    }
    Ok(lines)
}

fn logprobs(
    args: &ScoreArgs,
    rows: &[dataset::Row],
    progress: &dyn Progress,
) -> Result<Vec<Value>, Error> {
    let config = LlamaConfig::read(&args.model)?;
    let tokenizer = Tokenizer::read(&args.model)?;
    let weights = Arc::new(Weights::read(&args.model, &config)?);
    let mut scheduler = Scheduler::of(
        &config,
        &weights,
        config.max_positions,
        options(args.cache_mib),
    );
    let mut lines = Vec::with_capacity(rows.len());
    for batch in rows.chunks(SCORED_AT_ONCE) {
        let mut jobs = Vec::new();
        for row in batch {
            for completion in &row.completions {
                let (prompt, whole) =
                    rlaif::local::conversation(&tokenizer, &config, &row.prompt.0, completion)?;
                jobs.push(Job::Score {
                    continuation: whole[prompt..].to_vec(),
                    prompt: whole[..prompt].to_vec(),
                    first: Vec::new(),
                });
            }
        }
        let mut scored = scheduler.run(jobs)?.into_iter();
        for row in batch {
            let mut line = row.columns.clone();
            let all: Vec<_> = scored.by_ref().take(row.completions.len()).collect();
            let sums: Vec<f32> = all.iter().map(|s| s.logprobs.iter().sum()).collect();
            line.insert("logprob".into(), json!(sums));
            insert_tokens(&mut line, &all);
            lines.push(Value::Object(line));
            progress.row(Outcome::Decided);
        }
    }
    Ok(lines)
}

fn insert_tokens(line: &mut Map<String, Value>, all: &[rlaif_engine::Finished]) {
    let ids: Vec<_> = all.iter().map(|s| &s.ids).collect();
    let logprobs: Vec<_> = all.iter().map(|s| &s.logprobs).collect();
    line.insert("completion_ids".into(), json!(ids));
    line.insert("logprobs".into(), json!(logprobs));
}

/// `rlaif convert`.
pub fn convert(args: &ConvertArgs, global: &Global) -> Result<u8, Error> {
    let done = rlaif_engine::convert(&args.input, args.tokenizer.as_deref(), &args.out)?;
    let c = &done.config;
    if global.json {
        println!(
            "{}",
            json!({"format": done.format, "parameters": c.parameters(), "layers": c.layers,
                   "hidden": c.hidden, "vocab": c.vocab,
                   "types": done.types.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                   "out": args.out})
        );
    }
    let types: Vec<String> = done.types.iter().map(|(t, n)| format!("{n} {t}")).collect();
    eprintln!(
        "{}: {:.1} M parameters, {} layers of width {}, {} tokens{}{} -> {} (f32)",
        done.format,
        c.parameters() as f64 / 1e6,
        c.layers,
        c.hidden,
        c.vocab,
        if types.is_empty() { "" } else { "; tensors: " },
        types.join(", "),
        args.out.display()
    );
    if done.format == "llama2.c" && args.tokenizer.is_none() {
        eprintln!("no tokenizer written: give llama2.c's tokenizer.bin by --tokenizer");
    }
    Ok(0)
}

fn read(
    path: &Path,
    limit: Option<usize>,
    progress: &dyn Progress,
) -> Result<Vec<dataset::Row>, Error> {
    let mut data = dataset::read(path)?;
    note_faults(&data, progress);
    if let Some(limit) = limit {
        data.rows.truncate(limit);
    }
    if data.rows.is_empty() {
        return Err(Error::input(
            format!("`{}` has no row that can be read", path.display()),
            "see the table of columns in the README",
        ));
    }
    Ok(data.rows)
}
