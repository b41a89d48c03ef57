//! Calibration: how far probabilities are to be taken at their word.
//!
//! Notation: pᵢ in [0, 1] is the probability given to an event, yᵢ in {0, 1} whether it came true,
//! i = 1 … N.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, all_valid, at_least, same_len};
use crate::exact::Exact;
use crate::interval::Proportion;
use crate::quantile::sorted_quantile;

fn check(statistic: &'static str, p: &[f64], happened: &[bool]) -> Result<()> {
    same_len(statistic, p.len(), happened.len())?;
    at_least(statistic, 1, p.len())?;
    all_valid(statistic, "probabilities in [0, 1]", p, |p| {
        (0.0..=1.0).contains(&p)
    })
}

fn indicator(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

/// Brier score: (1/N) Σ (pᵢ − yᵢ)², in [0, 1], lower is better; a coin's is 0.25.
///
/// # Errors
/// No rows, lists of different lengths, a value outside [0, 1].
///
/// Source: Brier 1950, in the one-event form that scikit-learn uses (half of the original).
pub fn brier(p: &[f64], happened: &[bool]) -> Result<f64> {
    check("the Brier score", p, happened)?;
    let sum: f64 = p.iter().zip(happened).map(|(p, &y)| square(*p, y)).sum();
    Ok(sum / p.len() as f64)
}

/// (p − y)².
pub(crate) fn square(p: f64, happened: bool) -> f64 {
    (p - indicator(happened)).powi(2)
}

/// Logarithmic loss in nats: −(1/N) Σ [yᵢ ln pᵢ + (1 − yᵢ) ln(1 − pᵢ)], lower is better; a coin's is
/// ln 2.
///
/// Probabilities are first clipped to [ε, 1 − ε], ε = 2⁻⁵², so that one certain error costs 36
/// nats and not infinity (scikit-learn does the same).
///
/// # Errors
/// No rows, lists of different lengths, a value outside [0, 1].
pub fn log_loss(p: &[f64], happened: &[bool]) -> Result<f64> {
    check("the log loss", p, happened)?;
    let sum: f64 = p.iter().zip(happened).map(|(p, &y)| surprise(*p, y)).sum();
    Ok(sum / p.len() as f64)
}

/// What one row adds to the log loss, in nats.
pub(crate) fn surprise(p: f64, happened: bool) -> f64 {
    let p = p.clamp(f64::EPSILON, 1.0 - f64::EPSILON);
    if happened { -p.ln() } else { -(1.0 - p).ln() }
}

/// How probabilities are put into bins. Both need at least one bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "bins")]
pub enum Binning {
    /// Bins of equal width over [0, 1] (Guo et al. 2017, eq. 2).
    EqualWidth(usize),
    /// Bins with about equally many rows: the edges are quantiles of p (Nixon et al. 2019). Rows
    /// of equal probability share a bin, so a bin may be larger than its fellows, or empty.
    EqualMass(usize),
}

/// One bin of a reliability diagram; it holds the rows with `low` < p ≤ `high`, the first bin those
/// with p = `low` too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Lower edge, exclusive but for the first bin.
    pub low: f64,
    /// Upper edge, inclusive.
    pub high: f64,
    /// Mean probability of its rows, in [0, 1].
    pub mean_p: f64,
    /// Share of its rows where the event came true, with its Wilson interval.
    pub happened: Proportion,
}

/// The bins of a reliability diagram, rising; bins without rows are left out.
///
/// # Errors
/// No rows, no bins, lists of different lengths, a value outside [0, 1].
///
/// Source: as scikit-learn's `calibration_curve` (`uniform` and `quantile`).
pub fn reliability(p: &[f64], happened: &[bool], binning: Binning) -> Result<Vec<ReliabilityBin>> {
    const NAME: &str = "the reliability diagram";
    check(NAME, p, happened)?;
    let (Binning::EqualWidth(bins) | Binning::EqualMass(bins)) = binning;
    if bins == 0 {
        return Err(Error::Undefined {
            statistic: NAME,
            reason: "it has no bins",
        });
    }
    let at = |i: usize| i as f64 / bins as f64;
    let edges: Vec<f64> = match binning {
        Binning::EqualWidth(_) => (0..=bins).map(at).collect(),
        Binning::EqualMass(_) => {
            let mut sorted = p.to_vec();
            sorted.sort_by(f64::total_cmp);
            (0..=bins)
                .map(|i| sorted_quantile(&sorted, at(i)))
                .collect()
        }
    };
    let mut bins = Bins::new(edges);
    for (&p, &y) in p.iter().zip(happened) {
        bins.add(p, y);
    }
    Ok(bins.reliability())
}

/// Bins that rows are added to one at a time; their order changes nothing.
#[derive(Clone, Debug)]
pub(crate) struct Bins {
    edges: Vec<f64>,
    sums: Vec<(Exact, u64, u64)>,
}

impl Bins {
    /// One bin fewer than edges, of which there are two at least.
    fn new(edges: Vec<f64>) -> Self {
        Bins {
            sums: vec![(Exact::default(), 0, 0); edges.len().saturating_sub(1)],
            edges,
        }
    }

    /// So many of equal width over [0, 1].
    pub(crate) fn equal_width(bins: usize) -> Self {
        Bins::new((0..=bins).map(|i| i as f64 / bins as f64).collect())
    }

    pub(crate) fn add(&mut self, p: f64, happened: bool) {
        // Interior edges below p: a value on an edge belongs to the bin that ends there.
        let bin = self.edges[1..self.sums.len()].partition_point(|&edge| edge < p);
        let (sum, hits, n) = &mut self.sums[bin];
        sum.add(p);
        *hits += u64::from(happened);
        *n += 1;
    }

    pub(crate) fn reliability(&self) -> Vec<ReliabilityBin> {
        let bins = self.sums.iter().zip(self.edges.windows(2));
        bins.filter_map(|((sum, hits, n), edges)| {
            Some(ReliabilityBin {
                low: edges[0],
                high: edges[1],
                mean_p: sum.value() / *n as f64,
                happened: Proportion::new(*hits, *n)?,
            })
        })
        .collect()
    }
}

/// Expected calibration error: Σ_b (n_b/N) |mean of y in b − mean of p in b|, in [0, 1].
///
/// It depends on the bins, so a report names them. Biased upwards on few rows: 100 rows of a
/// perfectly calibrated judge in 10 bins give about 0.1.
///
/// # Errors
/// Those of [`reliability`].
///
/// Source: Naeini et al. 2015; Guo et al. 2017, eq. 3.
pub fn ece(p: &[f64], happened: &[bool], binning: Binning) -> Result<f64> {
    Ok(error_of(&reliability(p, happened, binning)?))
}

/// The expected calibration error of bins that hold rows.
pub(crate) fn error_of(bins: &[ReliabilityBin]) -> f64 {
    let rows: u64 = bins.iter().map(|bin| bin.happened.n).sum();
    let sum: f64 = bins
        .iter()
        .map(|bin| bin.happened.n as f64 * (bin.happened.share - bin.mean_p).abs())
        .sum();
    sum / rows as f64
}
