//! What it answers: a verdict where log-probabilities or a choice are wanted, else a sentence.

use std::fmt::Write;

/// True where the request asks for log-probabilities.
pub(crate) fn wants_logprobs(body: &[u8]) -> bool {
    find(body, b"\"logprobs\":true", 0).is_some()
}

fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    haystack
        .get(from..)?
        .windows(needle.len())
        .position(|w| w == needle)
        .map(|at| at + from)
}

/// FNV-1a, so that the same request gives the same answer in every process.
pub(crate) fn hash(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The numbers behind `worth:`, in their order.
fn worths(body: &[u8]) -> Vec<f64> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = find(body, b"worth:", from) {
        let digits: String = body[at + 6..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .map(|b| char::from(*b))
            .collect();
        found.extend(digits.parse::<f64>());
        from = at + 6;
    }
    found
}

/// Probability that what is shown first is better, where two worths are shown.
pub(crate) fn p_first(body: &[u8], bias: f64) -> Option<f64> {
    match worths(body).as_slice() {
        [.., a, b] => Some(1.0 / (1.0 + (-(0.5 * (a - b) + bias)).exp())),
        _ => None,
    }
}

fn text_of(body: &[u8], p_first: Option<f64>) -> String {
    match p_first {
        Some(p) if p > 0.5 => "(A)".into(),
        Some(_) => "(B)".into(),
        None => format!("A considered answer, number {:x}.", hash(body)),
    }
}

/// A chat completion.
pub(crate) fn completion(
    body: &[u8],
    p_first: Option<f64>,
    logprobs: bool,
    longer: bool,
    prompt: u64,
    generated: u64,
) -> String {
    let mut out = String::with_capacity(4096);
    let verdict = p_first.filter(|_| logprobs);
    let text = match verdict {
        Some(p) if p > 0.5 => "A".into(),
        Some(_) => "B".into(),
        None => text_of(body, p_first),
    };
    let _ = write!(
        out,
        r#"{{"id":"chatcmpl-{:x}","object":"chat.completion","model":"standin","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop","logprobs":"#,
        hash(body)
    );
    match verdict {
        None => out.push_str("null"),
        Some(p) => {
            let mut top = String::with_capacity(1600);
            // JSON has no infinity.
            let (la, lb) = (p.ln().max(-40.0), (1.0 - p).ln().max(-40.0));
            let entry = |top: &mut String, token: &str, logprob: f64| {
                let comma = if top.is_empty() { "" } else { "," };
                let _ = write!(
                    top,
                    r#"{comma}{{"token":"{token}","logprob":{logprob},"bytes":[{}]}}"#,
                    token.as_bytes().first().copied().unwrap_or(0)
                );
            };
            entry(&mut top, "A", la);
            entry(&mut top, "B", lb);
            for i in 0..18u8 {
                // Others, too unlikely to change the sum in double precision.
                entry(
                    &mut top,
                    &char::from(b'C' + i).to_string(),
                    -40.0 - f64::from(i),
                );
            }
            let chosen = la.max(lb);
            let token = format!(
                r#"{{"token":"{text}","logprob":{chosen},"bytes":[65],"top_logprobs":[{top}]}}"#
            );
            out.push_str(r#"{"content":["#);
            out.push_str(&token);
            if longer {
                // Ten tokens where one was generated.
                for _ in 0..9 {
                    out.push(',');
                    out.push_str(&token);
                }
            }
            out.push_str("]}");
        }
    }
    let _ = write!(
        out,
        r#"}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{generated},"total_tokens":{}}}}}"#,
        prompt + generated
    );
    out
}

/// One of Anthropic's messages.
pub(crate) fn message(body: &[u8], p_first: Option<f64>, prompt: u64, generated: u64) -> String {
    format!(
        r#"{{"id":"msg_{:x}","type":"message","role":"assistant","model":"standin","content":[{{"type":"text","text":"{}"}}],"stop_reason":"end_turn","usage":{{"input_tokens":{prompt},"output_tokens":{generated}}}}}"#,
        hash(body),
        text_of(body, p_first)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_truth_and_the_bias_are_as_planted() {
        let body = br#"{"logprobs":true,"messages":[{"content":"worth:5 then worth:2"}]}"#;
        // Half a logit for each of three points, and one towards the first: sigma(2.5).
        assert!((p_first(body, 1.0).unwrap() - 0.924_142).abs() < 1e-6);
        let text = completion(body, p_first(body, 1.0), true, false, 10, 3);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let top = &value["choices"][0]["logprobs"]["content"][0]["top_logprobs"];
        assert_eq!(top.as_array().unwrap().len(), 20);
        assert!((top[0]["logprob"].as_f64().unwrap().exp() - 0.924_142).abs() < 1e-6);
        let value: serde_json::Value = serde_json::from_str(&message(b"{}", None, 10, 3)).unwrap();
        assert_eq!(value["usage"]["output_tokens"], 3);
    }
}
