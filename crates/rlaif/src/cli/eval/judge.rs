//! `rlaif eval judge`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rlaif::evals::attacks::{self, ATTACKS, AttackTable, Tried};
use rlaif::evals::judges::{self as measures, JudgeReport, Labels, SideBySide};
use rlaif::rows::{Tally, check_failed};
use rlaif::stages::commonest_error;
use rlaif::stages::judge::{self as judges, Pair};
use rlaif::{Constitution, Error, JudgeConfig, Judgment, Method, Model, Outcome};
use rlaif_core::dataset::{self, Dataset, Row};
use rlaif_core::pairs::Pairs;
use rlaif_core::rowlog::RowLog;
use rlaif_core::seed;
use rlaif_feedback::{Judge, Purpose, Template};
use serde::Serialize;
use serde_json::{Map, Value};

use super::args::EvalJudgeArgs;
use super::best_of;
use crate::cli::args::{FilesArgs, Global};
use crate::cli::desk::Desk;
use crate::cli::input::note_faults;
use crate::cli::judging::jury;
use crate::cli::loose::{PairItem, no_completions, note_short, pairs_of};
use crate::cli::run::judgment_of;
use crate::cli::show::Bars;

/// The comparison without a fence, and the score.
const UNFENCED: &str = include_str!("../../evals/unfenced.toml");
const UNFENCED_SCORE: &str = include_str!("../../evals/unfenced_score.toml");

#[derive(Serialize)]
struct Out<'a> {
    judges: &'a [JudgeReport],
    side_by_side: &'a [SideBySide],
}

pub async fn judge(args: &EvalJudgeArgs, global: &Global) -> Result<u8, Error> {
    let (config, jurors) = args.how.config()?;
    let (mut files, mut rows) = (Vec::new(), Vec::new());
    let mut several = None;
    for path in &args.input {
        let dataset = dataset::read(path)?;
        several = several.or_else(|| best_of::several(&dataset));
        if dataset.rows.iter().any(is_judged) {
            files.push(dataset);
        } else {
            rows.push(path.clone());
        }
    }
    check(args, &files, &rows)?;
    if let (Some(row), [input]) = (several, rows.as_slice()) {
        return best_of::measure(args, global, &config, input.clone(), &row).await;
    }
    let mut all = Vec::new();
    for dataset in &files {
        note_faults(dataset, &Bars::new());
        all.extend(labels_of_file(dataset, args)?);
    }
    let mut tables: Vec<Option<AttackTable>> = all.iter().map(|_| None).collect();
    let mut asked = None;
    if let Some(input) = rows.pop() {
        let files = args.output.files(input, args.constitution.as_ref())?;
        let mut desk = Desk::open(&files, "eval-judge", &args.endpoint.run, global)?;
        let models = open_all(&mut desk, args, jurors.len())?;
        let jury = jury(&mut desk, &jurors, &args.endpoint)?;
        let mut log = desk.log()?;
        let mut total = Tally::default();
        let mut stopped = None;
        for (name, model) in models {
            let mut bench = Bench {
                desk: &desk,
                files: &files,
                args,
                config: &config,
                jury: &jury,
                log: &mut log,
                total: &mut total,
                stopped: &mut stopped,
                keys: Vec::new(),
            };
            let (labels, table) = bench.measure(name, model).await?;
            all.push(labels);
            tables.push(table);
        }
        let gate = match stopped {
            Some(stopped) => Err(stopped),
            None => check_failed("eval-judge", &total, args.endpoint.max_failed, || {
                "see `failed` in the report".to_owned()
            }),
        };
        desk.close(log, &total)?;
        asked = Some((desk, total, gate));
    }
    tell_apart(&mut all);
    let mut reports = Vec::new();
    for (labels, table) in all.iter().zip(tables) {
        reports.push(measures::report(labels, table)?);
    }
    let pairs = measures::side_by_side(&all);
    let html = rlaif::report::evals::judges("How good are these judges?", &reports, &pairs);
    let out = Out {
        judges: &reports,
        side_by_side: &pairs,
    };
    super::write(&args.output.out, args.output.report.as_deref(), &out, &html)?;
    let mut words = String::new();
    for report in &reports {
        words.push_str(&lines(report));
    }
    for pair in &pairs {
        words.push_str(&beside(pair));
    }
    let mut extra = Map::new();
    extra.insert(
        "report".into(),
        serde_json::to_value(&out).unwrap_or_default(),
    );
    match asked {
        Some((desk, total, gate)) => desk.end(
            global,
            &args.output.out,
            &total,
            gate,
            extra,
            words.trim_end(),
        ),
        None => {
            eprintln!("{}\n-> {}", words.trim_end(), args.output.out.display());
            if global.json {
                println!("{}", Value::Object(extra));
            }
            Ok(0)
        }
    }
}

