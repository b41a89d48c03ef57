//! Products for training on AVX-512: tiles of 12 × 32 results stay in registers over the reduction.
//!
//! Weights are packed a block at a time into a buffer of 2 MiB, activations are read where they lie.
//! Every sum runs over its length in order, cut at fixed places: results depend neither on the number
//! of threads nor on how work falls to them.

use std::cell::Cell;

use rayon::prelude::*;

use super::{Isa, Shared, isa};

/// Columns of a panel.
const PANEL: usize = 32;
/// Rows of a tile.
const STRIP: usize = 12;
/// Rows between two passes over a block of weights.
const ROWS: usize = 96;
/// Length of a reduction between two writings of its results.
const DEPTH: usize = 768;
/// Values of a packed block.
const BLOCK: usize = 512 << 10;
/// Tokens of a weight gradient between two writings of it.
const TOKENS: usize = 128;

/// Whether this machine has the instructions; elsewhere the caller uses another library.
pub(crate) fn available() -> bool {
    isa() == Isa::V4
}

/// Matrices of a product c (m × n) = [c +] alpha · a (m × k) · b (k × n). Columns of b and c lie side by
/// side.
#[derive(Clone, Copy)]
struct Product {
    a: *const f32,
    /// From one row of a to the next, and from one column to the next.
    a_strides: (usize, usize),
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    alpha: f32,
    add: bool,
}
// SAFETY: tasks write cells of their own.
unsafe impl Send for Product {}
// SAFETY: as above.
unsafe impl Sync for Product {}

impl Product {
    /// Results from (row, column) on, with terms from `term` on.
    unsafe fn at(self, row: usize, column: usize, term: usize) -> Self {
        // SAFETY: the caller's places are inside the matrices.
        unsafe {
            Product {
                a: self.a.add(row * self.a_strides.0 + term * self.a_strides.1),
                b: self.b.add(term * self.b_stride + column),
                c: self.c.add(row * self.c_stride + column),
                ..self
            }
        }
    }

    /// All rows of one block of `width` ≤ 32 columns; b has 32 (or, where `width` is 16, 16).
    unsafe fn columns(self, m: usize, k: usize, width: usize) {
        let mut row = 0;
        while row < m {
            let take = [STRIP, 8, 4, 2, 1]
                .into_iter()
                .find(|n| *n <= m - row)
                .unwrap_or(1);
            // SAFETY: the rows are inside the matrices.
            unsafe {
                let part = self.at(row, 0, 0);
                match width {
                    PANEL => part.strip::<2>(take, k),
                    16 => part.strip::<1>(take, k),
                    _ => part.edge(take, k, width),
                }
            }
            row += take;
        }
    }

