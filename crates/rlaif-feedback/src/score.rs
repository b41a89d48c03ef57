//! Scores: how well one response does by the constitution, on a scale of whole numbers.
//!
//! One function, [`ratings`]. The score is the expectation over the scale's numbers, weighted by
//! the probabilities that the judge gives them (direct RLAIF, Lee et al. 2023, §2.2.2); a judge that
//! writes its grade, or gives no log-probabilities, is counted over samples. [`JudgeReward`] is the
//! same as a reward, scaled to [−1, 1].

use std::sync::Arc;

use futures::future;
use minijinja::context;
use rlaif_core::{
    BoxFuture, CallContext, Constitution, Evidence, Message, Model, ModelId, Outcome, Principle,
    Probability, Prompt, Provenance, Rater, Rating, Reward, RewardError, Score, ScoreItem,
    Shortened, Usage, seed,
};

use crate::VERSION;
use crate::error::FeedbackError;
use crate::judge::{JudgeConfig, Principles, standard};
use crate::reading::{Asking, Reading};
use crate::shorten::{ATTEMPTS, Room, TooLong, fit_alone};
use crate::template::{Inserts, Purpose, Scale, Template, VerdictForm, fence};

/// Everything a score needs beside the response. Of the configuration it heeds `principles`,
/// `samples`, `temperature`, `rationale_tokens`, `retries` and the limits of the input.
pub struct Scorer {
    /// The judge.
    pub model: Model,
    /// The principles.
    pub constitution: Constitution,
    /// How to judge.
    pub config: JudgeConfig,
    /// The run's seed.
    pub seed: u64,
    template: Template,
    scale: Scale,
}

impl Scorer {
    /// A scorer with a template of the caller's, or the shipped one that the configuration names.
    ///
    /// # Errors
    /// [`FeedbackError::Template`]; [`FeedbackError::Settings`].
    pub fn new(
        model: Model,
        constitution: Constitution,
        config: JudgeConfig,
        template: Option<Template>,
        seed: u64,
    ) -> Result<Self, FeedbackError> {
        let template = match template {
            Some(template) => template,
            None => Template::shipped(&config.score_template, Purpose::Score)?,
        };
        if let Some((key, problem)) = config.faults().into_iter().next() {
            return Err(FeedbackError::Settings {
                problem: format!("`{key}` {problem}"),
            });
        }
        if config.principles == Principles::Each && !template.uses_principle() {
            let name = template.name();
            return Err(FeedbackError::Settings {
                problem: format!(
                    "`principles = \"each\"` asks by every principle, and the template `{name}` \
                     names none (`{{{{ principle }}}}`); take `whole`"
                ),
            });
        }
        // A template for scores has a scale, or it would not have been read.
        let scale = template.scale().unwrap_or(Scale { from: 1, to: 10 });
        Ok(Scorer {
            model,
            constitution,
            config,
            seed,
            template,
            scale,
        })
    }

    /// The scale.
    #[must_use]
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// SHA-256 of the template.
    #[must_use]
    pub fn template_hash(&self) -> &str {
        self.template.hash()
    }

    /// The principles by which an item is scored, with their weights.
    fn principles(&self, id: &str) -> Vec<(Option<&Principle>, f64)> {
        if !self.template.uses_principle() {
            return vec![(None, 1.0)];
        }
        let item_seed = seed::derive(self.seed, &["judge", id]);
        self.config.principles.of(&self.constitution, item_seed)
    }
}

/// Scores one response: by the drawn principle, by the whole constitution, or by each principle.
/// `id` names the response.
///
/// # Errors
/// [`FeedbackError::Template`], or [`FeedbackError::Stop`] where asking on is useless. A score that
/// fails is a record whose `outcome` says how, without a number.
pub async fn ratings(
    scorer: &Scorer,
    id: &str,
    prompt: &Prompt,
    response: &str,
) -> Result<Vec<Rating>, FeedbackError> {
    let mut all = ratings_of(scorer, id, prompt, &[response]).await?;
    Ok(all.pop().unwrap_or_default())
}

/// Scores several responses to one prompt, each by itself: a list for each response, by principle.
/// They are held against the same principles, and what does not fit is shortened by the same share
/// in all, so that their scores may be compared.
///
/// # Errors
/// As [`ratings`].
pub async fn ratings_of(
    scorer: &Scorer,
    id: &str,
    prompt: &Prompt,
    responses: &[&str],
) -> Result<Vec<Vec<Rating>>, FeedbackError> {
    let principles = scorer.principles(id);
    let asked = principles
        .iter()
        .map(|(principle, _)| rate(scorer, &scorer.model, id, prompt, responses, *principle));
    let mut all: Vec<Vec<Rating>> = responses.iter().map(|_| Vec::new()).collect();
    for rated in future::join_all(asked).await {
        for (of_response, rating) in all.iter_mut().zip(rated?.ratings) {
            of_response.push(rating);
        }
    }
    Ok(all)
}

