//! `rlaif synth`: prompts that the user does not have yet.

mod sieve;
mod writer;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlaif::rows::Tally;
use rlaif::{Error, Prompt};
use rlaif_core::export::write_rows;
use rlaif_core::{Sampling, seed};
use rlaif_feedback::synth::{Method, items, rate, rating, request, subtopics};
use rlaif_feedback::{CandidatesConfig, Sampler};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::sieve::{Counts, Sieve};
use self::writer::Writer;
use super::args::{EndpointArgs, FilesArgs, Global};
use super::desk::{Desk, write_page};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    /// More of the kind that your own prompts show (Self-Instruct).
    FewShot,
    /// Requests that test whether an assistant can be led to a harmful answer, after your own
    /// examples of such (Bai et al. 2022).
    RedTeam,
    /// Requests about the leaves of a topic tree.
    Topics,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  rlaif synth mine.jsonl --policy http://localhost:8000/v1#writer --n 200 --out new.jsonl
  rlaif synth mine.jsonl --policy URL --method topics --topics cooking,law --n 500 --out new.jsonl

What comes out is rows of `prompt`, for `rlaif sample`, `rlaif judge` and the rest.")]
pub struct SynthArgs {
    /// Your own prompts: examples for the model, and what must not be copied.
    pub input: PathBuf,
    /// The model that writes: `http://host:port/v1#NAME` or a model folder.
    #[arg(long, value_name = "MODEL")]
    pub policy: String,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// File to write (.jsonl, .jsonl.gz or .parquet).
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// HTML page to write [default: beside the output].
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Folder that keeps finished calls between runs [default: beside the output].
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// How prompts are asked for.
    #[arg(long, value_enum, default_value_t = MethodArg::FewShot)]
    pub method: MethodArg,
    /// Prompts wanted.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub n: usize,
    /// Prompts asked for in one call.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub per_call: usize,
    /// Examples shown in one call, drawn anew for each.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub examples: usize,
    /// Roots of the topic tree.
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    pub topics: Vec<String>,
    /// Narrower topics under each root.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub branches: usize,
    /// Share of word triples from which on two prompts are near-duplicates (Jaccard), in (0, 1].
    #[arg(long, value_name = "X", default_value_t = 0.7)]
    pub duplicate: f64,
    /// A model of embeddings, `http://host:port/v1#NAME`, by which near-duplicates in other words are
    /// found too: a call for each of your prompts and each new one.
    #[arg(long, value_name = "MODEL")]
    pub embeddings: Option<String>,
    /// Cosine from which on two prompts mean the same, in (0, 1]. Models differ: see the column
    /// `nearest` of a first run.
    #[arg(long, value_name = "X", default_value_t = 0.9, requires = "embeddings")]
    pub similar: f32,
    /// Ask the model for the topic and difficulty of each prompt: one more call a prompt.
    #[arg(long)]
    pub rate: bool,
    /// Temperature.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f32,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_new_tokens: u32,
}

/// A prompt that was kept.
#[derive(Clone, Debug, Serialize)]
struct New {
    id: String,
    prompt: String,
    method: &'static str,
    topic: Option<String>,
    difficulty: Option<u8>,
    /// Cosine to the nearest of the user's prompts and of those kept before.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<f32>,
    model: String,
}

fn check(args: &SynthArgs) -> Result<(), Error> {
    let wrong = |what: &str, advice: &str| Err(Error::input(what, advice));
    if args.n == 0 || args.per_call == 0 {
        return wrong(
            "`--n` and `--per-call` must be at least 1",
            "the defaults are 100 and 5",
        );
    }
    if !(args.duplicate > 0.0 && args.duplicate <= 1.0) {
        return wrong(
            &format!("`--duplicate` must be in (0, 1], got `{}`", args.duplicate),
            "the default is 0.7; 1 drops equal texts only",
        );
    }
    if !(args.similar > 0.0 && args.similar <= 1.0) {
        return wrong(
            &format!("`--similar` must be in (0, 1], got `{}`", args.similar),
            "the default is 0.9",
        );
    }
    if (args.method == MethodArg::Topics) == args.topics.is_empty() {
        return wrong(
            "`--method topics` and `--topics` belong together",
            "write `--method topics --topics cooking,law`",
        );
    }
    Ok(())
}

