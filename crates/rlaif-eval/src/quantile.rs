//! Quantiles: of the standard normal distribution, and of a sample.

use crate::error::{Result, all_valid, at_least};

/// Quantile function of the standard normal distribution, Φ⁻¹(p), for p in (0, 1); `None` outside.
///
/// Source: Wichura 1988, algorithm AS 241 (`PPND16`), relative error about 1e-16.
#[must_use]
pub fn normal_quantile(p: f64) -> Option<f64> {
    const A: [f64; 8] = [
        3.387_132_872_796_366_5,
        133.141_667_891_784_38,
        1_971.590_950_306_551_3,
        13_731.693_765_509_46,
        45_921.953_931_549_87,
        67_265.770_927_008_7,
        33_430.575_583_588_13,
        2_509.080_928_730_122_7,
    ];
    const B: [f64; 8] = [
        1.0,
        42.313_330_701_600_91,
        687.187_007_492_057_9,
        5_394.196_021_424_751,
        21_213.794_301_586_597,
        39_307.895_800_092_71,
        28_729.085_735_721_943,
        5_226.495_278_852_545,
    ];
    const C: [f64; 8] = [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        0.241_780_725_177_450_6,
        0.022_723_844_989_269_184,
        7.745_450_142_783_414e-4,
    ];
    const D: [f64; 8] = [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        0.689_767_334_985_1,
        0.148_103_976_427_480_08,
        0.015_198_666_563_616_457,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ];
    const E: [f64; 8] = [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        0.296_560_571_828_504_87,
        0.026_532_189_526_576_124,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ];
    const F: [f64; 8] = [
        1.0,
        0.599_832_206_555_887_9,
        0.136_929_880_922_735_8,
        0.014_875_361_290_850_615,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ];
    let poly = |coefficients: &[f64; 8], x: f64| {
        coefficients
            .iter()
            .rev()
            .fold(0.0, |sum, coefficient| sum * x + coefficient)
    };
    if !(p > 0.0 && p < 1.0) {
        return None;
    }
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return Some(q * poly(&A, r) / poly(&B, r));
    }
    let r = (-(if q < 0.0 { p } else { 1.0 - p }).ln()).sqrt();
    let x = if r <= 5.0 {
        poly(&C, r - 1.6) / poly(&D, r - 1.6)
    } else {
        poly(&E, r - 5.0) / poly(&F, r - 5.0)
    };
    Some(x.copysign(q))
}

/// Sample quantile by linear interpolation between order statistics (Hyndman and Fan's type 7,
/// NumPy's default).
///
/// With x₀ ≤ … ≤ xₙ₋₁ and h = q (n − 1): (1 − (h − ⌊h⌋)) x_⌊h⌋ + (h − ⌊h⌋) x_⌊h⌋₊₁.
///
/// # Errors
/// No values, a value that is not finite, or `q` outside [0, 1].
///
/// ```
/// // h = 0.25 · 3 = 0.75: three quarters of the way from 1 to 3.
/// assert_eq!(rlaif_eval::quantile::quantile(&[7.0, 1.0, 3.0, 5.0], 0.25), Ok(2.5));
/// ```
pub fn quantile(values: &[f64], q: f64) -> Result<f64> {
    at_least("a quantile", 1, values.len())?;
    all_valid("a quantile", "finite values", values, f64::is_finite)?;
    all_valid("a quantile", "a level in [0, 1]", &[q], |q| {
        (0.0..=1.0).contains(&q)
    })?;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(sorted_quantile(&sorted, q))
}

/// [`quantile`] of finite values that are sorted already; `sorted` is not empty and `q` in [0, 1].
pub(crate) fn sorted_quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len() - 1;
    let h = q * last as f64;
    let below = (h.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (h - below as f64) * (sorted[above] - sorted[below])
}
