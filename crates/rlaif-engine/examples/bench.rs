//! One side of `benchmarks/engine/run.py`: prints one JSON object for a task on a model folder.
//!
//!     bench train|decode FOLDER BATCH LENGTH REPEATS
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a script's driver

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rlaif_core::Sampling;
use rlaif_engine::{AdamW, Batch, Job, LlamaConfig, Options, Outputs, Scheduler, Tuner, Weights};

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
        _ => {
            let prompts: Vec<Vec<u32>> = (0..batch)
                .map(|b| (0..16 + b * 37 % 48).map(|i| token(b * 100 + i)).collect())
                .collect();
            // Packed once, as a server would.
            let mut s = Scheduler::of(
                &c,
                &w,
                64 + length,
                Options {
                    retained: 0,
                    ..Options::default()
                },
            );
            for _ in 0..repeats {
                let jobs = prompts
                    .iter()
                    .map(|p| Job::Sample {
                        prompt: p.clone(),
                        sampling: Sampling::greedy(length as u32),
                        seed: 0,
                        eos: Arc::from([]),
                    })
                    .collect();
                let begun = Instant::now();
                let done = s.run(jobs).unwrap();
                times.push(begun.elapsed().as_secs_f64());
                first = done
                    .iter()
                    .map(|d| d.ids.iter().sum::<u32>() as f32)
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
