//! What a judge's answers say of some choices: probabilities, or counts of answers, and what of it
//! could not be read. Comparisons and scores are had alike.

use std::sync::Arc;

use rlaif_core::choice::read_choice;
use rlaif_core::{
    ChoiceRequest, Evidence, Message, Model, Outcome, Sampling, Usage, Verdict, parse_preference,
};

use crate::ask;
use crate::combine::laplace;
use crate::error::FeedbackError;
use crate::shorten::TooLong;
use crate::template::{Template, VerdictForm};

/// How a verdict is asked for.
pub(crate) struct Asking<'a> {
    pub model: &'a Model,
    pub template: &'a Template,
    /// Spellings of what may be answered.
    pub choices: &'a [Vec<String>],
    /// Stage, row and what the call is for: names it in the journal, and derives its seed.
    pub stage: &'a str,
    pub row: &'a str,
    pub what: String,
    pub seed: u64,
    /// Most tokens of a written answer.
    pub tokens: u32,
    pub temperature: f32,
    pub retries: u32,
}

/// One answer, read.
enum Read {
    /// Probabilities of the choices.
    Masses(Vec<f64>),
    /// Counts of answers: 1 for one answer, a part of it each where it stands between two.
    Counts(Vec<f64>),
    /// The judge calls a tie that it was not offered.
    Tie,
}

/// What the answers came to.
#[derive(Default)]
pub(crate) struct Reading {
    /// P of each choice, summing to 1 with `unoffered_tie`; empty unless decided.
    pub p: Vec<f64>,
    /// P(a tie that was not offered).
    pub unoffered_tie: f64,
    pub off_choice_mass: Option<f32>,
    pub evidence: Option<Evidence>,
    pub outcome: Option<Outcome>,
    pub raw: Vec<String>,
    pub reasoning: Vec<String>,
    pub error: Option<String>,
    /// What was sent did not fit the model.
    pub too_long: Option<TooLong>,
    pub usage: Usage,
    reads: Vec<Read>,
    off: Vec<f32>,
    failed: Option<(Outcome, Option<String>)>,
    unread: u32,
}

impl Asking<'_> {
    /// Asks for one verdict, again where it cannot be read and there are retries, and adds it.
    pub(crate) async fn ask(
        &self,
        messages: &[Message],
        greedy: bool,
        into: &mut Reading,
    ) -> Result<(), FeedbackError> {
        let mut tokens = self.tokens;
        let mut last = None;
        for attempt in 0..=self.retries {
            // A greedy answer that cannot be read comes again; only a sampled one can differ.
            let scored = self.template.verdict() == VerdictForm::Scored && greedy && attempt == 0;
            let what = match attempt {
                0 => self.what.clone(),
                n => format!("{}, attempt {}", self.what, n + 1),
            };
            let cx = ask::context(self.stage, self.row, 0, self.seed, &what);
            let sampling = Sampling {
                temperature: if greedy && attempt == 0 {
                    0.0
                } else {
                    self.temperature
                },
                max_new_tokens: tokens,
                ..Sampling::default()
            };
            let answer = if scored {
                match self.score(messages, &cx, into).await? {
                    None => return Ok(()),
                    Some(failed) => failed,
                }
            } else {
                ask::sample(self.model, messages.to_vec(), &sampling, &cx).await?
            };
            into.usage.add(&answer.usage);
            into.keep(&answer.text, &answer.reasoning);
            into.note_length(&answer, messages);
            let read = self.read(&answer.text);
            match (answer.outcome, read) {
                (Outcome::Decided | Outcome::Unparseable, Some(read)) => {
                    into.reads.push(read);
                    return Ok(());
                }
                (Outcome::Decided, None) if answer.cut => {
                    let why = format!("the verdict was cut off at {tokens} tokens");
                    last = Some((Outcome::Truncated, Some(why)));
                }
                (Outcome::Decided, None) => {
                    let why = "no verdict could be read from the answer".to_owned();
                    last = Some((Outcome::Unparseable, Some(why)));
                }
                (outcome, _) => last = Some((outcome, answer.error)),
            }
            match last {
                Some((Outcome::Truncated, _)) => tokens = tokens.saturating_mul(2),
                Some((Outcome::Unparseable, _)) => {}
                // A refusal stands, and a failed call was made again by the client.
                _ => break,
            }
        }
        into.unread += 1;
        if into.failed.is_none() {
            into.failed = last;
        }
        Ok(())
    }

    /// Scores the choices; a failure is returned as an answer.
    async fn score(
        &self,
        messages: &[Message],
        cx: &rlaif_core::CallContext,
        into: &mut Reading,
    ) -> Result<Option<ask::Answer>, FeedbackError> {
        let (messages, prefill) = ask::with_prefill(messages.to_vec());
        let request = ChoiceRequest {
            messages: Arc::from(messages),
            prefill,
            choices: self.choices.to_vec(),
        };
        let scored = match self.model.choice_logprobs(&request, cx).await {
            Ok(scored) => scored,
            Err(error) => return ask::outcome_of(error).map(Some),
        };
        into.usage.add(&scored.usage);
        into.keep(
            &scored.text,
            scored.reasoning.as_deref().unwrap_or_default(),
        );
        let p: Vec<f64> = scored
            .logprobs
            .iter()
            .map(|lp| f64::from(*lp).exp())
            .collect();
        let total: f64 = p.iter().sum();
        if p.len() != self.choices.len() || !(total > 0.0 && total.is_finite()) {
            let why = format!("the model gave {:?} as log-probabilities", scored.logprobs);
            into.failed.get_or_insert((Outcome::Unparseable, Some(why)));
            into.unread += 1;
            return Ok(None);
        }
        into.off.push(scored.off_choice_mass);
        into.evidence.get_or_insert(scored.evidence);
        into.reads.push(match scored.evidence {
            // Smoothed already, once an answer: the counts are taken back, so that several
            // answers are smoothed together and not each by itself.
            Evidence::Sampled { draws } => {
                let n = f64::from(draws) + p.len() as f64;
                Read::Counts(p.iter().map(|p| (p / total * n - 1.0).max(0.0)).collect())
            }
            _ => Read::Masses(p.iter().map(|p| p / total).collect()),
        });
        Ok(None)
    }

    /// Reads an answer's words.
    fn read(&self, text: &str) -> Option<Read> {
        let verdict = self.template.verdict_in(text)?;
        let count = |at: usize| {
            let mut counts = vec![0.0; self.choices.len()];
            counts[at] = 1.0;
            Read::Counts(counts)
        };
        if let Some(scale) = self.template.scale() {
            let from = scale.from as f64;
            if let Ok(score) = verdict.trim().parse::<f64>() {
                // A number out of bounds is no score: it is not moved to the nearest one.
                let at = score - from;
                if !(at >= 0.0 && score <= scale.to as f64) {
                    return None;
                }
                let (low, part) = (at.floor() as usize, at.fract());
                let mut counts = vec![0.0; self.choices.len()];
                counts[low] = 1.0 - part;
                if part > 0.0 {
                    counts[low + 1] = part;
                }
                return Some(Read::Counts(counts));
            }
            return read_choice(verdict, self.choices).map(count);
        }
        let bare = |s: &str| s.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
        let spelled = |choice: &Vec<String>| choice.iter().any(|s| bare(s) == verdict);
        let found = match verdict.len() == text.len() {
            true => read_choice(text, self.choices),
            // The pattern has cut it out: it is one of the choices or nothing.
            false => self.choices.iter().position(spelled),
        };
        match found {
            Some(at) => Some(count(at)),
            None if parse_preference(verdict) == Verdict::Tie => Some(Read::Tie),
            None => None,
        }
    }
}

