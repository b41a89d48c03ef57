//! The report: one self-contained HTML page on which a person can *look* at labels.
//!
//! Everything that a model wrote is untrusted: it is escaped, characters that cannot be seen are
//! shown by their code, and a content security policy lets nothing run but the page's own script,
//! by its hash.

pub mod evals;
mod plots;
pub mod synth;
mod text;
pub mod training;

use std::collections::BTreeMap;

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use rlaif_core::{Judgment, Outcome, PresentationOrder, Revision};
use rlaif_eval::{JudgeSummary, Proportion};
use sha2::{Digest, Sha256};

use text::{diff, visible};
use training::Training;

use crate::views::Views;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("filter.js");
/// Cards on one page: enough to look at, few enough for a phone.
const MAX_CARDS: usize = 400;
/// Of these, places kept for what is not decided.
const MAX_UNDECIDED: usize = 100;
/// What is judged by where no principle is named.
const WHOLE: &str = "the whole constitution";
/// Revisions shown before and after.
const MAX_REVISIONS: usize = 40;

/// What the page is about.
pub struct Page<'a> {
    /// Its title.
    pub title: &'a str,
    /// Judgments, in the file's order.
    pub judgments: &'a [Judgment],
    /// How many judgments these stand for; more than there are where they are an even sample.
    pub sample_of: usize,
    /// Revisions, a step each; empty where there are none.
    pub revisions: &'a [Revision],
    /// Statistics over the judgments.
    pub summary: &'a JudgeSummary,
    /// What training came to; empty for labels alone.
    pub training: &'a Training,
}

/// The page.
#[must_use]
pub fn render(page: &Page<'_>) -> String {
    let body = html! {
        @if !page.training.is_empty() { (training::section(page.training)) h2 { "The labels" } }
        (summary(page))
        @if !page.judgments.is_empty() {
            (pictures(page))
            (principles(page.judgments))
            (views(page.judgments))
            (cards(page.judgments))
        }
        @if !page.revisions.is_empty() { (revisions(page.revisions)) }
    };
    shell(page.title, &body)
}

/// A whole page around a body: styles, script and the policy that lets nothing else run.
fn shell(title: &str, body: &Markup) -> String {
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri \
         'none'; form-action 'none'"
    );
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    (body)
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

fn percent(p: &Proportion) -> String {
    format!("{:.1} %", 100.0 * p.share)
}

fn interval(p: &Proportion) -> String {
    format!(
        "95 % interval {:.1}–{:.1} %, {} rows",
        100.0 * p.low,
        100.0 * p.high,
        p.n
    )
}

fn figure(value: &str, name: &str, note: &str) -> Markup {
    html! { div.figure { b { (value) } (name) br; span { (note) } } }
}

