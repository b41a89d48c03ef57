//! Prompt templates: a list of turns in TOML, with minijinja in the texts.
//!
//! ```toml
//! verdict = "scored"               # or "written": the judge writes it, and its words are read
//! pattern = '\[\[(A|B|C)\]\]'      # where a written verdict stands: one group, its last match
//! inverted = false                 # true where the worse response is asked for
//! [[turns]]
//! role = "user"                    # or: insert = "conversation" | "few_shots" | "judged"
//! content = "{{ prompt }} … {{ response_a }} … {{ response_b }}"
//! [[reason]]                       # what is asked instead where a rationale comes first,
//! [[after_reason]]                 # and what is asked once it stands
//! [choices]                        # of a comparison
//! a = ["(A)", "A"]
//! b = ["(B)", "B"]
//! tie = ["(C)"]                    # where the judge may call a tie
//! abstain = ["(none)"]             # where it may decline, if the recipe lets it
//! [scale]                          # of a score
//! from = 1
//! to = 10
//! ```
//!
//! A last turn of the assistant is the beginning of the judge's answer. A template is checked when
//! it is read, before anything is paid: syntax, unknown variables, and variables that it must use
//! (a comparison that shows one response only is no comparison).

mod parse;
mod shipped;

use minijinja::{Environment, Value};
use regex_lite::Regex;
use rlaif_core::{Message, Prompt, Role, seed};
use serde::Deserialize;

use crate::error::FeedbackError;
use shipped::SHIPPED;

/// What a template is for; it fixes the variables it may and must use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Two responses are compared.
    Pair,
    /// The reason after a verdict.
    ReasonAfter,
    /// One response is scored on a scale.
    Score,
    /// A response is critiqued.
    Critique,
    /// A response is revised.
    Revise,
}

const PAIR: [&str; 8] = [
    "prompt",
    "conversation",
    "response_a",
    "response_b",
    "principle",
    "exemplars",
    "may_abstain",
    "fence",
];

impl Purpose {
    /// Variables that a template of this purpose may use.
    #[must_use]
    pub fn variables(self) -> &'static [&'static str] {
        match self {
            Purpose::Pair => &PAIR,
            Purpose::ReasonAfter => &["verdict"],
            Purpose::Score => &["prompt", "conversation", "response", "principle", "fence"],
            Purpose::Critique => &[
                "prompt",
                "response",
                "principles",
                "critique_request",
                "fence",
            ],
            Purpose::Revise => &[
                "prompt",
                "response",
                "critique_request",
                "critique",
                "revision_request",
                "fence",
            ],
        }
    }

    /// Variables without which a template of this purpose makes no sense.
    fn required(self) -> &'static [&'static str] {
        match self {
            Purpose::Pair => &["prompt", "response_a", "response_b"],
            Purpose::ReasonAfter => &["verdict"],
            Purpose::Critique | Purpose::Score => &["prompt", "response"],
            Purpose::Revise => &["prompt", "response", "critique"],
        }
    }
}

/// How a judge's verdict is had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictForm {
    /// The choices are scored by their probabilities.
    #[default]
    Scored,
    /// The judge writes, and its words are read; the verdict stands at the end.
    Written,
}

/// Whole numbers from the worst to the best score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The worst.
    pub from: i64,
    /// The best.
    pub to: i64,
}

