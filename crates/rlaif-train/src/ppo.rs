//! Proximal policy optimization (Schulman et al. 2017) on completions, with the details that decide
//! whether it works (Huang et al. 2024, "The N implementation details of RLHF with PPO").
//!
//! Per token t of a completion: KL estimate kₜ = log π_old − log π_ref; reward rₜ = −β kₜ, plus the
//! score at the last token; GAE δₜ = rₜ + γ Vₜ₊₁ − Vₜ, Aₜ = Σ (γλ)ⁱ δₜ₊ᵢ, returns Aₜ + Vₜ; rewards
//! whitened without their mean, advantages with. Vₜ is the value head at the token *before* t.
//! With several completions a prompt there is no value: Aₜ is what is rewarded from t on, less the mean
//! of what the prompt's other completions were rewarded in all (RLOO; Ahmadian et al. 2024).
//! L = mean max(−A ρ, −A clip(ρ, 1 ± ε)) + c_v ½ mean max((V − R)², (clip(V, V_old ± ε_v) − R)²)
//!   − c_e mean H, ρ = π / π_old, means over the completion tokens of the mini-batch.

use std::collections::HashMap;

use rlaif_core::seed;
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;
use crate::waist::{Loss, Row, TokenBatch, TokenGrads, TokenOutputs, TrainError, Trainable};

/// A network that also writes completions.
pub trait Rollouts: Trainable {
    /// One completion a prompt, sampled at `temperature`.
    ///
    /// # Errors
    /// The network's own.
    fn generate(
        &mut self,
        prompts: &[&[u32]],
        temperature: f32,
        max_new_tokens: usize,
        seed: u64,
    ) -> Result<Vec<Rollout>, Self::Error>;

    /// Remembers the parameters as they are, in the place of those remembered before.
    fn keep(&mut self);

    /// Goes back to the parameters last remembered; stays where none were.
    fn go_back(&mut self);
}

/// A sampled completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollout {
    /// Ids after the prompt, an end token included.
    pub tokens: Vec<u32>,
    /// Whether it ended by itself.
    pub finished: bool,
}

/// Which policy a run ends with, among those within the KL budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The last.
    #[default]
    Last,
    /// That of the highest mean reward (score less penalties, KL included) over an iteration.
    Best,
}

/// Settings; names and defaults are those of TRL's `PPOConfig` where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// Highest learning rate.
    pub learning_rate: f32,
    /// Shape of the learning rate over all iterations.
    pub lr_scheduler_type: Schedule,
    /// Completions in all.
    pub total_episodes: usize,
    /// Completions an iteration.
    pub batch_size: usize,
    /// Completions a prompt, K. One: a value head gives the baseline of its advantages. More: the
    /// mean of the prompt's other completions does (RLOO; Ahmadian et al. 2024, equation 8), and
    /// no value head is trained.
    pub num_generations: usize,
    /// Passes over an iteration's completions.
    pub num_ppo_epochs: usize,
    /// Optimizer steps a pass.
    pub num_mini_batches: usize,
    /// Weight β of the KL penalty; where it starts, if adaptive.
    pub kl_coef: f32,
    /// Keeps KL a completion near this, in nats, by changing β (Ziegler et al. 2019); none: fixed β.
    pub target_kl: Option<f32>,
    /// Completions over which the adaptive β reacts.
    pub kl_horizon: f32,
    /// Stops the run once KL a completion is above this, in nats, and goes back to a policy within.
    pub kl_budget: Option<f32>,
    /// Which policy the run ends with.
    pub keep: Keep,
    /// ε of the ratio.
    pub cliprange: f32,
    /// ε_v of the value.
    pub cliprange_value: f32,
    /// c_v.
    pub vf_coef: f32,
    /// c_e.
    pub entropy_coef: f32,
    /// γ.
    pub gamma: f32,
    /// λ.
    pub lam: f32,
    /// Divide rewards by their deviation.
    pub whiten_rewards: bool,
    /// Taken off the score of a completion that did not end by itself.
    pub missing_eos_penalty: Option<f32>,
    /// Of sampling; log-probabilities are taken at it too.
    pub temperature: f32,
    /// Most tokens of a completion.
    pub response_length: usize,
    /// Most tokens in memory at once.
    pub max_tokens: usize,
    /// Share of completions without a score above which the run stops.
    pub max_failed: f64,
    /// Pauses once so many iterations are done, whatever is left of them, and leaves the parameters
    /// as they are: whoever renews the reward on the way goes on from the state.
    #[serde(skip)]
    pub pause_after: Option<u64>,
    /// Seed of prompts, samples and mini-batches; that of the run, never a setting of its own.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for PpoConfig {
    fn default() -> Self {
        PpoConfig {
            learning_rate: 3e-6,
            lr_scheduler_type: Schedule::Linear,
            total_episodes: 10_000,
            batch_size: 128,
            num_generations: 1,
            num_ppo_epochs: 4,
            num_mini_batches: 4,
            kl_coef: 0.05,
            target_kl: None,
            kl_horizon: 10_000.0,
            kl_budget: None,
            keep: Keep::Last,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            entropy_coef: 0.0,
            gamma: 1.0,
            lam: 0.95,
            whiten_rewards: false,
            missing_eos_penalty: Some(1.0),
            temperature: 0.7,
            response_length: 53,
            max_tokens: 8192,
            max_failed: 0.05,
            pause_after: None,
            seed: 0,
        }
    }
}