fn is_judged(row: &Row) -> bool {
    row.columns.contains_key("rlaif_id") && row.columns.contains_key("p_first")
}

/// Labels of one judge in several files are named by their file as well.
fn tell_apart(all: &mut [Labels]) {
    let names: Vec<String> = all.iter().map(|labels| labels.judge.clone()).collect();
    for labels in all.iter_mut() {
        if names.iter().filter(|name| **name == labels.judge).count() > 1 {
            labels.judge = format!("{} ({})", labels.judge, labels.source);
        }
    }
}

/// What cannot be done is said before anything is asked.
fn check(args: &EvalJudgeArgs, files: &[Dataset], rows: &[PathBuf]) -> Result<(), Error> {
    match (args.critic.is_empty(), rows) {
        (true, [first, ..]) => Err(Error::input(
            format!(
                "`{}` holds no labels that `rlaif judge` wrote",
                first.display()
            ),
            "name judges to ask with `--critic MODEL`, or give the `--out` of `rlaif judge`",
        )),
        (false, []) => Err(Error::input(
            "`--critic` needs a file of rows to judge, and all that is given is judged already",
            "give the rows with their references, or leave `--critic` out",
        )),
        (false, [_, second, ..]) => Err(Error::input(
            format!(
                "one file of rows is judged at a time; `{}` is a second one",
                second.display()
            ),
            "join them into one file",
        )),
        (true, []) if args.attacks || args.repeats > 0 => Err(Error::input(
            "`--attacks` and `--repeats` ask a judge, and none is named",
            "give `--critic MODEL` and the rows that were judged",
        )),
        (true, []) if files.iter().all(|f| f.rows.is_empty()) => Err(Error::input(
            "no row can be read",
            "give the `--out` of `rlaif judge`",
        )),
        _ => Ok(()),
    }
}

/// The judges with their names; each may have so many others beside it.
pub(super) fn open_all(
    desk: &mut Desk,
    args: &EvalJudgeArgs,
    others: usize,
) -> Result<Vec<(String, Model)>, Error> {
    let mut models = Vec::new();
    for (i, url) in args.critic.iter().enumerate() {
        let name = format!("critic {}", i + 1);
        let model = desk.model(&name, url, &args.endpoint)?;
        // Two servers of one name are told apart by their place.
        let id = match others {
            0 => model.id().to_string(),
            n => format!("{} and {n} more", model.id()),
        };
        let taken = models.iter().any(|(known, _)| *known == id);
        models.push((
            if taken {
                format!("{id} ({})", i + 1)
            } else {
                id
            },
            model,
        ));
    }
    Ok(models)
}