fn summary(page: &Page<'_>) -> Markup {
    let s = page.summary;
    let judges: std::collections::BTreeSet<String> = page
        .judgments
        .iter()
        .map(|j| text::rater(&j.rater))
        .collect();
    let count = |o: Outcome| page.judgments.iter().filter(|j| j.outcome == o).count();
    let outcomes: Vec<String> = Outcome::ALL
        .iter()
        .filter(|o| count(**o) > 0)
        .map(|o| format!("{} {o}", count(*o)))
        .collect();
    let cut = page.judgments.iter().filter(|j| j.shortened.is_some());
    let shortened = cut.count();
    let mut lost = std::collections::BTreeSet::new();
    let (mut calls, mut tokens, mut usd) = (0u64, 0u64, Some(0.0));
    for j in page.judgments {
        lost.extend(j.provenance.iter().flat_map(|p| p.lost.iter().cloned()));
        calls += u64::from(j.cost.calls);
        tokens += j.cost.prompt_tokens + j.cost.completion_tokens;
        usd = usd.zip(j.cost.usd).map(|(a, b)| a + b);
    }
    html! {
        @if !page.judgments.is_empty() {
            p {
                (page.judgments.len()) " comparisons by "
                @for (i, judge) in judges.iter().enumerate() { @if i > 0 { ", " } b { (visible(judge)) } }
                ": " (outcomes.join(", ")) "."
                @if calls > 0 {
                    " " (calls) " calls and " (tokens) " tokens"
                    @if let Some(usd) = usd.filter(|u| *u > 0.0) { ", " (format!("${usd:.4}")) }
                    "."
                }
            }
            @if shortened > 0 {
                p.soft { (shortened) " did not fit: both responses were shortened by the same share, which their cards give." }
            }
            @if !lost.is_empty() {
                p.soft {
                    "The endpoint refused or ignored "
                    @for (i, field) in lost.iter().enumerate() { @if i > 0 { ", " } code { (field) } }
                    ". Without log-probabilities a label is counted from answers, which is coarser."
                }
            }
        }
        @if page.sample_of > page.judgments.len() {
            p.soft {
                "The page shows an even sample of " (page.judgments.len()) " of " (page.sample_of)
                " rows: counts, pictures and lists are of these, the figures below of all."
            }
        }
        div.figures {
            @if let Some(undecided) = &s.undecided {
                (figure(&percent(undecided), "without a chosen side", &interval(undecided)))
            }
            @if let Some(position) = &s.position {
                (figure(&percent(&position.inconsistency), "same position won twice", &interval(&position.inconsistency)))
                (figure(&format!("{:+.2}", position.logit.mean), "log-odds towards the first shown",
                    &position.logit.std_error.map(|e| format!("standard error {e:.2}; removed from the labels")).unwrap_or_default()))
            }
            @if let Some(longer) = s.length.as_ref().and_then(|l| l.longer_won.as_ref()) {
                (figure(&percent(longer), "won by the longer response", &interval(longer)))
            }
            @if let Some(human) = &s.human {
                @if let Some(agreement) = &human.agreement {
                    (figure(&percent(agreement), "agree with the file's labels", &interval(agreement)))
                }
                @if let (Some(brier), Some(ece)) = (human.brier, human.ece) {
                    (figure(&format!("{brier:.3}"), "Brier score", &format!("a coin has 0.250; ECE {ece:.3}")))
                }
            }
        }
    }
}

fn pictures(page: &Page<'_>) -> Markup {
    let ps: Vec<f64> = page
        .judgments
        .iter()
        .filter_map(|j| j.p_first.get())
        .collect();
    let both: Vec<(f64, f64)> = page
        .judgments
        .iter()
        .filter_map(|j| {
            let of = |order| j.orders.iter().find(|o| o.order == order)?.p_first.get();
            Some((
                of(PresentationOrder::Given)?,
                of(PresentationOrder::Swapped)?,
            ))
        })
        .collect();
    html! {
        h2 { "What the labels look like" }
        div.plots {
            figure {
                (plots::histogram(&ps))
                figcaption { "P(the response given first is better). Labels at the ends are sure, those in the middle are not." }
            }
            @if !both.is_empty() {
                figure {
                    (plots::scatter(&both))
                    figcaption { "The same pair in both orders. On the dashed line the order changes nothing; below it the judge leans towards what it sees first, above it towards the second." }
                }
            }
            @if let Some(human) = page.summary.human.as_ref().filter(|h| !h.reliability.is_empty()) {
                figure {
                    (plots::reliability(&human.reliability))
                    figcaption { "Reliability: how often a verdict agrees with the file's label, by its confidence, with 95 % intervals. On the dashed line the confidence is right." }
                }
            }
        }
    }
}

fn principles(judgments: &[Judgment]) -> Markup {
    let mut by: BTreeMap<&str, (usize, usize, f64, usize)> = BTreeMap::new();
    for j in judgments {
        let Some(id) = j.principle.as_deref() else {
            continue;
        };
        let (n, decided, margin, read) = by.entry(id).or_default();
        *n += 1;
        *decided += usize::from(j.outcome == Outcome::Decided);
        if let Some(p) = j.p_first.get() {
            *margin += (p - 0.5).abs();
            *read += 1;
        }
    }
    html! {
        @if !by.is_empty() {
            h2 { "By principle" }
            p.soft { "A principle whose mean |p − ½| is near 0 does not let this judge tell responses apart." }
            div.wide { table {
                tr { th { "principle" } th { "rows" } th { "decided" } th { "mean |p − ½|" } }
                @for (id, (n, decided, margin, read)) in &by {
                    tr {
                        td { (visible(id)) } td.n { (n) } td.n { (decided) }
                        td.n { @if *read > 0 { (format!("{:.3}", margin / *read as f64)) } @else { "none" } }
                    }
                }
            } }
        }
    }
}

