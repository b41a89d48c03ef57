//! How progress, results and errors look.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report, Severity};
use rlaif::progress::{Progress, Unit};
use rlaif::{Error, Judgment, Outcome};

use super::models::Watch;

/// What was seen of a stage's judgments.
#[derive(Clone, Default)]
pub struct Seen {
    /// Judgments read in both orders.
    pub both: usize,
    /// Those whose orders agree.
    pub agree: usize,
    /// Rows by outcome.
    pub outcomes: BTreeMap<&'static str, usize>,
    /// By principle: judgments, and decided ones among them.
    pub principles: BTreeMap<String, (usize, usize)>,
    /// The newest judgments in words, the oldest first.
    pub recent: VecDeque<String>,
}

/// Judgments that are kept to be looked at.
const RECENT: usize = 40;

impl Seen {
    fn add(&mut self, j: &Judgment) {
        if let Some(agree) = j.orders_agree {
            self.both += 1;
            self.agree += usize::from(agree);
        }
        let whole = "the whole constitution";
        let mut count = |by: &str, outcome| {
            let (n, decided) = self.principles.entry(by.to_owned()).or_default();
            *n += 1;
            *decided += usize::from(outcome == Outcome::Decided);
        };
        // Views by each principle are counted as such.
        for o in &j.opinions {
            count(o.principle.as_deref().unwrap_or(whole), o.outcome);
        }
        let of: BTreeSet<&str> = j
            .opinions
            .iter()
            .filter_map(|o| o.principle.as_deref())
            .collect();
        let by = match (&j.principle, of.len()) {
            (Some(id), _) => id.clone(),
            (None, 0) => whole.to_owned(),
            (None, n) => format!("{n} principles"),
        };
        if j.opinions.is_empty() {
            count(&by, j.outcome);
        }
        let prompt: String = j.prompt.to_text().chars().take(60).collect();
        self.recent.push_back(format!(
            "{}  {} p = {:.2}  by {by}  {prompt}",
            j.id, j.outcome, j.p_first
        ));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }
}

/// A line on a terminal that is kept up to date; elsewhere a line a minute.
pub struct Bars {
    state: Mutex<State>,
    watch: Mutex<Option<Watch>>,
    terminal: bool,
    /// A dashboard has the terminal: nothing is written until it gives it back.
    hidden: AtomicBool,
}

struct State {
    bar: ProgressBar,
    stage: String,
    unit: Unit,
    begun: Instant,
    said: Instant,
    drawn: Instant,
    done: usize,
    before: usize,
    total: usize,
    failed: usize,
    seen: Seen,
    /// Notes that wait for the terminal.
    held: Vec<String>,
}

/// Between two drawings of the line's words.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Calls in flight, made again, and money, in words; `None` where no model is behind a socket.
fn calls_line(watch: &Watch) -> Option<String> {
    let (mut in_flight, mut retries, mut usd) = (0, 0, None);
    let endpoints = watch.each();
    if endpoints.is_empty() {
        return None;
    }
    for (_, stats, now) in endpoints {
        in_flight += now.in_flight;
        retries += stats.retries;
        if let Some(spent) = stats.usd {
            *usd.get_or_insert(0.0) += spent;
        }
    }
    let mut line = format!("{in_flight} in flight, {retries} retries");
    if let Some(usd) = usd {
        line.push_str(&format!(", ${usd:.2} spent"));
    }
    if let Some(left) = watch.budget().map(|b| b.left()) {
        if let Some(usd) = left.max_usd {
            line.push_str(&format!(", ${usd:.2} left"));
        }
        if let Some(calls) = left.max_calls {
            line.push_str(&format!(", {calls} calls left"));
        }
    }
    Some(line)
}

/// The time that is left, where rows have ended by which to tell; a batch may take hours for its first.
fn left(state: &ProgressState, before: u64) -> String {
    if state.pos() > before {
        return format!("{:#} left", HumanDuration(state.eta()));
    }
    format!("{:#} so far", HumanDuration(state.elapsed()))
}

impl Bars {
    pub fn new() -> Self {
        let now = Instant::now();
        Bars {
            state: Mutex::new(State {
                bar: ProgressBar::hidden(),
                stage: String::new(),
                unit: Unit::Rows,
                begun: now,
                said: now,
                drawn: now,
                done: 0,
                before: 0,
                total: 0,
                failed: 0,
                seen: Seen::default(),
                held: Vec::new(),
            }),
            watch: Mutex::new(None),
            terminal: std::io::stderr().is_terminal(),
            hidden: AtomicBool::new(false),
        }
    }

    /// Shows what the endpoints do beside what the rows do.
    pub fn watch(&self, watch: Watch) {
        *self
            .watch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(watch);
    }

    fn calls(&self) -> Option<String> {
        let watch = self
            .watch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        watch.as_ref().and_then(calls_line)
    }

    /// Stage, rows done, rows in all, rows failed.
    pub fn counts(&self) -> (String, usize, usize, usize) {
        self.with(|s| (s.stage.clone(), s.done, s.total, s.failed))
    }

    /// Rows a second in this stage.
    pub fn rate(&self) -> f64 {
        self.with(|s| (s.done - s.before) as f64 / s.begun.elapsed().as_secs_f64().max(1e-9))
    }

    /// What was seen of this stage's judgments.
    pub fn seen(&self) -> Seen {
        self.with(|s| s.seen.clone())
    }

