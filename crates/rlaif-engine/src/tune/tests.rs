use super::*;

fn shape(scalar_head: bool, tied: bool) -> LlamaConfig {
    let mut c = LlamaConfig::new(61, 24, 40, 2, 6, 2);
    c.head_dim = 4;
    c.tied = tied;
    c.scalar_head = scalar_head;
    c
}

const OFFSETS: [usize; 4] = [0, 70, 71, 90];

fn tokens() -> Vec<u32> {
    (0..90u32).map(|i| (i * i * 7 + i * 3) % 61).collect()
}

fn batch<'a>(tokens: &'a [u32]) -> Batch<'a> {
    Batch {
        tokens,
        offsets: &OFFSETS,
        wanted: None,
        targets: None,
        temperature: 0.8,
        entropy: true,
    }
}

/// A loss that touches every output: Σ aᵢ·logprobᵢ + bᵢ·entropyᵢ + cᵢ·valueᵢ, in f64.
fn loss(out: &Outputs, grads: &Outputs) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    dot(&out.logprobs, &grads.logprobs)
        + dot(&out.entropy, &grads.entropy)
        + dot(&out.values, &grads.values)
}

fn directions(out: &Outputs) -> Outputs {
    Outputs {
        logprobs: crate::weights::normal(out.logprobs.len(), 0.3, 1),
        entropy: crate::weights::normal(out.entropy.len(), 0.3, 2),
        values: crate::weights::normal(out.values.len(), 0.3, 3),
    }
}

/// Every trainable tensor: the derivative along a random direction by central differences.
fn finite_differences(mut tuner: Tuner) {
    let tokens = tokens();
    let batch = batch(&tokens);
    let (out, tape) = tuner.forward(&batch).unwrap();
    let grads = directions(&out);
    tuner.backward(tape, &grads);
    let analytic = tuner.gradients();
    assert!(!analytic.is_empty());
    for (n, (name, g)) in analytic.iter().enumerate() {
        let direction = crate::weights::normal(g.len(), 1.0, 100 + n as u64);
        let eps = 2e-3f32;
        let mut at = |sign: f32| {
            let mut old = Vec::new();
            assert!(tuner.update(name, |w| {
                old = w.to_vec();
                w.iter_mut()
                    .zip(&direction)
                    .for_each(|(w, d)| *w += sign * eps * d);
            }));
            let value = loss(&tuner.evaluate(&batch, true).unwrap(), &grads);
            tuner.update(name, |w| w.copy_from_slice(&old));
            value
        };
        let numeric = (at(1.0) - at(-1.0)) / (2.0 * f64::from(eps));
        let want: f64 = g
            .iter()
            .zip(&direction)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        let norm: f64 = g.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0, "{name} has no gradient");
        assert!(
            (numeric - want).abs() < 0.01 * norm + 0.02 * want.abs(),
            "{name}: numeric {numeric}, analytic {want}, norm {norm}"
        );
    }
}

#[test]
fn every_weight_has_the_gradient_of_finite_differences() {
    for (scalar, tied) in [(false, true), (false, false), (true, false)] {
        let c = shape(scalar, tied);
        let mut w = Weights::random(&c, 0.15, 4);
        // A language model with a value head beside.
        w.score.get_or_insert_with(|| Matrix {
            rows: 1,
            cols: 24,
            data: crate::weights::normal(24, 0.2, 9),
        });
        let tuner = Tuner::new(c, Arc::new(w), None, 128, AdamW::default());
        finite_differences(tuner);
    }
}

#[test]
fn every_adapter_tensor_has_the_gradient_of_finite_differences() {
    let c = shape(true, false);
    let w = Weights::random(&c, 0.15, 4);
    let adapter = lora::disturbed(&c, &w);
    finite_differences(Tuner::new(
        c,
        Arc::new(w),
        Some(adapter),
        128,
        AdamW::default(),
    ));
}

