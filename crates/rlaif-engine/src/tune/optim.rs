//! AdamW (Loshchilov and Hutter 2019) as PyTorch computes it.

use std::path::Path;

use rayon::prelude::*;
use safetensors::SafeTensors;

use crate::error::EngineError;
use crate::kernels::multiversion;
use crate::weights::{PROJECTIONS, Weights, module, write_tensors};

/// A tensor in training.
pub(super) struct Tensor<'a> {
    pub name: String,
    /// Whether weight decay applies (norms are left out, as `transformers` leaves them out).
    pub decays: bool,
    pub data: &'a mut [f32],
}

/// All weights, or their gradients, in a fixed order.
pub(super) fn tensors(w: &mut Weights) -> Vec<Tensor<'_>> {
    fn t(name: String, decays: bool, data: &mut [f32]) -> Tensor<'_> {
        Tensor { name, decays, data }
    }
    let mut all = vec![t(
        "model.embed_tokens.weight".into(),
        true,
        &mut w.embed.data,
    )];
    for (layer, b) in w.blocks.iter_mut().enumerate() {
        let prefix = format!("model.layers.{layer}");
        all.push(t(
            format!("{prefix}.input_layernorm.weight"),
            false,
            &mut b.input_norm,
        ));
        for (i, m) in b.linear.iter_mut().enumerate() {
            let name = format!("{prefix}.{}.{}.weight", module(i), PROJECTIONS[i]);
            all.push(t(name, true, &mut m.data));
        }
        let name = format!("{prefix}.post_attention_layernorm.weight");
        all.push(t(name, false, &mut b.post_norm));
    }
    all.push(t("model.norm.weight".into(), false, &mut w.norm));
    if let Some(m) = &mut w.lm_head {
        all.push(t("lm_head.weight".into(), true, &mut m.data));
    }
    if let Some(m) = &mut w.score {
        all.push(t("score.weight".into(), true, &mut m.data));
    }
    all
}

/// The optimizer and its state. Field names are PyTorch's.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rates of the two moments.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm; 0 leaves them.
    pub max_grad_norm: f32,
    steps: u32,
    moments: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Default for AdamW {
    /// Betas 0.9 and 0.999, eps 1e-8, no decay, gradients clipped to norm 1: `transformers`'
    /// defaults.
    fn default() -> Self {
        AdamW {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            steps: 0,
            moments: Vec::new(),
        }
    }
}

impl AdamW {
    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    pub(super) fn step(
        &mut self,
        lr: f32,
        weights: Vec<Tensor<'_>>,
        mut grads: Vec<Tensor<'_>>,
    ) -> Result<f32, EngineError> {
        // In f64 over fixed pieces: independent of the number of threads.
        let mut total = 0.0f64;
        for g in &grads {
            let part: Vec<f64> = g.data.par_chunks(65_536).map(square).collect();
            let part: f64 = part.iter().sum();
            if !part.is_finite() {
                return Err(EngineError::NotFinite {
                    tensor: format!("gradient of {}", g.name),
                });
            }
            total += part;
        }
        let norm = total.sqrt() as f32;
        let clip = if self.max_grad_norm > 0.0 {
            (self.max_grad_norm / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        if self.moments.is_empty() {
            self.moments = weights
                .iter()
                .map(|t| (vec![0.0; t.data.len()], vec![0.0; t.data.len()]))
                .collect();
        }
        self.steps += 1;
        let (b1, b2) = self.betas;
        let correct1 = 1.0 - f64::from(b1).powi(self.steps as i32);
        let correct2 = (1.0 - f64::from(b2).powi(self.steps as i32)).sqrt();
        let rate = (f64::from(lr) / correct1) as f32;
        for ((w, g), (m, v)) in weights.into_iter().zip(&mut grads).zip(&mut self.moments) {
            let how = Update {
                clip,
                b1,
                b2,
                rate,
                root: correct2 as f32,
                eps: self.eps,
                keep: if w.decays {
                    1.0 - lr * self.weight_decay
                } else {
                    1.0
                },
            };
            const PIECE: usize = 16_384;
            w.data
                .par_chunks_mut(PIECE)
                .zip(g.data.par_chunks_mut(PIECE))
                .zip(m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE)))
                .for_each(|((w, g), (m, v))| update(how, w, g, m, v));
        }
        Ok(norm)
    }

    /// Writes step count and moments as one safetensors file, so that a run goes on exactly.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), EngineError> {
        let steps = [self.steps as f32];
        let mut named = vec![("steps".to_string(), vec![1], steps.as_slice())];
        for (i, (m, v)) in self.moments.iter().enumerate() {
            named.push((format!("m{i}"), vec![m.len()], m));
            named.push((format!("v{i}"), vec![v.len()], v));
        }
        write_tensors(path, &named, false)
    }

    /// Reads what [`AdamW::write`] wrote into this optimizer.
    ///
    /// # Errors
    /// A file that is missing or corrupt.
    pub fn read(&mut self, path: &Path) -> Result<(), EngineError> {
        let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
        let bad = |e: safetensors::SafeTensorError| {
            EngineError::format(path, format!("is not a complete optimizer state ({e})"))
        };
        let file = SafeTensors::deserialize(&bytes).map_err(bad)?;
        let take = |name: &str| -> Result<Vec<f32>, EngineError> {
            crate::weights::to_f32(&file.tensor(name).map_err(bad)?)
                .ok_or_else(|| EngineError::format(path, format!("`{name}` is not f32")))
        };
        self.steps = take("steps")?.first().map_or(0, |s| *s as u32);
        self.moments = (0..(file.len() - 1) / 2)
            .map(|i| Ok((take(&format!("m{i}"))?, take(&format!("v{i}"))?)))
            .collect::<Result<_, EngineError>>()?;
        Ok(())
    }
}

multiversion! {
    /// Σ x², in sixteen lanes of f64.
    pub(crate) fn square(x: &[f32]) -> f64 {
        let (chunks, rest) = x.as_chunks::<16>();
        let mut lanes = [0.0f64; 16];
        for c in chunks {
            for i in 0..16 {
                lanes[i] += f64::from(c[i]) * f64::from(c[i]);
            }
        }
        for (i, v) in rest.iter().enumerate() {
            lanes[i] += f64::from(*v) * f64::from(*v);
        }
        lanes.iter().sum()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Update {
    clip: f32,
    b1: f32,
    b2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    keep: f32,
}

multiversion! {
    /// One piece of a step; the gradient is zeroed.
    pub(crate) fn update(u: Update, w: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        for (((w, g), m), v) in w.iter_mut().zip(g.iter_mut()).zip(m.iter_mut()).zip(v.iter_mut()) {
            let grad = *g * u.clip;
            *g = 0.0;
            *m = *m * u.b1 + grad * (1.0 - u.b1);
            *v = *v * u.b2 + grad * grad * (1.0 - u.b2);
            *w = *w * u.keep - u.rate * *m / (v.sqrt() / u.root + u.eps);
        }
    }
}
