//! The training loop: rows by step, a cosine rate, a checkpoint a minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rlaif_engine::{AdamW, Batch, LlamaConfig, Outputs, Tuner, Weights};

use super::data::{Row, Rows};

/// What is trained, and where.
pub struct Plan {
    pub name: &'static str,
    pub config: LlamaConfig,
    /// Folder of the model to begin from; random weights where there is none.
    pub from: Option<PathBuf>,
    /// Steps in all.
    pub steps: u64,
    /// The highest rate, after the warm-up; a cosine leads down to a fiftieth of it.
    pub rate: f32,
    /// Checkpoints of the making.
    pub work: PathBuf,
    /// The finished model.
    pub out: PathBuf,
}

/// Most tokens in one pass.
const AT_ONCE: usize = 4_096;

impl Plan {
    /// The step of the last checkpoint of as many steps, and its folder; none where there is none.
    fn reached(&self) -> Result<Option<(u64, PathBuf)>, String> {
        let mark = self.work.join("step");
        let Ok(said) = fs::read_to_string(&mark) else {
            return Ok(None);
        };
        let (at, of) = said.trim().split_once('/').unwrap_or(("", ""));
        let folder = self.work.join(format!("at-{at}"));
        if of != self.steps.to_string() || !folder.is_dir() {
            return Ok(None);
        }
        let step = at
            .parse()
            .map_err(|e| format!("`{}`: {e}", mark.display()))?;
        Ok(Some((step, folder)))
    }

    /// Whether the model was made before, to the last step.
    pub fn is_finished(&self) -> Result<bool, String> {
        let ended = self.reached()?.is_some_and(|(step, _)| step == self.steps);
        Ok(ended && self.out.join("model.safetensors").is_file())
    }

    fn rate(&self, step: u64) -> f32 {
        let warmup = (self.steps / 30).max(1) as f32;
        let (s, n) = (step as f32, self.steps as f32);
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * s / n).cos());
        self.rate * ((s + 1.0) / warmup).min(1.0) * (0.02 + 0.98 * cosine)
    }
}

/// Rows packed into batches of at most [`AT_ONCE`] tokens.
fn packed(rows: Vec<Row>) -> Vec<(Row, Vec<usize>)> {
    let mut out: Vec<(Row, Vec<usize>)> = Vec::new();
    for row in rows {
        let fits = out
            .last()
            .is_some_and(|(all, _)| all.tokens.len() + row.tokens.len() <= AT_ONCE);
        if !fits {
            out.push((Row::default(), vec![0]));
        }
        if let Some((all, offsets)) = out.last_mut() {
            all.tokens.extend(row.tokens);
            all.targets.extend(row.targets);
            all.weights.extend(row.weights);
            offsets.push(all.tokens.len());
        }
    }
    out
}

/// Trains to the end, from the last checkpoint where there is one, and writes the model in bf16.
pub fn pretrain(plan: &Plan, rows: &dyn Rows) -> Result<(), String> {
    let text = |e: rlaif_engine::EngineError| e.to_string();
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| format!("cannot write `{path}`: {e}")
    };
    fs::create_dir_all(&plan.work).map_err(io(&plan.work))?;
    let mut optimizer = AdamW::default();
    optimizer.betas = (0.9, 0.98);
    optimizer.weight_decay = 0.05;
    let weights = match &plan.from {
        Some(folder) => Weights::read(folder, &plan.config).map_err(text)?,
        None => random(&plan.config),
    };
    let mut tuner = Tuner::new(
        plan.config.clone(),
        Arc::new(weights),
        None,
        plan.config.max_positions,
        optimizer,
    );
    let mark = plan.work.join("step");
    let steps = plan.steps;
    let mut step = 0;
    if let Some((at, folder)) = plan.reached()? {
        tuner.restore(&folder).map_err(text)?;
        step = at;
        println!("{}: goes on from step {step}", plan.name);
    }
    let begun = Instant::now();
    let first = step;
    let mut saved = Instant::now();
    let (mut sum, mut n) = (0.0, 0.0);
    thread::scope(|scope| {
        // Rows are made beside the training, a few steps ahead.
        let (send, receive) = mpsc::sync_channel(4);
        scope.spawn(move || {
            for step in first..steps {
                if send.send(rows.rows(step)).is_err() {
                    return;
                }
            }
        });
        while step < steps {
            let rows = receive
                .recv()
                .map_err(|_| "the maker of rows has stopped".to_owned())??;
            let total: f32 = rows.iter().flat_map(|r| &r.weights).sum();
            for (row, offsets) in packed(rows) {
                let wanted: Vec<bool> = row.weights.iter().map(|w| *w != 0.0).collect();
                let batch = Batch {
                    tokens: &row.tokens,
                    offsets: &offsets,
                    wanted: Some(&wanted),
                    targets: Some(&row.targets),
                    temperature: 1.0,
                    entropy: false,
                };
                let (out, tape) = tuner.forward(&batch).map_err(text)?;
                for (w, l) in row.weights.iter().zip(&out.logprobs) {
                    sum -= f64::from(w * l);
                }
                let grads = Outputs {
                    logprobs: row.weights.iter().map(|w| -w / total).collect(),
                    ..Outputs::default()
                };
                tuner.backward(tape, &grads);
            }
            n += f64::from(total);
            tuner.step(plan.rate(step)).map_err(text)?;
            step += 1;
            if step.is_multiple_of(100) || step == steps {
                let secs = begun.elapsed().as_secs_f64();
                let left = secs / (step - first) as f64 * (steps - step) as f64;
                println!(
                    "{}: step {step} of {}, loss {:.4}, {secs:.0} s, {left:.0} s left",
                    plan.name,
                    steps,
                    sum / n
                );
                (sum, n) = (0.0, 0.0);
            }
            if saved.elapsed() > Duration::from_secs(60) || step == steps {
                let folder = plan.work.join(format!("at-{step}"));
                fs::create_dir_all(&folder).map_err(io(&folder))?;
                tuner.save_state(&folder).map_err(text)?;
                rlaif_core::run::write_atomic(&mark, format!("{step}/{steps}").as_bytes())
                    .map_err(|e| e.to_string())?;
                clear(&plan.work, &folder)?;
                saved = Instant::now();
            }
        }
        Ok::<(), String>(())
    })?;
    fs::create_dir_all(&plan.out).map_err(io(&plan.out))?;
    tuner
        .weights()
        .write(&plan.out, &plan.config, true)
        .map_err(text)
}

/// Weights to begin from. The projections that write into the residual stream start smaller, as in
/// GPT-2.
fn random(config: &LlamaConfig) -> Weights {
    let mut weights = Weights::random(config, 0.05, 0);
    let shrink = 1.0 / (2.0 * config.layers as f32).sqrt();
    for block in &mut weights.blocks {
        for i in [3, 6] {
            block.linear[i].data.iter_mut().for_each(|w| *w *= shrink);
        }
    }
    weights
}

fn clear(work: &Path, keep: &Path) -> Result<(), String> {
    let entries = fs::read_dir(work).map_err(|e| e.to_string())?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && path != keep {
            fs::remove_dir_all(&path).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}
