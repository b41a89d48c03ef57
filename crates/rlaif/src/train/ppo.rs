//! PPO against a reward: a model in memory, a command, or whatever else scores completions.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rlaif_core::dataset::Dataset;
use rlaif_core::{Message, Outcome};
use rlaif_engine::LlamaConfig;
use rlaif_train::ppo::{self as ppos, Kept, PpoState, Rollout, Scores};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::folder::{Folder, ROLLOUTS};
use super::scorer::{Item, RewardSource, Scorer};
use super::{At, Desk, Head, Need, STOPPED, ended, lora, settings, write_summary};
use crate::error::Error;
use crate::local::fingerprint;
use crate::progress::Unit;
use crate::rows::row_key;

/// `[ppo]` of a recipe, and what the verb `ppo` takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// In a recipe, the policy to start from; it is the reference too.
    pub base: String,
    /// In a recipe, the reward model.
    pub reward: String,
    /// Prompts with more tokens are left out and counted.
    pub max_prompt_length: usize,
    /// Rank of a LoRA adapter to train instead of all weights.
    pub lora: Option<usize>,
    /// Its alpha; absent: twice the rank.
    pub lora_alpha: Option<f32>,
    /// Completions of an iteration that are kept for looking at, in `rollouts.jsonl`.
    pub keep_rollouts: usize,
    /// Seconds of work that a kill may cost.
    pub save_secs: f64,
    /// The algorithm's own settings.
    #[serde(flatten)]
    pub algorithm: ppos::PpoConfig,
}

impl Default for PpoConfig {
    fn default() -> Self {
        PpoConfig {
            base: "sft".into(),
            reward: "reward".into(),
            max_prompt_length: 512,
            lora: None,
            lora_alpha: None,
            keep_rollouts: 32,
            save_secs: 30.0,
            algorithm: ppos::PpoConfig::default(),
        }
    }
}

/// Which part of a run of PPO to make, where the reward is renewed on the way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part<'a> {
    /// Folder of the part before, to go on from.
    pub after: Option<&'a Path>,
    /// Iterations done, those of earlier parts included, where it pauses; none: at the end.
    pub until: Option<u64>,
}

/// A completion that PPO sampled, as `rollouts.jsonl` keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// From 1.
    pub iteration: u64,
    /// Id of the prompt's row.
    pub id: String,
    /// The completion.
    pub completion: String,
    /// Its score; `null` where the reward failed.
    pub score: Option<f32>,
}

/// What PPO came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PpoReport {
    /// `ppo`.
    pub verb: String,
    /// Iterations, a last one that only measures included.
    pub iterations: u64,
    /// Whether the KL budget ended the run.
    pub stopped_by_kl: bool,
    /// The policy that was kept; `null` where it is the last one.
    pub kept: Option<Kept>,
    /// Iterations after which the reward was renewed; in a run that has not ended, the last is where it
    /// pauses.
    pub pauses: Vec<u64>,
    /// Prompts trained on.
    pub prompts: usize,
    /// Prompts left out for their length.
    pub left_out: usize,
    /// The last line of the log.
    pub last: Value,
    /// Time of this run.
    pub wall_secs: f64,
    /// The folder.
    pub out: PathBuf,
}

