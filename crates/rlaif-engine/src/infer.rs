//! The forward pass for inference: packed weights, paged key-value cache, any mix of rows.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::LlamaConfig;
use crate::error::EngineError;
use crate::kernels::{
    Buffer, Crew, Packed, Shared, Source, exp_sum, max_of, multiversion, prefetch, rms, rms_norm,
    scale, silu_mul,
};
use crate::rope::Rope;
use crate::weights::{Matrix, Weights};

/// Positions in a page of the cache.
pub(crate) const PAGE: usize = 16;
/// Bytes of pages that lie together: a cache that grows copies nothing.
const SLAB: usize = 32 << 20;

/// Values of elementwise work that are worth another thread.
const WORTH: usize = 1 << 14;
/// Rows for which a thread reads all weights by itself: two strips of the kernel.
const OWN_ROWS: usize = 24;
/// Rows of one sequence whose attention is one task.
const ATTENDED: usize = 16;
/// Queries that share a reading of keys and values.
const QUERIES: usize = 4;

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
    slabs: Vec<Buffer>,
    slab_pages: usize,
    page_len: usize,
    layer_len: usize,
    users: Vec<u32>,
    free: Vec<u32>,
    scratch: Vec<Mutex<Scratch>>,
}

/// Buffers of a pass, kept for the next.
#[derive(Default)]
struct Scratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    hidden: Vec<f32>,
}

