//! One call to a model, with its failure turned into an outcome.

use std::sync::Arc;

use rlaif_core::choice::split_reasoning;
use rlaif_core::{
    CallContext, Finish, ItemId, Message, Model, ModelError, Outcome, Role, SampleRequest,
    Sampling, Usage, seed,
};
use serde_json::Value;

use crate::error::FeedbackError;

/// An answer's text, or how it failed.
pub(crate) struct Answer {
    pub text: String,
    /// What a reasoning model thought, kept apart.
    pub reasoning: String,
    /// The text ends at the token limit.
    pub cut: bool,
    pub outcome: Outcome,
    pub error: Option<String>,
    /// The prompt does not fit the model: tokens asked for and tokens that it takes.
    pub too_long: Option<(u64, u64)>,
    pub usage: Usage,
}

/// How a failed call counts. Errors after which asking on is useless are returned instead.
pub(crate) fn outcome_of(error: ModelError) -> Result<Answer, FeedbackError> {
    if error.is_fatal() || matches!(error, ModelError::BudgetReached | ModelError::Stopped) {
        return Err(FeedbackError::Stop(error));
    }
    let message = Some(error.to_string());
    let too_long = match error {
        ModelError::ContextTooLong { tokens, limit } => Some((tokens, limit)),
        _ => None,
    };
    let (text, outcome, usage) = match error {
        ModelError::Refused { text } => (text, Outcome::Refused, Usage::default()),
        ModelError::Unparseable {
            text,
            truncated: true,
            usage,
        } => (text, Outcome::Truncated, usage),
        ModelError::Unparseable { text, usage, .. } => (text, Outcome::Unparseable, usage),
        _ => (String::new(), Outcome::Failed, Usage::default()),
    };
    Ok(Answer {
        text,
        reasoning: String::new(),
        cut: outcome == Outcome::Truncated,
        outcome,
        error: message,
        too_long,
        usage,
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

/// Samples one answer. A last turn of the assistant is the answer's beginning. Empty text counts as
/// unparseable: there is nothing to use. What a model in memory thinks aloud is kept apart here, as
/// a client keeps it apart for an endpoint.
pub(crate) async fn sample(
    model: &Model,
    messages: Vec<Message>,
    sampling: &Sampling,
    cx: &CallContext,
) -> Result<Answer, FeedbackError> {
    sample_held_to(model, messages, sampling, None, cx).await
}

/// As [`sample`], held to a JSON Schema where the model can be.
pub(crate) async fn sample_held_to(
    model: &Model,
    messages: Vec<Message>,
    sampling: &Sampling,
    schema: Option<Arc<Value>>,
    cx: &CallContext,
) -> Result<Answer, FeedbackError> {
    let (messages, prefill) = with_prefill(messages);
    let request = SampleRequest {
        messages: Arc::from(messages),
        prefill,
        sampling: sampling.clone(),
        schema,
    };
    match model.sample(&request, cx).await {
        Err(error) => outcome_of(error),
        Ok(completion) => {
            let (thought, visible) = split_reasoning(&completion.text);
            let text = visible.trim().to_owned();
            let reasoning = completion.reasoning.clone();
            let reasoning = reasoning.or_else(|| thought.map(str::to_owned));
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
                reasoning: reasoning.unwrap_or_default(),
                cut: completion.finish == Finish::Length,
                outcome,
                error,
                too_long: None,
                usage: completion.usage,
            })
        }
    }
}

/// Parts a last turn of the assistant, with which the answer begins, from the conversation.
pub(crate) fn with_prefill(mut messages: Vec<Message>) -> (Vec<Message>, Option<String>) {
    match messages.pop() {
        Some(last) if last.role == Role::Assistant => (messages, Some(last.content)),
        last => {
            messages.extend(last);
            (messages, None)
        }
    }
}
