//! What stops a run through the binary: a budget, a signal, a server that is too slow, rows that
//! cannot be read, an output that would shrink.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

#[path = "common/binary.rs"]
mod binary;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rlaif_standin::{Plan, Standin};
use serde_json::Value;

use binary::{code, done, json, judge, pairs, rlaif, rows, stderr};

/// Starts the binary, sends it a signal after a while, and waits for its end; how long that took.
#[cfg(unix)]
async fn signalled(
    folder: &Path,
    args: &[&str],
    after: Duration,
    signal: &str,
) -> (Output, Duration) {
    let child = rlaif(folder, args)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tokio::time::sleep(after).await;
    let asked = Instant::now();
    Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
        .await
        .unwrap();
    (output, asked.elapsed())
}

async fn standin(plan: Plan) -> (Standin, String) {
    let standin = Standin::start(plan, 0).await.unwrap();
    let url = format!("{}#standin", standin.url());
    (standin, url)
}

fn slow(ms: u64) -> Plan {
    Plan {
        latency: Duration::from_millis(ms),
        ..Plan::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_at_its_budgets_end_has_every_row_and_goes_on() {
    let (standin, url) = standin(Plan::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let prompts: String = (0..20)
        .map(|i| format!("{{\"prompt\": \"Question {i}?\"}}\n"))
        .collect();
    std::fs::write(at.join("prompts.jsonl"), prompts).unwrap();
    let recipe = format!(
        "constitution = \"polite.toml\"\nprompts = \"prompts.jsonl\"\nconcurrency = 2\n\
         [models.m]\nurl = \"{url}\"\nconcurrency = 2\n[candidates]\nmodel = \"m\"\n\
         [critique]\nmodel = \"m\"\ntemplate = \"cai\"\n[revise]\nmodel = \"m\"\n\
         [judge]\nmodel = \"m\"\n"
    );
    std::fs::write(at.join("recipe.toml"), recipe).unwrap();
    // 20 candidates, 20 critiques, 20 revisions, 40 orders: each limit ends in another stage.
    let stages = [
        ("candidates.jsonl", "7", "candidates", 7),
        ("critiques.jsonl", "29", "critique", 9),
        ("revisions.jsonl", "53", "revise", 13),
        ("judgments.jsonl", "70", "judge", 5),
    ];
    for (file, calls, stage, reached) in stages {
        let args = ["run", "recipe.toml", "--max-calls", calls, "--json"];
        let output = done(rlaif(at, &args)).await;
        let said = stderr(&output);
        assert_eq!(code(&output), 1, "{said}");
        assert!(
            said.contains("budget is reached") && said.contains("--max-calls"),
            "{said}"
        );
        assert!(said.contains(&format!("rows of `{stage}`")), "{said}");
        let records = rows(&at.join("run").join(file));
        let left: Vec<_> = records
            .iter()
            .filter(|r| r["outcome"] == "not_run")
            .collect();
        assert_eq!(records.len(), 20, "{stage}");
        // Two orders of a pair may both be half-way when the last call is spent.
        let answered = 20 - left.len();
        assert!(
            answered <= reached && answered + 2 >= reached,
            "{answered} of {reached} in {stage}"
        );
        for r in left {
            let why = r["error"].as_str().or(r["reason"].as_str()).unwrap();
            assert!(why.contains("budget"), "{r}");
            assert!(r.get("p_first").is_none_or(Value::is_null), "{r}");
        }
    }
    // What the stand-in writes has no worth that it could judge by: every label ends unparseable.
    let args = [
        "run",
        "recipe.toml",
        "--max-calls",
        "1000",
        "--set",
        "max_failed=1.0",
    ];
    let output = done(rlaif(at, &args)).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(standin.account().repeated, 0);
    for (file, ..) in stages {
        let records = rows(&at.join("run").join(file));
        assert!(records.iter().all(|r| r["outcome"] != "not_run"), "{file}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisors_signal_drains_what_was_sent_and_nothing_else() {
    let (standin, url) = standin(slow(700)).await;
    for signal in ["-TERM", "-INT", "-HUP"] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        pairs(at, 60);
        let before = standin.account();
        // Two calls at a time: the second call of a row waits while the first is under way.
        let seed = format!("{}", signal.len() * 7 + usize::from(signal.as_bytes()[1]));
        let args = judge(&url, &["--concurrency", "2", "--seed", &seed]);
        let (output, took) = signalled(at, &args, Duration::from_secs(1), signal).await;
        let said = stderr(&output);
        assert_eq!(code(&output), 1, "{said}");
        assert!(
            said.contains("stopping:") && said.contains("same command again"),
            "{said}"
        );
        // One answer's time at most, where draining every row that had begun would take two.
        assert!(took < Duration::from_millis(1300), "{said}");
        let after = standin.account();
        let sent = after.requests - before.requests;
        assert!((2..=6).contains(&sent), "{sent} requests");
        // Whatever was sent has its answer, and the journal has it.
        assert_eq!(after.answered - before.answered, sent);
        let journal = ["calls", "labels.jsonl.partial.calls", "--json"];
        let account = json(&done(rlaif(at, &journal)).await);
        assert_eq!(account["account"]["answered"], sent);
        assert_eq!(account["account"]["unsettled"], 0, "{account}");
        assert_eq!(account["account"]["failed"], 0, "{account}");
    }
    assert_eq!(standin.account().repeated, 0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_a_batch_stops_at_once_and_collects_it_later() {
    let plan = Plan {
        batch: Some(Duration::from_secs(6)),
        ..Plan::default()
    };
    let (standin, url) = standin(plan).await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    pairs(at, 10);
    let args = judge(&url, &["--batch", "--batch-poll", "0.5"]);
    // Calls gather for two seconds.
    let (output, took) = signalled(at, &args, Duration::from_secs(4), "-TERM").await;
    let said = stderr(&output);
    assert_eq!(code(&output), 1, "{said}");
    assert!(took < Duration::from_secs(1), "{said}");
    assert!(said.contains("submitted, 19 calls"), "{said}");
    let output = done(rlaif(at, &args)).await;
    let said = stderr(&output);
    assert_eq!(code(&output), 0, "{said}");
    assert!(said.contains("is taken up, 19 calls"), "{said}");
    assert!(!said.contains("submitted"), "{said}");
    assert_eq!(standin.account().repeated, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_serves_one_at_a_time_is_not_asked_for_more_than_it_gets_done() {
    // Ten answers a second, and a second's patience: more than ten calls in flight cannot all be
    // answered in time, and those given up are worked on all the same.
    let plan = Plan {
        serves: Some(1),
        ..slow(100)
    };
    let (standin, url) = standin(plan).await;
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path(), 60);
    let output = done(rlaif(
        folder.path(),
        &judge(&url, &["--timeout", "1", "--max-failed", "0"]),
    ))
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let summary = json(&output);
    assert_eq!(summary["failed"], 0, "{summary}");
    // The window was too large once or twice while it was sought.
    let lost = standin.account().answered.saturating_sub(120);
    assert!(lost <= 40, "{lost} answers came too late: {summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_output_is_not_replaced_without_a_word() {
    let (standin, url) = standin(Plan::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    pairs(at, 12);
    for out in ["labels.jsonl", "labels.jsonl.gz", "labels.parquet"] {
        let with = |more: &[&'static str]| -> Vec<String> {
            let mut args = judge(&url, &["--run", "run"]);
            args.extend(more);
            let args = args.into_iter();
            args.map(|a| if a == "labels.jsonl" { out } else { a }.to_owned())
                .collect()
        };
        let run = async |more: &[&'static str]| {
            let args = with(more);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            done(rlaif(at, &args)).await
        };
        let output = run(&[]).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let whole = std::fs::read(at.join(out)).unwrap();
        let asked = standin.account().requests;
        // Fewer rows into the same file.
        let output = run(&["--limit", "3", "--seed", "4"]).await;
        let said = stderr(&output);
        assert_eq!(code(&output), 2, "{said}");
        assert!(
            said.contains("has 12 rows and would be replaced by 3") && said.contains("--overwrite"),
            "{said}"
        );
        assert_eq!(std::fs::read(at.join(out)).unwrap(), whole);
        assert_eq!(standin.account().requests, asked);
        // The same command again, and as many rows, are no loss.
        let output = run(&[]).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let output = run(&["--limit", "3", "--overwrite"]).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_ne!(std::fs::read(at.join(out)).unwrap(), whole);
        std::fs::remove_file(at.join(out)).unwrap();
    }
    // A log that was left beside a finished output does not open the door either.
    let args = judge(&url, &["--seed", "9"]);
    let output = done(rlaif(at, &args)).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    std::fs::write(at.join("labels.jsonl.partial"), "").unwrap();
    let args = judge(&url, &["--seed", "9", "--limit", "3"]);
    let output = done(rlaif(at, &args)).await;
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert_eq!(rows(&at.join("labels.jsonl")).len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_read_count_as_rows_without_a_label() {
    let (_standin, url) = standin(Plan::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    pairs(at, 9);
    let text = std::fs::read_to_string(at.join("pairs.jsonl")).unwrap();
    std::fs::write(at.join("pairs.jsonl"), text + "{\"prompt\": \n").unwrap();
    let args = judge(&url, &["--run", "run"]);
    let output = done(rlaif(at, &args)).await;
    let said = stderr(&output);
    assert_eq!(code(&output), 1, "{said}");
    assert!(
        said.contains("1 of 10 rows of `pairs.jsonl` cannot be read")
            && said.contains("pairs.jsonl:10:"),
        "{said}"
    );
    // The others have their labels.
    assert_eq!(rows(&at.join("labels.jsonl")).len(), 9);
    let args = judge(&url, &["--run", "run", "--max-failed", "0.1"]);
    let output = done(rlaif(at, &args)).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(json(&output)["malformed"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_those_of_the_calls_that_were_asked_for() {
    let (_standin, url) = standin(Plan::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    pairs(at, 5);
    let output = done(rlaif(at, &judge(&url, &["--run", "run"]))).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let critique: Vec<&str> = vec![
        "critique",
        "pairs.jsonl",
        "--constitution",
        "polite.toml",
        "--critic",
        &url,
        "--out",
        "critiques.jsonl",
        "--run",
        "run",
    ];
    let output = done(rlaif(at, &critique)).await;
    // What the stand-in writes is no critique that can be read; it was answered all the same.
    assert!(code(&output) <= 1, "{}", stderr(&output));
    let answered = async |more: &[&str]| {
        let mut args = vec!["calls", "run", "--json"];
        args.extend(more);
        let account = json(&done(rlaif(at, &args)).await);
        account["account"]["answered"].as_u64().unwrap()
    };
    assert_eq!(answered(&["--stage", "judge"]).await, 10);
    assert_eq!(answered(&["--stage", "nothing"]).await, 0);
    assert!(answered(&["--stage", "critique"]).await >= 10);
    let all = answered(&[]).await;
    assert_eq!(all, 10 + answered(&["--stage", "critique"]).await);
    assert_eq!(answered(&["--state", "failed"]).await, 0);
    let output = done(rlaif(at, &["calls", "run", "--stage", "judge"])).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("of the calls that pass the filter:") && text.contains("10 answered"),
        "{text}"
    );
}
