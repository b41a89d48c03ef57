//! Drawing a token from logits.

use rlaif_core::Sampling;
pub use rlaif_core::seed::Stream;

use crate::kernels::{exp_sum, max_of};

/// Index of the largest value, the first among equals.
#[must_use]
pub fn argmax(x: &[f32]) -> usize {
    let best = max_of(x);
    x.iter().position(|v| *v == best).unwrap_or(0)
}

/// log Σ eˣ.
#[must_use]
pub fn log_sum_exp(x: &[f32], scratch: &mut Vec<f32>) -> f32 {
    scratch.clear();
    scratch.extend_from_slice(x);
    let max = max_of(x);
    max + exp_sum(scratch, max).ln()
}

/// Draws a token from `logits` (length V) and returns it with its log-probability under the
/// distribution at the sampling temperature before truncation (at temperature 0, under the
/// untempered one): the number that a training step recomputes. Order of the filters as in
/// `transformers`: temperature, top-k, top-p, min-p.
#[must_use]
pub fn draw(
    logits: &[f32],
    sampling: &Sampling,
    rng: &mut Stream,
    scratch: &mut Vec<f32>,
) -> (u32, f32) {
    if sampling.temperature <= 0.0 {
        let id = argmax(logits);
        return (id as u32, logits[id] - log_sum_exp(logits, scratch));
    }
    let inv = 1.0 / sampling.temperature;
    let tempered: Vec<f32> = logits.iter().map(|x| x * inv).collect();
    let total = log_sum_exp(&tempered, scratch);
    let truncated = sampling.top_k.is_some_and(|k| k > 0)
        || sampling.top_p.is_some_and(|p| p < 1.0)
        || sampling.min_p.is_some_and(|p| p > 0.0);
    let u = rng.unit();
    let id = if truncated {
        draw_truncated(&tempered, scratch, sampling, u)
    } else {
        let mut left = u * f64::from(scratch.iter().sum::<f32>());
        // Rounding may leave a sliver after the last token: it is the last possible one's.
        let mut chosen = argmax(&tempered);
        for (i, p) in scratch.iter().enumerate() {
            if *p > 0.0 {
                chosen = i;
                left -= f64::from(*p);
                if left < 0.0 {
                    break;
                }
            }
        }
        chosen
    };
    (id as u32, tempered[id] - total)
}