    unsafe fn strip<const NV: usize>(self, rows: usize, k: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: only reached where `available`; bounds as in `columns`.
        unsafe {
            match rows {
                STRIP => v4::tile::<STRIP, NV>(self, k),
                8 => v4::tile::<8, NV>(self, k),
                4 => v4::tile::<4, NV>(self, k),
                2 => v4::tile::<2, NV>(self, k),
                _ => v4::tile::<1, NV>(self, k),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (rows, k);
    }

    /// A last panel: the whole of it is computed apart.
    unsafe fn edge(self, rows: usize, k: usize, width: usize) {
        let mut whole = [0.0f32; STRIP * PANEL];
        let apart = Product {
            c: whole.as_mut_ptr(),
            c_stride: PANEL,
            add: false,
            ..self
        };
        // SAFETY: `whole` holds the strip; the columns written are inside c.
        unsafe {
            apart.strip::<2>(rows, k);
            for (r, from) in whole.chunks_exact(PANEL).take(rows).enumerate() {
                for (i, v) in from[..width].iter().enumerate() {
                    let c = self.c.add(r * self.c_stride + i);
                    *c = if self.add { *c + v } else { *v };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod v4 {
    use std::arch::x86_64::*;

    use super::Product;

    /// `MR` rows of 16 · `NV` columns.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile<const MR: usize, const NV: usize>(p: Product, k: usize) {
        // SAFETY: the caller's matrices hold the tile and its terms.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); NV]; MR];
            let (mut a, mut b) = (p.a, p.b);
            for _ in 0..k {
                let mut w = [_mm512_setzero_ps(); NV];
                for (n, w) in w.iter_mut().enumerate() {
                    *w = _mm512_loadu_ps(b.add(n * 16));
                }
                for (m, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(m * p.a_strides.0));
                    for (acc, w) in acc.iter_mut().zip(w) {
                        *acc = _mm512_fmadd_ps(x, w, *acc);
                    }
                }
                a = a.wrapping_add(p.a_strides.1);
                b = b.wrapping_add(p.b_stride);
            }
            let alpha = _mm512_set1_ps(p.alpha);
            for (m, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    let c = p.c.add(m * p.c_stride + n * 16);
                    let v = if p.add {
                        _mm512_fmadd_ps(*acc, alpha, _mm512_loadu_ps(c))
                    } else {
                        _mm512_mul_ps(*acc, alpha)
                    };
                    _mm512_storeu_ps(c, v);
                }
            }
        }
    }
}

/// A small product by the calling thread, nothing packed: `a` (data, row stride, column stride), `b`
/// (data, row stride) with n columns, a multiple of 16.
///
/// # Safety
/// The three matrices lie inside their slices, and the machine has the instructions.
#[allow(clippy::too_many_arguments)] // a product's own signature
pub(crate) unsafe fn small(
    (m, n, k): (usize, usize, usize),
    a: (&[f32], usize, usize),
    b: (&[f32], usize),
    c: (*mut f32, usize),
    alpha: f32,
    add: bool,
) {
    let whole = Product {
        a: a.0.as_ptr(),
        a_strides: (a.1, a.2),
        b: b.0.as_ptr(),
        b_stride: b.1,
        c: c.0,
        c_stride: c.1,
        alpha,
        add,
    };
    for column in (0..n).step_by(PANEL) {
        // SAFETY: promised by the caller; n is a multiple of 16.
        unsafe {
            whole.at(0, column, 0).columns(m, k, PANEL.min(n - column));
        }
    }
}

/// Which way a weight matrix (out × in) is read.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a> {
    /// Results are its outputs: x Wᵀ.
    Forward(&'a [f32]),
    /// Results are its inputs: dy W.
    Back(&'a [f32]),
}

impl Weight<'_> {
    /// Packs terms × 32 columns; those beyond the last are left as they are.
    fn pack(
        &self,
        (n, k): (usize, usize),
        column: usize,
        terms: std::ops::Range<usize>,
        to: &mut [f32],
    ) {
        let width = PANEL.min(n - column);
        match self {
            Weight::Forward(w) => {
                for from in terms.clone().step_by(16) {
                    let len = 16.min(terms.end - from);
                    for i in 0..width {
                        let row = &w[(column + i) * k + from..][..len];
                        let to = &mut to[(from - terms.start) * PANEL..];
                        for (t, v) in row.iter().enumerate() {
                            to[t * PANEL + i] = *v;
                        }
                    }
                }
            }
            Weight::Back(w) => {
                for (term, to) in terms.zip(to.chunks_exact_mut(PANEL)) {
                    let w = &w[term * n + column..];
                    match (to.first_chunk_mut::<PANEL>(), w.first_chunk::<PANEL>()) {
                        (Some(to), Some(w)) if width == PANEL => *to = *w,
                        _ => to[..width].copy_from_slice(&w[..width]),
                    }
                }
            }
        }
    }
}

/// y (rows × n) = [y +] alpha · x (rows × k) · the weights. Only where [`available`].
pub(crate) fn product(
    x: &[f32],
    w: Weight<'_>,
    (n, k): (usize, usize),
    y: &mut [f32],
    add: bool,
    alpha: f32,
) {
    let rows = x.len() / k;
    assert!(available() && x.len() == rows * k && y.len() == rows * n);
    let threads = rayon::current_num_threads();
    let each = rows.div_ceil(threads * 2).next_multiple_of(STRIP).min(ROWS);
    let depth = DEPTH.min(k);
    let wide = (BLOCK / depth / PANEL * PANEL).min(n.next_multiple_of(PANEL));
    let mut buffer = PACKED.take();
    // A line more, so that panels begin at one.
    if buffer.len() < wide * depth + 16 {
        buffer.resize(wide * depth + 16, 0.0);
    }
    let skip = buffer.as_ptr().align_offset(64).min(16);
    let out = Shared(y.as_mut_ptr());
    for from in (0..k).step_by(depth) {
        let terms = from..(from + depth).min(k);
        let panel = terms.len() * PANEL;
        for left in (0..n).step_by(wide) {
            let panels = (n - left).min(wide).div_ceil(PANEL);
            let packed = &mut buffer[skip..skip + panels * panel];
            let pack = |(p, to): (usize, &mut [f32])| {
                w.pack((n, k), left + p * PANEL, terms.clone(), to);
            };
            packed
                .par_chunks_mut(panel)
                .with_min_len(2)
                .enumerate()
                .for_each(pack);
            let packed = &*packed;
            x.par_chunks(each * k).enumerate().for_each(|(block, x)| {
                let m = x.len() / k;
                for p in 0..panels {
                    let column = left + p * PANEL;
                    let part = Product {
                        // SAFETY: the terms begin inside the row.
                        a: unsafe { x.as_ptr().add(terms.start) },
                        a_strides: (k, 1),
                        b: packed[p * panel..].as_ptr(),
                        b_stride: PANEL,
                        // SAFETY: each block of rows is one task's.
                        c: unsafe { out.at(block * each * n + column) },
                        c_stride: n,
                        alpha,
                        add: add || from > 0,
                    };
                    // SAFETY: rows, terms and columns are those of x, the panel and y.
                    unsafe { part.columns(m, terms.len(), narrow(n - column)) };
                }
            });
        }
    }
    PACKED.set(buffer);
}

thread_local! {
    /// The packed block, kept from one product to the next: at most 2 MiB.
    static PACKED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Columns to write of a panel with `left` columns to its end; 16 of a packed panel are an edge too.
fn narrow(left: usize) -> usize {
    if left >= PANEL { PANEL } else { left }
}

/// dw (out × in) += alpha · dyᵀ x, over all rows. Only where [`available`].
pub(crate) fn gradient(dy: &[f32], x: &[f32], inputs: usize, dw: &mut [f32], alpha: f32) {
    let outputs = dw.len() / inputs;
    let rows = x.len() / inputs;
    assert!(available() && x.len() == rows * inputs && dy.len() == rows * outputs);
    let each = outputs
        .div_ceil(rayon::current_num_threads() * 2)
        .next_multiple_of(STRIP);
    dw.par_chunks_mut(each * inputs)
        .enumerate()
        .for_each(|(task, dw)| {
            let (first, m) = (task * each, dw.len() / inputs);
            let strips = m.div_ceil(STRIP);
            let mut slabs = vec![0.0f32; strips * STRIP * TOKENS];
            let mut panel = vec![0.0f32; PANEL * TOKENS];
            for from in (0..rows).step_by(TOKENS) {
                let k = TOKENS.min(rows - from);
                for t in 0..k {
                    let dy = &dy[(from + t) * outputs + first..][..m];
                    for (s, dy) in dy.chunks(STRIP).enumerate() {
                        let to = &mut slabs[(s * TOKENS + t) * STRIP..][..STRIP];
                        // A length that the compiler knows needs no call.
                        match (to.first_chunk_mut::<STRIP>(), dy.first_chunk::<STRIP>()) {
                            (Some(to), Some(dy)) => *to = *dy,
                            (Some(to), None) => to[..dy.len()].copy_from_slice(dy),
                            (None, _) => {}
                        }
                    }
                }
                for column in (0..inputs).step_by(PANEL) {
                    let width = narrow(inputs - column);
                    for (t, to) in panel.chunks_exact_mut(PANEL).take(k).enumerate() {
                        let x = &x[(from + t) * inputs + column..];
                        match (to.first_chunk_mut::<PANEL>(), x.first_chunk::<PANEL>()) {
                            (Some(to), Some(x)) if width == PANEL => *to = *x,
                            _ => to[..width].copy_from_slice(&x[..width]),
                        }
                    }
                    for s in 0..strips {
                        let part = Product {
                            a: slabs[s * STRIP * TOKENS..].as_ptr(),
                            a_strides: (1, STRIP),
                            b: panel.as_ptr(),
                            b_stride: PANEL,
                            c: dw[s * STRIP * inputs + column..].as_mut_ptr(),
                            c_stride: inputs,
                            alpha,
                            add: true,
                        };
                        // SAFETY: the slab and the panel hold k terms, dw the strip's rows.
                        unsafe { part.columns(STRIP.min(m - s * STRIP), k, width) };
                    }
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::normal;

    /// Within what rounding allows of sums in f64.
    fn near(got: &[f32], want: impl Fn(usize, usize) -> f64, n: usize) {
        for (i, v) in got.iter().enumerate() {
            let want = want(i / n, i % n);
            assert!((f64::from(*v) - want).abs() < 2e-3, "{i}: {v} {want}");
        }
    }

    #[test]
    fn every_shape_agrees_with_sums_in_f64_on_any_number_of_threads() {
        if !available() {
            return;
        }
        // Edges of strips (12), panels (32), depths (768) and blocks of tokens (128).
        for (rows, out, inp) in [(1, 16, 5), (29, 33, 70), (140, 75, 800), (257, 48, 31)] {
            let (x, w) = (normal(rows * inp, 1.0, 1), normal(out * inp, 1.0, 2));
            let dy = normal(rows * out, 1.0, 3);
            let sum =
                |n: usize, f: &dyn Fn(usize) -> f32| (0..n).map(|i| f64::from(f(i))).sum::<f64>();
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    let mut y = vec![1.0; rows * out];
                    product(&x, Weight::Forward(&w), (out, inp), &mut y, true, 0.5);
                    let mut dx = vec![7.0; rows * inp];
                    product(&dy, Weight::Back(&w), (inp, out), &mut dx, false, 2.0);
                    let mut dw = vec![1.0; out * inp];
                    gradient(&dy, &x, inp, &mut dw, 0.5);
                    [y, dx, dw]
                })
            };
            let [y, dx, dw] = run(1);
            let f = |r: usize, o: usize| 1.0 + 0.5 * sum(inp, &|i| x[r * inp + i] * w[o * inp + i]);
            near(&y, f, out);
            near(
                &dx,
                |r, i| 2.0 * sum(out, &|o| dy[r * out + o] * w[o * inp + i]),
                inp,
            );
            let f =
                |o: usize, i: usize| 1.0 + 0.5 * sum(rows, &|r| dy[r * out + o] * x[r * inp + i]);
            near(&dw, f, inp);
            assert_eq!(run(3), [y, dx, dw]);
        }
    }

    #[test]
    fn a_small_product_reads_any_strides() {
        if !available() {
            return;
        }
        let (m, n, k) = (27, 48, 21);
        let (a, b) = (normal(m * k, 1.0, 1), normal(k * 50, 1.0, 2));
        let mut c = vec![3.0f32; m * 60];
        // SAFETY: a is k × m read as its transpose, b has rows of 50, c of 60.
        unsafe {
            small(
                (m, n, k),
                (&a, 1, m),
                (&b, 50),
                (c.as_mut_ptr(), 60),
                2.0,
                true,
            )
        };
        for r in 0..m {
            for col in 0..60 {
                let sum: f64 = (0..k)
                    .map(|i| f64::from(a[i * m + r]) * f64::from(b[i * 50 + col % 50]))
                    .sum();
                let want = if col < n { 3.0 + 2.0 * sum } else { 3.0 };
                assert!((f64::from(c[r * 60 + col]) - want).abs() < 1e-4);
            }
        }
    }
}