/// The first `n` cells, whatever they hold.
fn fit(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
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
            slab_pages: (SLAB / Self::page_bytes(c) as usize).max(1),
            page_len: layer_len * c.layers,
            layer_len,
            users: vec![0; pages],
            free: (0..pages as u32).rev().collect(),
            scratch: Vec::new(),
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
                while self.slabs.len() <= page as usize / self.slab_pages {
                    let left = self.users.len() - self.slabs.len() * self.slab_pages;
                    let pages = self.slab_pages.min(left);
                    self.slabs.push(Buffer::zeros(pages * self.page_len));
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
        fn source<'a>(inputs: usize, list: &[&'a Matrix]) -> Source<'a> {
            Source {
                inputs,
                parts: list.iter().map(|m| m.data.as_slice()).collect(),
            }
        }
        let mut sources = Vec::new();
        for b in &weights.blocks {
            let [q, k, v, o, gate, up, down] = &b.linear;
            sources.push(source(q.cols, &[q, k, v]));
            sources.push(source(o.cols, &[o]));
            sources.push(source(gate.cols, &[gate, up]));
            sources.push(source(down.cols, &[down]));
        }
        let head = match (&weights.score, c.scalar_head) {
            (Some(score), true) => score,
            _ => weights.lm_head.as_ref().unwrap_or(&weights.embed),
        };
        sources.push(source(c.hidden, &[head]));
        let mut packed = Packed::all(&sources);
        let head = packed.pop();
        let (fours, _) = packed.as_chunks::<4>();
        let blocks = weights
            .blocks
            .iter()
            .zip(fours)
            .map(|(b, [qkv, o, gate_up, down])| PackedBlock {
                input_norm: b.input_norm.clone(),
                qkv: qkv.clone(),
                o: o.clone(),
                post_norm: b.post_norm.clone(),
                gate_up: gate_up.clone(),
                down: down.clone(),
            })
            .collect();
        Inference {
            config: c.clone(),
            embed: Arc::clone(weights),
            blocks,
            head,
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
        for w in work.iter() {
            self.check(w)?;
        }
        let mut outputs = vec![0.0; work.iter().map(Work::wanted).sum::<usize>() * self.outputs()];
        Crew::gather(|crew| self.run(crew, cache, work, &mut outputs));
        for w in work {
            w.sequence.len += w.tokens.len();
        }
        Ok(outputs)
    }

    fn check(&self, w: &Work<'_>) -> Result<(), EngineError> {
        let len = w.sequence.len + w.tokens.len();
        if len > self.positions() {
            return Err(EngineError::Request(format!(
                "a sequence of {len} tokens is longer than the model's {} positions; shorten the \
                 prompt or lower --max-new-tokens",
                self.positions()
            )));
        }
        let vocab = self.config.vocab;
        match w.tokens.iter().find(|t| **t as usize >= vocab) {
            Some(token) => Err(EngineError::Request(format!(
                "token {token} is outside the vocabulary of {vocab}; the tokenizer belongs to \
                 another model"
            ))),
            None => Ok(()),
        }
    }

    /// With rows enough each thread takes sequences of its own from the first layer to the last: no
    /// thread waits for another, and one computes while the other reads its keys and values.
    /// Otherwise the threads share each product's columns.
    fn run(&self, crew: &Crew<'_>, cache: &mut Cache, work: &[Work<'_>], outputs: &mut [f32]) {
        let parts = self.divide(work);
        while cache.scratch.len() < parts.len() {
            cache.scratch.push(Mutex::default());
        }
        let store = Store {
            slabs: cache
                .slabs
                .iter_mut()
                .map(|s| Shared(s.as_mut_ptr()))
                .collect(),
            slab_pages: cache.slab_pages,
            page_len: cache.page_len,
            layer_len: cache.layer_len,
        };
        let scratch = &cache.scratch;
        let buffers = |part: usize| scratch[part].lock().unwrap_or_else(PoisonError::into_inner);
        if parts.len() == 1 {
            return self.pass(crew, &store, &mut buffers(0), work, outputs);
        }
        let out = Shared(outputs.as_mut_ptr());
        let cells =
            |works: &[Work<'_>]| works.iter().map(Work::wanted).sum::<usize>() * self.outputs();
        crew.each(parts.len(), |i| {
            let part = &work[parts[i].clone()];
            // SAFETY: each part writes the outputs of its own sequences.
            let outputs = unsafe { out.slice(cells(&work[..parts[i].start]), cells(part)) };
            self.pass(&Crew::ALONE, &store, &mut buffers(i), part, outputs);
        });
    }

    /// Ranges of sequences of about the same cost, one a thread, or a single range where rows are too
    /// few or sequences too uneven.
    fn divide(&self, work: &[Work<'_>]) -> Vec<Range<usize>> {
        let threads = rayon::current_num_threads();
        let rows: usize = work.iter().map(|w| w.tokens.len()).sum();
        let whole = Vec::from([Range {
            start: 0,
            end: work.len(),
        }]);
        if threads == 1 || rows < threads * OWN_ROWS {
            return whole;
        }
        let c = &self.config;
        let weights = c.parameters() as f64;
        // Reading a key from memory takes about as long as eight products.
        let key = 16.0 * (c.layers * c.kv_heads * c.head_dim) as f64;
        let cost = |w: &Work<'_>| {
            let tokens = w.tokens.len() as f64;
            tokens * (weights + key * (w.sequence.len as f64 + tokens / 2.0))
        };
        let share = work.iter().map(cost).sum::<f64>() / threads as f64;
        let (mut parts, mut start, mut sum) = (Vec::new(), 0, 0.0);
        let mut begun = 0.0;
        for (i, w) in work.iter().enumerate() {
            let next = sum + cost(w);
            let due = share * (parts.len() + 1) as f64;
            // Cut where the sum comes nearest to the threads' shares so far.
            if (next + sum) / 2.0 > due && i > start {
                parts.push(start..i);
                if sum - begun > 1.25 * share {
                    return whole;
                }
                (start, begun) = (i, sum);
            }
            sum = next;
        }
        parts.push(start..work.len());
        if parts.len() != threads || sum - begun > 1.25 * share {
            return whole;
        }
        parts
    }

    fn pass(
        &self,
        crew: &Crew<'_>,
        store: &Store,
        scratch: &mut Scratch,
        work: &[Work<'_>],
        outputs: &mut [f32],
    ) {
        let c = &self.config;
        let (d, hd, f) = (c.hidden, c.head_dim, c.intermediate);
        let (q_width, kv_width) = (c.heads * hd, c.kv_heads * hd);
        let qkv_width = q_width + 2 * kv_width;
        // (sequence, position) of each row.
        let rows: Vec<(usize, usize)> = work
            .iter()
            .enumerate()
            .flat_map(|(s, w)| (0..w.tokens.len()).map(move |i| (s, w.sequence.len + i)))
            .collect();
        let n = rows.len();
        let x = fit(&mut scratch.x, n * d);
        let tokens = work.iter().flat_map(|w| w.tokens);
        for (token, x) in tokens.zip(x.chunks_exact_mut(d)) {
            let at = *token as usize * d;
            x.copy_from_slice(&self.embed.embed.data[at..at + d]);
        }
        let normed = fit(&mut scratch.normed, n * d);
        let qkv = fit(&mut scratch.qkv, n * qkv_width);
        let attended = fit(&mut scratch.attended, n * q_width);
        let gate_up = fit(&mut scratch.gate_up, n * 2 * f);
        let hidden = fit(&mut scratch.hidden, n * f);
        let tasks = attention_tasks(work);
        for (layer, block) in self.blocks.iter().enumerate() {
            norm_rows(crew, x, &block.input_norm, c.norm_eps, normed);
            block.qkv.apply(crew, normed, qkv, false);
            let cells = Shared(qkv.as_mut_ptr());
            crew.ranges(n, ATTENDED, |range| {
                for row in range {
                    let (s, position) = rows[row];
                    // SAFETY: each row is one task's.
                    let row = unsafe { cells.slice(row * qkv_width, qkv_width) };
                    let (qk, v) = row.split_at_mut(q_width + kv_width);
                    self.rope.rotate(qk, position, false);
                    let view = store.view(&*work[s].sequence, layer, hd);
                    for (h, (k, v)) in qk[q_width..]
                        .chunks_exact(hd)
                        .zip(v.chunks_exact(hd))
                        .enumerate()
                    {
                        view.write(position, h, k, v);
                    }
                }
            });
            let out = Shared(attended.as_mut_ptr());
            let queries = &*qkv;
            crew.each(tasks.len() * c.kv_heads, |t| {
                let (task, kv) = (&tasks[t / c.kv_heads], t % c.kv_heads);
                let view = store.view(&*work[task.sequence].sequence, layer, hd);
                let group = c.heads / c.kv_heads;
                let query = |j: usize| {
                    let at = (kv * group + j % group) * hd;
                    &queries[(task.row + j / group) * qkv_width + at..][..hd]
                };
                let target = |j: usize| {
                    let at = (task.row + j / group) * q_width + (kv * group + j % group) * hd;
                    // SAFETY: a row's head is one task's, and asked for once.
                    unsafe { out.slice(at, hd) }
                };
                let positions = |j: usize| task.position + j / group + 1;
                // What the next task reads is fetched while this one works.
                let (after, next_kv) = ((t + 1) / c.kv_heads, (t + 1) % c.kv_heads);
                let next = tasks.get(after).map(|next| Next {
                    view: store.view(&*work[next.sequence].sequence, layer, hd),
                    head: next_kv,
                });
                let count = task.rows * group;
                attend(&view, kv, count, &query, &positions, &target, next.as_ref());
            });
            block.o.apply(crew, attended, x, true);
            norm_rows(crew, x, &block.post_norm, c.norm_eps, normed);
            block.gate_up.apply(crew, normed, gate_up, false);
            let (out, gate_up) = (Shared(hidden.as_mut_ptr()), &*gate_up);
            crew.ranges(n, WORTH.div_ceil(f), |range| {
                for row in range {
                    let (gate, up) = gate_up[row * 2 * f..(row + 1) * 2 * f].split_at(f);
                    // SAFETY: each row is one task's.
                    silu_mul(gate, up, unsafe { out.slice(row * f, f) });
                }
            });
            block.down.apply(crew, hidden, x, true);
        }
        // The wanted rows go to the front: a row never moves behind where it was.
        let (mut row, mut kept) = (0, 0);
        for w in work {
            row += w.tokens.len();
            let wanted = w.wanted();
            x.copy_within((row - wanted) * d..row * d, kept * d);
            kept += wanted;
        }
        if let Some(head) = &self.head {
            let (x, normed) = (&x[..kept * d], &mut normed[..kept * d]);
            norm_rows(crew, x, &self.embed.norm, c.norm_eps, normed);
            head.apply(crew, normed, outputs, false);
        }
    }
}

impl Work<'_> {
    fn wanted(&self) -> usize {
        self.want.min(self.tokens.len())
    }
}