impl PpoConfig {
    /// Whether a value head gives the baseline, and not a prompt's other completions.
    #[must_use]
    pub fn learns_values(&self) -> bool {
        self.num_generations == 1
    }
}

/// What PPO keeps of a completion's tokens; all lists are as long as the completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experience {
    /// Prompt and completion, the completion wanted.
    pub row: Row,
    /// Where the completion begins.
    pub prompt: usize,
    /// log π_old.
    pub logprobs: Vec<f32>,
    /// V_old before each token; empty where no value head is trained.
    pub values: Vec<f32>,
    /// Whitened over the batch.
    pub advantages: Vec<f32>,
    /// Targets of the value head; empty where none is trained.
    pub returns: Vec<f32>,
}

/// Generalized advantage estimation (Schulman et al. 2016, equation 16). All lists have the
/// completion's length; the state after its end has value 0.
#[must_use]
pub fn gae(rewards: &[f32], values: &[f32], gamma: f32, lam: f32) -> (Vec<f32>, Vec<f32>) {
    let n = rewards.len();
    let mut advantages = vec![0.0; n];
    let (mut last, mut next) = (0.0, 0.0);
    for t in (0..n).rev() {
        let delta = rewards[t] + gamma * next - values[t];
        last = delta + gamma * lam * last;
        advantages[t] = last;
        next = values[t];
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    (advantages, returns)
}

/// Advantages against the mean of the other completions of the same prompt (RLOO; Ahmadian et al.
/// 2024, equation 8), from per-token rewards: Aᵢₜ = Σ_{s ≥ t} rᵢₛ − mean over j ≠ i of Σ_s rⱼₛ.
/// `groups` names each completion's prompt. One that stands alone has nothing to be compared with,
/// and advantages of 0.
#[must_use]
pub fn leave_one_out(rewards: &[Vec<f32>], groups: &[usize]) -> Vec<Vec<f32>> {
    let mut sums: HashMap<usize, (f32, f32)> = HashMap::new();
    let totals: Vec<f32> = rewards.iter().map(|r| r.iter().sum()).collect();
    for (group, total) in groups.iter().zip(&totals) {
        let sum = sums.entry(*group).or_default();
        *sum = (sum.0 + total, sum.1 + 1.0);
    }
    let one = |((rewards, group), total): ((&Vec<f32>, &usize), &f32)| {
        let (sum, n) = sums[group];
        if n < 2.0 {
            return vec![0.0; rewards.len()];
        }
        let baseline = (sum - total) / (n - 1.0);
        let mut rest = *total;
        rewards
            .iter()
            .map(|r| {
                let advantage = rest - baseline;
                rest -= r;
                advantage
            })
            .collect()
    };
    rewards.iter().zip(groups).zip(&totals).map(one).collect()
}

/// (x − mean) / √(var + 1e-8), population variance; without `shift` the mean is added back.
pub fn whiten(lists: &mut [Vec<f32>], shift: bool) {
    let n = lists.iter().map(Vec::len).sum::<usize>() as f64;
    if n == 0.0 {
        return;
    }
    let all = || lists.iter().flatten().map(|x| f64::from(*x));
    let mean = all().sum::<f64>() / n;
    let var = all().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let inv = 1.0 / (var + 1e-8).sqrt();
    for x in lists.iter_mut().flatten() {
        let white = (f64::from(*x) - mean) * inv;
        *x = (if shift { white } else { white + mean }) as f32;
    }
}

/// β after an iteration: β (1 + clip(KL/target − 1, ±0.2) n / horizon).
#[must_use]
pub fn adapt(beta: f32, kl: f32, target: f32, n: usize, horizon: f32) -> f32 {
    beta * (1.0 + (kl / target - 1.0).clamp(-0.2, 0.2) * n as f32 / horizon)
}

/// Sums over tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LossMetrics {
    /// Completion tokens.
    pub tokens: f64,
    /// Policy loss.
    pub policy: f64,
    /// Value loss, with its ½ and without its coefficient.
    pub value: f64,
    /// Entropy.
    pub entropy: f64,
    /// Tokens whose ratio was clipped.
    pub clipped: f64,
    /// Tokens whose value was clipped.
    pub value_clipped: f64,
    /// ½ (log ratio)².
    pub approx_kl: f64,
}

