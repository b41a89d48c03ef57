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

/// The vector of a text: the bits of the first number in it; of others, one of two. Numbers drawn at
/// random share about half of their bits, so that their cosine is near 0.
fn vector(text: &str) -> Vec<f32> {
    let digits: String = text
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    let bits: u32 = match digits.parse() {
        Ok(number) => number,
        Err(_) if text == "why?" || text.contains("capital") => 0xaaaa_aaaa,
        Err(_) => 0x3333_3333,
    };
    let sign = |i: u32| if bits >> i & 1 == 1 { 1.0 } else { -1.0 };
    (0..32).map(sign).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_duplicates_in_other_words_are_found_by_embeddings() {
    let server = writer().await;
    Mock::given(method("POST"))
        .and(path("/v1/embeddings"))
        .respond_with(|request: &Request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(body["model"], "meaning");
            ResponseTemplate::new(200).set_body_json(json!({
                "data": [{"index": 0, "embedding": vector(body["input"].as_str().unwrap())}],
                "usage": {"prompt_tokens": 5, "total_tokens": 5}}))
        })
        .mount(&server)
        .await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = "{\"prompt\": \"How do I boil an egg for breakfast today?\"}\n{\"prompt\": \"why?\"}";
    std::fs::write(folder.join("own.jsonl"), own).unwrap();
    let url = format!("{}/v1#writer", server.uri());
    let meaning = format!("{}/v1#meaning", server.uri());
    let args = |out: &'static str, more: &[&str]| -> Vec<String> {
        let head = ["synth", "own.jsonl", "--policy", &url, "--n", "4"];
        let tail = ["--per-call", "1", "--json", "--out", out];
        let all = head.iter().chain(&tail).chain(more);
        all.map(|s| (*s).to_owned()).collect()
    };
    let run = |args: Vec<String>| async move {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        rlaif(folder, &args).await
    };
    let done = run(args("new.jsonl", &["--embeddings", &meaning])).await;
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let count = |name: &str| said["synth"][name].as_u64().unwrap();
    // Each list names one number five times; the capital means what "why?" does, and is written once.
    let lists = count("copies_of_own");
    assert_eq!((count("kept"), count("not_compared")), (4, 0));
    assert_eq!(count("duplicates_in_meaning"), 4 * lists);
    assert_eq!(count("copies_of_own_in_meaning"), 1);
    let text = std::fs::read_to_string(folder.join("new.jsonl")).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert!(rows.iter().all(|r| r["nearest"].as_f64().unwrap() < 0.9));
    assert!(!text.contains("France"));
    let page = std::fs::read_to_string(folder.join("new.html")).unwrap();
    assert!(page.contains("repeated in other words") && page.contains("nearest "));

    // Stopped by its budget, then given again: the same prompts.
    let budget = ["--embeddings", &meaning, "--max-calls", "9"];
    let stopped = run(args("again.jsonl", &budget)).await;
    assert_eq!(stopped.status.code(), Some(1));
    let again = run(args("again.jsonl", &["--embeddings", &meaning])).await;
    assert!(again.status.success());
    assert_eq!(
        std::fs::read_to_string(folder.join("again.jsonl")).unwrap(),
        text
    );

    // A server that has no embeddings says so at once, and nothing is written as if compared.
    let bare = writer().await;
    let none = format!("{}/v1#meaning", bare.uri());
    let refused = run(args("none.jsonl", &["--embeddings", &none])).await;
    assert_ne!(refused.status.code(), Some(0));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("/embeddings"), "{said}");
    for wrong in [
        ["--embeddings", "folder"].as_slice(),
        &["--similar", "0.8"],
        &["--embeddings", &meaning, "--similar", "0"],
    ] {
        assert_eq!(run(args("x.jsonl", wrong)).await.status.code(), Some(2));
    }
}

/// A run that brings nothing new has failed, however politely every call was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_one_new_prompt_is_a_failure() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({
            "choices": [{"message": {"content": "What a nice idea!"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 10}})))
        .mount(&server)
        .await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("own.jsonl"), "{\"prompt\": \"Why?\"}").unwrap();
    let url = format!("{}/v1#writer", server.uri());
    let args = [
        "synth",
        "own.jsonl",
        "--policy",
        &url,
        "--n",
        "2",
        "--out",
        "new.jsonl",
    ];
    let output = rlaif(folder, &args).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no answer held a new prompt"), "{said}");
}