pub async fn synth(args: &SynthArgs, global: &Global) -> Result<u8, Error> {
    check(args)?;
    let files = FilesArgs {
        input: args.input.clone(),
        // No principle is asked about here.
        constitution: PathBuf::from("default.toml"),
        out: args.out.clone(),
        run: args.run.clone(),
        limit: None,
        overwrite: true,
    };
    let mut desk = Desk::open(&files, "synth", &args.endpoint.run, global)?;
    let model = desk.model("policy", &args.policy, &args.endpoint)?;
    let name = model.id().to_string();
    let embedder = match &args.embeddings {
        Some(url) => Some(desk.embedder("embeddings", url, &args.endpoint)?),
        None => None,
    };
    let sampler = Sampler {
        model,
        config: CandidatesConfig {
            sampling: Sampling {
                temperature: args.temperature,
                max_new_tokens: args.max_new_tokens,
                ..Sampling::default()
            },
            ..CandidatesConfig::default()
        },
        seed: desk.seed,
    };
    let own: Vec<String> = desk
        .input
        .rows()?
        .map(|row| row.map(|row| row.prompt.to_text()))
        .collect::<Result<_, _>>()?;
    let mut writer = Writer {
        log: desk.log()?,
        desk: &desk,
        args,
        sampler,
        embedder,
        total: Tally::default(),
        stopped: None,
        keys: Vec::new(),
        vector_keys: Vec::new(),
    };
    let mut counts = Counts::default();
    let mut sieve = Sieve::new(&own, args.duplicate, args.similar);
    for vector in writer.embed(&own).await?.into_iter().flatten() {
        sieve.own_meaning(&vector);
    }
    let topics = leaves(&mut writer).await?;
    let mut kept: Vec<New> = Vec::new();
    // Requests depend on their number alone, never on what came before: a stopped run goes on with
    // the same ones. What is thrown away is asked for again, up to three times as much as wanted.
    let wanted = args.n.div_ceil(args.per_call);
    let (mut asked, most) = (0, 3 * wanted);
    while kept.len() < args.n && asked < most && writer.stopped.is_none() {
        let short = (args.n - kept.len()).div_ceil(args.per_call);
        let until = (asked + short).min(most);
        let requests: Vec<(String, Prompt)> = (asked..until)
            .map(|call| {
                (
                    format!("synth/{call}"),
                    one_request(args, desk.seed, call, &own, &topics),
                )
            })
            .collect();
        let answers = writer.ask("synth", requests).await?;
        let mut through = Vec::new();
        for (call, answer) in (asked..until).zip(answers) {
            let new = sieve.by_words(answer.as_ref(), &mut counts);
            through.extend(new.into_iter().enumerate().map(|(i, text)| (call, i, text)));
        }
        let texts: Vec<String> = through.iter().map(|(_, _, text)| text.clone()).collect();
        let vectors = writer.embed(&texts).await?;
        for ((call, i, text), vector) in through.into_iter().zip(vectors) {
            let nearest = match (&writer.embedder, vector) {
                (None, _) => None,
                (Some(_), None) => {
                    counts.not_compared += 1;
                    continue;
                }
                (Some(_), Some(vector)) => match sieve.by_meaning(&vector, &mut counts) {
                    Some(nearest) => nearest,
                    None => continue,
                },
            };
            if kept.len() < args.n {
                kept.push(New {
                    id: format!("synth-{call}-{i}"),
                    prompt: text,
                    method: method_name(args.method),
                    topic: topic_of(&topics, call).cloned(),
                    difficulty: None,
                    nearest,
                    model: name.clone(),
                });
            }
        }
        asked = until;
    }
    counts.kept = kept.len();
    if args.rate {
        let requests = kept
            .iter()
            .map(|new| (format!("rate/{}", new.id), rate(&new.prompt)))
            .collect();
        for (new, answer) in kept.iter_mut().zip(writer.ask("rate", requests).await?) {
            match answer.as_ref().and_then(|a| rating(&a.completion)) {
                Some((topic, difficulty)) => {
                    new.topic.get_or_insert(topic);
                    new.difficulty = Some(difficulty);
                }
                None => counts.unrated += 1,
            }
        }
    }
    let own_words: Vec<usize> = own.iter().map(|p| rlaif_eval::words(p)).collect();
    end(args, writer, &kept, &counts, &own_words)?.finish(desk, global)
}

fn method_name(method: MethodArg) -> &'static str {
    match method {
        MethodArg::FewShot => "few_shot",
        MethodArg::RedTeam => "red_team",
        MethodArg::Topics => "topics",
    }
}

/// The topic tree's leaves; none for the other methods.
async fn leaves(writer: &mut Writer<'_>) -> Result<Vec<String>, Error> {
    let roots = writer.args.topics.clone();
    let requests = roots
        .iter()
        .enumerate()
        .map(|(i, root)| (format!("topics/{i}"), subtopics(root, writer.args.branches)))
        .collect();
    let answers = match roots.is_empty() {
        true => Vec::new(),
        false => writer.ask("topics", requests).await?,
    };
    let mut leaves = Vec::new();
    for (root, answer) in roots.iter().zip(answers) {
        let found = answer.map(|a| items(&a.completion)).unwrap_or_default();
        if found.is_empty() {
            leaves.push(root.clone());
        }
        let narrower = found.into_iter().take(writer.args.branches);
        leaves.extend(narrower.map(|leaf| format!("{root} > {leaf}")));
    }
    Ok(leaves)
}