fn norm_rows(crew: &Crew<'_>, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    let out = Shared(out.as_mut_ptr());
    crew.ranges(x.len() / d, WORTH.div_ceil(d), |range| {
        for row in range {
            let x = &x[row * d..(row + 1) * d];
            // SAFETY: each row is one task's.
            rms_norm(x, weight, rms(x, eps), unsafe { out.slice(row * d, d) });
        }
    });
}

/// Consecutive rows of one sequence.
struct Task {
    sequence: usize,
    row: usize,
    rows: usize,
    position: usize,
}

fn attention_tasks(work: &[Work<'_>]) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut row = 0;
    for (sequence, w) in work.iter().enumerate() {
        for from in (0..w.tokens.len()).step_by(ATTENDED) {
            tasks.push(Task {
                sequence,
                row: row + from,
                rows: ATTENDED.min(w.tokens.len() - from),
                position: w.sequence.len + from,
            });
        }
        row += w.tokens.len();
    }
    tasks
}

/// The cache as a pass sees it: sequences write pages of their own and read those and full ones.
struct Store {
    slabs: Vec<Shared>,
    slab_pages: usize,
    page_len: usize,
    layer_len: usize,
}

impl Store {
    fn view<'a>(&'a self, s: &'a Sequence, layer: usize, head_dim: usize) -> View<'a> {
        View {
            store: self,
            pages: &s.pages,
            offset: layer * self.layer_len,
            head_dim,
        }
    }
}

/// One layer's keys and values of one sequence.
struct View<'a> {
    store: &'a Store,
    pages: &'a [u32],
    offset: usize,
    head_dim: usize,
}

