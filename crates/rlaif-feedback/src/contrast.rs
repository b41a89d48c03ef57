//! Pairs that are labeled by how they were made: the policy answers one prompt twice, asked to do
//! well by a principle and asked to do badly by it, and the first answer is the better one.
//!
//! Source: RLCD (Yang et al. 2023): o₊ from a positive prompt p₊ and o₋ from a negative p₋ that
//! differs from it in a few words, labeled o₊ ≻ o₋ without a judge. Difference: the affixes are in
//! our words and hold the principle; they stand at the end of the last human turn, since chat
//! endpoints have no common way to begin the assistant's.

use futures::future;
use rlaif_core::{
    Constitution, Judgment, Message, Model, ModelId, Outcome, Principle, Probability, Prompt,
    Provenance, Rater, Role, Sampling, Usage, seed,
};
use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::ask;
use crate::error::FeedbackError;

/// What a pair by construction names as its rater.
pub const RATER: &str = "construction";

/// How pairs are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastConfig {
    /// Name of a model in the recipe: the policy that answers.
    pub model: String,
    /// What is added to the prompt for the better answer; `{principle}` is the drawn one.
    pub positive: String,
    /// What is added for the worse one.
    pub negative: String,
    /// How the policy samples.
    pub sampling: Sampling,
}

impl Default for ContrastConfig {
    fn default() -> Self {
        ContrastConfig {
            model: "policy".into(),
            positive: Self::POSITIVE.into(),
            negative: Self::NEGATIVE.into(),
            sampling: Sampling {
                max_new_tokens: 512,
                ..Sampling::default()
            },
        }
    }
}

impl ContrastConfig {
    /// The affix for the better answer by default.
    pub const POSITIVE: &'static str =
        "(Answer so that yours would be preferred by this rule: {principle})";
    /// The affix for the worse answer by default.
    pub const NEGATIVE: &'static str =
        "(Answer so that yours would not be preferred by this rule: {principle})";

    /// What is wrong with it, as (key, what it must be).
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        if self.positive == self.negative {
            let same = "must differ from `positive`: the two answers would differ by chance alone";
            return vec![("negative", same.into())];
        }
        Vec::new()
    }
}

/// Everything a contrast needs beside the prompt.
pub struct Contrast {
    /// The policy.
    pub model: Model,
    /// The principles; one is drawn for each prompt.
    pub constitution: Constitution,
    /// How pairs are made.
    pub config: ContrastConfig,
    /// The run's seed.
    pub seed: u64,
}

/// Makes one pair. `id` names the row. Which response stands first is drawn, so that "first"
/// carries no information. Answers that come out equal are a tie.
///
/// # Errors
/// [`FeedbackError::Stop`] where asking on is useless. An answer that fails makes a record with
/// that outcome and without a probability.
pub async fn contrast(by: &Contrast, id: &str, prompt: &Prompt) -> Result<Judgment, FeedbackError> {
    let item_seed = seed::derive(by.seed, &["contrast", id]);
    let principle = by
        .constitution
        .draw(seed::derive(item_seed, &["principle"]));
    let (good, bad) = future::join(
        answer(by, id, prompt, principle, &by.config.positive, "positive"),
        answer(by, id, prompt, principle, &by.config.negative, "negative"),
    )
    .await;
    let (good, bad) = (good?, bad?);
    let mut usage = Usage::default();
    usage.add(&good.usage);
    usage.add(&bad.usage);
    let good_first = seed::unit(seed::derive(item_seed, &["order"])) < 0.5;
    let failed = [&good, &bad]
        .into_iter()
        .find(|a| a.outcome != Outcome::Decided);
    let (outcome, p_first) = match failed {
        Some(failed) => (failed.outcome, Probability::NONE),
        None if good.text == bad.text => (Outcome::Tie, Probability::new(0.5)),
        None => (
            Outcome::Decided,
            Probability::new(f64::from(u8::from(good_first))),
        ),
    };
    let reason = failed.and_then(|f| f.error.clone()).unwrap_or_default();
    let responses = match good_first {
        true => [good.text, bad.text],
        false => [bad.text, good.text],
    };
    let rater = Rater::Model(ModelId::new(RATER));
    Ok(Judgment {
        principle: Some(principle.id.clone()),
        reason,
        cost: (&usage).into(),
        provenance: Some(Provenance {
            model: by.model.id().clone(),
            sampling: Some(by.config.sampling.clone()),
            template: seed::sha256_hex(
                format!("{}\n{}", by.config.positive, by.config.negative).as_bytes(),
            ),
            constitution: by.constitution.hash(),
            seed: item_seed,
            version: VERSION.to_owned(),
            lost: usage.lost,
        }),
        ..Judgment::new(id, prompt.clone(), responses, outcome, p_first, rater)
    })
}

async fn answer(
    by: &Contrast,
    id: &str,
    prompt: &Prompt,
    principle: &Principle,
    affix: &str,
    what: &str,
) -> Result<ask::Answer, FeedbackError> {
    let affix = affix.replace("{principle}", principle.preference_text().trim());
    let mut messages = prompt.0.clone();
    match messages.last_mut().filter(|last| last.role == Role::User) {
        Some(last) => last.content = format!("{}\n\n{affix}", last.content),
        None => messages.push(Message::user(affix)),
    }
    let cx = ask::context("contrast", id, 0, by.seed, what);
    ask::sample(&by.model, messages, &by.config.sampling, &cx).await
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use futures::executor::block_on;
    use rlaif_core::script::ScriptedModel;
    use rlaif_core::{Preference, Result};

    use super::*;

    fn by(reply: fn(&str) -> String) -> Contrast {
        let text = "[[principles]]\nid='kind'\ncritique='c'\nrevision='r'\npreference='Be kind.'";
        let constitution: Result<_> = Constitution::parse(text, Path::new("c.toml"));
        Contrast {
            model: Arc::new(ScriptedModel::new("policy", move |m| {
                Ok(reply(&m.last().unwrap().content))
            })),
            constitution: constitution.unwrap(),
            config: ContrastConfig::default(),
            seed: 7,
        }
    }

    #[test]
    fn the_positive_prompts_answer_is_chosen_wherever_it_stands() {
        let by = by(|t| {
            assert!(
                t.starts_with("Hi\n\n(Answer so") && t.ends_with("Be kind.)"),
                "{t}"
            );
            if t.contains("would not") {
                "foul"
            } else {
                "fair"
            }
            .into()
        });
        let mut firsts = 0;
        for i in 0..40 {
            let j = block_on(contrast(&by, &format!("r{i}"), &Prompt::from("Hi"))).unwrap();
            let p = Preference::from(&j);
            assert_eq!(
                (p.chosen.as_deref(), p.rejected.as_deref()),
                (Some("fair"), Some("foul"))
            );
            assert_eq!(p.principle.as_deref(), Some("kind"));
            firsts += usize::from(j.response_a == "fair");
        }
        // Binomial, n = 40, p = 1/2: three standard deviations are 9.5.
        assert!((11..=29).contains(&firsts), "{firsts}");
    }

    #[test]
    fn equal_answers_tie_and_empty_ones_fail() {
        let same = block_on(contrast(&by(|_| "same".into()), "r", &Prompt::from("Hi"))).unwrap();
        assert_eq!(same.outcome, Outcome::Tie);
        let none = block_on(contrast(&by(|_| String::new()), "r", &Prompt::from("Hi"))).unwrap();
        assert_eq!(
            (none.outcome, none.p_first.get()),
            (Outcome::Unparseable, None)
        );
    }
}
