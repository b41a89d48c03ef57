//! The loop that every offline objective shares.

use rlaif_core::seed;
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;
use crate::waist::{Loss, Row, TokenBatch, TokenOutputs, TrainError, Trainable};

/// A loss over examples.
pub trait Objective {
    /// What one example is.
    type Example;
    /// Sums worth watching.
    type Metrics: Default + Clone + Serialize;

    /// The example's rows, in the order that the loss expects them.
    fn rows<'a>(&self, example: &'a Self::Example) -> Vec<&'a Row>;

    /// What the example counts in the step's mean (pairs: 1; SFT: its tokens).
    fn weight(&self, example: &Self::Example) -> f64;

    /// The examples' part of the step's loss; `total` is the weight of the whole step.
    fn loss(
        &self,
        examples: &[&Self::Example],
        batch: &TokenBatch,
        out: &TokenOutputs,
        total: f64,
    ) -> Loss<Self::Metrics>;

    /// Adds a part's sums.
    fn add(&self, into: &mut Self::Metrics, part: &Self::Metrics);
}

/// Settings of the loop; names and defaults are those of `transformers`' `TrainingArguments` where
/// it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitConfig {
    /// Highest learning rate.
    pub learning_rate: f32,
    /// Examples a step.
    pub batch_size: usize,
    /// Passes over the data.
    pub num_train_epochs: f64,
    /// Shape of the learning rate.
    pub lr_scheduler_type: Schedule,
    /// Share of steps that rise.
    pub warmup_ratio: f64,
    /// Most tokens in memory at once; a step is cut into micro-batches of at most this.
    pub max_tokens: usize,
    /// Held-out evaluation every so many steps, and at the end; 0: at the end only.
    pub eval_steps: u64,
    /// Seed of the order of examples.
    pub seed: u64,
}

impl Default for FitConfig {
    fn default() -> Self {
        FitConfig {
            learning_rate: 2e-5,
            batch_size: 8,
            num_train_epochs: 1.0,
            lr_scheduler_type: Schedule::Linear,
            warmup_ratio: 0.03,
            max_tokens: 4096,
            eval_steps: 0,
            seed: 0,
        }
    }
}

/// Where a loop stands: with the network's own state, enough to go on exactly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps taken; the data position follows from it and the seed.
    pub step: u64,
    /// Held-out losses, as (step, loss).
    pub evals: Vec<(u64, f32)>,
}

/// One step, for the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepMetrics<M> {
    /// From 1.
    pub step: u64,
    /// Of how many.
    pub steps: u64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Mean loss.
    pub loss: f32,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Before clipping.
    pub grad_norm: f32,
    /// Held-out loss, where it was measured after this step.
    pub eval_loss: Option<f32>,
    /// Held-out sums, likewise.
    pub eval: Option<M>,
    /// The objective's sums over the step.
    #[serde(flatten)]
    pub metrics: M,
}

/// Number of steps that a run takes.
#[must_use]
pub fn steps(config: &FitConfig, examples: usize) -> u64 {
    let each = examples.div_ceil(config.batch_size.max(1)) as f64;
    (each * config.num_train_epochs).ceil().max(1.0) as u64
}

/// The examples of a step: each epoch is a permutation of its own, fixed by the seed.
fn chosen(
    config: &FitConfig,
    examples: usize,
    step: u64,
    order: &mut (u64, Vec<usize>),
) -> Vec<usize> {
    let each = examples.div_ceil(config.batch_size.max(1)) as u64;
    let epoch = step / each;
    if order.1.is_empty() || order.0 != epoch {
        let mut list: Vec<(u64, usize)> = (0..examples)
            .map(|i| {
                (
                    seed::derive(config.seed, &["fit", &epoch.to_string(), &i.to_string()]),
                    i,
                )
            })
            .collect();
        list.sort_unstable();
        *order = (epoch, list.into_iter().map(|(_, i)| i).collect());
    }
    let from = (step % each) as usize * config.batch_size.max(1);
    order.1[from..(from + config.batch_size.max(1)).min(examples)].to_vec()
}

