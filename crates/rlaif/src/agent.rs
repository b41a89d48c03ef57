//! The agent: critique, improve and compare answers under a constitution, one call each.

use rlaif_core::{Constitution, Critique, Judgment, Model, Prompt, Revision, seed};
use rlaif_feedback::{
    Critic, CritiqueConfig, FeedbackError, Judge, JudgeConfig, Principles, Rationale, ReviseConfig,
    Reviser,
};

use crate::error::Error;

/// Critiques, improves and compares answers; see [`crate::blocking::RlaifAgent`] for the twin
/// without `async`.
pub struct RlaifAgent {
    base_model: Model,
    critic_model: Model,
    constitution: Constitution,
    critique: CritiqueConfig,
    revise: ReviseConfig,
    judge: JudgeConfig,
    seed: u64,
}

impl RlaifAgent {
    /// An agent whose critic holds answers against the whole constitution, and says why it
    /// prefers one. `base_model` writes revisions, `critic_model` critiques and judges.
    #[must_use]
    pub fn new(base_model: Model, critic_model: Model, constitution: Constitution) -> Self {
        RlaifAgent {
            base_model,
            critic_model,
            constitution,
            critique: CritiqueConfig::default(),
            revise: ReviseConfig::default(),
            judge: JudgeConfig {
                principles: Principles::Whole,
                rationale: Rationale::After,
                ..JudgeConfig::default()
            },
            seed: 0,
        }
    }

    /// Replaces how critiques are made.
    #[must_use]
    pub fn with_critique(mut self, config: CritiqueConfig) -> Self {
        self.critique = config;
        self
    }

    /// Replaces how revisions are made.
    #[must_use]
    pub fn with_revise(mut self, config: ReviseConfig) -> Self {
        self.revise = config;
        self
    }

    /// Replaces how pairs are judged.
    #[must_use]
    pub fn with_judge(mut self, config: JudgeConfig) -> Self {
        self.judge = config;
        self
    }

    /// Replaces the seed (0) from which every random choice derives.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The critic's view of a response: adherence by principle, quality, suggested improvements.
    ///
    /// # Errors
    /// Where the critic cannot be asked at all. An answer that fails is a critique whose
    /// `outcome` says so.
    pub async fn generate_critique(
        &self,
        prompt: impl Into<Prompt>,
        response: &str,
    ) -> Result<Critique, Error> {
        let prompt = prompt.into();
        let critic = Critic {
            model: self.critic_model.clone(),
            constitution: self.constitution.clone(),
            template: rlaif_feedback::critique::shipped(&self.critique)?,
            config: self.critique.clone(),
            seed: self.seed,
        };
        let id = item_id(&prompt, &[response]);
        Ok(rlaif_feedback::critique(&critic, &id, 0, &prompt, response).await?)
    }

    /// The base model's response, rewritten in the light of a critique.
    ///
    /// # Errors
    /// Where the critique failed, is about another prompt or response, or the model cannot be
    /// asked at all.
    pub async fn improve_response(
        &self,
        prompt: impl Into<Prompt>,
        response: &str,
        critique: &Critique,
    ) -> Result<Revision, Error> {
        let prompt = prompt.into();
        if critique.prompt != prompt || critique.response != response {
            return Err(Error::input(
                "the critique is about another prompt or response",
                "pass the prompt and response that the critique was made for",
            ));
        }
        let reviser = Reviser {
            model: self.base_model.clone(),
            constitution: self.constitution.clone(),
            template: rlaif_feedback::revise::shipped(&self.revise)?,
            config: self.revise.clone(),
            seed: self.seed,
        };
        Ok(rlaif_feedback::revise(&reviser, critique).await?)
    }

    /// The critic's comparison of two responses, asked in both orders.
    ///
    /// # Errors
    /// Where the critic cannot be asked at all. A comparison that fails is a judgment whose
    /// `outcome` says so, without a probability.
    pub async fn generate_preference_data(
        &self,
        prompt: impl Into<Prompt>,
        response_a: &str,
        response_b: &str,
    ) -> Result<Judgment, Error> {
        let prompt = prompt.into();
        let judge = Judge::new(
            self.critic_model.clone(),
            self.constitution.clone(),
            self.judge.clone(),
            None,
            self.seed,
        )?;
        let id = item_id(&prompt, &[response_a, response_b]);
        Ok(rlaif_feedback::judge(&judge, &id, &prompt, response_a, response_b).await?)
    }

    /// Reads a verdict from a judge's words; see [`rlaif_core::parse_preference`].
    #[must_use]
    pub fn parse_preference(text: &str) -> rlaif_core::Verdict {
        rlaif_core::parse_preference(text)
    }
}

/// An id that depends on the texts alone.
fn item_id(prompt: &Prompt, responses: &[&str]) -> String {
    let text = prompt.to_text();
    let mut parts = vec![text.as_str()];
    parts.extend_from_slice(responses);
    format!("{:016x}", seed::derive(0, &parts))
}

impl From<rlaif_core::ModelError> for Error {
    fn from(error: rlaif_core::ModelError) -> Self {
        Error::Feedback(FeedbackError::Stop(error))
    }
}
