//! The binary, run as a person would, against an endpoint on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

#[path = "common/binary.rs"]
mod binary;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use binary::{code, done, rlaif, stderr};

/// A judge that knows better from worse: in a pair it prefers the response with "please" in it, by
/// 1.5 logits, and leans by 1 logit towards what it sees first. Asked for anything else it writes.
async fn server(delay: Duration) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .respond_with(move |request: &Request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let text = body["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| m["content"].as_str().unwrap())
                .collect::<Vec<_>>()
                .join("\n");
            ResponseTemplate::new(200)
                .set_delay(delay)
                .set_body_json(reply(&body, &text))
        })
        .mount(&server)
        .await;
    server
}

fn reply(body: &Value, text: &str) -> Value {
    let usage = json!({"prompt_tokens": text.len() / 4, "completion_tokens": 3});
    if body.get("logprobs").is_none() {
        // Depends on the conversation alone, so that a resumed run gives the same artefacts.
        let words = format!("please, {} characters", text.len());
        return json!({"choices": [{"message": {"content": words}, "finish_reason": "stop"}], "usage": usage});
    }
    let (a, b) = text.split_once("(B)").unwrap_or((text, ""));
    let worth = |s: &str| if s.contains("please") { 1.5 } else { 0.0 };
    let logit: f64 = worth(a) - worth(b) + 1.0;
    let p = 1.0 / (1.0 + (-logit).exp());
    let top = json!([{"token": "A", "logprob": p.ln()}, {"token": "B", "logprob": (1.0 - p).ln()}]);
    json!({"choices": [{"message": {"content": "A"}, "finish_reason": "stop",
            "logprobs": {"content": [{"token": "A", "logprob": p.ln(), "top_logprobs": top}]}}],
           "usage": usage})
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

const PAIRS: &str = "{\"prompt\": \"Q1\", \"chosen\": \"please wait\", \"rejected\": \"wait\", \"source\": \"x\"}\n\
    {\"prompt\": \"Q2\", \n\
    {\"prompt\": \"Q3\", \"completions\": [\"go\", \"please go\", \"leave\"]}\n";

#[tokio::test(flavor = "multi_thread")]
async fn judge_labels_pairs_and_a_second_run_asks_nothing() {
    let server = server(Duration::ZERO).await;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "pairs.jsonl", PAIRS);
    let critic = format!("{}/v1#judge", server.uri());
    let args = [
        "judge",
        "pairs.jsonl",
        "--constitution",
        "polite.toml",
        "--critic",
        &critic,
        "--out",
        "labels.jsonl",
        "--run",
        "kept",
        "--report",
        "page.html",
        "--json",
        // One row of three cannot be read.
        "--max-failed",
        "0.4",
    ];
    let output = done(rlaif(folder.path(), &args)).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // The broken line is named; the rows around it are labeled.
    assert!(
        stderr(&output).contains("pairs.jsonl:2:"),
        "{}",
        stderr(&output)
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    // One pair and three of three completions, each in both orders.
    assert_eq!(
        (summary["rows"].as_u64(), summary["calls"].as_u64()),
        (Some(4), Some(8))
    );
    for key in [
        "decided",
        "tie",
        "abstained",
        "unparseable",
        "refused",
        "truncated",
        "failed",
        "not_run",
        "retries",
        "cached",
        "usd",
        "usd_unsettled",
        "prompt_tokens",
        "completion_tokens",
        "wall_secs",
        "rows_per_sec",
    ] {
        assert!(summary.get(key).is_some(), "{key} is missing in {summary}");
    }
    let labels = rows(&folder.path().join("labels.jsonl"));
    let first = &labels[0];
    assert_eq!(
        (first["source"].as_str(), first["chosen"].as_str()),
        (Some("x"), Some("please wait"))
    );
    assert_eq!(first["input_chosen"], "please wait");
    // The bias of one logit cancels: sigma(1.5) is 0.8176, whatever came first.
    assert!(
        (first["p_chosen"].as_f64().unwrap() - 0.8176).abs() < 1e-3,
        "{first}"
    );
    // "go" against "leave": equal worth is a tie and has no sides.
    let tie = labels.iter().find(|r| r["outcome"] == "tie").unwrap();
    assert!(tie["chosen"].is_null() && tie["rejected"].is_null());
    assert!(
        (summary["judge"]["position"]["logit"]["mean"]
            .as_f64()
            .unwrap()
            - 1.0)
            .abs()
            < 1e-3
    );
    assert!(
        std::fs::read_to_string(folder.path().join("page.html"))
            .unwrap()
            .contains("please wait")
    );

    let before = std::fs::read(folder.path().join("labels.jsonl")).unwrap();
    let asked = server.received_requests().await.unwrap().len();
    let output = done(rlaif(folder.path(), &args)).await;
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (again["calls"].as_u64(), again["cached"].as_u64()),
        (Some(0), Some(8))
    );
    assert_eq!(server.received_requests().await.unwrap().len(), asked);
    assert_eq!(
        std::fs::read(folder.path().join("labels.jsonl")).unwrap(),
        before
    );

    let output = done(rlaif(
        folder.path(),
        &["export", "labels.jsonl", "--to", "trl"],
    ))
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("left out: 1 tie"),
        "{}",
        stderr(&output)
    );
    let exported = rows(&folder.path().join("labels.trl.jsonl"));
    assert_eq!(exported.len(), 3);
    assert!(
        exported
            .iter()
            .all(|r| r["chosen"].as_str().unwrap().contains("please"))
    );
}