fn topic_of(topics: &[String], call: usize) -> Option<&String> {
    (!topics.is_empty()).then(|| &topics[call % topics.len()])
}

fn one_request(
    args: &SynthArgs,
    run_seed: u64,
    call: usize,
    own: &[String],
    topics: &[String],
) -> Prompt {
    let mut random = seed::Stream::new(seed::derive(run_seed, &["synth", &call.to_string()]));
    let mut places: Vec<usize> = (0..own.len()).collect();
    let mut examples = Vec::new();
    for _ in 0..args.examples.min(own.len()) {
        if let Some(at) = seed::index(random.bits(), places.len()) {
            examples.push(own[places.swap_remove(at)].as_str());
        }
    }
    let method = match args.method {
        MethodArg::FewShot => Method::FewShot,
        MethodArg::RedTeam => Method::RedTeam,
        MethodArg::Topics => Method::Topic,
    };
    let topic = topic_of(topics, call).map(String::as_str);
    request(method, &examples, topic, args.per_call)
}

/// What is left to say once the files are written.
struct Ending {
    out: PathBuf,
    total: Tally,
    gate: Result<(), Error>,
    extra: Map<String, Value>,
    words: String,
}

impl Ending {
    fn finish(self, desk: Desk, global: &Global) -> Result<u8, Error> {
        desk.end(
            global,
            &self.out,
            &self.total,
            self.gate,
            self.extra,
            &self.words,
        )
    }
}

fn end(
    args: &SynthArgs,
    mut writer: Writer<'_>,
    kept: &[New],
    counts: &Counts,
    own_words: &[usize],
) -> Result<Ending, Error> {
    let rows: Vec<Value> = kept.iter().map(|new| json!(new)).collect();
    write_rows(&args.out, &rows)?;
    let prompts: Vec<rlaif::report::synth::Prompt<'_>> = kept
        .iter()
        .map(|new| rlaif::report::synth::Prompt {
            text: &new.prompt,
            topic: new.topic.as_deref(),
            difficulty: new.difficulty,
            words: rlaif_eval::words(&new.prompt),
            nearest: new.nearest,
        })
        .collect();
    let mut table: Vec<(String, usize)> = vec![
        ("written".into(), counts.written),
        ("kept".into(), counts.kept),
        ("copies of your own".into(), counts.copies_of_own),
        ("near-duplicates".into(), counts.near_duplicates),
        ("refusals".into(), counts.refusals),
        ("answers without a list".into(), counts.answers_without_list),
    ];
    if writer.embedder.is_some() {
        table.extend([
            (
                "copies of your own in other words".into(),
                counts.copies_of_own_in_meaning,
            ),
            (
                "repeated in other words".into(),
                counts.duplicates_in_meaning,
            ),
            ("not compared".into(), counts.not_compared),
        ]);
    }
    table.extend(
        counts
            .failed_answers
            .iter()
            .map(|(o, n)| (format!("answers {o}"), *n)),
    );
    let title = format!("New prompts after {}", args.input.display());
    let page = rlaif::report::synth::page(&title, &prompts, &table, own_words);
    write_page(&args.out, args.report.as_deref(), &page)?;
    let asked = writer.total.rows;
    let gate = writer.gate().and_then(|()| match (counts.kept, asked) {
        (0, 1..) => Err(Error::TooManyFailed {
            stage: "synth".into(),
            failed: asked,
            total: asked,
            allowed: args.endpoint.max_failed,
            reason: "no answer held a new prompt".into(),
        }),
        _ => Ok(()),
    });
    let writer_embeds = writer.embedder.is_some();
    writer.desk.close(writer.log, &writer.total)?;
    let mut words = format!(
        "{} of {} wanted; of {} written, {} copy your own, {} repeat another, {} refuse",
        counts.kept,
        args.n,
        counts.written,
        counts.copies_of_own,
        counts.near_duplicates,
        counts.refusals
    );
    if writer_embeds {
        words.push_str(&format!(
            "; in other words {} copy your own and {} repeat another",
            counts.copies_of_own_in_meaning, counts.duplicates_in_meaning
        ));
    }
    if counts.answers_without_list > 0 {
        words.push_str(&format!(
            "; {} answers hold no list of prompts (`rlaif calls` shows them)",
            counts.answers_without_list
        ));
    }
    let mut extra = Map::new();
    extra.insert(
        "synth".into(),
        serde_json::to_value(counts).unwrap_or_default(),
    );
    Ok(Ending {
        out: args.out.clone(),
        total: writer.total,
        gate,
        extra,
        words,
    })
}
