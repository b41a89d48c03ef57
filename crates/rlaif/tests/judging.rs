//! `rlaif judge` and `rlaif rate` against endpoints whose truth is planted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

#[cfg(feature = "local")]
mod common;

use std::path::Path;
use std::process::{Command, Output};

use rlaif_standin::{Plan, Standin};
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

fn command(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.current_dir(folder).args(args.split_whitespace());
    command
}

async fn run(folder: &Path, args: &str) -> Output {
    let mut command = command(folder, args);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn ok(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn rows(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn write(folder: &Path, name: &str, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(folder.join(name), lines.join("\n")).unwrap();
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The stand-in prefers by half a logit for each point of worth. All differences from −6 to 6.
fn worths() -> Vec<(i32, i32)> {
    (-6..=6)
        .map(|d| (10 + d.max(0), 10 - d.min(0)))
        .filter(|(a, b)| a != b)
        .collect()
}

/// Issue: labels within 0.02 of the unbiased probability at biases of 0.5, 1 and 2 logits; the
/// errors of one order, and of averaged probabilities, stand beside. `--nocapture` prints them.
/// An endpoint that leans by `bias` logits towards what it sees first.
async fn leaning(bias: f64) -> Standin {
    let plan = Plan {
        bias,
        ..Plan::default()
    };
    Standin::start(plan, 0).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_position_bias_is_removed() {
    println!("bias  both, log-odds  both, probability  one order   (largest error of P)");
    for bias in [0.5, 1.0, 2.0] {
        let standin = leaning(bias).await;
        let folder = tempfile::tempdir().unwrap();
        let pairs: Vec<Value> = worths()
            .iter()
            .enumerate()
            .map(|(i, (a, b))| {
                json!({"id": format!("r{i}"), "prompt": format!("Question {i}?"),
                       "completions": [format!("worth:{a} here"), format!("worth:{b} there")]})
            })
            .collect();
        write(folder.path(), "pairs.jsonl", &pairs);
        let mut worst = Vec::new();
        for how in ["--combine logit", "--combine probability", "--orders given"] {
            let out = how.replace("--", "").replace(' ', "-");
            let args = format!(
                "judge pairs.jsonl --constitution default.toml --critic {}#m --out {out}.jsonl {how}",
                standin.url()
            );
            ok(&run(folder.path(), &args).await);
            let judged = rows(&folder.path().join(format!("{out}.jsonl")));
            assert_eq!(judged.len(), worths().len());
            let errors = judged.iter().zip(worths()).map(|(row, (a, b))| {
                (row["p_first"].as_f64().unwrap() - sigmoid(0.5 * f64::from(a - b))).abs()
            });
            worst.push(errors.fold(0.0, f64::max));
        }
        println!(
            "{bias:<6}{:<16.4}{:<19.4}{:.4}",
            worst[0], worst[1], worst[2]
        );
        assert!(worst[0] < 0.02, "bias {bias}: {}", worst[0]);
        // By arithmetic: at 2 logits and a difference of 3 points (P = 0.818) the mean of the
        // probabilities is off by 0.144, and one order by more than that somewhere.
        if bias == 2.0 {
            let mean = 0.5 * (sigmoid(3.5) + sigmoid(-0.5));
            assert!((sigmoid(1.5) - mean - 0.144).abs() < 0.001);
            assert!(worst[1] > 0.14 && worst[2] > 0.3, "{worst:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tournament_ranks_and_its_file_is_exported() {
    let standin = leaning(1.0).await;
    let folder = tempfile::tempdir().unwrap();
    let row = json!({"id": "one", "prompt": "Which?",
        "completions": ["worth:4 a", "worth:9 b", "worth:1 c", "worth:6 d"]});
    let tied = json!({"id": "two", "prompt": "Which?", "completions": ["same", "same"]});
    write(folder.path(), "k.jsonl", &[row, tied]);
    let args = format!(
        "judge k.jsonl --constitution default.toml --critic {}#m --out pairs.jsonl --ranking ranks.jsonl",
        standin.url()
    );
    ok(&run(folder.path(), &args).await);
    let ranks = rows(&folder.path().join("ranks.jsonl"));
    assert_eq!(ranks[0]["ranks"], json!([3, 1, 4, 2]));
    // Labels that agree with one strength each are returned exactly: half a logit a point, around
    // the mean worth of 5.
    for (got, worth) in ranks[0]["strengths"]
        .as_array()
        .unwrap()
        .iter()
        .zip([4.0, 9.0, 1.0, 6.0])
    {
        assert!(
            (got.as_f64().unwrap() - 0.5 * (worth - 5.0)).abs() < 1e-3,
            "{got}"
        );
    }
    assert_eq!(ranks[0]["strength_se"].as_array().unwrap().len(), 4);
    assert_eq!(
        (&ranks[1]["outcome"], &ranks[1]["chosen"]),
        (&json!("tie"), &Value::Null)
    );
    ok(&run(folder.path(), "export ranks.jsonl --to trl --out trl.jsonl").await);
    let trl = rows(&folder.path().join("trl.jsonl"));
    assert_eq!(trl.len(), 1);
    assert_eq!(
        (&trl[0]["chosen"], &trl[0]["rejected"]),
        (&json!("worth:9 b"), &json!("worth:1 c"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jury_and_every_principle_stand_in_the_row() {
    let lean = leaning(1.0).await;
    let fair = leaning(0.0).await;
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "p.jsonl",
        &[json!({"prompt": "Q?", "completions": ["worth:5 a", "worth:2 b"]})],
    );
    let args = format!(
        "judge p.jsonl --constitution concise.toml --critic {}#m --juror {}#n=0.5 --principles each \
         --out out.jsonl --json",
        lean.url(),
        fair.url()
    );
    let output = run(folder.path(), &args).await;
    ok(&output);
    let row = &rows(&folder.path().join("out.jsonl"))[0];
    assert!((row["p_first"].as_f64().unwrap() - sigmoid(1.5)).abs() < 1e-6);
    let opinions = row["opinions"].as_array().unwrap();
    let judges: std::collections::BTreeSet<_> = opinions
        .iter()
        .map(|o| o["judge"].as_str().unwrap())
        .collect();
    assert_eq!(judges.len(), 2);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Two orders of each principle, each judge.
    assert_eq!(summary["calls"].as_u64(), Some(2 * opinions.len() as u64));
    let wrong = format!(
        "judge p.jsonl --constitution concise.toml --critic {}#m --samples 0 --out x.jsonl",
        lean.url()
    );
    let output = run(folder.path(), &wrong).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--samples"));
}

#[tokio::test(flavor = "multi_thread")]
async fn peoples_verdicts_become_rows_and_measure_the_judge() {
    let standin = leaning(0.0).await;
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "p.jsonl",
        &[
            json!({"prompt": "Q1?", "completions": ["worth:5 a", "worth:2 b"]}),
            json!({"prompt": "Q2?", "completions": ["worth:5 a", "worth:2 b"]}),
        ],
    );
    // The second is given the other way round, and by two people.
    write(
        folder.path(),
        "people.jsonl",
        &[
            json!({"instruction": "Q1?", "output_1": "worth:5 a", "output_2": "worth:2 b", "preference": 1, "annotator": "ann"}),
            json!({"instruction": "Q2?", "output_1": "worth:2 b", "output_2": "worth:5 a", "preference": 1, "annotator": "ann"}),
            json!({"instruction": "Q2?", "output_1": "worth:2 b", "output_2": "worth:5 a", "preference": 1, "annotator": "bob"}),
        ],
    );
    let args = format!(
        "judge p.jsonl --constitution default.toml --critic {}#m --out out.jsonl --json \
         --import-human people.jsonl",
        standin.url()
    );
    let output = run(folder.path(), &args).await;
    ok(&output);
    let all = rows(&folder.path().join("out.jsonl"));
    assert_eq!(all.len(), 5);
    assert_eq!(all[4]["rater"], json!({"kind": "human", "id": "bob"}));
    assert_eq!(all[4]["chosen"], "worth:2 b");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The judge agrees with ann on the first and with nobody on the second.
    let text = summary["judge"].to_string();
    assert!(text.contains("0.5"), "{text}");
    ok(&run(folder.path(), "export out.jsonl --to trl --out trl.jsonl").await);
    assert_eq!(rows(&folder.path().join("trl.jsonl")).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn contrast_makes_pairs_that_need_no_judge() {
    // The stand-in writes a sentence that depends on the request alone: two prompts, two answers.
    let standin = Standin::start(Plan::default(), 0).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "p.jsonl",
        &[json!({"prompt": "Q1?"}), json!({"prompt": "Q2?"})],
    );
    let args = format!(
        "contrast p.jsonl --constitution default.toml --policy {}#m --out out.jsonl",
        standin.url()
    );
    ok(&run(folder.path(), &args).await);
    let all = rows(&folder.path().join("out.jsonl"));
    assert_eq!(all.len(), 2);
    for row in &all {
        assert_eq!(
            (&row["outcome"], &row["p_chosen"]),
            (&json!("decided"), &json!(1.0))
        );
        assert_eq!(row["judge"], "construction");
        assert_ne!(row["chosen"], row["rejected"]);
    }
    ok(&run(folder.path(), "export out.jsonl --to trl --out trl.jsonl").await);
    assert_eq!(rows(&folder.path().join("trl.jsonl")).len(), 2);
}

/// A judge that gives 7 and 9 with probabilities ¾ and ¼ by log-probabilities; without them it
/// writes a rating of 4 with its reason, and of a text with "silence" in it nothing that can be read.
async fn grader() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .respond_with(|request: &Request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let text = body["messages"].to_string();
            let usage = json!({"prompt_tokens": 9, "completion_tokens": 1});
            let reply = if text.contains("silence") {
                json!({"choices": [{"message": {"content": "No comment."}, "finish_reason": "stop"}], "usage": usage})
            } else if body.get("logprobs").is_some() {
                let top = json!([{"token": "7", "logprob": 0.75f64.ln()}, {"token": "9", "logprob": 0.25f64.ln()}]);
                json!({"choices": [{"message": {"content": "7"}, "finish_reason": "stop",
                    "logprobs": {"content": [{"token": "7", "logprob": 0.75f64.ln(), "top_logprobs": top}]}}], "usage": usage})
            } else {
                json!({"choices": [{"message": {"content": "Rating: 4\nRationale: It is to the point."},
                    "finish_reason": "stop"}], "usage": usage})
            };
            ResponseTemplate::new(200).set_body_json(reply)
        })
        .mount(&server)
        .await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_scores_by_expectation_and_by_aspects() {
    let server = grader().await;
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "in.jsonl",
        &[
            json!({"instruction": "Add.", "generations": ["4", "5"], "source": "mine"}),
            json!({"instruction": "Say.", "generations": ["silence"]}),
        ],
    );
    let args = format!(
        "rate in.jsonl --constitution default.toml --critic {}/v1#m --out scores.jsonl --json",
        server.uri()
    );
    let output = run(folder.path(), &args).await;
    ok(&output);
    let scored = rows(&folder.path().join("scores.jsonl"));
    for score in scored[0]["ratings"].as_array().unwrap() {
        assert!((score.as_f64().unwrap() - 7.5).abs() < 0.01, "{score}");
    }
    assert_eq!(scored[0]["source"], "mine");
    assert_eq!(
        (&scored[1]["ratings"], &scored[1]["outcome"]),
        (&json!([null]), &json!("unparseable"))
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (summary["decided"].as_u64(), summary["unparseable"].as_u64()),
        (Some(1), Some(1))
    );

    let args = format!(
        "rate in.jsonl --constitution ultrafeedback.toml --principles each --template ultrafeedback \
         --critic {}/v1#m --out aspects.jsonl",
        server.uri()
    );
    ok(&run(folder.path(), &args).await);
    let rated = rows(&folder.path().join("aspects.jsonl"));
    assert_eq!(rated[0]["ratings"], json!([4.0, 4.0]));
    assert_eq!(rated[0]["aspects"]["honesty"]["ratings"], json!([4.0, 4.0]));
    assert_eq!(
        rated[0]["aspects"]["honesty"]["rationales"][1],
        "It is to the point."
    );
    assert_eq!(rated[1]["aspects"]["helpfulness"]["ratings"], json!([null]));
}

#[cfg(feature = "local")]
#[test]
fn ppo_takes_a_judge_as_its_reward() {
    let b = common::Bench::new();
    let report = b.json(
        "ppo pairs.jsonl --base model --reward-judge model --constitution default.toml --out policy \
         --total-episodes 32 --batch-size 16 --response-length 4",
    );
    // Its small vocabulary has no digits, so each number is as likely: 5.5, which is 0.
    let score = &report["last"];
    assert!(report["iterations"].as_u64().unwrap() >= 2, "{report}");
    assert!(score.to_string().contains("score"), "{score}");
}
