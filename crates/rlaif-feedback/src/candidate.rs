//! Candidates: completions sampled from the policy, waiting for critique and judgment.

use rlaif_core::{Candidate, Model, Outcome, Prompt, Provenance, Sampling};
use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::ask;
use crate::error::FeedbackError;

/// How candidates are sampled from the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CandidatesConfig {
    /// Name of a model in the recipe.
    pub model: String,
    /// Completions a prompt.
    pub n: u32,
    /// How the policy samples.
    pub sampling: Sampling,
}

impl Default for CandidatesConfig {
    fn default() -> Self {
        CandidatesConfig {
            model: "policy".into(),
            n: 1,
            sampling: Sampling {
                max_new_tokens: 256,
                ..Sampling::default()
            },
        }
    }
}

/// Everything a candidate needs beside its prompt.
pub struct Sampler {
    /// The policy.
    pub model: Model,
    /// How to sample.
    pub config: CandidatesConfig,
    /// The run's seed.
    pub seed: u64,
}

/// Samples one completion; `draw` counts from 0 among those of the same prompt.
///
/// # Errors
/// [`FeedbackError::Stop`] where asking on is useless. A completion that fails is a record whose
/// `outcome` says how.
pub async fn candidate(
    sampler: &Sampler,
    id: &str,
    draw: u32,
    prompt: &Prompt,
) -> Result<Candidate, FeedbackError> {
    let cx = ask::context("candidates", id, draw, sampler.seed, "sample");
    let seed = cx.seed;
    let sampling = &sampler.config.sampling;
    let answer = ask::sample(&sampler.model, prompt.0.clone(), sampling, &cx).await?;
    Ok(Candidate {
        id: id.to_owned(),
        draw,
        prompt: prompt.clone(),
        completion: if answer.outcome == Outcome::Decided {
            answer.text
        } else {
            String::new()
        },
        outcome: answer.outcome,
        error: answer.error,
        cost: (&answer.usage).into(),
        provenance: Provenance {
            model: sampler.model.id().clone(),
            sampling: Some(sampling.clone()),
            template: String::new(),
            constitution: String::new(),
            seed,
            version: VERSION.to_owned(),
            lost: answer.usage.lost,
        },
    })
}
