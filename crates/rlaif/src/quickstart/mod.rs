//! The whole method on the embedded world: no network, no key, no GPU.
//!
//! It is a run like any other: [`prepare`] writes a recipe, a constitution, prompts and the two
//! small models into a folder, and [`run`] sends it through [`crate::pipeline::run`]. What is
//! different is that the truth is known: an oracle reads the finished answers and labels, and
//! [`Summary`] says what they are worth. No stage can ask it.

mod compare;
mod oracle;
mod probe;
mod skew;
mod summary;

pub use compare::{Compared, compare};
pub use oracle::Oracle;
pub use probe::{DECISIVE, PAIRS, Probed, probe};
pub use skew::Skewed;
pub use summary::{JudgeFigures, Policy, RewardFigures, Summary};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_core::run::{RunFolder, write_atomic};
use rlaif_core::{Constitution, Model, dataset};
use rlaif_world::{Composer, Habits, Rng, World};
use serde_json::json;

use crate::error::Error;
use crate::pipeline::{self, Finished, Selection};
use crate::progress::Progress;
use crate::recipe::{Algorithm, Recipe};
use crate::rows::{Stop, Width};
use crate::stages::Context;

const RECIPE: &str = include_str!("../../templates/quickstart.toml");

/// Share of prompts that ask for something harmful.
const HARMFUL: f64 = 0.5;

/// What a quickstart is to do.
#[derive(Clone, Debug)]
pub struct Quickstart {
    /// Seed of every random choice.
    pub seed: u64,
    /// The principles' file, or the name of a supplied one.
    pub constitution: PathBuf,
    /// `ppo` or `dpo`.
    pub algorithm: Algorithm,
    /// Folder with `assistant` and `critic` to use instead of the embedded ones, such as
    /// `cargo xtask world --out` writes.
    pub models: Option<PathBuf>,
    /// Prompts to train on.
    pub prompts: usize,
    /// Completions of PPO.
    pub episodes: usize,
    /// Weight of PPO's KL penalty.
    pub kl_coef: f64,
    /// PPO stops above this KL, in nats a completion.
    pub kl_budget: f64,
    /// Added to the critic's log-odds of the response shown first.
    pub critic_position_logit: f64,
    /// Share of the critic's verdicts that are turned round.
    pub critic_noise: f64,
}

impl Default for Quickstart {
    fn default() -> Self {
        Quickstart {
            seed: 0,
            constitution: "default.toml".into(),
            algorithm: Algorithm::Ppo,
            models: None,
            prompts: 1_100,
            episodes: 3_072,
            kl_coef: 0.08,
            kl_budget: 20.0,
            critic_position_logit: 0.0,
            critic_noise: 0.0,
        }
    }
}

/// Writes a file unless it holds the same already: what a run was given stays as old as it is.
fn put(path: &Path, text: &str) -> Result<(), Error> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    write_atomic(path, text.as_bytes())?;
    Ok(())
}

/// Writes recipe, constitution, prompts and models; the recipe's path.
///
/// # Errors
/// A constitution that cannot be read; files that cannot be written.
pub fn prepare(what: &Quickstart, out: &Path) -> Result<PathBuf, Error> {
    let world = World::load().map_err(|e| Error::input(e, "this is a fault of the program"))?;
    // Read first: a mistake in it is found before anything is written.
    Constitution::read(&what.constitution)?;
    std::fs::create_dir_all(out).map_err(rlaif_core::Error::io("create", out))?;
    let models = out.join("models");
    let models = match &what.models {
        Some(folder) => {
            std::path::absolute(folder).map_err(rlaif_core::Error::io("read", folder))?
        }
        None => {
            rlaif_world::write_models(&models).map_err(rlaif_core::Error::io("write", &models))?;
            PathBuf::from("models")
        }
    };
    let text = match std::fs::read_to_string(&what.constitution) {
        Ok(text) => text,
        Err(_) => what
            .constitution
            .to_str()
            .and_then(Constitution::supplied_text)
            .unwrap_or_default()
            .to_owned(),
    };
    put(&out.join("constitution.toml"), &text)?;
    let composer = Composer {
        habits: Habits::ASSISTANT,
        ..Composer::open(world)
    };
    for (name, n, id) in [
        ("prompts.jsonl", what.prompts, "train"),
        ("held_out.jsonl", 500, "held_out"),
    ] {
        let mut rng = Rng::of(what.seed, &["quickstart", id]);
        let mut lines = String::new();
        for i in 0..n {
            let scene = composer.scene(&mut rng, HARMFUL);
            let row = json!({"id": format!("{id}-{i:05}"), "prompt": scene.prompt});
            lines += &(row.to_string() + "\n");
        }
        put(&out.join(name), &lines)?;
    }
    let recipe = RECIPE
        .replace("{{seed}}", &what.seed.to_string())
        .replace("{{models}}", &models.display().to_string())
        .replace("{{algorithm}}", what.algorithm.as_str())
        .replace("{{steps}}", "3")
        .replace("{{episodes}}", &what.episodes.to_string())
        .replace("{{kl_coef}}", &format!("{:?}", what.kl_coef))
        .replace("{{kl_budget}}", &format!("{:?}", what.kl_budget));
    let path = out.join("recipe.toml");
    put(&path, &recipe)?;
    Ok(path)
}

/// Runs the prepared recipe and holds the result against the truth.
///
/// # Errors
/// As [`pipeline::run`].
pub async fn run(
    what: &Quickstart,
    out: &Path,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(Finished, Summary), Error> {
    let path = prepare(what, out)?;
    let recipe = Recipe::read(&path, &[])?;
    let constitution = Constitution::read(&recipe.constitution)?;
    let oracle = Oracle::new(&constitution)?;
    let prompts = dataset::read(&recipe.prompts)?;
    let mut folder = RunFolder::open(&out.join("run"))?;
    let models: BTreeMap<String, Model> = BTreeMap::new();
    let mut cx = Context::new(&recipe, &constitution, &prompts, &mut folder, &models, stop);
    cx.progress = progress;
    cx.width = Width::Rows(256);
    let skewed;
    if what.critic_position_logit != 0.0 || what.critic_noise != 0.0 {
        let critic = cx.model("critic")?;
        let critic = Skewed::new(critic, what.critic_position_logit, what.critic_noise);
        skewed = BTreeMap::from([("critic".to_owned(), std::sync::Arc::new(critic) as Model)]);
        cx.models = &skewed;
    }
    let critic = cx.model("critic")?;
    let judge = recipe.judge.clone().unwrap_or_default();
    for probed in probe(&critic, &constitution, &judge, out, what.seed).await? {
        if !probed.is_decisive() {
            progress.note(&format!(
                "principle `{}`: the critic hardly tells answers apart by it (mean |p - 1/2| {:.3}, \
                 below {DECISIVE}); say it in other words",
                probed.principle, probed.decisiveness
            ));
        }
    }
    let evaluators: [&dyn crate::evaluation::Evaluator; 1] = [&oracle];
    cx.evaluators = &evaluators;
    let finished = pipeline::run(&mut cx, &Selection::default()).await?;
    let summary = summary::summarize(what.seed, &out.join("run"), &oracle, &finished)?;
    Ok((finished, summary))
}
