//! Training: forward and backward by block, adapters, AdamW.
//!
//! What is kept between forward and backward, per token and block: the two residual inputs, q, k, v,
//! the attention's output and log-sum-exp, gate and up. Norms, activations, attention
//! probabilities and logits are computed again.

mod head;
mod lora;
mod memory;
mod ops;
mod optim;
mod pool;

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use safetensors::SafeTensors;

use crate::config::LlamaConfig;
use crate::error::EngineError;
use crate::kernels::{add_assign, on_pool, rms, rms_norm, silu_mul};
use crate::rope::Rope;
use crate::weights::{Matrix, Weights, write_tensors};
use lora::Pair;
pub use lora::{Adapter, LoraConfig};
pub use memory::Footprint;
use ops::{Attention, linear, linear_dw, linear_dx, rms_norm_back, silu_mul_back};
pub use optim::AdamW;
use pool::Pool;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// Packed rows of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// All rows' tokens, one row after the other.
    pub tokens: &'a [u32],
    /// Row r is `tokens[offsets[r]..offsets[r + 1]]`.
    pub offsets: &'a [usize],
    /// Tokens whose log-probability and entropy are wanted; `None`: all but each row's first.
    pub wanted: Option<&'a [bool]>,
    /// Tokens whose log-probability is asked for instead of those that follow, same length as
    /// `tokens`: for an auxiliary question at a place in a text. `None`: the tokens themselves.
    pub targets: Option<&'a [u32]>,
    /// Divides the logits.
    pub temperature: f32,
    /// Whether entropies are wanted.
    pub entropy: bool,
}

/// Per-token outputs, each as long as the batch's tokens (or empty where not wanted). Also the shape
/// of the gradients with respect to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// log p(token | the row's tokens before it); 0 where not wanted and at a row's first token.
    pub logprobs: Vec<f32>,
    /// Entropy of the distribution that predicted the token, in nats.
    pub entropy: Vec<f32>,
    /// The scalar head's output at the token; empty for a model without one.
    pub values: Vec<f32>,
}

/// What the forward pass kept of one block.
struct Saved {
    x: Vec<f32>,
    inv: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    lse: Vec<f32>,
    mid: Vec<f32>,
    mid_inv: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Saved {
    fn give(self, pool: &Pool) {
        let Saved {
            x,
            q,
            k,
            v,
            attended,
            lse,
            mid,
            gate,
            up,
            ..
        } = self;
        pool.give([x, q, k, v, attended, lse, mid, gate, up]);
    }
}

/// What the forward pass kept.
pub struct Tape {
    tokens: Vec<u32>,
    offsets: Vec<usize>,
    blocks: Vec<Saved>,
    x: Vec<f32>,
    inv: Vec<f32>,
    head: Option<head::Kept>,
}

/// A model in training: all weights, or an adapter beside frozen ones.
pub struct Tuner {
    config: LlamaConfig,
    weights: Arc<Weights>,
    adapter: Option<Adapter>,
    grads: Grads,
    optimizer: AdamW,
    rope: Rope,
    pool: Pool,
}

/// What training changes, as it was at some step.
#[derive(Clone)]
pub struct Parameters {
    weights: Arc<Weights>,
    adapter: Option<Adapter>,
}

impl Parameters {
    /// Writes them as one safetensors file; [`Tuner::read_parameters`] reads it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), EngineError> {
        let named = match &self.adapter {
            Some(a) => a.named(),
            None => self.weights.named(),
        };
        write_tensors(path, &named, false)
    }
}

/// Gradients: of every weight, or of the adapter.
enum Grads {
    Full(Box<Weights>),
    Adapter(Box<Adapter>),
}