impl Reading {
    /// Notes a call that failed before any verdict was asked for, by what was sent.
    pub(crate) fn fail(&mut self, answer: ask::Answer, sent: &[Message]) {
        self.note_length(&answer, sent);
        self.usage.add(&answer.usage);
        self.keep(&answer.text, &answer.reasoning);
        self.unread += 1;
        self.failed.get_or_insert((answer.outcome, answer.error));
    }

    fn note_length(&mut self, answer: &ask::Answer, sent: &[Message]) {
        let Some((tokens, limit)) = answer.too_long else {
            return;
        };
        self.too_long.get_or_insert(TooLong {
            tokens,
            limit,
            sent: sent.iter().map(|m| m.content.chars().count()).sum(),
        });
    }

    fn keep(&mut self, text: &str, reasoning: &str) {
        for (kept, text) in [(&mut self.raw, text), (&mut self.reasoning, reasoning)] {
            if !text.is_empty() {
                kept.push(text.to_owned());
            }
        }
    }

    /// Makes one distribution of all answers: probabilities are averaged (Lee et al. 2023,
    /// appendix M), counts are summed, and Laplace-smoothed where `smooth` says so (a mean score
    /// would be pulled to the middle of its scale by it). Answers that could not be read count
    /// as mass off the choices; where none could, the first one's outcome stands.
    pub(crate) fn finish(mut self, n: usize, smooth: bool) -> Self {
        let reads = std::mem::take(&mut self.reads);
        if reads.is_empty() {
            let (outcome, error) = self.failed.take().unwrap_or((Outcome::Failed, None));
            (self.outcome, self.error) = (Some(outcome), error);
            self.evidence = None;
            return self;
        }
        let answers = reads.len() as f64;
        let ties = reads.iter().filter(|r| matches!(r, Read::Tie)).count() as f64;
        let counted = reads.iter().any(|r| !matches!(r, Read::Masses(_)));
        let mut sums = vec![0.0; n];
        for read in &reads {
            if let Read::Masses(p) | Read::Counts(p) = read {
                sums.iter_mut().zip(p).for_each(|(sum, p)| *sum += p);
            }
        }
        if counted {
            if ties > 0.0 {
                sums.push(ties);
            }
            let draws = sums.iter().sum::<f64>().round() as u32;
            sums = match smooth {
                true => laplace(&sums),
                false => {
                    let total: f64 = sums.iter().sum();
                    sums.iter().map(|c| c / total).collect()
                }
            };
            if ties > 0.0 {
                self.unoffered_tie = sums.pop().unwrap_or_default();
            }
            self.evidence = Some(Evidence::Sampled { draws });
        } else {
            sums.iter_mut().for_each(|p| *p /= answers);
        }
        let unread = self.unread as f32 / (self.unread as f32 + reads.len() as f32);
        let off = self.off.iter().sum::<f32>() / self.off.len().max(1) as f32;
        self.off_choice_mass = Some(unread + (1.0 - unread) * off);
        self.p = sums;
        self.outcome = Some(Outcome::Decided);
        self
    }
}
