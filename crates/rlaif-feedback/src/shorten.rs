//! Inputs that do not fit: all responses are shortened by the same share, never one alone, so
//! that length decides nothing by what the judge is not shown.

use rlaif_core::{LanguageModel, Message, Prompt, Shortened};

use crate::error::FeedbackError;

/// How much a judge may be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Characters of prompt and responses together.
    pub chars: Option<usize>,
    /// Tokens of them, by the model's tokenizer.
    pub tokens: Option<usize>,
}

/// A prompt and its responses as they are shown.
pub(crate) struct Shown {
    pub prompt: Prompt,
    pub responses: Vec<String>,
    pub shortened: Option<Shortened>,
}

/// Shortens what does not fit. The prompt keeps at least half of the room, if it needs it.
///
/// # Errors
/// [`FeedbackError::NoTokenizer`] for a limit in tokens on a model whose tokenizer is not known.
pub(crate) fn fit(
    room: Room,
    model: &dyn LanguageModel,
    prompt: &Prompt,
    responses: &[&str],
) -> Result<Shown, FeedbackError> {
    let whole = |shortened| Shown {
        prompt: prompt.clone(),
        responses: responses.iter().map(|r| (*r).to_owned()).collect(),
        shortened,
    };
    let text = prompt.to_text();
    let of_prompt = text.chars().count();
    let of_responses: usize = responses.iter().map(|r| r.chars().count()).sum();
    let mut most = room.chars.unwrap_or(usize::MAX);
    if let Some(limit) = room.tokens {
        let count = |text: &str| {
            model
                .count_tokens(text)
                .ok_or_else(|| FeedbackError::NoTokenizer {
                    model: model.id().to_string(),
                })
        };
        let mut tokens = count(&text)?;
        for response in responses {
            tokens += count(response)?;
        }
        if tokens > limit {
            // In proportion: what is cut has about as many characters a token as what is kept.
            let share = limit as f64 / tokens as f64;
            most = most.min(((of_prompt + of_responses) as f64 * share) as usize);
        }
    }
    if of_prompt + of_responses <= most {
        return Ok(whole(None));
    }
    let for_prompt = of_prompt.min((most / 2).max(most.saturating_sub(of_responses)));
    let share = |kept: usize, of: usize| {
        if of == 0 {
            1.0
        } else {
            (kept as f64 / of as f64).min(1.0)
        }
    };
    let shortened = Shortened {
        prompt: share(for_prompt, of_prompt),
        responses: share(most - for_prompt, of_responses),
    };
    let mut shown = whole(Some(shortened));
    shown.prompt = cut_prompt(prompt, shortened.prompt);
    for response in &mut shown.responses {
        *response = cut(response, shortened.responses);
    }
    Ok(shown)
}

/// The beginning of a text, with a word on what is left out.
fn cut(text: &str, share: f64) -> String {
    let n = text.chars().count();
    let kept = (n as f64 * share).floor() as usize;
    if kept >= n {
        return text.to_owned();
    }
    let head: String = text.chars().take(kept).collect();
    format!("{head} [{} characters left out]", n - kept)
}

/// Every turn is cut alike: the last one asks, and the first ones may say what about.
fn cut_prompt(prompt: &Prompt, share: f64) -> Prompt {
    Prompt(
        prompt
            .0
            .iter()
            .map(|m| Message {
                role: m.role,
                content: cut(&m.content, share),
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use rlaif_core::script::ScriptedModel;

    use super::*;

    fn shown(room: Room, prompt: &str, responses: &[&str]) -> Result<Shown, FeedbackError> {
        let model = ScriptedModel::new("m", |_| Ok("A".into()));
        fit(room, &model, &Prompt::from(prompt), responses)
    }

    #[test]
    fn both_responses_lose_the_same_share() {
        let room = Room {
            chars: Some(400),
            tokens: None,
        };
        // 100 + 600 + 200 characters into 400: the prompt keeps its 100, the responses 300 of 800.
        let got = shown(
            room,
            &"p".repeat(100),
            &[&"a".repeat(600), &"b".repeat(200)],
        )
        .unwrap();
        let share = got.shortened.unwrap();
        assert_eq!((share.prompt, share.responses), (1.0, 0.375));
        assert!(got.responses[0].starts_with(&"a".repeat(225)));
        assert!(got.responses[1].starts_with(&"b".repeat(75)));
        assert!(got.responses[1].ends_with("[125 characters left out]"));
        // What fits is left alone.
        assert!(shown(room, "p", &["a", "b"]).unwrap().shortened.is_none());
    }

    #[test]
    fn a_limit_in_tokens_needs_a_tokenizer() {
        let room = Room {
            chars: None,
            tokens: Some(100),
        };
        let error = shown(room, "p", &["a"]).err().unwrap().to_string();
        assert!(error.contains("max_input_chars"), "{error}");
    }
}
