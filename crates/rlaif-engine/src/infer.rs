//! The forward pass for inference: packed weights, paged key-value cache, any mix of rows.

use std::sync::Arc;

use rayon::prelude::*;

use crate::config::LlamaConfig;
use crate::error::EngineError;
use crate::kernels::{
    Packed, Shared, add_assign, exp_sum, max_of, multiversion, rms, rms_norm, silu_mul,
};
use crate::rope::Rope;
use crate::weights::Weights;

/// Positions in a page of the cache.
pub(crate) const PAGE: usize = 16;
/// Pages taken from the system at once: a cache that grows copies nothing.
const SLAB: usize = 16;

/// Values of elementwise work that are worth another thread.
const WORTH: usize = 1 << 15;

struct PackedBlock {
    input_norm: Vec<f32>,
    qkv: Packed,
    o: Packed,
    post_norm: Vec<f32>,
    gate_up: Packed,
    down: Packed,
}

/// A model packed for inference. Immutable: sequences keep their state in a [`Cache`].
pub struct Inference {
    config: LlamaConfig,
    embed: Arc<Weights>,
    blocks: Vec<PackedBlock>,
    head: Option<Packed>,
    rope: Rope,
}

/// Keys and values of all sequences, in pages of 16 positions that sequences may share.
pub struct Cache {
    /// Slabs of pages. Page p, layer l, head h: keys `[head_dim][16]`, then values `[16][head_dim]`.
    slabs: Vec<Vec<f32>>,
    page_len: usize,
    layer_len: usize,
    users: Vec<u32>,
    free: Vec<u32>,
}

/// A sequence's place in the cache.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

impl Sequence {
    /// Positions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Cache {
    /// Bytes of one page of 16 positions.
    #[must_use]
    pub fn page_bytes(c: &LlamaConfig) -> u64 {
        (c.layers * c.kv_heads * c.head_dim * PAGE * 2 * 4) as u64
    }

    /// A cache of at most `bytes`; its memory is taken as pages are first used.
    #[must_use]
    pub fn new(c: &LlamaConfig, bytes: u64) -> Self {
        let pages = (bytes / Self::page_bytes(c)).min(u64::from(u32::MAX)) as usize;
        let layer_len = c.kv_heads * c.head_dim * PAGE * 2;
        Cache {
            slabs: Vec::new(),
            page_len: layer_len * c.layers,
            layer_len,
            users: vec![0; pages],
            free: (0..pages as u32).rev().collect(),
        }
    }

    /// Pages that no sequence holds.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Pages in all.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.users.len()
    }

    /// Makes room for `more` positions; `false`, and no change, where there are too few pages.
    #[must_use]
    pub fn reserve(&mut self, s: &mut Sequence, more: usize) -> bool {
        let need = (s.len + more).div_ceil(PAGE).saturating_sub(s.pages.len());
        if need > self.free.len() {
            return false;
        }
        for _ in 0..need {
            if let Some(page) = self.free.pop() {
                self.users[page as usize] = 1;
                while self.slabs.len() <= page as usize / SLAB {
                    self.slabs.push(vec![0.0; SLAB * self.page_len]);
                }
                s.pages.push(page);
            }
        }
        true
    }

    /// A sequence that begins with the first `positions` of another: full pages only, shared.
    #[must_use]
    pub fn share(&mut self, s: &Sequence, positions: usize) -> Sequence {
        let full = positions.min(s.len) / PAGE;
        let pages = s.pages[..full].to_vec();
        for page in &pages {
            self.users[*page as usize] += 1;
        }
        Sequence {
            pages,
            len: full * PAGE,
        }
    }

    /// Gives a sequence's pages back.
    pub fn release(&mut self, s: Sequence) {
        for page in s.pages {
            let users = &mut self.users[page as usize];
            *users -= 1;
            if *users == 0 {
                self.free.push(page);
            }
        }
    }
}

/// New tokens of one sequence, and which of their logits are wanted.
pub struct Work<'a> {
    /// The sequence; room for the tokens has been reserved.
    pub sequence: &'a mut Sequence,
    /// Tokens after those it holds.
    pub tokens: &'a [u32],
    /// Of how many of the last tokens the logits (or scores) are wanted.
    pub want: usize,
}

