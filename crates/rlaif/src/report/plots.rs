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
