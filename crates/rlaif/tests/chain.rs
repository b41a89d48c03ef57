//! `rlaif run` the whole way, on a model of 14,000 parameters that is its own critic.
#![cfg(feature = "local")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Bench;
use serde_json::{Value, json};

const RECIPE: &str = r#"
seed = 3
constitution = "c.toml"
prompts = "prompts.jsonl"
[models.policy]
folder = "model"
[models.critic]
folder = "model"
[candidates]
n = 1
sampling = { max_new_tokens = 8 }
[critique]
template = "cai"
principles = "sampled"
sampling = { max_new_tokens = 8 }
[revise]
steps = 2
sampling = { max_new_tokens = 8 }
[sft]
learning_rate = 1e-3
save_secs = 0
[sft_candidates]
n = 2
sampling = { max_new_tokens = 8 }
[pairs]
compare = "sft_candidates"
[judge]
tie_margin = 0.0
[reward]
learning_rate = 1e-3
num_train_epochs = 2
eval_steps = 5
save_secs = 0
[ppo]
learning_rate = 1e-4
total_episodes = 256
batch_size = 32
response_length = 8
kl_budget = 5.0
save_secs = 0
[evaluate]
judge_limit = 7
sampling = { max_new_tokens = 8 }
"#;

fn bench(recipe: &str) -> Bench {
    let b = Bench::new();
    let principle =
        "[[principles]]\nid = \"p\"\ncritique = \"w3\"\nrevision = \"w4\"\npreference = \"w5\"\n";
    std::fs::write(b.path("c.toml"), principle).unwrap();
    let prompts: Vec<String> = (0..120)
        .map(|i| json!({"prompt": format!("w{} w{}", 20 + i % 20, 50 + i % 30)}).to_string())
        .collect();
    std::fs::write(b.path("prompts.jsonl"), prompts.join("\n")).unwrap();
    std::fs::write(b.path("recipe.toml"), recipe).unwrap();
    b
}

/// Names of the stages that a list tells of.
fn stages(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter().map(|s| s["stage"].as_str().unwrap()).collect()
}

