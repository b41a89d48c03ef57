//! Revisions: the policy rewrites its response in the light of a critique (Bai et al. 2022, §3.1).

use std::collections::BTreeSet;

use minijinja::context;
use rlaif_core::record::RevisionFlag;
use rlaif_core::{Constitution, Critique, Model, Outcome, Principle, Revision, Sampling, seed};
use serde::{Deserialize, Serialize};

use crate::ask;
use crate::critique::{critique_request, few_shots, provenance};
use crate::error::FeedbackError;
use crate::template::{Inserts, Purpose, Template, conversation, fence};

/// How to revise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReviseConfig {
    /// Name of a model in the recipe.
    pub model: String,
    /// `cai`, or the path of a template file.
    pub template: String,
    /// Length of the chain of critiques and revisions, from 1 to 16.
    pub steps: u32,
    /// How many worked conversations of the constitution are shown first.
    pub few_shots: usize,
    /// How the policy samples.
    pub sampling: Sampling,
}

impl Default for ReviseConfig {
    fn default() -> Self {
        ReviseConfig {
            model: "policy".into(),
            template: "cai".into(),
            steps: 1,
            few_shots: 1,
            sampling: Sampling {
                temperature: 0.7,
                max_new_tokens: 512,
                ..Sampling::default()
            },
        }
    }
}

/// Everything a revision needs beside the item.
pub struct Reviser {
    /// The policy.
    pub model: Model,
    /// The principles.
    pub constitution: Constitution,
    /// The checked template.
    pub template: Template,
    /// How to revise.
    pub config: ReviseConfig,
    /// The run's seed.
    pub seed: u64,
}

/// Revises the response that a critique is about.
///
/// # Errors
/// [`FeedbackError::NoCritique`] where the critique failed, [`FeedbackError::Template`], or
/// [`FeedbackError::Stop`]. A revision that fails is a record whose `outcome` says how.
pub async fn revise(reviser: &Reviser, critique: &Critique) -> Result<Revision, FeedbackError> {
    if critique.outcome != Outcome::Decided {
        return Err(FeedbackError::NoCritique {
            outcome: critique.outcome,
        });
    }
    let (id, step) = (critique.id.as_str(), critique.step);
    let item_seed = seed::derive(reviser.seed, &["revise", id, &step.to_string()]);
    let principles: Vec<&Principle> = critique
        .principles
        .iter()
        .filter_map(|id| reviser.constitution.get(id))
        .collect();
    let only = principles
        .first()
        .copied()
        .filter(|_| principles.len() == 1);
    let shots = few_shots(
        &reviser.constitution,
        only,
        reviser.config.few_shots,
        6,
        item_seed,
    );
    let talk = conversation(&critique.prompt, &critique.response);
    let prompt_text = critique.prompt.to_text();
    let messages = reviser.template.render(
        context! {
            prompt => &prompt_text,
            response => &critique.response,
            critique_request => critique_request(&principles),
            critique => with_suggestions(critique),
            revision_request => revision_request(&principles),
            fence => fence(&[&prompt_text, &critique.response, &critique.text]),
        },
        &Inserts {
            conversation: &talk,
            few_shots: &shots,
            judged: &[],
        },
    )?;
    let cx = ask::context("revise", id, step, reviser.seed, "revise");
    let answer = ask::sample(&reviser.model, messages, &reviser.config.sampling, &cx).await?;
    let decided = answer.outcome == Outcome::Decided;
    let text = if decided {
        strip_label(&answer.text).to_owned()
    } else {
        String::new()
    };
    Ok(Revision {
        id: id.to_owned(),
        step,
        prompt: critique.prompt.clone(),
        original: critique.response.clone(),
        similarity: decided.then(|| similarity(&critique.response, &text)),
        flags: if decided {
            flags(critique, &text)
        } else {
            Vec::new()
        },
        text,
        critique: critique.text.clone(),
        principles: critique.principles.clone(),
        outcome: answer.outcome,
        error: answer.error,
        cost: (&answer.usage).into(),
        provenance: provenance(
            &reviser.model,
            &reviser.config.sampling,
            &reviser.template,
            &reviser.constitution,
            item_seed,
            answer.usage,
        ),
    })
}

/// One principle's request as it is; several as a list, so that each is heeded.
fn revision_request(principles: &[&Principle]) -> String {
    match principles {
        [only] => only.revision.trim().to_owned(),
        many => {
            let list: Vec<String> = many
                .iter()
                .map(|p| format!("- {}", p.revision.trim()))
                .collect();
            format!(
                "Revise the response so that all of this is met:\n{}",
                list.join("\n")
            )
        }
    }
}

