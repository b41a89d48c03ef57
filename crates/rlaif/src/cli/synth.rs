//! `rlaif synth`: prompts that the user does not have yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlaif::rows::{Tally, row_key};
use rlaif::stages::fixed;
use rlaif::{Error, Prompt};
use rlaif_core::export::write_rows;
use rlaif_core::rowlog::RowLog;
use rlaif_core::{Candidate, Outcome, Sampling, seed};
use rlaif_feedback::synth::{Method, Seen, is_refusal, items, rate, rating, request, subtopics};
use rlaif_feedback::{CandidatesConfig, Sampler, candidate};
use serde::Serialize;
use serde_json::{Map, Value, json};

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
    model: String,
}

/// What became of all that was written.
#[derive(Debug, Default, Serialize)]
struct Counts {
    written: usize,
    kept: usize,
    copies_of_own: usize,
    near_duplicates: usize,
    refusals: usize,
    /// Answers without a list.
    answers_without_list: usize,
    /// Answers that did not come, by outcome.
    failed_answers: BTreeMap<&'static str, usize>,
    /// Topic and difficulty asked for and not readable.
    unrated: usize,
}

struct Writer<'a> {
    desk: &'a Desk,
    args: &'a SynthArgs,
    sampler: Sampler,
    log: RowLog,
    total: Tally,
    stopped: Option<Error>,
    keys: Vec<String>,
}

impl Writer<'_> {
    /// One answer a request; `None` where the budget ended first.
    async fn ask(
        &mut self,
        stage: &str,
        requests: Vec<(String, Prompt)>,
    ) -> Result<Vec<Option<Candidate>>, Error> {
        let settings = fixed(&(
            self.sampler.model.id(),
            &self.sampler.config.sampling,
            self.sampler.seed,
        ));
        let items: Vec<(String, (String, Prompt))> = requests
            .into_iter()
            .map(|(id, prompt)| {
                let key = row_key(&["synth", &settings, &id, &fixed(&prompt)]);
                (key, (id, prompt))
            })
            .collect();
        let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
        if self.stopped.is_none() {
            let sampler = &self.sampler;
            let (tally, stopped) = self
                .desk
                .ask(
                    stage,
                    &self.args.endpoint,
                    &mut self.log,
                    items,
                    |(id, prompt): (String, Prompt)| async move {
                        candidate(sampler, &id, 0, &prompt).await
                    },
                )
                .await?;
            self.total.add(&tally);
            self.stopped = stopped;
        }
        let mut found = Vec::with_capacity(keys.len());
        for key in &keys {
            found.push(self.log.get(key)?);
        }
        self.keys.extend(keys);
        Ok(found)
    }
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
        total: Tally::default(),
        stopped: None,
        keys: Vec::new(),
    };
    let topics = leaves(&mut writer).await?;
    let mut counts = Counts::default();
    let mut sieve = Sieve::new(&own, args.duplicate);
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
        for (call, answer) in (asked..until).zip(answers) {
            let topic = topic_of(&topics, call);
            for (i, text) in sieve
                .sift(answer.as_ref(), &mut counts)
                .into_iter()
                .enumerate()
            {
                if kept.len() < args.n {
                    kept.push(New {
                        id: format!("synth-{call}-{i}"),
                        prompt: text,
                        method: method_name(args.method),
                        topic: topic.cloned(),
                        difficulty: None,
                        model: name.clone(),
                    });
                }
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

/// What lets through a prompt that is new.
struct Sieve {
    own: Seen,
    new: Seen,
}

impl Sieve {
    fn new(own: &[String], threshold: f64) -> Self {
        let mut seen = Seen::new(threshold);
        for prompt in own {
            seen.insert(prompt);
        }
        Sieve {
            own: seen,
            new: Seen::new(threshold),
        }
    }

    fn sift(&mut self, answer: Option<&Candidate>, counts: &mut Counts) -> Vec<String> {
        let outcome = answer.map_or(Outcome::NotRun, |a| a.outcome);
        let Some(answer) = answer.filter(|_| outcome == Outcome::Decided) else {
            *counts.failed_answers.entry(outcome.as_str()).or_default() += 1;
            return Vec::new();
        };
        let list = items(&answer.completion);
        if list.is_empty() {
            if is_refusal(&answer.completion) {
                counts.refusals += 1;
            } else {
                counts.answers_without_list += 1;
            }
        }
        let mut through = Vec::new();
        for text in list {
            counts.written += 1;
            if is_refusal(&text) {
                counts.refusals += 1;
            } else if self.own.find(&text).is_some() {
                counts.copies_of_own += 1;
            } else if self.new.find(&text).is_some() {
                counts.near_duplicates += 1;
            } else {
                self.new.insert(&text);
                through.push(text);
            }
        }
        through
    }
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
    writer: Writer<'_>,
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
    table.extend(
        counts
            .failed_answers
            .iter()
            .map(|(o, n)| (format!("answers {o}"), *n)),
    );
    let title = format!("New prompts after {}", args.input.display());
    let page = rlaif::report::synth::page(&title, &prompts, &table, own_words);
    write_page(&args.out, args.report.as_deref(), &page)?;
    let gate = writer.desk.gate::<Candidate>(
        "synth",
        &args.endpoint,
        (&writer.log, writer.keys.iter().map(Ok)),
        &writer.total,
        writer.stopped,
    );
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
