//! Log-probabilities, entropies and values from the last hidden states, without the tokens × V
//! matrix: a few hundred rows of logits exist at a time, and are computed again on the way back.

use rayon::prelude::*;

use super::ops::{linear, linear_dw, linear_dx};
use super::{Batch, Outputs};
use crate::config::LlamaConfig;
use crate::kernels::{exp_sum, max_of, multiversion};
use crate::weights::{Matrix, Weights};

/// Which hidden state predicts which token, and its log-sum-exp.
pub(super) struct Kept {
    /// (token's index, hidden state's index = index − 1, token).
    targets: Vec<(usize, usize, u32)>,
    lse: Vec<f32>,
    entropy: Vec<f32>,
    temperature: f32,
}

/// Most logits at once: 8 MiB.
fn rows_at_once(vocab: usize) -> usize {
    (2_097_152 / vocab).clamp(16, 512)
}

fn matrix(w: &Weights) -> &Matrix {
    w.lm_head.as_ref().unwrap_or(&w.embed)
}

fn gather(hidden: &[f32], d: usize, targets: &[(usize, usize, u32)]) -> Vec<f32> {
    let mut rows = Vec::with_capacity(targets.len() * d);
    for (_, from, _) in targets {
        rows.extend_from_slice(&hidden[from * d..(from + 1) * d]);
    }
    rows
}

pub(super) fn forward(
    w: &Weights,
    score: Option<&Matrix>,
    c: &LlamaConfig,
    batch: &Batch<'_>,
    hidden: &[f32],
) -> (Outputs, Kept) {
    let (n, d) = (batch.tokens.len(), c.hidden);
    let mut out = Outputs::default();
    if let Some(score) = score {
        out.values = vec![0.0; n];
        linear(hidden, &score.data, d, &mut out.values, false, 1.0);
    }
    let mut targets = Vec::new();
    let asked = batch.targets.unwrap_or(batch.tokens);
    if !c.scalar_head {
        for row in batch.offsets.windows(2) {
            for i in row[0] + 1..row[1] {
                if batch.wanted.is_none_or(|w| w[i]) {
                    targets.push((i, i - 1, asked[i]));
                }
            }
        }
        out.logprobs = vec![0.0; n];
        if batch.entropy {
            out.entropy = vec![0.0; n];
        }
    }
    let inv = 1.0 / batch.temperature;
    let (mut lse, mut entropy) = (Vec::new(), Vec::new());
    let head = matrix(w);
    let at_once = rows_at_once(c.vocab);
    let mut logits = Vec::new();
    for part in targets.chunks(at_once) {
        let x = gather(hidden, d, part);
        logits.resize(part.len() * c.vocab, 0.0);
        linear(&x, &head.data, d, &mut logits, false, inv);
        let rows: Vec<(f32, f32, f32)> = logits
            .par_chunks_exact_mut(c.vocab)
            .zip(part)
            .map(|(l, (_, _, token))| {
                let chosen = l[*token as usize];
                let (lse, entropy) = summarize(l, batch.entropy);
                (chosen - lse, lse, entropy)
            })
            .collect();
        for ((i, _, _), (logprob, z, h)) in part.iter().zip(rows) {
            out.logprobs[*i] = logprob;
            if batch.entropy {
                out.entropy[*i] = h;
            }
            lse.push(z);
            entropy.push(h);
        }
    }
    let kept = Kept {
        targets,
        lse,
        entropy,
        temperature: batch.temperature,
    };
    (out, kept)
}

/// (log Σ eˡ, entropy in nats where wanted, else 0) of a row of logits, which is used up.
fn summarize(l: &mut [f32], entropy: bool) -> (f32, f32) {
    let max = max_of(l);
    if !entropy {
        return (max + exp_sum(l, max).ln(), 0.0);
    }
    // H = lse − Σ p·l; with l measured from the maximum nothing large cancels.
    let shifted: Vec<f32> = l.iter().map(|l| l - max).collect();
    let sum = exp_sum(l, max);
    (max + sum.ln(), sum.ln() - dot(l, &shifted) / sum)
}