/// The clipped loss of a micro-batch; `total` is the number of completion tokens in the mini-batch.
#[must_use]
pub fn ppo_loss(
    experience: &[&Experience],
    batch: &TokenBatch,
    out: &TokenOutputs,
    config: &PpoConfig,
    total: f64,
) -> Loss<LossMetrics> {
    let n = batch.tokens.len();
    let mut grads = TokenGrads {
        logprobs: vec![0.0; n],
        entropy: vec![0.0; n],
        values: vec![0.0; n],
    };
    let mut m = LossMetrics::default();
    let scale = (1.0 / total) as f32;
    let (eps, eps_v) = (config.cliprange, config.cliprange_value);
    for (r, e) in experience.iter().enumerate() {
        let start = batch.row(r).start + e.prompt;
        for t in 0..e.logprobs.len() {
            let i = start + t;
            let log_ratio = out.logprobs[i] - e.logprobs[t];
            let ratio = log_ratio.exp();
            let a = e.advantages[t];
            let (free, held) = (-a * ratio, -a * ratio.clamp(1.0 - eps, 1.0 + eps));
            m.policy += f64::from(free.max(held));
            // Where the clipped branch wins its gradient is 0, unless the clip does not bind.
            if free >= held {
                grads.logprobs[i] = scale * free;
            } else {
                m.clipped += 1.0;
            }
            if let (Some(old), Some(target)) = (e.values.get(t), e.returns.get(t)) {
                let v = out.values[i - 1];
                let near = v.clamp(old - eps_v, old + eps_v);
                let (loss, loss_near) = ((v - target).powi(2), (near - target).powi(2));
                m.value += 0.5 * f64::from(loss.max(loss_near));
                if loss >= loss_near {
                    grads.values[i - 1] += scale * config.vf_coef * (v - target);
                } else {
                    m.value_clipped += 1.0;
                    if near == v {
                        grads.values[i - 1] += scale * config.vf_coef * (near - target);
                    }
                }
            }
            let h = out.entropy.get(i).copied().unwrap_or(0.0);
            m.entropy += f64::from(h);
            grads.entropy[i] = -scale * config.entropy_coef;
            m.approx_kl += 0.5 * f64::from(log_ratio * log_ratio);
            m.tokens += 1.0;
        }
    }
    if config.entropy_coef == 0.0 {
        grads.entropy = Vec::new();
    }
    let value = (m.policy + f64::from(config.vf_coef) * m.value
        - f64::from(config.entropy_coef) * m.entropy)
        / total;
    Loss {
        value: value as f32,
        grads,
        metrics: m,
    }
}

