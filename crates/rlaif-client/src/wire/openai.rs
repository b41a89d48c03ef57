//! What goes over the line: OpenAI's chat completions, as its many imitators write them.

use rlaif_core::{Finish, Message};
use serde::Deserialize;
use serde::de::MapAccess;
use serde_json::Value;

use super::loose::{Kind, Loose, object_of};
use super::{Object, Position, Reply, Unusable, error_text, shorten};

/// Writes a conversation into a request's body.
pub(crate) fn converse(body: &mut Object<'_>, messages: &[Message], prefill: Option<&str>) {
    match (prefill, messages.split_last()) {
        // Chat endpoints have no common way to begin the answer's text, so the beginning is shown at
        // the end of the last turn, where the model reads it last.
        (Some(prefill), Some((last, before))) => {
            let last = Message {
                role: last.role,
                content: format!("{}\n{prefill}", last.content),
            };
            let turns: Vec<&Message> = before.iter().chain([&last]).collect();
            body.set("messages", &turns);
        }
        _ => body.set("messages", messages),
    }
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
    #[serde(default)]
    logprobs: Loose<RawLogprobs>,
}

/// Log-probabilities, which a server may leave out or write in a way of its own.
#[derive(Deserialize)]
struct RawLogprobs {
    #[serde(default)]
    content: Loose<Vec<Loose<RawToken>>>,
}

#[derive(Deserialize)]
struct RawToken {
    #[serde(default)]
    token: Loose<String>,
    #[serde(default)]
    logprob: Loose<f64>,
    #[serde(default)]
    top_logprobs: Loose<Vec<Loose<RawToken>>>,
}

impl<'de> Kind<'de> for RawLogprobs {
    fn object<A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        object_of(map)
    }
}

impl<'de> Kind<'de> for RawToken {
    fn object<A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        object_of(map)
    }
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
/// [`Unusable`] where it is not an answer: half a JSON, an error in an answer's place, no choice.
pub(super) fn parse(body: &str) -> Result<Reply, Unusable> {
    let raw: RawReply = serde_json::from_str(body).map_err(|e| {
        Unusable::charged(format!(
            "the answer is not the JSON of a chat completion ({e})"
        ))
    })?;
    if let Some(error) = raw.error.filter(|e| !e.is_null()) {
        return Err(Unusable::free(format!(
            "the answer holds an error: {}",
            shorten(&error_text(&error))
        )));
    }
    let choice = raw
        .choices
        .into_iter()
        .next()
        .ok_or_else(|| Unusable::charged("the answer holds no choice"))?;
    let message = choice
        .message
        .ok_or_else(|| Unusable::charged("the answer's choice holds no message"))?;
    let mut text = message.content.unwrap_or_default();
    let mut reasoning = message.reasoning_content.filter(|r| !r.is_empty());
    let raw_text_len = text.len();
    if let (Some(thought), visible) = rlaif_core::choice::split_reasoning(&text) {
        reasoning.get_or_insert_with(|| thought.to_owned());
        text = visible.trim_start().to_owned();
    }
    let content = choice.logprobs.is().map_or(Loose::Absent, |l| l.content);
    let told = !matches!(content, Loose::Absent);
    let found = content.is().and_then(positions);
    // A list that belongs to another text: neither its length nor its words are the answer's.
    let fits = |positions: &Vec<Position>| {
        let counted = raw
            .usage
            .as_ref()
            .is_none_or(|u| u.completion_tokens.abs_diff(positions.len() as u64) <= 1);
        counted || positions.iter().map(|p| p.token.len()).sum::<usize>() == raw_text_len
    };
    let found = found.filter(fits);
    let malformed = told && found.is_none();
    Ok(Reply {
        // Where text was taken off the front, positions no longer line up with it.
        positions: found.filter(|_| reasoning.is_none()),
        malformed,
        text,
        reasoning,
        refusal: message.refusal.filter(|r| !r.is_empty()),
        finish: choice.finish_reason.as_deref().map(|reason| match reason {
            "length" | "max_tokens" => Finish::Length,
            "content_filter" => Finish::ContentFilter,
            _ => Finish::Stop,
        }),
        // A server that counts nothing leaves zeros: no prompt has no tokens.
        counted: raw.usage.as_ref().is_some_and(|u| u.prompt_tokens > 0),
        vector: Vec::new(),
        prompt_tokens: raw.usage.as_ref().map_or(0, |u| u.prompt_tokens),
        completion_tokens: raw.usage.as_ref().map_or(0, |u| u.completion_tokens),
    })
}

/// The positions, or nothing where any of them is malformed: a probability that cannot be one
/// (above 1, not a number) says that the rest cannot be trusted either.
fn positions(content: Vec<Loose<RawToken>>) -> Option<Vec<Position>> {
    let entry = |token: Loose<String>, logprob: Loose<f64>| -> Option<(String, f64)> {
        let (token, logprob) = (token.is()?, logprob.is()?);
        // A rounded probability of 1 may come out a hair above 0.
        (logprob <= 1e-3 && !logprob.is_nan()).then(|| (token, logprob.min(0.0)))
    };
    let mut positions = Vec::with_capacity(content.len());
    for at in content {
        let at = at.is()?;
        let (token, logprob) = entry(at.token, at.logprob)?;
        let listed = at.top_logprobs.is().unwrap_or_default().into_iter();
        let listed = listed.map(|t| t.is().and_then(|t| entry(t.token, t.logprob)));
        let mut top: Vec<(String, f64)> = listed.collect::<Option<_>>()?;
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
            let message = parse(body).unwrap_err().message;
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
            "false",
            "\"none\"",
            r#"{"content":null}"#,
            r#"{"content":[]}"#,
            r#"{"content":["A", 3]}"#,
            r#"{"content":[{"token":["A"],"logprob":-1}]}"#,
            r#"{"content":[{"token":"A","logprob":-1,"top_logprobs":[{"token":null,"logprob":-1}]}]}"#,
            r#"{"content":[{"token":"A","logprob":5}]}"#,
            r#"{"content":[{"token":"A","logprob":"x"}]}"#,
            r#"{"content":[{"logprob":-1}]}"#,
            // Two certainties at one place: the mass is 2.
            r#"{"content":[{"token":"A","logprob":0,"top_logprobs":[{"token":"A","logprob":0},{"token":"B","logprob":0}]}]}"#,
        ] {
            let reply = parse(&body(bad)).unwrap();
            assert_eq!(reply.positions, None, "{bad}");
            assert_eq!(reply.malformed, bad.contains('['), "{bad}");
        }
        // Alternatives in another form are none, and the token that was taken is left.
        let odd = r#"{"content":[{"token":"A","logprob":-0.1,"top_logprobs":{"B":-2.0}}]}"#;
        let left = parse(&body(odd)).unwrap().positions.unwrap();
        assert_eq!(left[0].top, [("A".to_owned(), -0.1)]);
        // Well-formed, and about another text: three tokens where one was generated.
        let body = r#"{"choices":[{"message":{"content":"A"},"logprobs":{"content":[
            {"token":"So","logprob":-0.1},{"token":" A","logprob":-0.1},{"token":"B","logprob":-1}]}}],
            "usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
        let reply = parse(body).unwrap();
        assert!(reply.malformed && reply.positions.is_none());
    }
}