fn recipe(folder: &Path, uri: &str, prompts: usize) {
    let lines: String = (0..prompts)
        .map(|i| format!("{{\"prompt\": \"Question {i}?\"}}\n"))
        .collect();
    write(folder, "prompts.jsonl", &lines);
    let text = format!(
        "seed = 5\nconstitution = \"default.toml\"\nprompts = \"prompts.jsonl\"\nconcurrency = 4\n\
         [models.m]\nurl = \"{uri}/v1#m\"\n[candidates]\nmodel = \"m\"\n[critique]\nmodel = \"m\"\n\
         template = \"cai\"\nprinciples = \"sampled\"\n[revise]\nmodel = \"m\"\nsteps = 2\n\
         [judge]\nmodel = \"m\"\n[export]\nto = [\"trl\", \"verl\"]\n"
    );
    write(folder, "recipe.toml", &text);
}

/// Hashes of the stages' files, from the manifest.
fn hashes(folder: &Path) -> Vec<String> {
    let manifest = std::fs::read_to_string(folder.join("run/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["stages"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|s| {
            s["outputs"]
                .as_object()
                .unwrap()
                .values()
                .cloned()
                .collect::<Vec<_>>()
        })
        .map(|o| o["sha256"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_goes_on_to_the_same_artifacts() {
    let server = server(Duration::from_millis(15)).await;
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&whole, &killed] {
        recipe(folder.path(), &server.uri(), 12);
    }
    let output = done(rlaif(whole.path(), &["run", "recipe.toml", "--json"])).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let expected = hashes(whole.path());
    assert_eq!(expected.len(), 5);
    let undisturbed = server.received_requests().await.unwrap().len();

    // Killed at several instants, each time a little later, then let run to its end.
    let mut kills = 0;
    for ms in [60u64, 120, 180, 240] {
        let mut child = rlaif(killed.path(), &["run", "recipe.toml"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(ms)).await;
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "no run was still going when it was to be killed");
    let output = done(rlaif(killed.path(), &["run", "recipe.toml", "--json"])).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(hashes(killed.path()), expected);
    // Paid twice: at most what was in flight at each kill (four rows of up to three calls, and
    // what the endpoint had taken in when the process died).
    let asked = server.received_requests().await.unwrap().len() - undisturbed;
    assert!(
        asked <= undisturbed + kills * 16,
        "{asked} calls for {undisturbed}"
    );

    // A further run changes nothing and asks nothing; one more prompt asks for itself only.
    let before = server.received_requests().await.unwrap().len();
    let output = done(rlaif(killed.path(), &["run", "recipe.toml"])).await;
    assert_eq!(
        stderr(&output).matches("(unchanged)").count(),
        5,
        "{}",
        stderr(&output)
    );
    assert_eq!(server.received_requests().await.unwrap().len(), before);
    recipe(killed.path(), &server.uri(), 13);
    done(rlaif(killed.path(), &["run", "recipe.toml"])).await;
    // Candidate, critique, revision, critique, revision, and two orders.
    assert_eq!(server.received_requests().await.unwrap().len(), before + 7);
    for file in [
        "export/trl.jsonl",
        "export/verl.parquet",
        "export/sft.jsonl",
        "report.html",
    ] {
        assert!(killed.path().join("run").join(file).is_file(), "{file}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_leaves_a_run_that_goes_on_and_a_second_process_is_refused() {
    let server = server(Duration::from_millis(80)).await;
    let folder = tempfile::tempdir().unwrap();
    recipe(folder.path(), &server.uri(), 40);
    let child = rlaif(folder.path(), &["run", "recipe.toml"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let second = done(rlaif(folder.path(), &["run", "recipe.toml"])).await;
    assert_eq!(code(&second), 2);
    assert!(
        stderr(&second).contains("in use by another process"),
        "{}",
        stderr(&second)
    );
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("stopped before the end") && said.contains("same command again"),
        "{said}"
    );
    let output = done(rlaif(folder.path(), &["run", "recipe.toml"])).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("finished before"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_said_clearly_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    recipe(at, "http://127.0.0.1:9", 20);
    let good = std::fs::read_to_string(at.join("recipe.toml")).unwrap();
    write(
        at,
        "typo.toml",
        &good
            .replace("steps = 2", "stepz = 2")
            .replace("seed", "sede"),
    );
    write(
        at,
        "key.toml",
        &good.replace("#m\"", "#m\"\napi_key_env = \"RLAIF_NO_SUCH_KEY\""),
    );
    write(
        at,
        "nofile.toml",
        &good.replace("prompts.jsonl", "absent.jsonl"),
    );
    write(
        at,
        "template.toml",
        &good.replace("template = \"cai\"", "template = \"mine.j2\""),
    );
    write(
        at,
        "mine.j2",
        "[[turns]]\nrole = \"user\"\ncontent = \"{{ prompt }} {{ respnse }}\"\n",
    );
    write(at, "broken.toml", "seed = = 1\n");
    write(at, "pairs.jsonl", PAIRS);
    write(at, "empty.jsonl", "{\"nothing\": 1}\n");
    write(at, "prompts-only.jsonl", "{\"prompt\": \"Q\"}\n");
    let judge = |input: &'static str, critic: &'static str, more: &[&'static str]| {
        let mut args = vec![
            "judge",
            input,
            "--constitution",
            "default.toml",
            "--critic",
            critic,
            "--out",
            "o.jsonl",
        ];
        args.extend(more);
        args
    };
    let down = "http://127.0.0.1:9/v1#m";
    let cases: Vec<(Vec<&str>, i32, Vec<&str>)> = vec![
        (
            vec!["plan", "typo.toml"],
            2,
            vec![
                "unknown key `revise.stepz`",
                "did you mean `steps`?",
                "unknown key `sede`",
                "did you mean `seed`?",
            ],
        ),
        (
            vec!["plan", "key.toml"],
            2,
            vec!["RLAIF_NO_SUCH_KEY", "not set"],
        ),
        (
            vec!["plan", "nofile.toml"],
            2,
            vec!["absent.jsonl", "check the path"],
        ),
        (
            vec!["plan", "template.toml"],
            2,
            vec!["mine.j2", "`respnse`"],
        ),
        (vec!["plan", "broken.toml"], 2, vec!["broken.toml"]),
        (
            vec!["plan", "none.toml"],
            2,
            vec!["none.toml", "check the path"],
        ),
        (
            vec!["run", "recipe.toml", "--only", "judging"],
            2,
            vec!["`judging`", "candidates, critique"],
        ),
        (
            vec!["run", "recipe.toml", "--run", "downrun"],
            3,
            vec!["cannot connect", "is the server running"],
        ),
        (judge("absent.jsonl", down, &[]), 2, vec!["absent.jsonl"]),
        (
            judge("empty.jsonl", down, &[]),
            2,
            vec!["empty.jsonl:1:", "`nothing`"],
        ),
        (
            judge("prompts-only.jsonl", down, &[]),
            2,
            vec!["two completions"],
        ),
        (
            judge("pairs.jsonl", "gpt-4", &[]),
            2,
            vec!["`gpt-4`", "http://"],
        ),
        (
            judge("pairs.jsonl", "http://u:hunter2@h/v1#m", &[]),
            2,
            vec!["user name or password"],
        ),
        (
            judge("pairs.jsonl", down, &["--api-key-env", "RLAIF_NO_SUCH_KEY"]),
            2,
            vec!["RLAIF_NO_SUCH_KEY"],
        ),
        (
            judge("pairs.jsonl", down, &["--pairs", "some"]),
            2,
            vec!["`some`", "random:N"],
        ),
        (
            vec!["export", "pairs.jsonl"],
            2,
            vec!["neither a run folder"],
        ),
        (vec!["judge"], 2, vec!["Usage"]),
    ];
    for (args, exit, words) in cases {
        let output = done(rlaif(at, &args)).await;
        let said = stderr(&output);
        assert_eq!(code(&output), exit, "{args:?}: {said}");
        for word in words {
            // Diagnostics are wrapped to the terminal's width: words count, not line ends.
            let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(word), "{args:?}: `{word}` not in {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn critique_and_revise_work_on_loose_files() {
    let server = server(Duration::ZERO).await;
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "in.jsonl",
        "{\"instruction\": \"Q\", \"output\": \"No.\"}\n",
    );
    let model = format!("{}/v1#m", server.uri());
    let output = done(rlaif(
        folder.path(),
        &[
            "critique",
            "in.jsonl",
            "--constitution",
            "polite.toml",
            "--critic",
            &model,
            "--out",
            "c.jsonl",
        ],
    ))
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let critiques = rows(&folder.path().join("c.jsonl"));
    assert!(
        critiques[0]["critique"]
            .as_str()
            .unwrap()
            .starts_with("please")
    );
    assert_eq!(critiques[0]["adherence"][0]["grade"], Value::Null);
    let revise = |input: &'static str, more: &'static [&'static str]| {
        let mut args: Vec<String> = [
            "revise",
            input,
            "--constitution",
            "polite.toml",
            "--out",
            "r.jsonl",
            "--policy",
            &model,
        ]
        .iter()
        .map(|s| (*s).to_owned())
        .collect();
        args.extend(more.iter().map(|s| (*s).to_owned()));
        args
    };
    let call = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        done(rlaif(folder.path(), &args))
    };
    let output = call(revise("in.jsonl", &[])).await;
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("have no critique"),
        "{}",
        stderr(&output)
    );
    let output = call(revise("c.jsonl", &[])).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let revised = &rows(&folder.path().join("r.jsonl"))[0];
    assert_eq!(revised["completions"][0], "No.");
    assert_eq!(revised["completions"][1], revised["revision"]);
    // What it wrote is a pair that `judge` takes.
    let output = done(rlaif(
        folder.path(),
        &[
            "judge",
            "r.jsonl",
            "--constitution",
            "polite.toml",
            "--judge",
            &model,
            "--out",
            "l.jsonl",
        ],
    ))
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(
        rows(&folder.path().join("l.jsonl"))[0]["chosen"],
        revised["revision"]
    );
    assert!(!folder.path().join("l.jsonl.partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_init_writes_passes_plan() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["local", "api"] {
        let output = done(rlaif(folder.path(), &["init", kind, "--judge", kind])).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let recipe = format!("{kind}/recipe.toml");
        let mut plan = rlaif(folder.path(), &["plan", &recipe, "--json"]);
        plan.env("OPENAI_API_KEY", "planted-key-value");
        let output = done(plan).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(plan["stages"].as_array().unwrap().len(), 4, "{plan}");
        assert_eq!(plan["stages"][3]["calls"], 6);
        let judge = &plan["stages"][3];
        // A verdict is one token a call, and the range lies round the estimate.
        assert_eq!(judge["completion_tokens"], 6);
        let range = &judge["prompt_tokens_range"];
        let estimate = judge["prompt_tokens"].as_u64().unwrap();
        assert!(range[0].as_u64().unwrap() < estimate && estimate < range[1].as_u64().unwrap());
        if kind == "api" {
            // gpt-4o has a price in the shipped table.
            let usd = judge["usd"].as_f64().unwrap();
            let (least, most) = (
                judge["usd_range"][0].as_f64(),
                judge["usd_range"][1].as_f64(),
            );
            assert!(least.unwrap() < usd && usd < most.unwrap(), "{judge}");
        }
        assert!(!stderr(&output).contains("planted-key-value"));
    }
}

/// Needs a small file system of its own, so it runs where the tests may mount one.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_what_is_finished_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&disk)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if !mount("size=400k") {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let server = server(Duration::ZERO).await;
    let pairs: String = (0..600)
        .map(|i| format!("{{\"prompt\": \"Q{i}\", \"completions\": [\"please {i}\", \"no\"]}}\n"))
        .collect();
    write(folder.path(), "pairs.jsonl", &pairs);
    let critic = format!("{}/v1#judge", server.uri());
    let args = [
        "judge",
        "pairs.jsonl",
        "--constitution",
        "polite.toml",
        "--critic",
        &critic,
        "--out",
        "disk/l.jsonl",
    ];
    let full = done(rlaif(folder.path(), &args)).await;
    let kept = std::fs::read_to_string(disk.join("l.jsonl.partial")).unwrap_or_default();
    let grown = mount("remount,size=16m");
    let again = done(rlaif(folder.path(), &args)).await;
    let labels = std::fs::read_to_string(disk.join("l.jsonl")).unwrap_or_default();
    Command::new("umount")
        .arg("-l")
        .arg(&disk)
        .status()
        .unwrap();
    assert_eq!(code(&full), 3, "{}", stderr(&full));
    let said = stderr(&full);
    assert!(
        said.contains("l.jsonl.partial") && said.contains("free some space"),
        "{said}"
    );
    assert!(
        kept.ends_with('\n') && kept.lines().count() > 3,
        "{} lines",
        kept.lines().count()
    );
    assert!(grown);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert_eq!(labels.lines().count(), 600);
    assert!(
        stderr(&again).contains("finished before"),
        "{}",
        stderr(&again)
    );
}

/// Rows that a dead server failed are no answers: they are said to be open, and asked again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_dead_server_failed_are_not_counted_as_answered() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    recipe(folder.path(), &format!("http://127.0.0.1:{port}"), 20);
    let output = done(rlaif(folder.path(), &["run", "recipe.toml"])).await;
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("0 of 20 rows"), "{said}");
    let server = server(Duration::ZERO).await;
    recipe(folder.path(), &server.uri(), 20);
    let output = done(rlaif(folder.path(), &["run", "recipe.toml"])).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

/// A finished output is neither paid for again nor replaced, and an ending is not a lie.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_output_is_asked_for_again_only_by_overwrite() {
    let server = server(Duration::ZERO).await;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "pairs.jsonl", PAIRS);
    let critic = format!("{}/v1#judge", server.uri());
    let judge = |more: &[&str]| {
        let mut args = vec![
            "judge",
            "pairs.jsonl",
            "--constitution",
            "default.toml",
            "--critic",
            &critic,
            // One row of three cannot be read.
            "--max-failed",
            "0.4",
        ];
        args.extend(more);
        rlaif(folder.path(), &args)
    };
    let first = done(judge(&["--out", "out.jsonl"])).await;
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    let asked = server.received_requests().await.unwrap().len();
    let text = std::fs::read(folder.path().join("out.jsonl")).unwrap();
    let second = done(judge(&["--out", "out.jsonl"])).await;
    assert_eq!(code(&second), 2, "{}", stderr(&second));
    assert!(
        stderr(&second).contains("nothing was asked"),
        "{}",
        stderr(&second)
    );
    assert_eq!(server.received_requests().await.unwrap().len(), asked);
    let again = done(judge(&["--out", "out.jsonl", "--overwrite"])).await;
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert!(server.received_requests().await.unwrap().len() > asked);
    assert_eq!(
        std::fs::read(folder.path().join("out.jsonl")).unwrap(),
        text
    );
    let table = done(judge(&["--out", "out.csv"])).await;
    assert_eq!(code(&table), 2, "{}", stderr(&table));
    assert!(stderr(&table).contains(".parquet"), "{}", stderr(&table));
}