/// One iteration, for the log. Means over completions or tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PpoMetrics {
    /// From 1.
    pub iteration: u64,
    /// Of how many.
    pub iterations: u64,
    /// Completions so far.
    pub episodes: u64,
    /// Score of the reward, before penalties.
    pub score: f32,
    /// Score less penalties, KL included.
    pub reward: f32,
    /// KL to the reference a completion, in nats (sum over its tokens).
    pub kl: f32,
    /// β of this iteration.
    pub kl_coef: f32,
    /// Tokens a completion.
    pub length: f32,
    /// Share that ended by itself.
    pub finished: f32,
    /// Entropy a token, in nats.
    pub entropy: f32,
    /// Share of ratios clipped.
    pub clip_fraction: f32,
    /// Share of values clipped.
    pub value_clip_fraction: f32,
    /// ½ mean (log ratio)².
    pub approx_kl: f32,
    /// Policy loss.
    pub policy_loss: f32,
    /// Value loss.
    pub value_loss: f32,
    /// 1 − var(returns − baseline) / var(returns), before the updates; the baseline is V, or the mean
    /// of the prompt's other completions.
    pub explained_variance: f32,
    /// Mean gradient norm before clipping.
    pub grad_norm: f32,
    /// Learning rate.
    pub learning_rate: f32,
    /// Completions without a score, left out of the updates.
    pub failed: u64,
    /// Whether an update followed. Where not, the policy was only measured, and the figures of
    /// losses are 0.
    pub updated: bool,
    /// Whether the KL budget ended the run here.
    pub stopped_by_kl: bool,
}

/// A policy that was remembered, as its iteration measured it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The iteration whose completions it wrote, from 1.
    pub iteration: u64,
    /// Mean score of them.
    pub score: f32,
    /// Mean reward.
    pub reward: f32,
    /// KL a completion, in nats.
    pub kl: f32,
}

/// Where a run stands; with the network's own state, enough to go on exactly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PpoState {
    /// Iterations done.
    pub iteration: u64,
    /// β now; none before the first iteration.
    pub kl_coef: Option<f32>,
    /// Whether the KL budget has ended the run.
    pub stopped_by_kl: bool,
    /// The policy that the run ends with, as far as known; none where it ends with the last one.
    pub kept: Option<Kept>,
    /// Iterations done at each pause so far, after which another reward may have taken over.
    #[serde(default)]
    pub pauses: Vec<u64>,
}

/// Scores of completions: one result each, a failed one is never a number.
pub type Scores = Vec<Result<f32, String>>;

/// Number of iterations, and of those that update.
///
/// Completions measure the policy *before* their update. Where a policy is to be chosen (a KL
/// budget, or [`Keep::Best`]), one iteration more measures the last update and makes none.
#[must_use]
pub fn iterations(config: &PpoConfig) -> (u64, u64) {
    let updates = config
        .total_episodes
        .div_ceil(config.batch_size.max(1))
        .max(1) as u64;
    let chooses = config.kl_budget.is_some() || config.keep == Keep::Best;
    (updates + u64::from(chooses), updates)
}

