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

fn lengths(prompts: &[Prompt<'_>], own: &[usize]) -> Markup {
    let share = |n: usize, all: usize| match all {
        0 => "–".to_owned(),
        all => format!("{:.0} %", 100.0 * n as f64 / all as f64),
    };
    let new = |at: usize| prompts.iter().filter(|p| bin(p.words) == at).count();
    let old = |at: usize| own.iter().filter(|w| bin(**w) == at).count();
    html! {
        h2 { "Lengths" }
        div.wide { table {
            tr { th { "words" } th { "new" } th { "yours" } }
            @for (i, from) in LENGTHS.iter().enumerate() {
                tr {
                    td { @match LENGTHS.get(i + 1) { Some(to) => (format!("{from} to {}", to - 1)), None => (format!("{from} and more")) } }
                    td.n { (share(new(i), prompts.len())) } td.n { (share(old(i), own.len())) }
                }
            }
        } }
    }
}

fn counted(title: &str, counts: &BTreeMap<String, usize>) -> Markup {
    let mut sorted: Vec<(&String, &usize)> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1));
    html! {
        @if !sorted.is_empty() {
            h2 { (title) }
            div.wide { table {
                @for (name, n) in sorted.iter().take(MAX_TOPICS) { tr { td { (visible(name)) } td.n { (n) } } }
            } }
            @if sorted.len() > MAX_TOPICS { p.soft { (sorted.len() - MAX_TOPICS) " more" } }
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
    let mut topics: BTreeMap<String, usize> = BTreeMap::new();
    let mut difficulty: BTreeMap<String, usize> = BTreeMap::new();
    for p in prompts {
        if let Some(topic) = p.topic {
            *topics.entry(topic.to_owned()).or_default() += 1;
        }
        if let Some(d) = p.difficulty {
            *difficulty.entry(format!("{d} of 5")).or_default() += 1;
        }
    }
    let body = html! {
        div.figures { @for (name, n) in counts { (figure(&n.to_string(), name, "")) } }
        (lengths(prompts, own))
        (counted("Topics", &topics))
        (counted("Difficulty, by the model that was asked", &difficulty))
        h2 { "Prompts" }
        @if prompts.len() > MAX_SHOWN { p.soft { "The first " (MAX_SHOWN) " of " (prompts.len()) "." } }
        @for p in prompts.iter().take(MAX_SHOWN) {
            article.card {
                @if p.topic.is_some() || p.difficulty.is_some() || p.nearest.is_some() {
                    header {
                        @if let Some(topic) = p.topic { span { (visible(topic)) } }
                        @if let Some(d) = p.difficulty { span { "difficulty " (d) } }
                        @if let Some(n) = p.nearest { span { "nearest " (format!("{n:.2}")) } }
                    }
                }
                div.text { (visible(p.text)) }
            }
        }
    };
    shell(title, &body)
}
