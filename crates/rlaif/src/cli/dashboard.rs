//! `--dashboard`: a run in a terminal's whole window, drawn four times a second.
//!
//! Keys stay with the terminal, so that Ctrl-C is what it is elsewhere: once drains, twice stops.

use std::io::{IsTerminal as _, Stderr, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Table};
use ratatui::{Frame, Terminal};
use rlaif::Error;
use rlaif::progress::Progress as _;
use rlaif_client::{Now, Stats};

use super::models::Watch;
use super::show::{Bars, Seen};

/// Between two drawings.
const EVERY: Duration = Duration::from_millis(250);

/// What is drawn.
pub(super) struct View {
    pub(super) stage: String,
    pub(super) done: usize,
    pub(super) total: usize,
    pub(super) failed: usize,
    /// Rows a second in this stage.
    pub(super) rate: f64,
    pub(super) endpoints: Vec<(String, Stats, Now)>,
    /// US dollars and calls that are left, where they are limited.
    pub(super) left: Vec<String>,
    pub(super) seen: Seen,
}

impl View {
    fn of(bars: &Bars, watch: &Watch) -> Self {
        let (stage, done, total, failed) = bars.counts();
        let mut left = Vec::new();
        if let Some(budget) = watch.budget() {
            let rest = budget.left();
            if let (Some(usd), Some(max)) = (rest.max_usd, budget.limits().max_usd) {
                left.push(format!("${usd:.2} left of ${max:.2}"));
            }
            if let Some(calls) = rest.max_calls {
                left.push(format!("{calls} calls left"));
            }
        }
        View {
            stage,
            done,
            total,
            failed,
            rate: bars.rate(),
            endpoints: watch.each(),
            left,
            seen: bars.seen(),
        }
    }
}

/// The window, while it lives.
pub struct Dashboard {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    bars: Arc<Bars>,
}

impl Dashboard {
    /// Takes the terminal's window where it is wanted; `None` where standard error is no terminal.
    ///
    /// # Errors
    /// A terminal that cannot be drawn on.
    pub fn open_if(wanted: bool, bars: &Arc<Bars>, watch: Watch) -> Result<Option<Self>, Error> {
        if !wanted {
            return Ok(None);
        }
        if !stderr().is_terminal() {
            bars.note("`--dashboard` needs a terminal; a line a minute serves instead");
            return Ok(None);
        }
        let fault = |e: std::io::Error| {
            Error::input(
                format!("the dashboard cannot be drawn: {e}"),
                "leave out `--dashboard`",
            )
        };
        execute!(stderr(), EnterAlternateScreen).map_err(fault)?;
        let mut terminal = Terminal::new(CrosstermBackend::new(stderr())).map_err(fault)?;
        bars.hide();
        let stop = Arc::new(AtomicBool::new(false));
        let (ends, shown) = (Arc::clone(&stop), Arc::clone(bars));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let view = View::of(&shown, &watch);
                // A terminal that went away takes its picture with it; the run goes on.
                let _: Result<_, _> = terminal.draw(|frame| draw(frame, &view));
                std::thread::sleep(EVERY);
            }
        });
        Ok(Some(Dashboard {
            stop,
            thread: Some(thread),
            bars: Arc::clone(bars),
        }))
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut out: Stderr = stderr();
        let _ = execute!(out, LeaveAlternateScreen);
        // What was noted while the window hid it.
        self.bars.show_again();
    }
}

/// Text of a model or a server without what could move the cursor or hide in a line.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .filter(|c| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'))
        .collect()
}

fn draw(frame: &mut Frame<'_>, v: &View) {
    let [top, endpoints, middle, examples] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(v.endpoints.len() as u16 + 3),
        Constraint::Length((v.seen.principles.len() as u16 + 3).clamp(9, 14)),
        Constraint::Min(4),
    ])
    .areas(frame.area());
    progress(frame, top, v);
    calls(frame, endpoints, v);
    let [judging, principles, errors] = Layout::horizontal([
        Constraint::Fill(1),
        Constraint::Fill(2),
        Constraint::Fill(2),
    ])
    .areas(middle);
    labels(frame, judging, v);
    uses(frame, principles, v);
    failures(frame, errors, v);
    recent(frame, examples, v);
}

fn progress(frame: &mut Frame<'_>, area: Rect, v: &View) {
    let share = v.done as f64 / v.total.max(1) as f64;
    let left = (v.total.saturating_sub(v.done)) as f64 / v.rate.max(1e-9);
    let time = if v.rate > 0.0 {
        format!("about {} left", span(left))
    } else {
        "no rate yet".into()
    };
    let label = format!(
        "{} of {} rows, {:.1}/s, {time}, {} failed",
        v.done, v.total, v.rate, v.failed
    );
    let gauge = Gauge::default()
        .block(Block::bordered().title(format!(" {} ", plain(&v.stage))))
        .ratio(share.clamp(0.0, 1.0))
        .label(label);
    frame.render_widget(gauge, area);
}

