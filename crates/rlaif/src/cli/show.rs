//! How progress, results and errors look.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report, Severity};
use rlaif::progress::Progress;
use rlaif::{Error, Outcome};

/// A bar on a terminal; elsewhere a line a minute.
pub struct Bars {
    state: Mutex<State>,
    terminal: bool,
}

struct State {
    bar: ProgressBar,
    stage: String,
    begun: Instant,
    said: Instant,
    done: usize,
    total: usize,
    failed: usize,
}

impl Bars {
    pub fn new() -> Self {
        let now = Instant::now();
        Bars {
            state: Mutex::new(State {
                bar: ProgressBar::hidden(),
                stage: String::new(),
                begun: now,
                said: now,
                done: 0,
                total: 0,
                failed: 0,
            }),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn start(&self, stage: &str, total: usize, done: usize) {
        let terminal = self.terminal;
        self.with(|s| {
            let now = Instant::now();
            s.stage = stage.to_owned();
            (s.begun, s.said) = (now, now);
            (s.done, s.total, s.failed) = (done, total, 0);
            if terminal {
                s.bar =
                    ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
                let style = "{prefix:12} {bar:30} {pos}/{len} rows, {per_sec}, {eta} left {msg}";
                if let Ok(style) = ProgressStyle::with_template(style) {
                    s.bar.set_style(style);
                }
                s.bar.set_prefix(stage.to_owned());
                s.bar.set_position(done as u64);
                s.bar.reset_eta();
            } else if done > 0 {
                eprintln!("{stage}: {total} rows, {done} finished before");
            } else {
                eprintln!("{stage}: {total} rows");
            }
        });
    }

    fn row(&self, outcome: Outcome) {
        let terminal = self.terminal;
        self.with(|s| {
            s.done += 1;
            if outcome == Outcome::Failed {
                s.failed += 1;
                s.bar.set_message(format!("({} failed)", s.failed));
            }
            s.bar.inc(1);
            if !terminal && s.said.elapsed() >= Duration::from_secs(60) {
                s.said = Instant::now();
                let rate = s.done as f64 / s.begun.elapsed().as_secs_f64();
                let left = (s.total - s.done) as f64 / rate.max(1e-9);
                eprintln!(
                    "{}: {}/{} rows, {rate:.1}/s, {} failed, about {left:.0} s left",
                    s.stage, s.done, s.total, s.failed
                );
            }
        });
    }

    fn finish(&self, _: &str) {
        self.with(|s| s.bar.finish());
    }

    fn note(&self, text: &str) {
        let terminal = self.terminal;
        self.with(|s| {
            if terminal && !s.bar.is_hidden() {
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
