//! Norms, activations and softmax parts: sixteen lanes, then a fixed tree.

use super::multiversion;

const LANES: usize = 16;

#[inline(always)]
fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// eˣ to about two units in the last place for x ≤ 88; below −87 it is 0. Cephes' range reduction
/// and polynomial (public domain constants), without a branch so that it vectorizes.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.3);
    // Rounded to the nearest integer by a number whose last bit is worth 1: its low bits are then that
    // integer. A cast would saturate, lane by lane.
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³
    let rounded = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = rounded - MAGIC;
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 0.166_666_66);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // Within an exponent: n is within ±127 by the clamp.
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { y * scale }
}

multiversion! {
    /// 1/√(mean(x²) + eps).
    pub(crate) fn rms(x: &[f32], eps: f32) -> f32 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut sum = [0.0f32; LANES];
        for c in chunks {
            for i in 0..LANES {
                sum[i] = c[i].mul_add(c[i], sum[i]);
            }
        }
        for (i, v) in rest.iter().enumerate() {
            sum[i] = v.mul_add(*v, sum[i]);
        }
        1.0 / (tree(sum) / x.len() as f32 + eps).sqrt()
    }
}

multiversion! {
    /// out = x · inv · weight.
    pub(crate) fn rms_norm(x: &[f32], weight: &[f32], inv: f32, out: &mut [f32]) {
        for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
            *o = (v * inv) * w;
        }
    }
}

multiversion! {
    /// a += b.
    pub(crate) fn add_assign(a: &mut [f32], b: &[f32]) {
        for (x, y) in a.iter_mut().zip(b) {
            *x += y;
        }
    }
}

multiversion! {
    /// x *= by.
    pub(crate) fn scale(x: &mut [f32], by: f32) {
        for v in x.iter_mut() {
            *v *= by;
        }
    }
}

multiversion! {
    /// out = gate · σ(gate) · up.
    pub(crate) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            *o = g / (1.0 + exp(-g)) * u;
        }
    }
}

multiversion! {
    /// The largest value; −∞ for none.
    pub(crate) fn max_of(x: &[f32]) -> f32 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut m = [f32::NEG_INFINITY; LANES];
        for c in chunks {
            for i in 0..LANES {
                m[i] = if c[i] > m[i] { c[i] } else { m[i] };
            }
        }
        let mut best = f32::NEG_INFINITY;
        for v in m.iter().chain(rest) {
            if *v > best {
                best = *v;
            }
        }
        best
    }
}

multiversion! {
    /// Replaces x by e^(x − max) and returns the sum.
    pub(crate) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
        let (chunks, rest) = x.as_chunks_mut::<LANES>();
        let mut sum = [0.0f32; LANES];
        for c in chunks {
            for i in 0..LANES {
                c[i] = exp(c[i] - max);
                sum[i] += c[i];
            }
        }
        for (i, v) in rest.iter_mut().enumerate() {
            *v = exp(*v - max);
            sum[i] += *v;
        }
        tree(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870..880 {
            let x = i as f32 / 10.0 + 0.037;
            let want = f64::from(x).exp();
            if want > 1e-37 && x < 88.0 {
                worst = worst.max((f64::from(exp(x)) / want - 1.0).abs());
            }
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn rms_and_softmax_parts_agree_with_f64() {
        let x: Vec<f32> = (0..61).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 61.0;
        assert!((f64::from(rms(&x, 1e-5)) - 1.0 / (mean + 1e-5).sqrt()).abs() < 1e-6);
        let mut y = x.clone();
        let max = max_of(&x);
        let sum = exp_sum(&mut y, max);
        let want: f64 = x.iter().map(|v| f64::from(v - max).exp()).sum();
        assert!((f64::from(sum) / want - 1.0).abs() < 1e-6);
    }
}