/// Hashes of all files that the manifest knows, by stage and name.
fn hashes(b: &Bench) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(b.path("run/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let mut all = BTreeMap::new();
    for (stage, entry) in manifest["stages"].as_object().unwrap() {
        for (name, file) in entry["outputs"].as_object().unwrap() {
            let hash = file["sha256"].as_str().unwrap().to_owned();
            all.insert(format!("{stage}: {name}"), hash);
        }
    }
    all
}

/// Runs a recipe whole, and again in another folder with kills on the way; both must leave the same.
fn same_after_kills(recipe: &str) -> (Bench, Value) {
    let whole = bench(recipe);
    let begun = Instant::now();
    let done = whole.json("run recipe.toml");
    let wall = begun.elapsed();
    let expected = hashes(&whole);
    for file in [
        "sft: sft/model.safetensors",
        "reward: reward/model.safetensors",
        "ppo: ppo/model.safetensors",
        "evaluate: evaluation.jsonl",
    ] {
        assert!(expected.contains_key(file), "{file} not in {expected:#?}");
    }

    // Another folder, the same seed; killed at instants over the whole run, then let go on.
    let killed = bench(recipe);
    let mut kills = 0;
    for part in 1..=6u32 {
        let mut child = killed
            .command("run recipe.toml")
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // What is finished is kept, so that each attempt gets further than the one before.
        std::thread::sleep(
            wall.mul_f64(0.1 + 0.07 * f64::from(part))
                .max(Duration::from_millis(30)),
        );
        kills += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 1, "{kills} kills came before the end");
    killed.json("run recipe.toml");
    assert_eq!(hashes(&killed), expected);

    // Again: nothing is done, nothing is asked.
    let again = killed.json("run recipe.toml");
    let stages = again["stages"].as_array().unwrap();
    // A response without a critique is looked at again by `revise`, which has nothing to ask.
    let others = stages.iter().filter(|s| s["stage"] != "revise");
    assert!(others.clone().all(|s| s["unchanged"] == true), "{again}");
    assert_eq!(again["calls"], 0, "{again}");
    (whole, done)
}

#[test]
fn the_whole_chain_gives_the_same_twice_and_after_kills() {
    let (whole, done) = same_after_kills(RECIPE);
    let stages = stages(&done["stages"]);
    assert_eq!(
        stages,
        [
            "candidates",
            "critique",
            "revise",
            "sft",
            "sft_candidates",
            "judge",
            "preferences",
            "reward",
            "ppo",
            "evaluate"
        ]
    );

    // What the policies came to.
    let text = std::fs::read_to_string(whole.path("run/evaluation.json")).unwrap();
    let evaluation: Value = serde_json::from_str(&text).unwrap();
    let policies = evaluation["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 3, "{evaluation}");
    let test = evaluation["prompts"].as_u64().unwrap();
    assert!(test > 0 && test < 40, "{test}");
    for p in policies {
        assert_eq!(
            p["completions"].as_u64().unwrap() + p["failed"].as_u64().unwrap(),
            test
        );
        assert!(p["reward"]["mean"].is_number());
    }
    assert!(policies[0]["kl"].is_null() && policies[2]["kl_to"] == "sft");
    assert!(policies[2]["kl"]["mean"].is_number());
    let pairs: Vec<String> = evaluation["comparisons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{} {} {}", c["policy"], c["against"], c["by"]).replace('"', ""))
        .collect();
    assert_eq!(
        pairs,
        ["sft base critic", "ppo base critic", "ppo sft critic"]
    );
    // The critic is asked about the first seven prompts, whatever there is to measure.
    assert!(test > 7, "{test}");
    for c in evaluation["comparisons"].as_array().unwrap() {
        let n = |key: &str| c["result"][key].as_u64().unwrap();
        let compared = n("wins") + n("losses") + n("ties") + c["failed"].as_u64().unwrap();
        assert_eq!(compared, 7, "{c}");
    }
}

/// The policy pauses twice on its way, what it writes by then is judged, and the reward model learns
/// from that as well.
#[test]
fn what_the_policy_writes_is_labeled_on_its_way() {
    let recipe = format!("{RECIPE}[online]\npauses = 2\nlimit = 40\n");
    let plain = bench(RECIPE);
    plain.json("run recipe.toml");
    let (b, done) = same_after_kills(&recipe);
    let round = |n: u32| {
        ["judge", "preferences", "reward", "ppo", "candidates"].map(|s| format!("round{n}/{s}"))
    };
    let mut expected = ["candidates", "critique", "revise", "sft", "sft_candidates"]
        .map(String::from)
        .to_vec();
    expected.extend(round(1));
    expected.extend(round(2));
    expected.extend(["judge", "preferences", "reward", "ppo", "evaluate"].map(String::from));
    assert_eq!(stages(&done["stages"]), expected);

    let lines = |b: &Bench, name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(b.path(name)).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    // The last judgments are those of all rounds, and no pair was asked twice.
    let judged = lines(&b, "run/judgments.jsonl");
    let of = |prefix: &str| {
        let is = |j: &&Value| j["id"].as_str().unwrap().contains(prefix);
        judged.iter().filter(is).count()
    };
    assert_eq!((of("/round1/"), of("/round2/")), (40, 40));
    // A prompt of which one answer came to nothing makes no pair.
    assert!((100..=120 + 80).contains(&judged.len()));
    assert_eq!(lines(&b, "run/log/judge.jsonl").len(), judged.len());

    // One PPO of eight updates and a last measurement, the same as without pauses up to the first.
    let log = lines(&b, "run/ppo/log.jsonl");
    let numbers: Vec<u64> = log
        .iter()
        .map(|l| l["iteration"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
    let undisturbed = lines(&plain, "run/ppo/log.jsonl");
    assert_eq!(log[..2], undisturbed[..2]);
    assert_ne!(log[2..], undisturbed[2..], "the reward was not renewed");
    let text = std::fs::read_to_string(b.path("run/ppo/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["pauses"], json!([2, 5]));
    let page = std::fs::read_to_string(b.path("run/report.html")).unwrap();
    assert!(page.contains("labels of the policy's own answers after iteration 2, 5."));

    let plan = b.json("plan recipe.toml");
    let planned = |stage: &str, key: &str| {
        let list = plan["stages"].as_array().unwrap();
        let found = list.iter().find(|p| p["stage"] == stage).unwrap();
        found[key].as_u64().unwrap()
    };
    assert_eq!(planned("online", "calls"), 2 * 40 * 2);
    assert_eq!(planned("judge", "rows"), 120 + 80);
}

#[test]
fn labels_on_the_way_need_a_judge_a_reward_model_and_ppo() {
    let cut = |text: &str, from: &str, to: &str| {
        let (a, b) = (text.find(from).unwrap(), text.find(to).unwrap());
        format!("{}{}", &text[..a], &text[b..])
    };
    let online = format!("{RECIPE}[online]\n");
    for (recipe, says) in [
        (
            cut(&online, "[ppo]", "[evaluate]"),
            "there is no `[ppo]` table",
        ),
        (
            online.replace("[ppo]\n", "[ppo]\nreward = \"critic\"\n"),
            "`ppo.reward` is none that",
        ),
        (
            online.replace("[ppo]\n", "[ppo]\nkeep = \"best\"\n"),
            "different reward models",
        ),
        (
            format!("{online}pauses = 8\n"),
            "PPO has 8 iterations in all",
        ),
        (format!("{online}n = 1\n"), "`online.n` must be at least 2"),
    ] {
        let b = bench(&recipe);
        let out = b.command("plan recipe.toml").output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && said.contains(says),
            "{says}: {said}"
        );
    }
}

/// RLCD: pairs that are labeled by how they were made train a reward model, and no judge is asked.
/// A judge beside them serves the evaluation alone.
#[test]
fn contrast_labels_what_a_judge_would() {
    let recipe = r#"
seed = 3
constitution = "c.toml"
prompts = "prompts.jsonl"
[models.policy]
folder = "model"
[contrast]
sampling = { max_new_tokens = 8 }
[reward]
base = "policy"
learning_rate = 1e-3
[export]
"#;
    let b = bench(recipe);
    let plan = b.json("plan recipe.toml");
    assert_eq!(plan["stages"][0]["stage"], "contrast", "{plan}");
    assert_eq!(plan["stages"][0]["calls"], 240);
    assert!(plan["training"][0]["rows"].as_u64().unwrap() > 80, "{plan}");
    let done = b.json("run recipe.toml");
    let stages = stages(&done["stages"]);
    assert_eq!(stages, ["contrast", "preferences", "reward"]);
    let pairs = b.lines("run/judgments.jsonl");
    assert_eq!(pairs.len(), 120);
    let decided: Vec<&Value> = pairs.iter().filter(|p| p["outcome"] == "decided").collect();
    assert!(decided.len() > 60, "{}", decided.len());
    assert!(
        decided
            .iter()
            .all(|p| p["p_first"] == 1.0 || p["p_first"] == 0.0)
    );
    assert!(b.path("run/reward/model.safetensors").is_file());
    assert!(b.path("run/export/trl.jsonl").is_file());
    let again = b.json("run recipe.toml");
    assert_eq!(again["calls"], 0, "{again}");

    for (more, words) in [
        (
            "[judge]\nmodel = \"policy\"",
            "`[judge]` has nothing to judge",
        ),
        ("[contrasts]", "did you mean `contrast`?"),
    ] {
        std::fs::write(b.path("wrong.toml"), format!("{recipe}{more}\n")).unwrap();
        let refused = b.run("plan wrong.toml");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2));
        assert!(said.contains(words), "{said}");
    }
    let same = recipe.replace(
        "[contrast]",
        "[contrast]\npositive = \"Go.\"\nnegative = \"Go.\"",
    );
    std::fs::write(b.path("wrong.toml"), same).unwrap();
    let refused = b.run("plan wrong.toml");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("must differ from `positive`"), "{said}");
}

/// Measures how many words a completion has in common with a list: a truth that only the
/// evaluation may know.
struct Known;

impl rlaif::evaluation::Evaluator for Known {
    fn name(&self) -> &str {
        "known"
    }

    fn measure(
        &self,
        prompt: &rlaif::Prompt,
        completion: &str,
        policy: &str,
    ) -> BTreeMap<String, f64> {
        assert!(!prompt.0.is_empty() && ["base", "sft", "dpo"].contains(&policy));
        let known = completion.split(' ').filter(|w| w.starts_with("w1"));
        BTreeMap::from([("utility".to_owned(), known.count() as f64)])
    }

    fn compares_by(&self) -> Option<&str> {
        Some("utility")
    }
}

/// From code: a recipe that is no file, and an evaluator of the caller's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_built_in_code_runs_and_evaluators_stand_beside() {
    use rlaif::recipe::{Compare, ModelSource, PairsConfig};
    use rlaif::stages::{Context, evaluate::EvaluateConfig};
    use rlaif::train::{DpoConfig, SftConfig};
    use rlaif_core::Sampling;
    use rlaif_feedback::CandidatesConfig;

    let b = bench("");
    let sampling = Sampling {
        max_new_tokens: 8,
        ..Sampling::default()
    };
    let candidates = |model: &str, n| CandidatesConfig {
        model: model.into(),
        n,
        sampling: sampling.clone(),
    };
    let mut recipe = rlaif::Recipe::new(b.path("c.toml"), b.path("prompts.jsonl"));
    recipe.models = BTreeMap::from([
        ("policy".into(), ModelSource::Folder(b.path("model"))),
        ("critic".into(), ModelSource::Folder(b.path("model"))),
    ]);
    recipe.candidates = Some(candidates("policy", 1));
    let mut critique = rlaif::CritiqueConfig::default();
    critique.sampling.max_new_tokens = 8;
    recipe.critique = Some(critique);
    let mut revise = rlaif::ReviseConfig::default();
    revise.sampling.max_new_tokens = 8;
    recipe.revise = Some(revise);
    recipe.sft = Some(SftConfig::default());
    recipe.sft_candidates = Some(candidates("sft", 2));
    recipe.pairs = PairsConfig {
        compare: Compare::SftCandidates,
        ..PairsConfig::default()
    };
    recipe.judge = Some(rlaif::JudgeConfig {
        tie_margin: 0.0,
        ..rlaif::JudgeConfig::default()
    });
    let mut dpo = DpoConfig::default();
    dpo.tune.lora = Some(4);
    recipe.dpo = Some(dpo);
    recipe.evaluate = Some(EvaluateConfig {
        sampling,
        ..EvaluateConfig::default()
    });
    let wrong = rlaif::Recipe {
        sft_candidates: None,
        ..recipe.clone()
    };
    let said = wrong.checked().unwrap_err();
    assert!(
        format!("{said:?}").contains("there is no `[sft_candidates]` table"),
        "{said:?}"
    );
    let recipe = recipe.checked().unwrap();
    let constitution = rlaif::Constitution::read(&recipe.constitution).unwrap();
    let prompts = rlaif_core::dataset::read(&recipe.prompts).unwrap();
    let mut folder = rlaif_core::run::RunFolder::open(&b.path("run")).unwrap();
    let (models, stop) = (BTreeMap::new(), rlaif::rows::Stop::default());
    let mut cx = Context::new(
        &recipe,
        &constitution,
        &prompts,
        &mut folder,
        &models,
        &stop,
    );
    cx.evaluators = &[&Known];
    let all = rlaif::pipeline::Selection::default();
    let done = rlaif::pipeline::run(&mut cx, &all).await.unwrap();
    let evaluation = done.evaluation.unwrap();
    let dpo = &evaluation.policies[2];
    assert_eq!(
        (dpo.policy.as_str(), dpo.kl_to.as_deref()),
        ("dpo", Some("sft"))
    );
    let utility = dpo.numbers["known"]["utility"];
    let by_hand: Vec<f64> = b
        .lines("run/evaluation.jsonl")
        .iter()
        .filter(|l| l["policy"] == "dpo")
        .map(|l| {
            let text = l["completion"].as_str().unwrap();
            text.split(' ').filter(|w| w.starts_with("w1")).count() as f64
        })
        .collect();
    let mean = by_hand.iter().sum::<f64>() / by_hand.len() as f64;
    assert!((utility.mean - mean).abs() < 1e-9);
    let known = evaluation.compared("dpo", "sft", "known").unwrap();
    let critic = evaluation.compared("dpo", "sft", "critic").unwrap();
    assert_eq!(
        known.result.wins + known.result.losses + known.result.ties + known.failed as u64,
        evaluation.prompts as u64
    );
    assert!(critic.result.wins + critic.result.losses > 0);
    // The adapter stands beside the whole model, which the evaluation opened.
    assert!(
        b.path("run/dpo/adapter/adapter_model.safetensors")
            .is_file()
    );
}

