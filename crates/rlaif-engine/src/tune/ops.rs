//! Blocks of the training pass, forward and backward. Any GEMM may be used here: a batch is fixed by
//! (seed, step), and no product is split along its reduction.

use gemm::Parallelism;
use rayon::prelude::*;

use super::head::dot;
use crate::kernels::direct::{self, Weight};
use crate::kernels::{Shared, add_assign, exp_sum, max_of, multiversion, scale};

fn threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    }
}

/// A matrix somewhere in a slice: (data, row stride, column stride).
#[derive(Clone, Copy)]
pub(super) struct Mat<'a>(pub &'a [f32], pub usize, pub usize);

/// c (m × n, row stride `cs`) = [c +] alpha · a (m × k) · b (k × n).
#[allow(clippy::too_many_arguments)] // a GEMM's own signature
pub(super) fn gemm(
    (m, n, k): (usize, usize, usize),
    c: &mut [f32],
    cs: usize,
    add: bool,
    a: Mat<'_>,
    b: Mat<'_>,
    alpha: f32,
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let reach = |rows: usize, cols: usize, rs: usize, cs: usize| {
        rows.saturating_sub(1) * rs + cols.saturating_sub(1) * cs
    };
    assert!(reach(m, n, cs, 1) < c.len(), "result out of bounds");
    if k > 0 {
        assert!(reach(m, k, a.1, a.2) < a.0.len() && reach(k, n, b.1, b.2) < b.0.len());
    }
    if !parallel && b.2 == 1 && n % 16 == 0 && direct::available() {
        // SAFETY: as below, and the machine has the instructions.
        unsafe {
            let (a, b) = ((a.0, a.1, a.2), (b.0, b.1));
            direct::small((m, n, k), a, b, (c.as_mut_ptr(), cs), alpha, add);
        }
        return;
    }
    let parallelism = if parallel && m * n * k > 100_000 {
        threads()
    } else {
        Parallelism::None
    };
    // SAFETY: the three matrices were just checked to lie inside their slices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            cs as isize,
            add,
            a.0.as_ptr(),
            a.2 as isize,
            a.1 as isize,
            b.0.as_ptr(),
            b.2 as isize,
            b.1 as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Whether a product is large enough for kernels that pack: fewer rows or columns, as an adapter's or a
/// scalar head's, are the library's.
fn packs(rows: usize, outputs: usize, inputs: usize) -> bool {
    direct::available() && rows >= 24 && outputs >= 32 && inputs >= 32
}

/// y (rows × out) = [y +] alpha · x Wᵀ, W out × in.
pub(super) fn linear(x: &[f32], w: &[f32], inputs: usize, y: &mut [f32], add: bool, alpha: f32) {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    if packs(rows, outputs, inputs) {
        return direct::product(x, Weight::Forward(w), (outputs, inputs), y, add, alpha);
    }
    let dims = (rows, outputs, inputs);
    gemm(
        dims,
        y,
        outputs,
        add,
        Mat(x, inputs, 1),
        Mat(w, 1, inputs),
        alpha,
        true,
    );
}

/// dx (rows × in) = [dx +] alpha · dy W.
pub(super) fn linear_dx(
    dy: &[f32],
    w: &[f32],
    inputs: usize,
    dx: &mut [f32],
    add: bool,
    alpha: f32,
) {
    let outputs = w.len() / inputs;
    let dims = (dy.len() / outputs, inputs, outputs);
    if packs(dims.0, outputs, inputs) {
        return direct::product(dy, Weight::Back(w), (inputs, outputs), dx, add, alpha);
    }
    gemm(
        dims,
        dx,
        inputs,
        add,
        Mat(dy, outputs, 1),
        Mat(w, inputs, 1),
        alpha,
        true,
    );
}

/// dW (out × in) += alpha · dyᵀ x.
pub(super) fn linear_dw(dy: &[f32], x: &[f32], inputs: usize, dw: &mut [f32], alpha: f32) {
    let (rows, outputs) = (x.len() / inputs, dw.len() / inputs);
    if packs(rows, outputs, inputs) {
        return direct::gradient(dy, x, inputs, dw, alpha);
    }
    let dims = (outputs, inputs, rows);
    gemm(
        dims,
        dw,
        inputs,
        true,
        Mat(dy, 1, outputs),
        Mat(x, inputs, 1),
        alpha,
        true,
    );
}

/// Rows whose part of a norm's weight gradient is summed before the parts are added in order: the
/// sum does not depend on the number of threads.
const NORM_ROWS: usize = 64;

/// dx += gradient of RMSNorm; dw += its weight's (where given). `inv` as saved by the forward pass.
pub(super) fn rms_norm_back(
    dy: &[f32],
    x: &[f32],
    inv: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    dw: Option<&mut [f32]>,
) {
    let d = weight.len();
    let wanted = dw.is_some();
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(NORM_ROWS * d)
        .zip(dy.par_chunks(NORM_ROWS * d))
        .zip(x.par_chunks(NORM_ROWS * d))
        .zip(inv.par_chunks(NORM_ROWS))
        .map(|(((dx, dy), x), inv)| {
            let mut sum = vec![0.0; if wanted { d } else { 0 }];
            for (i, inv) in inv.iter().enumerate() {
                let row = i * d..(i + 1) * d;
                let (dy, x) = (&dy[row.clone()], &x[row.clone()]);
                norm_row_back(dy, x, *inv, weight, &mut dx[row]);
                if wanted {
                    norm_weight_back(dy, x, *inv, &mut sum);
                }
            }
            sum
        })
        .collect();
    if let Some(dw) = dw {
        for part in parts {
            add_assign(dw, &part);
        }
    }
}

multiversion! {
    /// One row of [`rms_norm_back`].
    pub(crate) fn norm_row_back(dy: &[f32], x: &[f32], inv: f32, w: &[f32], dx: &mut [f32]) {
        let mut lanes = [0.0f32; 16];
        let (dys, dy_rest) = dy.as_chunks::<16>();
        let (xs, x_rest) = x.as_chunks::<16>();
        let (ws, w_rest) = w.as_chunks::<16>();
        for ((dy, x), w) in dys.iter().zip(xs).zip(ws) {
            for i in 0..16 {
                lanes[i] = (dy[i] * w[i]).mul_add(x[i], lanes[i]);
            }
        }
        for (i, ((dy, x), w)) in dy_rest.iter().zip(x_rest).zip(w_rest).enumerate() {
            lanes[i] = (dy * w).mul_add(*x, lanes[i]);
        }
        let dot: f32 = lanes.iter().sum();
        let c = dot * inv * inv / x.len() as f32;
        for (((o, dy), x), w) in dx.iter_mut().zip(dy).zip(x).zip(w) {
            *o += inv * (dy * w - x * c);
        }
    }
}

multiversion! {
    /// One row's part of the weight's gradient.
    pub(crate) fn norm_weight_back(dy: &[f32], x: &[f32], inv: f32, dw: &mut [f32]) {
        for ((o, dy), x) in dw.iter_mut().zip(dy).zip(x) {
            *o = (dy * inv).mul_add(*x, *o);
        }
    }
}

multiversion! {
    /// Gradients of silu(gate) · up, in place: dgate ← dh's slice, dup written.
    pub(crate) fn silu_mul_back(gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for (((g, u), dg), du) in gate.iter().zip(up).zip(dgate.iter_mut()).zip(dup.iter_mut()) {
            let s = 1.0 / (1.0 + crate::kernels::exp(-g));
            let dh = *dg;
            *du = dh * g * s;
            *dg = dh * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

/// Shapes of attention over packed sequences.
pub(super) struct Attention<'a> {
    /// Row r is tokens `offsets[r]..offsets[r + 1]`.
    pub offsets: &'a [usize],
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Queries handled at once: the only scores that exist are 64 × (length of the row).
const BLOCK: usize = 64;

impl Attention<'_> {
    fn tasks(&self) -> Vec<(usize, usize, usize)> {
        // (start, length, kv head), longest first for balance.
        let mut tasks: Vec<_> = self
            .offsets
            .windows(2)
            .flat_map(|w| (0..self.kv_heads).map(move |h| (w[0], w[1] - w[0], h)))
            .filter(|t| t.1 > 0)
            .collect();
        tasks.sort_by_key(|t| (std::cmp::Reverse(t.1), t.0, t.2));
        tasks
    }

    /// out (tokens × heads·head_dim) = causal attention; `lse` (tokens × heads) for the way back.
    pub(super) fn forward(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
        lse: &mut [f32],
    ) {
        let (hd, group) = (self.head_dim, self.heads / self.kv_heads);
        let (qs, ks) = (self.heads * hd, self.kv_heads * hd);
        let root = 1.0 / (hd as f32).sqrt();
        let (out, lse) = (Shared(out.as_mut_ptr()), Shared(lse.as_mut_ptr()));
        let heads = self.heads;
        self.tasks().into_par_iter().for_each(|(start, len, kv)| {
            // Columns of scores in whole vectors: those beyond the row's length are zero keys.
            let wide = len.next_multiple_of(16);
            let keys = turned(&k[start * ks + kv * hd..], ks, len, hd, wide);
            let mut s = vec![0.0f32; BLOCK * wide];
            let mut o = vec![0.0f32; BLOCK * hd];
            for h in kv * group..(kv + 1) * group {
                for from in (0..len).step_by(BLOCK) {
                    let n = BLOCK.min(len - from);
                    let t = (from + n).next_multiple_of(16);
                    let qm = Mat(&q[(start + from) * qs + h * hd..], qs, 1);
                    let dims = (n, t, hd);
                    gemm(
                        dims,
                        &mut s,
                        wide,
                        false,
                        qm,
                        Mat(&keys, wide, 1),
                        root,
                        false,
                    );
                    for i in 0..n {
                        let row = &mut s[i * wide..i * wide + t];
                        let (seen, later) = row.split_at_mut(from + i + 1);
                        let max = max_of(seen);
                        let sum = exp_sum(seen, max);
                        scale(seen, 1.0 / sum);
                        later.fill(0.0);
                        // SAFETY: this task alone owns head h of these rows.
                        unsafe { lse.slice((start + from + i) * heads + h, 1)[0] = max + sum.ln() };
                    }
                    let vm = Mat(&v[start * ks + kv * hd..], ks, 1);
                    for (first, rows) in steps(n) {
                        let dims = (rows, hd, from + first + rows);
                        let p = Mat(&s[first * wide..], wide, 1);
                        gemm(dims, &mut o[first * hd..], hd, false, p, vm, 1.0, false);
                    }
                    for i in 0..n {
                        // SAFETY: as above.
                        unsafe { out.slice((start + from + i) * qs + h * hd, hd) }
                            .copy_from_slice(&o[i * hd..(i + 1) * hd]);
                    }
                }
            }
        });
    }

    /// Gradients of q, k and v (all written) from that of the output.
    #[allow(clippy::too_many_arguments)] // what attention is made of
    pub(super) fn backward(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &[f32],
        lse: &[f32],
        dout: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let (hd, group) = (self.head_dim, self.heads / self.kv_heads);
        let (qs, ks) = (self.heads * hd, self.kv_heads * hd);
        let root = 1.0 / (hd as f32).sqrt();
        let heads = self.heads;
        let shared = [dq, dk, dv].map(|d| Shared(d.as_mut_ptr()));
        self.tasks().into_par_iter().for_each(|(start, len, kv)| {
            let [dq, dk, dv] = &shared;
            let wide = len.next_multiple_of(16);
            let (k0, v0) = (&k[start * ks + kv * hd..], &v[start * ks + kv * hd..]);
            let keys = turned(k0, ks, len, hd, wide);
            let values = turned(v0, ks, len, hd, wide);
            let mut p = vec![0.0f32; BLOCK * wide];
            let mut ds = vec![0.0f32; BLOCK * wide];
            let mut dqb = vec![0.0f32; BLOCK * hd];
            // Gathered apart: the group's heads add up in them.
            let (mut dkh, mut dvh) = (vec![0.0f32; len * hd], vec![0.0f32; len * hd]);
            for h in kv * group..(kv + 1) * group {
                for from in (0..len).step_by(BLOCK) {
                    let n = BLOCK.min(len - from);
                    let t = (from + n).next_multiple_of(16);
                    let at = (start + from) * qs + h * hd;
                    let qm = Mat(&q[at..], qs, 1);
                    let dom = Mat(&dout[at..], qs, 1);
                    let dims = (n, t, hd);
                    gemm(
                        dims,
                        &mut p,
                        wide,
                        false,
                        qm,
                        Mat(&keys, wide, 1),
                        root,
                        false,
                    );
                    gemm(
                        dims,
                        &mut ds,
                        wide,
                        false,
                        dom,
                        Mat(&values, wide, 1),
                        1.0,
                        false,
                    );
                    for i in 0..n {
                        let at = (start + from + i) * qs + h * hd;
                        let d = dot(&dout[at..at + hd], &out[at..at + hd]);
                        let lse = lse[(start + from + i) * heads + h];
                        let (row, later) = p[i * wide..i * wide + t].split_at_mut(from + i + 1);
                        let (drow, dlater) = ds[i * wide..i * wide + t].split_at_mut(from + i + 1);
                        softmax_back(row, drow, lse, d, root);
                        later.fill(0.0);
                        dlater.fill(0.0);
                    }
                    // A key is seen by itself and later queries only.
                    for (first, rows) in steps(from + n) {
                        let skip = first.saturating_sub(from);
                        let dims = (rows, hd, n - skip);
                        let (pm, dsm) = (&p[skip * wide + first..], &ds[skip * wide + first..]);
                        let (qm, dom) = (
                            Mat(&q[at + skip * qs..], qs, 1),
                            Mat(&dout[at + skip * qs..], qs, 1),
                        );
                        let place = first * hd;
                        gemm(
                            dims,
                            &mut dvh[place..],
                            hd,
                            true,
                            Mat(pm, 1, wide),
                            dom,
                            1.0,
                            false,
                        );
                        gemm(
                            dims,
                            &mut dkh[place..],
                            hd,
                            true,
                            Mat(dsm, 1, wide),
                            qm,
                            1.0,
                            false,
                        );
                    }
                    for (first, rows) in steps(n) {
                        let dims = (rows, hd, from + first + rows);
                        let dsm = Mat(&ds[first * wide..], wide, 1);
                        gemm(
                            dims,
                            &mut dqb[first * hd..],
                            hd,
                            false,
                            dsm,
                            Mat(k0, ks, 1),
                            1.0,
                            false,
                        );
                    }
                    for i in 0..n {
                        // SAFETY: this task alone owns head h of these rows.
                        unsafe { dq.slice((start + from + i) * qs + h * hd, hd) }
                            .copy_from_slice(&dqb[i * hd..(i + 1) * hd]);
                    }
                }
            }
            for i in 0..len {
                let at = (start + i) * ks + kv * hd;
                // SAFETY: this task alone owns key-value head `kv` of these rows.
                unsafe { dk.slice(at, hd) }.copy_from_slice(&dkh[i * hd..(i + 1) * hd]);
                // SAFETY: as above.
                unsafe { dv.slice(at, hd) }.copy_from_slice(&dvh[i * hd..(i + 1) * hd]);
            }
        });
    }
}

/// (first, number) of rows handled together where each row's reach differs.
fn steps(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n)
        .step_by(STEP)
        .map(move |from| (from, STEP.min(n - from)))
}

/// Two strips of the small product.
const STEP: usize = 24;

/// One head of `len` tokens as head_dim × `wide`, zero beyond the tokens.
fn turned(x: &[f32], stride: usize, len: usize, hd: usize, wide: usize) -> Vec<f32> {
    let mut t = vec![0.0f32; hd * wide];
    for from in (0..len).step_by(16) {
        for token in from..(from + 16).min(len) {
            for (i, v) in x[token * stride..token * stride + hd].iter().enumerate() {
                t[i * wide + token] = *v;
            }
        }
    }
    t
}

multiversion! {
    /// Scores → probabilities p = e^(s − lse); ds ← p · (ds − d) · root.
    pub(crate) fn softmax_back(p: &mut [f32], ds: &mut [f32], lse: f32, d: f32, root: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = crate::kernels::exp(*p - lse);
            *ds = *p * (*ds - d) * root;
        }
    }
}