/// Ratings of several responses by one principle, one a response, with all that they used.
pub(crate) struct Rated {
    pub ratings: Vec<Rating>,
    /// Different responses that are shown as one text: a comparison of their scores says nothing.
    pub alike: bool,
    pub usage: Usage,
}

/// A response, and what of it and its prompt is shown.
struct Asked<'a> {
    id: &'a str,
    prompt: &'a Prompt,
    response: &'a str,
    shown_prompt: &'a Prompt,
    shown: &'a str,
    shortened: Option<Shortened>,
    principle: Option<&'a Principle>,
}

/// Scores responses to one prompt by one principle, or by the whole constitution.
pub(crate) async fn rate(
    scorer: &Scorer,
    model: &Model,
    id: &str,
    prompt: &Prompt,
    responses: &[&str],
    principle: Option<&Principle>,
) -> Result<Rated, FeedbackError> {
    let mut room = Room {
        chars: scorer.config.max_input_chars,
        tokens: scorer.config.max_input_tokens,
    };
    let mut usage = Usage::default();
    let mut attempt = 0;
    loop {
        let shown = fit_alone(room, model.as_ref(), prompt, responses)?;
        let of_prompt = shown.prompt.to_text().chars().count();
        let asked = responses.iter().zip(&shown.responses).map(|(whole, text)| {
            let asked = Asked {
                id,
                prompt,
                response: whole,
                shown_prompt: &shown.prompt,
                shown: text,
                shortened: shown.shortened,
                principle,
            };
            rate_shown(scorer, model, asked)
        });
        let mut ratings = Vec::with_capacity(responses.len());
        let mut tighter: Option<Room> = None;
        let answers = future::join_all(asked).await;
        for (answer, text) in answers.into_iter().zip(&shown.responses) {
            let (rating, used, too_long) = answer?;
            usage.add(&used);
            ratings.push(rating);
            if let Some(told) = too_long {
                // Of several that are too long, the one that leaves least.
                let room = Room::after(of_prompt + text.chars().count(), told);
                tighter = [tighter, room]
                    .into_iter()
                    .flatten()
                    .min_by_key(|r| r.chars);
            }
        }
        attempt += 1;
        match tighter {
            Some(tighter) if attempt < ATTEMPTS => room = tighter,
            _ => {
                let shown = shown.responses.iter().map(String::as_str);
                return Ok(Rated {
                    ratings,
                    alike: is_one(shown) && !is_one(responses.iter().copied()),
                    usage,
                });
            }
        }
    }
}

/// All texts are the same one.
fn is_one<'a>(mut texts: impl Iterator<Item = &'a str>) -> bool {
    let first = texts.next();
    texts.all(|text| Some(text) == first)
}

/// Scores one response as it is shown.
async fn rate_shown(
    scorer: &Scorer,
    model: &Model,
    asked: Asked<'_>,
) -> Result<(Rating, Usage, Option<TooLong>), FeedbackError> {
    let config = &scorer.config;
    let Asked {
        id,
        prompt,
        response,
        shown_prompt,
        shown: text,
        shortened,
        principle,
    } = asked;
    let prompt_text = shown_prompt.to_text();
    let messages = scorer.template.render(
        context! {
            prompt => &prompt_text,
            conversation => shown_prompt.to_transcript(),
            response => text,
            principle => standard(&scorer.constitution, principle),
            fence => fence(&[&prompt_text, text]),
        },
        &Inserts::default(),
    )?;
    let choices = scorer.scale.choices();
    // What is scored is part of the name: two responses of one row differ in nothing else.
    let named = seed::derive(0, &[response, principle.map_or("", |p| p.id.as_str())]);
    let mut reading = Reading::default();
    for sample in 0..config.samples {
        let asking = Asking {
            model,
            template: &scorer.template,
            choices: &choices,
            stage: "score",
            row: id,
            what: format!("{named:016x}, {}, sample {sample}", model.id()),
            seed: scorer.seed,
            tokens: config.rationale_tokens,
            temperature: config.temperature,
            retries: config.retries,
        };
        asking
            .ask(&messages, config.samples == 1, &mut reading)
            .await?;
    }
    let mut reading = reading.finish(choices.len(), false);
    if principle.is_some_and(|p| p.inverted) != scorer.template.inverted() {
        // The scale of a question for the worse one runs the other way.
        reading.p.reverse();
    }
    let from = scorer.scale.from as f64;
    let expected = |p: &[f64]| -> f64 {
        let numbered = p.iter().enumerate();
        numbered.map(|(i, p)| (from + i as f64) * p).sum()
    };
    let score = (!reading.p.is_empty()).then(|| expected(&reading.p));
    let raw = reading.raw.join("\n---\n");
    let written = scorer.template.verdict() == VerdictForm::Written;
    let rating = Rating {
        id: id.to_owned(),
        prompt: prompt.clone(),
        response: response.to_owned(),
        principle: principle.map(|p| p.id.clone()),
        score,
        distribution: reading.p,
        off_choice_mass: reading.off_choice_mass,
        evidence: reading.evidence,
        outcome: reading.outcome.unwrap_or(Outcome::Failed),
        reason: match written {
            true => reason_in(&raw),
            false => String::new(),
        },
        raw,
        error: reading.error,
        shortened,
        rater: Rater::Model(model.id().clone()),
        cost: (&reading.usage).into(),
        provenance: Provenance {
            model: model.id().clone(),
            sampling: None,
            template: scorer.template.hash().to_owned(),
            constitution: scorer.constitution.hash(),
            seed: seed::derive(scorer.seed, &["score", id]),
            version: VERSION.to_owned(),
            lost: reading.usage.lost.clone(),
        },
    };
    Ok((rating, reading.usage, reading.too_long))
}

