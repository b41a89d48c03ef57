//! Critiques: a critic reads a response by one principle or by all, and says what to change.
//!
//! Source: Bai et al. 2022, §3.1. The template `cai` is the paper's form (one principle drawn for
//! the item, free text); `structured` asks for grades as well, which larger critics keep to; `json`
//! asks for the same as JSON, by `response_format` where the endpoint takes that.

use std::sync::Arc;

use minijinja::context;
use rlaif_core::record::Adherence;
use rlaif_core::{
    Constitution, Critique, Message, Model, Outcome, Principle, Prompt, Provenance, Rater,
    Sampling, Usage, seed,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::VERSION;
use crate::ask;
use crate::error::FeedbackError;
use crate::template::{Inserts, Purpose, Template, conversation, fence};

/// Which principles an item is held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One, drawn for the item by weight (Bai et al. 2022).
    #[default]
    Sampled,
    /// The whole constitution, in one question.
    #[serde(alias = "all")]
    Whole,
}

/// How to critique.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CritiqueConfig {
    /// Name of a model in the recipe.
    pub model: String,
    /// `structured`, `json` (held to a JSON Schema where the endpoint can be), `cai`, or the path of a
    /// template file.
    pub template: String,
    /// `sampled` or `whole`.
    pub principles: Scope,
    /// How many worked conversations of the constitution are shown first (template `cai`).
    pub few_shots: usize,
    /// How the critic samples.
    pub sampling: Sampling,
}

impl Default for CritiqueConfig {
    fn default() -> Self {
        CritiqueConfig {
            model: "critic".into(),
            template: "structured".into(),
            principles: Scope::Whole,
            few_shots: 1,
            sampling: Sampling {
                temperature: 0.0,
                max_new_tokens: 512,
                ..Sampling::default()
            },
        }
    }
}

/// Everything a critique needs beside the item.
pub struct Critic {
    /// The critic.
    pub model: Model,
    /// The principles.
    pub constitution: Constitution,
    /// The checked template.
    pub template: Template,
    /// How to critique.
    pub config: CritiqueConfig,
    /// The run's seed.
    pub seed: u64,
}

/// Worked conversations for one item, cut to `turns` messages each: the critique's end at the
/// critique (4), the revision's at the revision (6).
pub(crate) fn few_shots(
    constitution: &Constitution,
    principle: Option<&Principle>,
    n: usize,
    turns: usize,
    item_seed: u64,
) -> Vec<Message> {
    let own = principle.map(|p| p.examples.as_slice()).unwrap_or_default();
    let pool: Vec<&Vec<Message>> = own.iter().chain(&constitution.few_shots).collect();
    let Some(start) = seed::index(seed::derive(item_seed, &["few_shots"]), pool.len()) else {
        return Vec::new();
    };
    // The principle's own examples come first where there are any; else a run of the pool from a
    // drawn place, so that no single example colors all rows.
    let start = if own.is_empty() { start } else { 0 };
    pool.iter()
        .cycle()
        .skip(start)
        .take(n.min(pool.len()))
        .flat_map(|chat| chat.iter().take(turns).cloned())
        .collect()
}

impl Critic {
    /// Principles for an item: the drawn one, or all.
    fn principles(&self, item_seed: u64) -> Vec<&Principle> {
        match self.config.principles {
            Scope::Sampled => {
                vec![
                    self.constitution
                        .draw(seed::derive(item_seed, &["principle"])),
                ]
            }
            Scope::Whole => self.constitution.principles.iter().collect(),
        }
    }
}

/// The principles as a template sees them: a list of `{id, critique}`.
fn listed(principles: &[&Principle]) -> minijinja::Value {
    principles
        .iter()
        .map(|p| {
            minijinja::Value::from_pairs([
                ("id", minijinja::Value::from(p.id.as_str())),
                ("critique", minijinja::Value::from(p.critique.trim())),
            ])
        })
        .collect()
}