/// Optimizes a policy against a reward; of a run whose reward is renewed on the way, one part, which
/// leaves the checkpoint that the next one goes on from.
///
/// # Errors
/// Files that cannot be read; a reward that fails too often; a loss that is not finite;
/// [`Error::Stopped`].
pub fn ppo(
    config: &PpoConfig,
    data: &Dataset,
    reward: &RewardSource,
    part: Part<'_>,
    at: &At<'_>,
) -> Result<PpoReport, Error> {
    let begun = Instant::now();
    let progress = at.progress;
    let shape = LlamaConfig::read(at.base)?;
    let rewards = match reward {
        RewardSource::Model(folder) => Some(LlamaConfig::read(folder)?),
        _ => None,
    };
    let tokens = config.algorithm.max_tokens;
    Need::of_ppo(&shape, rewards.as_ref(), config.lora, tokens).check("ppo")?;
    let head = match config.algorithm.learns_values() {
        true => Head::LanguageAndValue,
        false => Head::Language,
    };
    let desk = Desk::open(at.base, head, at.seed)?;
    let mut prompts = Vec::new();
    let mut conversations: Vec<Vec<Message>> = Vec::new();
    let mut row_ids = Vec::new();
    for row in &data.rows {
        let ids = desk.tokenizer.chat(&row.prompt.0, true, None)?;
        if ids.len() <= config.max_prompt_length {
            prompts.push(ids);
            conversations.push(row.prompt.0.clone());
            row_ids.push(row.id.as_str());
        }
    }
    let left_out = data.rows.len() - prompts.len();
    if left_out > 0 {
        progress.note(&format!(
            "{left_out} prompts left out: longer than `max_prompt_length`"
        ));
    }
    let algorithm = ppos::PpoConfig {
        seed: at.seed,
        pause_after: part.until,
        ..config.algorithm.clone()
    };
    let scorer = Scorer::open(reward, at.out)?;
    let positions = config.max_prompt_length + algorithm.response_length;
    let mut network = desk.network(
        lora(config.lora, config.lora_alpha),
        0.0,
        positions,
        at.seed,
    )?;
    let identity = row_key(&[
        "ppo",
        &data.sha256,
        &data.rows.len().to_string(),
        &fingerprint(at.base)?,
        &settings(config),
        &reward.identity()?,
        &at.seed.to_string(),
        &format!("{:?}", part.until),
        &part.after.map(fingerprint).transpose()?.unwrap_or_default(),
    ]);
    if let Some(before) = part.after {
        Folder::take_over(at.out, before, &identity)?;
    }
    let (mut folder, mut state): (Folder, PpoState) = Folder::open(
        at.out,
        &identity,
        at.other,
        Duration::from_secs_f64(config.save_secs.max(0.0)),
        &mut network,
    )?;
    let (total, _) = ppos::iterations(&algorithm);
    let total = part.until.unwrap_or(total).min(total);
    progress.start(
        "ppo",
        Unit::Iterations,
        total as usize,
        state.iteration as usize,
    );
    let mut failure = None;
    let mut last = Value::Null;
    let sampled = std::cell::RefCell::new(Vec::new());
    let outcome = ppos::ppo(
        &mut network,
        &prompts,
        &algorithm,
        &mut state,
        |picked, rollouts| {
            let (texts, scores) = rate(&desk, &scorer, &conversations, &prompts, picked, rollouts)
                .map_err(|e| e.to_string())?;
            let kept = texts.into_iter().zip(&scores).zip(picked);
            sampled.replace(
                kept.take(config.keep_rollouts)
                    .map(|((completion, score), prompt)| Scored {
                        iteration: 0,
                        id: row_ids[*prompt].to_owned(),
                        completion,
                        score: score.as_ref().ok().copied(),
                    })
                    .collect(),
            );
            Ok(scores)
        },
        |network, state, line| {
            progress.row(Outcome::Decided);
            progress.note(&format!(
                "iteration {}: score {:.3}, KL {:.3}, length {:.1}, entropy {:.3}, clipped {:.3}",
                line.iteration, line.score, line.kl, line.length, line.entropy, line.clip_fraction
            ));
            last = json!(line);
            let mut keep = || -> Result<(), Error> {
                folder.log(line.iteration, line)?;
                for mut scored in sampled.take() {
                    scored.iteration = line.iteration;
                    let text = serde_json::to_string(&scored).unwrap_or_default() + "\n";
                    folder.append(ROLLOUTS, text.as_bytes())?;
                }
                if folder.is_due() || at.stop.is_requested() {
                    folder.checkpoint(network, state.iteration, state)?;
                }
                Ok(())
            };
            if let Err(e) = keep() {
                failure = Some(e);
                return Err(STOPPED.into());
            }
            if at.stop.is_requested() {
                return Err(STOPPED.into());
            }
            Ok(())
        },
    );
    if let Some(e) = failure {
        return Err(e);
    }
    outcome.map_err(|e| ended(e, "ppo", state.iteration, total))?;
    desk.save(&network, at.out, at.merge)?;
    folder.checkpoint(&network, state.iteration, &state)?;
    progress.finish("ppo");
    let report = PpoReport {
        verb: "ppo".into(),
        iterations: state.iteration,
        stopped_by_kl: state.stopped_by_kl,
        kept: state.kept,
        pauses: state.pauses,
        prompts: prompts.len(),
        left_out,
        last,
        wall_secs: begun.elapsed().as_secs_f64(),
        out: at.out.to_path_buf(),
    };
    write_summary(at.out, &report)?;
    Ok(report)
}

fn rate(
    desk: &Desk,
    scorer: &Scorer,
    conversations: &[Vec<Message>],
    prompts: &[Vec<u32>],
    picked: &[usize],
    rollouts: &[Rollout],
) -> Result<(Vec<String>, Scores), Error> {
    let mut texts = Vec::with_capacity(rollouts.len());
    for rollout in rollouts {
        texts.push(desk.tokenizer.decode(&rollout.tokens)?);
    }
    let items: Vec<Item<'_>> = picked
        .iter()
        .zip(rollouts)
        .zip(&texts)
        .map(|((i, rollout), text)| Item {
            messages: &conversations[*i],
            completion: text,
            prompt_ids: &prompts[*i],
            completion_ids: &rollout.tokens,
        })
        .collect();
    let scores = scorer.score(&desk.tokenizer, &items)?;
    Ok((texts, scores))
}