impl Tuner {
    /// Trains all weights, or with `lora` an adapter beside them. `positions` bounds a row's length.
    #[must_use]
    pub fn new(
        config: LlamaConfig,
        weights: Arc<Weights>,
        adapter: Option<Adapter>,
        positions: usize,
        optimizer: AdamW,
    ) -> Self {
        let grads = match &adapter {
            None => Grads::Full(Box::new(zeros_like(&weights))),
            Some(a) => Grads::Adapter(Box::new(a.zeros_like())),
        };
        Tuner {
            rope: Rope::new(&config, positions),
            config,
            weights,
            adapter,
            grads,
            optimizer,
            pool: Pool::default(),
        }
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The weights, without the adapter.
    #[must_use]
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// The adapter.
    #[must_use]
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The optimizer, for saving and restoring.
    #[must_use]
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Weights with the adapter merged in; the same weights where there is none.
    #[must_use]
    pub fn merged(&self) -> Arc<Weights> {
        match &self.adapter {
            None => Arc::clone(&self.weights),
            Some(a) => Arc::new(a.merge(&self.weights)),
        }
    }

    /// Per-token outputs, and what the way back needs.
    ///
    /// # Errors
    /// A token outside the vocabulary, a row longer than the positions.
    pub fn forward(&self, batch: &Batch<'_>) -> Result<(Outputs, Tape), EngineError> {
        self.pass(batch, true, true)
    }

    /// Per-token outputs only; with `adapter` off those of the base, which is the reference model.
    ///
    /// # Errors
    /// As [`Tuner::forward`].
    pub fn evaluate(&self, batch: &Batch<'_>, adapter: bool) -> Result<Outputs, EngineError> {
        Ok(self.pass(batch, false, adapter)?.0)
    }

    /// Per-token outputs of other weights of the same shape, without an adapter: the reference model
    /// of a run that trains all weights.
    ///
    /// # Errors
    /// As [`Tuner::forward`].
    pub fn evaluate_with(
        &self,
        weights: &Arc<Weights>,
        batch: &Batch<'_>,
    ) -> Result<Outputs, EngineError> {
        Ok(self.pass_with(weights, batch, false, false)?.0)
    }

    /// The parameters as they are: a view of the weights, which the next step copies.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters {
            weights: Arc::clone(&self.weights),
            adapter: self.adapter.clone(),
        }
    }

    /// Goes back to parameters that this tuner had; the optimizer's moments stay.
    pub fn set_parameters(&mut self, parameters: &Parameters) {
        self.weights = Arc::clone(&parameters.weights);
        self.adapter.clone_from(&parameters.adapter);
    }

    /// Reads what [`Parameters::write`] wrote.
    ///
    /// # Errors
    /// A file that is missing, corrupt or of another model.
    pub fn read_parameters(&self, path: &Path) -> Result<Parameters, EngineError> {
        let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| {
            EngineError::format(path, format!("is not a complete checkpoint ({e})"))
        })?;
        let mut parameters = self.parameters();
        let tensors = match &mut parameters.adapter {
            Some(a) => a.tensors(),
            None => optim::tensors(Arc::make_mut(&mut parameters.weights)),
        };
        for t in tensors {
            let data = file
                .tensor(&t.name)
                .ok()
                .and_then(|v| crate::weights::to_f32(&v))
                .filter(|d| d.len() == t.data.len())
                .ok_or_else(|| {
                    EngineError::format(path, format!("does not hold `{}` of this model", t.name))
                })?;
            t.data.copy_from_slice(&data);
        }
        Ok(parameters)
    }

    /// Writes what training changed, and the optimizer's moments, into a checkpoint folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_state(&self, folder: &Path) -> Result<(), EngineError> {
        self.parameters().write(&folder.join(WEIGHTS))?;
        self.optimizer.write(&folder.join(OPTIMIZER))
    }

    /// Reads what [`Tuner::save_state`] wrote: training goes on with the same bits.
    ///
    /// # Errors
    /// A file that is missing, corrupt or of another model.
    pub fn restore(&mut self, folder: &Path) -> Result<(), EngineError> {
        let parameters = self.read_parameters(&folder.join(WEIGHTS))?;
        self.set_parameters(&parameters);
        self.optimizer.read(&folder.join(OPTIMIZER))
    }

    fn check(&self, batch: &Batch<'_>) -> Result<(), EngineError> {
        if let Some(t) = batch
            .tokens
            .iter()
            .find(|t| **t as usize >= self.config.vocab)
        {
            return Err(EngineError::Request(format!(
                "token {t} is outside the vocabulary of {}; the tokenizer belongs to another model",
                self.config.vocab
            )));
        }
        let longest = batch.offsets.windows(2).map(|w| w[1] - w[0]).max();
        match longest {
            Some(n) if n > self.rope.positions() => Err(EngineError::Request(format!(
                "a row of {n} tokens is longer than {} positions; lower the maximum length",
                self.rope.positions()
            ))),
            _ => Ok(()),
        }
    }

    fn pair(&self, on: bool, layer: usize, i: usize) -> Option<(&Pair, f32)> {
        let a = self.adapter.as_ref().filter(|_| on)?;
        Some((a.blocks[layer][i].as_ref()?, a.scale()))
    }

    fn score<'a>(&'a self, weights: &'a Weights, on: bool) -> Option<&'a Matrix> {
        self.adapter
            .as_ref()
            .filter(|_| on)
            .and_then(|a| a.score.as_ref())
            .or(weights.score.as_ref())
    }

    /// y = x Wᵀ [+ scale · x Aᵀ Bᵀ].
    #[allow(clippy::too_many_arguments)] // which projection of which weights, from where to where
    fn project(
        &self,
        weights: &Weights,
        on: bool,
        layer: usize,
        i: usize,
        x: &[f32],
        y: &mut [f32],
    ) {
        let w = &weights.blocks[layer].linear[i];
        linear(x, &w.data, w.cols, y, false, 1.0);
        if let Some((p, scale)) = self.pair(on, layer, i) {
            let mut low = vec![0.0; x.len() / w.cols * p.rank()];
            linear(x, &p.a.data, w.cols, &mut low, false, 1.0);
            linear(&low, &p.b.data, p.rank(), y, true, scale);
        }
    }

    /// dx [+]= dy W and the adapter's part; gradients of W or of the adapter are added.
    fn project_back(
        &mut self,
        layer: usize,
        i: usize,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        add: bool,
    ) {
        let w = &self.weights.blocks[layer].linear[i];
        linear_dx(dy, &w.data, w.cols, dx, add, 1.0);
        match (&mut self.grads, &self.adapter) {
            (Grads::Full(g), _) => {
                linear_dw(dy, x, w.cols, &mut g.blocks[layer].linear[i].data, 1.0)
            }
            (Grads::Adapter(g), Some(a)) => {
                let (Some(p), Some(g)) = (&a.blocks[layer][i], &mut g.blocks[layer][i]) else {
                    return;
                };
                let (rank, scale) = (p.rank(), a.scale());
                let rows = x.len() / w.cols;
                let (mut low, mut dlow) = (vec![0.0; rows * rank], vec![0.0; rows * rank]);
                linear(x, &p.a.data, w.cols, &mut low, false, 1.0);
                linear_dx(dy, &p.b.data, rank, &mut dlow, false, scale);
                linear_dw(dy, &low, rank, &mut g.b.data, scale);
                linear_dw(&dlow, x, w.cols, &mut g.a.data, 1.0);
                linear_dx(&dlow, &p.a.data, w.cols, dx, true, 1.0);
            }
            (Grads::Adapter(_), None) => {}
        }
    }

    fn attention<'a>(&self, offsets: &'a [usize]) -> Attention<'a> {
        Attention {
            offsets,
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
        }
    }

    fn rotate(&self, x: &mut [f32], width: usize, offsets: &[usize], back: bool) {
        for w in offsets.windows(2) {
            x[w[0] * width..w[1] * width]
                .par_chunks_exact_mut(width)
                .with_min_len(16)
                .enumerate()
                .for_each(|(position, row)| self.rope.rotate(row, position, back));
        }
    }

    fn pass(
        &self,
        batch: &Batch<'_>,
        keep: bool,
        on: bool,
    ) -> Result<(Outputs, Tape), EngineError> {
        self.pass_with(&self.weights, batch, keep, on)
    }

    fn pass_with(
        &self,
        weights: &Weights,
        batch: &Batch<'_>,
        keep: bool,
        on: bool,
    ) -> Result<(Outputs, Tape), EngineError> {
        self.check(batch)?;
        on_pool(|| self.pass_on_pool(weights, batch, keep, on))
    }

    fn pass_on_pool(
        &self,
        weights: &Weights,
        batch: &Batch<'_>,
        keep: bool,
        on: bool,
    ) -> Result<(Outputs, Tape), EngineError> {
        let c = &self.config;
        let (n, d, f) = (batch.tokens.len(), c.hidden, c.intermediate);
        let (qw, kw) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let mut x = self.pool.take(n * d);
        for (t, x) in batch.tokens.iter().zip(x.chunks_exact_mut(d)) {
            let at = *t as usize * d;
            x.copy_from_slice(&weights.embed.data[at..at + d]);
        }
        let attention = self.attention(batch.offsets);
        let pool = &self.pool;
        let mut blocks = Vec::new();
        let mut normed = pool.take(n * d);
        let mut delta = pool.take(n * d);
        let mut hidden = pool.take(n * f);
        for (layer, block) in weights.blocks.iter().enumerate() {
            let inv = norm(&x, &block.input_norm, c.norm_eps, &mut normed);
            let [mut q, mut k, mut v] = [qw, kw, kw].map(|w| pool.take(n * w));
            self.project(weights, on, layer, 0, &normed, &mut q);
            self.project(weights, on, layer, 1, &normed, &mut k);
            self.project(weights, on, layer, 2, &normed, &mut v);
            self.rotate(&mut q, qw, batch.offsets, false);
            self.rotate(&mut k, kw, batch.offsets, false);
            let (mut attended, mut lse) = (pool.take(n * qw), pool.take(n * c.heads));
            attention.forward(&q, &k, &v, &mut attended, &mut lse);
            self.project(weights, on, layer, 3, &attended, &mut delta);
            let before = if keep { pool.copy(&x) } else { Vec::new() };
            add_rows(&mut x, &delta);
            let mid_inv = norm(&x, &block.post_norm, c.norm_eps, &mut normed);
            let [mut gate, mut up] = [f, f].map(|w| pool.take(n * w));
            self.project(weights, on, layer, 4, &normed, &mut gate);
            self.project(weights, on, layer, 5, &normed, &mut up);
            activate(&gate, &up, f, &mut hidden);
            self.project(weights, on, layer, 6, &hidden, &mut delta);
            let mid = if keep { pool.copy(&x) } else { Vec::new() };
            add_rows(&mut x, &delta);
            let saved = Saved {
                x: before,
                inv,
                q,
                k,
                v,
                attended,
                lse,
                mid,
                mid_inv,
                gate,
                up,
            };
            if keep {
                blocks.push(saved);
            } else {
                saved.give(pool);
            }
        }
        let inv = norm(&x, &weights.norm, c.norm_eps, &mut normed);
        let (outputs, kept) = head::forward(weights, self.score(weights, on), c, batch, &normed);
        pool.give([normed, delta, hidden]);
        if !keep {
            pool.give([std::mem::take(&mut x)]);
        }
        let tape = Tape {
            tokens: batch.tokens.to_vec(),
            offsets: batch.offsets.to_vec(),
            blocks,
            x,
            inv,
            head: keep.then_some(kept),
        };
        Ok((outputs, tape))
    }

    /// Adds the gradients of a loss to those gathered since the last step. `grads` has the shape of
    /// the outputs; an empty list is zero.
    pub fn backward(&mut self, tape: Tape, grads: &Outputs) {
        on_pool(|| self.backward_on_pool(tape, grads));
    }

    fn backward_on_pool(&mut self, tape: Tape, grads: &Outputs) {
        let Tape {
            tokens,
            offsets,
            blocks,
            x,
            inv,
            head: Some(kept),
        } = tape
        else {
            return;
        };
        let c = self.config.clone();
        let (n, d, f) = (tokens.len(), c.hidden, c.intermediate);
        let (qw, kw) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let weights = Arc::clone(&self.weights);
        let mut normed = self.pool.take(n * d);
        renorm(&x, &weights.norm, &inv, &mut normed);
        let mut dnormed = self.pool.zeros(n * d);
        let score = self.score(&self.weights, true).cloned();
        let full = match &mut self.grads {
            Grads::Full(g) => Some(&mut **g),
            Grads::Adapter(a) => {
                head::backward_score(grads, &normed, a.score.as_mut());
                None
            }
        };
        head::backward(
            &weights,
            score.as_ref(),
            &c,
            &kept,
            grads,
            &normed,
            &mut dnormed,
            full,
        );
        let mut dx = self.pool.zeros(n * d);
        let dw = self.norm_grad(|g| &mut g.norm);
        rms_norm_back(&dnormed, &x, &inv, &weights.norm, &mut dx, dw);
        let [mut dhidden, mut dup, mut hidden] = [f, f, f].map(|w| self.pool.take(n * w));
        let [mut dattended, mut dq, mut dk, mut dv] =
            [qw, qw, kw, kw].map(|w| self.pool.take(n * w));
        for (layer, s) in blocks.into_iter().enumerate().rev() {
            let block = &weights.blocks[layer];
            activate(&s.gate, &s.up, f, &mut hidden);
            self.project_back(layer, 6, &hidden, &dx, &mut dhidden, false);
            dhidden
                .par_chunks_exact_mut(f)
                .zip(dup.par_chunks_exact_mut(f))
                .zip(s.gate.par_chunks_exact(f).zip(s.up.par_chunks_exact(f)))
                .with_min_len(8)
                .for_each(|((dg, du), (g, u))| silu_mul_back(g, u, dg, du));
            renorm(&s.mid, &block.post_norm, &s.mid_inv, &mut normed);
            self.project_back(layer, 4, &normed, &dhidden, &mut dnormed, false);
            self.project_back(layer, 5, &normed, &dup, &mut dnormed, true);
            let dw = self.norm_grad(|g| &mut g.blocks[layer].post_norm);
            rms_norm_back(&dnormed, &s.mid, &s.mid_inv, &block.post_norm, &mut dx, dw);
            self.project_back(layer, 3, &s.attended, &dx, &mut dattended, false);
            self.attention(&offsets).backward(
                &s.q,
                &s.k,
                &s.v,
                &s.attended,
                &s.lse,
                &dattended,
                &mut dq,
                &mut dk,
                &mut dv,
            );
            self.rotate(&mut dq, qw, &offsets, true);
            self.rotate(&mut dk, kw, &offsets, true);
            renorm(&s.x, &block.input_norm, &s.inv, &mut normed);
            self.project_back(layer, 0, &normed, &dq, &mut dnormed, false);
            self.project_back(layer, 1, &normed, &dk, &mut dnormed, true);
            self.project_back(layer, 2, &normed, &dv, &mut dnormed, true);
            let dw = self.norm_grad(|g| &mut g.blocks[layer].input_norm);
            rms_norm_back(&dnormed, &s.x, &s.inv, &block.input_norm, &mut dx, dw);
            s.give(&self.pool);
        }
        if let Grads::Full(g) = &mut self.grads {
            for (t, dx) in tokens.iter().zip(dx.chunks_exact(d)) {
                let at = *t as usize * d;
                add_assign(&mut g.embed.data[at..at + d], dx);
            }
        }
        let pool = &self.pool;
        pool.give([normed, dnormed, dx, dhidden, dup, hidden]);
        pool.give([dattended, dq, dk, dv, x]);
    }

    fn norm_grad(&mut self, of: impl FnOnce(&mut Weights) -> &mut Vec<f32>) -> Option<&mut [f32]> {
        match &mut self.grads {
            Grads::Full(g) => Some(of(g).as_mut_slice()),
            Grads::Adapter(_) => None,
        }
    }

    /// Clips the gathered gradients to the optimizer's norm, takes one AdamW step and zeroes them.
    /// Returns the norm before clipping.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`] with the tensor; no weight has been changed then.
    pub fn step(&mut self, lr: f32) -> Result<f32, EngineError> {
        on_pool(|| match (&mut self.grads, &mut self.adapter) {
            (Grads::Full(g), _) => {
                let weights = Arc::make_mut(&mut self.weights);
                self.optimizer
                    .step(lr, optim::tensors(weights), optim::tensors(g))
            }
            (Grads::Adapter(g), Some(a)) => self.optimizer.step(lr, a.tensors(), g.tensors()),
            (Grads::Adapter(_), None) => Ok(0.0),
        })
    }

    /// The gathered gradients by name, for comparing with another implementation.
    #[must_use]
    pub fn gradients(&mut self) -> Vec<(String, Vec<f32>)> {
        let tensors = match &mut self.grads {
            Grads::Full(g) => optim::tensors(g),
            Grads::Adapter(g) => g.tensors(),
        };
        tensors
            .into_iter()
            .map(|t| (t.name, t.data.to_vec()))
            .collect()
    }

    /// Changes one tensor's values, for finite differences and restored checkpoints.
    pub fn update(&mut self, name: &str, change: impl FnOnce(&mut [f32])) -> bool {
        let tensors = match &mut self.adapter {
            Some(a) => a.tensors(),
            None => optim::tensors(Arc::make_mut(&mut self.weights)),
        };
        match tensors.into_iter().find(|t| t.name == name) {
            Some(t) => {
                change(t.data);
                true
            }
            None => false,
        }
    }

    /// Restores the optimizer's state.
    pub fn set_optimizer(&mut self, optimizer: AdamW) {
        self.optimizer = optimizer;
    }
}

