//! Inputs that do not fit: all responses are shortened by the same share, never one alone, so
//! that length decides nothing by what the judge is not shown.
//!
//! Room is what the recipe gives, or what is left once a model says that a prompt does not fit it
//! ([`Room::after`]).

use rlaif_core::{LanguageModel, Message, Prompt, Shortened};

use crate::error::FeedbackError;

/// Characters below which nothing is worth judging.
pub(crate) const LEAST_CHARS: usize = 100;
/// How often a prompt that a model finds too long is shortened and sent again: its tokens are
/// estimated from characters, and an estimate may fall short.
pub(crate) const ATTEMPTS: u32 = 4;

/// How much a judge may be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Characters of prompt and responses together.
    pub chars: Option<usize>,
    /// Tokens of them, by the model's tokenizer.
    pub tokens: Option<usize>,
}

/// A model's word that a prompt does not fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    /// Tokens asked for; 0 where it did not say.
    pub tokens: u64,
    /// Tokens that it takes; 0 where it did not say.
    pub limit: u64,
    /// Characters of the whole prompt that was sent.
    pub sent: usize,
}

impl Room {
    /// The room that a model leaves which refused `shown` characters of prompt and responses;
    /// `None` where too little would be left. What is cut has about as many characters a token as
    /// the whole; a tenth more is cut, and half where the model gave no numbers.
    pub(crate) fn after(shown: usize, told: TooLong) -> Option<Room> {
        let cut = match told.tokens.checked_sub(told.limit) {
            Some(over) if over > 0 && told.limit > 0 => {
                let wide = 11 * u128::from(over) * told.sent as u128;
                let tenth_more = wide.div_ceil(10 * u128::from(told.tokens));
                usize::try_from(tenth_more).ok()?.checked_add(32)?
            }
            _ => shown / 2,
        };
        let chars = shown.checked_sub(cut)?;
        (chars >= LEAST_CHARS).then_some(Room {
            chars: Some(chars),
            tokens: None,
        })
    }
}

/// A prompt and its responses as they are shown.
pub(crate) struct Shown {
    pub prompt: Prompt,
    pub responses: Vec<String>,
    pub shortened: Option<Shortened>,
}

impl Shown {
    /// Characters of prompt and responses.
    pub(crate) fn chars(&self) -> usize {
        let of_responses: usize = self.responses.iter().map(|r| r.chars().count()).sum();
        self.prompt.to_text().chars().count() + of_responses
    }

    fn of(prompt: &Prompt, responses: &[&str], shortened: Option<Shortened>) -> Self {
        let mut shown = Shown {
            prompt: prompt.clone(),
            responses: responses.iter().map(|r| (*r).to_owned()).collect(),
            shortened,
        };
        if let Some(share) = shortened {
            shown.prompt = cut_prompt(prompt, share.prompt);
            for response in &mut shown.responses {
                *response = cut(response, share.responses);
            }
        }
        shown
    }
}

/// Shortens what does not fit where all responses are shown together. The prompt keeps at least half
/// of the room, if it needs it.
///
/// # Errors
/// [`FeedbackError::NoTokenizer`] for a limit in tokens on a model whose tokenizer is not known.
pub(crate) fn fit(
    room: Room,
    model: &dyn LanguageModel,
    prompt: &Prompt,
    responses: &[&str],
) -> Result<Shown, FeedbackError> {
    let share = share(room, model, prompt, responses)?;
    Ok(Shown::of(prompt, responses, share))
}

/// Shortens what does not fit where each response is shown by itself: what the one that fits least
/// loses, all lose.
///
/// # Errors
/// As [`fit`].
pub(crate) fn fit_alone(
    room: Room,
    model: &dyn LanguageModel,
    prompt: &Prompt,
    responses: &[&str],
) -> Result<Shown, FeedbackError> {
    let mut least: Option<Shortened> = None;
    for response in responses {
        if let Some(share) = share(room, model, prompt, &[response])? {
            least = Some(least.map_or(share, |least| Shortened {
                prompt: least.prompt.min(share.prompt),
                responses: least.responses.min(share.responses),
            }));
        }
    }
    Ok(Shown::of(prompt, responses, least))
}

/// The shares that fit; `None` where all does.
fn share(
    room: Room,
    model: &dyn LanguageModel,
    prompt: &Prompt,
    responses: &[&str],
) -> Result<Option<Shortened>, FeedbackError> {
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
        return Ok(None);
    }
    let for_prompt = of_prompt.min((most / 2).max(most.saturating_sub(of_responses)));
    let share = |kept: usize, of: usize| {
        if of == 0 {
            1.0
        } else {
            (kept as f64 / of as f64).min(1.0)
        }
    };
    Ok(Some(Shortened {
        prompt: share(for_prompt, of_prompt),
        responses: share(most - for_prompt, of_responses),
    }))
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
    fn responses_shown_by_themselves_lose_what_the_longest_loses() {
        let room = Room {
            chars: Some(400),
            tokens: None,
        };
        let model = ScriptedModel::new("m", |_| Ok("A".into()));
        let (long, short) = ("a".repeat(600), "b".repeat(200));
        let prompt = Prompt::from("p".repeat(100).as_str());
        // The prompt's 100 leave 300 for 600; the other one, which would fit, is halved as well.
        let got = fit_alone(room, &model, &prompt, &[&long, &short]).unwrap();
        let share = got.shortened.unwrap();
        assert_eq!((share.prompt, share.responses), (1.0, 0.5));
        assert!(got.responses[1].starts_with(&"b".repeat(100)));
        assert!(got.responses[1].ends_with("[100 characters left out]"));
    }

    #[test]
    fn a_model_that_says_by_how_much_is_believed_with_a_tenth_more() {
        let told = |tokens, limit| TooLong {
            tokens,
            limit,
            sent: 3_000,
        };
        // 100 tokens over, of 3 characters each: 330, and 32.
        let room = Room::after(2_000, told(1_000, 900)).unwrap();
        assert_eq!(room.chars, Some(2_000 - 330 - 32));
        // Without numbers, half.
        assert_eq!(Room::after(2_000, told(0, 0)).unwrap().chars, Some(1_000));
        // What would be left is no response any more.
        assert_eq!(Room::after(420, told(1_000, 900)), None);
        assert_eq!(Room::after(150, told(0, 0)), None);
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
