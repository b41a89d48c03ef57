//! The page on which to look at new prompts.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::text::visible;
use super::{figure, shell};

/// Prompts on one page.
const MAX_SHOWN: usize = 500;
/// Topics in the table.
const MAX_TOPICS: usize = 60;
/// Lower ends of the bins of lengths, in words.
const LENGTHS: [usize; 6] = [0, 6, 11, 21, 41, 81];

/// A new prompt.
pub struct Prompt<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its topic, where there is one.
    pub topic: Option<&'a str>,
    /// From 1 to 5, by the model that was asked.
    pub difficulty: Option<u8>,
    /// Words.
    pub words: usize,
    /// Cosine to its nearest neighbor, where prompts were compared by meaning.
    pub nearest: Option<f32>,
}

fn bin(words: usize) -> usize {
    LENGTHS
        .partition_point(|from| *from <= words)
        .saturating_sub(1)
}

/// A bar as long as its share of the longest one.
fn bar(n: usize, longest: usize, other: bool) -> Markup {
    let width = 100.0 * n as f64 / longest.max(1) as f64;
    html! { i.other[other] style=(format!("width:{width:.1}%")) {} }
}

/// Lengths of the new prompts above those of the user's own, in shares: there are more of the one.
fn lengths(prompts: &[Prompt<'_>], own: &[usize]) -> Markup {
    let thousandths = |n: usize, all: usize| (1000 * n).checked_div(all).unwrap_or(0);
    let share = |n: usize| format!("{:.0} %", n as f64 / 10.0);
    let rows: Vec<(String, usize, usize)> = LENGTHS
        .iter()
        .enumerate()
        .map(|(i, from)| {
            let name = match LENGTHS.get(i + 1) {
                Some(to) => format!("{from} to {}", to - 1),
                None => format!("over {}", from - 1),
            };
            let new = prompts.iter().filter(|p| bin(p.words) == i).count();
            let old = own.iter().filter(|w| bin(**w) == i).count();
            (
                name,
                thousandths(new, prompts.len()),
                thousandths(old, own.len()),
            )
        })
        .collect();
    let longest = rows.iter().map(|(_, a, b)| *a.max(b)).max().unwrap_or(0);
    html! {
        figure {
            table.bars {
                tr { th { "words" } th {} th { "new" } th { "yours" } }
                @for (name, new, old) in &rows {
                    tr {
                        td { (name) } td.track { (bar(*new, longest, false)) (bar(*old, longest, true)) }
                        td.n { (share(*new)) } td.n { (share(*old)) }
                    }
                }
            }
            figcaption { "Length in words; the pale bars are your own prompts." }
        }
    }
}

fn counted(counts: &[(String, usize)], caption: &str) -> Markup {
    let longest = counts.iter().map(|(_, n)| *n).max().unwrap_or(0);
    html! {
        @if longest > 0 {
            figure {
                table.bars {
                    @for (name, n) in counts.iter().take(MAX_TOPICS) {
                        tr { td { (visible(name)) } td.track { (bar(*n, longest, false)) } td.n { (n) } }
                    }
                }
                @if counts.len() > MAX_TOPICS { p.soft { (counts.len() - MAX_TOPICS) " more" } }
                figcaption { (caption) }
            }
        }
    }
}

fn controls(prompts: &[Prompt<'_>], topics: &[(String, usize)]) -> Markup {
    let has = |of: &dyn Fn(&Prompt<'_>) -> bool| prompts.iter().any(of);
    html! {
        div #controls .controls hidden {
            @if topics.len() > 1 {
                select #by-topic aria-label="topic" {
                    option value="" { "every topic" }
                    @for (topic, n) in topics { option value=(topic) { (visible(topic)) " (" (n) ")" } }
                }
            }
            @if has(&|p| p.difficulty.is_some()) {
                select #by-difficulty aria-label="difficulty" {
                    option value="" { "any difficulty" }
                    @for d in 1..=5 { option value=(d) { "difficulty " (d) } }
                }
            }
            select #by-sort aria-label="sort" {
                option value="" { "as they were written" }
                option value="-words" { "longest first" }
                option value="words" { "shortest first" }
                @if has(&|p| p.nearest.is_some()) { option value="-nearest" { "least new first" } }
            }
            input #by-text type="search" placeholder="search the text" aria-label="search";
            span #shown .soft {}
        }
    }
}

fn card(p: &Prompt<'_>) -> Markup {
    let difficulty = p.difficulty.map(|d| d.to_string()).unwrap_or_default();
    html! {
        article.card.slim data-topic=(p.topic.unwrap_or("")) data-difficulty=(difficulty)
            data-words=(p.words) data-nearest=(p.nearest.unwrap_or(0.0)) {
            header {
                @if let Some(topic) = p.topic { span { (visible(topic)) } }
                @if let Some(d) = p.difficulty { span { "difficulty " (d) } }
                @if let Some(n) = p.nearest { span { "nearest " (format!("{n:.2}")) } }
                span { (p.words) " words" }
            }
            div.text { (visible(p.text)) }
        }
    }
}

/// The page. `counts` says what became of all that was written; `own` are the words of each of the
/// user's prompts.
#[must_use]
pub fn page(
    title: &str,
    prompts: &[Prompt<'_>],
    counts: &[(String, usize)],
    own: &[usize],
) -> String {
    let mut by_topic: BTreeMap<String, usize> = BTreeMap::new();
    for topic in prompts.iter().filter_map(|p| p.topic) {
        *by_topic.entry(topic.to_owned()).or_default() += 1;
    }
    let mut topics: Vec<(String, usize)> = by_topic.into_iter().collect();
    topics.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let of = |d: u8| prompts.iter().filter(|p| p.difficulty == Some(d)).count();
    let difficulty: Vec<(String, usize)> = (1..=5).map(|d| (format!("{d} of 5"), of(d))).collect();
    // Of what may go wrong, only what did; what was written and kept in any case.
    let told = counts
        .iter()
        .enumerate()
        .filter(|(i, (_, n))| *i < 2 || *n > 0);
    let body = html! {
        div.figures { @for (_, (name, n)) in told { (figure(&n.to_string(), name, "")) } }
        h2 { "What they are like" }
        div.plots {
            (lengths(prompts, own))
            (counted(&difficulty, "Difficulty, in the opinion of the model that was asked."))
            (counted(&topics, "Prompts by topic."))
        }
        h2 { "Prompts" }
        @if prompts.len() > MAX_SHOWN { p.soft { "The first " (MAX_SHOWN) " of " (prompts.len()) "." } }
        (controls(&prompts[..prompts.len().min(MAX_SHOWN)], &topics))
        div #cards { @for p in prompts.iter().take(MAX_SHOWN) { (card(p)) } }
    };
    shell(title, &body)
}
