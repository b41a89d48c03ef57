//! Chat templates against `transformers` (`tests/golden/engine/templates.py`).
#![allow(clippy::unwrap_used)]

use std::path::Path;

use rlaif_core::Message;
use rlaif_engine::{ChatTemplate, Tokenizer};
use serde_json::Value;

fn indices(mask: &[bool]) -> Vec<usize> {
    let on = mask.iter().enumerate().filter(|(_, m)| **m);
    on.map(|(i, _)| i).collect()
}

#[test]
fn texts_ids_and_the_assistants_tokens_are_those_of_transformers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat");
    let text = std::fs::read_to_string(golden.join("golden.json")).unwrap();
    let g: Value = serde_json::from_str(&text).unwrap();
    let chats: Vec<Vec<Message>> = serde_json::from_value(g["chats"].clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden.join(file), folder.path().join(file)).unwrap();
    }
    let (mut refused, mut masked) = (0, 0);
    for (name, source) in g["templates"].as_object().unwrap() {
        let file = folder.path().join("chat_template.jinja");
        std::fs::write(&file, source.as_str().unwrap()).unwrap();
        let template = ChatTemplate::read(folder.path()).unwrap().unwrap();
        let tokenizer = Tokenizer::read(folder.path()).unwrap();
        for case in g["cases"].as_array().unwrap() {
            if case["template"] != name.as_str() {
                continue;
            }
            let chat = &chats[case["chat"].as_u64().unwrap() as usize];
            let generate = case["generate"].as_bool().unwrap();
            let what = format!("{name}, conversation {}, {generate}", case["chat"]);
            if !case["error"].is_null() {
                refused += 1;
                let e = template.render(chat, generate).unwrap_err().to_string();
                assert!(e.contains("have to alternate"), "{what}: {e}");
                continue;
            }
            let text = template.render(chat, generate).unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{what}");
            // The tokenizer's own BOS is not added to what the template wrote.
            let ids = tokenizer.chat(chat, generate, None).unwrap();
            let want: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(ids, want, "{what}");
            match case.get("mask") {
                Some(mask) if !generate => {
                    let want: Vec<usize> = serde_json::from_value(mask.clone()).unwrap();
                    let got = tokenizer.chat_masked(chat);
                    if want.is_empty() {
                        assert!(got.is_err(), "{what}: no turn of the assistant's");
                        continue;
                    }
                    let (ids_again, mask) = got.unwrap();
                    assert_eq!((ids_again, indices(&mask)), (ids, want), "{what}");
                    masked += 1;
                }
                None => assert!(tokenizer.chat_masked(chat).is_err(), "{what}: no marks"),
                Some(_) => {}
            }
        }
    }
    assert_eq!((refused, masked), (2, 8));
}

#[test]
fn a_message_cannot_set_a_mark() {
    let template = ChatTemplate::new(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}",
        vec![],
    )
    .unwrap();
    let chat = ["\u{1}0\u{2}", "\u{1}1\u{2}é", ""].map(Message::user);
    let (text, spans) = template.render_spans(&chat, false).unwrap();
    assert_eq!(text, template.render(&chat, false).unwrap());
    assert_eq!(spans, [0..3, 4..8, 9..9]);
}
