//! One stage on files that the user has: `critique`, `revise`, `judge`.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use rlaif::error::Error;
use rlaif::figures;
use rlaif::progress::Progress;
use rlaif::rows::Ended as _;
use rlaif::stages::{critique as critiques, judge as judges, revise as revisions};
use rlaif::views::Views;
use rlaif::{Critique, CritiqueConfig, Judgment, Outcome, Prompt, ReviseConfig};
use rlaif_core::dataset::{self, Row};
use rlaif_core::export::{RowWriter, line_of};
use rlaif_core::pairs::{Pairs, pairs};
use rlaif_core::{Cost, Opinion, OrderResult, Probability, Rater, Shortened, seed};
use rlaif_eval::summary::SummaryBuilder;
use rlaif_feedback::FeedbackError;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::args::{CritiqueArgs, FilesArgs, Global, JudgeArgs, ReviseArgs};
use super::desk::{Desk, Work};

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
struct Answer {
    row: Arc<Row>,
    id: String,
    response: String,
}

/// Every completion of every row.
fn answers(desk: &Desk) -> Result<impl Iterator<Item = Result<Answer, Error>> + '_, Error> {
    let rows = desk.input.rows()?;
    Ok(rows.flat_map(|row| -> Vec<_> {
        let row = match row {
            Ok(row) => row,
            Err(error) => return vec![Err(error)],
        };
        let all = row.completions.iter().enumerate();
        all.map(|(i, response)| {
            Ok(Answer {
                id: match row.completions.len() {
                    1 => row.id.clone(),
                    _ => format!("{}/{i}", row.id),
                },
                row: Arc::clone(&row),
                response: response.clone(),
            })
        })
        .collect()
    }))
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
    let key = |a: &Answer| critiques::key(&settings, &a.id, &a.row.prompt, &a.response);
    let critic = &critic;
    let (tally, gate) = desk
        .work(
            Work {
                verb: "critique",
                files: &args.files,
                endpoint: &args.endpoint,
                wanted: "a completion to critique",
            },
            || answers(&desk),
            key,
            |a: Answer| async move {
                rlaif_feedback::critique(critic, &a.id, 0, &a.row.prompt, &a.response).await
            },
            |a, c: Option<Critique>| {
                let Some(c) = c else {
                    let known = json!({ "rlaif_id": a.id, "response": a.response });
                    return line_of(&not_run(&a.row, known));
                };
                line_of(&with_columns(
                    &a.row.columns,
                    &a.row.prompt,
                    json!({
                        "rlaif_id": c.id, "response": c.response, "critique": c.text,
                        "adherence": c.adherence, "quality": c.quality,
                        "suggestions": c.suggestions, "principles": c.principles,
                        "outcome": c.outcome, "error": c.error, "critic": rater_name(&c.rater),
                    }),
                ))
            },
            [],
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
fn held_critique(answer: &Answer) -> Option<Critique> {
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
    let (mut all, mut lacking) = (0, 0);
    for answer in answers(&desk)? {
        all += 1;
        lacking += usize::from(held_critique(&answer?).is_none());
    }
    if all > 0 && critic.is_none() && (lacking > 0 || args.steps > 1) {
        return Err(Error::input(
            if lacking > 0 {
                format!("{lacking} of {all} responses have no critique")
            } else {
                "a chain of more than one step asks for critiques in between".to_owned()
            },
            "give `--critic MODEL`, or the file that `rlaif critique` wrote",
        ));
    }
    let settings = revisions::settings(&reviser, critic.as_ref());
    let by = critic.as_ref().map(critiques::settings).unwrap_or_default();
    let key = |a: &Answer| match held_critique(a) {
        Some(held) => revisions::key(&settings, &held),
        None => {
            let first = critiques::key(&by, &a.id, &a.row.prompt, &a.response);
            rlaif::rows::row_key(&["revise", &settings, &first])
        }
    };
    let (reviser, critic) = (&reviser, critic.as_ref());
    let mut made = args.pairs.as_deref().map(RowWriter::create).transpose()?;
    let mut unwritten = None;
    let (tally, gate) = desk
        .work(
            Work {
                verb: "revise",
                files: &args.files,
                endpoint: &args.endpoint,
                wanted: "a completion to revise",
            },
            || answers(&desk),
            key,
            |a: Answer| async move {
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
            |a, chain: Option<revisions::Chain>| {
                let Some(chain) = chain else {
                    let known = json!({ "rlaif_id": a.id, "response": a.response });
                    return line_of(&not_run(&a.row, known));
                };
                let decided = chain
                    .steps
                    .iter()
                    .rev()
                    .find(|r| r.outcome == Outcome::Decided);
                let last = chain.steps.last();
                let text = decided.map(|r| r.text.clone());
                // By construction, not by a judge: the pair carries no probability.
                if let (Some(made), Some(r)) = (&mut made, decided.filter(|r| r.flags.is_empty())) {
                    let pair = json!({"chosen": r.text, "rejected": a.response});
                    let mut pair = with_columns(&Map::new(), &a.row.prompt, pair);
                    if let Some(map) = pair.as_object_mut() {
                        map.insert("rlaif_id".into(), a.id.clone().into());
                    }
                    if let Err(error) = made.write(&pair) {
                        unwritten.get_or_insert(error);
                    }
                }
                let mut completions = vec![a.response.clone()];
                completions.extend(text.clone());
                line_of(&with_columns(
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
                ))
            },
            [],
        )
        .await?;
    if let Some(error) = unwritten {
        return Err(error.into());
    }
    if let Some(made) = made {
        made.finish()?;
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
    note_short(&desk);
    let judge = &by;
    let mut seen = Seen {
        people: &people,
        ranking: args.ranking.is_some().then(Vec::new),
        page: args.report.is_some().then(|| Sample::new(MAX_ON_PAGE)),
        summary: SummaryBuilder::default(),
        views: Views::default(),
    };
    let (tally, gate) = desk
        .work(
            Work {
                verb: "judge",
                files: &args.files,
                endpoint: &args.endpoint,
                wanted: "two completions to compare",
            },
            || {
                let shared = |(row, pair): PairItem| (row, Arc::new(pair));
                Ok(pairs_of(&desk, &select)?.map(move |item| item.map(shared)))
            },
            |(_, pair): &(Arc<Row>, Arc<judges::Pair>)| judges::key(&settings, pair),
            |(_, pair)| async move { judges::judge_pair(judge, &*pair).await },
            |(row, pair), j: Option<Judgment>| match j {
                Some(j) => {
                    let line = judged_line(row, &j);
                    seen.add(row, j);
                    line
                }
                None => line_of(&not_run(
                    row,
                    json!({
                        "rlaif_id": pair.id, "chosen": null, "rejected": null, "p_chosen": null,
                        "p_first": null, "response_a": pair.response_a,
                        "response_b": pair.response_b,
                    }),
                )),
            },
            people
                .iter()
                .map(|h| with_columns(&Map::new(), &h.prompt, json!(Label::of(h)))),
        )
        .await?;
    if let (Some(out), Some(judgments)) = (&args.ranking, &seen.ranking) {
        let mut writer = RowWriter::create(out)?;
        for row in super::ranking::rows(desk.input.rows()?, judgments) {
            writer.write(&row?)?;
        }
        writer.finish()?;
    }
    let mut words = figures::outcome_counts(seen.summary.outcomes());
    let summary = seen.summary.finish();
    for line in figures::lines(&summary)
        .into_iter()
        .chain(seen.views.absences())
    {
        words.push('\n');
        words.push_str(&line);
    }
    if let (Some(page), Some(sample)) = (&args.report, seen.page) {
        let title = format!("Labels of {}", args.files.input.display());
        let html = rlaif::report::render(&rlaif::report::Page {
            title: &title,
            sample_of: sample.seen,
            judgments: &sample.kept,
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
                    args.how.compare.question.template,
                    folder.display()
                ),
                "spell it as one token, such as a letter or a digit",
            ));
        }
        return Ok(());
    }
    let known = by.jurors().all(|(m, _)| m.count_tokens("A").is_some());
    if !known && Path::new(&args.how.compare.question.template).is_file() {
        progress.note(
            "the judge's tokenizer is not known, so whether each choice of the template is one \
             token was not checked; give `--tokenizer DIR`",
        );
    }
    Ok(())
}

pub type PairItem = (Arc<Row>, judges::Pair);

/// Judgments that a page is made of, at most.
const MAX_ON_PAGE: usize = 20_000;

/// What is made of judgments as they are written.
struct Seen<'a> {
    people: &'a [Judgment],
    ranking: Option<Vec<Judgment>>,
    page: Option<Sample>,
    summary: SummaryBuilder,
    views: Views,
}