impl Inference {
    /// Packs a model's weights. With `adapted` weights (a merged adapter) pass those.
    #[must_use]
    pub fn new(c: &LlamaConfig, weights: &Arc<Weights>, positions: usize) -> Self {
        let blocks = weights
            .blocks
            .iter()
            .map(|b| {
                let [q, k, v, o, gate, up, down] = &b.linear;
                PackedBlock {
                    input_norm: b.input_norm.clone(),
                    qkv: Packed::new(q.cols, &[&q.data, &k.data, &v.data]),
                    o: Packed::new(o.cols, &[&o.data]),
                    post_norm: b.post_norm.clone(),
                    gate_up: Packed::new(gate.cols, &[&gate.data, &up.data]),
                    down: Packed::new(down.cols, &[&down.data]),
                }
            })
            .collect();
        let head = match (&weights.score, c.scalar_head) {
            (Some(score), true) => Some(&score.data),
            _ => Some(
                weights
                    .lm_head
                    .as_ref()
                    .map_or(&weights.embed.data, |m| &m.data),
            ),
        };
        Inference {
            config: c.clone(),
            embed: Arc::clone(weights),
            blocks,
            head: head.map(|data| Packed::new(c.hidden, &[data])),
            rope: Rope::new(c, positions),
        }
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Longest sequence.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.rope.positions()
    }

    /// Width of an output row: V, or 1 for a scalar head.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.head.as_ref().map_or(0, Packed::outputs)
    }

    /// Runs the new tokens of every sequence and returns the wanted rows of outputs one after the
    /// other (rows × [`Inference::outputs`]). Each row's bits depend on its own sequence alone.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a sequence longer than the model's positions.
    pub fn forward(
        &self,
        cache: &mut Cache,
        work: &mut [Work<'_>],
    ) -> Result<Vec<f32>, EngineError> {
        let c = &self.config;
        let (d, hd) = (c.hidden, c.head_dim);
        let (q_width, kv_width) = (c.heads * hd, c.kv_heads * hd);
        // (sequence, position) of each row.
        let mut rows: Vec<(usize, usize)> = Vec::new();
        let mut x = Vec::new();
        for (s, w) in work.iter().enumerate() {
            if w.sequence.len + w.tokens.len() > self.positions() {
                return Err(EngineError::Request(format!(
                    "a sequence of {} tokens is longer than the model's {} positions; shorten the \
                     prompt or lower --max-new-tokens",
                    w.sequence.len + w.tokens.len(),
                    self.positions()
                )));
            }
            for (i, token) in w.tokens.iter().enumerate() {
                let at = *token as usize;
                if at >= c.vocab {
                    return Err(EngineError::Request(format!(
                        "token {token} is outside the vocabulary of {}; the tokenizer belongs to \
                         another model",
                        c.vocab
                    )));
                }
                rows.push((s, w.sequence.len + i));
                x.extend_from_slice(&self.embed.embed.data[at * d..(at + 1) * d]);
            }
        }
        let n = rows.len();
        let qkv_width = q_width + 2 * kv_width;
        let f = c.intermediate;
        let mut normed = vec![0.0; n * d];
        let mut qkv = vec![0.0; n * qkv_width];
        let mut attended = vec![0.0; n * q_width];
        let mut delta = vec![0.0; n * d];
        let mut gate_up = vec![0.0; n * 2 * f];
        let mut hidden = vec![0.0; n * f];
        for (layer, block) in self.blocks.iter().enumerate() {
            norm_rows(&x, &block.input_norm, c.norm_eps, &mut normed);
            block.qkv.apply(&normed, &mut qkv);
            let slabs: Vec<Shared> = cache
                .slabs
                .iter_mut()
                .map(|s| Shared(s.as_mut_ptr()))
                .collect();
            let store = |(row, (s, position)): (&mut [f32], &(usize, usize))| {
                let (qk, v) = row.split_at_mut(q_width + kv_width);
                self.rope.rotate(qk, *position, false);
                let page = work[*s].sequence.pages[position / PAGE] as usize;
                let at = page % SLAB * cache.page_len + layer * cache.layer_len;
                let slot = position % PAGE;
                for (h, (k, v)) in qk[q_width..]
                    .chunks_exact(hd)
                    .zip(v.chunks_exact(hd))
                    .enumerate()
                {
                    let head = at + h * hd * PAGE * 2;
                    for (i, k) in k.iter().enumerate() {
                        // SAFETY: the page is the sequence's own or full, and a position is one row's.
                        unsafe { slabs[page / SLAB].slice(head + i * PAGE + slot, 1)[0] = *k };
                    }
                    // SAFETY: as above.
                    unsafe { slabs[page / SLAB].slice(head + (PAGE + slot) * hd, hd) }
                        .copy_from_slice(v);
                }
            };
            if n * qkv_width < 16_384 {
                qkv.chunks_exact_mut(qkv_width).zip(&rows).for_each(store);
            } else {
                qkv.par_chunks_exact_mut(qkv_width)
                    .zip(&rows)
                    .with_min_len(4)
                    .for_each(store);
            }
            let out = Shared(attended.as_mut_ptr());
            let attend = |(row, (s, position)): (usize, &(usize, usize))| {
                let view = View {
                    slabs: &cache.slabs,
                    pages: &work[*s].sequence.pages,
                    page_len: cache.page_len,
                    offset: layer * cache.layer_len,
                    head_dim: hd,
                    positions: position + 1,
                    group: c.heads / c.kv_heads,
                };
                let q = &qkv[row * qkv_width..][..q_width];
                // SAFETY: each row writes its own part.
                let o = unsafe { out.slice(row * q_width, q_width) };
                attend_row(&view, q, o);
            };
            if n * q_width < 4096 {
                rows.iter().enumerate().for_each(attend);
            } else {
                rows.par_iter().enumerate().for_each(attend);
            }
            block.o.apply(&attended, &mut delta);
            add_assign(&mut x, &delta);
            norm_rows(&x, &block.post_norm, c.norm_eps, &mut normed);
            block.gate_up.apply(&normed, &mut gate_up);
            hidden
                .par_chunks_exact_mut(f)
                .zip(gate_up.par_chunks_exact(2 * f))
                .with_min_len(WORTH.div_ceil(f))
                .for_each(|(h, gu)| silu_mul(&gu[..f], &gu[f..], h));
            block.down.apply(&hidden, &mut delta);
            add_assign(&mut x, &delta);
        }
        let mut wanted = Vec::new();
        let mut row = 0;
        for w in work.iter_mut() {
            let from = w.tokens.len().saturating_sub(w.want);
            wanted.extend_from_slice(&x[(row + from) * d..(row + w.tokens.len()) * d]);
            row += w.tokens.len();
            w.sequence.len += w.tokens.len();
        }
        let mut last = vec![0.0; wanted.len()];
        norm_rows(&wanted, &self.embed.norm, c.norm_eps, &mut last);
        let mut outputs = vec![0.0; wanted.len() / d * self.outputs()];
        if let Some(head) = &self.head {
            head.apply(&last, &mut outputs);
        }
        Ok(outputs)
    }
}