/// Runs PPO from `state`. `score` rates the completions of the given prompts (by index). With a
/// KL budget or [`Keep::Best`] the model ends with the parameters of [`PpoState::kept`]; one that
/// pauses has not ended.
///
/// # Errors
/// The network's own, a loss that is not finite, too many failed scores, what `after` says.
pub fn ppo<T: Rollouts>(
    model: &mut T,
    prompts: &[Vec<u32>],
    config: &PpoConfig,
    state: &mut PpoState,
    mut score: impl FnMut(&[usize], &[Rollout]) -> Result<Scores, String>,
    mut after: impl FnMut(&mut T, &PpoState, &PpoMetrics) -> Result<(), String>,
) -> Result<(), TrainError<T::Error>> {
    if prompts.is_empty() || config.batch_size == 0 {
        return Err(TrainError::Empty("there is no prompt to train on".into()));
    }
    let (batch, group) = (config.batch_size, config.num_generations);
    if group == 0 || !batch.is_multiple_of(group) {
        return Err(TrainError::Uneven { batch, group });
    }
    let (iterations, updates) = iterations(config);
    let mut beta = state.kl_coef.unwrap_or(config.kl_coef);
    let pause = config.pause_after.unwrap_or(iterations).min(iterations);
    while state.iteration < pause && !state.stopped_by_kl {
        let it = state.iteration;
        let lr = config.learning_rate * config.lr_scheduler_type.factor(it, 0, updates);
        let picked = pick(prompts.len(), config, it);
        let ids: Vec<&[u32]> = picked.iter().map(|i| prompts[*i].as_slice()).collect();
        let drawn = seed::derive(config.seed, &["ppo", "sample", &it.to_string()]);
        let rollouts = model
            .generate(&ids, config.temperature, config.response_length, drawn)
            .map_err(TrainError::Model)?;
        let scores = score(&picked, &rollouts).map_err(TrainError::Stopped)?;
        let mut m = PpoMetrics {
            iteration: it + 1,
            iterations,
            episodes: (it + 1) * config.batch_size as u64,
            kl_coef: beta,
            learning_rate: lr,
            ..PpoMetrics::default()
        };
        let mut rated = Vec::new();
        let mut reason = String::new();
        for ((prompt, rollout), score) in picked.iter().zip(rollouts).zip(scores) {
            match score {
                Ok(s) if s.is_finite() && !rollout.tokens.is_empty() => {
                    rated.push((*prompt, rollout, s));
                }
                Ok(_) => m.failed += 1,
                Err(e) => {
                    m.failed += 1;
                    reason = e;
                }
            }
        }
        if rated.is_empty() || m.failed as f64 > config.max_failed * ids.len() as f64 {
            return Err(TrainError::Stopped(format!(
                "{} of {} completions got no score, more than the allowed share of {}: {reason}",
                m.failed,
                ids.len(),
                config.max_failed
            )));
        }
        let mut experience = gather(model, prompts, rated, config, beta, &mut m)?;
        if config.kl_budget.is_some_and(|budget| m.kl > budget) {
            m.stopped_by_kl = true;
            state.stopped_by_kl = true;
        } else {
            let improves = |kept: &Kept| config.keep == Keep::Last || m.reward > kept.reward;
            if iterations > updates && state.kept.as_ref().is_none_or(improves) {
                model.keep();
                state.kept = Some(Kept {
                    iteration: it + 1,
                    score: m.score,
                    reward: m.reward,
                    kl: m.kl,
                });
            }
            if it < updates {
                update(model, &mut experience, config, lr, it, &mut m)?;
                m.updated = true;
            }
        }
        if let Some(target) = config.target_kl {
            beta = adapt(beta, m.kl, target, config.batch_size, config.kl_horizon);
        }
        state.iteration += 1;
        state.kl_coef = Some(beta);
        after(model, state, &m).map_err(TrainError::Stopped)?;
    }
    if !state.stopped_by_kl && state.iteration < iterations {
        // Whoever was killed before noting it pauses here again.
        if state.pauses.last() != Some(&state.iteration) {
            state.pauses.push(state.iteration);
        }
    } else if state.kept.is_some() {
        model.go_back();
    }
    Ok(())
}