/// Cuts examples into micro-batches of at most `max_tokens`, longest first so that rows of a
/// micro-batch are alike; an example is never cut.
fn micro<'a, O: Objective>(
    objective: &O,
    examples: &[&'a O::Example],
    max_tokens: usize,
) -> Vec<Vec<&'a O::Example>> {
    let length = |e: &O::Example| {
        objective
            .rows(e)
            .iter()
            .map(|r| r.tokens.len())
            .sum::<usize>()
    };
    let mut order: Vec<(usize, &O::Example)> = examples.iter().map(|e| (length(e), *e)).collect();
    order.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let mut parts: Vec<(usize, Vec<&O::Example>)> = Vec::new();
    for (n, e) in order {
        match parts.last_mut() {
            Some((used, list)) if *used + n <= max_tokens => {
                *used += n;
                list.push(e);
            }
            _ => parts.push((n, vec![e])),
        }
    }
    parts.into_iter().map(|(_, list)| list).collect()
}

/// Mean loss and sums over held-out examples.
///
/// # Errors
/// The network's own.
pub fn evaluate<T: Trainable, O: Objective>(
    model: &T,
    objective: &O,
    examples: &[O::Example],
    max_tokens: usize,
) -> Result<(f32, O::Metrics), TrainError<T::Error>> {
    let all: Vec<&O::Example> = examples.iter().collect();
    let total: f64 = all.iter().map(|e| objective.weight(e)).sum();
    let (mut value, mut metrics) = (0.0, O::Metrics::default());
    for part in micro(objective, &all, max_tokens) {
        let batch = TokenBatch::pack(part.iter().flat_map(|e| objective.rows(e)));
        let out = model.evaluate(&batch).map_err(TrainError::Model)?;
        let loss = objective.loss(&part, &batch, &out, total.max(1.0));
        value += loss.value;
        objective.add(&mut metrics, &loss.metrics);
    }
    Ok((value, metrics))
}

/// Trains from `state` to the end. `after` sees each step and may stop the run by an error, or
/// write a checkpoint of the model and the state.
///
/// # Errors
/// The network's own; a loss that is not finite, before any parameter follows it; what `after` says.
pub fn fit<T: Trainable, O: Objective>(
    model: &mut T,
    objective: &O,
    train: &[O::Example],
    held_out: &[O::Example],
    config: &FitConfig,
    state: &mut State,
    mut after: impl FnMut(&mut T, &State, &StepMetrics<O::Metrics>) -> Result<(), String>,
) -> Result<(), TrainError<T::Error>> {
    if train.is_empty() {
        return Err(TrainError::Empty("there is no example to train on".into()));
    }
    let steps = steps(config, train.len());
    let warmup = (steps as f64 * config.warmup_ratio).ceil() as u64;
    let mut order = (0, Vec::new());
    while state.step < steps {
        let step = state.step;
        let examples: Vec<&O::Example> = chosen(config, train.len(), step, &mut order)
            .into_iter()
            .map(|i| &train[i])
            .collect();
        let total: f64 = examples
            .iter()
            .map(|e| objective.weight(e))
            .sum::<f64>()
            .max(1e-9);
        let (mut value, mut metrics) = (0.0, O::Metrics::default());
        for part in micro(objective, &examples, config.max_tokens) {
            let batch = TokenBatch::pack(part.iter().flat_map(|e| objective.rows(e)));
            let (out, tape) = model.forward(&batch).map_err(TrainError::Model)?;
            let loss = objective.loss(&part, &batch, &out, total);
            if !loss.value.is_finite() {
                return Err(TrainError::NotFinite {
                    step: step + 1,
                    value: loss.value,
                });
            }
            value += loss.value;
            objective.add(&mut metrics, &loss.metrics);
            model
                .backward(tape, &loss.grads)
                .map_err(TrainError::Model)?;
        }
        // The first step of a warm-up has a rate of 0, as in transformers.
        let lr = config.learning_rate * config.lr_scheduler_type.factor(step, warmup, steps);
        let grad_norm = model.step(lr).map_err(TrainError::Model)?;
        state.step += 1;
        let due = state.step == steps
            || (config.eval_steps > 0 && state.step.is_multiple_of(config.eval_steps));
        let mut eval = None;
        if due && !held_out.is_empty() {
            let (loss, sums) = evaluate(model, objective, held_out, config.max_tokens)?;
            state.evals.push((state.step, loss));
            eval = Some((loss, sums));
        }
        let each = train.len().div_ceil(config.batch_size.max(1)) as f64;
        let line = StepMetrics {
            step: state.step,
            steps,
            epoch: state.step as f64 / each,
            loss: value,
            learning_rate: lr,
            grad_norm,
            eval_loss: eval.as_ref().map(|(l, _)| *l),
            eval: eval.map(|(_, m)| m),
            metrics,
        };
        after(model, state, &line).map_err(TrainError::Stopped)?;
    }
    Ok(())
}
