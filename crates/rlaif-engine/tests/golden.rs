//! The engine against PyTorch, transformers and PEFT (`tests/golden/engine/make.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif_core::Sampling;
use rlaif_engine::{
    AdamW, Adapter, Batch, Cache, Inference, Job, LlamaConfig, Options, Outputs, RopeScaling,
    Scheduler, Sequence, Tuner, Weights, Work,
};
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn golden() -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder("golden.json")).unwrap()).unwrap()
}

fn list(v: &Value) -> Vec<f32> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_u64().unwrap() as u32)
        .collect()
}

fn load(name: &str) -> (LlamaConfig, Arc<Weights>) {
    let c = LlamaConfig::read(&folder(name)).unwrap();
    let w = Arc::new(Weights::read(&folder(name), &c).unwrap());
    (c, w)
}

fn outputs(c: &LlamaConfig, w: &Arc<Weights>, tokens: &[u32]) -> Vec<f32> {
    let m = Inference::new(c, w, tokens.len());
    let mut cache = Cache::new(c, 1 << 24);
    let mut sequence = Sequence::default();
    assert!(cache.reserve(&mut sequence, tokens.len()));
    let work = Work {
        sequence: &mut sequence,
        tokens,
        want: tokens.len(),
    };
    m.forward(&mut cache, &mut [work]).unwrap()
}

fn near(got: &[f32], want: &[f32], by: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            (a - b).abs() <= by * (1.0 + b.abs()),
            "{what}[{i}]: {a}, expected {b}"
        );
    }
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    let g = golden();
    let tokens = ids(&g["ids"]);
    for name in ["tied", "llama3", "bf16"] {
        let (c, w) = load(name);
        let all = outputs(&c, &w, &tokens);
        let rows: Vec<f32> = [0, 7, 31, 59]
            .iter()
            .flat_map(|r| all[r * 83..(r + 1) * 83].to_vec())
            .collect();
        near(&rows, &list(&g[name]["logits"]), 1e-4, name);
        let job = Job::Sample {
            prompt: tokens[..8].to_vec(),
            sampling: Sampling::greedy(128),
            seed: 0,
            eos: Arc::from([]),
        };
        let done = Scheduler::of(&c, &w, 256, Options::default())
            .run(vec![job])
            .unwrap();
        assert_eq!(done[0].ids, ids(&g[name]["greedy"]), "{name}");
    }
}

#[test]
fn scores_are_those_of_the_sequence_classifier_and_survive_saving() {
    let g = golden();
    let tokens = ids(&g["ids"]);
    let (c, w) = load("reward");
    let all = outputs(&c, &w, &tokens);
    let got: Vec<f32> = [5, 33, 60].iter().map(|n| all[n - 1]).collect();
    near(&got, &list(&g["scores"]), 1e-4, "scores");
    let dir = tempfile::tempdir().unwrap();
    w.write(dir.path(), &c, false).unwrap();
    let again = LlamaConfig::read(dir.path()).unwrap();
    assert_eq!(Weights::read(dir.path(), &again).unwrap(), *w);
}

fn nll(tuner: &mut Tuner, tokens: &[u32]) -> f32 {
    let wanted: Vec<bool> = (0..tokens.len()).map(|i| i >= 10).collect();
    let n = (tokens.len() - 10) as f32;
    let batch = Batch {
        tokens,
        offsets: &[0, tokens.len()],
        wanted: Some(&wanted),
        targets: None,
        temperature: 1.0,
        entropy: false,
    };
    let (out, tape) = tuner.forward(&batch).unwrap();
    let grads = Outputs {
        logprobs: wanted
            .iter()
            .map(|w| if *w { -1.0 / n } else { 0.0 })
            .collect(),
        ..Outputs::default()
    };
    tuner.backward(tape, &grads);
    -out.logprobs.iter().sum::<f32>() / n
}

#[test]
fn gradients_and_twenty_steps_are_those_of_pytorch() {
    let g = golden();
    let tokens = ids(&g["ids"]);
    let (c, w) = load("tied");
    let mut tuner = Tuner::new(c, w, None, 128, AdamW::default());
    nll(&mut tuner, &tokens);
    let gradients = tuner.gradients();
    let want = g["grads"].as_object().unwrap();
    assert_eq!(gradients.len(), want.len());
    for (name, got) in gradients {
        let norm = got.iter().map(|x| x * x).sum::<f32>().sqrt();
        let expected = want[&name]["norm"].as_f64().unwrap() as f32;
        assert!(
            (norm / expected - 1.0).abs() < 1e-3,
            "{name}: {norm} {expected}"
        );
        for (a, b) in got.iter().zip(list(&want[&name]["first"])) {
            assert!((a - b).abs() < 1e-3 * expected, "{name}: {a} {b}");
        }
    }
    tuner.step(0.0).unwrap();
    // A step at rate 0 moved the moments: begin again.
    let (c, w) = load("tied");
    let mut tuner = Tuner::new(c, w, None, 128, AdamW::default());
    for (i, want) in list(&g["adamw"]).into_iter().enumerate() {
        let loss = nll(&mut tuner, &tokens);
        assert!((loss - want).abs() < 1e-3, "step {i}: {loss} {want}");
        tuner.step(3e-3).unwrap();
    }
}

