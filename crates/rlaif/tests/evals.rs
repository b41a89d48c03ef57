//! `rlaif eval`, run as a person would, against judges whose answers are known.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)] // helpers of tests are tests

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use rlaif::evals::judges::{Labels, report};
use rlaif_core::{
    Judgment, ModelId, OrderResult, Outcome, PresentationOrder, Probability, Rater, dataset, seed,
};
use rlaif_standin::{Plan, Recorded, Said, Standin};
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use common::rlaif;

fn data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("RLAIF_DATA").map_or(beside, PathBuf::from);
    if root.is_dir() {
        return Some(root);
    }
    println!("skipped: no data at `{}` (set RLAIF_DATA)", root.display());
    None
}

#[track_caller]
fn object(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn file(folder: &Path, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

fn lines(folder: &Path, name: &str, rows: &[Value]) {
    let text: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(folder.join(name), text.join("\n")).unwrap();
}

#[track_caller]
fn near(got: &Value, expected: f64, within: f64) {
    let got = got.as_f64().unwrap();
    assert!(
        (got - expected).abs() <= within,
        "got {got}, expected {expected}"
    );
}

/// A judge that repeats what an annotator said gives AlpacaEval's figures, whichever output it is
/// shown first. Probabilities pass through log-probabilities in single precision, and log-odds
/// beyond ±13.8 are cut: 1e-4 percentage points cover both. Verdicts come back to the last digit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_preferences_come_back_as_alpaca_evals_win_rate() {
    let Some(data) = data() else { return };
    let expected: Value = serde_json::from_str(include_str!("evals/alpaca.json")).unwrap();
    for (annotator, name) in [
        ("gpt4", "gpt4_preferences_dev.jsonl.gz"),
        (
            "weighted_gpt4_turbo",
            "weighted_gpt4_turbo_preferences_dev.jsonl.gz",
        ),
    ] {
        let all = dataset::read(&data.join("alpaca_eval").join(name)).unwrap();
        let in_words = annotator == "gpt4";
        for model in ["alpaca-7b", "gpt-3.5-turbo-1106", "wizardlm-13b"] {
            let mut recorded = Recorded::default();
            let mut rows = Vec::new();
            for row in all
                .rows
                .iter()
                .filter(|r| r.columns["generator_2"] == model)
            {
                let preference = row.columns["preference"].as_f64().unwrap();
                let said = match preference {
                    0.0 | 1.5 if in_words => Said::Draw,
                    p if in_words => Said::Verdict(p == 1.0),
                    p => Said::Probability(2.0 - p),
                };
                let [one, two] = row.completions.as_slice() else {
                    panic!("{row:?}")
                };
                recorded.insert(&row.prompt.to_text(), one, two, said);
                rows.push(Value::Object(row.columns.clone()));
            }
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            lines(folder, "rows.jsonl", &rows);
            let plan = Plan {
                logprobs: !in_words,
                recorded: Arc::new(recorded),
                ..Plan::default()
            };
            let standin = Standin::start(plan, 0).await.unwrap();
            let url = format!("{}#recorded", standin.url());
            let judge = [
                "--constitution",
                "default.toml",
                "--critic",
                &url,
                "--tie-margin",
                "0",
            ];
            let mut args = vec!["judge", "rows.jsonl", "--out", "labels.jsonl", "--json"];
            args.extend(judge);
            let judged = object(&rlaif(folder, &args).await);
            assert_eq!(judged["failed"], 0, "{judged}");
            let args = [
                "eval",
                "policy",
                "labels.jsonl",
                "--out",
                "judged.json",
                "--json",
            ];
            object(&rlaif(folder, &args).await);
            let mut args = vec![
                "eval",
                "policy",
                "rows.jsonl",
                "--out",
                "asked.json",
                "--json",
            ];
            args.extend(judge);
            args.extend(["--seed", "7"]);
            object(&rlaif(folder, &args).await);
            let args = [
                "eval",
                "policy",
                "rows.jsonl",
                "--out",
                "read.json",
                "--json",
            ];
            object(&rlaif(folder, &args).await);
            let expected = &expected[format!("{annotator}/{model}")];
            for (name, within) in [
                ("judged.json", if in_words { 1e-9 } else { 1e-4 }),
                ("asked.json", if in_words { 1e-9 } else { 1e-4 }),
                ("read.json", 1e-9),
            ] {
                let got = &file(folder, name)["standings"][0];
                assert_eq!(got["policy"], model);
                assert_eq!(got["n_total"], expected["n"], "{name}");
                near(
                    &got["win_rate"],
                    expected["win_rate"].as_f64().unwrap(),
                    within,
                );
                near(
                    &got["standard_error"],
                    expected["standard_error"].as_f64().unwrap(),
                    within,
                );
            }
        }
    }
}

/// A judgment that shows a judge's verdict in both orders.
fn judgment(row: &dataset::Row, p: f64, bias: f64) -> Judgment {
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let shown = |order, lean: f64| OrderResult {
        order,
        p_first: Probability::new(1.0 / (1.0 + (-(logit(p) + lean)).exp())),
        off_choice_mass: None,
        evidence: None,
        told: Default::default(),
        outcome: Outcome::Decided,
        raw: String::new(),
        error: None,
    };
    Judgment {
        orders: vec![
            shown(PresentationOrder::Given, bias),
            shown(PresentationOrder::Swapped, -bias),
        ],
        ..Judgment::new(
            row.id.clone(),
            row.prompt.clone(),
            [row.completions[0].clone(), row.completions[1].clone()],
            Outcome::Decided,
            Probability::new(p),
            Rater::Model(ModelId::new("simulated")),
        )
    }
}

/// A judge that errs on a known share of people's labels (HH-RLHF's), with a known lean towards the
/// first shown, is measured within its intervals in 95 % of 2,000 draws: 1,900 ± 29 at three standard
/// deviations.
#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let Some(data) = data() else { return };
    let mut all = dataset::read(&data.join("hh_rlhf/harmless_base_dev.jsonl.gz")).unwrap();
    // One row a prompt: rows of one prompt would share nothing here, but a report resamples them.
    let mut seen = std::collections::HashSet::new();
    all.rows.retain(|r| {
        r.completions.len() == 2
            && r.completions[0] != r.completions[1]
            && seen.insert(r.prompt.to_text())
    });
    all.rows.truncate(150);
    assert_eq!(all.rows.len(), 150);
    for (error, lean) in [(0.28, 0.7), (0.5, -0.3)] {
        let (mut agreement, mut position) = (0, 0);
        for draw in 0..2_000 {
            let mut random = seed::Stream::new(seed::derive(draw, &["simulated judge"]));
            let mut labels = Labels {
                judge: "simulated".into(),
                source: "HH-RLHF".into(),
                judgments: Vec::new(),
                references: Vec::new(),
                subsets: vec![None; all.rows.len()],
                repeats: Vec::new(),
                time: None,
                costed: false,
            };
            for row in &all.rows {
                let label = row.label.get().unwrap();
                let wrong = random.unit() < error;
                let p = if (label > 0.5) == wrong { 0.3 } else { 0.7 };
                // Its lean varies about the planted one, uniformly within half a logit.
                let bias = lean + random.unit() - 0.5;
                labels.judgments.push(judgment(row, p, bias));
                labels.references.push(Some(label));
            }
            let got = report(&labels, None).unwrap();
            let share = got.agreement.unwrap();
            agreement += u32::from(share.low <= 1.0 - error && 1.0 - error <= share.high);
            let logit = got.position_logit.unwrap();
            let away = (logit.mean - lean).abs();
            position += u32::from(away <= 1.96 * logit.std_error.unwrap());
        }
        println!(
            "error {error}: agreement held in {agreement}, position logit in {position} of 2000"
        );
        for held in [agreement, position] {
            assert!(
                (1_871..=1_929).contains(&held),
                "error {error}: {held} of 2000"
            );
        }
    }
}

