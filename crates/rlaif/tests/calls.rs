//! Calls through the binary: budgets, the journal, secrets, and what an endpoint can do wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

#[path = "common/binary.rs"]
mod binary;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rlaif_standin::{Faults, Plan, Standin};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use binary::{code, done, json, pairs, rlaif, rows, stderr};

fn judge<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = binary::judge(url, &["--run", "run"]);
    args.extend(more);
    args
}

const PRICES: &str =
    "[[prices]]\nhost = \"127.0.0.1\"\nmodels = { standin = [10.0, 30.0], none = [0.0, 0.0] }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_stops_a_run_that_can_go_on() {
    let standin = Standin::start(Plan::default(), 0).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    pairs(at, 40);
    std::fs::write(at.join("prices.toml"), PRICES).unwrap();
    let url = format!("{}#standin", standin.url());
    let refused = done(rlaif(at, &judge(&url, &["--max-usd", "1"]))).await;
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("--prices"),
        "{}",
        stderr(&refused)
    );
    let more = [
        "--prices",
        "prices.toml",
        "--max-usd",
        "0.10",
        "--concurrency",
        "4",
    ];
    let output = done(rlaif(at, &judge(&url, &more))).await;
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("budget is reached") && said.contains("--max-usd"),
        "{said}"
    );
    let summary = json(&output);
    let (decided, left) = (
        summary["decided"].as_u64().unwrap(),
        summary["not_run"].as_u64().unwrap(),
    );
    assert!(decided > 0 && left > 0, "{summary}");
    assert_eq!(
        (decided + left, summary["budget_reached"].as_bool()),
        (40, Some(true))
    );
    let usd = summary["usd"].as_f64().unwrap();
    assert!(usd > 0.0 && usd <= 0.10, "{summary}");
    // Every row is there, and those not reached have no number in a label's place.
    let labels = rows(&at.join("labels.jsonl"));
    let open: Vec<_> = labels
        .iter()
        .filter(|r| r["outcome"] == "not_run")
        .collect();
    assert_eq!((labels.len(), open.len() as u64), (40, left));
    assert!(
        open.iter()
            .all(|r| r["p_chosen"].is_null() && r["chosen"].is_null())
    );
    let more = ["--prices", "prices.toml", "--max-usd", "10"];
    let output = done(rlaif(at, &judge(&url, &more))).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // Two orders of 40 rows, each paid for once.
    let theirs = standin.account();
    assert_eq!((theirs.answered, theirs.repeated), (80, 0));
    // The account is the endpoint's own.
    let output = done(rlaif(at, &["calls", "run", "--json"])).await;
    let account = &json(&output)["account"];
    assert_eq!(account["answered"], 80);
    assert_eq!(account["prompt_tokens"], theirs.prompt_tokens);
    let usd = (theirs.prompt_tokens as f64 * 10.0 + theirs.completion_tokens as f64 * 30.0) / 1e6;
    assert!(
        (account["settled_usd"].as_f64().unwrap() - usd).abs() < 1e-9,
        "{account}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed_shown_and_exported() {
    let standin = Standin::start(Plan::default(), 0).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    pairs(at, 6);
    let url = format!("{}#standin", standin.url());
    let output = done(rlaif(at, &judge(&url, &[]))).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // The file is whole by itself: what stood in its log is folded in when a run ends.
    assert!(!at.join("run/calls.sqlite-wal").exists());
    std::fs::copy(at.join("run/calls.sqlite"), at.join("alone.sqlite")).unwrap();
    let output = done(rlaif(at, &["calls", "alone.sqlite"])).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("settled:   12 answered"), "{text}");
    let output = done(rlaif(at, &["calls", "run", "--limit", "3", "--json"])).await;
    let listed = json(&output);
    assert_eq!(listed["calls"].as_array().unwrap().len(), 3);
    let id = listed["calls"][0]["id"].to_string();
    let shown = json(&done(rlaif(at, &["calls", "run", "--show", &id, "--json"])).await);
    assert_eq!(shown["request"]["model"], "standin");
    assert!(
        shown["response"]["choices"][0]["logprobs"]["content"].is_array(),
        "{shown}"
    );
    let row = shown["row"].as_str().unwrap();
    let args = ["calls", "run", "--row", row, "--export", "x.jsonl"];
    let output = done(rlaif(at, &args)).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let exported = rows(&at.join("x.jsonl"));
    // Both orders of that row.
    assert_eq!(exported.len(), 2);
    assert!(
        exported
            .iter()
            .all(|c| c["row"] == row && c["request"].is_object())
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("settled:   2 answered"), "{text}");
    let output = done(rlaif(at, &["calls", "run"])).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("settled:   12 answered"), "{text}");
    for (args, exit, words) in [
        (vec!["calls", "nowhere"], 2, "nowhere"),
        (vec!["calls", "run", "--show", "999"], 2, "no call `999`"),
        (vec!["calls", "pairs.jsonl"], 2, "pairs.jsonl"),
    ] {
        let output = done(rlaif(at, &args)).await;
        assert_eq!(code(&output), exit, "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    // A journal that is damaged, and one of a newer version.
    let journal = at.join("run/calls.sqlite");
    let good = std::fs::read(&journal).unwrap();
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&7u32.to_be_bytes());
    for (bytes, words) in [
        (newer, "a newer rlaif wrote it"),
        (
            b"no database at all, but some text of a certain length".repeat(100),
            "move the file away",
        ),
    ] {
        for ending in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(at.join(format!("run/calls.sqlite{ending}")));
        }
        std::fs::write(&journal, bytes).unwrap();
        let output = done(rlaif(at, &judge(&url, &[]))).await;
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_does_wrong_is_said_with_advice() {
    let cases: Vec<(ResponseTemplate, i32, Vec<&str>, u64)> = vec![
        (
            // Some servers repeat what they were given.
            ResponseTemplate::new(401).set_body_string(
                "{\"error\":{\"message\":\"bad key: Bearer sk-planted-key-1234\"}}",
            ),
            2,
            vec!["`RLAIF_PLANTED`", "--api-key-env"],
            2,
        ),
        (
            ResponseTemplate::new(404)
                .set_body_string("{\"error\":{\"message\":\"no such model\"}}"),
            2,
            vec!["`m`", "the model's name"],
            2,
        ),
        (
            ResponseTemplate::new(429).set_body_string(
                "{\"error\":{\"code\":\"insufficient_quota\",\"message\":\"quota\"}}",
            ),
            2,
            vec!["quota is used up", "same command again"],
            2,
        ),
        (
            ResponseTemplate::new(200).set_body_raw("<html>hello</html>", "text/html"),
            3,
            vec!["web page", "/v1"],
            2,
        ),
    ];
    for (reply, exit, words, most) in cases {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .respond_with(reply)
            .mount(&server)
            .await;
        let folder = tempfile::tempdir().unwrap();
        pairs(folder.path(), 20);
        let url = format!("{}/v1#m", server.uri());
        let args = judge(
            &url,
            &["--api-key-env", "RLAIF_PLANTED", "--concurrency", "1"],
        );
        let mut command = rlaif(folder.path(), &args);
        command.env("RLAIF_PLANTED", "sk-planted-key-1234");
        let output = done(command).await;
        let said = stderr(&output);
        assert_eq!(code(&output), exit, "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` not in {said}");
        }
        // It stops at once: the other order of the first row may be under way.
        let asked = server.received_requests().await.unwrap().len() as u64;
        assert!(asked <= most, "{asked}");
        assert_no_secret(folder.path(), &output);
    }
    // A context that is too long is the row's own fate; the others go on.
    let server = MockServer::start().await;
    let body = "{\"error\":{\"message\":\"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.\"}}";
    let reply = ResponseTemplate::new(400).set_body_string(body);
    Mock::given(method("POST"))
        .respond_with(reply)
        .mount(&server)
        .await;
    let folder = tempfile::tempdir().unwrap();
    // More than the rows after which an endpoint counts as down.
    pairs(folder.path(), 12);
    let url = format!("{}/v1#m", server.uri());
    let output = done(rlaif(folder.path(), &judge(&url, &["--max-failed", "1"]))).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let labels = rows(&folder.path().join("labels.jsonl"));
    assert_eq!(labels.len(), 12);
    assert!(
        labels[0]["orders"].to_string().contains("5000"),
        "{}",
        labels[0]
    );
    // TLS where there is none.
    let standin = Standin::start(Plan::default(), 0).await.unwrap();
    let url = format!("{}#standin", standin.url().replace("http:", "https:"));
    let output = done(rlaif(folder.path(), &judge(&url, &["--seed", "1"]))).await;
    assert!(
        code(&output) == 1 || code(&output) == 3,
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("cannot connect to `https://")
            && stderr(&output).contains("is it `http://`?"),
        "{}",
        stderr(&output)
    );
}

