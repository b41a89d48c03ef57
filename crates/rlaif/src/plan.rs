//! What a run will ask, before anything is asked.

#[cfg(feature = "local")]
use std::collections::BTreeMap;

use rlaif_core::Constitution;
use rlaif_core::dataset::Dataset;
#[cfg(feature = "local")]
use rlaif_core::seed::Split;
#[cfg(feature = "local")]
use rlaif_engine::LlamaConfig;
use rlaif_feedback::{Judge, Method, Principles, Rationale, Scope};
use serde::Serialize;

#[cfg(feature = "local")]
use crate::error::Error;
#[cfg(feature = "local")]
use crate::recipe::Algorithm;
#[cfg(any(feature = "local", feature = "remote"))]
use crate::recipe::ModelSource;
use crate::recipe::{Compare, Recipe};
use crate::stages::round::OnlineConfig;
#[cfg(feature = "local")]
use crate::train::{Need, TuneConfig};

/// What one stage will ask.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub stage: &'static str,
    /// The model's name in the recipe.
    pub model: String,
    /// Rows, at most.
    pub rows: usize,
    /// Calls, at most.
    pub calls: u64,
    /// Prompt tokens in all, estimated: four bytes a token, responses at half of their limit.
    pub prompt_tokens: u64,
    /// The same at five bytes a token and at three: what tokenizers make of most texts lies
    /// between.
    pub prompt_tokens_range: [u64; 2],
    /// Tokens generated in all, at half of their limit; for a verdict, one.
    pub completion_tokens: u64,
    /// Most tokens that can be generated in all.
    pub max_completion_tokens: u64,
    /// What it costs by these estimates, where the model has a price.
    pub usd: Option<f64>,
    /// The least by the range (few prompt tokens, short answers) and the most (many, and every
    /// answer at its limit).
    pub usd_range: Option<[f64; 2]>,
    /// Most that it can cost at four bytes a token, where the model has a price.
    pub max_usd: Option<f64>,
}

/// Bytes of English text to a token, the usual rule of thumb.
const BYTES_A_TOKEN: u64 = 4;
/// An answer is hardly shorter than this share of its limit, by which the least cost is reckoned.
const SHORT_ANSWERS: u64 = 8;
/// Tokens of a shipped template's own words, rounded up.
const TEMPLATE_TOKENS: u64 = 250;

/// Room that a verdict is given.
const VERDICT_TOKENS: u64 = 16;

