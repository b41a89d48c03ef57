//! What goes over the line: OpenAI's chat completions, as its many imitators write them.

use rlaif_core::{Finish, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The body of a request, before the endpoint's dialect is applied.
#[must_use]
pub fn body(model: &str, messages: &[Message], prefill: Option<&str>) -> Map<String, Value> {
    let mut turns: Vec<Value> = messages
        .iter()
        .map(|m| json!({"role": m.role.as_str(), "content": m.content}))
        .collect();
    // Chat endpoints have no common way to begin the answer's text, so the beginning is shown at
    // the end of the last turn, where the model reads it last.
    if let (Some(prefill), Some(last)) = (prefill, turns.last_mut()) {
        let text = format!(
            "{}\n{prefill}",
            last["content"].as_str().unwrap_or_default()
        );
        last["content"] = Value::String(text);
    }
    let mut map = Map::new();
    map.insert("model".into(), model.into());
    map.insert("messages".into(), turns.into());
    map
}

/// A parsed answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The answer's text, without reasoning.
    pub text: String,
    /// What a reasoning model thought first.
    pub reasoning: Option<String>,
    /// What the model said on declining, where the provider marks that.
    pub refusal: Option<String>,
    /// Why the answer ended.
    pub finish: Option<Finish>,
    /// Most likely tokens by position, where the server gave them and they are well-formed.
    pub positions: Option<Vec<Position>>,
    /// Prompt tokens, by the server's count.
    pub prompt_tokens: u64,
    /// Generated tokens, by the server's count.
    pub completion_tokens: u64,
}

/// One generated token with its alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// The token sampled.
    pub token: String,
    /// Most likely tokens with natural-log probabilities, the sampled one among them.
    pub top: Vec<(String, f64)>,
}