/// Training's forward pass and inference's agree, and a merged adapter is the adapter.
#[test]
fn training_and_inference_and_merging_agree() {
    let c = shape(false, true);
    let w = Arc::new(Weights::random(&c, 0.2, 8));
    let adapter = lora::disturbed(&c, &w);
    let back = adapter.unmerge(&adapter.merge(&w));
    for (a, b) in back.blocks[1].linear[2]
        .data
        .iter()
        .zip(&w.blocks[1].linear[2].data)
    {
        assert!((a - b).abs() < 1e-6);
    }
    let tuner = Tuner::new(
        c.clone(),
        Arc::clone(&w),
        Some(adapter),
        128,
        AdamW::default(),
    );
    let tokens = tokens();
    let b = Batch {
        temperature: 1.0,
        ..batch(&tokens)
    };
    let merged = Tuner::new(c.clone(), tuner.merged(), None, 128, AdamW::default());
    let base = Tuner::new(c.clone(), w, None, 128, AdamW::default());
    let on = tuner.evaluate(&b, true).unwrap();
    let near = |a: &Outputs, b: &Outputs, by: f32| {
        a.logprobs
            .iter()
            .zip(&b.logprobs)
            .all(|(x, y)| (x - y).abs() < by)
    };
    assert!(near(&on, &merged.evaluate(&b, true).unwrap(), 1e-4));
    assert!(!near(&on, &base.evaluate(&b, true).unwrap(), 1e-2));
    assert_eq!(
        tuner.evaluate(&b, false).unwrap(),
        base.evaluate(&b, true).unwrap()
    );
    let mut s = crate::Scheduler::of(&c, &tuner.merged(), 128, crate::Options::default());
    let job = crate::Job::Score {
        prompt: tokens[..1].to_vec(),
        continuation: tokens[1..70].to_vec(),
        first: vec![],
    };
    let scored = s.run(vec![job]).unwrap();
    for (x, y) in scored[0].logprobs.iter().zip(&on.logprobs[1..70]) {
        assert!((x - y).abs() < 1e-4, "{x} {y}");
    }
}

#[test]
fn steps_go_on_exactly_after_a_restart_and_nan_changes_nothing() {
    let c = shape(false, true);
    let w = Arc::new(Weights::random(&c, 0.2, 8));
    let tokens = tokens();
    let run = |tuner: &mut Tuner, n: usize| {
        for _ in 0..n {
            let (out, tape) = tuner.forward(&batch(&tokens)).unwrap();
            let g = Outputs {
                logprobs: vec![-0.01; out.logprobs.len()],
                ..Outputs::default()
            };
            tuner.backward(tape, &g);
            tuner.step(1e-2).unwrap();
        }
    };
    let mut whole = Tuner::new(c.clone(), Arc::clone(&w), None, 128, AdamW::default());
    run(&mut whole, 4);
    let mut first = Tuner::new(c.clone(), w, None, 128, AdamW::default());
    run(&mut first, 2);
    let dir = tempfile::tempdir().unwrap();
    first.weights().write(dir.path(), &c, false).unwrap();
    first
        .optimizer()
        .write(&dir.path().join("optimizer.safetensors"))
        .unwrap();
    let read = LlamaConfig::read(dir.path()).unwrap();
    let weights = Arc::new(Weights::read(dir.path(), &read).unwrap());
    let mut adam = AdamW::default();
    adam.read(&dir.path().join("optimizer.safetensors"))
        .unwrap();
    let mut second = Tuner::new(read, weights, None, 128, adam);
    run(&mut second, 2);
    assert_eq!(second.weights(), whole.weights());

    let before = Arc::clone(second.weights());
    let (out, tape) = second.forward(&batch(&tokens)).unwrap();
    let g = Outputs {
        logprobs: vec![f32::NAN; out.logprobs.len()],
        ..Outputs::default()
    };
    second.backward(tape, &g);
    let e = second.step(1e-2).unwrap_err().to_string();
    assert!(e.contains("gradient of model."), "{e}");
    assert_eq!(&before, second.weights());
}
