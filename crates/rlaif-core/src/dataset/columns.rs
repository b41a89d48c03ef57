//! From one JSON value to a row, by the columns that it has.

use serde_json::{Map, Value};

use super::Row;
use crate::message::{Message, Prompt, Role};
use crate::outcome::Probability;
use crate::seed;

/// Reads a row; the message says which columns were found and which would do.
pub(super) fn row(value: Value) -> Result<Row, String> {
    let columns = match value {
        Value::Object(map) => map,
        Value::String(text) => {
            let map = Map::from_iter([("prompt".to_owned(), Value::String(text))]);
            return finish(map, Prompt(Vec::new()), Vec::new(), Probability::NONE, true);
        }
        other => {
            return Err(format!(
                "expected an object or a text, got {}",
                kind(&other)
            ));
        }
    };
    let has = |name: &str| columns.get(name).is_some_and(|v| !v.is_null());
    if let Some(completions) = lists(&columns) {
        let prompt = prompt_of(columns.get("prompt").unwrap_or(&Value::Null), "prompt")?;
        return finish(columns, prompt, completions, Probability::new(1.0), false);
    }
    if has("chosen") && has("rejected") {
        let (prompt, completions) = preference(&columns)?;
        return finish(columns, prompt, completions, Probability::new(1.0), false);
    }
    if has("prompt") {
        let prompt = prompt_of(&columns["prompt"], "prompt")?;
        let completions = completions(&columns)?;
        return finish(columns, prompt, completions, Probability::NONE, false);
    }
    if has("messages") || has("conversations") {
        let name = if has("messages") {
            "messages"
        } else {
            "conversations"
        };
        let mut turns = messages(&columns[name], name)?;
        let completion = match turns.last() {
            Some(last) if last.role == Role::Assistant && turns.len() > 1 => {
                turns.pop().map(|m| m.content)
            }
            _ => None,
        };
        let completions = completion.into_iter().collect();
        return finish(
            columns,
            Prompt(turns),
            completions,
            Probability::NONE,
            false,
        );
    }
    if has("instruction") {
        let instruction = text(&columns["instruction"], "instruction")?;
        let input = columns
            .get("input")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .trim();
        let prompt = if input.is_empty() {
            Prompt::from(instruction)
        } else {
            Prompt::from(format!("{instruction}\n\n{input}"))
        };
        if has("output_1") && has("output_2") {
            let pair = vec![
                text(&columns["output_1"], "output_1")?,
                text(&columns["output_2"], "output_2")?,
            ];
            let label = alpaca_preference(columns.get("preference"))?;
            return finish(columns, prompt, pair, label, false);
        }
        let completions = completions(&columns)?;
        return finish(columns, prompt, completions, Probability::NONE, false);
    }
    if has("question") {
        let prompt = prompt_of(&columns["question"], "question")?;
        let completions = completions(&columns)?;
        return finish(columns, prompt, completions, Probability::NONE, false);
    }
    let found: Vec<String> = columns.keys().map(|k| format!("`{k}`")).collect();
    Err(format!(
        "no known columns: found {}; expected `prompt`, `chosen` and `rejected`, `messages`, \
         `instruction`, or `question`",
        if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        }
    ))
}