impl Scale {
    /// The numbers, as choices.
    #[must_use]
    pub fn choices(self) -> Vec<Vec<String>> {
        (self.from..=self.to).map(|n| vec![n.to_string()]).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Insert {
    Conversation,
    FewShots,
    Judged,
}

enum Part {
    Text { role: Role, name: String },
    Insert(Insert),
}

/// A checked template, ready to render.
pub struct Template {
    name: String,
    purpose: Purpose,
    hash: String,
    environment: Environment<'static>,
    parts: Vec<Part>,
    reason: Vec<Part>,
    after_reason: Vec<Part>,
    /// P of these is asked for: (A), (B), and a tie where there is one.
    choices: Vec<Vec<String>>,
    has_tie: bool,
    abstain: Option<Vec<String>>,
    scale: Option<Scale>,
    verdict: VerdictForm,
    pattern: Option<Regex>,
    inverted: bool,
    uses_principle: bool,
    uses_exemplars: bool,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template")
            .field("name", &self.name)
            .field("hash", &self.hash)
            .finish()
    }
}

/// Turns that a template places where it says `insert`.
#[derive(Default)]
pub struct Inserts<'a> {
    /// The prompt's turns and the response.
    pub conversation: &'a [Message],
    /// Worked conversations.
    pub few_shots: &'a [Message],
    /// The turns by which a pair was judged.
    pub judged: &'a [Message],
}

impl Template {
    /// A template supplied with the tool.
    ///
    /// # Errors
    /// [`FeedbackError::Template`] for an unknown name, with the known ones.
    pub fn shipped(name: &str, purpose: Purpose) -> Result<Self, FeedbackError> {
        let of_purpose = SHIPPED.iter().filter(|(_, known, _)| *known == purpose);
        match of_purpose.clone().find(|(known, _, _)| *known == name) {
            Some((_, _, text)) => Self::parse(name, purpose, text),
            None => Err(FeedbackError::Template {
                name: name.to_owned(),
                problem: format!(
                    "is neither a file nor a supplied template; supplied are: {}",
                    of_purpose
                        .map(|(n, _, _)| format!("`{n}`"))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }),
        }
    }

    /// Its name, or the path of its file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the template's text.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Spellings of the choices: first, second, and a tie where the template has one; empty where
    /// nothing is compared.
    #[must_use]
    pub fn choices(&self) -> &[Vec<String>] {
        &self.choices
    }

    /// Whether the third choice is a tie.
    #[must_use]
    pub fn has_tie(&self) -> bool {
        self.has_tie
    }

    /// Spellings by which the judge declines to choose.
    #[must_use]
    pub fn abstain(&self) -> Option<&[String]> {
        self.abstain.as_deref()
    }

    /// The scale of a score.
    #[must_use]
    pub fn scale(&self) -> Option<Scale> {
        self.scale
    }

    /// How the verdict is had.
    #[must_use]
    pub fn verdict(&self) -> VerdictForm {
        self.verdict
    }

    /// The verdict in a judge's words: what the template's pattern finds last; without a pattern,
    /// the words as they are. `None` where the pattern finds nothing.
    #[must_use]
    pub fn verdict_in<'a>(&self, text: &'a str) -> Option<&'a str> {
        match &self.pattern {
            None => Some(text),
            Some(regex) => {
                let last = regex.captures_iter(text).last()?;
                last.get(1).map(|m| m.as_str())
            }
        }
    }

    /// Whether it asks for the worse response.
    #[must_use]
    pub fn inverted(&self) -> bool {
        self.inverted
    }

    /// Whether it names the principle to judge by; one that does not judges by its own words.
    #[must_use]
    pub fn uses_principle(&self) -> bool {
        self.uses_principle
    }

    /// Whether it shows worked examples, where there are any.
    #[must_use]
    pub fn uses_exemplars(&self) -> bool {
        self.uses_exemplars
    }

    /// Whether it can ask for a rationale first.
    #[must_use]
    pub fn has_reason(&self) -> bool {
        !self.reason.is_empty()
    }

    /// The conversation to send.
    ///
    /// # Errors
    /// [`FeedbackError::Template`] where a text cannot be rendered with these variables.
    pub fn render(
        &self,
        variables: Value,
        inserts: &Inserts<'_>,
    ) -> Result<Vec<Message>, FeedbackError> {
        self.render_parts(&self.parts, &variables, inserts)
    }

    /// The conversation that asks for a rationale first.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_reason(&self, variables: Value) -> Result<Vec<Message>, FeedbackError> {
        self.render_parts(&self.reason, &variables, &Inserts::default())
    }

    /// The conversation that asks for the verdict once the rationale stands; `judged` is the one
    /// that asked for it.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_after_reason(
        &self,
        variables: Value,
        judged: &[Message],
    ) -> Result<Vec<Message>, FeedbackError> {
        let inserts = Inserts {
            judged,
            ..Inserts::default()
        };
        self.render_parts(&self.after_reason, &variables, &inserts)
    }

    fn render_parts(
        &self,
        parts: &[Part],
        variables: &Value,
        inserts: &Inserts<'_>,
    ) -> Result<Vec<Message>, FeedbackError> {
        let mut messages = Vec::new();
        for part in parts {
            match part {
                Part::Insert(Insert::Conversation) => {
                    messages.extend_from_slice(inserts.conversation)
                }
                Part::Insert(Insert::FewShots) => messages.extend_from_slice(inserts.few_shots),
                Part::Insert(Insert::Judged) => messages.extend_from_slice(inserts.judged),
                Part::Text { role, name } => {
                    let content = self
                        .environment
                        .get_template(name)
                        .and_then(|t| t.render(variables))
                        .map_err(|e| FeedbackError::Template {
                            name: self.name.clone(),
                            problem: describe(&e),
                        })?;
                    messages.push(Message {
                        role: *role,
                        content: content.trim().to_owned(),
                    });
                }
            }
        }
        Ok(messages)
    }

    /// What the template is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }
}