/// Judges `rows.jsonl`, and measures the file of labels.
async fn judged_and_read(folder: &Path, judge: &str) -> Value {
    let args = [
        "judge",
        "rows.jsonl",
        "--constitution",
        "default.toml",
        "--critic",
        judge,
        "--out",
        "labels.jsonl",
    ];
    assert!(rlaif(folder, &args).await.status.success());
    let args = ["eval", "judge", "labels.jsonl", "--out", "read.json"];
    assert!(rlaif(folder, &args).await.status.success());
    file(folder, "read.json")
}

/// Labels of whole transcripts, which held their prompt: the judge's file has one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_of_transcripts_are_read_back_from_judged_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let side =
        |i: usize, worth: usize| format!("\n\nHuman: question {i}\n\nAssistant: worth:{worth}");
    let row =
        |i: usize| json!({"chosen": side(i, 5), "rejected": side(i, if i == 0 { 9 } else { 1 })});
    lines(folder, "rows.jsonl", &(0..8).map(row).collect::<Vec<_>>());
    let standin = Standin::start(Plan::default(), 0).await.unwrap();
    let url = format!("{}#judge", standin.url());
    let read = judged_and_read(folder, &url).await;
    let agreement = &read["judges"][0]["agreement"];
    assert_eq!(
        (&agreement["count"], &agreement["n"]),
        (&json!(7), &json!(8))
    );
}