/// Draws from what the filters leave. `masses` are the probabilities up to a factor, the best one's
/// being 1.
///
/// Only tokens that may stay are sorted. One of a nucleus has at least (1 − p) / V of the whole: with
/// less, it and all that is rarer would make up less than the 1 − p that is left out.
fn draw_truncated(tempered: &[f32], masses: &[f32], sampling: &Sampling, u: f64) -> usize {
    let descending = |a: &usize, b: &usize| tempered[*b].total_cmp(&tempered[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..tempered.len()).collect();
    if let Some(k) = sampling.top_k.map(|k| k as usize).filter(|k| *k > 0)
        && k < order.len()
    {
        order.select_nth_unstable_by(k - 1, descending);
        // Values equal to the k-th stay, as in transformers.
        let bar = tempered[order[k - 1]];
        order = (0..tempered.len())
            .filter(|i| tempered[*i] >= bar)
            .collect();
    }
    let mass = |i: &usize| f64::from(masses[*i]);
    let total: f64 = order.iter().map(mass).sum();
    let top_p = sampling.top_p.map(f64::from).filter(|p| *p < 1.0);
    let min_p = sampling.min_p.map(f64::from).filter(|p| *p > 0.0);
    let rarest = top_p.map_or(0.0, |p| (1.0 - p) * total / order.len() as f64);
    let rarest = rarest.max(min_p.unwrap_or(0.0));
    order.retain(|i| mass(i) >= rarest);
    order.sort_unstable_by(descending);
    if let Some(p) = top_p {
        let mut before = 0.0;
        let inside = order.iter().take_while(|i| {
            let inside = before < p * total;
            before += mass(i);
            inside
        });
        let keep = inside.count();
        order.truncate(keep.max(1));
    }
    let mut left = u * order.iter().map(mass).sum::<f64>();
    for i in &order {
        left -= mass(i);
        if left < 0.0 {
            return *i;
        }
    }
    order.last().copied().unwrap_or_else(|| argmax(tempered))
}

#[cfg(test)]
mod tests {
    use rlaif_core::seed;

    use super::*;

    fn share(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let mut scratch = Vec::new();
        for i in 0..40_000 {
            let mut rng = Stream::new(seed::derive(7, &[&i.to_string()]));
            counts[draw(logits, sampling, &mut rng, &mut scratch).0 as usize] += 1.0 / 40_000.0;
        }
        counts
    }

    #[test]
    fn frequencies_follow_the_filters() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let z: f64 = logits.iter().map(|x: &f32| f64::from(*x).exp()).sum();
        let plain = share(&Sampling::default(), &logits);
        for (got, x) in plain.iter().zip(logits) {
            assert!((got - f64::from(x).exp() / z).abs() < 0.01);
        }
        let top_k = Sampling {
            top_k: Some(2),
            ..Sampling::default()
        };
        assert!((share(&top_k, &logits)[0] - 1.0 / (1.0 + (-1f64).exp())).abs() < 0.01);
        // 0.644 is the first's share: 0.6 keeps it alone, 0.7 two, as transformers does.
        let top_p = |p| Sampling {
            top_p: Some(p),
            ..Sampling::default()
        };
        assert_eq!(share(&top_p(0.6), &logits)[0].round(), 1.0);
        assert!(share(&top_p(0.7), &logits)[1] > 0.2);
        assert_eq!(share(&top_p(0.7), &logits)[2], 0.0);
        let min_p = Sampling {
            min_p: Some(0.2),
            ..Sampling::default()
        };
        assert_eq!(share(&min_p, &logits)[2], 0.0);
        assert!(share(&min_p, &logits)[1] > 0.2);
    }

    /// Sorting what may stay alone draws what sorting everything does.
    #[test]
    fn a_nucleus_is_that_of_the_whole_sorted_distribution() {
        for case in 0..300u64 {
            let mut rng = Stream::new(seed::derive(11, &[&case.to_string()]));
            let n = 2 + (rng.unit() * 60.0) as usize;
            let spread = 8.0 * rng.unit();
            // Some equal values: ties go to the first.
            let logits: Vec<f32> = (0..n)
                .map(|_| ((rng.unit() * spread * 4.0).round() / 4.0) as f32)
                .collect();
            let p = 0.05 + 0.9 * rng.unit();
            let sampling = Sampling {
                top_p: Some(p as f32),
                min_p: (case % 3 == 0).then_some(0.1),
                top_k: (case % 4 == 0).then_some(5),
                ..Sampling::default()
            };
            let mut masses = Vec::new();
            assert!(log_sum_exp(&logits, &mut masses).is_finite());
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
            if sampling.top_k.is_some() {
                let bar = logits[order[4.min(n - 1)]];
                order.retain(|i| logits[*i] >= bar);
            }
            let total: f64 = order.iter().map(|i| f64::from(masses[*i])).sum();
            let p = f64::from(p as f32);
            let mut before = 0.0;
            order.retain(|i| {
                let inside = before < p * total;
                before += f64::from(masses[*i]);
                inside
            });
            if sampling.min_p.is_some() {
                order.retain(|i| f64::from(masses[*i]) >= f64::from(0.1f32));
            }
            let whole: f64 = order.iter().map(|i| f64::from(masses[*i])).sum();
            for u in [0.0, 0.3, 0.7, 0.999] {
                let mut left = u * whole;
                let wanted = order.iter().find(|i| {
                    left -= f64::from(masses[**i]);
                    left < 0.0
                });
                let drawn = draw_truncated(&logits, &masses, &sampling, u);
                assert_eq!(Some(&drawn), wanted, "case {case}, u {u}");
            }
        }
    }

    #[test]
    fn the_log_probability_is_that_of_the_tempered_distribution() {
        let logits = [0.3f32, -0.2, 1.4];
        let sampling = Sampling {
            temperature: 0.5,
            ..Sampling::default()
        };
        let (id, lp) = draw(&logits, &sampling, &mut Stream::new(3), &mut Vec::new());
        let z: f64 = logits.iter().map(|x| (f64::from(*x) * 2.0).exp()).sum();
        let want = f64::from(logits[id as usize]) * 2.0 - z.ln();
        assert!((f64::from(lp) - want).abs() < 1e-6);
    }
}
