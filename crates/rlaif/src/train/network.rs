//! The engine's model as the trainer's network.

use std::path::Path;
use std::sync::Arc;

use rlaif_core::{Finish, Sampling, seed};
use rlaif_engine::{
    Batch, EngineError, Job, Options, Outputs, Parameters, Scheduler, Tape, Tuner, Weights,
};
use rlaif_train::ppo::{Rollout, Rollouts};
use rlaif_train::{TokenBatch, TokenGrads, TokenOutputs, Trainable};

/// The engine's model as the trainer's network. The reference is the base with the adapter off, or,
/// where all weights train, the weights as they were at the start.
pub struct Network {
    tuner: Tuner,
    start: Arc<Weights>,
    kept: Option<Parameters>,
    eos: Arc<[u32]>,
    cache_bytes: u64,
}

impl Network {
    /// A network whose reference is the model as it is now.
    #[must_use]
    pub fn new(tuner: Tuner) -> Self {
        Network {
            start: Arc::clone(tuner.weights()),
            kept: None,
            eos: tuner.config().eos.clone().into(),
            cache_bytes: Options::default().cache_bytes,
            tuner,
        }
    }

    /// Takes other weights of the same shape for the reference.
    #[must_use]
    pub fn with_reference(mut self, weights: Arc<Weights>) -> Self {
        self.start = weights;
        self
    }

    /// Writes all that exact resume needs into a checkpoint's folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_state(&self, folder: &Path) -> Result<(), EngineError> {
        self.tuner.save_state(folder)?;
        match &self.kept {
            Some(kept) => kept.write(&folder.join(KEPT)),
            None => Ok(()),
        }
    }

    /// Reads what [`Network::save_state`] wrote.
    ///
    /// # Errors
    /// A file that is missing, corrupt or of another model.
    pub fn restore(&mut self, folder: &Path) -> Result<(), EngineError> {
        self.tuner.restore(folder)?;
        let kept = folder.join(KEPT);
        if kept.is_file() {
            self.kept = Some(self.tuner.read_parameters(&kept)?);
        }
        Ok(())
    }

    /// The tuner behind.
    #[must_use]
    pub fn tuner(&self) -> &Tuner {
        &self.tuner
    }
}

const KEPT: &str = "kept.safetensors";

fn batch(b: &TokenBatch) -> Batch<'_> {
    Batch {
        tokens: &b.tokens,
        offsets: &b.offsets,
        wanted: Some(&b.wanted),
        targets: None,
        temperature: b.temperature,
        entropy: b.entropy,
    }
}

fn outputs(o: Outputs) -> TokenOutputs {
    TokenOutputs {
        logprobs: o.logprobs,
        entropy: o.entropy,
        values: o.values,
    }
}

impl Trainable for Network {
    type Tape = Tape;
    type Error = EngineError;

    fn forward(&mut self, b: &TokenBatch) -> Result<(TokenOutputs, Tape), EngineError> {
        let (out, tape) = self.tuner.forward(&batch(b))?;
        Ok((outputs(out), tape))
    }

    fn evaluate(&self, b: &TokenBatch) -> Result<TokenOutputs, EngineError> {
        self.tuner.evaluate(&batch(b), true).map(outputs)
    }

    fn reference(&self, b: &TokenBatch) -> Result<TokenOutputs, EngineError> {
        if self.tuner.adapter().is_some() {
            return self.tuner.evaluate(&batch(b), false).map(outputs);
        }
        self.tuner
            .evaluate_with(&self.start, &batch(b))
            .map(outputs)
    }

    fn backward(&mut self, tape: Tape, g: &TokenGrads) -> Result<(), EngineError> {
        let g = Outputs {
            logprobs: g.logprobs.clone(),
            entropy: g.entropy.clone(),
            values: g.values.clone(),
        };
        self.tuner.backward(tape, &g);
        Ok(())
    }

    fn step(&mut self, lr: f32) -> Result<f32, EngineError> {
        self.tuner.step(lr)
    }
}

impl Rollouts for Network {
    fn generate(
        &mut self,
        prompts: &[&[u32]],
        temperature: f32,
        max_new_tokens: usize,
        seed: u64,
    ) -> Result<Vec<Rollout>, EngineError> {
        let config = self.tuner.config();
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0) + max_new_tokens;
        let options = Options {
            cache_bytes: self.cache_bytes,
            ..Options::default()
        };
        let mut scheduler = Scheduler::of(config, &self.tuner.merged(), longest, options);
        let jobs = prompts
            .iter()
            .enumerate()
            .map(|(i, p)| Job::Sample {
                prompt: p.to_vec(),
                sampling: Sampling {
                    temperature,
                    max_new_tokens: max_new_tokens as u32,
                    ..Sampling::default()
                },
                seed: seed::derive(seed, &[&i.to_string()]),
                eos: Arc::clone(&self.eos),
            })
            .collect();
        Ok(scheduler
            .run(jobs)?
            .into_iter()
            .map(|d| Rollout {
                finished: d.finish == Finish::Stop,
                tokens: d.ids,
            })
            .collect())
    }
    fn keep(&mut self) {
        self.kept = Some(self.tuner.parameters());
    }

    fn go_back(&mut self) {
        if let Some(kept) = &self.kept {
            self.tuner.set_parameters(kept);
        }
    }
}
