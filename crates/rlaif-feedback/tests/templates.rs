//! Each shipped template against the wording of its paper or package, and against its label rule.
//! `golden/make.py` made the file from the packages themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::executor::block_on;
use rlaif_core::script::ScriptedModel;
use rlaif_core::{Constitution, Message, Model, Outcome, Prompt};
use rlaif_feedback::{Judge, JudgeConfig, Orders, Principles, Rationale, Scorer, judge, ratings};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/templates.json")).unwrap()
}

fn constitution(standard: &str) -> Constitution {
    let text =
        format!("[[principles]]\nid='p'\ncritique='c'\nrevision='r'\npreference='{standard}'");
    Constitution::parse(&text, Path::new("test.toml")).unwrap()
}

fn config(template: &str) -> JudgeConfig {
    JudgeConfig {
        template: template.into(),
        score_template: template.into(),
        orders: Orders::Given,
        ..JudgeConfig::default()
    }
}

/// What a template sends, with the beginning of the answer as a last turn of the assistant.
fn sent(name: &str, all: &Value) -> Vec<Message> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    let model = Listener(Mutex::new(keep));
    let model: Model = Arc::new(model);
    let text = |key: &str| all[key].as_str().unwrap().to_owned();
    let by = constitution(&text("standard"));
    let prompt = Prompt::from(text("prompt"));
    let (template, first) = match name.strip_suffix(", reason") {
        Some(template) => (template, Rationale::First),
        None => (name, Rationale::None),
    };
    let config = JudgeConfig {
        rationale: first,
        ..config(template)
    };
    if ["zheng_single", "prometheus_single", "lee_direct"].contains(&template) {
        let scorer = Scorer::new(model, by, config, None, 7).unwrap();
        block_on(ratings(&scorer, "r", &prompt, &text("a"))).unwrap();
    } else {
        let by = Judge::new(model, by, config, None, 7).unwrap();
        block_on(judge(&by, "r", &prompt, &text("a"), &text("b"))).unwrap();
    }
    let seen = seen.lock().unwrap();
    seen.first().cloned().unwrap()
}

/// A model that only remembers what it was asked.
struct Listener(Mutex<Arc<Mutex<Vec<Vec<Message>>>>>);

impl Listener {
    fn hear(&self, messages: &[Message], prefill: Option<&String>) {
        let mut all = messages.to_vec();
        all.extend(prefill.map(Message::assistant));
        self.0.lock().unwrap().lock().unwrap().push(all);
    }
}

impl rlaif_core::LanguageModel for Listener {
    fn id(&self) -> &rlaif_core::ModelId {
        static ID: std::sync::LazyLock<rlaif_core::ModelId> =
            std::sync::LazyLock::new(|| rlaif_core::ModelId::new("listener"));
        &ID
    }

    fn capabilities(&self) -> rlaif_core::Capabilities {
        rlaif_core::Capabilities {
            logprobs: Some(true),
            prefill: true,
        }
    }

    fn sample<'a>(
        &'a self,
        request: &'a rlaif_core::SampleRequest,
        _: &'a rlaif_core::CallContext,
    ) -> rlaif_core::BoxFuture<'a, Result<rlaif_core::Completion, rlaif_core::ModelError>> {
        self.hear(&request.messages, request.prefill.as_ref());
        Box::pin(async { Err(rlaif_core::ModelError::Deadline) })
    }

    fn choice_logprobs<'a>(
        &'a self,
        request: &'a rlaif_core::ChoiceRequest,
        _: &'a rlaif_core::CallContext,
    ) -> rlaif_core::BoxFuture<'a, Result<rlaif_core::ChoiceLogprobs, rlaif_core::ModelError>> {
        self.hear(&request.messages, request.prefill.as_ref());
        Box::pin(async { Err(rlaif_core::ModelError::Deadline) })
    }
}

#[test]
fn shipped_templates_say_what_their_papers_say() {
    let all = golden();
    let wordings = all["wordings"].as_object().unwrap();
    assert_eq!(wordings.len(), 12);
    for (name, expected) in wordings {
        let expected: Vec<Message> = serde_json::from_value(expected.clone()).unwrap();
        // Runs of white space count as one: papers set their lines as they please.
        let plain = |messages: &[Message]| {
            messages
                .iter()
                .map(|m| {
                    let words: Vec<_> = m.content.split_whitespace().collect();
                    (m.role, words.join(" "))
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(plain(&sent(name, &all)), plain(&expected), "{name}");
    }
}

fn replying(text: &str) -> Model {
    let text = text.to_owned();
    Arc::new(ScriptedModel::new("m", move |_| Ok(text.clone())))
}

#[test]
fn written_verdicts_are_read_as_their_papers_read_them() {
    let all = golden();
    let by = constitution("x");
    let prompt = Prompt::from("?");
    let answers = all["answers"].as_array().unwrap();
    for (template, labels) in all["rules"].as_object().unwrap() {
        for (answer, label) in answers.iter().zip(labels.as_array().unwrap()) {
            let answer = answer.as_str().unwrap();
            if template.ends_with("_single") {
                let config = JudgeConfig {
                    principles: Principles::Whole,
                    ..config(template)
                };
                let scorer = Scorer::new(replying(answer), by.clone(), config, None, 7).unwrap();
                let rating = block_on(ratings(&scorer, "r", &prompt, "x"))
                    .unwrap()
                    .remove(0);
                let got = rating.score.map(|s| (s * 1e6).round() / 1e6);
                assert_eq!(got, label.as_f64(), "{template}: {answer}");
            } else {
                let by = Judge::new(replying(answer), by.clone(), config(template), None, 7);
                let j = block_on(judge(&by.unwrap(), "r", &prompt, "x", "y")).unwrap();
                let got = match (j.outcome, j.p_first.get()) {
                    (Outcome::Tie, _) => Some("tie"),
                    (Outcome::Decided, Some(p)) => Some(if p > 0.5 { "A" } else { "B" }),
                    (Outcome::Unparseable, None) => None,
                    other => panic!("{template}: {answer}: {other:?}"),
                };
                assert_eq!(got, label.as_str(), "{template}: {answer}");
            }
        }
    }
}

#[test]
fn alpaca_evals_preference_is_two_minus_p_first() {
    for case in golden()["alpaca_eval"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let (m, big_m) = (number("m").exp(), number("M").exp());
        let total = (m + big_m).max(1.0);
        let model = ScriptedModel::new("m", |_| Ok(String::new()))
            .with_probabilities(move |_| Ok(vec![m / total, big_m / total]));
        let by = Judge::new(
            Arc::new(model),
            constitution("x"),
            config("alpaca_eval"),
            None,
            7,
        );
        let j = block_on(judge(&by.unwrap(), "r", &Prompt::from("?"), "x", "y")).unwrap();
        let preference = 2.0 - j.p_first.get().unwrap();
        assert!(
            (preference - number("preference")).abs() < 1e-6,
            "{preference}"
        );
    }
}