/// Estimates every stage of a recipe.
#[must_use]
pub fn plan(recipe: &Recipe, constitution: &Constitution, prompts: &Dataset) -> Vec<StagePlan> {
    let n = prompts.rows.len() as u64;
    let tokens = |bytes: usize| (bytes as u64).div_ceil(BYTES_A_TOKEN);
    let prompt_tokens: u64 = prompts
        .rows
        .iter()
        .map(|row| tokens(row.prompt.to_text().len()))
        .sum();
    let mean_prompt = prompt_tokens.checked_div(n).unwrap_or(0);
    let all: u64 = constitution
        .principles
        .iter()
        .map(|p| tokens(p.critique.len().max(p.preference.len())))
        .sum();
    let one = all / constitution.principles.len().max(1) as u64;
    let shots = |k: usize, turns: usize| -> u64 {
        let chats = &constitution.few_shots;
        let total: u64 = chats
            .iter()
            .flat_map(|chat| chat.iter().take(turns))
            .map(|m| tokens(m.content.len()))
            .sum();
        total * k.min(chats.len()) as u64 / chats.len().max(1) as u64
    };
    let mut plans = Vec::new();
    let mut add = |stage, model: &str, rows: u64, calls: u64, per_call: u64, generated: u64| {
        let prompt = calls * per_call;
        let (few, many) = (
            prompt * BYTES_A_TOKEN / (BYTES_A_TOKEN + 1),
            prompt * BYTES_A_TOKEN / (BYTES_A_TOKEN - 1),
        );
        // A verdict is one token, whatever room it is given.
        let is_verdict = generated == VERDICT_TOKENS;
        let half = if is_verdict { 1 } else { generated / 2 };
        let short = if is_verdict {
            1
        } else {
            generated / SHORT_ANSWERS
        };
        let usd = |prompt, generated| price(recipe, model, prompt, generated);
        plans.push(StagePlan {
            stage,
            model: model.to_owned(),
            rows: rows as usize,
            calls,
            prompt_tokens: prompt,
            prompt_tokens_range: [few, many],
            completion_tokens: calls * half,
            max_completion_tokens: calls * generated,
            usd: usd(prompt, calls * half),
            usd_range: usd(few, calls * short)
                .zip(usd(many, calls * generated))
                .map(|(least, most)| [least, most]),
            max_usd: usd(prompt, calls * generated),
        });
    };
    let draws = recipe.candidates.as_ref().map_or(1, |c| u64::from(c.n));
    let response = recipe
        .candidates
        .as_ref()
        .map_or(256, |c| u64::from(c.sampling.max_new_tokens));
    let half = response / 2;
    if let Some(c) = &recipe.candidates {
        add(
            "candidates",
            &c.model,
            n * draws,
            n * draws,
            mean_prompt,
            response,
        );
    }
    if let Some(c) = &recipe.critique {
        let by = match c.principles {
            Scope::Whole => all,
            Scope::Sampled => one,
        };
        let per = mean_prompt + half + by + shots(c.few_shots, 4) + TEMPLATE_TOKENS;
        let generated = u64::from(c.sampling.max_new_tokens);
        add("critique", &c.model, n * draws, n * draws, per, generated);
    }
    if let Some(c) = &recipe.revise {
        let steps = u64::from(c.steps);
        let per = mean_prompt + 2 * half + shots(c.few_shots, 6) + TEMPLATE_TOKENS;
        let generated = u64::from(c.sampling.max_new_tokens);
        // A chain of k steps takes k revisions and k − 1 further critiques.
        let calls = n * draws * (2 * steps - 1);
        add("revise", &c.model, n * draws, calls, per, generated);
    }
    if let Some(c) = &recipe.sft_candidates {
        let (calls, generated) = (n * u64::from(c.n), u64::from(c.sampling.max_new_tokens));
        add(
            "sft_candidates",
            &c.model,
            calls,
            calls,
            mean_prompt,
            generated,
        );
    }
    if let Some(c) = &recipe.contrast {
        let (per, generated) = (mean_prompt + one, u64::from(c.sampling.max_new_tokens));
        add("contrast", &c.model, n, 2 * n, per, generated);
    }
    if let Some((c, sampling)) = recipe.online().zip(recipe.samples_by()) {
        let calls = labeled_online(c, n) * u64::from(c.n);
        let generated = u64::from(sampling.max_new_tokens);
        add("online", "ppo", calls, calls, mean_prompt, generated);
    }
    if let Some(c) = recipe.labels_by() {
        let offline = match recipe.pairs.compare {
            Compare::Revision => n * draws,
            Compare::Candidates => n * pairs_among(recipe, draws),
            Compare::SftCandidates => {
                let sampled = recipe.sft_candidates.as_ref();
                n * pairs_among(recipe, sampled.map_or(draws, |c| u64::from(c.n)))
            }
        };
        let pairs = offline + online_pairs(recipe, n);
        let by = match c.principles {
            Principles::Whole => all,
            Principles::Sampled | Principles::Each => one,
        };
        let shown = match c.method {
            Method::Compare => 2 * half,
            Method::Score => half,
        };
        let per = mean_prompt + shown + by + TEMPLATE_TOKENS;
        let writes = c.rationale != Rationale::None || c.samples > 1;
        let generated = match writes {
            false => VERDICT_TOKENS,
            true => u64::from(c.rationale_tokens),
        };
        let weighted = constitution.principles.iter().filter(|p| p.weight > 0.0);
        let calls = pairs * u64::from(Judge::calls_per_pair(c, weighted.count()));
        // Each judge is asked the same.
        let each = calls / (1 + c.jury.len() as u64);
        add("judge", &c.model, pairs, each, per, generated);
        for juror in &c.jury {
            add("judge", &juror.model, pairs, each, per, generated);
        }
    }
    plans
}

/// Pairs among so many completions of a prompt.
fn pairs_among(recipe: &Recipe, completions: u64) -> u64 {
    let all = completions * completions.saturating_sub(1) / 2;
    match recipe.pairs.select.as_str() {
        "adjacent" => completions.saturating_sub(1),
        other => other
            .strip_prefix("random:")
            .and_then(|k| k.parse::<u64>().ok())
            .map_or(all, |k| k.min(all)),
    }
}

/// Prompts that the policy answers for labels, over all pauses, of a run on `prompts`.
fn labeled_online(online: &OnlineConfig, prompts: u64) -> u64 {
    let each = online
        .limit
        .map_or(prompts, |most| prompts.min(most as u64));
    u64::from(online.pauses) * each
}

/// Pairs of the policy's own answers that are judged.
fn online_pairs(recipe: &Recipe, prompts: u64) -> u64 {
    recipe.online().map_or(0, |c| {
        labeled_online(c, prompts) * pairs_among(recipe, u64::from(c.n))
    })
}

/// What one training stage will do.
#[cfg(feature = "local")]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainingPlan {
    /// Its name.
    pub stage: &'static str,
    /// The model that it starts from, by its name in the recipe.
    pub base: String,
    /// Weights of that model.
    pub parameters: u64,
    /// Examples, at most; PPO: completions.
    pub rows: usize,
    /// Optimizer steps, at most; PPO: iterations.
    pub steps: u64,
    /// Memory.
    pub memory: Need,
}

