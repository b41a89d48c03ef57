//! Batch interfaces: the same calls by another way, and a process that ends in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use rlaif_client::{Api, Endpoint, EndpointConfig, Journal, Ledger, Price};
use rlaif_core::{
    CallContext, ChoiceRequest, Completion, ItemId, LanguageModel, Message, ModelError,
    SampleRequest, Sampling,
};
use rlaif_standin::{Plan, Standin};

const PRICE: Price = Price {
    prompt_usd_per_mtok: 10.0,
    completion_usd_per_mtok: 30.0,
};

async fn standin(wait: Duration) -> Standin {
    let plan = Plan {
        batch: Some(wait),
        ..Plan::default()
    };
    Standin::start(plan, 0).await.unwrap()
}

fn config(standin: &Standin, api: Api) -> EndpointConfig {
    let mut config = EndpointConfig::from_url(&format!("{}#standin", standin.url())).unwrap();
    config.api = Some(api);
    config.price = Some(PRICE);
    config.batch = true;
    config.batch_poll_secs = 0.05;
    config
}

fn ledger(folder: &Path) -> Ledger {
    Ledger {
        journal: Some(Journal::open(&folder.join("calls.sqlite")).unwrap()),
        ..Ledger::default()
    }
}

fn context(row: usize) -> CallContext {
    let item = ItemId {
        stage: "candidates".into(),
        row: row.to_string().into(),
        draw: 0,
    };
    CallContext::new(item, row as u64)
}

async fn write(endpoint: &Endpoint, row: usize) -> Result<Completion, ModelError> {
    let request = SampleRequest {
        messages: Arc::from(vec![Message::user(format!(
            "Row {row}, \"quoted\"\nand {{broken}}"
        ))]),
        prefill: None,
        schema: None,
        sampling: Sampling {
            max_new_tokens: 8,
            ..Sampling::default()
        },
    };
    endpoint.sample(&request, &context(row)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_as_from_direct_calls_at_half_the_price() {
    for api in [Api::Openai, Api::Anthropic] {
        let standin = standin(Duration::from_millis(200)).await;
        let folder = tempfile::tempdir().unwrap();
        let direct = EndpointConfig {
            batch: false,
            ..config(&standin, api)
        };
        let direct = Endpoint::open(direct).unwrap();
        let ledger = ledger(folder.path());
        let endpoint = Endpoint::open_with(config(&standin, api), &ledger).unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        endpoint.on_notice(Arc::new(move |text| {
            heard.lock().unwrap().push(text.to_owned())
        }));
        let wanted = join_all((0..40).map(|row| write(&direct, row))).await;
        let found = join_all((0..40).map(|row| write(&endpoint, row))).await;
        for (w, f) in wanted.iter().zip(&found) {
            assert_eq!(w.as_ref().unwrap().text, f.as_ref().unwrap().text);
        }
        // One call goes directly, at the full price; 39 in one batch, at half of it.
        let batches = said
            .lock()
            .unwrap()
            .iter()
            .filter(|s| s.contains("submitted"))
            .count();
        assert_eq!(batches, 1, "{:?}", said.lock().unwrap());
        let usd = |all: &[Result<Completion, ModelError>]| -> f64 {
            all.iter()
                .map(|c| c.as_ref().unwrap().usage.usd.unwrap())
                .sum()
        };
        let each = usd(&wanted) / 40.0;
        assert!((usd(&found) / each - 20.5).abs() < 0.2, "{api:?}");
        let account = ledger.journal.as_ref().unwrap().account().unwrap();
        assert_eq!((account.answered, account.unsettled), (40, 0));
        assert!((account.settled_usd - usd(&found)).abs() < 1e-12);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_outlives_its_process_and_is_paid_for_once() {
    for api in [Api::Openai, Api::Anthropic] {
        let standin = standin(Duration::from_secs(4)).await;
        let folder = tempfile::tempdir().unwrap();
        {
            let ledger = ledger(folder.path());
            let endpoint = Endpoint::open_with(config(&standin, api), &ledger).unwrap();
            let all = join_all((0..30).map(|row| write(&endpoint, row)));
            // Submitted after two seconds of quiet, ended after four more: given up in between.
            assert!(
                tokio::time::timeout(Duration::from_secs(4), all)
                    .await
                    .is_err()
            );
        }
        // A process that ends lets go of the journal; here the desk's task has to be done with it.
        let path = folder.path().join("calls.sqlite");
        while Journal::open(&path).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ledger = ledger(folder.path());
        let account = ledger.journal.as_ref().unwrap().account().unwrap();
        // What waits in the batch is not lost, so that a budget has room for it.
        assert_eq!((account.answered, account.unsettled), (1, 0), "{account:?}");
        let endpoint = Endpoint::open_with(config(&standin, api), &ledger).unwrap();
        let found = join_all((0..30).map(|row| write(&endpoint, row))).await;
        assert!(found.iter().all(Result::is_ok), "{found:?}");
        let theirs = standin.account();
        assert_eq!(
            (theirs.answered, theirs.repeated),
            (30, 0),
            "{api:?} {theirs:?}"
        );
        let account = ledger.journal.as_ref().unwrap().account().unwrap();
        assert_eq!((account.answered, account.unsettled), (30, 0));
        assert_eq!(account.prompt_tokens, theirs.prompt_tokens);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_come_by_batch_too_and_an_endpoint_without_batches_is_told_of() {
    let standin = standin(Duration::from_millis(100)).await;
    let endpoint = Endpoint::open(config(&standin, Api::Openai)).unwrap();
    let endpoint = &endpoint;
    let found = join_all((0..6usize).map(|row| async move {
        let text = format!("Row {row}. (A) worth:5 (B) worth:2. Which is better?");
        let request = ChoiceRequest {
            messages: Arc::from(vec![Message::user(text)]),
            prefill: None,
            choices: vec![vec!["A".into()], vec!["B".into()]],
        };
        endpoint.choice_logprobs(&request, &context(row)).await
    }))
    .await;
    for scored in found {
        // sigma(1.5 + 1): the planted worth with the planted lean towards the first.
        let p = f64::from(scored.unwrap().logprobs[0].exp());
        assert!((p - 0.924_142).abs() < 1e-4, "{p}");
    }
    let without = Standin::start(Plan::default(), 0).await.unwrap();
    let endpoint = Endpoint::open(config(&without, Api::Openai)).unwrap();
    let _scout = write(&endpoint, 0).await.unwrap();
    let error = write(&endpoint, 1).await.unwrap_err().to_string();
    assert!(error.contains("--batch"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_gathered_for_a_batch_is_not_charged() {
    let standin = standin(Duration::from_secs(60)).await;
    let folder = tempfile::tempdir().unwrap();
    {
        let ledger = ledger(folder.path());
        let endpoint = Endpoint::open_with(config(&standin, Api::Openai), &ledger).unwrap();
        let all = join_all((0..20).map(|row| write(&endpoint, row)));
        // Given up before two seconds of quiet: nothing but the first call has left.
        assert!(
            tokio::time::timeout(Duration::from_secs(1), all)
                .await
                .is_err()
        );
    }
    let path = folder.path().join("calls.sqlite");
    while Journal::open(&path).is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let account = Journal::open(&path).unwrap().account().unwrap();
    assert_eq!((account.answered, account.unsettled), (1, 0), "{account:?}");
    assert_eq!(account.unsettled_usd, 0.0);
    assert_eq!(standin.account().requests, 1);
}