/// The reason in a written grade: what stands behind `Rationale:`, or before the grade's mark.
fn reason_in(text: &str) -> String {
    if let Some((_, reason)) = text.split_once("Rationale:") {
        return reason.trim().to_owned();
    }
    let end = ["[RESULT]", "[["]
        .iter()
        .filter_map(|mark| text.rfind(mark))
        .max()
        .unwrap_or(text.len());
    text[..end].trim().to_owned()
}

/// P(the first response's score is above the second's), ties split: Σᵢ Σⱼ p₁(i) p₂(j) \[i > j\] +
/// ½ Σᵢ p₁(i) p₂(i), the two taken as independent. Equal scores give one half, which is a tie and
/// never a preference. Scores that were counted over n samples are Laplace-smoothed,
/// (n·p + 1) / (n + 2), so that one sample each is no certainty.
#[must_use]
pub fn p_better(first: &Rating, second: &Rating) -> Probability {
    let (a, b) = (&first.distribution, &second.distribution);
    if a.len() != b.len() || a.is_empty() {
        return Probability::NONE;
    }
    let mut below = 0.0;
    let mut p = 0.0;
    for (a, b) in a.iter().zip(b) {
        p += a * (below + 0.5 * b);
        below += b;
    }
    let draws = |r: &Rating| match r.evidence {
        Some(Evidence::Sampled { draws }) => Some(f64::from(draws)),
        _ => None,
    };
    if let Some(n) = [draws(first), draws(second)]
        .into_iter()
        .flatten()
        .reduce(f64::min)
    {
        p = (n * p + 1.0) / (n + 2.0);
    }
    // Sums of parts may end a hair above 1.
    Probability::new(p.clamp(0.0, 1.0))
}

/// A judge's score as a reward (direct RLAIF): the expected score, mapped to [−1, 1] by
/// 2 (s − from) / (to − from) − 1; of several principles their weighted mean.
pub struct JudgeReward {
    scorer: Scorer,
    id: ModelId,
}

impl JudgeReward {
    /// A reward of a scorer.
    #[must_use]
    pub fn new(scorer: Scorer) -> Self {
        let id = scorer.model.id().clone();
        JudgeReward { scorer, id }
    }

    async fn one(&self, prompt: &[Message], completion: &str) -> Result<Score, RewardError> {
        let failed = |message: String| RewardError::Failed { message };
        let prompt = Prompt::from(prompt);
        let text = prompt.to_text();
        let id = format!("{:016x}", seed::derive(0, &[&text, completion]));
        let weights: Vec<f64> = self
            .scorer
            .principles(&id)
            .iter()
            .map(|(_, w)| *w)
            .collect();
        let ratings = ratings(&self.scorer, &id, &prompt, completion)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut sum = 0.0;
        for (rating, weight) in ratings.iter().zip(&weights) {
            let score = rating.score.ok_or_else(|| {
                let why = rating.error.as_deref().unwrap_or("no score");
                failed(format!("{}: {why}", rating.outcome))
            })?;
            sum += weight * score;
        }
        let mean = sum / weights.iter().sum::<f64>();
        let Scale { from, to } = self.scorer.scale;
        let score = 2.0 * (mean - from as f64) / (to - from) as f64 - 1.0;
        Ok(Score(score as f32))
    }
}

impl Reward for JudgeReward {
    fn id(&self) -> &ModelId {
        &self.id
    }

    fn score<'a>(
        &'a self,
        items: &'a [ScoreItem<'a>],
        _: &'a CallContext,
    ) -> BoxFuture<'a, Vec<Result<Score, RewardError>>> {
        Box::pin(future::join_all(
            items
                .iter()
                .map(|item| self.one(item.prompt, item.completion)),
        ))
    }
}

/// A judge's reward behind the trait.
#[must_use]
pub fn reward(scorer: Scorer) -> Arc<dyn Reward> {
    Arc::new(JudgeReward::new(scorer))
}