#[derive(Deserialize)]
struct RawReply {
    #[serde(default)]
    choices: Vec<RawChoice>,
    usage: Option<RawUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct RawChoice {
    message: Option<RawMessage>,
    finish_reason: Option<String>,
    logprobs: Option<Value>,
}

#[derive(Deserialize)]
struct RawMessage {
    content: Option<String>,
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Reads a body that came with status 200.
///
/// # Errors
/// In words, where it is not an answer: half a JSON, an error in an answer's place, no choice.
pub fn parse(body: &str) -> Result<Reply, String> {
    let raw: RawReply = serde_json::from_str(body)
        .map_err(|e| format!("the answer is not the JSON of a chat completion ({e})"))?;
    if let Some(error) = raw.error.filter(|e| !e.is_null()) {
        return Err(format!(
            "the answer holds an error: {}",
            shorten(&error_text(&error))
        ));
    }
    let choice = raw
        .choices
        .into_iter()
        .next()
        .ok_or("the answer holds no choice")?;
    let message = choice
        .message
        .ok_or("the answer's choice holds no message")?;
    let mut text = message.content.unwrap_or_default();
    let mut reasoning = message.reasoning_content.filter(|r| !r.is_empty());
    let visible = rlaif_core::choice::without_reasoning(&text);
    if visible.len() != text.len() {
        let thought = text[..text.len() - visible.len()]
            .trim()
            .trim_start_matches("<think>")
            .trim_end_matches("</think>")
            .trim();
        reasoning.get_or_insert_with(|| thought.to_owned());
        text = visible.trim_start().to_owned();
    }
    let usage = raw.usage.unwrap_or(RawUsage {
        prompt_tokens: 0,
        completion_tokens: 0,
    });
    Ok(Reply {
        // Where text was taken off the front, positions no longer line up with it.
        positions: if reasoning.is_some() {
            None
        } else {
            positions(choice.logprobs.as_ref())
        },
        text,
        reasoning,
        refusal: message.refusal.filter(|r| !r.is_empty()),
        finish: choice.finish_reason.as_deref().map(|reason| match reason {
            "length" | "max_tokens" => Finish::Length,
            "content_filter" => Finish::ContentFilter,
            _ => Finish::Stop,
        }),
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
    })
}

/// The positions, or nothing where any of them is malformed: a probability that cannot be one
/// (above 1, not a number) says that the rest cannot be trusted either.
fn positions(logprobs: Option<&Value>) -> Option<Vec<Position>> {
    let content = logprobs?.get("content")?.as_array()?;
    let entry = |v: &Value| -> Option<(String, f64)> {
        let logprob = v.get("logprob")?.as_f64()?;
        // A rounded probability of 1 may come out a hair above 0.
        (logprob <= 1e-3 && !logprob.is_nan()).then(|| {
            v.get("token")?
                .as_str()
                .map(|t| (t.to_owned(), logprob.min(0.0)))
        })?
    };
    let mut positions = Vec::with_capacity(content.len());
    for at in content {
        let (token, logprob) = entry(at)?;
        let mut top: Vec<(String, f64)> = match at.get("top_logprobs") {
            Some(Value::Array(list)) => list.iter().map(entry).collect::<Option<_>>()?,
            _ => Vec::new(),
        };
        if !top.iter().any(|(t, _)| *t == token) {
            top.push((token.clone(), logprob));
        }
        let mass: f64 = top.iter().map(|(_, lp)| lp.exp()).sum();
        if mass > 1.01 {
            return None;
        }
        positions.push(Position { token, top });
    }
    (!positions.is_empty()).then_some(positions)
}

/// The words of an error object, wherever the server put them.
#[must_use]
pub fn error_text(value: &Value) -> String {
    for path in ["/error/message", "/message", "/detail", "/error"] {
        match value.pointer(path) {
            Some(Value::String(text)) => return text.clone(),
            Some(Value::Null) | None => {}
            Some(other) => return other.to_string(),
        }
    }
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// At most 300 characters on one line.
#[must_use]
pub fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_what_is_none() {
        let reply = parse(r#"{"choices":[{"message":{"content":"<think>hm</think>\nYes"},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#).unwrap();
        assert_eq!(
            (reply.text.as_str(), reply.reasoning.as_deref()),
            ("Yes", Some("hm"))
        );
        assert_eq!(
            (reply.finish, reply.prompt_tokens),
            (Some(Finish::Length), 3)
        );
        for (body, words) in [
            ("{\"choices\":[{\"mess", "not the JSON"),
            ("{\"error\":{\"message\":\"overloaded\"}}", "overloaded"),
            ("{\"choices\":[]}", "no choice"),
            ("[]", "not the JSON"),
            ("\"fine\"", "not the JSON"),
        ] {
            let message = parse(body).unwrap_err();
            assert!(message.contains(words), "{body}: {message}");
        }
    }

    #[test]
    fn malformed_log_probabilities_are_none() {
        let body = |logprobs: &str| {
            format!(r#"{{"choices":[{{"message":{{"content":"A"}},"logprobs":{logprobs}}}]}}"#)
        };
        let good = r#"{"content":[{"token":"A","logprob":-0.1,"top_logprobs":[{"token":"A","logprob":-0.1},{"token":"B","logprob":-2.4}]}]}"#;
        assert_eq!(
            parse(&body(good)).unwrap().positions.unwrap()[0].top.len(),
            2
        );
        for bad in [
            "null",
            "{}",
            r#"{"content":[]}"#,
            r#"{"content":[{"token":"A","logprob":5}]}"#,
            r#"{"content":[{"token":"A","logprob":"x"}]}"#,
            r#"{"content":[{"logprob":-1}]}"#,
            // Two certainties at one place: the mass is 2.
            r#"{"content":[{"token":"A","logprob":0,"top_logprobs":[{"token":"A","logprob":0},{"token":"B","logprob":0}]}]}"#,
        ] {
            assert_eq!(parse(&body(bad)).unwrap().positions, None, "{bad}");
        }
    }
}