/// No file and no output holds the planted key.
fn assert_no_secret(folder: &Path, output: &Output) {
    let key = b"sk-planted-key-1234";
    let holds = |bytes: &[u8]| bytes.windows(key.len()).any(|w| w == key);
    assert!(!holds(&output.stdout) && !holds(&output.stderr));
    let mut folders = vec![folder.to_path_buf()];
    let mut files = 0;
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                assert!(!holds(&std::fs::read(&path).unwrap()), "{}", path.display());
            }
        }
    }
    assert!(files > 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_artifact_holds_the_key() {
    let plan = Plan {
        faults: Faults::all(0.02),
        ..Plan::default()
    };
    let standin = Standin::start(plan, 0).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path(), 60);
    let url = format!("{}#standin", standin.url());
    let more = [
        "--api-key-env",
        "RLAIF_PLANTED",
        "--timeout",
        "1",
        "--report",
        "page.html",
    ];
    let mut command = rlaif(folder.path(), &judge(&url, &more));
    command.env("RLAIF_PLANTED", "sk-planted-key-1234");
    let output = done(command).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let args = ["calls", "run", "--export", "calls.jsonl"];
    let exported = done(rlaif(folder.path(), &args)).await;
    assert_eq!(code(&exported), 0, "{}", stderr(&exported));
    assert_no_secret(folder.path(), &output);
    assert_no_secret(folder.path(), &exported);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_a_run_repeats_only_what_was_in_flight() {
    let plan = Plan {
        latency: Duration::from_millis(10),
        ..Plan::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    pairs(at, 400);
    let whole = Standin::start(plan.clone(), 0).await.unwrap();
    let url = format!("{}#standin", whole.url());
    let args: Vec<&str> = judge(&url, &["--concurrency", "8"])
        .into_iter()
        .map(|a| if a == "run" { "whole" } else { a })
        .collect();
    let output = done(rlaif(at, &args)).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let expected = std::fs::read(at.join("labels.jsonl")).unwrap();
    std::fs::remove_file(at.join("labels.jsonl")).unwrap();
    // The same address, so that the records name the same model.
    let port: u16 = url
        .rsplit(':')
        .next()
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    drop(whole);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let standin = Standin::start(plan, port).await.unwrap();
    let args = judge(&url, &["--concurrency", "8"]);
    let mut kills = 0;
    for ms in [80u64, 130, 210, 290] {
        let mut child = rlaif(at, &args)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(ms)).await;
        kills += u64::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "no run was still going when it was to be killed");
    let output = done(rlaif(at, &args)).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(std::fs::read(at.join("labels.jsonl")).unwrap(), expected);
    // Eight rows of two calls at each kill.
    let theirs = standin.account();
    assert!(
        theirs.repeated <= kills * 16,
        "{theirs:?} after {kills} kills"
    );
    let account = json(&done(rlaif(at, &["calls", "run", "--json"])).await);
    let account = &account["account"];
    assert_eq!(account["answered"], 800);
    // Whatever the endpoint answered and the journal does not have is in its unsettled part.
    let lost = theirs.answered + theirs.lost - 800;
    assert!(
        account["unsettled"].as_u64().unwrap() >= lost,
        "{account} {theirs:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_served_while_it_runs() {
    let plan = Plan {
        latency: Duration::from_millis(100),
        ..Plan::default()
    };
    let standin = Standin::start(plan, 0).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path(), 60);
    let url = format!("{}#standin", standin.url());
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let address = free.to_string();
    let args = judge(&url, &["--metrics", &address, "--concurrency", "2"]);
    let mut child = rlaif(folder.path(), &args)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let page = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(free).unwrap();
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        page
    })
    .await
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let figure = |name: &str| -> f64 {
        let line = page
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(figure("rlaif_calls_total") > 0.0);
    assert_eq!(figure("rlaif_rows{stage=\"judge\"}"), 60.0);
    assert!((1.0..=2.0).contains(&figure("rlaif_window")), "{page}");
    assert!(figure("rlaif_latency_seconds{model=") >= 0.1, "{page}");
}
