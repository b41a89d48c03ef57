//! What goes over the line: OpenAI's embeddings, which vLLM, SGLang, llama.cpp, Ollama and TEI speak
//! too. One text a request.

use serde::Deserialize;
use serde_json::Value;

use super::{Reply, Unusable, error_text, shorten};

#[derive(Deserialize)]
struct RawReply {
    #[serde(default)]
    data: Vec<RawEmbedding>,
    usage: Option<RawUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct RawEmbedding {
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    prompt_tokens: u64,
}

/// Reads a body that came with status 200.
///
/// # Errors
/// [`Unusable`] where it holds no vector, or one without a direction: not finite, or all zeros.
pub(super) fn parse(body: &str) -> Result<Reply, Unusable> {
    let raw: RawReply = serde_json::from_str(body).map_err(|e| {
        Unusable::charged(format!("the answer is not the JSON of embeddings ({e})"))
    })?;
    if let Some(error) = raw.error.filter(|e| !e.is_null()) {
        return Err(Unusable::free(format!(
            "the answer holds an error: {}",
            shorten(&error_text(&error))
        )));
    }
    let first = raw.data.into_iter().next();
    let vector = first.map(|d| d.embedding).unwrap_or_default();
    let squares: f32 = vector.iter().map(|x| x * x).sum();
    if !(squares > 0.0 && squares.is_finite()) {
        return Err(Unusable::charged(
            "the answer holds no vector with a direction",
        ));
    }
    let prompt_tokens = raw.usage.map_or(0, |u| u.prompt_tokens);
    Ok(Reply {
        vector,
        counted: prompt_tokens > 0,
        prompt_tokens,
        ..Reply::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_or_why_there_is_none() {
        let body = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-1.0]}],
            "model":"m","usage":{"prompt_tokens":4,"total_tokens":4}}"#;
        let reply = parse(body).unwrap();
        assert_eq!((reply.vector, reply.prompt_tokens), (vec![0.5, -1.0], 4));
        for (body, words) in [
            (r#"{"data":[]}"#, "no vector"),
            (r#"{"data":[{"embedding":[]}]}"#, "no vector"),
            (r#"{"data":[{"embedding":[0,0]}]}"#, "no vector"),
            (r#"{"data":[{"embedding":[1e30,1e30]}]}"#, "no vector"),
            (r#"{"data":[{"embedding":["a"]}]}"#, "not the JSON"),
            (r#"{"data":[{"embed"#, "not the JSON"),
            (r#"{"error":{"message":"overloaded"}}"#, "overloaded"),
        ] {
            let message = parse(body).unwrap_err().message;
            assert!(message.contains(words), "{body}: {message}");
        }
    }
}
