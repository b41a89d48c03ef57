//! Which principles the critic cannot judge by, found before the run.

use std::path::Path;

use futures::StreamExt as _;
use rlaif_core::{Constitution, Model};
use rlaif_feedback::JudgeConfig;
use rlaif_world::{Composer, Manner, Rng, World};
use serde::Serialize;

use crate::error::Error;
use crate::stages::judge::{Pair, judge_of, judge_pair};

/// Pairs that every principle is tried on.
pub const PAIRS: usize = 48;

/// Mean |p − ½| below which a critic does not tell responses apart.
pub const DECISIVE: f64 = 0.1;

/// How decided the critic is by one principle.
#[derive(Clone, Debug, Serialize)]
pub struct Probed {
    /// The principle's id.
    pub principle: String,
    /// Mean |p − ½| over the probe set, in [0, ½].
    pub decisiveness: f64,
}

impl Probed {
    /// Whether the critic tells responses apart by it.
    #[must_use]
    pub fn is_decisive(&self) -> bool {
        self.decisiveness >= DECISIVE
    }
}

/// Tries every principle on the same pairs of the embedded world's varied answers, in both orders.
/// `folder` is what the template's path is relative to.
///
/// # Errors
/// A template that is wrong, or a critic that every further call would fail with.
pub async fn probe(
    critic: &Model,
    constitution: &Constitution,
    judge: &JudgeConfig,
    folder: &Path,
    seed: u64,
) -> Result<Vec<Probed>, Error> {
    let world = World::load().map_err(|e| Error::input(e, "this is a fault of the program"))?;
    let composer = Composer::open(world);
    let mut rng = Rng::of(seed, &["probe"]);
    let pairs: Vec<Pair> = (0..PAIRS)
        .map(|i| {
            let scene = composer.scene(&mut rng, super::HARMFUL);
            let [response_a, response_b] = [0, 1].map(|_| {
                composer
                    .answer(&mut rng, scene.topic, &Manner::VARIED)
                    .text()
            });
            Pair {
                id: format!("probe-{i}"),
                prompt: scene.prompt,
                response_a,
                response_b,
            }
        })
        .collect();
    let config = JudgeConfig {
        template: judge.template.clone(),
        ..JudgeConfig::default()
    };
    let mut all = Vec::new();
    for principle in &constitution.principles {
        let only = Constitution {
            principles: vec![principle.clone()],
            few_shots: Vec::new(),
        };
        let judge = judge_of(&config, critic.clone(), &only, folder, seed)?;
        let judge = &judge;
        let found: Vec<_> = futures::stream::iter(pairs.iter().cloned())
            .map(|pair| judge_pair(judge, pair))
            .buffered(PAIRS)
            .collect()
            .await;
        let mut sum = 0.0;
        let mut n = 0.0;
        for judgment in found {
            if let Some(p) = judgment?.p_first.get() {
                sum += (p - 0.5).abs();
                n += 1.0;
            }
        }
        all.push(Probed {
            principle: principle.id.clone(),
            decisiveness: if n > 0.0 { sum / n } else { 0.0 },
        });
    }
    Ok(all)
}