fn zeros_like(w: &Weights) -> Weights {
    let m = |m: &Matrix| Matrix::zeros(m.rows, m.cols);
    Weights {
        embed: m(&w.embed),
        blocks: w
            .blocks
            .iter()
            .map(|b| crate::weights::Block {
                input_norm: vec![0.0; b.input_norm.len()],
                linear: std::array::from_fn(|i| m(&b.linear[i])),
                post_norm: vec![0.0; b.post_norm.len()],
            })
            .collect(),
        norm: vec![0.0; w.norm.len()],
        lm_head: w.lm_head.as_ref().map(m),
        score: w.score.as_ref().map(m),
    }
}

fn norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Vec<f32> {
    let d = weight.len();
    let inv: Vec<f32> = x
        .par_chunks_exact(d)
        .with_min_len(16)
        .map(|row| rms(row, eps))
        .collect();
    renorm(x, weight, &inv, out);
    inv
}

fn renorm(x: &[f32], weight: &[f32], inv: &[f32], out: &mut [f32]) {
    let d = weight.len();
    out.par_chunks_exact_mut(d)
        .zip(x.par_chunks_exact(d))
        .zip(inv)
        .with_min_len(16)
        .for_each(|((o, x), inv)| rms_norm(x, weight, *inv, o));
}

fn add_rows(x: &mut [f32], delta: &[f32]) {
    x.par_chunks_mut(16_384)
        .zip(delta.par_chunks(16_384))
        .for_each(|(a, b)| add_assign(a, b));
}

fn activate(gate: &[f32], up: &[f32], f: usize, hidden: &mut [f32]) {
    hidden
        .par_chunks_exact_mut(f)
        .zip(gate.par_chunks_exact(f).zip(up.par_chunks_exact(f)))
        .with_min_len(8)
        .for_each(|(h, (g, u))| silu_mul(g, u, h));
}

#[cfg(test)]
mod tests;