/// The critique request of one principle, or of several in one turn.
pub(crate) fn critique_request(principles: &[&Principle]) -> String {
    principles
        .iter()
        .map(|p| p.critique.trim())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Critiques one response. `id` names the row; `step` counts from 0 in a chain.
///
/// # Errors
/// [`FeedbackError::Template`], or [`FeedbackError::Stop`] where asking on is useless. A critique
/// that fails is a record whose `outcome` says how.
pub async fn critique(
    critic: &Critic,
    id: &str,
    step: u32,
    prompt: &Prompt,
    response: &str,
) -> Result<Critique, FeedbackError> {
    let item_seed = seed::derive(critic.seed, &["critique", id, &step.to_string()]);
    let principles = critic.principles(item_seed);
    let prompt_text = prompt.to_text();
    let mark = fence(&[&prompt_text, response]);
    let only = principles
        .first()
        .copied()
        .filter(|_| principles.len() == 1);
    let shots = few_shots(
        &critic.constitution,
        only,
        critic.config.few_shots,
        4,
        item_seed,
    );
    let talk = conversation(prompt, response);
    let messages = critic.template.render(
        context! {
            prompt => &prompt_text,
            response,
            principles => listed(&principles),
            critique_request => critique_request(&principles),
            fence => mark,
        },
        &Inserts {
            conversation: &talk,
            few_shots: &shots,
            judged: &[],
        },
    )?;
    let cx = ask::context("critique", id, step, critic.seed, "critique");
    let ids: Vec<String> = principles.iter().map(|p| p.id.clone()).collect();
    let schema = (critic.config.template == JSON).then(|| Arc::new(schema(&ids)));
    let sampling = &critic.config.sampling;
    let answer = ask::sample_held_to(&critic.model, messages, sampling, schema, &cx).await?;
    let parsed = match answer.outcome {
        Outcome::Decided => parse_critique(&answer.text, &ids),
        _ => ParsedCritique::default(),
    };
    let adherence = ids
        .iter()
        .map(|principle| Adherence {
            principle: principle.clone(),
            grade: parsed
                .adherence
                .iter()
                .find(|(p, _)| p == principle)
                .map(|(_, g)| *g),
        })
        .collect();
    Ok(Critique {
        id: id.to_owned(),
        step,
        prompt: prompt.clone(),
        response: response.to_owned(),
        text: if answer.outcome == Outcome::Decided {
            parsed.text
        } else {
            String::new()
        },
        adherence,
        quality: parsed.quality,
        suggestions: parsed.suggestions,
        principles: ids,
        outcome: answer.outcome,
        error: answer.error,
        rater: Rater::Model(critic.model.id().clone()),
        cost: (&answer.usage).into(),
        provenance: provenance(
            &critic.model,
            &critic.config.sampling,
            &critic.template,
            &critic.constitution,
            item_seed,
            answer.usage,
        ),
    })
}

pub(crate) fn provenance(
    model: &Model,
    sampling: &Sampling,
    template: &Template,
    constitution: &Constitution,
    seed: u64,
    usage: Usage,
) -> Provenance {
    Provenance {
        model: model.id().clone(),
        sampling: Some(sampling.clone()),
        template: template.hash().to_owned(),
        constitution: constitution.hash(),
        seed,
        version: VERSION.to_owned(),
        lost: usage.lost,
    }
}

/// The shipped template whose critiques are JSON.
const JSON: &str = "json";

/// What an endpoint with structured outputs is held to: every principle's grade, in OpenAI's strict
/// subset of JSON Schema (all keys required, none besides, no bounds on numbers).
fn schema(principle_ids: &[String]) -> Value {
    let grades: serde_json::Map<String, Value> = principle_ids
        .iter()
        .map(|id| {
            (
                id.clone(),
                json!({"type": "integer", "enum": [1, 2, 3, 4, 5]}),
            )
        })
        .collect();
    json!({
        "type": "object",
        "properties": {
            "critique": {"type": "string"},
            "adherence": {
                "type": "object", "properties": grades, "required": principle_ids,
                "additionalProperties": false,
            },
            "quality": {"type": "integer", "enum": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]},
            "suggestions": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["critique", "adherence", "quality", "suggestions"],
        "additionalProperties": false,
    })
}

/// What could be read from a critique's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedCritique {
    /// The critique's prose; the whole text where no section was found.
    pub text: String,
    /// Grades by principle id, 1 to 5.
    pub adherence: Vec<(String, u8)>,
    /// 1 to 10.
    pub quality: Option<u8>,
    /// One a line.
    pub suggestions: Vec<String>,
}

/// A whole number within bounds at the start of a text, as in `4`, `4/5`, `**4** (good)`. A
/// number out of bounds, a decimal or a number with a sign is no grade.
fn grade(text: &str, max: u8) -> Option<u8> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || "*`\"'([".contains(c));
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let mut rest = text[end..].chars();
    if rest.next() == Some('.') && rest.next().is_some_and(|c| c.is_ascii_digit()) {
        return None;
    }
    text[..end].parse().ok().filter(|n| (1..=max).contains(n))
}