/// The commented training tables of `init`, uncommented as they say; what cannot fit is refused
/// before anything is asked, and keys have their nearest names.
#[test]
fn training_tables_of_init_are_planned_and_memory_is_held_against_the_machine() {
    let b = bench("");
    assert!(b.run("init r").status.success());
    let text = std::fs::read_to_string(b.path("r/recipe.toml")).unwrap();
    let (labels, training) = text.split_once("# Training, in memory").unwrap();
    let uncommented: String = training
        .lines()
        .filter_map(|l| l.strip_prefix("# "))
        .filter(|l| l.starts_with('[') || l.contains(" = "))
        .map(|l| format!("{l}\n"))
        .collect();
    let recipe = format!("{labels}{uncommented}")
        .replace("compare = \"revision\"", "compare = \"sft_candidates\"")
        .replace("folder = \"base\"", "folder = \"../model\"");
    std::fs::write(b.path("r/recipe.toml"), &recipe).unwrap();
    let plan = b.json("plan r/recipe.toml");
    let stages = stages(&plan["training"]);
    assert_eq!(stages, ["sft", "reward", "ppo"], "{plan}");
    let ppo = &plan["training"][2];
    // 2,560 completions in 20 iterations of 128, and one more that measures the last update.
    assert_eq!(
        (ppo["steps"].as_u64(), ppo["base"].as_str()),
        (Some(21), Some("sft"))
    );
    assert!(ppo["memory"]["beside"].as_u64() > ppo["memory"]["weights"].as_u64());

    // 10¹² tokens at once: more than any machine has. Nothing is asked: no server runs.
    let out = b.run("run r/recipe.toml --set sft.max_tokens=1000000000000");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("training `sft` needs") && said.contains("`max_tokens`"),
        "{said}"
    );

    let wrong = recipe
        .replace("helpful_share", "helpful_shard")
        .replace("kl_budget", "kl_bugdet")
        .replace("base = \"sft\"\nreward", "base = \"stf\"\nreward");
    std::fs::write(b.path("r/wrong.toml"), wrong).unwrap();
    let out = b.run("plan r/wrong.toml --json");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    for words in [
        "unknown key `sft.helpful_shard`",
        "did you mean `helpful_share`?",
        "did you mean `kl_budget`?",
    ] {
        assert!(said.contains(words), "{words} not in {said}");
    }
}