fn subset_of(row: &Row, column: Option<&str>) -> Option<String> {
    let text = |name: &str| {
        row.columns
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    match column {
        Some(name) => text(name),
        None => text("subset").or_else(|| text("dataset")),
    }
}

/// The reference that a judged row carries, as P(the response given first is better): its own
/// columns, read as they were before it was judged.
fn reference_of(row: &Row, judgment: &Judgment) -> Option<f64> {
    let mut columns = row.columns.clone();
    for added in ["chosen", "rejected", "response_a", "response_b"] {
        columns.remove(added);
        if let Some(own) = columns.remove(&format!("input_{added}")) {
            columns.insert(added.to_owned(), own);
        }
    }
    let read = |columns: Map<String, Value>| {
        let own = dataset::row_of(Value::Object(columns)).ok()?;
        let p = own.label.get()?;
        match own.completions.as_slice() {
            [a, b] if *a == judgment.response_a && *b == judgment.response_b => Some(p),
            [a, b] if *b == judgment.response_a && *a == judgment.response_b => Some(1.0 - p),
            _ => None,
        }
    };
    // A prompt may have been added too, where whole transcripts held it.
    let mut without = columns.clone();
    without.remove("prompt");
    read(columns).or_else(|| read(without))
}

/// The labels of a judged file, by judge.
fn labels_of_file(dataset: &Dataset, args: &EvalJudgeArgs) -> Result<Vec<Labels>, Error> {
    let mut by: BTreeMap<String, Labels> = BTreeMap::new();
    let rows = dataset.rows.iter().filter(|row| is_judged(row));
    for row in rows.take(args.output.limit.unwrap_or(usize::MAX)) {
        let Some(judgment) = judgment_of(row) else {
            return Err(Error::input(
                format!(
                    "{}:{}: a judged row without a readable `outcome` and `orders`",
                    dataset.path.display(),
                    row.line
                ),
                "give the file as `rlaif judge` wrote it",
            ));
        };
        let judge = match &judgment.rater {
            rlaif_core::Rater::Model(id) => id.to_string(),
            rlaif_core::Rater::Human(name) => name.clone(),
        };
        let labels = by.entry(judge.clone()).or_insert_with(|| Labels {
            judge,
            source: dataset.path.display().to_string(),
            judgments: Vec::new(),
            references: Vec::new(),
            subsets: Vec::new(),
            repeats: Vec::new(),
            time: None,
            costed: false,
        });
        labels.references.push(reference_of(row, &judgment));
        labels.subsets.push(subset_of(row, args.subset.as_deref()));
        labels.judgments.push(judgment);
    }
    Ok(by.into_values().collect())
}

/// Where one judge is asked.
struct Bench<'a> {
    desk: &'a Desk,
    files: &'a FilesArgs,
    args: &'a EvalJudgeArgs,
    config: &'a JudgeConfig,
    jury: &'a [Model],
    log: &'a mut RowLog,
    total: &'a mut Tally,
    stopped: &'a mut Option<Error>,
    keys: Vec<String>,
}