fn norm_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    out.par_chunks_exact_mut(d)
        .zip(x.par_chunks_exact(d))
        .with_min_len(WORTH.div_ceil(d))
        .for_each(|(o, x)| rms_norm(x, weight, rms(x, eps), o));
}

/// One layer's keys and values of one sequence.
struct View<'a> {
    slabs: &'a [Vec<f32>],
    pages: &'a [u32],
    page_len: usize,
    offset: usize,
    head_dim: usize,
    positions: usize,
    group: usize,
}

impl View<'_> {
    /// Keys and values of one head in a page.
    fn head(&self, page: u32, head: usize) -> (&[f32], &[f32]) {
        let (page, size) = (page as usize, self.head_dim * PAGE);
        let at = page % SLAB * self.page_len + self.offset + head * size * 2;
        self.slabs[page / SLAB][at..at + 2 * size].split_at(size)
    }
}

/// Causal attention of one row: all scores, softmax, weighted sum, each in order of position.
fn attend_row(view: &View<'_>, q: &[f32], out: &mut [f32]) {
    let hd = view.head_dim;
    let pages = view.positions.div_ceil(PAGE);
    let scale = 1.0 / (hd as f32).sqrt();
    let mut scores = vec![0.0; pages * PAGE];
    for (h, (q, out)) in q.chunks_exact(hd).zip(out.chunks_exact_mut(hd)).enumerate() {
        let kv = h / view.group;
        for (page, scores) in view.pages.iter().zip(scores.chunks_exact_mut(PAGE)) {
            page_scores(view.head(*page, kv).0, q, scale, scores);
        }
        let scores = &mut scores[..view.positions];
        let max = max_of(scores);
        let inv = 1.0 / exp_sum(scores, max);
        out.fill(0.0);
        for (page, p) in view.pages.iter().zip(scores.chunks(PAGE)) {
            page_values(view.head(*page, kv).1, p, inv, out);
        }
    }
}

multiversion! {
    /// scores[t] = scale · Σᵢ q[i] keys[i][t], for the sixteen positions of a page.
    pub(crate) fn page_scores(keys: &[f32], q: &[f32], scale: f32, scores: &mut [f32]) {
        let mut sum = [0.0f32; PAGE];
        for (k, q) in keys.as_chunks::<PAGE>().0.iter().zip(q) {
            for t in 0..PAGE {
                sum[t] = k[t].mul_add(*q, sum[t]);
            }
        }
        for t in 0..PAGE {
            scores[t] = sum[t] * scale;
        }
    }
}

