//! Reading a template: its form, and all that can be wrong with it before anything is paid.

use minijinja::{Environment, UndefinedBehavior};
use regex_lite::Regex;
use rlaif_core::{Role, seed};
use serde::Deserialize;

use super::{Insert, PAIR, Part, Purpose, Scale, Template, VerdictForm, describe};
use crate::error::FeedbackError;

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

impl Template {
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
        let choices = choices_of(purpose, file.choices).map_err(fault)?;
        check_scale(purpose, file.scale).map_err(fault)?;
        let pattern = pattern_of(file.verdict, file.pattern).map_err(fault)?;
        let hash = seed::sha256_hex(text.as_bytes());
        Ok(Template {
            name: name.to_owned(),
            purpose,
            hash,
            environment,
            parts,
            reason,
            after_reason,
            choices: choices.offered,
            has_tie: choices.has_tie,
            abstain: choices.abstain,
            scale: file.scale,
            verdict: file.verdict,
            pattern,
            inverted: file.inverted,
            uses_principle,
            uses_exemplars,
        })
    }
}

/// Choices as they are offered: first, second, and a tie where there is one.
#[derive(Default)]
struct Offered {
    offered: Vec<Vec<String>>,
    has_tie: bool,
    abstain: Option<Vec<String>>,
}

fn choices_of(purpose: Purpose, choices: Option<Choices>) -> Result<Offered, String> {
    match (choices, purpose) {
        (Some(c), Purpose::Pair) if !c.a.is_empty() && !c.b.is_empty() => {
            if let Some(twice) = c.a.iter().find(|s| c.b.contains(s)) {
                return Err(format!("spells both choices `{twice}`"));
            }
            let has_tie = c.tie.is_some();
            Ok(Offered {
                offered: [c.a, c.b].into_iter().chain(c.tie).collect(),
                has_tie,
                abstain: c.abstain,
            })
        }
        (_, Purpose::Pair) => {
            Err("needs `[choices]` with the spellings `a = [\"(A)\", \"A\"]` and `b = …`".into())
        }
        (Some(_), _) => Err("has `[choices]`, but no choice is scored here".into()),
        (None, _) => Ok(Offered::default()),
    }
}

fn check_scale(purpose: Purpose, scale: Option<Scale>) -> Result<(), String> {
    match (scale, purpose) {
        (Some(s), Purpose::Score) if s.from < s.to && s.to - s.from <= 100 => Ok(()),
        (_, Purpose::Score) => Err("needs `[scale]` with whole numbers `from` < `to`".into()),
        (Some(_), _) => Err("has `[scale]`, but nothing is scored here".into()),
        (None, _) => Ok(()),
    }
}

fn pattern_of(verdict: VerdictForm, pattern: Option<String>) -> Result<Option<Regex>, String> {
    let Some(text) = pattern else { return Ok(None) };
    if verdict == VerdictForm::Scored {
        return Err("has a `pattern`, which reads a verdict that is `\"written\"`".into());
    }
    let regex = Regex::new(&text).map_err(|e| format!("`pattern`: {e}"))?;
    match regex.captures_len() {
        2 => Ok(Some(regex)),
        _ => Err("`pattern` must have one group, in which the verdict stands".into()),
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