fn finish(
    columns: Map<String, Value>,
    prompt: Prompt,
    completions: Vec<String>,
    label: Probability,
    from_text: bool,
) -> Result<Row, String> {
    let prompt = if from_text {
        prompt_of(&columns["prompt"], "text")?
    } else {
        prompt
    };
    if prompt.0.iter().all(|m| m.content.trim().is_empty()) {
        return Err("the prompt is empty".into());
    }
    let id = ["id", "prompt_id"]
        .iter()
        .find_map(|name| match columns.get(*name) {
            Some(Value::String(s)) if !s.is_empty() => Some(s.clone()),
            Some(Value::Number(n)) => Some(n.to_string()),
            _ => None,
        });
    let id = id.unwrap_or_else(|| {
        let mut parts: Vec<&str> = Vec::new();
        for m in &prompt.0 {
            parts.extend([m.role.as_str(), m.content.as_str()]);
        }
        parts.push("completions");
        parts.extend(completions.iter().map(String::as_str));
        format!("{:016x}", seed::derive(0, &parts))
    });
    // Two equal completions cannot have been told apart by whoever labeled them.
    let label = if completions.len() == 2 {
        label
    } else {
        Probability::NONE
    };
    Ok(Row {
        id,
        line: 0,
        prompt,
        completions,
        label,
        columns,
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn text(value: &Value, name: &str) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("`{name}` must be a text, got {}", kind(value)))
}

fn message(value: &Value, name: &str) -> Result<Message, String> {
    let get = |keys: [&str; 2]| {
        keys.iter()
            .find_map(|k| value.get(*k))
            .and_then(Value::as_str)
    };
    let role = get(["role", "from"]).ok_or_else(|| format!("a turn of `{name}` has no `role`"))?;
    let content = get(["content", "value"])
        .ok_or_else(|| format!("a turn of `{name}` has no `content` that is a text"))?;
    let role = Role::from_name(role)
        .ok_or_else(|| format!("a turn of `{name}` has the unknown role `{role}`"))?;
    Ok(Message {
        role,
        content: content.to_owned(),
    })
}

fn messages(value: &Value, name: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::Array(turns) => turns.iter().map(|t| message(t, name)).collect(),
        other => Err(format!(
            "`{name}` must be a list of messages, got {}",
            kind(other)
        )),
    }
}

/// A prompt: a text, a transcript, or messages.
fn prompt_of(value: &Value, name: &str) -> Result<Prompt, String> {
    match value {
        Value::String(text) => Ok(match transcript(text) {
            Some(turns) => Prompt(turns),
            None => Prompt::from(text.as_str()),
        }),
        Value::Array(_) => messages(value, name).map(Prompt),
        other => Err(format!(
            "`{name}` must be a text or messages, got {}",
            kind(other)
        )),
    }
}

/// Completions under any of their names; an answer as messages counts by its last turn.
fn completions(columns: &Map<String, Value>) -> Result<Vec<String>, String> {
    // A row of `rlaif critique` keeps all completions of its prompt and is about one of them.
    let critiqued = columns.contains_key("rlaif_id")
        && columns.contains_key("critique")
        && !columns.contains_key("revision");
    if let (true, Some(response)) = (critiqued, columns.get("response")) {
        return Ok(vec![answer(response, "response")?]);
    }
    for name in ["completions", "generations", "responses"] {
        match columns.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                return items.iter().map(|v| answer(v, name)).collect();
            }
            Some(other) => return Err(format!("`{name}` must be a list, got {}", kind(other))),
        }
    }
    for name in ["completion", "response", "output"] {
        match columns.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => return Ok(vec![answer(value, name)?]),
        }
    }
    Ok(Vec::new())
}

/// A completion as a text, one message, or a list of messages whose last turn it is.
fn answer(value: &Value, name: &str) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Object(_) => message(value, name).map(|m| m.content),
        Value::Array(_) => messages(value, name)?
            .pop()
            .map(|m| m.content)
            .ok_or_else(|| format!("`{name}` is an empty list of messages")),
        other => Err(format!(
            "`{name}` must hold texts or messages, got {}",
            kind(other)
        )),
    }
}

/// Splits an HH-RLHF transcript (`"\n\nHuman: …\n\nAssistant: …"`) into turns; `None` for a text
/// that does not begin as one.
fn transcript(text: &str) -> Option<Vec<Message>> {
    const HUMAN: &str = "\n\nHuman:";
    const ASSISTANT: &str = "\n\nAssistant:";
    if !text.starts_with(HUMAN) {
        return None;
    }
    let mut turns = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (role, label) = if rest.starts_with(HUMAN) {
            (Role::User, HUMAN)
        } else {
            (Role::Assistant, ASSISTANT)
        };
        let body = &rest[label.len()..];
        let end = [body.find(HUMAN), body.find(ASSISTANT)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(body.len());
        turns.push(Message {
            role,
            content: body[..end].trim().to_owned(),
        });
        rest = &body[end..];
    }
    // A prompt may end in a bare "Assistant:" that asks for the answer.
    if turns
        .last()
        .is_some_and(|m| m.role == Role::Assistant && m.content.is_empty())
    {
        turns.pop();
    }
    Some(turns)
}