fn describe(error: &minijinja::Error) -> String {
    let line = error
        .line()
        .map(|n| format!(", line {n} of that text"))
        .unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

/// A mark that occurs in none of the texts: eight hex digits from their hash, drawn again until
/// they are absent. An author cannot know it before the text is fixed, so cannot close the fence.
#[must_use]
pub fn fence(texts: &[&str]) -> String {
    let mut attempt = 0u64;
    loop {
        let mark = format!("{:08x}", seed::derive(attempt, texts) >> 32);
        if texts.iter().all(|text| !text.contains(&mark)) {
            return mark;
        }
        attempt += 1;
    }
}

/// The prompt's turns followed by the response.
#[must_use]
pub fn conversation(prompt: &Prompt, response: &str) -> Vec<Message> {
    let mut messages = prompt.0.clone();
    messages.push(Message::assistant(response));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Template::parse("mine.toml", Purpose::Pair, text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_shipped_template_is_valid() {
        for &(name, purpose, _) in SHIPPED {
            Template::shipped(name, purpose).unwrap();
        }
        let unknown = Template::shipped("pear", Purpose::Pair)
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("`pair`"), "{unknown}");
    }

    #[test]
    fn faults_are_found_before_anything_is_paid() {
        let turn = |content: &str| {
            format!("[[turns]]\nrole='user'\ncontent='{content}'\n[choices]\na=['A']\nb=['B']")
        };
        let cases = [
            (turn("{{ prompt }} {{ response_a }}"), "`response_b`"),
            (
                turn("{{ prompt }} {{ response_a }} {{ response_b }} {{ respons }}"),
                "`respons`",
            ),
            (turn("{{ prompt }} {% if %}"), "turn 1"),
            ("[[turns]]\nrole='user'".to_owned(), "turn 1"),
            ("[[turns]]\nrole='usr'\ncontent='x'".to_owned(), "line 2"),
            (
                "[[turns]]\nrole='user'\ncontent='{{prompt}}{{response_a}}{{response_b}}'"
                    .to_owned(),
                "[choices]",
            ),
        ];
        for (text, words) in cases {
            let message = fault(&text);
            assert!(
                message.contains("mine.toml") && message.contains(words),
                "{message}"
            );
        }
    }

    #[test]
    fn a_fence_never_occurs_in_what_it_fences() {
        let first = fence(&["text"]);
        // A text that holds the mark it would have been given gets another one.
        let hostile = format!("text {first}");
        let mark = fence(&[&hostile]);
        assert!(!hostile.contains(&mark));
        assert_eq!(fence(&["text"]), first);
    }
}