/// The views behind labels that combine several, and who is missing from them.
fn views(judgments: &[Judgment]) -> Markup {
    let views = Views::of(judgments);
    html! {
        @if !views.is_empty() {
            h2 { "Views behind the labels" }
            p.soft { "Each label is the weighted mean, in log-odds, of these. A view whose mean |p − ½| is near 0 tells nothing apart; one that often leans against the label is outvoted." }
            @for line in views.absences() { p.failed { (visible(&line)) } }
            div.wide { table {
                tr { th { "judge" } th.l { "principle" } th { "views" } th { "read" } th { "mean |p − ½|" } th { "leans as the label" } }
                @for (judge, principle, view) in views.iter() {
                    tr {
                        td { (visible(judge)) } td { (visible(principle.unwrap_or(WHOLE))) }
                        td.n { (view.asked) } td.n { (view.read) }
                        td.n { @if let Some(margin) = view.margin() { (format!("{margin:.3}")) } @else { "none" } }
                        td.n { (view.followed) " of " (view.leaned) }
                    }
                }
            } }
        }
    }
}

/// The rows to show: what is not decided, the closest calls, and an even spread of the rest.
fn chosen_rows(judgments: &[Judgment]) -> Vec<&Judgment> {
    if judgments.len() <= MAX_CARDS {
        return judgments.iter().collect();
    }
    let mut picked = std::collections::BTreeSet::new();
    let undecided = (0..judgments.len()).filter(|i| judgments[*i].outcome != Outcome::Decided);
    picked.extend(undecided.take(MAX_UNDECIDED));
    let margin = |i: &usize| judgments[*i].p_first.get().map_or(1.0, |p| (p - 0.5).abs());
    let mut close: Vec<usize> = (0..judgments.len()).collect();
    close.sort_by(|a, b| margin(a).total_cmp(&margin(b)));
    picked.extend(close.into_iter().take(MAX_CARDS / 4));
    let open = MAX_CARDS.saturating_sub(picked.len());
    let step = (judgments.len() / open.max(1)).max(1);
    picked.extend((0..judgments.len()).step_by(step).take(open));
    picked.into_iter().map(|i| &judgments[i]).collect()
}

fn cards(judgments: &[Judgment]) -> Markup {
    let shown = chosen_rows(judgments);
    let ids: std::collections::BTreeSet<&str> = judgments
        .iter()
        .filter_map(|j| j.principle.as_deref())
        .collect();
    html! {
        h2 { "Labels" }
        @if shown.len() < judgments.len() {
            p.soft {
                (shown.len()) " of " (judgments.len()) " rows are on this page: up to " (MAX_UNDECIDED)
                " that are not decided, the " (MAX_CARDS / 4) " closest calls, and an even spread of the rest."
            }
        }
        div #controls .controls hidden {
            select #by-outcome aria-label="outcome" {
                option value="" { "every outcome" }
                @for o in Outcome::ALL { @if judgments.iter().any(|j| j.outcome == o) { option value=(o) { (o) } } }
            }
            @if !ids.is_empty() {
                select #by-principle aria-label="principle" {
                    option value="" { "every principle" }
                    @for id in &ids { option value=(id) { (visible(id)) } }
                }
            }
            select #by-agree aria-label="orders" {
                option value="" { "orders: any" }
                option value="yes" { "orders agree" }
                option value="no" { "orders disagree" }
            }
            select #by-sort aria-label="sort" {
                option value="" { "in the file's order" }
                option value="margin" { "closest calls first" }
                option value="-margin" { "surest first" }
            }
            input #by-text type="search" placeholder="search the text" aria-label="search";
            span #shown .soft {}
        }
        div #cards { @for j in shown { (card(j)) } }
    }
}

