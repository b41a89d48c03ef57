//! AI labels, human labels and a mix of both, at equal labels and at equal money: the same pairs,
//! the same training, another rater. The people are simulated ([`rlaif_world::Annotator`]).

use std::path::Path;

use futures::StreamExt as _;
use rlaif_core::dataset::{self, Dataset, Row};
use rlaif_core::run::{sha256_file, write_lines};
use rlaif_core::seed::{self, Split};
use rlaif_core::{CallContext, ItemId, Judgment, LanguageModel as _, Probability, SampleRequest};
use rlaif_engine::{LocalModel, Options};
use rlaif_eval::{Comparison, WinRate, label_price, win_rate};
use serde::Serialize;
use serde_json::{Map, json};

use super::Oracle;
use crate::error::Error;
use crate::evaluation::{FILE, Measured};
use crate::progress::Progress;
use crate::recipe::{ModelSource, Recipe};
use crate::rows::Stop;
use crate::stages::{judge, read_records};
use crate::train::{At, Other, Part, RewardSource, ppo, reward};

/// One way to label, and what it came to.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Who labeled.
    pub labels: &'static str,
    /// `labels` or `money`.
    pub equal: &'static str,
    /// AI labels, human labels.
    pub counts: [usize; 2],
    /// What they cost, in US dollars at the named prices.
    pub usd: f64,
    /// Share of labels that the oracle agrees with, of those that it decides.
    pub label_accuracy: Option<f64>,
    /// The policy against base, by the oracle.
    pub win_rate_vs_base: WinRate,
}

fn price(name: &str) -> f64 {
    label_price(name).map_or(0.0, |p| p.usd)
}

/// Which pairs each labels: of `n` pairs, in the order of the judgments.
fn plan(n: usize, ai: f64, human: f64) -> [(&'static str, &'static str, usize, usize); 5] {
    // The money that the AI labels cost.
    let money = n as f64 * ai;
    let people = |usd: f64| ((usd / human) as usize).min(n);
    let critic = |usd: f64| ((usd / ai) as usize).min(n);
    [
        ("critic", "labels", n, 0),
        ("people", "labels", 0, n),
        ("half and half", "labels", n / 2, n - n / 2),
        ("people", "money", 0, people(money)),
        (
            "half and half",
            "money",
            critic(money / 2.0),
            people(money / 2.0),
        ),
    ]
}