impl Bench<'_> {
    /// Judges pairs, each by its own judge; `None` where the budget ended first.
    async fn ask(
        &mut self,
        stage: &str,
        items: Vec<(&Judge, Pair)>,
    ) -> Result<(Vec<Option<Judgment>>, usize), Error> {
        let items: Vec<(String, (&Judge, Pair))> = items
            .into_iter()
            .map(|(by, pair)| (judges::key(&judges::settings(by), &pair), (by, pair)))
            .collect();
        self.keys = items.iter().map(|(key, _)| key.clone()).collect();
        // Equal questions have equal keys, and are asked once.
        let mut seen = std::collections::HashSet::new();
        let once: Vec<_> = items
            .into_iter()
            .filter(|(key, _)| seen.insert(key.clone()))
            .collect();
        if self.stopped.is_none() {
            let (tally, stopped) = self
                .desk
                .ask(
                    stage,
                    &self.args.endpoint,
                    self.log,
                    once,
                    |(by, pair): (&Judge, Pair)| judges::judge_pair(by, pair),
                )
                .await?;
            if tally.count(Outcome::Failed) > 0 {
                let reason = commonest_error::<Judgment>(self.log, self.keys.iter().map(Ok));
                self.desk
                    .progress
                    .note(&format!("{stage}: most often, {reason}"));
            }
            self.total.add(&tally);
            *self.stopped = stopped;
            let fresh = tally.rows - tally.reused;
            return Ok((self.read()?, fresh));
        }
        Ok((self.read()?, 0))
    }

    fn read(&self) -> Result<Vec<Option<Judgment>>, Error> {
        let mut found = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            found.push(self.log.get(key)?);
        }
        Ok(found)
    }

    async fn measure(
        &mut self,
        name: String,
        model: Model,
    ) -> Result<(Labels, Option<AttackTable>), Error> {
        let desk = self.desk;
        let (config, jury) = (self.config, self.jury);
        let of = |constitution: &Constitution, seed: u64| {
            judges::judge_of(config, model.clone(), constitution, Path::new(""), seed)
                .map(|by| by.with_jury(jury.to_vec()))
        };
        let by = of(&desk.constitution, desk.seed)?;
        note_short(desk);
        let items = pairs_of(desk, &Pairs::All)?.collect::<Result<Vec<_>, Error>>()?;
        if items.is_empty() {
            return Err(no_completions(self.files, "two completions to compare"));
        }
        let begun = Instant::now();
        let clean = items.iter().map(|(_, pair)| (&by, pair.clone())).collect();
        let (judged, fresh) = self.ask(&name, clean).await?;
        let time = Some((begun.elapsed().as_secs_f64(), fresh));
        // Rows that a budget kept away have no judgment, and are in the tally.
        let kept: Vec<(&PairItem, Judgment)> = items
            .iter()
            .zip(judged)
            .filter_map(|(item, judgment)| Some((item, judgment?)))
            .collect();
        let mut repeats = Vec::new();
        for n in 0..self.args.repeats {
            let seed = seed::derive(desk.seed, &["repeat", &n.to_string()]);
            // The principle that was drawn the first time is the only one the second time.
            let mut judges_by: BTreeMap<Option<String>, Judge> = BTreeMap::new();
            for (_, judgment) in &kept {
                if !judges_by.contains_key(&judgment.principle) {
                    let mut constitution = desk.constitution.clone();
                    if let Some(id) = &judgment.principle {
                        constitution.principles.retain(|p| p.id == *id);
                    }
                    judges_by.insert(judgment.principle.clone(), of(&constitution, seed)?);
                }
            }
            let again = kept
                .iter()
                .filter_map(|((_, pair), j)| Some((judges_by.get(&j.principle)?, pair.clone())))
                .collect();
            repeats.push(self.ask(&format!("{name}, again"), again).await?.0);
        }
        let table = match self.args.attacks {
            true => Some(self.attack(&name, &by, &model, &kept).await?),
            false => None,
        };
        let labels = Labels {
            judge: name,
            source: desk.input.path.display().to_string(),
            references: kept.iter().map(|((row, _), _)| row.label.get()).collect(),
            subsets: kept
                .iter()
                .map(|((row, _), _)| subset_of(row, self.args.subset.as_deref()))
                .collect(),
            judgments: kept.into_iter().map(|(_, judgment)| judgment).collect(),
            repeats,
            time,
            costed: true,
        };
        Ok((labels, table))
    }

    /// The judge with the default question, or score, that fences nothing.
    fn unfenced(&self, model: &Model) -> Result<Judge, Error> {
        let pair = Template::parse("unfenced", Purpose::Pair, UNFENCED)?;
        let config = JudgeConfig {
            // It shows none.
            exemplars: String::new(),
            ..self.config.clone()
        };
        let method = config.method;
        let mut by = Judge::new(
            model.clone(),
            self.desk.constitution.clone(),
            config,
            Some(pair),
            self.desk.seed,
        )?;
        if method == Method::Score {
            let score = Template::parse("unfenced score", Purpose::Score, UNFENCED_SCORE)?;
            by = by.with_score_template(score)?;
        }
        Ok(by.with_jury(self.jury.to_vec()))
    }

    async fn attack(
        &mut self,
        name: &str,
        fenced: &Judge,
        model: &Model,
        kept: &[(&PairItem, Judgment)],
    ) -> Result<AttackTable, Error> {
        let unfenced = self.unfenced(model)?;
        // The worse response: by the reference, or by the judge itself where there is none.
        // Pairs whose verdict went against it come first: no other can be turned.
        let mut targets: Vec<(bool, &Pair, bool)> = kept
            .iter()
            .filter_map(|((row, pair), judgment)| {
                let p = row.label.get().or(judgment.p_first.get())?;
                let first = p < 0.5;
                let against = judgment.outcome == Outcome::Decided
                    && judgment.p_first.get().is_some_and(|p| (p > 0.5) != first);
                (p != 0.5).then_some((!against, pair, first))
            })
            .collect();
        targets.sort_by_key(|(late, pair, _)| {
            (*late, seed::derive(self.desk.seed, &["attacks", &pair.id]))
        });
        targets.truncate(self.args.attack_rows);
        let targets: Vec<(&Pair, bool)> = targets.into_iter().map(|(_, p, f)| (p, f)).collect();
        let mut tried = Vec::new();
        for (fence, by) in [(true, fenced), (false, &unfenced)] {
            let mut items: Vec<(&Judge, Pair)> = Vec::new();
            for (pair, first) in &targets {
                items.push((by, (*pair).clone()));
                for attack in &ATTACKS {
                    // The same id: the same principle is drawn.
                    let mut attacked = (*pair).clone();
                    let worse = if *first {
                        &mut attacked.response_a
                    } else {
                        &mut attacked.response_b
                    };
                    *worse = attack.apply(worse);
                    items.push((by, attacked));
                }
            }
            let how = if fence {
                "attacked"
            } else {
                "attacked, no fence"
            };
            let (judged, _) = self.ask(&format!("{name}, {how}"), items).await?;
            for (pair, chunk) in judged.chunks(1 + ATTACKS.len()).enumerate() {
                let Some((Some(clean), attacked)) = chunk.split_first() else {
                    continue;
                };
                tried.extend(attacked.iter().enumerate().map(|(attack, j)| Tried {
                    attack,
                    pair,
                    first: targets[pair].1,
                    fenced: fence,
                    clean: clean.clone(),
                    attacked: j.clone(),
                }));
            }
        }
        Ok(attacks::table(targets.len(), &tried))
    }
}