/// Estimates the training stages of a recipe, whose labeling stages `plans` are known.
///
/// # Errors
/// A model's folder that cannot be read.
#[cfg(feature = "local")]
pub fn training(
    recipe: &Recipe,
    plans: &[StagePlan],
    prompts: &Dataset,
) -> Result<Vec<TrainingPlan>, Error> {
    let rows = |stages: &[&str]| {
        plans
            .iter()
            .find(|p| stages.contains(&p.stage))
            .map_or(0, |p| p.rows)
    };
    let labels = rows(&["judge", "contrast"]) as f64;
    let train = |row: &&rlaif_core::dataset::Row| Split::of(&row.prompt) == Split::Train;
    let share = prompts.rows.iter().filter(train).count() as f64 / prompts.rows.len().max(1) as f64;
    let mut shapes: BTreeMap<&str, LlamaConfig> = BTreeMap::new();
    let mut plans = Vec::new();
    let mut examples = |stage, base: &str, all: f64, t: &TuneConfig, shape: &LlamaConfig| {
        let rows = (all * share).ceil() as usize;
        let each = rows.div_ceil(t.batch_size.max(1)) as f64;
        plans.push(TrainingPlan {
            stage,
            base: base.to_owned(),
            parameters: shape.parameters(),
            rows,
            steps: (each * t.num_train_epochs).ceil() as u64,
            memory: Need::of_examples(shape, t.lora, t.max_tokens, stage == "dpo"),
        });
    };
    // A stage's model has the shape of the one that it starts from.
    let shape = |shapes: &BTreeMap<&str, LlamaConfig>, name: &str| match recipe.models.get(name) {
        Some(ModelSource::Folder(folder)) => Ok(LlamaConfig::read(folder)?),
        _ => shapes.get(name).cloned().ok_or_else(|| Error::Open {
            model: name.to_owned(),
            problem: "no folder and no earlier stage defines it".into(),
        }),
    };
    if let Some(c) = &recipe.sft {
        let s = shape(&shapes, &c.base)?;
        let revised = rows(&["revise"]) as f64;
        examples(
            "sft",
            &c.base,
            revised / (1.0 - c.helpful_share),
            &c.tune,
            &s,
        );
        shapes.insert("sft", s);
    }
    if let Some(c) = &recipe.reward {
        let s = shape(&shapes, &c.base)?;
        let new = online_pairs(recipe, prompts.rows.len() as u64) as f64;
        let first = labels - new;
        let later = recipe.online().map_or(0.0, |o| {
            // Each pause adds as many labels, and training goes over all so far.
            let pauses = f64::from(o.pauses);
            (pauses * first + new * (pauses + 1.0) / 2.0) * o.num_train_epochs
        });
        let mut tune = c.tune.clone();
        // As many steps as all rounds take together.
        tune.num_train_epochs = (first * tune.num_train_epochs + later) / labels.max(1.0);
        examples("reward", &c.base, labels, &tune, &s);
        shapes.insert("reward", s);
    }
    match recipe.optimizes_by() {
        Some(Algorithm::Dpo) => {
            if let Some(c) = &recipe.dpo {
                let s = shape(&shapes, &c.base)?;
                examples("dpo", &c.base, labels, &c.tune, &s);
            }
        }
        Some(Algorithm::Ppo) => {
            if let Some(c) = &recipe.ppo {
                let (s, reward) = (shape(&shapes, &c.base)?, shape(&shapes, &c.reward)?);
                plans.push(TrainingPlan {
                    stage: "ppo",
                    base: c.base.clone(),
                    parameters: s.parameters(),
                    rows: c.algorithm.total_episodes,
                    steps: rlaif_train::ppo::iterations(&c.algorithm).0,
                    memory: Need::of_ppo(&s, Some(&reward), c.lora, c.algorithm.max_tokens),
                });
            }
        }
        None => {}
    }
    Ok(plans)
}

#[cfg(feature = "remote")]
fn price(recipe: &Recipe, model: &str, prompt: u64, generated: u64) -> Option<f64> {
    let price = match recipe.models.get(model) {
        Some(ModelSource::Endpoint(config)) => config.price.as_ref()?,
        // In memory; what no table names is written by a stage.
        Some(ModelSource::Folder(_)) | None => return Some(0.0),
    };
    Some(
        (prompt as f64 * price.prompt_usd_per_mtok
            + generated as f64 * price.completion_usd_per_mtok)
            / 1e6,
    )
}

#[cfg(not(feature = "remote"))]
fn price(_: &Recipe, _: &str, _: u64, _: u64) -> Option<f64> {
    None
}
