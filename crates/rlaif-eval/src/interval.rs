//! Intervals: Wilson's for a share, the percentile bootstrap for anything else.

use std::collections::BTreeMap;

use rlaif_core::seed;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least, same_len};
use crate::quantile::{normal_quantile, sorted_quantile};

/// Confidence of the intervals where the caller names none.
pub const CONFIDENCE: f64 = 0.95;

/// z for [`CONFIDENCE`]: Φ⁻¹(0.975).
const Z_95: f64 = 1.959_963_984_540_054;

/// A share with its 95 % Wilson score interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// How many of `n`.
    pub count: u64,
    /// Out of how many; at least 1.
    pub n: u64,
    /// count / n, in [0, 1].
    pub share: f64,
    /// Lower end, in [0, `share`].
    pub low: f64,
    /// Upper end, in [`share`, 1].
    pub high: f64,
}

impl Proportion {
    /// A share with its 95 % Wilson interval; `None` where `n` is 0 or `count` exceeds it.
    #[must_use]
    pub fn new(count: u64, n: u64) -> Option<Self> {
        wilson_z(count, n, Z_95)
    }

    /// The share of true values among `flags`; `None` where there are none.
    #[must_use]
    pub fn of(flags: impl IntoIterator<Item = bool>) -> Option<Self> {
        let (count, n) = flags
            .into_iter()
            .fold((0, 0), |(count, n), flag| (count + u64::from(flag), n + 1));
        Proportion::new(count, n)
    }
}

/// A share with its Wilson score interval at a chosen confidence.
///
/// With p̂ = count/n and z = Φ⁻¹((1 + confidence)/2):
/// (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n).
/// It stays within [0, 1] and contains p̂, at p̂ = 0 and 1 too, unlike the normal approximation.
///
/// # Errors
/// `n` is 0, `count` exceeds `n`, or `confidence` lies outside (0, 1).
///
/// Source: Wilson 1927; Brown, Cai and DasGupta 2001, §3.1.1.
pub fn wilson(count: u64, n: u64, confidence: f64) -> Result<Proportion> {
    const NAME: &str = "the Wilson interval";
    at_least(NAME, 1, usize::try_from(n).unwrap_or(usize::MAX))?;
    quantile_of_confidence(NAME, confidence).and_then(|z| {
        wilson_z(count, n, z).ok_or(Error::Undefined {
            statistic: NAME,
            reason: "the count exceeds the rows",
        })
    })
}

fn quantile_of_confidence(statistic: &'static str, confidence: f64) -> Result<f64> {
    all_valid(statistic, "a confidence in (0, 1)", &[confidence], |c| {
        c > 0.0 && c < 1.0
    })?;
    normal_quantile((1.0 + confidence) / 2.0).ok_or(Error::Undefined {
        statistic,
        reason: "the confidence rounds to 1",
    })
}

fn wilson_z(count: u64, n: u64, z: f64) -> Option<Proportion> {
    if n == 0 || count > n {
        return None;
    }
    let (size, share) = (n as f64, count as f64 / n as f64);
    let shrink = 1.0 + z * z / size;
    let center = (share + z * z / (2.0 * size)) / shrink;
    let half = z * (share * (1.0 - share) / size + z * z / (4.0 * size * size)).sqrt() / shrink;
    Some(Proportion {
        count,
        n,
        share,
        // Rounding must not push an end past the share at 0 and n, where they coincide.
        low: (center - half).clamp(0.0, share),
        high: (center + half).clamp(share, 1.0),
    })
}

/// Settings of the percentile bootstrap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Share of the replicates between the two ends, in (0, 1).
    pub confidence: f64,
    /// How many samples are drawn; 1,000 is common, the ends of a 95 % interval then vary by a few
    /// hundredths of its width.
    pub replicates: u32,
    /// Seed: the same seed gives the same interval.
    pub seed: u64,
}

impl Bootstrap {
    /// 95 %, 1,000 replicates.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Bootstrap {
            confidence: CONFIDENCE,
            replicates: 1_000,
            seed,
        }
    }
}

/// A percentile bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootstrapInterval {
    /// The statistic on the sample itself.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How many units (items or groups) were drawn for each replicate.
    pub units: usize,
    /// Replicates on which the statistic is defined; the ends are quantiles of these.
    pub replicates: u32,
    /// Replicates on which it is not, such as a resample without a decided row.
    pub undefined: u32,
}