impl View<'_> {
    /// Slab and place of one head's keys in a page; its values follow them.
    fn place(&self, page: u32, head: usize) -> (&Shared, usize) {
        let (page, size) = (page as usize, self.head_dim * PAGE);
        let pages = self.store.slab_pages;
        let at = page % pages * self.store.page_len + self.offset + head * size * 2;
        (&self.store.slabs[page / pages], at)
    }

    /// Keys (0) or values (1) of one head in a page.
    fn read(&self, page: u32, head: usize, which: usize) -> &[f32] {
        let (slab, at) = self.place(page, head);
        let size = self.head_dim * PAGE;
        // SAFETY: the page lies in its slab, and its sequence's rows of this layer have been written.
        unsafe { slab.read(at + which * size, size) }
    }

    fn write(&self, position: usize, head: usize, k: &[f32], v: &[f32]) {
        let (slab, at) = self.place(self.pages[position / PAGE], head);
        let slot = position % PAGE;
        for (i, k) in k.iter().enumerate() {
            // SAFETY: the page is the sequence's own, and a position is one row's.
            unsafe { *slab.0.add(at + i * PAGE + slot) = *k };
        }
        // SAFETY: as above.
        unsafe { slab.slice(at + (PAGE + slot) * self.head_dim, self.head_dim) }.copy_from_slice(v);
    }
}

/// Whose keys and values come after these.
struct Next<'a> {
    view: View<'a>,
    head: usize,
}

impl Next<'_> {
    /// Keys (0) or values (1) of the page at the same place in the sequence.
    fn page(&self, i: usize, which: usize) -> Option<&[f32]> {
        let page = self.view.pages.get(i)?;
        Some(self.view.read(*page, self.head, which))
    }
}

/// Causal attention of `count` queries to one head of keys: for each all scores, softmax, weighted
/// sum, each in order of position. Positions seen do not fall from one query to the next.
fn attend<'a>(
    view: &View<'_>,
    head: usize,
    count: usize,
    query: &dyn Fn(usize) -> &'a [f32],
    positions: &dyn Fn(usize) -> usize,
    target: &dyn Fn(usize) -> &'a mut [f32],
    next: Option<&Next<'_>>,
) {
    let pages = positions(count - 1).div_ceil(PAGE);
    let mut scores = vec![0.0; QUERIES.min(count) * pages * PAGE];
    for from in (0..count).step_by(QUERIES) {
        let next = next.filter(|_| from + QUERIES >= count);
        let io = (query, positions, target);
        match count - from {
            1 => attend_some::<1>(view, head, from, io, &mut scores, next),
            2 => attend_some::<2>(view, head, from, io, &mut scores, next),
            3 => attend_some::<3>(view, head, from, io, &mut scores, next),
            _ => attend_some::<QUERIES>(view, head, from, io, &mut scores, next),
        }
    }
}

/// Queries, positions they see and places of their results, by number.
type Io<'f, 'a> = (
    &'f dyn Fn(usize) -> &'a [f32],
    &'f dyn Fn(usize) -> usize,
    &'f dyn Fn(usize) -> &'a mut [f32],
);