impl Seen<'_> {
    fn add(&mut self, row: &Row, judgment: Judgment) {
        let label = row.label.get().or_else(|| said_of(self.people, &judgment));
        self.summary.add(&judgment, label.map(figures::side));
        self.views.add(&judgment);
        if let Some(ranking) = &mut self.ranking {
            ranking.push(judgment.clone());
        }
        if let Some(page) = &mut self.page {
            page.add(judgment);
        }
    }
}

/// An even spread of judgments in their order, at most so many: each time it is full, every second
/// one goes.
struct Sample {
    most: usize,
    step: usize,
    seen: usize,
    kept: Vec<Judgment>,
}

impl Sample {
    fn new(most: usize) -> Self {
        Sample {
            most,
            step: 1,
            seen: 0,
            kept: Vec::new(),
        }
    }

    fn add(&mut self, judgment: Judgment) {
        if self.seen.is_multiple_of(self.step) {
            if self.kept.len() == self.most {
                let mut at = 0;
                self.kept.retain(|_| {
                    at += 1;
                    at % 2 == 1
                });
                self.step *= 2;
            }
            if self.seen.is_multiple_of(self.step) {
                self.kept.push(judgment);
            }
        }
        self.seen += 1;
    }
}

/// The id of two of a row's completions.
pub fn pair_id(row: &Row, i: usize, j: usize) -> String {
    match row.completions.len() {
        2 => row.id.clone(),
        _ => format!("{}/{i}-{j}", row.id),
    }
}