/// Whole conversations: the common beginning is the prompt (TRL's `extract_prompt`), and the
/// last turn of each is its completion.
fn shared(chosen: Vec<Message>, rejected: Vec<Message>) -> Result<(Prompt, Vec<String>), String> {
    let common = chosen
        .iter()
        .zip(&rejected)
        .take_while(|(a, b)| a == b)
        .count();
    let common = common
        .min(chosen.len().saturating_sub(1))
        .min(rejected.len().saturating_sub(1));
    let side = |turns: &[Message], name: &str| match &turns[common..] {
        [only] if only.role == Role::Assistant => Ok(only.content.clone()),
        [] => Err(format!("`{name}` has no answer behind the shared prompt")),
        _ => Err(format!(
            "`{name}` differs from the other side in more than its last assistant turn"
        )),
    };
    let pair = vec![side(&chosen, "chosen")?, side(&rejected, "rejected")?];
    let mut prompt = chosen;
    prompt.truncate(common);
    Ok((Prompt(prompt), pair))
}

fn preference(columns: &Map<String, Value>) -> Result<(Prompt, Vec<String>), String> {
    let (chosen, rejected) = (&columns["chosen"], &columns["rejected"]);
    let explicit = ["prompt", "conversations", "instruction"]
        .iter()
        .find_map(|name| {
            columns
                .get(*name)
                .filter(|v| !v.is_null())
                .map(|v| (*name, v))
        });
    if let Some((name, value)) = explicit {
        let mut prompt = prompt_of(value, name)?;
        if let (Some(input), "instruction") = (
            columns
                .get("input")
                .and_then(Value::as_str)
                .filter(|s| !s.trim().is_empty()),
            name,
        ) {
            prompt = Prompt::from(format!("{}\n\n{input}", prompt.to_text()));
        }
        return Ok((
            prompt,
            vec![answer(chosen, "chosen")?, answer(rejected, "rejected")?],
        ));
    }
    match (chosen, rejected) {
        (Value::String(c), Value::String(r)) => match (transcript(c), transcript(r)) {
            (Some(c), Some(r)) => shared(c, r),
            _ => Err(
                "`chosen` and `rejected` without `prompt` must be transcripts that begin \
                      with `\\n\\nHuman:`, or lists of messages"
                    .into(),
            ),
        },
        _ => shared(messages(chosen, "chosen")?, messages(rejected, "rejected")?),
    }
}

/// `chosen` and `rejected` as lists of texts (RewardBench 2): several answers to one prompt, the
/// chosen ones first. Lists of messages are another layout.
fn lists(columns: &Map<String, Value>) -> Option<Vec<String>> {
    let texts = |name: &str| -> Option<Vec<String>> {
        let items = columns.get(name)?.as_array()?;
        let texts: Option<Vec<String>> = items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect();
        texts.filter(|texts| !texts.is_empty())
    };
    let mut all = texts("chosen")?;
    all.extend(texts("rejected")?);
    Some(all)
}

/// AlpacaEval's `preference`: 1 the first is better, 2 the second, a real number between them is
/// 1 + P(second is better); 0 and 1.5 are ties, which carry no label.
fn alpaca_preference(value: Option<&Value>) -> Result<Probability, String> {
    match value {
        None | Some(Value::Null) => Ok(Probability::NONE),
        Some(value) => match value.as_f64() {
            Some(0.0 | 1.5) => Ok(Probability::NONE),
            Some(p) if (1.0..=2.0).contains(&p) => Ok(Probability::new(2.0 - p)),
            _ => Err(format!(
                "`preference` must be from 1 to 2 (or 0 for a tie), got `{value}`"
            )),
        },
    }
}
