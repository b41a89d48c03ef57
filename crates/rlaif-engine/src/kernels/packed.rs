//! Matrix products for inference: y = x Wᵀ with the weights packed once.
//!
//! Panels of 32 output columns are stored column-interleaved (`panel[k][32]`), so that each output
//! is one lane that runs over `k` in order: no horizontal sum, and the same bits for any number of
//! rows. Few rows read several panels at a time, which hides the latency of the multiply-add.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Buffer, Crew, Isa, Shared, isa};

const PANEL: usize = 32;
/// Rows handled between two passes over the weights: small enough that their activations stay in
/// the second-level cache.
const ROWS: usize = 96;

/// A weight matrix (out × in) in panels of 32 outputs.
#[derive(Clone)]
pub(crate) struct Packed {
    outputs: usize,
    inputs: usize,
    /// Shared with the model's other matrices, so that they lie in large pages together.
    buffer: Arc<Buffer>,
    at: usize,
}

/// Row-major matrices with the same number of inputs, one under the other.
pub(crate) struct Source<'a> {
    pub inputs: usize,
    pub parts: Vec<&'a [f32]>,
}

impl Source<'_> {
    fn outputs(&self) -> usize {
        self.parts.iter().map(|p| p.len() / self.inputs).sum()
    }

    fn packed_len(&self) -> usize {
        self.outputs().div_ceil(PANEL) * PANEL * self.inputs
    }
}