/// Prompts of an iteration, each as often as it is completed: passes over all of them, each in an
/// order of its own.
fn pick(n: usize, config: &PpoConfig, iteration: u64) -> Vec<usize> {
    let mut order: (u64, Vec<usize>) = (u64::MAX, Vec::new());
    (0..config.batch_size as u64)
        .map(|i| {
            let at = (iteration * config.batch_size as u64 + i) / config.num_generations as u64;
            let pass = at / n as u64;
            if order.0 != pass {
                let key = |i: &usize| {
                    seed::derive(
                        config.seed,
                        &["ppo", "prompt", &pass.to_string(), &i.to_string()],
                    )
                };
                let mut list: Vec<usize> = (0..n).collect();
                list.sort_by_key(key);
                order = (pass, list);
            }
            order.1[(at % n as u64) as usize]
        })
        .collect()
}

fn cut<'a>(list: &[&'a Experience], max_tokens: usize) -> Vec<Vec<&'a Experience>> {
    let mut parts: Vec<Vec<&Experience>> = Vec::new();
    let mut used = usize::MAX;
    for e in list {
        let n = e.row.tokens.len();
        if used.saturating_add(n) > max_tokens {
            parts.push(Vec::new());
            used = 0;
        }
        used += n;
        if let Some(last) = parts.last_mut() {
            last.push(e);
        }
    }
    parts
}

fn pack(part: &[&Experience], config: &PpoConfig) -> TokenBatch {
    let mut batch = TokenBatch::pack(part.iter().map(|e| &e.row));
    batch.temperature = config.temperature;
    batch
}

/// Old log-probabilities and values, reference, rewards, advantages.
fn gather<T: Rollouts>(
    model: &T,
    prompts: &[Vec<u32>],
    rated: Vec<(usize, Rollout, f32)>,
    config: &PpoConfig,
    beta: f32,
    m: &mut PpoMetrics,
) -> Result<Vec<Experience>, TrainError<T::Error>> {
    let n = rated.len() as f32;
    let mut experience = Vec::new();
    let (mut scores, mut groups) = (Vec::new(), Vec::new());
    for (which, rollout, score) in rated {
        groups.push(which);
        m.score += score / n;
        m.length += rollout.tokens.len() as f32 / n;
        m.finished += f32::from(u8::from(rollout.finished)) / n;
        scores.push(match config.missing_eos_penalty {
            Some(penalty) if !rollout.finished => score - penalty,
            _ => score,
        });
        let prompt = &prompts[which];
        let mut tokens = prompt.clone();
        tokens.extend(rollout.tokens);
        experience.push(Experience {
            prompt: prompt.len(),
            row: Row::completion(tokens, prompt.len()),
            ..Experience::default()
        });
    }
    let mut reference = Vec::new();
    let views: Vec<&Experience> = experience.iter().collect();
    let mut found = Vec::new();
    for part in cut(&views, config.max_tokens) {
        let batch = pack(&part, config);
        let now = model.evaluate(&batch).map_err(TrainError::Model)?;
        let base = model.reference(&batch).map_err(TrainError::Model)?;
        for (r, e) in part.iter().enumerate() {
            let row = batch.row(r).start + e.prompt..batch.row(r).end;
            let values = match config.learns_values() {
                true => now.values[row.start - 1..row.end - 1].to_vec(),
                false => Vec::new(),
            };
            found.push((now.logprobs[row.clone()].to_vec(), values));
            reference.push(base.logprobs[row].to_vec());
        }
    }
    let mut rewards: Vec<Vec<f32>> = Vec::new();
    for (((e, (logprobs, values)), base), score) in
        experience.iter_mut().zip(found).zip(&reference).zip(scores)
    {
        let kl: Vec<f32> = logprobs.iter().zip(base).map(|(a, b)| a - b).collect();
        m.kl += kl.iter().sum::<f32>() / n;
        let mut r: Vec<f32> = kl.iter().map(|k| -beta * k).collect();
        if let Some(last) = r.last_mut() {
            *last += score;
        }
        m.reward += r.iter().sum::<f32>() / n;
        rewards.push(r);
        e.logprobs = logprobs;
        e.values = values;
    }
    if config.whiten_rewards {
        whiten(&mut rewards, false);
    }
    let mut advantages = Vec::new();
    if !config.learns_values() {
        advantages = leave_one_out(&rewards, &groups);
        let whole = rewards.iter().map(|r| r.iter().sum()).collect();
        let rest = advantages.iter().filter_map(|a| a.first().copied());
        m.explained_variance = explained(whole, rest.collect());
    } else {
        for (e, r) in experience.iter_mut().zip(&rewards) {
            let (a, returns) = gae(r, &e.values, config.gamma, config.lam);
            e.returns = returns;
            advantages.push(a);
        }
        let each = || {
            experience
                .iter()
                .flat_map(|e| e.returns.iter().zip(&e.values))
        };
        let rest = each().map(|(r, v)| r - v).collect();
        m.explained_variance = explained(each().map(|(r, _)| *r).collect(), rest);
    }
    whiten(&mut advantages, true);
    for (e, a) in experience.iter_mut().zip(advantages) {
        e.advantages = a;
    }
    Ok(experience)
}

