//! Makes the embedded world's two checkpoints: `cargo xtask world`.
//!
//! A tokenizer is trained on the grammar's text; `assistant` learns to answer, with its faults, and
//! to revise; `critic` learns to write critiques and to choose between two responses under a
//! principle. Nothing sealed is seen (see `rlaif-world`). Both are measured on sealed text, and the
//! figures are written beside them. The work goes on from its last checkpoint.

mod data;
mod faults;
mod measure;
mod model;
mod pretrain;
mod tokenizer;

use std::path::Path;
use std::time::Instant;

use rlaif_engine::{LlamaConfig, Tokenizer};
use rlaif_world::World;

use data::{AssistantRows, CriticRows, LESSONS};
use faults::Samples;
use pretrain::{Plan, pretrain};

const HELP: &str = "\
cargo xtask world [--work DIR] [--out DIR] [--only tokenizer|assistant|critic|measure] [--steps SHARE]

  --work   where checkpoints of the making are kept (target/world)
  --out    where the finished models go (crates/rlaif-world/models)
  --steps  share of the full number of steps, for a trial
  --pairs  pairs a condition of the critic's measurement (2000); 0 looks at the assistant only
  --temperature  of the assistant's answers when it is measured (1)";

/// The made models' shape: about two million parameters each.
fn shape(vocab: usize) -> LlamaConfig {
    let mut c = LlamaConfig::new(vocab, 128, 352, 5, 4, 2);
    c.tied = true;
    c.max_positions = 512;
    c.eos = vec![tokenizer::END];
    c.pad = Some(tokenizer::PAD);
    c
}

/// Runs the command.
pub fn run(args: &[&str]) -> Result<(), String> {
    let value = |name: &str| {
        args.iter()
            .position(|a| *a == name)
            .and_then(|i| args.get(i + 1).copied())
    };
    if args.contains(&"--help") {
        return Err(HELP.to_owned());
    }
    let work = Path::new(value("--work").unwrap_or("target/world"));
    let out = Path::new(value("--out").unwrap_or("crates/rlaif-world/models"));
    let number = |name: &str, default: f64| {
        value(name).map_or(Ok(default), |v| {
            v.parse::<f64>().map_err(|e| format!("{name}: {e}"))
        })
    };
    let share = number("--steps", 1.0)?;
    let scaled = |steps: u64| (steps as f64 * share) as u64;
    let only = value("--only");
    let wants = |part: &str| only.is_none_or(|o| o == part);
    let world = World::load()?;
    let begun = Instant::now();
    let names = ["assistant", "critic"];
    if wants("tokenizer") || !out.join("critic/tokenizer.json").is_file() {
        let trained = tokenizer::train(world)?;
        for name in names {
            tokenizer::write(&trained, &out.join(name))?;
        }
    }
    let read = |name: &str| Tokenizer::read(&out.join(name)).map_err(|e| e.to_string());
    if wants("assistant") {
        let words = read("assistant")?;
        let plan = Plan {
            name: "assistant",
            config: shape(tokenizer::padded(words.len())),
            from: None,
            steps: scaled(3_000),
            rate: 2e-3,
            work: work.join("assistant"),
            out: out.join("assistant"),
        };
        pretrain(&plan, &AssistantRows::new(world, words)?)?;
    }
    if wants("critic") {
        let config = shape(tokenizer::padded(read("critic")?.len()));
        let mut from = None;
        let mut samples = Samples::default();
        for (at, lesson) in LESSONS.iter().enumerate() {
            let plan = Plan {
                name: lesson.name,
                config: config.clone(),
                from,
                steps: scaled(lesson.steps),
                rate: lesson.rate,
                work: work.join(lesson.name),
                out: if at + 1 == LESSONS.len() {
                    out.join("critic")
                } else {
                    work.join(format!("{}-done", lesson.name))
                },
            };
            if samples.is_empty() && lesson.sampled > 0.0 {
                samples = Samples::of(world, &out.join("assistant"))?;
            }
            let rows = CriticRows::new(world, read("critic")?, lesson, &samples)?;
            // Where it was finished before, this only writes it again.
            pretrain(&plan, &rows)?;
            from = Some(plan.out);
        }
    }
    if wants("measure") {
        let pairs = number("--pairs", 2_000.0)? as usize;
        measure::measure(world, out, pairs, number("--temperature", 1.0)? as f32)?;
    }
    println!("made in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}