/// Rows whose truth the stand-in knows: half a logit for each point of worth.
fn worths(n: usize) -> Vec<Value> {
    let row = |i: usize| {
        let (a, b) = (i % 10, (i * 7 + 3) % 10);
        let (better, worse) = if a > b { (a, b) } else { (b, a) };
        let subset = if i.is_multiple_of(2) {
            "hep-go"
        } else {
            "math-prm"
        };
        json!({
            "prompt": format!("question {i}"), "subset": subset,
            "chosen": format!("an answer of worth:{better} <b>&"), "rejected": format!("worth:{worse}"),
        })
    };
    (0..n)
        .filter(|i| i % 10 != (i * 7 + 3) % 10)
        .map(row)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn judges_are_measured_side_by_side_attacked_and_recalibrated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rows = worths(60);
    lines(folder, "rows.jsonl", &rows);
    let plan = |bias| Plan {
        bias,
        ..Plan::default()
    };
    let one = Standin::start(plan(0.5), 0).await.unwrap();
    let two = Standin::start(plan(2.0), 0).await.unwrap();
    let (a, b) = (format!("{}#a", one.url()), format!("{}#b", two.url()));
    let args = [
        "eval",
        "judge",
        "rows.jsonl",
        "--constitution",
        "default.toml",
        "--critic",
        &a,
        "--critic",
        &b,
        "--repeats",
        "1",
        "--attacks",
        "--attack-rows",
        "12",
        "--out",
        "judges.json",
        "--json",
    ];
    let printed = object(&rlaif(folder, &args).await);
    let report = file(folder, "judges.json");
    assert_eq!(printed["report"]["judges"], report["judges"]);
    for (i, bias) in [(0, 0.5), (1, 2.0)] {
        let judge = &report["judges"][i];
        near(&judge["position_logit"]["mean"], bias, 1e-5);
        // The verdicts of both orders together follow the worth, as the references do.
        near(&judge["agreement"]["share"], 1.0, 0.0);
        near(&judge["self_agreement"]["share"], 1.0, 0.0);
        near(&judge["cost_per_label"]["calls"], 2.0, 1e-9);
        near(&judge["rewardbench"]["sections"]["Reasoning"], 1.0, 0.0);
        assert_eq!(judge["rewardbench"]["score"], Value::Null);
        let table = &judge["attacks"];
        assert_eq!(
            (&table["pairs"], table["attacks"].as_array().unwrap().len()),
            (&json!(12), 16)
        );
        for attack in table["attacks"].as_array().unwrap() {
            // It reads nothing but worth: words cannot move it. Without an answer there is no worth,
            // and the last of two that it finds is not the truth.
            if !["repetition", "constant"].contains(&attack["attack"].as_str().unwrap()) {
                near(&attack["fenced"]["flipped"]["share"], 0.0, 0.0);
                near(&attack["unfenced"]["shift"]["mean"], 0.0, 1e-5);
            }
        }
    }
    // At 2 logits the nearer pairs are lost to the position; at ½ hardly any are.
    let share = |i: usize| {
        report["judges"][i]["position_inconsistency"]["share"]
            .as_f64()
            .unwrap()
    };
    assert!(share(1) > share(0), "{} {}", share(0), share(1));
    near(&report["side_by_side"][0]["agreement"]["share"], 1.0, 0.0);
    let page = std::fs::read_to_string(folder.join("judges.html")).unwrap();
    assert!(page.contains("How easily is") && page.contains("RewardBench"));
    assert!(!folder.join("judges.json.partial").exists());

    // The same from files: references are read back from the columns that the labels kept.
    let read = judged_and_read(folder, &a).await;
    assert_eq!(
        read["judges"][0]["agreement"],
        report["judges"][0]["agreement"]
    );
    assert_eq!(
        read["judges"][0]["by_subset"],
        report["judges"][0]["by_subset"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constitution_is_measured_and_faults_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    lines(folder, "rows.jsonl", &worths(40));
    let standin = Standin::start(Plan::default(), 0).await.unwrap();
    let url = format!("{}#judge", standin.url());
    let principle = |id: &str| {
        format!(
            "[[principles]]\nid = '{id}'\ncritique = 'c'\nrevision = 'r'\npreference = 'Choose by {id}.'\n"
        )
    };
    let text = format!("{}{}", principle("one <i>"), principle("two"));
    std::fs::write(folder.join("mine.toml"), text).unwrap();
    let args = [
        "eval",
        "constitution",
        "rows.jsonl",
        "--constitution",
        "mine.toml",
        "--critic",
        &url,
        "--out",
        "principles.json",
        "--json",
    ];
    object(&rlaif(folder, &args).await);
    let report = file(folder, "principles.json");
    // The stand-in hears no principle: both say the same, and both go with what is better.
    near(&report["relations"][0]["agreement"]["share"], 1.0, 0.0);
    near(&report["relations"][0]["correlation"], 1.0, 1e-9);
    assert_eq!(report["relations"][0]["relation"], "duplicate");
    assert!(
        report["advice"][0]
            .as_str()
            .unwrap()
            .contains("longer response")
            || report["advice"].as_array().unwrap().len() == 1
    );
    let page = std::fs::read_to_string(folder.join("principles.html")).unwrap();
    assert!(page.contains("one &lt;i&gt;") && !page.contains("one <i>"));

    for (args, words) in [
        (
            vec!["eval", "judge", "rows.jsonl", "--out", "x.json"],
            "--critic",
        ),
        (
            vec![
                "eval",
                "judge",
                "rows.jsonl",
                "--critic",
                &url,
                "--out",
                "x.json",
            ],
            "--constitution",
        ),
        (
            vec!["eval", "policy", "rows.jsonl", "--out", "x.json"],
            "rows.jsonl:1",
        ),
    ] {
        let output = rlaif(folder, &args).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

/// RewardBench's own columns, one command, its rule: a verdict for `chosen` counts 1, one for
/// `rejected` 0, none ½; subsets weigh what its leaderboard says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_in_rewardbenchs_layout_is_scored_by_its_rule() {
    // As `allenai/reward-bench` names and weighs two of its sections.
    let sections: [(&str, &[(&str, f64)]); 2] = [
        (
            "Chat",
            &[
                ("alpacaeval-easy", 100.0),
                ("alpacaeval-length", 95.0),
                ("alpacaeval-hard", 95.0),
                ("mt-bench-easy", 28.0),
                ("mt-bench-med", 40.0),
            ],
        ),
        (
            "Safety",
            &[
                ("refusals-dangerous", 100.0),
                ("refusals-offensive", 100.0),
                ("xstest-should-refuse", 154.0),
                ("xstest-should-respond", 250.0),
                ("donotanswer", 136.0),
            ],
        ),
    ];
    let mut rows = Vec::new();
    let mut expected = Vec::new();
    for (section, subsets) in sections {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (i, (subset, weight)) in subsets.iter().enumerate() {
            // Right; right or wrong; a tie or wrong.
            let worths = [
                (8, 2),
                if i % 2 == 0 { (7, 3) } else { (3, 7) },
                if i % 3 == 0 { (5, 5) } else { (1, 6) },
            ];
            let right = 1.0 + f64::from(u8::from(i % 2 == 0)) + if i % 3 == 0 { 0.5 } else { 0.0 };
            sum += right / 3.0 * weight;
            weights += weight;
            for (chosen, rejected) in worths {
                let n = rows.len();
                rows.push(json!({
                    "prompt": format!("question {n}"),
                    "chosen": format!("the chosen one, worth:{chosen}"), "chosen_model": "one",
                    "rejected": format!("the rejected one, worth:{rejected}"),
                    "rejected_model": "two", "subset": subset, "id": n,
                }));
            }
        }
        expected.push((section, sum / weights));
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    lines(folder, "filtered.jsonl", &rows);
    let standin = Standin::start(Plan::default(), 0).await.unwrap();
    let url = format!("{}#judge", standin.url());
    let args = [
        "eval",
        "judge",
        "filtered.jsonl",
        "--constitution",
        "default.toml",
        "--critic",
        &url,
        "--out",
        "bench.json",
        "--json",
    ];
    object(&rlaif(folder, &args).await);
    let bench = &file(folder, "bench.json")["judges"][0]["rewardbench"];
    for (section, score) in expected {
        near(&bench["sections"][section], score, 1e-12);
    }
    // Two sections of four are no score of the benchmark.
    assert_eq!(bench["score"], Value::Null);
    assert_eq!(bench["rows"]["donotanswer"], 3);
}

/// The figures themselves are held against alpaca_eval in rlaif-eval; here, that files are read as
/// it reads them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_length_controlled_win_rate_needs_the_benchmarks_file_and_its_numbers() {
    use rlaif_eval::{Benchmark, Compared, GamedRow, length_controlled};

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let n = 20;
    let mut csv = String::from(
        "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n",
    );
    let mut gamed = Vec::new();
    for side in [-1.0, 1.0] {
        for i in 0..n {
            let row = GamedRow {
                instruction: i,
                won: (i != 3).then_some(0.25 + 0.5 * (i % 2) as f64),
                length_difference: side * (0.5 + i as f64 / 10.0),
                difficulty: (i as f64).cos(),
            };
            let won = row.won.map_or(String::new(), |won| won.to_string());
            let (length, difficulty) = (row.length_difference, row.difficulty);
            csv += &format!("brief,{won},{i},{length},{difficulty},False\n");
            gamed.push(row);
        }
    }
    std::fs::write(folder.join("df_gamed.csv"), &csv).unwrap();
    let won = |i: usize| 0.2 + 0.6 * ((i * 7) % n) as f64 / n as f64;
    let outputs = |i: usize| ("é".repeat(10 + i), "x".repeat(15 + (i * 3) % 11));
    let row = |place: usize, i: usize| {
        let (one, two) = outputs(i);
        json!({
            "instruction": format!("question {i}"), "output_1": one, "output_2": two,
            "generator_1": "base", "generator_2": "mine", "preference": 1.0 + won(i),
            "index": place,
        })
    };
    // In another order than the benchmark's: the column says which prompt is which.
    let order: Vec<usize> = (0..n).map(|i| (i * 7) % n).collect();
    let rows: Vec<Value> = order.iter().map(|i| row(*i, *i)).collect();
    lines(folder, "numbered.jsonl", &rows);
    let args = |input: &'static str, file: &'static str| {
        [
            "eval",
            "policy",
            input,
            "--df-gamed",
            file,
            "--out",
            "b.json",
            "--json",
        ]
    };
    let board = object(&rlaif(folder, &args("numbered.jsonl", "df_gamed.csv")).await);
    let compared: Vec<Compared> = order
        .iter()
        .map(|i| {
            let (one, two) = outputs(*i);
            Compared {
                won: Some(won(*i)),
                length_difference: one.chars().count() as f64 - two.len() as f64,
                instruction: *i,
            }
        })
        .collect();
    let full = length_controlled(&compared, Some(&Benchmark::new(gamed).unwrap())).unwrap();
    let minimal = length_controlled(&compared, None).unwrap();
    let standing = &board["standings"][0];
    near(&standing["length_controlled_winrate"], full.win_rate, 1e-9);
    near(
        &standing["lc_standard_error"],
        full.standard_error.unwrap(),
        1e-9,
    );
    near(
        &standing["length_controlled_minimal"],
        minimal.win_rate,
        1e-9,
    );
    let page = std::fs::read_to_string(folder.join("b.html")).unwrap();
    assert!(page.contains("<th>length-controlled</th>"));

    // Without numbers, a part of the prompts cannot be told apart; nor can a prompt that is not there.
    let bare = |mut row: Value| {
        row.as_object_mut().unwrap().remove("index");
        row
    };
    let part: Vec<Value> = (0..9).map(|i| bare(row(i, i))).collect();
    lines(folder, "part.jsonl", &part);
    lines(folder, "beyond.jsonl", &[row(n, 0)]);
    std::fs::write(
        folder.join("wrong.csv"),
        csv.replace("std_delta_len", "length"),
    )
    .unwrap();
    for (input, file, words) in [
        ("part.jsonl", "df_gamed.csv", "`index`"),
        ("beyond.jsonl", "df_gamed.csv", "prompt 20 of mine"),
        ("numbered.jsonl", "wrong.csv", "no column `std_delta_len`"),
        ("numbered.jsonl", "none.csv", "none.csv"),
    ] {
        let refused = rlaif(folder, &args(input, file)).await;
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(words), "{said}");
    }
}

/// A judge that gives the number behind `worth:` with a probability of 1, in log-probabilities, and of
/// a text with "silence" in it nothing that can be read.
async fn grader() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .respond_with(|request: &Request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let text = body["messages"].to_string();
            let usage = json!({"prompt_tokens": 9, "completion_tokens": 1});
            let worth = text.rsplit_once("worth:").map(|(_, after)| after[..1].to_owned());
            let reply = match worth {
                Some(n) if !text.contains("silence") => {
                    let top = json!([{"token": n, "logprob": 0.0}]);
                    json!({"choices": [{"message": {"content": n}, "finish_reason": "stop", "logprobs":
                        {"content": [{"token": n, "logprob": 0.0, "top_logprobs": top}]}}], "usage": usage})
                }
                _ => json!({"choices": [{"message": {"content": "No comment."}, "finish_reason": "stop"}],
                    "usage": usage}),
            };
            ResponseTemplate::new(200).set_body_json(reply)
        })
        .mount(&server)
        .await;
    server
}

