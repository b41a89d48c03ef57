//! One call to a model, with its failure turned into an outcome.

use std::sync::Arc;

use rlaif_core::{
    CallContext, Finish, ItemId, Message, Model, ModelError, Outcome, SampleRequest, Sampling,
    Usage, seed,
};

use crate::error::FeedbackError;

/// An answer's text, or how it failed.
pub(crate) struct Answer {
    pub text: String,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub usage: Usage,
}

/// How a failed call counts. Errors after which asking on is useless are returned instead.
pub(crate) fn outcome_of(error: ModelError) -> Result<Answer, FeedbackError> {
    if error.is_fatal() || matches!(error, ModelError::BudgetReached) {
        return Err(FeedbackError::Stop(error));
    }
    let message = Some(error.to_string());
    Ok(match error {
        ModelError::Refused { text } => Answer {
            text,
            outcome: Outcome::Refused,
            error: message,
            usage: Usage::default(),
        },
        ModelError::Unparseable {
            text,
            truncated,
            usage,
        } => Answer {
            text,
            outcome: if truncated {
                Outcome::Truncated
            } else {
                Outcome::Unparseable
            },
            error: message,
            usage,
        },
        _ => Answer {
            text: String::new(),
            outcome: Outcome::Failed,
            error: message,
            usage: Usage::default(),
        },
    })
}

/// The context of one call: its seed derives from the run's, the item and what the call is for.
pub(crate) fn context(stage: &str, row: &str, draw: u32, seed: u64, what: &str) -> CallContext {
    let call_seed = seed::derive(seed, &[stage, row, &draw.to_string(), what]);
    CallContext::new(
        ItemId {
            stage: stage.into(),
            row: row.into(),
            draw,
        },
        call_seed,
    )
}

/// Samples one answer. Empty text counts as unparseable: there is nothing to use.
pub(crate) async fn sample(
    model: &Model,
    messages: Vec<Message>,
    sampling: &Sampling,
    cx: &CallContext,
) -> Result<Answer, FeedbackError> {
    let request = SampleRequest {
        messages: Arc::from(messages),
        prefill: None,
        sampling: sampling.clone(),
    };
    match model.sample(&request, cx).await {
        Err(error) => outcome_of(error),
        Ok(completion) => {
            let text = completion.text.trim().to_owned();
            let (outcome, error) = match completion.finish {
                Finish::ContentFilter => (
                    Outcome::Refused,
                    Some("the provider withheld the answer".to_owned()),
                ),
                Finish::Length if text.is_empty() => (
                    Outcome::Truncated,
                    Some("the token limit was reached before any answer".to_owned()),
                ),
                _ if text.is_empty() => {
                    (Outcome::Unparseable, Some("the answer is empty".to_owned()))
                }
                _ => (Outcome::Decided, None),
            };
            Ok(Answer {
                text,
                outcome,
                error,
                usage: completion.usage,
            })
        }
    }
}