#[test]
fn a_peft_adapter_gives_pefts_logits_merged_and_not() {
    let g = golden();
    let tokens = ids(&g["ids"]);
    let (c, w) = load("tied");
    let adapter = Adapter::read(&folder("adapter"), &c).unwrap();
    let merged = Arc::new(adapter.merge(&w));
    let all = outputs(&c, &merged, &tokens);
    let rows = [&all[..83], &all[59 * 83..]].concat();
    near(&rows, &list(&g["lora"]), 1e-4, "merged");
    let tuner = Tuner::new(c.clone(), w, Some(adapter.clone()), 128, AdamW::default());
    let batch = Batch {
        tokens: &tokens,
        offsets: &[0, 60],
        wanted: None,
        targets: None,
        temperature: 1.0,
        entropy: false,
    };
    let beside = tuner.evaluate(&batch, true).unwrap();
    let whole = Tuner::new(c.clone(), merged, None, 128, AdamW::default());
    near(
        &beside.logprobs,
        &whole.evaluate(&batch, true).unwrap().logprobs,
        1e-4,
        "beside",
    );
    let dir = tempfile::tempdir().unwrap();
    adapter.write(dir.path(), "base").unwrap();
    assert_eq!(
        Adapter::read(dir.path(), &c).unwrap().blocks,
        adapter.blocks
    );
}

/// llama.cpp stores Llama 3.1's rotary scaling as a table; the converted folder has the factor, and
/// its logits after 1,500 tokens are those of `transformers` (`tests/golden/engine/gguf_rope.py`,
/// where a factor of 4 moves them by 0.6, and none by 3).
#[test]
fn a_gguf_with_rotary_divisors_gives_the_logits_of_transformers() {
    let text = std::fs::read_to_string(folder("gguf/golden.json")).unwrap();
    let g: Value = serde_json::from_str(&text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    rlaif_engine::convert(&folder("gguf/llama3.gguf"), None, dir.path()).unwrap();
    let c = LlamaConfig::read(dir.path()).unwrap();
    let RopeScaling::Llama3 { factor, .. } = c.rope_scaling else {
        panic!("{:?}", c.rope_scaling);
    };
    assert_eq!(Some(factor), g["factor"].as_f64());
    let w = Arc::new(Weights::read(dir.path(), &c).unwrap());
    let all = outputs(&c, &w, &ids(&g["ids"]));
    near(
        &all[all.len() - c.vocab..],
        &list(&g["logits"]),
        1e-4,
        "gguf",
    );
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let config = std::fs::read_to_string(folder("tied/config.json")).unwrap();
    let weights = std::fs::read(folder("tied/model.safetensors")).unwrap();
    let attempt = || -> String {
        LlamaConfig::read(dir.path())
            .and_then(|c| Weights::read(dir.path(), &c))
            .map(|_| String::new())
            .unwrap_or_else(|e| e.to_string())
    };
    write(
        "config.json",
        config
            .replace("LlamaForCausalLM", "MambaForCausalLM")
            .as_bytes(),
    );
    assert!(attempt().contains("architecture `MambaForCausalLM` is not supported"));
    write("config.json", config.as_bytes());
    assert!(attempt().contains("rlaif convert"));
    for cut in [0, 7, 100, weights.len() - 5] {
        write("model.safetensors", &weights[..cut]);
        assert!(
            attempt().contains("not a complete safetensors file"),
            "{cut}"
        );
    }
    write("model.safetensors", &weights);
    assert_eq!(attempt(), "");
    write(
        "config.json",
        config
            .replace("\"vocab_size\": 83", "\"vocab_size\": 84")
            .as_bytes(),
    );
    assert!(attempt().contains("has shape [83, 32] and config.json says [84, 32]"));
    write("config.json", config.as_bytes());
    let mut nan = weights.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    write("model.safetensors", &nan);
    assert!(attempt().contains("not finite"), "{}", attempt());
    // Bytes changed anywhere: an error or other numbers, never a panic.
    for i in (0..3000).step_by(7) {
        let mut bad = weights.clone();
        bad[i] ^= 0x55;
        write("model.safetensors", &bad);
        attempt();
    }
}

/// Real weights: skipped, saying so, where the shared data is absent.
#[test]
fn stories_260k_gives_its_golden_tokens() {
    let Ok(data) = std::env::var("RLAIF_DATA") else {
        eprintln!("skipped: RLAIF_DATA does not name the data folder");
        return;
    };
    let data = Path::new(&data).join("models");
    let dir = tempfile::tempdir().unwrap();
    rlaif_engine::convert(
        &data.join("stories260K.bin"),
        Some(&data.join("tok512.bin")),
        dir.path(),
    )
    .unwrap();
    let golden: Value = serde_json::from_str(
        &std::fs::read_to_string(data.join("stories260K_golden_greedy.json")).unwrap(),
    )
    .unwrap();
    let c = LlamaConfig::read(dir.path()).unwrap();
    let w = Arc::new(Weights::read(dir.path(), &c).unwrap());
    let want = ids(&golden["ids"]);
    let job = Job::Sample {
        prompt: vec![want[0]],
        sampling: Sampling::greedy(want.len() as u32 - 1),
        seed: 0,
        eos: Arc::from([]),
    };
    let done = Scheduler::of(&c, &w, 512, Options::default())
        .run(vec![job])
        .unwrap();
    assert_eq!(done[0].ids, want[1..]);
    let tokenizer = rlaif_engine::Tokenizer::read(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("Once upon a time", true).unwrap()[0], 1);
    let text = tokenizer.decode(&want).unwrap();
    let expected = golden["text"].as_str().unwrap();
    // The file spells the token of byte 10 by its name.
    assert_eq!(text.trim(), expected.replace("<0x0A>", "\n").trim());
}
