//! Blocks of the training pass, forward and backward. Any GEMM may be used here: a batch is fixed by
//! (seed, step), and no product is split along its reduction.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::kernels::{Shared, exp_sum, max_of, multiversion};

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

/// y (rows × out) = [y +] alpha · x Wᵀ, W out × in.
pub(super) fn linear(x: &[f32], w: &[f32], inputs: usize, y: &mut [f32], add: bool, alpha: f32) {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
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
    dx.par_chunks_exact_mut(d)
        .zip(dy.par_chunks_exact(d).zip(x.par_chunks_exact(d)).zip(inv))
        .with_min_len(16)
        .for_each(|(dx, ((dy, x), inv))| norm_row_back(dy, x, *inv, weight, dx));
    if let Some(dw) = dw {
        for ((dy, x), inv) in dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(inv) {
            norm_weight_back(dy, x, *inv, dw);
        }
    }
}

multiversion! {
    /// One row of [`rms_norm_back`].
    pub(crate) fn norm_row_back(dy: &[f32], x: &[f32], inv: f32, w: &[f32], dx: &mut [f32]) {
        let mut lanes = [0.0f32; 16];
        let n = x.len();
        for i in 0..n {
            lanes[i % 16] = (dy[i] * w[i]).mul_add(x[i], lanes[i % 16]);
        }
        let dot: f32 = lanes.iter().sum();
        let c = dot * inv * inv / n as f32;
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

multiversion! {
    /// p[i] = e^(s[i] − lse).
    pub(crate) fn exp_from(s: &mut [f32], lse: f32) {
        for v in s.iter_mut() {
            *v = crate::kernels::exp(*v - lse);
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
        let scale = 1.0 / (hd as f32).sqrt();
        let (out, lse) = (Shared(out.as_mut_ptr()), Shared(lse.as_mut_ptr()));
        let heads = self.heads;
        self.tasks().into_par_iter().for_each(|(start, len, kv)| {
            let mut s = vec![0.0f32; BLOCK * len];
            let mut o = vec![0.0f32; BLOCK * hd];
            for h in kv * group..(kv + 1) * group {
                for from in (0..len).step_by(BLOCK) {
                    let n = BLOCK.min(len - from);
                    let t = from + n;
                    let qm = Mat(&q[(start + from) * qs + h * hd..], qs, 1);
                    let kt = Mat(&k[start * ks + kv * hd..], 1, ks);
                    gemm((n, t, hd), &mut s, t, false, qm, kt, scale, false);
                    for i in 0..n {
                        let row = &mut s[i * t..(i + 1) * t];
                        let (seen, later) = row.split_at_mut(from + i + 1);
                        let max = max_of(seen);
                        let sum = exp_sum(seen, max);
                        let inv = 1.0 / sum;
                        seen.iter_mut().for_each(|p| *p *= inv);
                        later.fill(0.0);
                        // SAFETY: this task alone owns head h of these rows.
                        unsafe { lse.slice((start + from + i) * heads + h, 1)[0] = max + sum.ln() };
                    }
                    let vm = Mat(&v[start * ks + kv * hd..], ks, 1);
                    gemm((n, hd, t), &mut o, hd, false, Mat(&s, t, 1), vm, 1.0, false);
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
        let scale = 1.0 / (hd as f32).sqrt();
        let heads = self.heads;
        let shared = [dq, dk, dv].map(|d| Shared(d.as_mut_ptr()));
        self.tasks().into_par_iter().for_each(|(start, len, kv)| {
            let [dq, dk, dv] = &shared;
            let mut p = vec![0.0f32; BLOCK * len];
            let mut ds = vec![0.0f32; BLOCK * len];
            let mut dqb = vec![0.0f32; BLOCK * hd];
            // Gathered apart: the group's heads add up in them.
            let (mut dkh, mut dvh) = (vec![0.0f32; len * hd], vec![0.0f32; len * hd]);
            for h in kv * group..(kv + 1) * group {
                for from in (0..len).step_by(BLOCK) {
                    let n = BLOCK.min(len - from);
                    let t = from + n;
                    let at = (start + from) * qs + h * hd;
                    let qm = Mat(&q[at..], qs, 1);
                    let dom = Mat(&dout[at..], qs, 1);
                    let (k0, v0) = (&k[start * ks + kv * hd..], &v[start * ks + kv * hd..]);
                    gemm(
                        (n, t, hd),
                        &mut p,
                        t,
                        false,
                        qm,
                        Mat(k0, 1, ks),
                        scale,
                        false,
                    );
                    gemm(
                        (n, t, hd),
                        &mut ds,
                        t,
                        false,
                        dom,
                        Mat(v0, 1, ks),
                        1.0,
                        false,
                    );
                    for i in 0..n {
                        let at = (start + from + i) * qs + h * hd;
                        let d: f32 = dout[at..at + hd]
                            .iter()
                            .zip(&out[at..at + hd])
                            .map(|(a, b)| a * b)
                            .sum();
                        let (row, later) = p[i * t..(i + 1) * t].split_at_mut(from + i + 1);
                        exp_from(row, lse[(start + from + i) * heads + h]);
                        later.fill(0.0);
                        let (drow, dlater) = ds[i * t..(i + 1) * t].split_at_mut(from + i + 1);
                        for (ds, p) in drow.iter_mut().zip(row.iter()) {
                            *ds = *p * (*ds - d) * scale;
                        }
                        dlater.fill(0.0);
                    }
                    let (pm, dsm) = (Mat(&p, 1, t), Mat(&ds, 1, t));
                    gemm((t, hd, n), &mut dvh, hd, true, pm, dom, 1.0, false);
                    gemm((t, hd, n), &mut dkh, hd, true, dsm, qm, 1.0, false);
                    let dims = (n, hd, t);
                    gemm(
                        dims,
                        &mut dqb,
                        hd,
                        false,
                        Mat(&ds, t, 1),
                        Mat(k0, ks, 1),
                        1.0,
                        false,
                    );
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