multiversion! {
    /// Σ aᵢ bᵢ in sixteen lanes.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let (ac, ar) = a.as_chunks::<16>();
        let (bc, br) = b.as_chunks::<16>();
        let mut lanes = [0.0f32; 16];
        for (x, y) in ac.iter().zip(bc) {
            for i in 0..16 {
                lanes[i] = x[i].mul_add(y[i], lanes[i]);
            }
        }
        for (i, (x, y)) in ar.iter().zip(br).enumerate() {
            lanes[i] = x.mul_add(*y, lanes[i]);
        }
        lanes.iter().sum()
    }
}

multiversion! {
    /// Logits → their gradient: p·(−g) from the log-probability, −gₕ·p·(log p + H) from the entropy;
    /// the chosen token's own part is added by the caller.
    pub(crate) fn logit_grad(l: &mut [f32], lse: f32, g: f32, gh: f32, entropy: f32) {
        for v in l.iter_mut() {
            let logp = *v - lse;
            let p = crate::kernels::exp(logp);
            *v = -p * (g + gh * (logp + entropy));
        }
    }
}

/// Adds the gradient with respect to the last hidden states (tokens × D) to `dhidden`, and to
/// `full`'s head where all weights train.
#[allow(clippy::too_many_arguments)] // one call, all of it needed
pub(super) fn backward(
    w: &Weights,
    score: Option<&Matrix>,
    c: &LlamaConfig,
    kept: &Kept,
    grads: &Outputs,
    hidden: &[f32],
    dhidden: &mut [f32],
    mut full: Option<&mut Weights>,
) {
    let d = c.hidden;
    if let (Some(score), false) = (score, grads.values.is_empty()) {
        linear_dx(&grads.values, &score.data, d, dhidden, true, 1.0);
        if let Some(g) = full.as_mut().and_then(|f| f.score.as_mut()) {
            linear_dw(&grads.values, hidden, d, &mut g.data, 1.0);
        }
    }
    let at = |list: &[f32], i: usize| list.get(i).copied().unwrap_or(0.0);
    // A token without a gradient costs nothing.
    let active: Vec<usize> = (0..kept.targets.len())
        .filter(|t| {
            let i = kept.targets[*t].0;
            at(&grads.logprobs, i) != 0.0 || at(&grads.entropy, i) != 0.0
        })
        .collect();
    let inv = 1.0 / kept.temperature;
    let head = matrix(w);
    let (mut logits, mut dx) = (Vec::new(), Vec::new());
    for part in active.chunks(rows_at_once(c.vocab)) {
        let targets: Vec<_> = part.iter().map(|t| kept.targets[*t]).collect();
        let x = gather(hidden, d, &targets);
        logits.resize(part.len() * c.vocab, 0.0);
        linear(&x, &head.data, d, &mut logits, false, inv);
        logits
            .par_chunks_exact_mut(c.vocab)
            .zip(part.par_iter().zip(&targets))
            .for_each(|(l, (t, (i, _, token)))| {
                let (g, gh) = (at(&grads.logprobs, *i), at(&grads.entropy, *i));
                logit_grad(l, kept.lse[*t], g, gh, kept.entropy[*t]);
                l[*token as usize] += g;
            });
        dx.resize(part.len() * d, 0.0);
        linear_dx(&logits, &head.data, d, &mut dx, false, inv);
        for ((_, from, _), dx) in targets.iter().zip(dx.chunks_exact(d)) {
            crate::kernels::add_assign(&mut dhidden[from * d..(from + 1) * d], dx);
        }
        if let Some(full) = full.as_mut() {
            let g = full.lm_head.as_mut().unwrap_or(&mut full.embed);
            linear_dw(&logits, &x, d, &mut g.data, inv);
        }
    }
}

/// The scalar head trains beside an adapter too.
pub(super) fn backward_score(grads: &Outputs, hidden: &[f32], score: Option<&mut Matrix>) {
    if let (Some(g), false) = (score, grads.values.is_empty()) {
        let d = g.cols;
        linear_dw(&grads.values, hidden, d, &mut g.data, 1.0);
    }
}
