//! Training on examples: supervised fine-tuning, reward models, DPO.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rlaif_core::Outcome;
use rlaif_core::dataset::{self, Dataset};
use rlaif_engine::LlamaConfig;
use rlaif_train::dpo::LossType;
use rlaif_train::fit::{self as fits, fit};
use rlaif_train::schedule::Schedule;
use rlaif_train::{
    FitConfig, Objective, State, StepMetrics, TokenBatch, Trainable, dpo as dpos,
    reward as rewards, sft as sfts,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::examples::{Made, Splits, label};
use super::folder::Folder;
use super::{At, Desk, Head, Need, Network, STOPPED, ended, lora, settings, write_summary};
use crate::error::Error;
use crate::local::fingerprint;
use crate::progress::Unit;
use crate::rows::row_key;

/// What every training on examples takes; names and defaults are those of `transformers`'
/// `TrainingArguments` where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TuneConfig {
    /// Highest learning rate; absent: 2e-5, with an adapter 2e-4 (DPO: 1e-6 and 5e-5).
    pub learning_rate: Option<f32>,
    /// Examples a step.
    pub batch_size: usize,
    /// Passes over the data.
    pub num_train_epochs: f64,
    /// Shape of the learning rate.
    pub lr_scheduler_type: Schedule,
    /// Share of steps in which the learning rate rises.
    pub warmup_ratio: f64,
    /// Decoupled weight decay; norms are left out.
    pub weight_decay: f32,
    /// Rows with more tokens are left out and counted; none is cut.
    pub max_length: usize,
    /// Most tokens in memory at once.
    pub max_tokens: usize,
    /// Held-out evaluation every so many steps; the best model by it is kept.
    pub eval_steps: u64,
    /// Rank of a LoRA adapter to train instead of all weights.
    pub lora: Option<usize>,
    /// Its alpha; absent: twice the rank.
    pub lora_alpha: Option<f32>,
    /// Seconds of work that a kill may cost.
    pub save_secs: f64,
}

impl Default for TuneConfig {
    fn default() -> Self {
        TuneConfig {
            learning_rate: None,
            batch_size: 16,
            num_train_epochs: 1.0,
            lr_scheduler_type: Schedule::Linear,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            max_length: 1024,
            max_tokens: 4096,
            eval_steps: 50,
            lora: None,
            lora_alpha: None,
            save_secs: 30.0,
        }
    }
}

/// `[sft]` of a recipe, and what the verb `sft` takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// In a recipe, the model to start from.
    pub base: String,
    /// In a recipe, the share of helpful samples among the rows, in [0, 1): originals that the
    /// critic approved, or rows of `helpful_file`.
    pub helpful_share: f64,
    /// In a recipe, rows with prompt and answer to draw helpful samples from.
    pub helpful_file: Option<PathBuf>,
    /// The loop.
    #[serde(flatten)]
    pub tune: TuneConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        SftConfig {
            base: "policy".into(),
            helpful_share: 0.2,
            helpful_file: None,
            tune: TuneConfig::default(),
        }
    }
}

/// `[reward]` of a recipe, and what the verb `reward` takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// In a recipe, the model to start from.
    pub base: String,
    /// Pulls rewards towards a mean of zero; TRL recommends 0.01.
    pub center_rewards_coefficient: f32,
    /// The loop.
    #[serde(flatten)]
    pub tune: TuneConfig,
}

impl Default for RewardConfig {
    fn default() -> Self {
        RewardConfig {
            base: "sft".into(),
            center_rewards_coefficient: 0.01,
            tune: TuneConfig::default(),
        }
    }
}

/// `[dpo]` of a recipe, and what the verb `dpo` takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoConfig {
    /// In a recipe, the model to start from; it is the reference too.
    pub base: String,
    /// Strength of the pull to the reference.
    pub beta: f32,
    /// `sigmoid`, `robust` or `ipo`.
    pub loss_type: LossType,
    /// The loop.
    #[serde(flatten)]
    pub tune: TuneConfig,
}

impl Default for DpoConfig {
    fn default() -> Self {
        DpoConfig {
            base: "sft".into(),
            beta: 0.1,
            loss_type: LossType::Sigmoid,
            tune: TuneConfig::default(),
        }
    }
}

/// What a training on examples came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FitReport {
    /// `sft`, `reward` or `dpo`.
    pub verb: String,
    /// Optimizer steps.
    pub steps: u64,
    /// Examples trained on.
    pub train: usize,
    /// Examples that chose the checkpoint.
    pub validation: usize,
    /// Examples measured once, at the end.
    pub test: usize,
    /// Rows left out for their length.
    pub too_long: usize,
    /// Rows left out for what they lack.
    pub unusable: usize,
    /// The step whose model was kept; `null` where nothing was held out.
    pub best_step: Option<u64>,
    /// Its held-out loss.
    pub validation_loss: Option<f32>,
    /// Loss of the kept model on the test split.
    pub test_loss: Option<f32>,
    /// Further figures on the test split, such as a reward model's `accuracy`.
    pub test_metrics: Option<Value>,
    /// Time of this run.
    pub wall_secs: f64,
    /// The folder.
    pub out: PathBuf,
}

