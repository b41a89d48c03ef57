//! A checkpoint folder opened for training, and what training writes back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif_core::Message;
use rlaif_engine::{
    AdamW, Adapter, Inference, LlamaConfig, LoraConfig, Matrix, Tokenizer, Tuner, Weights,
};
use rlaif_train::Row;

use super::network::Network;
use crate::error::Error;

/// What the last layer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Next-token probabilities.
    Language,
    /// Next-token probabilities and a value head beside (PPO); the head starts at zero.
    LanguageAndValue,
    /// A scalar: a reward model. A language model gets a new head, N(0, 1/√(D+1)).
    Scalar,
}

/// A model to train, with its tokenizer.
pub struct Desk {
    /// The folder it came from.
    pub base: PathBuf,
    /// Its shape.
    pub config: LlamaConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    weights: Arc<Weights>,
    head: Head,
}

impl Desk {
    /// Opens a checkpoint folder for training with a head.
    ///
    /// # Errors
    /// Files that are missing, corrupt or contradictory.
    pub fn open(folder: &Path, head: Head, seed: u64) -> Result<Self, Error> {
        let mut config = LlamaConfig::read(folder)?;
        let tokenizer = Tokenizer::read(folder)?;
        let mut weights = Weights::read(folder, &config)?;
        match head {
            Head::Scalar if !config.scalar_head => {
                config.scalar_head = true;
                weights.lm_head = None;
                weights.score = Weights::random(&head_only(&config), 0.0, seed).score;
            }
            Head::Scalar => {}
            _ if config.scalar_head => {
                return Err(Error::input(
                    format!(
                        "`{}` is a reward model, not a language model",
                        folder.display()
                    ),
                    "give a folder whose config.json names LlamaForCausalLM",
                ));
            }
            Head::LanguageAndValue => weights.score = Some(Matrix::zeros(1, config.hidden)),
            Head::Language => {}
        }
        Ok(Desk {
            base: folder.to_path_buf(),
            config,
            tokenizer,
            weights: Arc::new(weights),
            head,
        })
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// The network: all weights, or an adapter beside them.
    ///
    /// # Errors
    /// An adapter's target that does not exist.
    pub fn network(
        &self,
        lora: Option<LoraConfig>,
        weight_decay: f32,
        positions: usize,
        seed: u64,
    ) -> Result<Network, Error> {
        let adapter = match lora {
            Some(l) => Some(Adapter::new(&self.config, &self.weights, l, seed)?),
            None => None,
        };
        let mut optimizer = AdamW::default();
        optimizer.weight_decay = weight_decay;
        let weights = Arc::clone(&self.weights);
        let config = self.config.clone();
        Ok(Network::new(Tuner::new(
            config, weights, adapter, positions, optimizer,
        )))
    }

    /// A prompt with its answer as a training row; `None` where it is longer than `max_length`.
    ///
    /// # Errors
    /// What the chat template refuses.
    pub fn row(
        &self,
        prompt: &[Message],
        answer: &str,
        max_length: usize,
    ) -> Result<Option<Row>, Error> {
        let (shared, tokens) =
            crate::local::conversation(&self.tokenizer, &self.config, prompt, answer)?;
        Ok((tokens.len() <= max_length).then(|| Row::completion(tokens, shared)))
    }

    /// The model packed for inference.
    #[must_use]
    pub fn inference(&self) -> Inference {
        Inference::new(&self.config, &self.weights, self.config.max_positions)
    }

    /// A network from what [`Desk::save`] wrote: an adapter beside this desk's weights, or a model.
    ///
    /// # Errors
    /// Files that are missing or corrupt.
    pub fn reopen(&self, out: &Path, positions: usize) -> Result<Network, Error> {
        let (weights, adapter) = if out.join("model.safetensors").is_file() {
            (Arc::new(Weights::read(out, &self.config)?), None)
        } else {
            let adapter = Adapter::read(out, &self.config)?;
            (Arc::clone(&self.weights), Some(adapter))
        };
        let optimizer = AdamW::default();
        let config = self.config.clone();
        Ok(Network::new(Tuner::new(
            config, weights, adapter, positions, optimizer,
        )))
    }

    /// Writes the trained model: an adapter in PEFT's layout, or the whole model; the tokenizer's
    /// files beside. With `merge` an adapter is written as a whole model too, and stands in a
    /// folder `adapter` beside it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, network: &Network, out: &Path, merge: bool) -> Result<(), Error> {
        let tuner = network.tuner();
        if let Some(adapter) = tuner.adapter() {
            let mut adapter = adapter.clone();
            if self.head != Head::Scalar {
                adapter.score = None;
            }
            let beside = out.join("adapter");
            let folder = if merge { &beside } else { out };
            adapter.write(folder, &self.base.display().to_string())?;
        }
        if merge || tuner.adapter().is_none() {
            tuner.merged().write(out, &self.config, false)?;
        }
        for name in TOKENIZER_FILES {
            let from = self.base.join(name);
            if from.is_file() {
                std::fs::copy(&from, out.join(name))
                    .map_err(rlaif_core::Error::io("write", out.join(name)))?;
            }
        }
        Ok(())
    }
}

const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "tokenizer.model",
    "generation_config.json",
];

/// The smallest shape with this scalar head, to draw the head alone.
fn head_only(c: &LlamaConfig) -> LlamaConfig {
    let mut small = LlamaConfig::new(1, c.hidden, 1, 0, c.heads, c.kv_heads);
    small.scalar_head = true;
    small
}
