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
        draw_truncated(&tempered, sampling, u)
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

fn draw_truncated(tempered: &[f32], sampling: &Sampling, u: f64) -> usize {
    let mut order: Vec<usize> = (0..tempered.len()).collect();
    let descending = |a: &usize, b: &usize| tempered[*b].total_cmp(&tempered[*a]).then(a.cmp(b));
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
    order.sort_unstable_by(descending);
    let best = order.first().map_or(0.0, |i| tempered[*i]);
    let mut weights: Vec<f64> = order
        .iter()
        .map(|i| f64::from(tempered[*i] - best).exp())
        .collect();
    if let Some(p) = sampling.top_p.map(f64::from).filter(|p| *p < 1.0) {
        let total: f64 = weights.iter().sum();
        let mut before = 0.0;
        let keep = weights
            .iter()
            .take_while(|w| {
                let inside = before < p * total;
                before += **w;
                inside
            })
            .count();
        weights.truncate(keep.max(1));
    }
    if let Some(p) = sampling.min_p.map(f64::from).filter(|p| *p > 0.0) {
        let keep = weights.iter().take_while(|w| **w >= p * weights[0]).count();
        weights.truncate(keep.max(1));
    }
    let mut left = u * weights.iter().sum::<f64>();
    for (i, w) in weights.iter().enumerate() {
        left -= w;
        if left < 0.0 {
            return order[i];
        }
    }
    order[weights.len() - 1]
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
