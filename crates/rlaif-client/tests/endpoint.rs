//! The client against an endpoint that fails in the ways endpoints do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rlaif_client::{Endpoint, EndpointConfig};
use rlaif_core::{
    CallContext, ChoiceRequest, Evidence, Finish, ItemId, LanguageModel, Message, ModelError,
    SampleRequest, Sampling,
};
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

fn context() -> CallContext {
    let item = ItemId {
        stage: "test".into(),
        row: "r".into(),
        draw: 0,
    };
    CallContext {
        deadline: Duration::from_secs(20),
        ..CallContext::new(item, 7)
    }
}

fn sampled() -> SampleRequest {
    SampleRequest {
        messages: Arc::from(vec![Message::user("Hi")]),
        prefill: None,
        schema: None,
        sampling: Sampling::greedy(8),
    }
}

fn letters() -> ChoiceRequest {
    ChoiceRequest {
        messages: Arc::from(vec![Message::user("(A) or (B)?")]),
        prefill: None,
        choices: vec![
            vec!["(A)".into(), "A".into()],
            vec!["(B)".into(), "B".into()],
        ],
    }
}

fn answer(text: &str) -> Value {
    json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
           "usage": {"prompt_tokens": 10, "completion_tokens": 2}})
}

fn ok(text: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(answer(text))
}

/// A server whose n-th answer is `reply(n, body)`.
async fn server(
    reply: impl Fn(usize, &Value) -> ResponseTemplate + Send + Sync + 'static,
) -> MockServer {
    let server = MockServer::start().await;
    let n = AtomicUsize::new(0);
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .respond_with(move |request: &Request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            reply(n.fetch_add(1, Ordering::SeqCst), &body)
        })
        .mount(&server)
        .await;
    server
}

fn open(server: &MockServer, change: impl FnOnce(&mut EndpointConfig)) -> Endpoint {
    let mut config = EndpointConfig::from_url(&format!("{}/v1#m", server.uri())).unwrap();
    config.timeout_secs = 2;
    change(&mut config);
    Endpoint::open(config).unwrap()
}

async fn requests(server: &MockServer) -> usize {
    server.received_requests().await.unwrap().len()
}

#[tokio::test]
async fn passing_failures_are_tried_again_and_counted() {
    for fault in [
        ResponseTemplate::new(429).insert_header("retry-after", "0"),
        ResponseTemplate::new(500).set_body_string("boom"),
        ResponseTemplate::new(200).set_body_string("{\"choices\":[{\"mess"),
        ResponseTemplate::new(200).set_body_string("{\"error\":{\"message\":\"overloaded\"}}"),
        ResponseTemplate::new(200).set_body_string("{\"choices\":[]}"),
    ] {
        let server = server(move |n, _| if n == 0 { fault.clone() } else { ok("Hello") }).await;
        let endpoint = open(&server, |_| {});
        let done = endpoint.sample(&sampled(), &context()).await.unwrap();
        assert_eq!((done.text.as_str(), done.finish), ("Hello", Finish::Stop));
        assert_eq!((done.usage.calls, done.usage.retries), (1, 1));
        let stats = endpoint.stats();
        assert_eq!(
            (stats.calls, stats.retries, stats.prompt_tokens),
            (1, 1, 10)
        );
    }
}