/// 1 − var(rest) / var(all).
fn explained(all: Vec<f32>, rest: Vec<f32>) -> f32 {
    let var = |x: Vec<f32>| {
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len() as f64;
        x.iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>()
            / x.len() as f64
    };
    let all = var(all);
    if all > 0.0 {
        (1.0 - var(rest) / all) as f32
    } else {
        f32::NAN
    }
}

fn update<T: Rollouts>(
    model: &mut T,
    experience: &mut [Experience],
    config: &PpoConfig,
    lr: f32,
    iteration: u64,
    m: &mut PpoMetrics,
) -> Result<(), TrainError<T::Error>> {
    let mut sums = LossMetrics::default();
    let mut steps = 0.0;
    for epoch in 0..config.num_ppo_epochs {
        let mut order: Vec<usize> = (0..experience.len()).collect();
        order.sort_by_key(|i| {
            let parts = [iteration, epoch as u64, *i as u64].map(|x| x.to_string());
            seed::derive(
                config.seed,
                &["ppo", "order", &parts[0], &parts[1], &parts[2]],
            )
        });
        let each = order.len().div_ceil(config.num_mini_batches.max(1)).max(1);
        for mini in order.chunks(each) {
            let mini: Vec<&Experience> = mini.iter().map(|i| &experience[*i]).collect();
            let total: usize = mini.iter().map(|e| e.logprobs.len()).sum();
            for part in cut(&mini, config.max_tokens) {
                let mut batch = pack(&part, config);
                batch.entropy = true;
                let (out, tape) = model.forward(&batch).map_err(TrainError::Model)?;
                let loss = ppo_loss(&part, &batch, &out, config, total as f64);
                if !loss.value.is_finite() {
                    return Err(TrainError::NotFinite {
                        step: iteration + 1,
                        value: loss.value,
                    });
                }
                model
                    .backward(tape, &loss.grads)
                    .map_err(TrainError::Model)?;
                let p = &loss.metrics;
                sums.tokens += p.tokens;
                sums.policy += p.policy;
                sums.value += p.value;
                sums.entropy += p.entropy;
                sums.clipped += p.clipped;
                sums.value_clipped += p.value_clipped;
                sums.approx_kl += p.approx_kl;
            }
            m.grad_norm += model.step(lr).map_err(TrainError::Model)?;
            steps += 1.0;
        }
    }
    let mean = |x: f64| (x / sums.tokens.max(1.0)) as f32;
    m.grad_norm /= steps;
    m.entropy = mean(sums.entropy);
    m.clip_fraction = mean(sums.clipped);
    m.value_clip_fraction = mean(sums.value_clipped);
    m.approx_kl = mean(sums.approx_kl);
    m.policy_loss = mean(sums.policy);
    m.value_loss = mean(sums.value);
    Ok(())
}
