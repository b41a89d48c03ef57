//! One side of `tests/golden/engine/templates.py --trl`: reads `{"messages": [...], "generate": bool}` a
//! line, prints what the folder's chat template makes of it: text, ids and the assistant's tokens.
//!
//!     render FOLDER < conversations.jsonl
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a script's driver

use std::path::Path;

use rlaif_core::Message;
use rlaif_engine::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};

fn main() {
    let folder = std::env::args().nth(1).unwrap();
    let folder = Path::new(&folder);
    let template = ChatTemplate::read(folder).unwrap().unwrap();
    let tokenizer = Tokenizer::read(folder).unwrap();
    for line in std::io::stdin().lines() {
        let asked: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let messages: Vec<Message> = serde_json::from_value(asked["messages"].clone()).unwrap();
        let generate = asked["generate"].as_bool().unwrap();
        let shown = template.render(&messages, generate).and_then(|text| {
            let ids = tokenizer.chat(&messages, generate, None)?;
            let mask = tokenizer.chat_masked(&messages).map(|(_, mask)| {
                let on = mask.iter().enumerate().filter(|(_, m)| **m);
                on.map(|(i, _)| i).collect::<Vec<_>>()
            });
            Ok(json!({"text": text, "ids": ids, "mask": mask.ok()}))
        });
        println!(
            "{}",
            shown.unwrap_or_else(|e| json!({"error": e.to_string()}))
        );
    }
}
