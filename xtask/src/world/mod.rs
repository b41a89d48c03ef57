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

use rlaif_engine::{LlamaConfig, Tokenizer, Weights};
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

/// Writes the mean of two models, one of which was trained from the other (a "soup"; Wortsman et al.
/// 2022).
///
/// The last lesson teaches what to say of matters that nobody has heard of, and unlearns a little of
/// all else: sealed templates 0.951 before it, 0.933 after it, 0.951 half way, where sealed topics
/// have come from 0.890 to 0.938, of 0.958.
fn middle(config: &LlamaConfig, of: [&Path; 2], out: &Path) -> Result<(), String> {
    let read = |folder: &Path| Weights::read(folder, config).map_err(|e| e.to_string());
    let (mut all, other) = (read(of[0])?, read(of[1])?);
    let mean = |a: &mut [f32], b: &[f32]| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = 0.5 * (*a + b));
    };
    mean(&mut all.embed.data, &other.embed.data);
    mean(&mut all.norm, &other.norm);
    for (a, b) in all.blocks.iter_mut().zip(&other.blocks) {
        for (a, b) in a.linear.iter_mut().zip(&b.linear) {
            mean(&mut a.data, &b.data);
        }
        mean(&mut a.input_norm, &b.input_norm);
        mean(&mut a.post_norm, &b.post_norm);
    }
    all.write(out, config, true).map_err(|e| e.to_string())
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
        let (mut before, mut from) = (None, None);
        let mut samples = Samples::default();
        for lesson in &LESSONS {
            let plan = Plan {
                name: lesson.name,
                config: config.clone(),
                from: from.clone(),
                steps: scaled(lesson.steps),
                rate: lesson.rate,
                work: work.join(lesson.name),
                out: work.join(format!("{}-done", lesson.name)),
            };
            if !plan.is_finished()? {
                if samples.is_empty() && lesson.sampled > 0.0 {
                    samples = Samples::of(world, &out.join("assistant"))?;
                }
                let rows = CriticRows::new(world, read("critic")?, lesson, &samples)?;
                pretrain(&plan, &rows)?;
            }
            before = from.replace(plan.out);
        }
        if let (Some(before), Some(after)) = (before, from) {
            middle(&config, [&before, &after], &out.join("critic"))?;
        }
    }
    if wants("measure") {
        let pairs = number("--pairs", 2_000.0)? as usize;
        measure::measure(world, out, pairs, number("--temperature", 1.0)? as f32)?;
    }
    println!("made in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}
