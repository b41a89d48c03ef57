//! One side of `benchmarks/engine/run.py`: prints one JSON object for a task on a model folder.
//!
//!     bench train|decode|stops|judge FOLDER BATCH LENGTH REPEATS
//!
//! `stops`: each row ends at a length of its own, geometric with mean 40 as far as LENGTH. `judge`: BATCH
//! questions behind a preamble of LENGTH tokens, the log-probabilities of two answers to each.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a script's driver

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rlaif_core::Sampling;
use rlaif_engine::{
    AdamW, Batch, Inference, Job, LlamaConfig, Options, Outputs, Scheduler, Tuner, Weights,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let folder = Path::new(&args[2]);
    let number = |i: usize| args[i].parse::<usize>().unwrap();
    let (batch, length, repeats) = (number(3), number(4), number(5));
    let c = LlamaConfig::read(folder).unwrap();
    let w = Arc::new(Weights::read(folder, &c).unwrap());
    let token = |i: usize| ((i * 7919 + i / 13) % (c.vocab - 3) + 3) as u32;
    let mut times = Vec::new();
    let mut first = Vec::new();
    match args[1].as_str() {
        "train" => {
            let mut tuner = Tuner::new(c.clone(), w, None, length, AdamW::default());
            let tokens: Vec<u32> = (0..batch * length).map(token).collect();
            let offsets: Vec<usize> = (0..=batch).map(|b| b * length).collect();
            let n = (batch * (length - 1)) as f32;
            for _ in 0..repeats {
                let begun = Instant::now();
                let b = Batch {
                    tokens: &tokens,
                    offsets: &offsets,
                    wanted: None,
                    targets: None,
                    temperature: 1.0,
                    entropy: false,
                };
                let (out, tape) = tuner.forward(&b).unwrap();
                let grads = Outputs {
                    logprobs: vec![-1.0 / n; out.logprobs.len()],
                    ..Outputs::default()
                };
                first.push(-out.logprobs.iter().sum::<f32>() / n);
                tuner.backward(tape, &grads);
                tuner.step(1e-3).unwrap();
                times.push(begun.elapsed().as_secs_f64());
            }
        }
        kind => {
            let judged = kind == "judge";
            let prompts: Vec<Vec<u32>> = (0..batch)
                .map(|b| {
                    let own = if judged {
                        100 + b * 37 % 100
                    } else {
                        16 + b * 37 % 48
                    };
                    let shared = (0..if judged { length } else { 0 }).map(token);
                    shared
                        .chain((0..own).map(|i| token(b * 100 + i + 7)))
                        .collect()
                })
                .collect();
            let most = |b: usize| {
                if kind == "stops" {
                    let u = (b as f64 * 0.618_033_988_749_895).fract();
                    ((1.0 - u).ln() / (1.0f64 - 1.0 / 40.0).ln())
                        .ceil()
                        .clamp(1.0, length as f64)
                } else {
                    length as f64
                }
            };
            let positions = if judged { length + 200 } else { 64 + length };
            // Packed once, as a server would; nothing is kept from one repetition for the next.
            let model = Arc::new(Inference::new(&c, &w, positions));
            for _ in 0..repeats {
                let mut s = Scheduler::new(Arc::clone(&model), Options::default());
                let jobs = (0..batch)
                    .map(|b| match judged {
                        true => Job::Score {
                            prompt: prompts[b].clone(),
                            continuation: vec![],
                            first: vec![5, 6],
                        },
                        false => Job::Sample {
                            prompt: prompts[b].clone(),
                            sampling: Sampling::greedy(most(b) as u32),
                            seed: 0,
                            eos: Arc::from([]),
                        },
                    })
                    .collect();
                let begun = Instant::now();
                let done = s.run(jobs).unwrap();
                times.push(begun.elapsed().as_secs_f64());
                first = done
                    .iter()
                    .map(|d| match judged {
                        true => d.first[0] - d.first[1],
                        false => d.ids.iter().sum::<u32>() as f32,
                    })
                    .collect();
            }
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak: u64 = status
        .lines()
        .find(|l| l.starts_with("VmHWM"))
        .and_then(|l| l.split_whitespace().nth(1))
        .map_or(0, |k| k.parse().unwrap());
    println!("{{\"times\": {times:?}, \"peak_kib\": {peak}, \"check\": {first:?}}}");
}