/// [`attend`] for `N` queries that read keys and values together. Each has the bits that it has alone.
fn attend_some<'a, const N: usize>(
    view: &View<'_>,
    head: usize,
    from: usize,
    (query, positions, target): Io<'_, 'a>,
    scores: &mut [f32],
    next: Option<&Next<'_>>,
) {
    let q: [&[f32]; N] = std::array::from_fn(|j| query(from + j));
    let mut out: [&mut [f32]; N] = std::array::from_fn(|j| target(from + j));
    let seen: [usize; N] = std::array::from_fn(|j| positions(from + j));
    let pages = &view.pages[..seen[N - 1].div_ceil(PAGE)];
    let stride = pages.len() * PAGE;
    let root = 1.0 / (view.head_dim as f32).sqrt();
    for (i, page) in pages.iter().enumerate() {
        let ahead = next.and_then(|n| n.page(i, 0)).unwrap_or(&[]);
        let keys = view.read(*page, head, 0);
        page_scores::<N>(keys, q, root, &mut scores[i * PAGE..], stride, ahead);
    }
    for (j, out) in out.iter_mut().enumerate() {
        let scores = &mut scores[j * stride..][..seen[j]];
        let max = max_of(scores);
        let inv = 1.0 / exp_sum(scores, max);
        scale(scores, inv);
        out.fill(0.0);
    }
    // Pages that all of them see whole, then what each sees of the rest.
    let whole = seen[0] / PAGE;
    for (i, page) in pages[..whole].iter().enumerate() {
        let values = view.read(*page, head, 1);
        let ahead = next.and_then(|n| n.page(i, 1)).unwrap_or(&[]);
        page_values::<N>(values, &scores[i * PAGE..], stride, &mut out, ahead);
    }
    for (j, out) in out.iter_mut().enumerate() {
        let scores = &scores[j * stride..][..seen[j]];
        for (page, p) in pages.iter().zip(scores.chunks(PAGE)).skip(whole) {
            part_values(view.read(*page, head, 1), p, out);
        }
    }
}

multiversion! {
    /// scores[j · stride + t] = root · Σᵢ q[j][i] keys[i][t], for the sixteen positions of a page.
    pub(crate) fn page_scores<const N: usize>(keys: &[f32], q: [&[f32]; N], root: f32, scores: &mut [f32], stride: usize, ahead: &[f32]) {
        let mut sum = [[0.0f32; PAGE]; N];
        let keys = keys.as_chunks::<PAGE>().0;
        let q = q.map(|q| &q[..keys.len()]);
        for line in ahead.as_chunks::<16>().0 {
            prefetch(line);
        }
        for (i, k) in keys.iter().enumerate() {
            for j in 0..N {
                let q = q[j][i];
                for t in 0..PAGE {
                    sum[j][t] = k[t].mul_add(q, sum[j][t]);
                }
            }
        }
        for j in 0..N {
            for (s, sum) in scores[j * stride..j * stride + PAGE].iter_mut().zip(sum[j]) {
                *s = sum * root;
            }
        }
    }
}

multiversion! {
    /// out[j] += Σₜ p[j · stride + t] values[t], for the sixteen positions of a page.
    pub(crate) fn page_values<const N: usize>(values: &[f32], p: &[f32], stride: usize, out: &mut [&mut [f32]; N], ahead: &[f32]) {
        let hd = values.len() / PAGE;
        let chunks = hd / 16;
        for line in ahead.as_chunks::<16>().0 {
            prefetch(line);
        }
        let p: [&[f32]; N] = std::array::from_fn(|j| &p[j * stride..j * stride + PAGE]);
        for c in (0..chunks * 16).step_by(16) {
            // Sixteen columns stay in a register over the page's positions, which are added in order.
            let mut sum = [[0.0f32; 16]; N];
            for j in 0..N {
                sum[j].copy_from_slice(&out[j][c..c + 16]);
            }
            for (t, v) in values[c..].chunks(hd).enumerate().take(PAGE) {
                if let Some(v) = v.first_chunk::<16>() {
                    for j in 0..N {
                        let p = p[j][t];
                        for i in 0..16 {
                            sum[j][i] = v[i].mul_add(p, sum[j][i]);
                        }
                    }
                }
            }
            for j in 0..N {
                out[j][c..c + 16].copy_from_slice(&sum[j]);
            }
        }
        if chunks * 16 < hd {
            for j in 0..N {
                for (v, p) in values.chunks_exact(hd).zip(p[j]) {
                    for (o, v) in out[j][chunks * 16..].iter_mut().zip(&v[chunks * 16..]) {
                        *o = v.mul_add(*p, *o);
                    }
                }
            }
        }
    }
}

multiversion! {
    /// out += Σₜ p[t] values[t], for as many positions as p has.
    pub(crate) fn part_values(values: &[f32], p: &[f32], out: &mut [f32]) {
        for (v, p) in values.chunks_exact(out.len()).zip(p) {
            for (o, v) in out.iter_mut().zip(v) {
                *o = v.mul_add(*p, *o);
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
