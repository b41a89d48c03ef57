//! What lets through a prompt that is new, in its words and, where vectors are had, in its meaning.

use std::collections::BTreeMap;

use rlaif_core::{Candidate, Outcome};
use rlaif_feedback::synth::{Meanings, Seen, is_refusal, items};
use serde::Serialize;

/// What became of all that was written.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    pub written: usize,
    pub kept: usize,
    pub copies_of_own: usize,
    pub near_duplicates: usize,
    /// Copies of the user's prompts, and of each other, in other words.
    pub copies_of_own_in_meaning: usize,
    pub duplicates_in_meaning: usize,
    /// Left out because no vector came to compare them by.
    pub not_compared: usize,
    pub refusals: usize,
    /// Answers without a list.
    pub answers_without_list: usize,
    /// Answers that did not come, by outcome.
    pub failed_answers: BTreeMap<&'static str, usize>,
    /// Topic and difficulty asked for and not readable.
    pub unrated: usize,
}

pub(super) struct Sieve {
    own: Seen,
    new: Seen,
    own_meanings: Meanings,
    new_meanings: Meanings,
    similar: f32,
}

impl Sieve {
    /// `duplicate` is the share of word triples from which on two prompts are near-duplicates,
    /// `similar` the cosine.
    pub fn new(own: &[String], duplicate: f64, similar: f32) -> Self {
        let mut seen = Seen::new(duplicate);
        for prompt in own {
            seen.insert(prompt);
        }
        Sieve {
            own: seen,
            new: Seen::new(duplicate),
            own_meanings: Meanings::default(),
            new_meanings: Meanings::default(),
            similar,
        }
    }

    /// Remembers what one of the user's prompts means.
    pub fn own_meaning(&mut self, vector: &[f32]) {
        self.own_meanings.insert(vector);
    }

    /// The prompts of an answer that are new in their words.
    pub fn by_words(&mut self, answer: Option<&Candidate>, counts: &mut Counts) -> Vec<String> {
        let outcome = answer.map_or(Outcome::NotRun, |a| a.outcome);
        let Some(answer) = answer.filter(|_| outcome == Outcome::Decided) else {
            *counts.failed_answers.entry(outcome.as_str()).or_default() += 1;
            return Vec::new();
        };
        let list = items(&answer.completion);
        if list.is_empty() {
            if is_refusal(&answer.completion) {
                counts.refusals += 1;
            } else {
                counts.answers_without_list += 1;
            }
        }
        let mut through = Vec::new();
        for text in list {
            counts.written += 1;
            if is_refusal(&text) {
                counts.refusals += 1;
            } else if self.own.find(&text).is_some() {
                counts.copies_of_own += 1;
            } else if self.new.find(&text).is_some() {
                counts.near_duplicates += 1;
            } else {
                self.new.insert(&text);
                through.push(text);
            }
        }
        through
    }

    /// Whether a prompt is new in its meaning: then the cosine to its nearest neighbor, where there
    /// is one.
    pub fn by_meaning(&mut self, vector: &[f32], counts: &mut Counts) -> Option<Option<f32>> {
        let own = self.own_meanings.nearest(vector);
        let new = self.new_meanings.nearest(vector);
        if own.is_some_and(|c| c >= self.similar) {
            counts.copies_of_own_in_meaning += 1;
            return None;
        }
        if new.is_some_and(|c| c >= self.similar) {
            counts.duplicates_in_meaning += 1;
            return None;
        }
        self.new_meanings.insert(vector);
        Some(own.into_iter().chain(new).reduce(f32::max))
    }
}