/// Trains a reward model and a policy on each kind of labels, from the finished quickstart in
/// `out`, and holds the policies against base.
///
/// # Errors
/// A run that is not finished; as [`reward`] and [`ppo`].
pub async fn compare(
    out: &Path,
    oracle: &Oracle,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Vec<Compared>, Error> {
    let recipe = Recipe::read(&out.join("recipe.toml"), &[])?;
    let (Some(reward_config), Some(ppo_config), Some(evaluate)) =
        (&recipe.reward, &recipe.ppo, &recipe.evaluate)
    else {
        return Err(Error::input(
            format!("`{}` has no reward model and policy", out.display()),
            "run `rlaif quickstart` with PPO first",
        ));
    };
    let run = out.join("run");
    let judgments: Vec<Judgment> = read_records(&run.join(judge::FILE))?;
    let judgments: Vec<Judgment> = judgments
        .into_iter()
        .filter(|j| j.p_first.get().is_some())
        .collect();
    let measured: Vec<Measured> = read_records(&run.join(FILE))?;
    let base: Vec<&Measured> = measured.iter().filter(|m| m.policy == "base").collect();
    let people = oracle.crowd(recipe.seed);
    let prompts = dataset::read(&recipe.prompts)?;
    let train_prompts = Dataset {
        rows: prompts
            .rows
            .iter()
            .filter(|r| Split::of(&r.prompt) == Split::Train)
            .cloned()
            .collect(),
        path: prompts.path.clone(),
        faults: Vec::new(),
        sha256: prompts.sha256.clone(),
    };
    let reward_base = match recipe.models.get(&reward_config.base) {
        Some(ModelSource::Folder(folder)) => folder.clone(),
        // What no table names, a stage wrote.
        _ => run.join(&reward_config.base),
    };
    let (ai, human) = (price("ai_lee"), price("human_alpaca_farm"));
    let mut table = Vec::new();
    for (labels, equal, critics, persons) in plan(judgments.len(), ai, human) {
        let folder = out
            .join("compare")
            .join(format!("{}-{equal}", labels.replace(' ', "-")));
        std::fs::create_dir_all(&folder).map_err(rlaif_core::Error::io("create", &folder))?;
        let mut rows = Vec::new();
        let mut lines = Vec::new();
        let (mut right, mut decided) = (0usize, 0usize);
        // Raters take turns, so that neither gets the easier prompts.
        let mut left = [critics, persons];
        for (i, j) in judgments.iter().enumerate() {
            // Whoever has labeled the smaller share of what is theirs is next.
            let is_critic = left[0] * persons >= left[1] * critics && left[0] > 0;
            let by = usize::from(!is_critic);
            if left[by] == 0 {
                break;
            }
            left[by] -= 1;
            let p = match j.p_first.get().filter(|_| is_critic) {
                Some(p) => p,
                None => f64::from(u8::from(people.prefers_first(oracle, j))),
            };
            if let Some(truth) = oracle.prefers(&j.prompt, &j.response_a, &j.response_b) {
                decided += 1;
                right += usize::from((p > 0.5) == truth);
            }
            lines.push(
                json!({"id": j.id, "p_first": p, "by": if by == 0 { "critic" } else { "person" }}),
            );
            rows.push(Row {
                id: j.id.clone(),
                line: i + 1,
                prompt: j.prompt.clone(),
                completions: vec![j.response_a.clone(), j.response_b.clone()],
                label: Probability::new(p),
                columns: Map::new(),
            });
        }
        let path = folder.join("labels.jsonl");
        write_lines(&path, &lines)?;
        let data = Dataset {
            rows,
            sha256: sha256_file(&path)?,
            path,
            faults: Vec::new(),
        };
        progress.note(&format!(
            "{labels}, equal {equal}: {critics} labels of the critic, {persons} of people"
        ));
        let at = |base, out| At {
            base,
            out,
            other: Other::Replace,
            merge: true,
            seed: recipe.seed,
            progress,
            stop,
        };
        let reward_out = folder.join("reward");
        reward(reward_config, &data, &at(&reward_base, &reward_out))?;
        let sft = run.join("sft");
        let policy = folder.join("ppo");
        let source = RewardSource::Model(reward_out.clone());
        let to = at(&sft, &policy);
        ppo(ppo_config, &train_prompts, &source, Part::default(), &to)?;
        let comparisons = against_base(&policy, &base, oracle, evaluate, recipe.seed).await?;
        table.push(Compared {
            labels,
            equal,
            counts: [critics, persons],
            usd: critics as f64 * ai + persons as f64 * human,
            label_accuracy: (decided > 0).then(|| right as f64 / decided as f64),
            win_rate_vs_base: win_rate(&comparisons),
        });
    }
    let text = serde_json::to_string_pretty(&table).unwrap_or_default() + "\n";
    rlaif_core::run::write_atomic(&out.join("compare/compare.json"), text.as_bytes())?;
    Ok(table)
}

/// The policy's answers to the held-out prompts against those of base, by the oracle.
async fn against_base(
    policy: &Path,
    base: &[&Measured],
    oracle: &Oracle,
    evaluate: &crate::stages::evaluate::EvaluateConfig,
    run_seed: u64,
) -> Result<Vec<Comparison>, Error> {
    let model = LocalModel::open(policy, Options::default())?;
    let model = &model;
    let answers: Vec<Result<String, Error>> = futures::stream::iter(base.iter())
        .map(|m| async move {
            let request = SampleRequest {
                messages: m.prompt.0.clone().into(),
                prefill: None,
                schema: None,
                sampling: evaluate.sampling.clone(),
            };
            let item = ItemId {
                stage: "compare".into(),
                row: m.id.as_str().into(),
                draw: 0,
            };
            let cx = CallContext::new(item, seed::derive(run_seed, &["compare", &m.id]));
            let done = model.sample(&request, &cx).await;
            done.map(|c| c.text)
                .map_err(|e| Error::input(format!("the policy gave no answer: {e}"), ""))
        })
        .buffered(256)
        .collect()
        .await;
    let mut all = Vec::new();
    for (m, answer) in base.iter().zip(answers) {
        all.push(match oracle.prefers(&m.prompt, &answer?, &m.completion) {
            Some(true) => Comparison::Win,
            Some(false) => Comparison::Loss,
            None => Comparison::Tie,
        });
    }
    Ok(all)
}
