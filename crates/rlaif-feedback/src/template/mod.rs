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

mod shipped;

use minijinja::{Environment, UndefinedBehavior, Value};
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    turns: Vec<Turn>,
    #[serde(default)]
    reason: Vec<Turn>,
    #[serde(default)]
    after_reason: Vec<Turn>,
    #[serde(default)]
    verdict: VerdictForm,
    #[serde(default)]
    inverted: bool,
    pattern: Option<String>,
    choices: Option<Choices>,
    scale: Option<Scale>,
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
    tie: Option<Vec<String>>,
    abstain: Option<Vec<String>>,
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
            let line = rlaif_core::line_of(text, e.span());
            fault(format!("line {line}: {}", e.message()))
        })?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Prompts are plain text: nothing is escaped here. Pages escape where they show it.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let mut used: Vec<String> = Vec::new();
        let parts =
            compile(&mut environment, name, "turn", file.turns, &mut used).map_err(fault)?;
        must_use(purpose, &used, purpose.variables(), purpose.required()).map_err(fault)?;
        let uses_principle = used.iter().any(|v| v == "principle");
        let uses_exemplars = used.iter().any(|v| v == "exemplars");
        let (has_reason, has_after) = (!file.reason.is_empty(), !file.after_reason.is_empty());
        if has_reason != has_after || (has_reason && purpose != Purpose::Pair) {
            return Err(fault(
                "`[[reason]]` and `[[after_reason]]` belong together, in a comparison".into(),
            ));
        }
        let mut used = Vec::new();
        let reason =
            compile(&mut environment, name, "reason", file.reason, &mut used).map_err(fault)?;
        if has_reason {
            must_use(purpose, &used, purpose.variables(), purpose.required())
                .map_err(|e| fault(format!("`[[reason]]` {e}")))?;
        }
        let mut used = Vec::new();
        let after = file.after_reason;
        let after_reason =
            compile(&mut environment, name, "after_reason", after, &mut used).map_err(fault)?;
        if has_after {
            let known: Vec<&str> = PAIR.iter().copied().chain(["rationale"]).collect();
            must_use(purpose, &used, &known, &["rationale"])
                .map_err(|e| fault(format!("`[[after_reason]]` {e}")))?;
        }
        let mut choices = Vec::new();
        let (mut has_tie, mut abstain) = (false, None);
        match (file.choices, purpose) {
            (Some(c), Purpose::Pair) if !c.a.is_empty() && !c.b.is_empty() => {
                if let Some(twice) = c.a.iter().find(|s| c.b.contains(s)) {
                    return Err(fault(format!("spells both choices `{twice}`")));
                }
                choices = vec![c.a, c.b];
                has_tie = c.tie.is_some();
                choices.extend(c.tie);
                abstain = c.abstain;
            }
            (Some(_), p) if p != Purpose::Pair => {
                return Err(fault(
                    "has `[choices]`, but no choice is scored here".into(),
                ));
            }
            (_, Purpose::Pair) => {
                return Err(fault(
                    "needs `[choices]` with the spellings `a = [\"(A)\", \"A\"]` and `b = …`"
                        .into(),
                ));
            }
            _ => {}
        }
        match (file.scale, purpose) {
            (Some(s), Purpose::Score) if s.from < s.to && s.to - s.from <= 100 => {}
            (None, p) if p != Purpose::Score => {}
            (Some(_), Purpose::Score) | (None, _) => {
                return Err(fault(
                    "needs `[scale]` with whole numbers `from` < `to`".into(),
                ));
            }
            (Some(_), _) => {
                return Err(fault("has `[scale]`, but nothing is scored here".into()));
            }
        }
        let pattern = match file.pattern {
            None => None,
            Some(_) if file.verdict == VerdictForm::Scored => {
                return Err(fault(
                    "has a `pattern`, which reads a verdict that is `\"written\"`".into(),
                ));
            }
            Some(text) => {
                let regex = Regex::new(&text).map_err(|e| fault(format!("`pattern`: {e}")))?;
                if regex.captures_len() != 2 {
                    return Err(fault(
                        "`pattern` must have one group, in which the verdict stands".into(),
                    ));
                }
                Some(regex)
            }
        };
        let hash = seed::sha256_hex(text.as_bytes());
        Ok(Template {
            name: name.to_owned(),
            purpose,
            hash,
            environment,
            parts,
            reason,
            after_reason,
            choices,
            has_tie,
            abstain,
            scale: file.scale,
            verdict: file.verdict,
            pattern,
            inverted: file.inverted,
            uses_principle,
            uses_exemplars,
        })
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

/// Compiles turns; `used` gains the variables that they use.
fn compile(
    environment: &mut Environment<'static>,
    name: &str,
    kind: &str,
    turns: Vec<Turn>,
    used: &mut Vec<String>,
) -> Result<Vec<Part>, String> {
    let mut parts = Vec::with_capacity(turns.len());
    for (i, turn) in turns.into_iter().enumerate() {
        let place = format!("{kind} {}", i + 1);
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
                    .map_err(|e| format!("{place}: {}", describe(&e)))?;
                let compiled = environment
                    .get_template(&turn_name)
                    .map_err(|e| format!("{place}: {}", describe(&e)))?;
                used.extend(compiled.undeclared_variables(false));
                parts.push(Part::Text {
                    role,
                    name: turn_name,
                });
            }
            _ => {
                return Err(format!(
                    "{place}: give either `insert`, or `role` and `content`"
                ));
            }
        }
    }
    Ok(parts)
}

/// Checks the variables that turns use.
fn must_use(
    purpose: Purpose,
    used: &[String],
    known: &[&str],
    required: &[&str],
) -> Result<(), String> {
    // An insert of the conversation brings these two, whatever else is known.
    let inserted: &[&str] = match purpose {
        Purpose::Critique | Purpose::Revise => &["prompt", "response"],
        _ => &[],
    };
    let is_known = |v: &&String| known.contains(&v.as_str()) || inserted.contains(&v.as_str());
    if let Some(unknown) = used.iter().find(|v| !is_known(v)) {
        return Err(format!(
            "uses the unknown variable `{unknown}`; known here: {}",
            known.join(", ")
        ));
    }
    // The prompt is shown as it is, or with the speakers named.
    let shows = |v: &str| {
        used.iter()
            .any(|u| u == v || (v == "prompt" && u == "conversation"))
    };
    match required.iter().find(|v| !shows(v)) {
        Some(missing) => Err(format!(
            "never uses the variable `{missing}`, which it must show"
        )),
        None => Ok(()),
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
