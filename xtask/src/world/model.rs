//! The finished models, asked.

use std::path::Path;
use std::sync::Arc;

use rlaif_core::{Message, Sampling};
use rlaif_engine::{Job, LlamaConfig, Options, Scheduler, Tokenizer, Weights};

/// A finished model.
pub struct Model {
    words: Tokenizer,
    scheduler: Scheduler,
    eos: Arc<[u32]>,
}

impl Model {
    pub fn open(folder: &Path) -> Result<Self, String> {
        Self::shaken(folder, 0.0)
    }

    /// With noise in its projections, of this share of their own size: it errs as a model does whose
    /// training has led it away from what it knew.
    pub fn shaken(folder: &Path, share: f32) -> Result<Self, String> {
        let text = |e: rlaif_engine::EngineError| e.to_string();
        let config = LlamaConfig::read(folder).map_err(text)?;
        let mut weights = Weights::read(folder, &config).map_err(text)?;
        if share > 0.0 {
            let noise = Weights::random(&config, 1.0, 0);
            for (block, noise) in weights.blocks.iter_mut().zip(&noise.blocks) {
                for (own, noise) in block.linear.iter_mut().zip(&noise.linear) {
                    let square: f32 = own.data.iter().map(|w| w * w).sum();
                    let size = share * (square / own.data.len() as f32).sqrt();
                    own.data
                        .iter_mut()
                        .zip(&noise.data)
                        .for_each(|(w, n)| *w += size * n);
                }
            }
        }
        let weights = Arc::new(weights);
        Ok(Model {
            words: Tokenizer::read(folder).map_err(text)?,
            scheduler: Scheduler::of(&config, &weights, config.max_positions, Options::default()),
            eos: config.eos.clone().into(),
        })
    }

    /// log P((A)) − log P((B)) of each conversation.
    pub fn compare(&mut self, talks: &[Vec<Message>]) -> Result<Vec<f64>, String> {
        let options = ["(A)", "(B)"].map(|t| self.words.id(t).unwrap_or(0));
        let jobs = talks
            .iter()
            .map(|m| {
                Ok(Job::Score {
                    prompt: self.words.chat(m, true, None).map_err(|e| e.to_string())?,
                    continuation: Vec::new(),
                    first: options.to_vec(),
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let done = self.scheduler.run(jobs).map_err(|e| e.to_string())?;
        Ok(done
            .iter()
            .map(|d| f64::from(d.first[0]) - f64::from(d.first[1]))
            .collect())
    }

    /// An answer to each, of at most 160 tokens; the seed is its place.
    pub fn sample(
        &mut self,
        talks: &[Vec<Message>],
        temperature: f32,
    ) -> Result<Vec<String>, String> {
        let jobs = talks
            .iter()
            .enumerate()
            .map(|(i, m)| {
                Ok(Job::Sample {
                    prompt: self.words.chat(m, true, None).map_err(|e| e.to_string())?,
                    sampling: Sampling {
                        temperature,
                        max_new_tokens: 160,
                        ..Sampling::default()
                    },
                    seed: i as u64,
                    eos: Arc::clone(&self.eos),
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let done = self.scheduler.run(jobs).map_err(|e| e.to_string())?;
        done.iter()
            .map(|d| self.words.decode(&d.ids).map_err(|e| e.to_string()))
            .collect()
    }
}