/// A time in the two units that matter.
fn span(secs: f64) -> String {
    let s = secs.min(1e9) as u64;
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        _ => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

fn calls(frame: &mut Frame<'_>, area: Rect, v: &View) {
    let rows = v.endpoints.iter().map(|(name, stats, now)| {
        let [p50, p90, p99] = now.latency_secs.map(|s| format!("{s:.2}"));
        let usd = stats
            .usd
            .map_or_else(|| "-".into(), |usd| format!("{usd:.2}"));
        Row::new([
            plain(name),
            stats.calls.to_string(),
            stats.recalled.to_string(),
            format!("{}/{}", now.in_flight, now.window),
            stats.retries.to_string(),
            format!("{p50} {p90} {p99}"),
            usd,
        ])
    });
    let widths = [
        Constraint::Min(20),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(20),
        Constraint::Length(9),
    ];
    let head = [
        "endpoint",
        "answered",
        "journal",
        "in flight",
        "retries",
        "p50 p90 p99, s ≤",
        "$",
    ];
    let title = match v.left.is_empty() {
        true => " calls ".to_owned(),
        false => format!(" calls: {} ", v.left.join(", ")),
    };
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(Style::new().bold()))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn labels(frame: &mut Frame<'_>, area: Rect, v: &View) {
    let s = &v.seen;
    let share = |n: usize, of: usize| match of {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", 100.0 * n as f64 / of as f64),
    };
    let mut lines = vec![Line::from(vec![
        Span::raw("orders agree "),
        share(s.agree, s.both).bold(),
        Span::raw(format!(" of {}", s.both)),
    ])];
    for (outcome, n) in &s.outcomes {
        lines.push(Line::raw(format!("{outcome:12} {n}")));
    }
    let block = Block::bordered().title(" labels ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn uses(frame: &mut Frame<'_>, area: Rect, v: &View) {
    let mut used: Vec<(&String, &(usize, usize))> = v.seen.principles.iter().collect();
    used.sort_by_key(|(id, (n, _))| (std::cmp::Reverse(*n), id.as_str()));
    // Those that find no room are counted: a list that just ends looks whole.
    let room = area.height.saturating_sub(3) as usize;
    let hidden = match used.len() > room {
        true => used.split_off(room.saturating_sub(1)).len(),
        false => 0,
    };
    let rows = used.into_iter().map(|(id, (n, decided))| {
        let share = 100.0 * *decided as f64 / (*n).max(1) as f64;
        Row::new([plain(id), n.to_string(), format!("{share:.0} %")])
    });
    let more = (hidden > 0).then(|| Row::new([format!("and {hidden} more")]));
    let rows = rows.chain(more);
    let widths = [
        Constraint::Min(12),
        Constraint::Length(7),
        Constraint::Length(8),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(["principle", "pairs", "decided"]).style(Style::new().bold()))
        .block(Block::bordered().title(" principles "));
    frame.render_widget(table, area);
}

fn failures(frame: &mut Frame<'_>, area: Rect, v: &View) {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (name, _, now) in &v.endpoints {
        for (kind, n) in &now.failures {
            lines.push(Line::raw(format!(
                "{n:>6} {} ({})",
                plain(kind),
                plain(name)
            )));
        }
    }
    if lines.is_empty() {
        lines.push(Line::raw("none").dim());
    }
    let block = Block::bordered().title(" failed attempts ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn recent(frame: &mut Frame<'_>, area: Rect, v: &View) {
    let room = area.height.saturating_sub(2) as usize;
    let lines: Vec<Line<'_>> = v
        .seen
        .recent
        .iter()
        .rev()
        .take(room)
        .map(|text| Line::raw(plain(text)))
        .collect();
    let block = Block::bordered().title(" newest ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn what_matters_is_on_the_screen_and_nothing_moves_the_cursor() {
        let now = Now {
            in_flight: 12,
            window: 64,
            latency_secs: [0.05, 0.09, 0.31],
            failures: BTreeMap::from([("status 429".to_owned(), 7)]),
            ..Now::default()
        };
        let stats = Stats {
            calls: 480,
            retries: 9,
            usd: Some(1.234),
            ..Stats::default()
        };
        let mut view = View {
            stage: "judge".into(),
            done: 240,
            total: 1000,
            failed: 3,
            rate: 40.0,
            endpoints: vec![("http://localhost:8000/v1#judge".into(), stats, now)],
            left: vec!["$8.77 left of $10.00".into()],
            seen: Seen {
                both: 200,
                agree: 150,
                outcomes: BTreeMap::from([("decided", 220), ("tie", 17), ("failed", 3)]),
                principles: BTreeMap::from([("harmless".to_owned(), (120, 90))]),
                recent: VecDeque::from(["r1 \u{1b}[2Jp = 0.91 by harmless".to_owned()]),
            },
        };
        let mut terminal = Terminal::new(TestBackend::new(110, 26)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let screen = terminal.backend().to_string();
        for words in [
            "240 of 1000 rows",
            "about 19 s left",
            "12/64",
            "0.05 0.09 0.31",
            "1.23",
            "75.0 %",
            "harmless",
            "7 status 429",
            "$8.77 left of $10.00",
            "p = 0.91",
        ] {
            assert!(screen.contains(words), "{words} is missing in\n{screen}");
        }
        assert!(!screen.contains('\u{1b}'));
        // A small window is drawn too.
        let mut small = Terminal::new(TestBackend::new(20, 5)).unwrap();
        small.draw(|frame| draw(frame, &view)).unwrap();
        // More principles than there is room for.
        for i in 0..40 {
            view.seen.principles.insert(format!("p{i:02}"), (2, 1));
        }
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let screen = terminal.backend().to_string();
        let shown = view.seen.principles.keys();
        let shown = shown.filter(|id| screen.contains(id.as_str())).count();
        let more = view.seen.principles.len() - shown;
        assert!(screen.contains(&format!("and {more} more")), "{screen}");
    }
}