/// Two judges in a line; only for rows that both decided.
fn beside(pair: &SideBySide) -> String {
    let Some(agreement) = &pair.agreement else {
        return String::new();
    };
    let mut line = format!(
        "{} and {} agree with each other in {}",
        pair.a,
        pair.b,
        rlaif::figures::share(agreement)
    );
    if let Some(d) = &pair.difference {
        let told = if d.low > 0.0 || d.high < 0.0 {
            ""
        } else {
            ": these rows do not tell them apart"
        };
        line.push_str(&format!(
            "; with the reference, the first less the second {:+.3} [{:+.3}, {:+.3}]{told}",
            d.value, d.low, d.high
        ));
    }
    line.push('\n');
    line
}

fn lines(report: &JudgeReport) -> String {
    let mut text = format!("{} on {}\n", report.judge, report.source);
    for line in rlaif::figures::lines(&report.summary) {
        text.push_str(&format!("  {line}\n"));
    }
    if let Some(length) = report.length_logit {
        text.push_str(&format!(
            "  length logit {:+.4} ± {:.4} a word\n",
            length.per_word, length.std_error
        ));
    }
    if let Some(own) = report.self_agreement {
        text.push_str(&format!(
            "  agreement with itself {}\n",
            rlaif::figures::share(&own)
        ));
    }
    if let Some(bench) = report.rewardbench.as_ref() {
        for (section, score) in &bench.sections {
            text.push_str(&format!("  RewardBench {section}: {:.1}\n", 100.0 * score));
        }
    }
    if let Some(table) = &report.attacks {
        for (how, any) in [
            ("", table.any_fenced),
            (" without a fence", table.any_unfenced),
        ] {
            if let Some(any) = any {
                text.push_str(&format!(
                    "  at least one of {} attacks turned the verdict{how} in {}\n",
                    table.attacks.len(),
                    rlaif::figures::share(&any)
                ));
            }
        }
    }
    text
}