/// Says which rows have too few completions for a pair, now or once they are counted.
pub fn note_short(desk: &Desk) {
    desk.input.tell_short();
}

/// Pairs of every row that has at least two completions.
pub fn pairs_of<'a>(
    desk: &'a Desk,
    select: &'a Pairs,
) -> Result<impl Iterator<Item = Result<PairItem, Error>> + 'a, Error> {
    let rows = desk.input.rows()?;
    Ok(rows.flat_map(move |row| {
        let found = row.and_then(|row| pairs_of_row(&row, select, desk.seed));
        match found {
            Ok(items) => items.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    }))
}

fn pairs_of_row(row: &Arc<Row>, select: &Pairs, run_seed: u64) -> Result<Vec<PairItem>, Error> {
    let n = row.completions.len();
    if n < 2 {
        return Ok(Vec::new());
    }
    let ratings: Option<Vec<f64>> = row
        .columns
        .get("ratings")
        .and_then(|v| serde_json::from_value(v.clone()).ok());
    let pair_seed = seed::derive(run_seed, &["pairs", &row.id]);
    let mut items = Vec::new();
    for (i, j) in pairs(n, select, ratings.as_deref(), pair_seed)? {
        let pair = judges::Pair {
            id: pair_id(row, i, j),
            prompt: row.prompt.clone(),
            response_a: row.completions[i].clone(),
            response_b: row.completions[j].clone(),
        };
        items.push((Arc::clone(row), pair));
    }
    Ok(items)
}

/// The input's columns with the label, as a line.
pub fn judged_line(row: &Row, j: &Judgment) -> Vec<u8> {
    let label = Label::of(j);
    if row.columns.contains_key("rlaif_id") || !row.columns.contains_key("prompt") {
        return line_of(&with_columns(&row.columns, &row.prompt, json!(label)));
    }
    // The same without a copy of every column: most rows are neither labels already nor without a
    // prompt, and there may be a million of them.
    let mut line = vec![b'{'];
    for (name, value) in &row.columns {
        let taken = Label::COLUMNS.contains(&name.as_str());
        let name = match taken {
            true => Cow::Owned(format!("input_{name}")),
            false => Cow::Borrowed(name.as_str()),
        };
        // Neither a text nor a JSON value can fail to be written to memory.
        let _ = serde_json::to_writer(&mut line, &name);
        line.push(b':');
        let _ = serde_json::to_writer(&mut line, value);
        line.push(b',');
    }
    let label = serde_json::to_vec(&label).unwrap_or_default();
    line.extend_from_slice(label.strip_prefix(b"{").unwrap_or(b"}"));
    line.push(b'\n');
    line
}

/// The columns of a label.
#[derive(Serialize)]
struct Label<'a> {
    rlaif_id: &'a str,
    chosen: Option<&'a str>,
    rejected: Option<&'a str>,
    p_chosen: Option<f64>,
    p_first: Probability,
    orders_agree: Option<bool>,
    outcome: Outcome,
    principle: &'a Option<String>,
    judge: String,
    reason: &'a str,
    response_a: &'a str,
    response_b: &'a str,
    orders: &'a [OrderResult],
    opinions: &'a [Opinion],
    scores: &'a [f64],
    shortened: Option<Shortened>,
    rater: &'a Rater,
    lost: Option<&'a [String]>,
}

impl<'a> Label<'a> {
    /// Their names.
    const COLUMNS: [&'static str; 18] = [
        "rlaif_id",
        "chosen",
        "rejected",
        "p_chosen",
        "p_first",
        "orders_agree",
        "outcome",
        "principle",
        "judge",
        "reason",
        "response_a",
        "response_b",
        "orders",
        "opinions",
        "scores",
        "shortened",
        "rater",
        "lost",
    ];

    fn of(j: &'a Judgment) -> Self {
        let sides = j.sides();
        Label {
            rlaif_id: &j.id,
            chosen: sides.map(|(chosen, _, _)| chosen),
            rejected: sides.map(|(_, rejected, _)| rejected),
            p_chosen: sides.map(|(_, _, p)| p),
            p_first: j.p_first,
            orders_agree: j.orders_agree,
            outcome: j.outcome,
            principle: &j.principle,
            judge: rater_name(&j.rater),
            reason: &j.reason,
            response_a: &j.response_a,
            response_b: &j.response_b,
            orders: &j.orders,
            opinions: &j.opinions,
            scores: &j.scores,
            shortened: j.shortened,
            rater: &j.rater,
            lost: j.provenance.as_ref().map(|p| p.lost.as_slice()),
        }
    }
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