multiversion! {
    /// out += Σₜ (p[t] · inv) values[t].
    pub(crate) fn page_values(values: &[f32], p: &[f32], inv: f32, out: &mut [f32]) {
        let hd = out.len();
        // Sixteen columns stay in a register over the page's positions, which are added in order.
        let (columns, rest) = out.as_chunks_mut::<16>();
        let from = columns.len() * 16;
        for (c, out) in columns.iter_mut().enumerate() {
            let mut sum = *out;
            for (v, p) in values.chunks_exact(hd).zip(p) {
                let p = p * inv;
                let v = &v[c * 16..c * 16 + 16];
                for i in 0..16 {
                    sum[i] = v[i].mul_add(p, sum[i]);
                }
            }
            *out = sum;
        }
        for (v, p) in values.chunks_exact(hd).zip(p) {
            let p = p * inv;
            for (o, v) in rest.iter_mut().zip(&v[from..]) {
                *o = v.mul_add(p, *o);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> (LlamaConfig, Inference) {
        let mut c = LlamaConfig::new(97, 48, 80, 3, 6, 2);
        c.max_positions = 128;
        let w = Arc::new(Weights::random(&c, 0.2, 5));
        let m = Inference::new(&c, &w, 128);
        (c, m)
    }

    fn prompt(i: usize) -> Vec<u32> {
        (0..5 + i % 37)
            .map(|t| ((t * 13 + i * 7) % 97) as u32)
            .collect()
    }

    fn alone(c: &LlamaConfig, m: &Inference, tokens: &[u32]) -> Vec<f32> {
        let mut cache = Cache::new(c, 1 << 24);
        let mut s = Sequence::default();
        assert!(cache.reserve(&mut s, tokens.len()));
        let mut work = [Work {
            sequence: &mut s,
            tokens,
            want: 1,
        }];
        m.forward(&mut cache, &mut work).unwrap()
    }

    /// The same prompt gives the same bits alone, beside 6 and beside 63 others, on one thread and
    /// on two, in one piece and token by token.
    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        let (c, m) = model();
        let run = |rows: usize, threads: usize| -> Vec<Vec<f32>> {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let mut cache = Cache::new(&c, 1 << 26);
                let prompts: Vec<_> = (0..rows).map(prompt).collect();
                let mut sequences = vec![Sequence::default(); rows];
                for (s, p) in sequences.iter_mut().zip(&prompts) {
                    assert!(cache.reserve(s, p.len()));
                }
                let mut work: Vec<_> = sequences
                    .iter_mut()
                    .zip(&prompts)
                    .map(|(sequence, tokens)| Work {
                        sequence,
                        tokens,
                        want: 1,
                    })
                    .collect();
                let out = m.forward(&mut cache, &mut work).unwrap();
                out.chunks(97).map(<[f32]>::to_vec).collect()
            })
        };
        let want: Vec<_> = (0..64).map(|i| alone(&c, &m, &prompt(i))).collect();
        for rows in [1, 7, 64] {
            for threads in [1, 2] {
                assert_eq!(
                    run(rows, threads),
                    want[..rows],
                    "{rows} rows, {threads} threads"
                );
            }
        }
        let tokens = prompt(36);
        let mut cache = Cache::new(&c, 1 << 24);
        let mut s = Sequence::default();
        let mut last = Vec::new();
        for t in &tokens {
            assert!(cache.reserve(&mut s, 1));
            let mut work = [Work {
                sequence: &mut s,
                tokens: &[*t],
                want: 1,
            }];
            last = m.forward(&mut cache, &mut work).unwrap();
        }
        assert_eq!(last, want[36]);
    }

    #[test]
    fn a_shared_prefix_changes_nothing_and_pages_come_back() {
        let (c, m) = model();
        let mut cache = Cache::new(&c, 1 << 20);
        let all = cache.free_pages();
        let tokens = prompt(36);
        let mut first = Sequence::default();
        assert!(cache.reserve(&mut first, tokens.len()));
        m.forward(
            &mut cache,
            &mut [Work {
                sequence: &mut first,
                tokens: &tokens,
                want: 1,
            }],
        )
        .unwrap();
        let mut second = cache.share(&first, tokens.len() - 1);
        assert_eq!(second.len(), 32);
        cache.release(first);
        assert!(cache.reserve(&mut second, tokens.len() - 32));
        let rest = &tokens[32..];
        let out = m
            .forward(
                &mut cache,
                &mut [Work {
                    sequence: &mut second,
                    tokens: rest,
                    want: 1,
                }],
            )
            .unwrap();
        assert_eq!(out, alone(&c, &m, &tokens));
        cache.release(second);
        assert_eq!(cache.free_pages(), all);
    }
}