/// Supervised fine-tuning on each row's first completion.
///
/// # Errors
/// Files of the base that cannot be read; rows of which none can be trained on; a loss that is not
/// finite; [`Error::Stopped`].
pub fn sft(config: &SftConfig, data: &Dataset, at: &At<'_>) -> Result<FitReport, Error> {
    let job = Fit::open(
        "sft",
        Head::Language,
        &config.tune,
        settings(config),
        data,
        at,
    )?;
    let splits = Splits::of(data, |row| {
        let Some(answer) = row.completions.first() else {
            return Ok(Made::Unusable);
        };
        let made = job
            .desk
            .row(&row.prompt.0, answer, config.tune.max_length)?;
        Ok(made.map_or(Made::TooLong, Made::Example))
    })?;
    job.train(
        &sfts::Sft,
        splits,
        (2e-5, 2e-4),
        |_, e| Ok(e),
        |_| json!({}),
    )
}

/// A reward model on pairs with soft labels.
///
/// # Errors
/// As [`sft`].
pub fn reward(config: &RewardConfig, data: &Dataset, at: &At<'_>) -> Result<FitReport, Error> {
    let job = Fit::open(
        "reward",
        Head::Scalar,
        &config.tune,
        settings(config),
        data,
        at,
    )?;
    let splits = job.pairs(|chosen, rejected, p, row| rewards::Pair {
        chosen,
        rejected,
        p,
        margin: row
            .columns
            .get("margin")
            .and_then(Value::as_f64)
            .unwrap_or(0.0) as f32,
    })?;
    let objective = rewards::BradleyTerry {
        center_rewards_coefficient: config.center_rewards_coefficient,
    };
    job.train(
        &objective,
        splits,
        (2e-5, 2e-4),
        |_, e| Ok(e),
        |m| {
            json!({"accuracy": m.correct / m.decided, "pairs": m.pairs, "decided": m.decided,
               "margin": m.margin / m.pairs})
        },
    )
}

/// Direct preference optimization on pairs with soft labels.
///
/// # Errors
/// As [`sft`].
pub fn dpo(config: &DpoConfig, data: &Dataset, at: &At<'_>) -> Result<FitReport, Error> {
    let job = Fit::open(
        "dpo",
        Head::Language,
        &config.tune,
        settings(config),
        data,
        at,
    )?;
    let splits = job.pairs(|chosen, rejected, p, _| dpos::Pair {
        chosen,
        rejected,
        p,
        reference: (0.0, 0.0),
    })?;
    let objective = dpos::Dpo {
        beta: config.beta,
        loss_type: config.loss_type,
    };
    let at_once = (config.tune.max_tokens / 512).max(1);
    // The reference's log-probabilities once, before the policy moves.
    let prepare = |network: &Network, mut examples: Vec<dpos::Pair>| {
        for part in examples.chunks_mut(at_once) {
            let batch = TokenBatch::pack(part.iter().flat_map(|e| [&e.chosen, &e.rejected]));
            let out = network.reference(&batch)?;
            for (i, e) in part.iter_mut().enumerate() {
                e.reference = (
                    batch.sum(2 * i, &out.logprobs),
                    batch.sum(2 * i + 1, &out.logprobs),
                );
            }
        }
        Ok(examples)
    };
    job.train(&objective, splits, (1e-6, 5e-5), prepare, |m| {
        json!({"rewards/accuracies": m.correct / m.decided, "pairs": m.pairs,
               "decided": m.decided, "rewards/chosen": m.rewards_chosen / m.pairs,
               "rewards/rejected": m.rewards_rejected / m.pairs})
    })
}

/// What the trainings on examples share.
struct Fit<'a> {
    verb: &'static str,
    tune: &'a TuneConfig,
    data: &'a Dataset,
    at: &'a At<'a>,
    desk: Desk,
    identity: String,
    begun: Instant,
}

impl<'a> Fit<'a> {
    fn open(
        verb: &'static str,
        head: Head,
        tune: &'a TuneConfig,
        settings: String,
        data: &'a Dataset,
        at: &'a At<'a>,
    ) -> Result<Self, Error> {
        let begun = Instant::now();
        let shape = LlamaConfig::read(at.base)?;
        Need::of_examples(&shape, tune.lora, tune.max_tokens, verb == "dpo").check(verb)?;
        let desk = Desk::open(at.base, head, at.seed)?;
        // The rows' number stands for a limit on them, which the file's hash does not show.
        let identity = row_key(&[
            verb,
            &data.sha256,
            &data.rows.len().to_string(),
            &fingerprint(at.base)?,
            &settings,
            &at.seed.to_string(),
        ]);
        Ok(Fit {
            verb,
            tune,
            data,
            at,
            desk,
            identity,
            begun,
        })
    }

