//! Rotary position embedding, in the half-split layout of Hugging Face checkpoints.

use crate::config::{LlamaConfig, RopeScaling};
use crate::kernels::multiversion;

/// Cosines and sines of every position and frequency.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    half: usize,
    /// `[position][half]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Rotations per position, length `head_dim / 2`, scaled as the configuration says (Llama 3.1's
/// rule as in `transformers`, `_compute_llama3_parameters`). In f32, as PyTorch computes them.
pub(crate) fn frequencies(c: &LlamaConfig) -> Vec<f32> {
    (0..c.head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / c.head_dim as f32;
            let f = 1.0 / (c.rope_theta as f32).powf(exponent);
            match c.rope_scaling {
                RopeScaling::Default => f,
                RopeScaling::Linear { factor } => f / factor as f32,
                RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    let (f64_f, wave) = (f64::from(f), std::f64::consts::TAU / f64::from(f));
                    if wave < original / high {
                        f
                    } else if wave > original / low {
                        (f64_f / factor) as f32
                    } else {
                        let smooth = (original / wave - low) / (high - low);
                        ((1.0 - smooth) * f64_f / factor + smooth * f64_f) as f32
                    }
                }
            }
        })
        .collect()
}

impl Rope {
    /// Tables for the first `positions` positions.
    pub(crate) fn new(c: &LlamaConfig, positions: usize) -> Self {
        let freqs = frequencies(c);
        let (cos, sin) = (0..positions)
            .flat_map(|p| {
                freqs.iter().map(move |f| {
                    let angle = p as f32 * f;
                    (angle.cos(), angle.sin())
                })
            })
            .unzip();
        Rope {
            half: freqs.len(),
            cos,
            sin,
        }
    }

    /// Positions in the table.
    pub(crate) fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Rotates each head of `x` (heads × head_dim) to `position`; with `back`, the other way, which
    /// is the gradient.
    pub(crate) fn rotate(&self, x: &mut [f32], position: usize, back: bool) {
        let row = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[row.clone()], &self.sin[row]);
        turn(x, cos, sin, if back { -1.0 } else { 1.0 });
    }
}

multiversion! {
    /// Turns each head's pairs (i, i + half) by the angles, times `sign`.
    pub(crate) fn turn(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        for head in x.chunks_exact_mut(2 * cos.len()) {
            let (a, b) = head.split_at_mut(cos.len());
            for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
                let sin = sign * sin;
                let (u, v) = (*a, *b);
                *a = u * cos - v * sin;
                *b = v * cos + u * sin;
            }
        }
    }
}
