//! The verbs on models in memory, run as a person would, on a model of 14,000 parameters.
#![cfg(feature = "local")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::{Command, Stdio};

use common::Bench;
use serde_json::Value;

#[test]
fn sample_gives_the_same_for_a_seed_and_score_confirms_its_logprobs() {
    let b = Bench::new();
    let args =
        "sample model pairs.jsonl --max-new-tokens 12 --num-samples 3 --limit 8 --seed 5 --out";
    b.json(&format!("{args} a.jsonl"));
    b.json(&format!("{args} b.jsonl --threads 1"));
    assert_eq!(b.lines("a.jsonl"), b.lines("b.jsonl"));
    let row = &b.lines("a.jsonl")[0];
    assert_eq!(row["completions"].as_array().unwrap().len(), 3);
    assert_ne!(row["completion_ids"][0], row["completion_ids"][1]);
    let one = b.json(
        "sample model pairs.jsonl --max-new-tokens 12 --temperature 1 --limit 8 --out one.jsonl",
    );
    assert_eq!(one["rows"], 8);
    b.json("score model pairs.jsonl --limit 4 --out scored.jsonl");
    let scored = &b.lines("scored.jsonl")[0];
    assert_eq!(
        scored["logprobs"].as_array().unwrap().len(),
        2,
        "chosen and rejected"
    );
    let sum: f64 = scored["logprobs"][0]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .sum();
    assert!((sum - scored["logprob"][0].as_f64().unwrap()).abs() < 1e-4);
}

#[test]
fn a_reward_model_learns_and_ppo_follows_it_and_dpo_too() {
    let b = Bench::new();
    let trained = b.json(
        "reward pairs.jsonl --base model --out rm --learning-rate 5e-3 --epochs 12 --eval-steps 10",
    );
    assert!(
        trained["test_metrics"]["accuracy"].as_f64().unwrap() > 0.9,
        "{trained}"
    );
    b.json("score rm pairs.jsonl --out scored.jsonl");
    let right = b
        .lines("scored.jsonl")
        .iter()
        .filter(|r| r["scores"][0].as_f64() > r["scores"][1].as_f64())
        .count();
    assert!(right > 54, "{right} of 60");
    let ppo = "ppo pairs.jsonl --base model --reward rm --out policy --total-episodes 640 --batch-size 64 --response-length 8 --learning-rate 3e-3 --kl-coef 0.01 --temperature 1 --missing-eos-penalty 0";
    b.json(ppo);
    let log = b.lines("policy/log.jsonl");
    let score = |i: usize| log[i]["score"].as_f64().unwrap();
    assert!(score(9) > score(0) + 0.5, "{} {}", score(0), score(9));
    assert!(log[0]["kl"].as_f64().unwrap().abs() < 1e-3 && log[9]["kl"].as_f64().unwrap() > 0.0);
    b.json("sample policy pairs.jsonl --max-new-tokens 8 --limit 2 --out s.jsonl");
    let dpo =
        b.json("dpo pairs.jsonl --base model --out dpo --lora 4 --learning-rate 5e-3 --epochs 8");
    assert!(
        dpo["test_metrics"]["rewards/accuracies"].as_f64().unwrap() > 0.9,
        "{dpo}"
    );
    assert!(b.path("dpo/adapter_model.safetensors").is_file());
    let sft = b.json("sft pairs.jsonl --base model --out sft --learning-rate 3e-3 --epochs 4");
    assert!(sft["test_loss"].as_f64().unwrap() < 4.0, "{sft}");
}

/// A folder is a judge like any other: exact log-probabilities in both orders, counted.
#[test]
fn a_folder_judges_in_the_place_of_a_url() {
    let b = Bench::new();
    std::fs::write(
        b.path("c.toml"),
        "[[principles]]\nid = \"p\"\ncritique = \"w3\"\nrevision = \"w4\"\npreference = \"w5\"\n",
    )
    .unwrap();
    let done =
        b.json("judge pairs.jsonl --constitution c.toml --critic model --limit 3 --out j.jsonl");
    assert_eq!(done["rows"], 3);
    assert_eq!(done["calls"], 6, "{done}");
    assert!(done["prompt_tokens"].as_u64().unwrap() > 0);
}

/// Stopped by Ctrl-C and given again, a run ends with the bits of an undisturbed one.
#[test]
fn a_stopped_training_run_goes_on_exactly() {
    let b = Bench::new();
    let args = "ppo pairs.jsonl --base model --total-episodes 512 --batch-size 32 --response-length 8 --learning-rate 1e-3 --reward-command ./reward.sh --out";
    // The reward counts letters; from the fifth call on it is slow, so that a signal finds it at work.
    let script = "#!/bin/sh\nn=$(cat calls 2>/dev/null || echo 0); n=$((n+1)); echo $n > calls\n[ -f slow ] && [ $n -gt 4 ] && sleep 1\nwhile IFS= read -r l; do echo \"{\\\"score\\\": $(( ${#l} % 7 ))}\"; done\n";
    std::fs::write(b.path("reward.sh"), script).unwrap();
    assert!(
        Command::new("chmod")
            .arg("+x")
            .arg(b.path("reward.sh"))
            .status()
            .unwrap()
            .success()
    );
    b.json(&format!("{args} whole"));
    std::fs::write(b.path("slow"), "").unwrap();
    std::fs::remove_file(b.path("calls")).unwrap();
    let mut child = b
        .command(&format!("{args} parts"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !std::fs::read_to_string(b.path("calls"))
        .is_ok_and(|n| n.trim().parse::<u32>().unwrap_or(0) >= 6)
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Once: the iteration ends, a checkpoint is written, exit code 1.
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(1));
    std::fs::remove_file(b.path("slow")).unwrap();
    b.json(&format!("{args} parts"));
    let read = |name: &str| std::fs::read(b.path(name)).unwrap();
    assert_eq!(read("whole/log.jsonl"), read("parts/log.jsonl"));
    assert!(read("whole/model.safetensors") == read("parts/model.safetensors"));
    let other = b
        .run("ppo pairs.jsonl --base model --kl-coef 0.5 --reward-command ./reward.sh --out parts");
    assert_eq!(other.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&other.stderr).contains("other settings"));
}