/// Percentile bootstrap over items.
///
/// Each replicate draws `items.len()` items with replacement and computes `statistic`; the ends are
/// the (1 ± confidence)/2 quantiles of the replicates. Items that belong together (several pairs of
/// one prompt) need [`bootstrap_clustered`], else the interval is too narrow.
///
/// `statistic` gives `None` where it is not defined. The result depends on the order of `items`.
///
/// # Errors
/// No items; settings out of range; a statistic that is not defined, or not finite, on the sample
/// itself or on more than half of the replicates.
///
/// Source: Efron and Tibshirani 1993, ch. 13.
pub fn bootstrap<T>(
    items: &[T],
    statistic: impl Fn(&[&T]) -> Option<f64>,
    settings: &Bootstrap,
) -> Result<BootstrapInterval> {
    let units: Vec<Vec<&T>> = items.iter().map(|item| vec![item]).collect();
    resample(&units, statistic, settings)
}

/// Percentile bootstrap over groups: whole groups are drawn with replacement, as many as there are,
/// with all the items of each. `groups[i]` is the group of `items[i]`, such as its prompt.
///
/// Groups are taken in their own order, so that shuffling the rows of *different* groups changes
/// nothing.
///
/// # Errors
/// Those of [`bootstrap`], and lists of different lengths.
///
/// Source: Davison and Hinkley 1997, §3.8 (the first strategy there).
pub fn bootstrap_clustered<T, G: Ord>(
    items: &[T],
    groups: &[G],
    statistic: impl Fn(&[&T]) -> Option<f64>,
    settings: &Bootstrap,
) -> Result<BootstrapInterval> {
    same_len("the clustered bootstrap", items.len(), groups.len())?;
    let mut clusters: BTreeMap<&G, Vec<&T>> = BTreeMap::new();
    for (item, group) in items.iter().zip(groups) {
        clusters.entry(group).or_default().push(item);
    }
    let units: Vec<Vec<&T>> = clusters.into_values().collect();
    resample(&units, statistic, settings)
}

fn resample<T>(
    units: &[Vec<&T>],
    statistic: impl Fn(&[&T]) -> Option<f64>,
    settings: &Bootstrap,
) -> Result<BootstrapInterval> {
    const NAME: &str = "the bootstrap";
    at_least(NAME, 1, units.len())?;
    all_valid(
        NAME,
        "a confidence in (0, 1)",
        &[settings.confidence],
        |c| c > 0.0 && c < 1.0,
    )?;
    all_valid(
        NAME,
        "at least 1 replicate",
        &[f64::from(settings.replicates)],
        |r| r >= 1.0,
    )?;
    let defined = |sample: &[&T]| statistic(sample).filter(|value| value.is_finite());

    let whole: Vec<&T> = units.iter().flatten().copied().collect();
    let value = defined(&whole).ok_or(Error::Undefined {
        statistic: NAME,
        reason: "the statistic has no value on the sample itself",
    })?;
    let mut values = Vec::new();
    let mut sample = Vec::with_capacity(whole.len());
    for replicate in 0..settings.replicates {
        let mut stream = Stream::new(settings.seed, replicate);
        sample.clear();
        for _ in 0..units.len() {
            if let Some(unit) = seed::index(stream.next(), units.len()) {
                sample.extend(units[unit].iter().copied());
            }
        }
        values.extend(defined(&sample));
    }
    if values.len() * 2 < settings.replicates as usize {
        return Err(Error::Undefined {
            statistic: NAME,
            reason: "the statistic has no value on more than half of the replicates",
        });
    }
    values.sort_by(f64::total_cmp);
    let replicates = u32::try_from(values.len()).unwrap_or(u32::MAX);
    Ok(BootstrapInterval {
        value,
        low: sorted_quantile(&values, (1.0 - settings.confidence) / 2.0),
        high: sorted_quantile(&values, (1.0 + settings.confidence) / 2.0),
        units: units.len(),
        replicates,
        undefined: settings.replicates - replicates,
    })
}

/// SplitMix64 (Steele, Lea and Flood 2014): a stream of draws from one derived seed. A hash a draw,
/// as [`seed::derive`] would be, costs a hundred times as much and gives nothing more here.
struct Stream(u64);

impl Stream {
    fn new(run_seed: u64, replicate: u32) -> Self {
        Stream(seed::derive(
            run_seed,
            &["bootstrap", &replicate.to_string()],
        ))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