    /// Writes nothing from now on: the terminal is somebody else's.
    pub fn hide(&self) {
        self.hidden.store(true, Ordering::Relaxed);
    }

    /// Writes again, beginning with the notes that came meanwhile.
    pub fn show_again(&self) {
        self.hidden.store(false, Ordering::Relaxed);
        for note in self.with(|s| std::mem::take(&mut s.held)) {
            eprintln!("note: {note}");
        }
    }

    fn is_hidden(&self) -> bool {
        self.hidden.load(Ordering::Relaxed)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn start(&self, stage: &str, unit: Unit, total: usize, done: usize) {
        let (terminal, hidden) = (self.terminal, self.is_hidden());
        self.with(|s| {
            let now = Instant::now();
            s.seen = Seen::default();
            s.stage = stage.to_owned();
            s.unit = unit;
            (s.begun, s.said) = (now, now);
            (s.done, s.before, s.total, s.failed) = (done, done, total, 0);
            if hidden {
                s.bar = ProgressBar::hidden();
            } else if terminal {
                s.bar =
                    ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
                let style = format!(
                    "{{prefix:12}} {{bar:20}} {{pos}}/{{len}} {}, {{per_sec}}, {{left}}{{msg}}",
                    unit.as_str()
                );
                if let Ok(style) = ProgressStyle::with_template(&style) {
                    let before = done as u64;
                    let tell = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                        let _ = out.write_str(&left(state, before));
                    };
                    s.bar.set_style(style.with_key("left", tell));
                }
                s.bar.enable_steady_tick(Duration::from_secs(1));
                s.bar.set_prefix(stage.to_owned());
                s.bar.set_position(done as u64);
                s.bar.reset_eta();
            } else if done > 0 {
                eprintln!("{stage}: {total} {}, {done} finished before", unit.as_str());
            } else {
                eprintln!("{stage}: {total} {}", unit.as_str());
            }
        });
    }

    fn row(&self, outcome: Outcome) {
        let terminal = self.terminal;
        self.with(|s| {
            *s.seen.outcomes.entry(outcome.as_str()).or_default() += 1;
            s.done += 1;
            if outcome == Outcome::Failed {
                s.failed += 1;
            }
            s.bar.inc(1);
            if terminal && s.drawn.elapsed() >= DRAW_EVERY {
                s.drawn = Instant::now();
                let failed = (s.failed > 0).then(|| format!("{} rows failed", s.failed));
                let words: Vec<String> = self.calls().into_iter().chain(failed).collect();
                let words: String = words.iter().map(|w| format!(", {w}")).collect();
                s.bar.set_message(words);
            }
            if !terminal && s.said.elapsed() >= Duration::from_secs(60) {
                s.said = Instant::now();
                let rate = (s.done - s.before) as f64 / s.begun.elapsed().as_secs_f64();
                let left = (s.total - s.done) as f64 / rate.max(1e-9);
                let calls = self.calls().map(|c| format!(", {c}")).unwrap_or_default();
                let failed = match s.unit {
                    Unit::Rows => format!(", {} failed", s.failed),
                    Unit::Steps | Unit::Iterations => String::new(),
                };
                eprintln!(
                    "{}: {}/{} {}, {rate:.1}/s{failed}{calls}, about {left:.0} s left",
                    s.stage,
                    s.done,
                    s.total,
                    s.unit.as_str(),
                );
            }
        });
    }

    fn judged(&self, judgment: &Judgment) {
        self.with(|s| s.seen.add(judgment));
    }

    fn finish(&self, _: &str) {
        self.with(|s| s.bar.finish());
    }

    fn note(&self, text: &str) {
        let (terminal, hidden) = (self.terminal, self.is_hidden());
        self.with(|s| {
            if hidden {
                s.held.push(text.to_owned());
            } else if terminal && !s.bar.is_hidden() {
                s.bar.suspend(|| eprintln!("note: {text}"));
            } else {
                eprintln!("note: {text}");
            }
        });
    }
}

/// Shows an error, its advice and, for a recipe, the place of every fault.
pub fn error(error: &Error, json: bool) {
    if json {
        let faults: Vec<String> = match error {
            Error::Recipe { faults, .. } => faults.iter().map(|f| f.message.clone()).collect(),
            _ => Vec::new(),
        };
        let value = serde_json::json!({
            "error": error.to_string(),
            "advice": error.advice(),
            "faults": faults,
            "exit_code": error.exit_code(),
        });
        println!("{value}");
    }
    if let Error::Recipe { path, text, faults } = error {
        let source = NamedSource::new(path.display().to_string(), text.clone());
        for fault in faults {
            let mut shown =
                MietteDiagnostic::new(fault.message.clone()).with_severity(Severity::Error);
            if let Some(span) = &fault.span {
                shown = shown.with_label(LabeledSpan::underline(span.clone()));
            }
            if let Some(help) = &fault.help {
                shown = shown.with_help(help.clone());
            }
            let report = Report::new(shown);
            match fault.span {
                Some(_) => eprintln!("{:?}", report.with_source_code(source.clone())),
                None => eprintln!("{report:?}"),
            }
        }
    }
    eprintln!("error: {error}");
    if let Error::Stopped {
        cause: Some(cause), ..
    } = error
    {
        eprintln!("cause: {cause}");
    }
    let advice = error.advice();
    if !advice.is_empty() {
        eprintln!("help: {advice}");
    }
}