/// Reads a critique: JSON with `critique`, `adherence`, `quality`, `suggestions`; or the sections
/// of the shipped form in any order and decoration; or plain prose, which is then the critique.
/// Grades that are out of range or not whole numbers are left out, never rounded or guessed.
#[must_use]
pub fn parse_critique(text: &str, principle_ids: &[String]) -> ParsedCritique {
    let text = rlaif_core::choice::without_reasoning(text).trim();
    if let Some(parsed) = parse_json(text, principle_ids) {
        return parsed;
    }
    #[derive(PartialEq)]
    enum Section {
        Critique,
        Adherence,
        Suggestions,
    }
    let mut section = Section::Critique;
    let mut parsed = ParsedCritique::default();
    let mut prose: Vec<&str> = Vec::new();
    let undecorated = |c: char| c.is_whitespace() || "#*_`>-•".contains(c);
    for line in text.lines() {
        let plain = line.trim_matches(undecorated);
        let (head, tail) = match plain.split_once(':') {
            Some((head, tail)) => (
                head.trim_matches(undecorated),
                tail.trim_matches(undecorated),
            ),
            None => (plain, ""),
        };
        // A grade of a principle may stand in any section.
        if let Some(id) = principle_ids
            .iter()
            .find(|id| head.eq_ignore_ascii_case(id))
            && let Some(grade) = grade(tail, 5)
        {
            if !parsed.adherence.iter().any(|(known, _)| known == id) {
                parsed.adherence.push((id.clone(), grade));
            }
            continue;
        }
        match head.to_ascii_lowercase().as_str() {
            "critique" | "review" => {
                section = Section::Critique;
                prose.push(tail);
                continue;
            }
            "adherence" => {
                section = Section::Adherence;
                // "Adherence: 4" with a single principle is that principle's grade.
                if let ([only], Some(grade)) = (principle_ids, grade(tail, 5)) {
                    parsed.adherence.push((only.clone(), grade));
                }
                continue;
            }
            "quality" | "overall quality" => {
                if let Some(quality) = grade(tail, 10) {
                    parsed.quality = Some(quality);
                    continue;
                }
            }
            "suggestions" | "suggestion" | "suggested improvements" => {
                section = Section::Suggestions;
                if !tail.is_empty() {
                    parsed.suggestions.push(tail.to_owned());
                }
                continue;
            }
            _ => {}
        }
        match section {
            Section::Critique => prose.push(line.trim_end()),
            Section::Adherence => {}
            Section::Suggestions => {
                let item = plain.trim_start_matches(|c: char| {
                    c.is_ascii_digit() || c == '.' || c == ')' || c.is_whitespace()
                });
                if !item.is_empty() {
                    parsed.suggestions.push(item.to_owned());
                }
            }
        }
    }
    let prose = prose.join("\n").trim().to_owned();
    // A form without prose is still a critique: keep all of its words.
    parsed.text = if prose.is_empty() {
        text.to_owned()
    } else {
        prose
    };
    parsed
}

fn parse_json(text: &str, principle_ids: &[String]) -> Option<ParsedCritique> {
    let body = text.get(text.find('{')?..=text.rfind('}')?)?;
    let value: Value = serde_json::from_str(body).ok()?;
    let whole = |v: &Value, max: u8| {
        v.as_u64()
            .and_then(|n| u8::try_from(n).ok())
            .filter(|n| (1..=max).contains(n))
            .or_else(|| v.as_str().and_then(|s| grade(s, max)))
    };
    let prose = value
        .get("critique")
        .or_else(|| value.get("review"))?
        .as_str()?;
    Some(ParsedCritique {
        text: prose.trim().to_owned(),
        adherence: principle_ids
            .iter()
            .filter_map(|id| Some((id.clone(), whole(value.get("adherence")?.get(id)?, 5)?)))
            .collect(),
        quality: value.get("quality").and_then(|v| whole(v, 10)),
        suggestions: match value.get("suggestions") {
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(|v| v.as_str())
                .map(str::to_owned)
                .collect(),
            Some(Value::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        },
    })
}

/// The shipped template that a configuration names, for callers without files.
///
/// # Errors
/// [`FeedbackError::Template`].
pub fn shipped(config: &CritiqueConfig) -> Result<Template, FeedbackError> {
    Template::shipped(&config.template, Purpose::Critique)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> Vec<String> {
        vec!["harmless".into(), "polite".into()]
    }

    #[test]
    fn the_shipped_form_is_read() {
        let text = "**Critique:** It is rude.\nIt also errs.\n\nAdherence:\n- harmless: 5\n\
                    - **polite**: 2/5\nQuality: 4 (of 10)\nSuggestions:\n1. Greet first.\n- Check the date.";
        let parsed = parse_critique(text, &ids());
        assert_eq!(parsed.text, "It is rude.\nIt also errs.");
        assert_eq!(
            parsed.adherence,
            vec![("harmless".into(), 5), ("polite".into(), 2)]
        );
        assert_eq!(parsed.quality, Some(4));
        assert_eq!(parsed.suggestions, vec!["Greet first.", "Check the date."]);
    }

    #[test]
    fn json_in_words_is_read() {
        let text = "Here it is:\n```json\n{\"critique\": \"Rude.\", \"adherence\": {\"polite\": 2, \
                    \"harmless\": 9}, \"quality\": \"4\", \"suggestions\": [\"Greet.\"]}\n```";
        let parsed = parse_critique(text, &ids());
        assert_eq!(parsed.text, "Rude.");
        // 9 is no grade from 1 to 5: it is left out, not clamped.
        assert_eq!(parsed.adherence, vec![("polite".into(), 2)]);
        assert_eq!(parsed.quality, Some(4));
        assert_eq!(parsed.suggestions, vec!["Greet."]);
    }

    #[test]
    fn prose_is_a_critique_without_grades() {
        let parsed = parse_critique("The reply is rude and should greet first.", &ids());
        assert_eq!(parsed.text, "The reply is rude and should greet first.");
        assert!(parsed.adherence.is_empty() && parsed.quality.is_none());
    }

    #[test]
    fn numbers_that_are_no_grades_are_left_out() {
        for text in ["0", "6", "4.5", "-3", "good", ""] {
            assert_eq!(grade(text, 5), None, "{text}");
        }
        assert_eq!(grade("4. Fine", 5), Some(4));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}") {
            let _ = parse_critique(&text, &ids());
        }
    }
}