/// The critique with its suggestions, where it listed them apart.
fn with_suggestions(critique: &Critique) -> String {
    if critique.suggestions.is_empty() {
        return critique.text.clone();
    }
    let list: Vec<String> = critique
        .suggestions
        .iter()
        .map(|s| format!("- {s}"))
        .collect();
    format!("{}\n\nSuggestions:\n{}", critique.text, list.join("\n"))
}

/// Drops the label that models put before what they were asked for.
fn strip_label(text: &str) -> &str {
    let labels = [
        "revised response:",
        "revision:",
        "rewritten response:",
        "here is the revised response:",
    ];
    let bare = text.trim_start_matches(|c: char| c.is_whitespace() || c == '*');
    for label in labels {
        if bare
            .get(..label.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(label))
        {
            let rest =
                bare[label.len()..].trim_start_matches(|c: char| c.is_whitespace() || c == '*');
            if !rest.is_empty() {
                return rest;
            }
        }
    }
    text
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Jaccard index of the sets of distinct lower-case words, in [0, 1]; 1 for two texts without
/// words.
///
/// ```
/// // {a, b} and {b, c}: one word shared of three.
/// assert_eq!(rlaif_feedback::revise::similarity("a b", "B c"), 1.0 / 3.0);
/// ```
#[must_use]
pub fn similarity(a: &str, b: &str) -> f64 {
    let (a, b) = (words(a), words(b));
    let union = a.union(&b).count();
    if union == 0 {
        1.0
    } else {
        a.intersection(&b).count() as f64 / union as f64
    }
}

fn flags(critique: &Critique, revision: &str) -> Vec<RevisionFlag> {
    let normal = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut flags = Vec::new();
    if normal(revision) == normal(&critique.response) {
        flags.push(RevisionFlag::Unchanged);
    }
    // Four fifths of all words shared with the critique, and closer to it than to the response.
    let to_critique = similarity(&critique.text, revision);
    if to_critique >= 0.8 && to_critique > similarity(&critique.response, revision) {
        flags.push(RevisionFlag::RepeatsCritique);
    }
    if words(revision).is_empty() {
        flags.push(RevisionFlag::Empty);
    }
    if declines(revision) && !declines(&critique.response) {
        flags.push(RevisionFlag::Refusal);
    }
    flags
}

/// True for a text that opens by declining to answer. Told by the words that assistants open a
/// refusal with; a refusal in other words, or in another language, is not seen.
fn declines(text: &str) -> bool {
    const OPENINGS: [&str; 12] = [
        "i can't help",
        "i cannot help",
        "i can't assist",
        "i cannot assist",
        "i can't provide",
        "i cannot provide",
        "i can't fulfill",
        "i cannot fulfill",
        "i won't",
        "i'm not able to help",
        "i am not able to help",
        "i must decline",
    ];
    const BEFORE: [&str; 6] = [
        "i'm sorry",
        "i am sorry",
        "sorry",
        "i apologize",
        "but",
        "unfortunately",
    ];
    let text = text.to_lowercase().replace('\u{2019}', "'");
    let mut rest = text.trim_start();
    // "I'm sorry, but I can't help": what is said before is passed over.
    while let Some(next) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = next.trim_start_matches(|c: char| c.is_whitespace() || ",.;:!".contains(c));
    }
    OPENINGS.iter().any(|opening| rest.starts_with(opening))
}

/// The shipped template that a configuration names, for callers without files.
///
/// # Errors
/// [`FeedbackError::Template`].
pub fn shipped(config: &ReviseConfig) -> Result<Template, FeedbackError> {
    Template::shipped(&config.template, Purpose::Revise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_dropped_and_words_kept() {
        assert_eq!(strip_label("**Revised response:** Hello."), "Hello.");
        assert_eq!(
            strip_label("Revision of plans is hard."),
            "Revision of plans is hard."
        );
        assert_eq!(strip_label("Revision:"), "Revision:");
    }

    #[test]
    fn a_refusal_is_told_by_how_it_opens() {
        for text in [
            "I'm sorry, but I can\u{2019}t help with that.",
            "I cannot assist with this request.",
            "Unfortunately, I must decline.",
        ] {
            assert!(declines(text), "{text}");
        }
        for text in [
            "Sorry to hear that! Here is what to do.",
            "I can't recommend the first, so take the second.",
            "Lock the door; I won't say it twice.",
            "",
        ] {
            assert!(!declines(text), "{text}");
        }
    }
}