/// Killed without warning inside PPO, several times, a run ends with the bits of an undisturbed
/// one, the policy that its KL budget chooses included.
#[test]
fn a_killed_ppo_goes_on_exactly() {
    let b = Bench::new();
    let reward = "while IFS= read -r l; do echo \"{\\\"score\\\": $(( ${#l} % 7 ))}\"; done";
    std::fs::write(b.path("fast.sh"), reward).unwrap();
    std::fs::write(b.path("slow.sh"), format!("sleep 0.15; {reward}")).unwrap();
    let args = "ppo pairs.jsonl --base model --total-episodes 2560 --batch-size 32 --response-length 8 --learning-rate 3e-5 --kl-coef 0 --kl-budget 0.3 --save-secs 0 --out";
    let ppo = |out: &str, script: &str| {
        let mut c = b.command(&format!("{args} {out} --reward-command"));
        c.arg(format!("sh {script}")).stderr(Stdio::null());
        c
    };
    // The identity holds the command: one name for both speeds.
    std::fs::copy(b.path("fast.sh"), b.path("reward.sh")).unwrap();
    assert!(ppo("whole", "reward.sh").status().unwrap().success());
    let summary: Value =
        serde_json::from_slice(&std::fs::read(b.path("whole/summary.json")).unwrap()).unwrap();
    assert!(summary["kept"]["kl"].as_f64().unwrap() <= 0.3, "{summary}");
    assert_eq!(summary["stopped_by_kl"], true, "{summary}");
    assert!(summary["iterations"].as_u64().unwrap() > 10, "{summary}");
    std::fs::copy(b.path("slow.sh"), b.path("reward.sh")).unwrap();
    let mut kills = 0;
    for ms in [300, 600, 450] {
        let mut child = ppo("parts", "reward.sh").spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(ms));
        kills += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0 && !b.path("parts/summary.json").exists());
    assert!(
        b.path("parts/checkpoint.json").exists(),
        "no kill came after a checkpoint"
    );
    std::fs::copy(b.path("fast.sh"), b.path("reward.sh")).unwrap();
    assert!(ppo("parts", "reward.sh").status().unwrap().success());
    for name in ["log.jsonl", "rollouts.jsonl", "model.safetensors"] {
        let read = |folder: &str| std::fs::read(b.path(folder).join(name)).unwrap();
        assert!(read("whole") == read("parts"), "{name} differs");
    }
}

/// A service in OpenRLHF's form: texts with their special tokens go out, rewards come in; what is
/// out of order for a moment is asked again, and what is no number is none.
#[tokio::test(flavor = "multi_thread")]
async fn ppo_asks_a_reward_service() {
    use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers};
    let server = MockServer::start().await;
    Mock::given(matchers::method("POST"))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(1)
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(matchers::path("/get_reward"))
        .respond_with(|request: &Request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let n = body["query"].as_array().unwrap().len();
            assert_eq!(body["labels"].as_array().unwrap().len(), n);
            let rewards: Vec<Value> = (0..n)
                .map(|i| {
                    let (query, prompt) = (&body["query"][i], &body["prompts"][i]);
                    let (query, prompt) = (query.as_str().unwrap(), prompt.as_str().unwrap());
                    assert!(
                        prompt.starts_with("<s> w") && query.starts_with(prompt),
                        "{query}"
                    );
                    if i == 0 {
                        Value::Null
                    } else {
                        (query.len() % 7).into()
                    }
                })
                .collect();
            ResponseTemplate::new(200).set_body_json(serde_json::json!({"rewards": rewards}))
        })
        .mount(&server)
        .await;
    let uri = server.uri();
    tokio::task::spawn_blocking(move || {
        let b = Bench::new();
        b.json(&format!(
            "ppo pairs.jsonl --base model --total-episodes 64 --batch-size 32 --response-length 6 \
             --out policy --reward-url {uri}"
        ));
        let log = b.lines("policy/log.jsonl");
        assert_eq!((log.len(), &log[0]["failed"]), (2, &Value::from(1)));
        let out = b.run(
            "ppo pairs.jsonl --base model --out q --response-length 6 --reward-url http://127.0.0.1:9/",
        );
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains("cannot be reached") && said.contains("5 attempts"), "{said}");
    })
    .await
    .unwrap();
    assert_eq!(server.received_requests().await.unwrap().len(), 3);
}

#[test]
fn a_failing_reward_is_never_a_number() {
    let b = Bench::new();
    let ppo = |command: &str| {
        let mut c = b.command("ppo pairs.jsonl --base model --total-episodes 16 --batch-size 16 --response-length 4 --out p --reward-command");
        let out = c.arg(command).output().unwrap();
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (code, text) = ppo("sed 's/.*/{\"error\": \"judge timed out\"}/'");
    assert_eq!(code, Some(2));
    assert!(
        text.contains("16 of 16 completions got no score") && text.contains("judge timed out"),
        "{text}"
    );
    let (_, text) = ppo("sed 's/.*/{\"score\": null}/'");
    assert!(text.contains("holds no finite `score`"), "{text}");
    let (_, text) = ppo("head -3");
    assert!(text.contains("answered 3 lines to 16"), "{text}");
    assert!(!b.path("p/model.safetensors").exists());
}