    fn pairs<T>(
        &self,
        make: impl Fn(rlaif_train::Row, rlaif_train::Row, f32, &dataset::Row) -> T,
    ) -> Result<Splits<T>, Error> {
        Splits::of(self.data, |row| {
            let ([first, second], Some(p)) = (row.completions.as_slice(), label(row)) else {
                return Ok(Made::Unusable);
            };
            let long = self.tune.max_length;
            let first = self.desk.row(&row.prompt.0, first, long)?;
            let second = self.desk.row(&row.prompt.0, second, long)?;
            Ok(match (first, second) {
                (Some(a), Some(b)) => Made::Example(make(a, b, p, row)),
                _ => Made::TooLong,
            })
        })
    }

    /// Trains, keeps the best by held-out loss, measures the test split once. `rates` are the
    /// learning rates for all weights and for an adapter.
    fn train<O: Objective>(
        &self,
        objective: &O,
        splits: Splits<O::Example>,
        rates: (f32, f32),
        prepare: impl Fn(&Network, Vec<O::Example>) -> Result<Vec<O::Example>, Error>,
        figures: impl Fn(&O::Metrics) -> Value,
    ) -> Result<FitReport, Error> {
        let (tune, at, progress) = (self.tune, self.at, self.at.progress);
        let rate = if tune.lora.is_some() {
            rates.1
        } else {
            rates.0
        };
        let config = FitConfig {
            learning_rate: tune.learning_rate.unwrap_or(rate),
            batch_size: tune.batch_size.max(1),
            num_train_epochs: tune.num_train_epochs,
            lr_scheduler_type: tune.lr_scheduler_type,
            warmup_ratio: tune.warmup_ratio,
            max_tokens: tune.max_tokens,
            eval_steps: tune.eval_steps,
            seed: at.seed,
        };
        let (too_long, unusable) = (splits.too_long, splits.unusable);
        for (n, why) in [
            (too_long, "longer than `max_length`"),
            (unusable, "without completions or a label"),
        ] {
            if n > 0 {
                progress.note(&format!("{n} rows left out: {why}"));
            }
        }
        let lora = lora(tune.lora, tune.lora_alpha);
        let mut network = self
            .desk
            .network(lora, tune.weight_decay, tune.max_length, at.seed)?;
        let train = prepare(&network, splits.train)?;
        let held_out = prepare(&network, splits.validation)?;
        let test = prepare(&network, splits.test)?;
        let (mut folder, mut state): (Folder, State) = Folder::open(
            at.out,
            &self.identity,
            at.other,
            Duration::from_secs_f64(tune.save_secs.max(0.0)),
            &mut network,
        )?;
        let total = fits::steps(&config, train.len());
        progress.start(self.verb, Unit::Steps, total as usize, state.step as usize);
        let mut failure = None;
        let outcome = fit(
            &mut network,
            objective,
            &train,
            &held_out,
            &config,
            &mut state,
            |network, state, line: &StepMetrics<O::Metrics>| {
                progress.row(Outcome::Decided);
                let mut keep = || -> Result<(), Error> {
                    folder.log(line.step, line)?;
                    if let Some(loss) = line.eval_loss {
                        progress.note(&format!(
                            "step {}: loss {:.4}, held out {loss:.4}",
                            line.step, line.loss
                        ));
                        if state.evals.iter().all(|(_, l)| loss <= *l) {
                            self.desk.save(network, at.out, at.merge)?;
                        }
                    }
                    if folder.is_due() || at.stop.is_requested() {
                        folder.checkpoint(network, state.step, state)?;
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
        outcome.map_err(|e| ended(e, self.verb, state.step, total))?;
        if held_out.is_empty() {
            self.desk.save(&network, at.out, at.merge)?;
        }
        folder.checkpoint(&network, state.step, &state)?;
        progress.finish(self.verb);
        let best = state
            .evals
            .iter()
            .copied()
            .min_by(|a, b| a.1.total_cmp(&b.1));
        let measured = self.measure(objective, &network, &test, best, state.step)?;
        let report = FitReport {
            verb: self.verb.to_owned(),
            steps: state.step,
            train: train.len(),
            validation: held_out.len(),
            test: test.len(),
            too_long,
            unusable,
            best_step: best.map(|b| b.0),
            validation_loss: best.map(|b| b.1),
            test_loss: measured.as_ref().map(|m| m.0),
            test_metrics: measured.as_ref().map(|m| figures(&m.1)),
            wall_secs: self.begun.elapsed().as_secs_f64(),
            out: at.out.to_path_buf(),
        };
        write_summary(at.out, &report)?;
        Ok(report)
    }

    /// The test split on the saved model. Where that is not the network as it stands, it is read
    /// back from its files, which proves them as well.
    fn measure<O: Objective>(
        &self,
        objective: &O,
        network: &Network,
        test: &[O::Example],
        best: Option<(u64, f32)>,
        last: u64,
    ) -> Result<Option<(f32, O::Metrics)>, Error> {
        if test.is_empty() {
            return Ok(None);
        }
        let evaluate = |n: &Network| {
            fits::evaluate(n, objective, test, self.tune.max_tokens)
                .map_err(|e| ended(e, self.verb, last, last))
        };
        match best {
            Some((step, _)) if step != last => {
                evaluate(&self.desk.reopen(self.at.out, self.tune.max_length)?).map(Some)
            }
            _ => evaluate(network).map(Some),
        }
    }
}
