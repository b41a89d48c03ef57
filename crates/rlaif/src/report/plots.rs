//! Pictures as inline SVG: no script, no font, sharp at any size.

use maud::{Markup, html};
use rlaif_eval::ReliabilityBin;

const W: f64 = 320.0;
const H: f64 = 230.0;
const LEFT: f64 = 38.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 10.0;
/// Dots in a scatter plot; more would hide each other.
const MAX_DOTS: usize = 2_000;

fn x(v: f64) -> f64 {
    LEFT + v * (W - LEFT - RIGHT)
}

fn y(v: f64) -> f64 {
    H - BOTTOM - v * (H - BOTTOM - TOP)
}

/// Axes from 0 to 1 with names; `top` labels the upper end of the vertical one.
fn frame(label: &str, horizontal: &str, vertical: &str, top: &str, inside: &Markup) -> Markup {
    html! {
        svg viewBox=(format!("0 0 {W} {H}")) role="img" aria-label=(label) {
            line.axis x1=(x(0.0)) y1=(y(0.0)) x2=(x(1.0)) y2=(y(0.0)) {}
            line.axis x1=(x(0.0)) y1=(y(0.0)) x2=(x(0.0)) y2=(y(1.0)) {}
            @for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
                line.axis x1=(x(tick)) y1=(y(0.0)) x2=(x(tick)) y2=(y(0.0) + 4.0) {}
                text x=(x(tick)) y=(y(0.0) + 16.0) text-anchor="middle" { (tick) }
            }
            text x=(x(0.5)) y=(H - 4.0) text-anchor="middle" { (horizontal) }
            text x=(LEFT - 6.0) y=(y(1.0) + 8.0) text-anchor="end" { (top) }
            text x=(LEFT - 6.0) y=(y(0.0)) text-anchor="end" { "0" }
            text transform=(format!("translate(12 {}) rotate(-90)", y(0.5))) text-anchor="middle" { (vertical) }
            (inside)
        }
    }
}

/// Twenty bars over [0, 1].
pub(super) fn histogram(ps: &[f64]) -> Markup {
    let mut counts = [0usize; 20];
    for p in ps {
        counts[((p * 20.0) as usize).min(19)] += 1;
    }
    let max = counts.iter().max().copied().unwrap_or(0).max(1);
    let bars = html! {
        @for (i, n) in counts.iter().enumerate() {
            @let (left, high) = (i as f64 / 20.0, *n as f64 / max as f64);
            rect.bar x=(x(left) + 0.5) y=(y(high)) width=(x(0.05) - x(0.0) - 1.0) height=(y(0.0) - y(high)) {
                title { (format!("{n} rows from {left:.2} to {:.2}", left + 0.05)) }
            }
        }
    };
    frame(
        "histogram of p(first)",
        "p(first)",
        "rows",
        &max.to_string(),
        &bars,
    )
}

/// One dot a pair: given order across, swapped order up, both un-swapped.
pub(super) fn scatter(pairs: &[(f64, f64)]) -> Markup {
    let step = pairs.len().div_ceil(MAX_DOTS).max(1);
    let dots = html! {
        line.diag x1=(x(0.0)) y1=(y(0.0)) x2=(x(1.0)) y2=(y(1.0)) {}
        @for (a, b) in pairs.iter().step_by(step) {
            circle.dot cx=(format!("{:.1}", x(*a))) cy=(format!("{:.1}", y(*b))) r="3" {}
        }
    };
    frame(
        "p(first) in both orders",
        "p(first), shown first",
        "shown second",
        "1",
        &dots,
    )
}

/// Share of agreement by confidence, with intervals.
pub(super) fn reliability(bins: &[ReliabilityBin]) -> Markup {
    let points = html! {
        line.diag x1=(x(0.0)) y1=(y(0.0)) x2=(x(1.0)) y2=(y(1.0)) {}
        @for bin in bins {
            @let h = &bin.happened;
            line.err x1=(x(bin.mean_p)) y1=(y(h.low)) x2=(x(bin.mean_p)) y2=(y(h.high)) {}
            circle.bar cx=(x(bin.mean_p)) cy=(y(h.share)) r="4" {
                title { (format!("{} rows, confidence {:.2}, agreement {:.2}", h.n, bin.mean_p, h.share)) }
            }
        }
    };
    frame(
        "reliability diagram",
        "confidence of the verdict",
        "agreement",
        "1",
        &points,
    )
}

/// One line of a plot.
pub(super) struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    line: bool,
    dots: bool,
    own_scale: bool,
}

impl Series {
    fn new(name: &str, points: Vec<(f64, f64)>, line: bool, dots: bool) -> Self {
        let finite = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite();
        Series {
            name: name.to_owned(),
            points: points.into_iter().filter(finite).collect(),
            line,
            dots,
            own_scale: false,
        }
    }

    /// A line.
    pub(super) fn line(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, points, true, false)
    }

    /// Dots alone.
    pub(super) fn dots(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, points, false, true)
    }

    /// A line with a dot at each point, in the order given.
    pub(super) fn path(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, points, true, true)
    }

    /// Stretched over the plot's height by itself: its numbers mean something else.
    pub(super) fn on_own_scale(mut self) -> Self {
        self.own_scale = true;
        self
    }
}

