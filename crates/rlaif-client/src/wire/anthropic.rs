//! Anthropic's Messages: the system prompt stands apart, and there are neither log-probabilities
//! nor seeds.

use rlaif_core::Finish;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Reply, Unusable, error_text, shorten};

/// Tokens asked for where the caller sets no limit: the API wants one.
const MOST_TOKENS: u64 = 4096;

/// The body in Anthropic's form.
pub(super) fn encode(mut fields: Map<String, Value>) -> Map<String, Value> {
    let mut system = Vec::new();
    let mut turns = Vec::new();
    if let Some(Value::Array(messages)) = fields.remove("messages") {
        for message in messages {
            if message["role"] == "system" {
                system.push(message["content"].as_str().unwrap_or_default().to_owned());
            } else {
                turns.push(message);
            }
        }
    }
    fields.insert("messages".into(), turns.into());
    if !system.is_empty() {
        fields.insert("system".into(), system.join("\n\n").into());
    }
    if let Some(stop) = fields.remove("stop") {
        fields.insert("stop_sequences".into(), stop);
    }
    // Its temperatures end at 1.
    if let Some(t) = fields.get("temperature").and_then(Value::as_f64)
        && t > 1.0
    {
        fields.insert("temperature".into(), 1.0.into());
    }
    if !fields.contains_key("max_tokens") {
        fields.insert("max_tokens".into(), MOST_TOKENS.into());
    }
    fields
}

#[derive(Deserialize)]
struct RawReply {
    content: Option<Vec<Block>>,
    stop_reason: Option<String>,
    usage: Option<RawUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    thinking: String,
}

#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
}

/// Reads a body that came with status 200.
pub(super) fn parse(body: &str) -> Result<Reply, Unusable> {
    let raw: RawReply = serde_json::from_str(body)
        .map_err(|e| Unusable::charged(format!("the answer is not the JSON of a message ({e})")))?;
    if let Some(error) = raw.error.filter(|e| !e.is_null()) {
        return Err(Unusable::free(format!(
            "the answer holds an error: {}",
            shorten(&error_text(&error))
        )));
    }
    let blocks = raw
        .content
        .ok_or_else(|| Unusable::charged("the answer holds no content"))?;
    let mut reply = Reply::default();
    let mut reasoning = String::new();
    for block in blocks {
        match block.kind.as_str() {
            "text" => reply.text.push_str(&block.text),
            "thinking" => reasoning.push_str(&block.thinking),
            _ => {}
        }
    }
    reply.reasoning = (!reasoning.is_empty()).then_some(reasoning);
    match raw.stop_reason.as_deref() {
        Some("max_tokens" | "model_context_window_exceeded") => {
            reply.finish = Some(Finish::Length);
        }
        Some("refusal") => {
            reply.finish = Some(Finish::ContentFilter);
            reply.refusal = Some(reply.text.clone());
        }
        _ => reply.finish = Some(Finish::Stop),
    }
    if let Some(usage) = raw.usage {
        reply.prompt_tokens = usage.input_tokens
            + usage.cache_creation_input_tokens.unwrap_or(0)
            + usage.cache_read_input_tokens.unwrap_or(0);
        reply.completion_tokens = usage.output_tokens;
        reply.counted = reply.prompt_tokens > 0;
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_system_prompt_stands_apart() {
        let fields = json!({"model": "m", "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "temperature": 1.5, "stop": ["\n"], "max_tokens": 7});
        let body = encode(fields.as_object().cloned().unwrap_or_default());
        assert_eq!(
            Value::Object(body),
            json!({"model": "m", "temperature": 1.0, "max_tokens": 7,
                "messages": [{"role": "user", "content": "Hi"}], "system": "Be brief.",
                "stop_sequences": ["\n"]})
        );
    }

    #[test]
    fn answers_and_what_is_none() {
        let reply = parse(
            r#"{"content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"(A)"}],
                "stop_reason":"max_tokens","usage":{"input_tokens":3,"cache_read_input_tokens":4,"output_tokens":2}}"#,
        )
        .unwrap();
        assert_eq!((reply.text.as_str(), reply.prompt_tokens), ("(A)", 7));
        assert_eq!(reply.finish, Some(Finish::Length));
        assert_eq!(reply.reasoning.as_deref(), Some("hm"));
        let refusal = parse(r#"{"content":[],"stop_reason":"refusal"}"#).unwrap();
        assert!(refusal.refusal.is_some() && !refusal.counted);
        let error =
            parse(r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#);
        let error = error.unwrap_err();
        assert!(error.message.contains("busy") && !error.charged);
        assert!(parse("{\"content\": [").unwrap_err().charged);
    }
}