impl Packed {
    /// Packs matrices, results in their order.
    pub(crate) fn all(sources: &[Source<'_>]) -> Vec<Self> {
        let mut buffer = Buffer::zeros(sources.iter().map(Source::packed_len).sum());
        let mut rest = &mut *buffer;
        for s in sources {
            let rows: Vec<&[f32]> = s
                .parts
                .iter()
                .flat_map(|p| p.chunks_exact(s.inputs))
                .collect();
            let (own, others) = rest.split_at_mut(s.packed_len());
            rest = others;
            own.par_chunks_mut(s.inputs * PANEL)
                .zip(rows.par_chunks(PANEL))
                .for_each(|(panel, rows)| {
                    // Sixteen lines of the panel at a time stay in the nearest cache.
                    for (block, lines) in panel.chunks_mut(16 * PANEL).enumerate() {
                        let terms = block * 16..block * 16 + lines.len() / PANEL;
                        for (column, row) in rows.iter().enumerate() {
                            for (line, w) in lines.chunks_exact_mut(PANEL).zip(&row[terms.clone()])
                            {
                                line[column] = *w;
                            }
                        }
                    }
                });
        }
        let buffer = Arc::new(buffer);
        let mut at = 0;
        sources
            .iter()
            .map(|s| {
                let packed = Packed {
                    outputs: s.outputs(),
                    inputs: s.inputs,
                    buffer: Arc::clone(&buffer),
                    at,
                };
                at += s.packed_len();
                packed
            })
            .collect()
    }

    /// Number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// `y[r][..] = W x[r]` for every row, or with `add` `y[r][..] += W x[r]` (the sum is complete
    /// before it is added); x is rows × in, y is rows × out.
    pub(crate) fn apply(&self, crew: &Crew<'_>, x: &[f32], y: &mut [f32], add: bool) {
        let rows = x.len() / self.inputs;
        debug_assert_eq!(y.len(), rows * self.outputs);
        let out = Target {
            y: Shared(y.as_mut_ptr()),
            add,
        };
        let panels = self.outputs.div_ceil(PANEL);
        // Chunks of panels: a few per thread for balance, at least four so that a single row has
        // enough sums in flight.
        let per = (panels / (rayon::current_num_threads() * 4)).clamp(4, 64);
        for (block, x) in x.chunks(ROWS * self.inputs).enumerate() {
            let rows = x.len() / self.inputs;
            let base = block * ROWS;
            // A product that takes less than a hand-over is done here.
            if crew.is_alone() || rows * self.inputs * self.outputs < 30_000 {
                self.panels(x, rows, 0, panels, base, out);
            } else {
                crew.ranges(panels, per, |part| {
                    self.panels(x, rows, part.start, part.end, base, out);
                });
            }
        }
    }

    fn panels(&self, x: &[f32], rows: usize, from: usize, to: usize, base: usize, out: Target) {
        match isa() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `isa` found AVX-512 here.
            Isa::V4 => unsafe { self.panels_v4(x, rows, from, to, base, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `isa` found AVX2 and FMA here.
            Isa::V3 => unsafe { self.panels_v3(x, rows, from, to, base, out) },
            _ => self.panels_any(x, rows, from, to, base, out),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    fn panels_v4(&self, x: &[f32], rows: usize, from: usize, to: usize, base: usize, out: Target) {
        // SAFETY: the features are enabled in this function; bounds as in `strip`.
        unsafe {
            self.walk(x, rows, from, to, base, out, |s, args| match args.rows {
                12 => s.tile::<simd::V4, 12, 2, 1>(args),
                8 => s.tile::<simd::V4, 8, 2, 1>(args),
                4 => s.tile::<simd::V4, 4, 2, 2>(args),
                2 => s.tile::<simd::V4, 2, 2, 4>(args),
                _ => s.tile::<simd::V4, 1, 2, 4>(args),
            });
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn panels_v3(&self, x: &[f32], rows: usize, from: usize, to: usize, base: usize, out: Target) {
        // SAFETY: as above.
        unsafe {
            self.walk(x, rows, from, to, base, out, |s, args| match args.rows {
                12 | 8 | 4 => {
                    for pair in 0..args.rows / 2 {
                        s.tile::<simd::V3, 2, 4, 1>(args.part(pair * 2, 2, s.inputs, s.outputs));
                    }
                }
                2 => s.tile::<simd::V3, 2, 4, 1>(args),
                _ => s.tile::<simd::V3, 1, 4, 2>(args),
            });
        }
    }

    fn panels_any(&self, x: &[f32], rows: usize, from: usize, to: usize, base: usize, out: Target) {
        // SAFETY: bounds as in `strip`.
        unsafe {
            self.walk(x, rows, from, to, base, out, |s, args| {
                for r in 0..args.rows {
                    s.tile::<simd::Plain, 1, 32, 1>(args.part(r, 1, s.inputs, s.outputs));
                }
            });
        }
    }

    /// Cuts the rows into strips of 12, 8, 4, 2 and 1 and hands each to `strip`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // one private walk, three instruction sets
    unsafe fn walk(
        &self,
        x: &[f32],
        rows: usize,
        from: usize,
        to: usize,
        base: usize,
        out: Target,
        strip: impl Fn(&Self, Strip),
    ) {
        // Groups of panels that a strip of few rows can take at once.
        let mut panel = from;
        while panel < to {
            let group = (to - panel).min(if rows < 8 { 4 } else { 1 });
            let mut row = 0;
            let mut order = Order::First;
            while row < rows {
                let left = rows - row;
                let take = [12, 8, 4, 2, 1]
                    .into_iter()
                    .find(|n| *n <= left)
                    .unwrap_or(1);
                if take == rows {
                    order = Order::Only;
                }
                strip(
                    self,
                    Strip {
                        rows: take,
                        // SAFETY: `row < rows`, and `base + row` is a row of y.
                        x: unsafe { x.as_ptr().add(row * self.inputs) },
                        // SAFETY: as above.
                        y: unsafe { out.y.0.add((base + row) * self.outputs) },
                        add: out.add,
                        panel,
                        panels: group,
                        order,
                    },
                );
                row += take;
                order = match order {
                    Order::First => Order::Second,
                    _ => Order::Later,
                };
            }
            panel += group;
        }
    }

    /// One strip of `MR` rows over its panels, `P` at a time and then one at a time.
    #[inline(always)]
    fn tile<V: simd::Vector, const MR: usize, const NV: usize, const P: usize>(&self, s: Strip) {
        let mut p = 0;
        while p + P <= s.panels {
            // SAFETY: panels `s.panel + p ..` exist, the strip's rows are in bounds.
            unsafe { self.block::<V, MR, NV, P>(&s, s.panel + p) };
            p += P;
        }
        while p < s.panels {
            // SAFETY: as above.
            unsafe { self.block::<V, MR, NV, 1>(&s, s.panel + p) };
            p += 1;
        }
    }

    #[inline(always)]
    unsafe fn block<V: simd::Vector, const MR: usize, const NV: usize, const P: usize>(
        &self,
        s: &Strip,
        panel: usize,
    ) {
        let k = self.inputs;
        // SAFETY: reads stay inside the strip's rows and the panels; writes inside y's columns.
        unsafe {
            let b = self.buffer.as_ptr().add(self.at + panel * k * PANEL);
            // Both lines of a step where only one strip comes; else one each by two strips.
            let next = P * k * PANEL;
            let (low, high) = match s.order {
                Order::Only => (next, next + PANEL / 2),
                Order::First => (next, 0),
                Order::Second => (0, next + PANEL / 2),
                Order::Later => (0, 0),
            };
            let mut acc = [[[V::zero(); NV]; P]; MR];
            for i in 0..k {
                for p in 0..P {
                    let row = b.add((p * k + i) * PANEL);
                    V::prefetch(row.wrapping_add(low));
                    V::prefetch(row.wrapping_add(high));
                    let mut w = [V::zero(); NV];
                    for (n, w) in w.iter_mut().enumerate() {
                        *w = V::load(row.add(n * V::WIDTH));
                    }
                    for (m, acc) in acc.iter_mut().enumerate() {
                        let a = V::splat(*s.x.add(m * k + i));
                        for n in 0..NV {
                            acc[p][n] = V::fma(a, w[n], acc[p][n]);
                        }
                    }
                }
            }
            for (m, acc) in acc.iter().enumerate() {
                for (p, acc) in acc.iter().enumerate() {
                    let column = (panel + p) * PANEL;
                    let width = PANEL.min(self.outputs - column);
                    let y = s.y.add(m * self.outputs + column);
                    if width == PANEL {
                        for (n, v) in acc.iter().enumerate() {
                            let y = y.add(n * V::WIDTH);
                            if s.add { V::add(*v, V::load(y)) } else { *v }.store(y);
                        }
                    } else {
                        let mut edge = [0.0f32; PANEL];
                        for (n, v) in acc.iter().enumerate() {
                            v.store(edge.as_mut_ptr().add(n * V::WIDTH));
                        }
                        for (i, v) in edge[..width].iter().enumerate() {
                            *y.add(i) = if s.add { *y.add(i) + v } else { *v };
                        }
                    }
                }
            }
        }
    }
}

/// Rows of x and y, and the panels to multiply them with.
#[derive(Clone, Copy)]
struct Strip {
    rows: usize,
    x: *const f32,
    y: *mut f32,
    add: bool,
    panel: usize,
    panels: usize,
    order: Order,
}

/// When a strip reads its panels: while it works on these it brings the next ones nearer, so that the
/// strips after it need not wait. The first two share that between them.
#[derive(Clone, Copy)]
enum Order {
    Only,
    First,
    Second,
    Later,
}

/// Where products go.
#[derive(Clone, Copy)]
struct Target {
    y: Shared,
    add: bool,
}

impl Strip {
    fn part(self, from: usize, rows: usize, inputs: usize, outputs: usize) -> Strip {
        Strip {
            rows,
            // SAFETY: `from + rows` is at most the strip's own rows.
            x: unsafe { self.x.add(from * inputs) },
            // SAFETY: as above.
            y: unsafe { self.y.add(from * outputs) },
            ..self
        }
    }
}

mod simd {
    /// A vector of f32 lanes.
    pub(super) trait Vector: Copy {
        const WIDTH: usize;
        fn zero() -> Self;
        fn splat(x: f32) -> Self;
        unsafe fn load(p: *const f32) -> Self;
        unsafe fn store(self, p: *mut f32);
        /// Brings a line into the second-level cache; any address is allowed.
        fn prefetch(p: *const f32);
        /// a · b + c, rounded once.
        fn fma(a: Self, b: Self, c: Self) -> Self;
        fn add(a: Self, b: Self) -> Self;
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;

        macro_rules! vector {
            ($name:ident, $inner:ty, $width:expr, $zero:ident, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident) => {
                #[derive(Clone, Copy)]
                pub(in super::super) struct $name($inner);
                // SAFETY (all): constructed only inside functions that enable the instructions.
                impl super::Vector for $name {
                    const WIDTH: usize = $width;
                    #[inline(always)]
                    fn zero() -> Self {
                        // SAFETY: see above.
                        $name(unsafe { $zero() })
                    }
                    #[inline(always)]
                    fn splat(x: f32) -> Self {
                        // SAFETY: see above.
                        $name(unsafe { $splat(x) })
                    }
                    #[inline(always)]
                    unsafe fn load(p: *const f32) -> Self {
                        // SAFETY: the caller's pointer is in bounds.
                        $name(unsafe { $load(p) })
                    }
                    #[inline(always)]
                    unsafe fn store(self, p: *mut f32) {
                        // SAFETY: the caller's pointer is in bounds.
                        unsafe { $store(p, self.0) }
                    }
                    #[inline(always)]
                    fn prefetch(p: *const f32) {
                        // SAFETY: a prefetch never faults.
                        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
                    }
                    #[inline(always)]
                    fn fma(a: Self, b: Self, c: Self) -> Self {
                        // SAFETY: see above.
                        $name(unsafe { $fma(a.0, b.0, c.0) })
                    }
                    #[inline(always)]
                    fn add(a: Self, b: Self) -> Self {
                        // SAFETY: see above.
                        $name(unsafe { $add(a.0, b.0) })
                    }
                }
            };
        }
        // One line each, so that the nine names can be compared.
        #[rustfmt::skip]
        vector!(V4, __m512, 16, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps, _mm512_add_ps);
        #[rustfmt::skip]
        vector!(V3, __m256, 8, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps, _mm256_add_ps);
    }
    #[cfg(target_arch = "x86_64")]
    pub(super) use x86::{V3, V4};

    #[derive(Clone, Copy)]
    pub(super) struct Plain(f32);
    impl Vector for Plain {
        const WIDTH: usize = 1;
        #[inline(always)]
        fn zero() -> Self {
            Plain(0.0)
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            Plain(x)
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the caller's pointer is in bounds.
            Plain(unsafe { *p })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: the caller's pointer is in bounds.
            unsafe { *p = self.0 }
        }
        #[inline(always)]
        fn prefetch(_: *const f32) {}
        #[inline(always)]
        fn fma(a: Self, b: Self, c: Self) -> Self {
            Plain(a.0.mul_add(b.0, c.0))
        }
        #[inline(always)]
        fn add(a: Self, b: Self) -> Self {
            Plain(a.0 + b.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In order over k, one fused multiply-add each: the definition, bit for bit.
    fn slow(w: &[f32], k: usize, x: &[f32]) -> Vec<f32> {
        x.chunks(k)
            .flat_map(|row| {
                w.chunks(k).map(move |w| {
                    row.iter()
                        .zip(w)
                        .fold(0.0f32, |sum, (a, b)| a.mul_add(*b, sum))
                })
            })
            .collect()
    }

    #[test]
    fn every_path_gives_the_bits_of_the_definition() {
        for (k, n) in [(5, 3), (48, 33), (64, 200), (172, 512)] {
            let w = crate::weights::normal(n * k, 1.0, 1);
            let source = |parts| Source { inputs: k, parts };
            let sources = [source(vec![&w[..k]]), source(vec![&w[..k], &w[k..]])];
            let packed = &Packed::all(&sources)[1];
            for rows in [1, 2, 3, 7, 8, 64, 131] {
                let x = crate::weights::normal(rows * k, 1.0, 2);
                let want = slow(&w, k, &x);
                let mut y = vec![0.0; rows * n];
                Crew::gather(|crew| packed.apply(crew, &x, &mut y, false));
                assert_eq!(y, want, "k {k} n {n} rows {rows}");
                let mut added = y.clone();
                packed.apply(&Crew::ALONE, &x, &mut added, true);
                assert!(added.iter().zip(&want).all(|(a, w)| *a == w + w), "added");
                let shared = Target {
                    y: Shared(y.as_mut_ptr()),
                    add: false,
                };
                packed.panels_any(&x, rows.min(ROWS), 0, n.div_ceil(PANEL), 0, shared);
                assert_eq!(y, want, "portable");
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: just asked.
                    unsafe {
                        packed.panels_v3(&x, rows.min(ROWS), 0, n.div_ceil(PANEL), 0, shared)
                    };
                    assert_eq!(y, want, "avx2");
                }
            }
        }
    }
}