/// Points of a line at most; more could not be told apart.
const MAX_POINTS: usize = 400;

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    match (low.is_finite(), high > low) {
        (false, _) => (0.0, 1.0),
        (true, true) => (low, high),
        (true, false) => (low - 0.5, high + 0.5),
    }
}

fn short(v: f64) -> String {
    match v.abs() {
        a if a >= 1.0 && v.fract() == 0.0 => format!("{v:.0}"),
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 1.0 => format!("{v:.1}"),
        a if a >= 0.01 || a == 0.0 => format!("{v:.2}"),
        _ => format!("{v:.0e}"),
    }
}

/// Lines over a common horizontal axis, with dashed vertical ones at `marks`.
pub(super) fn lines(
    label: &str,
    horizontal: &str,
    vertical: &str,
    series: &[Series],
    marks: &[f64],
) -> Markup {
    let all = || series.iter().flat_map(|s| &s.points);
    let (left, right) = range(all().map(|p| p.0).chain(marks.iter().copied()));
    let shared = || series.iter().filter(|s| !s.own_scale);
    let (low, high) = range(shared().flat_map(|s| &s.points).map(|p| p.1));
    let place = |s: &Series, p: &(f64, f64)| {
        let (low, high) = if s.own_scale {
            range(s.points.iter().map(|p| p.1))
        } else {
            (low, high)
        };
        (
            x((p.0 - left) / (right - left)),
            y((p.1 - low) / (high - low)),
        )
    };
    html! {
        svg viewBox=(format!("0 0 {W} {H}")) role="img" aria-label=(label) {
            line.axis x1=(x(0.0)) y1=(y(0.0)) x2=(x(1.0)) y2=(y(0.0)) {}
            line.axis x1=(x(0.0)) y1=(y(0.0)) x2=(x(0.0)) y2=(y(1.0)) {}
            @for (tick, anchor) in [(0.0, "middle"), (0.5, "middle"), (1.0, "end")] {
                text x=(x(tick)) y=(y(0.0) + 16.0) text-anchor=(anchor) { (short(left + tick * (right - left))) }
                text x=(LEFT - 4.0) y=(y(tick) + 4.0) text-anchor="end" { (short(low + tick * (high - low))) }
            }
            text x=(x(0.5)) y=(H - 4.0) text-anchor="middle" { (horizontal) }
            @if series.len() == 1 {
                text x=(x(0.0) + 4.0) y=(TOP + 8.0) { (vertical) }
            }
            @for mark in marks {
                @let at = x((mark - left) / (right - left));
                line.diag x1=(format!("{at:.1}")) y1=(y(0.0)) x2=(format!("{at:.1}")) y2=(y(1.0)) {}
            }
            @for (i, s) in series.iter().enumerate() {
                @let step = s.points.len().div_ceil(MAX_POINTS).max(1);
                @let points: Vec<(f64, f64)> = s.points.iter().step_by(step).map(|p| place(s, p)).collect();
                @if s.line {
                    polyline.curve.(format!("c{}", i % 3)) points=(points.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect::<Vec<_>>().join(" ")) {}
                }
                @if s.dots {
                    @for (a, b) in &points {
                        circle.point.(format!("c{}", i % 3)) cx=(format!("{a:.1}")) cy=(format!("{b:.1}")) r="2.5" {}
                    }
                }
                @if series.len() > 1 {
                    text.legend.(format!("c{}", i % 3)) x=(x(0.02)) y=(TOP + 8.0 + 13.0 * i as f64) {
                        (super::text::visible(&s.name))
                    }
                }
            }
        }
    }
}

/// A square of shares in [0, 1] between things with names; `None` leaves a cell blank. One half is
/// pale, 1 is blue, 0 is red.
pub(super) fn matrix(names: &[&str], share: &dyn Fn(usize, usize) -> Option<f64>) -> Markup {
    const CELL: f64 = 26.0;
    const NAMES: f64 = 150.0;
    let n = names.len() as f64;
    let short = |name: &str| name.chars().take(22).collect::<String>();
    html! {
        svg viewBox=(format!("0 0 {} {}", NAMES + CELL * n + 8.0, CELL * n + 24.0)) role="img" aria-label="agreement between principles" {
            @for (i, name) in names.iter().enumerate() {
                @let top = CELL * i as f64;
                text x=(NAMES - 6.0) y=(top + 17.0) text-anchor="end" { (i + 1) " " (super::text::visible(&short(name))) }
                text x=(NAMES + top + CELL / 2.0) y=(CELL * n + 16.0) text-anchor="middle" { (i + 1) }
                @for j in 0..names.len() {
                    @if let Some(share) = if i == j { None } else { share(i, j) } {
                        @let strength = (2.0 * (share - 0.5)).abs();
                        rect.(if share >= 0.5 { "agree" } else { "clash" }) x=(NAMES + CELL * j as f64 + 1.0) y=(top + 1.0)
                            width=(CELL - 2.0) height=(CELL - 2.0) fill-opacity=(format!("{:.2}", 0.06 + 0.94 * strength)) {
                            title { (super::text::visible(name)) " and " (super::text::visible(names[j])) (format!(": {:.0} % alike", 100.0 * share)) }
                        }
                        text.cell.strong[strength > 0.6] x=(NAMES + CELL * (j as f64 + 0.5)) y=(top + 17.0) text-anchor="middle" { (format!("{:.0}", 100.0 * share)) }
                    }
                }
            }
        }
    }
}
