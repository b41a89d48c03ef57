//! Scripted models: a closure in a model's place, for tests, examples and users' own rules.

use crate::choice::read_choice;
use crate::message::Message;
use crate::model::{
    BoxFuture, CallContext, Capabilities, ChoiceLogprobs, ChoiceRequest, Completion, Evidence,
    Finish, LanguageModel, ModelError, ModelId, SampleRequest, Usage,
};

type Reply = dyn Fn(&[Message]) -> Result<String, ModelError> + Send + Sync;
type Probabilities = dyn Fn(&[Message]) -> Result<Vec<f64>, ModelError> + Send + Sync;

/// A model that is a function of the conversation.
pub struct ScriptedModel {
    id: ModelId,
    reply: Box<Reply>,
    probabilities: Option<Box<Probabilities>>,
}

impl ScriptedModel {
    /// A model that answers with what `reply` returns. Its choices are read off that answer, as
    /// from an endpoint without log-probabilities: one draw, Laplace-smoothed.
    pub fn new(
        id: &str,
        reply: impl Fn(&[Message]) -> Result<String, ModelError> + Send + Sync + 'static,
    ) -> Self {
        ScriptedModel {
            id: ModelId::new(id),
            reply: Box::new(reply),
            probabilities: None,
        }
    }

    /// Gives the probability of each choice instead of reading the answer.
    #[must_use]
    pub fn with_probabilities(
        mut self,
        probabilities: impl Fn(&[Message]) -> Result<Vec<f64>, ModelError> + Send + Sync + 'static,
    ) -> Self {
        self.probabilities = Some(Box::new(probabilities));
        self
    }

    fn usage() -> Usage {
        Usage {
            calls: 1,
            usd: Some(0.0),
            ..Usage::default()
        }
    }

    fn choose(&self, request: &ChoiceRequest) -> Result<ChoiceLogprobs, ModelError> {
        if let Some(probabilities) = &self.probabilities {
            let p = probabilities(&request.messages)?;
            let sum: f64 = p.iter().sum();
            if p.len() != request.choices.len() || !(sum > 0.0 && sum <= 1.0 + 1e-9) {
                return Err(ModelError::Broken {
                    message: format!(
                        "a scripted model gave {p:?} for {} choices; expected one probability \
                         each, with a sum of at most 1",
                        request.choices.len()
                    ),
                });
            }
            return Ok(ChoiceLogprobs {
                logprobs: p.iter().map(|p| (p / sum).ln() as f32).collect(),
                off_choice_mass: (1.0 - sum).max(0.0) as f32,
                evidence: Evidence::Exact,
                text: String::new(),
                reasoning: None,
                usage: Self::usage(),
            });
        }
        let text = (self.reply)(&request.messages)?;
        let Some(chosen) = read_choice(&text, &request.choices) else {
            return Err(ModelError::Unparseable {
                text,
                truncated: false,
                usage: Self::usage(),
            });
        };
        let n = request.choices.len() as f32;
        // Laplace: one draw counted, one imagined for each choice.
        let logprobs = (0..request.choices.len())
            .map(|i| (if i == chosen { 2.0 } else { 1.0 } / (n + 1.0)).ln())
            .collect();
        Ok(ChoiceLogprobs {
            logprobs,
            off_choice_mass: 0.0,
            evidence: Evidence::Sampled { draws: 1 },
            text,
            reasoning: None,
            usage: Self::usage(),
        })
    }
}

impl LanguageModel for ScriptedModel {
    fn id(&self) -> &ModelId {
        &self.id
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            logprobs: Some(self.probabilities.is_some()),
            prefill: false,
        }
    }

    fn sample<'a>(
        &'a self,
        request: &'a SampleRequest,
        _cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<Completion, ModelError>> {
        Box::pin(async move {
            Ok(Completion {
                text: (self.reply)(&request.messages)?,
                reasoning: None,
                tokens: None,
                finish: Finish::Stop,
                usage: Self::usage(),
            })
        })
    }

    fn choice_logprobs<'a>(
        &'a self,
        request: &'a ChoiceRequest,
        _cx: &'a CallContext,
    ) -> BoxFuture<'a, Result<ChoiceLogprobs, ModelError>> {
        Box::pin(async move { self.choose(request) })
    }
}
