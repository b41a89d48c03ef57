//! Prompt templates: a list of turns in TOML, with minijinja in the texts.
//!
//! ```toml
//! [[turns]]
//! role = "user"                    # or: insert = "conversation" | "few_shots" | "judged"
//! content = "{{ prompt }} … {{ response_a }} … {{ response_b }}"
//! [choices]                        # where a choice is scored
//! a = ["(A)", "A"]
//! b = ["(B)", "B"]
//! ```
//!
//! A template is checked when it is read, before anything is paid: syntax, unknown variables, and
//! variables that it must use (a comparison that shows one response only is no comparison).

use minijinja::{Environment, UndefinedBehavior, Value};
use rlaif_core::{Message, Prompt, Role, seed};
use serde::Deserialize;

use crate::error::FeedbackError;

/// What a template is for; it fixes the variables it may and must use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Two responses are compared and a choice is scored.
    Pair,
    /// The reasoning before a comparison's verdict.
    ReasonFirst,
    /// The verdict after its reasoning.
    VerdictAfterReason,
    /// The reason after a verdict.
    ReasonAfter,
    /// A response is critiqued.
    Critique,
    /// A response is revised.
    Revise,
}

impl Purpose {
    /// Variables that a template of this purpose may use.
    #[must_use]
    pub fn variables(self) -> &'static [&'static str] {
        match self {
            Purpose::Pair | Purpose::ReasonFirst => {
                &["prompt", "response_a", "response_b", "principle", "fence"]
            }
            Purpose::VerdictAfterReason => &["rationale"],
            Purpose::ReasonAfter => &["verdict"],
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
            Purpose::Pair | Purpose::ReasonFirst => &["prompt", "response_a", "response_b"],
            Purpose::VerdictAfterReason => &["rationale"],
            Purpose::ReasonAfter => &["verdict"],
            Purpose::Critique => &["prompt", "response"],
            Purpose::Revise => &["prompt", "response", "critique"],
        }
    }

    fn scores_a_choice(self) -> bool {
        matches!(self, Purpose::Pair | Purpose::VerdictAfterReason)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    turns: Vec<Turn>,
    #[serde(default)]
    choices: Option<Choices>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Insert {
    Conversation,
    FewShots,
    Judged,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: Option<Role>,
    content: Option<String>,
    insert: Option<Insert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choices {
    a: Vec<String>,
    b: Vec<String>,
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
    choices: Vec<Vec<String>>,
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

const SHIPPED: [(&str, Purpose, &str); 8] = [
    (
        "pair",
        Purpose::Pair,
        include_str!("../templates/pair.toml"),
    ),
    (
        "pair_brief",
        Purpose::Pair,
        include_str!("../templates/pair_brief.toml"),
    ),
    (
        "reason_after",
        Purpose::ReasonAfter,
        include_str!("../templates/reason_after.toml"),
    ),
    (
        "reason_first",
        Purpose::ReasonFirst,
        include_str!("../templates/reason_first.toml"),
    ),
    (
        "verdict_after_reason",
        Purpose::VerdictAfterReason,
        include_str!("../templates/verdict_after_reason.toml"),
    ),
    (
        "structured",
        Purpose::Critique,
        include_str!("../templates/critique_structured.toml"),
    ),
    (
        "cai",
        Purpose::Critique,
        include_str!("../templates/critique_cai.toml"),
    ),
    (
        "cai",
        Purpose::Revise,
        include_str!("../templates/revise_cai.toml"),
    ),
];

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

    /// Reads and checks a template; `name` (a path, say) is for errors.
    ///
    /// # Errors
    /// [`FeedbackError::Template`] with the place of the fault.
    pub fn parse(name: &str, purpose: Purpose, text: &str) -> Result<Self, FeedbackError> {
        let fault = |problem: String| FeedbackError::Template {
            name: name.to_owned(),
            problem,
        };
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| {
                text.get(..span.start)
                    .unwrap_or_default()
                    .matches('\n')
                    .count()
                    + 1
            });
            fault(format!("line {line}: {}", e.message()))
        })?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Prompts are plain text: nothing is escaped here. Pages escape where they show it.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let mut parts = Vec::with_capacity(file.turns.len());
        let mut used: Vec<String> = Vec::new();
        for (i, turn) in file.turns.into_iter().enumerate() {
            let place = format!("turn {}", i + 1);
            match (turn.insert, turn.role, turn.content) {
                (Some(insert), None, None) => {
                    if insert == Insert::Conversation {
                        used.extend(["prompt".to_owned(), "response".to_owned()]);
                    }
                    parts.push(Part::Insert(insert));
                }
                (None, Some(role), Some(content)) => {
                    let turn_name = format!("{name}, {place}");
                    environment
                        .add_template_owned(turn_name.clone(), content)
                        .map_err(|e| fault(format!("{place}: {}", describe(&e))))?;
                    let compiled = environment
                        .get_template(&turn_name)
                        .map_err(|e| fault(format!("{place}: {}", describe(&e))))?;
                    used.extend(compiled.undeclared_variables(false));
                    parts.push(Part::Text {
                        role,
                        name: turn_name,
                    });
                }
                _ => {
                    return Err(fault(format!(
                        "{place}: give either `insert`, or `role` and `content`"
                    )));
                }
            }
        }
        let known = purpose.variables();
        if let Some(unknown) = used
            .iter()
            .find(|v| !known.contains(&v.as_str()) && !["prompt", "response"].contains(&v.as_str()))
        {
            return Err(fault(format!(
                "uses the unknown variable `{unknown}`; known here: {}",
                known.join(", ")
            )));
        }
        if let Some(missing) = purpose
            .required()
            .iter()
            .find(|v| !used.iter().any(|used| used == *v))
        {
            return Err(fault(format!(
                "never uses the variable `{missing}`, which it must show"
            )));
        }
        let choices = match (file.choices, purpose.scores_a_choice()) {
            (Some(c), true) if !c.a.is_empty() && !c.b.is_empty() => vec![c.a, c.b],
            (None, false) => Vec::new(),
            (Some(_), false) => {
                return Err(fault(
                    "has `[choices]`, but no choice is scored here".into(),
                ));
            }
            _ => {
                return Err(fault(
                    "needs `[choices]` with the spellings `a = [\"(A)\", \"A\"]` and `b = …`"
                        .into(),
                ));
            }
        };
        let hash = seed::sha256_hex(text.as_bytes());
        Ok(Template {
            name: name.to_owned(),
            purpose,
            hash,
            environment,
            parts,
            choices,
        })
    }

    /// SHA-256 of the template's text.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Spellings of the choices; empty where no choice is scored.
    #[must_use]
    pub fn choices(&self) -> &[Vec<String>] {
        &self.choices
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
        let mut messages = Vec::new();
        for part in &self.parts {
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
                        .and_then(|t| t.render(&variables))
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
        for (name, purpose, _) in SHIPPED {
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