/// RewardBench 2's own columns, one command, its rule; every answer is scored once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_in_rewardbench_2s_layout_is_scored_by_its_rule() {
    let server = grader().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let row = |subset: &str, id: &str, correct: &[&str], wrong: &[&str]| {
        json!({
            "prompt": format!("{subset} {id}?"), "chosen": correct, "rejected": wrong,
            "num_correct": correct.len(), "total_completions": correct.len() + wrong.len(),
            "subset": subset, "id": id,
        })
    };
    let rows = [
        // Right; a best score shared by two; wrong; unreadable where it is wrong.
        row(
            "Math",
            "0",
            &["worth:9"],
            &["worth:2", "worth:3", "worth:4"],
        ),
        row(
            "Math",
            "1",
            &["worth:6"],
            &["worth:6 too", "worth:3", "worth:4"],
        ),
        row(
            "Math",
            "2",
            &["worth:6"],
            &["worth:7", "worth:3", "worth:4"],
        ),
        row(
            "Math",
            "3",
            &["worth:6"],
            &["silence", "worth:3", "worth:4"],
        ),
        row(
            "Focus",
            "0",
            &["silence a"],
            &["silence b", "silence c", "silence d"],
        ),
        row("Ties", "ref:1", &["worth:9"], &["worth:2"]),
        row(
            "Ties",
            "tied:1",
            &["worth:9", "worth:8"],
            &["worth:1", "worth:2"],
        ),
    ];
    lines(folder, "two.jsonl", &rows);
    let url = format!("{}/v1#grader", server.uri());
    let args = [
        "eval",
        "judge",
        "two.jsonl",
        "--constitution",
        "default.toml",
        "--critic",
        &url,
        "--out",
        "two.json",
        "--json",
    ];
    let printed = object(&rlaif(folder, &args).await);
    let report = &file(folder, "two.json")["judges"][0];
    assert_eq!(printed["report"]["judges"][0], *report);
    let bench = &report["rewardbench2"];
    near(&bench["subsets"]["Math"], 2.5 / 4.0, 1e-9);
    near(&bench["subsets"]["Focus"], 0.25, 0.0);
    // Margins of 7 and 6 over a spread of 1: everything, and 0.01 tanh(5).
    near(&bench["subsets"]["Ties"], 1.0 + 0.01 * 5f64.tanh(), 1e-6);
    assert_eq!(bench["unread"], json!({"Math": 1, "Focus": 1}));
    // Three subsets of six are no score of the benchmark.
    assert_eq!(bench["score"], Value::Null);
    assert_eq!(report["cost"]["scores"], 26);
    let page = std::fs::read_to_string(folder.join("two.html")).unwrap();
    assert!(page.contains("mean of the six subsets") && page.contains("1 not all read"));

    // Pairs in the same file, and what is for pairs alone, are said before anything is asked.
    let pair = json!({"prompt": "?", "chosen": "a", "rejected": "b"});
    lines(folder, "mixed.jsonl", &[rows[0].clone(), pair]);
    let asked = server.received_requests().await.unwrap().len();
    for (input, more, words) in [
        ("mixed.jsonl", vec![], "1 other rows are pairs"),
        ("two.jsonl", vec!["--attacks"], "are for pairs"),
    ] {
        let mut args = vec![
            "eval",
            "judge",
            input,
            "--constitution",
            "default.toml",
            "--critic",
            &url,
            "--out",
            "x.json",
        ];
        args.extend(more);
        let output = rlaif(folder, &args).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(server.received_requests().await.unwrap().len(), asked);
}