#[tokio::test]
async fn a_server_that_keeps_failing_ends_in_words() {
    let server =
        server(|_, _| ResponseTemplate::new(503).set_body_string("down for repairs")).await;
    let endpoint = open(&server, |c| c.max_attempts = 2);
    match endpoint.sample(&sampled(), &context()).await.unwrap_err() {
        ModelError::Exhausted { attempts: 2, last } => assert!(last.contains("repairs"), "{last}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(requests(&server).await, 2);
    assert_eq!(endpoint.stats().failed, 1);
}

#[tokio::test]
async fn silence_is_bounded_by_the_timeout_and_the_deadline() {
    let server = server(|_, _| ok("late").set_delay(Duration::from_secs(30))).await;
    let endpoint = open(&server, |c| {
        c.timeout_secs = 1;
        c.max_attempts = 1;
    });
    let error = endpoint.sample(&sampled(), &context()).await.unwrap_err();
    assert!(error.to_string().contains("within 1 s"), "{error}");
    let endpoint = open(&server, |c| c.timeout_secs = 60);
    let cx = CallContext {
        deadline: Duration::from_millis(300),
        ..context()
    };
    let error = endpoint.sample(&sampled(), &cx).await.unwrap_err();
    assert!(matches!(error, ModelError::Deadline), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_says_what_to_check() {
    let mut config = EndpointConfig::from_url("http://127.0.0.1:9/v1#m").unwrap();
    config.max_attempts = 1;
    let endpoint = Endpoint::open(config).unwrap();
    let error = endpoint
        .sample(&sampled(), &context())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot connect to `http://127.0.0.1:9/v1`"),
        "{error}"
    );
}

#[tokio::test]
async fn refused_fields_are_learned_once_and_recorded() {
    let server = server(|_, body| {
        if body.get("logprobs").is_some() {
            return ResponseTemplate::new(422).set_body_json(json!({
                "detail": "Unexpected fields in the request: {'logprobs', 'top_logprobs'}"}));
        }
        ok("The answer is (B).")
    })
    .await;
    let endpoint = open(&server, |_| {});
    let notices = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&notices);
    endpoint.on_notice(Arc::new(move |text: &str| {
        keep.lock().unwrap().push(text.to_owned())
    }));
    for _ in 0..2 {
        let scored = endpoint
            .choice_logprobs(&letters(), &context())
            .await
            .unwrap();
        // One answer names (B): Laplace gives it (1 + 1) / (1 + 2).
        assert!((scored.logprobs[1].exp() - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(scored.evidence, Evidence::Sampled { draws: 1 });
        assert_eq!(scored.usage.lost, ["logprobs", "top_logprobs"]);
        assert_eq!(scored.usage.retries, 0);
    }
    // One refusal, and an answer for each call.
    assert_eq!(requests(&server).await, 3);
    assert_eq!(notices.lock().unwrap().len(), 1, "{notices:?}");
    // What was not asked for is not lost.
    let plain = endpoint.sample(&sampled(), &context()).await.unwrap();
    assert!(plain.usage.lost.is_empty());
    assert_eq!(endpoint.capabilities().logprobs, Some(false));
}

#[tokio::test]
async fn a_judge_that_does_not_stop_has_said_its_verdict_first() {
    for (text, finish, first) in [
        ("(B)(A)(B)(B)(", "length", Some(1)),
        ("(A)(B)", "length", Some(0)),
        // Both named, and then an end: that is no verdict.
        ("(A)(B)", "stop", None),
        ("(A)(B) are both fine, and", "length", None),
    ] {
        let server = server(move |_, _| {
            let mut said = answer(text);
            said["choices"][0]["finish_reason"] = finish.into();
            ResponseTemplate::new(200).set_body_json(said)
        })
        .await;
        let endpoint = open(&server, |_| {});
        let read = endpoint.choice_logprobs(&letters(), &context()).await;
        match (read, first) {
            (Ok(read), Some(first)) => {
                assert!(read.logprobs[first] > read.logprobs[1 - first], "{text}");
                assert_eq!(read.text, text);
            }
            (Err(ModelError::Unparseable { text: said, .. }), None) => assert_eq!(said, text),
            (read, _) => panic!("{text}, {finish}: {read:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_left_alone_is_said_once() {
    // A port that was free a moment ago: nothing answers there.
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let mut config = EndpointConfig::from_url(&format!("http://127.0.0.1:{port}/v1#m")).unwrap();
    config.max_attempts = 1;
    let endpoint = Endpoint::open(config).unwrap();
    let notices = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&notices);
    endpoint.on_notice(Arc::new(move |text: &str| {
        keep.lock().unwrap().push(text.to_owned())
    }));
    for _ in 0..14 {
        let error = endpoint.sample(&sampled(), &context()).await.unwrap_err();
        assert!(matches!(error, ModelError::Exhausted { .. }), "{error}");
    }
    let notices = notices.lock().unwrap();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(
        notices[0].contains("left alone") && notices[0].contains("cannot connect"),
        "{notices:?}"
    );
}

#[tokio::test]
async fn a_token_limit_goes_by_its_other_name() {
    let server = server(|_, body| {
        if body.get("max_tokens").is_some() {
            return ResponseTemplate::new(400).set_body_json(json!({"error": {"message":
                "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}));
        }
        assert_eq!(body["max_completion_tokens"], 8);
        ok("Hello")
    })
    .await;
    let done = open(&server, |_| {})
        .sample(&sampled(), &context())
        .await
        .unwrap();
    assert!(done.usage.lost.is_empty(), "{:?}", done.usage);
}

#[tokio::test]
async fn log_probabilities_are_read_from_the_tokens() {
    let server = server(|_, body| {
        assert_eq!(body["top_logprobs"], 20);
        let lp = |p: f64| p.ln();
        let mut reply = answer("(A)");
        reply["choices"][0]["logprobs"] = json!({"content": [
            {"token": "(", "logprob": lp(0.9), "top_logprobs": [{"token": "(", "logprob": lp(0.9)}]},
            {"token": "A", "logprob": lp(0.6), "top_logprobs": [
                {"token": "A", "logprob": lp(0.6)}, {"token": "B", "logprob": lp(0.3)}]},
            {"token": ")", "logprob": 0.0, "top_logprobs": []}]});
        ResponseTemplate::new(200).set_body_json(reply)
    })
    .await;
    let scored = open(&server, |_| {})
        .choice_logprobs(&letters(), &context())
        .await
        .unwrap();
    // 0.9 · 0.6 and 0.9 · 0.3, normalized: 2/3 and 1/3; 0.19 of the mass is neither.
    assert!((scored.logprobs[0].exp() - 2.0 / 3.0).abs() < 1e-5);
    assert!(
        (scored.off_choice_mass - 0.19).abs() < 1e-5,
        "{}",
        scored.off_choice_mass
    );
    assert!(matches!(scored.evidence, Evidence::TopK { .. }));
}

#[tokio::test]
async fn malformed_log_probabilities_are_not_used() {
    let server = server(|_, _| {
        let mut reply = answer("(A)");
        reply["choices"][0]["logprobs"] =
            json!({"content": [{"token": "(A)", "logprob": 4.0, "top_logprobs": []}]});
        ResponseTemplate::new(200).set_body_json(reply)
    })
    .await;
    let scored = open(&server, |_| {})
        .choice_logprobs(&letters(), &context())
        .await
        .unwrap();
    assert_eq!(scored.evidence, Evidence::Sampled { draws: 1 });
}

#[tokio::test]
async fn draws_are_counted_and_smoothed() {
    let server = server(|n, body| {
        if body.get("logprobs").is_some() {
            return ResponseTemplate::new(400).set_body_string("logprobs is not supported");
        }
        // After the refusal: A, A, B, and one that cannot be read.
        ok(["(A)", "(A)", "(B)", "It depends."][(n - 1) % 4])
    })
    .await;
    let endpoint = open(&server, |c| c.draws = 4);
    let scored = endpoint
        .choice_logprobs(&letters(), &context())
        .await
        .unwrap();
    // The first answer was the greedy one, which is no draw: what is counted is A, B, none, A.
    // Three can be read; Laplace gives A (2 + 1) / (3 + 2).
    assert_eq!(scored.evidence, Evidence::Sampled { draws: 3 });
    assert!(
        (scored.logprobs[0].exp() - 0.6).abs() < 1e-6,
        "{:?}",
        scored.logprobs
    );
    assert!((scored.off_choice_mass - 0.25).abs() < 1e-6);
    assert_eq!(scored.usage.calls, 5);
}

#[tokio::test]
async fn nothing_that_can_be_read_is_unparseable_and_no_number() {
    let server = server(|_, _| ok("Both have merits.")).await;
    match open(&server, |_| {})
        .choice_logprobs(&letters(), &context())
        .await
        .unwrap_err()
    {
        ModelError::Unparseable {
            text,
            truncated: false,
            usage,
        } => {
            assert_eq!(text, "Both have merits.");
            assert_eq!(usage.calls, 1);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refusals_of_the_model_are_refusals() {
    let server = server(|_, _| {
        ResponseTemplate::new(200).set_body_json(json!({"choices": [{"message":
            {"content": null, "refusal": "I can't help."}, "finish_reason": "stop"}]}))
    })
    .await;
    let error = open(&server, |_| {})
        .sample(&sampled(), &context())
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::Refused { text } if text == "I can't help."));
}

#[tokio::test]
async fn errors_of_the_user_stop_at_once_with_advice() {
    for (status, body, words) in [
        (
            404,
            json!({"error": {"message": "no such model"}}),
            "no such model",
        ),
        (
            400,
            json!({"error": {"message": "messages is empty"}}),
            "messages is empty",
        ),
        (
            429,
            json!({"error": {"code": "insufficient_quota"}}),
            "insufficient_quota",
        ),
    ] {
        let server =
            server(move |_, _| ResponseTemplate::new(status).set_body_json(body.clone())).await;
        let error = open(&server, |_| {})
            .sample(&sampled(), &context())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(requests(&server).await, 1, "{status}");
    }
    let server =
        server(|_, _| ResponseTemplate::new(200).set_body_raw("<html>hello</html>", "text/html"))
            .await;
    let error = open(&server, |_| {})
        .sample(&sampled(), &context())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("/v1") && error.is_fatal(),
        "{error}"
    );
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_in_tokens() {
    // OpenAI, vLLM (with the answer's length), llama.cpp (its status in the body), Anthropic, SGLang,
    // and one that gives no numbers.
    let said = [
        (
            json!({"error": {"message": "This model's maximum context length is 4096 tokens. However, you \
            requested 5000 tokens."}}),
            (5000, 4096),
        ),
        (
            json!({"error": {"message": "This model's maximum context length is 4096 tokens. However, you \
            requested 5000 tokens (4744 in the messages, 256 in the completion)."}}),
            (5000, 4096),
        ),
        (
            json!({"error": {"code": 400, "message": "request (5000 tokens) exceeds the available context \
            size (4096 tokens), try increasing it", "type": "exceed_context_size_error",
            "n_prompt_tokens": 5000, "n_ctx": 4096}}),
            (5000, 4096),
        ),
        (
            json!({"error": {"message": "prompt is too long: 5000 tokens > 4096 maximum"},
            "request_id": "req_0112048"}),
            (5000, 4096),
        ),
        (
            json!({"error": {"message": "The input (5000 tokens) is longer than the model's context length \
            (4096 tokens)."}}),
            (5000, 4096),
        ),
        (
            json!({"error": {"message": "too much", "code": "context_length_exceeded"}}),
            (0, 0),
        ),
    ];
    for (body, expected) in said {
        let server = {
            let body = body.clone();
            server(move |_, _| ResponseTemplate::new(400).set_body_json(&body)).await
        };
        let error = open(&server, |_| {})
            .sample(&sampled(), &context())
            .await
            .unwrap_err();
        let ModelError::ContextTooLong { tokens, limit } = error else {
            panic!("{body}: {error:?}")
        };
        assert_eq!((tokens, limit), expected, "{body}");
    }
}

#[tokio::test]
async fn a_key_reaches_the_header_and_nothing_else() {
    // PATH is set everywhere; its value stands for a key, so that no test changes the environment.
    let secret = std::env::var("PATH").unwrap();
    let server = server(|_, _| {
        ResponseTemplate::new(401).set_body_json(json!({"error": {"message": "bad key"}}))
    })
    .await;
    let endpoint = open(&server, |c| c.api_key_env = Some("PATH".into()));
    let error = endpoint.sample(&sampled(), &context()).await.unwrap_err();
    assert!(
        error.to_string().contains("`PATH`") && error.is_fatal(),
        "{error}"
    );
    let shown = format!("{error} {error:?} {} {:?}", endpoint.id(), endpoint.stats());
    assert!(!shown.contains(&secret));
    let got = &server.received_requests().await.unwrap()[0];
    assert_eq!(
        got.headers["authorization"].to_str().unwrap(),
        format!("Bearer {}", secret.trim())
    );
    assert!(!String::from_utf8_lossy(&got.body).contains(&secret));
}

#[tokio::test]
async fn a_model_without_a_name_is_the_only_one_listed() {
    let server = server(|_, body| ok(body["model"].as_str().unwrap())).await;
    Mock::given(method("GET"))
        .and(path("/v1/models"))
        .respond_with(
            ResponseTemplate::new(200).set_body_json(json!({"data": [{"id": "only-one"}]})),
        )
        .mount(&server)
        .await;
    let endpoint = open(&server, |c| c.model = None);
    assert_eq!(
        endpoint.sample(&sampled(), &context()).await.unwrap().text,
        "only-one"
    );
}

#[tokio::test]
async fn no_more_are_in_flight_than_allowed() {
    let server = server(|_, _| ok("x").set_delay(Duration::from_millis(60))).await;
    let endpoint = open(&server, |c| c.concurrency = 2.into());
    let begun = std::time::Instant::now();
    let calls = (0..6).map(|_| async { endpoint.sample(&sampled(), &context()).await.unwrap() });
    assert_eq!(futures::future::join_all(calls).await.len(), 6);
    // Six calls of 60 ms, two at a time, take at least three turns.
    assert!(begun.elapsed() >= Duration::from_millis(180));
}

#[tokio::test]
async fn a_schema_is_sent_where_it_is_taken_and_left_out_where_it_is_refused() {
    let schema = json!({"type": "object", "properties": {}, "required": []});
    let asked = SampleRequest {
        schema: Some(Arc::new(schema.clone())),
        ..sampled()
    };
    let taken = server(move |_, body| {
        let held = &body["response_format"];
        assert_eq!(held["type"], "json_schema");
        assert_eq!(held["json_schema"]["schema"], schema);
        ok("{}")
    })
    .await;
    let done = open(&taken, |_| {})
        .sample(&asked, &context())
        .await
        .unwrap();
    assert!(done.text == "{}" && done.usage.lost.is_empty());
    let refusing = server(|_, body| {
        if body.get("response_format").is_some() {
            return ResponseTemplate::new(400).set_body_json(json!({
                "error": {"message": "Unsupported parameter: 'response_format'"}}));
        }
        ok("prose")
    })
    .await;
    let done = open(&refusing, |_| {})
        .sample(&asked, &context())
        .await
        .unwrap();
    assert_eq!(
        (done.text.as_str(), done.usage.lost),
        ("prose", vec!["response_format".to_owned()])
    );
}
