//! `rlaif synth`, against a writer whose answers are known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod common;

use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use common::rlaif;

/// Each list holds a copy of an own prompt, one that every list has, a refusal, and one or more that
/// are new; every fifth answer is prose.
async fn writer() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .respond_with(|request: &Request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let text = body["messages"][1]["content"].as_str().unwrap();
            let mark: u32 = body["seed"].as_u64().unwrap() as u32;
            let answer = if text.contains("narrower topics") {
                "1. bread\n2. soup\n".to_owned()
            } else if text.contains("`topic; number`") {
                format!("Kitchen; {}", 1 + mark % 5)
            } else if mark.is_multiple_of(5) {
                "I'm sorry, but I can't do that.".to_owned()
            } else {
                let topic = if text.contains("cooking > soup") { "soup" } else { "things" };
                format!(
                    "1. how do I boil an egg for breakfast today\n2. Please tell me what the capital \
                     of France is\n3. I'm sorry, I cannot.\n4. Say what number {mark} is to {topic} \
                     <script>\n5. Unheard question {mark} of {} kinds\n6. \
                     Tell {mark} stories of {topic}\n7. Compare {mark} with {topic}\n8. {mark}: odd \
                     or even?\n",
                    mark / 7
                )
            };
            ResponseTemplate::new(200).set_body_json(json!({
                "choices": [{"message": {"content": answer}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 10}}))
        })
        .mount(&server)
        .await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_prompts_are_new_and_a_stopped_run_goes_on() {
    let server = writer().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = "{\"prompt\": \"How do I boil an egg for breakfast today?\"}\n{\"prompt\": \"why?\"}";
    std::fs::write(folder.join("own.jsonl"), own).unwrap();
    let url = format!("{}/v1#writer", server.uri());
    let args = |out: &'static str, more: &[&'static str]| {
        let mut args = vec![
            "synth",
            "own.jsonl",
            "--policy",
            &url,
            "--n",
            "30",
            "--json",
            "--out",
            out,
        ];
        args.extend(more);
        args
    };
    let whole = rlaif(folder, &args("whole.jsonl", &[])).await;
    assert!(
        whole.status.success(),
        "{}",
        String::from_utf8_lossy(&whole.stderr)
    );
    let said: Value = serde_json::from_slice(&whole.stdout).unwrap();
    let counts = &said["synth"];
    assert_eq!(counts["kept"], 30, "{counts}");
    let count = |name: &str| counts[name].as_u64().unwrap();
    // One copy and one refusal a list; the common prompt is new once.
    let lists = count("copies_of_own");
    assert!(lists >= 6);
    assert!(count("refusals") >= lists);
    assert_eq!(count("near_duplicates"), lists - 1);
    assert_eq!(count("written"), 8 * lists);

    let text = std::fs::read_to_string(folder.join("whole.jsonl")).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 30);
    let france = |r: &&Value| r["prompt"].as_str().unwrap().contains("France");
    assert_eq!(rows.iter().filter(france).count(), 1);
    assert!(!text.contains("egg") && !text.contains("sorry"));
    let page = std::fs::read_to_string(folder.join("whole.html")).unwrap();
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>\n"));

    // Stopped by its budget, then given again: the same prompts.
    let stopped = rlaif(folder, &args("again.jsonl", &["--max-calls", "4"])).await;
    assert_eq!(stopped.status.code(), Some(1));
    let again = rlaif(folder, &args("again.jsonl", &[])).await;
    assert!(
        again.status.success(),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    let said: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(said["cached"].as_u64().unwrap() >= 4, "{said}");
    assert_eq!(
        std::fs::read_to_string(folder.join("again.jsonl")).unwrap(),
        text
    );

    // By topic tree, rated.
    let more = [
        "--method",
        "topics",
        "--topics",
        "cooking",
        "--branches",
        "2",
        "--rate",
    ];
    let topics = rlaif(folder, &args("topics.jsonl", &more)).await;
    assert!(
        topics.status.success(),
        "{}",
        String::from_utf8_lossy(&topics.stderr)
    );
    let text = std::fs::read_to_string(folder.join("topics.jsonl")).unwrap();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let topic = row["topic"].as_str().unwrap();
        assert!(
            ["cooking > bread", "cooking > soup"].contains(&topic),
            "{topic}"
        );
        assert!((1..=5).contains(&row["difficulty"].as_u64().unwrap()));
    }
    let wrong = rlaif(folder, &args("x.jsonl", &["--topics", "law"])).await;
    assert_eq!(wrong.status.code(), Some(2));
}