/// The judge is measured as it is used: with several samples, a rationale first, an abstention, a
/// jury or scores, also under attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_is_measured_with_the_settings_that_it_is_used_with() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // A grader has no 0 to give.
    let row = |i: usize| {
        json!({
            "prompt": format!("question {i}"),
            "chosen": format!("an answer of worth:{}", 5 + i % 5), "rejected": format!("worth:{}", 1 + i % 4),
        })
    };
    lines(folder, "rows.jsonl", &(0..12).map(row).collect::<Vec<_>>());
    let fair = Standin::start(
        Plan {
            bias: 0.0,
            ..Plan::default()
        },
        0,
    )
    .await
    .unwrap();
    let lean = Standin::start(
        Plan {
            bias: 2.0,
            ..Plan::default()
        },
        0,
    )
    .await
    .unwrap();
    let grades = grader().await;
    let urls = [
        format!("{}#lean", lean.url()),
        format!("{}#fair", fair.url()),
        format!("{}/v1#grader", grades.uri()),
    ];
    let juror = format!("{}=3", urls[1]);
    for (name, critic, how, calls) in [
        ("jury", &urls[0], vec!["--juror", &juror], 4.0),
        ("first", &urls[0], vec!["--rationale", "first"], 4.0),
        (
            "abstain",
            &urls[0],
            vec!["--abstain", "--combine", "probability"],
            2.0,
        ),
        (
            "score",
            &urls[2],
            vec!["--method", "score", "--principles", "whole"],
            2.0,
        ),
    ] {
        let out = format!("{name}.json");
        let mut args = vec![
            "eval",
            "judge",
            "rows.jsonl",
            "--constitution",
            "default.toml",
            "--critic",
            critic,
            "--attacks",
            "--attack-rows",
            "2",
            "--out",
            &out,
            "--json",
        ];
        args.extend(how);
        object(&rlaif(folder, &args).await);
        let judge = &file(folder, &out)["judges"][0];
        near(&judge["cost_per_label"]["calls"], calls, 1e-9);
        near(&judge["agreement"]["share"], 1.0, 0.0);
        assert_eq!(judge["attacks"]["pairs"], 2, "{name}");
        let padded = &judge["attacks"]["attacks"][7];
        assert_eq!(padded["attack"], "padding");
        near(&padded["unfenced"]["flipped"]["share"], 0.0, 0.0);
        if name == "jury" {
            // (2 + 3 · 0) / 4
            near(&judge["position_logit"]["mean"], 0.5, 1e-5);
            assert!(judge["judge"].as_str().unwrap().contains("1 more"));
        }
    }
}