fn card(j: &Judgment) -> Markup {
    let first_wins = match (j.outcome, j.p_first.get()) {
        (Outcome::Decided, Some(p)) => Some(p > 0.5),
        _ => None,
    };
    let agree = match j.orders_agree {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    let margin = j.p_first.get().map_or(1.0, |p| (p - 0.5).abs());
    let side = |name: &str, body: &str, wins: bool| {
        html! {
            div.side.chosen[wins] {
                h4 { (name) @if wins { " · chosen" } }
                div.text { (visible(body)) }
            }
        }
    };
    html! {
        article.card data-outcome=(j.outcome) data-principle=(j.principle.as_deref().unwrap_or(""))
            data-agree=(agree) data-margin=(format!("{margin:.4}")) {
            header {
                span.badge.(j.outcome) { (j.outcome) }
                span { "p(first) " b { (format!("{:.3}", j.p_first)) } }
                @for o in &j.orders {
                    span { @if o.order == PresentationOrder::Given { "given " } @else { "swapped " } (format!("{:.3}", o.p_first)) }
                }
                @if j.orders_agree == Some(false) { span.badge { "orders disagree" } }
                @if let Some(s) = j.shortened {
                    span.badge { (format!("shown {:.0} % of each response", 100.0 * s.responses))
                        @if s.prompt < 1.0 { (format!(", {:.0} % of the prompt", 100.0 * s.prompt)) } }
                }
                @if let Some(principle) = &j.principle { span { (visible(principle)) } }
                span { (visible(&j.id)) }
            }
            div.prompt { div.text { (visible(&j.prompt.to_text())) } }
            div.sides {
                (side("first", &j.response_a, first_wins == Some(true)))
                (side("second", &j.response_b, first_wins == Some(false)))
            }
            @if !j.reason.is_empty() { p { b { "Why: " } (visible(&j.reason)) } }
            @if !j.opinions.is_empty() {
                details {
                    summary { (j.opinions.len()) " views" }
                    div.wide { table {
                        tr { th { "judge" } th.l { "principle" } th { "weight" } th { "p(first)" } th { "given, swapped" } }
                        @for o in &j.opinions {
                            tr {
                                td { (visible(o.judge.as_str())) } td { (visible(o.principle.as_deref().unwrap_or(WHOLE))) }
                                td.n { (format!("{:.2}", o.weight)) }
                                td.n { @if o.p_first.get().is_some() { (format!("{:.3}", o.p_first)) } @else { span.badge.(o.outcome) { (o.outcome) } } }
                                td.n { (o.orders.iter().map(|o| format!("{:.3}", o.p_first)).collect::<Vec<_>>().join(", ")) }
                            }
                        }
                    } }
                }
            }
            @if j.orders.iter().any(|o| !o.raw.is_empty() || o.error.is_some()) {
                details {
                    summary { "what the judge wrote" }
                    @for o in &j.orders {
                        div.text { (visible(&o.raw)) }
                        @if let Some(error) = &o.error { div.text.failed { (visible(error)) } }
                    }
                }
            }
        }
    }
}

fn revisions(all: &[Revision]) -> Markup {
    let decided: Vec<&Revision> = all
        .iter()
        .filter(|r| r.outcome == Outcome::Decided)
        .collect();
    let flagged = decided.iter().filter(|r| !r.flags.is_empty()).count();
    html! {
        h2 { "Critiques and revisions" }
        p.soft {
            (decided.len()) " of " (all.len()) " revisions came; " (flagged)
            " are flagged (they change nothing, repeat the critique, or are empty). "
            @if decided.len() > MAX_REVISIONS { "The first " (MAX_REVISIONS) " are shown." }
        }
        @for r in decided.iter().take(MAX_REVISIONS) {
            article.card {
                header {
                    span { "step " (r.step + 1) }
                    @for p in &r.principles { span { (visible(p)) } }
                    @for f in &r.flags { span.badge.failed { (text::flag(*f)) } }
                    @if let Some(s) = r.similarity { span { (format!("{:.0} % of words in common", 100.0 * s)) } }
                }
                div.prompt { div.text { (visible(&r.prompt.to_text())) } }
                (diff(&r.original, &r.text))
                details { summary { "the critique" } div.text { (visible(&r.critique)) } }
            }
        }
    }
}

#[cfg(test)]
mod tests;
