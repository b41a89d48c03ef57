//! The binary run against an endpoint, and what it leaves.
#![allow(dead_code)] // each file of tests uses its own part

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub fn rlaif(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command
        .current_dir(folder)
        .args(args)
        .env_remove("RLAIF_NO_SUCH_KEY");
    command
}

pub async fn done(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

pub fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// `pairs.jsonl`: pairs whose truth the stand-in reads from their texts.
pub fn pairs(folder: &Path, n: usize) {
    let lines: String = (0..n)
        .map(|i| {
            format!(
                "{{\"prompt\": \"Question {i}?\", \"completions\": [\"worth:{} a\", \"worth:{} b\"]}}\n",
                i % 7,
                (i + 3) % 7
            )
        })
        .collect();
    std::fs::write(folder.join("pairs.jsonl"), lines).unwrap();
}

/// Arguments that judge them into `labels.jsonl`.
pub fn judge<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "judge",
        "pairs.jsonl",
        "--constitution",
        "polite.toml",
        "--critic",
        url,
        "--out",
        "labels.jsonl",
        "--json",
    ];
    args.extend(more);
    args
}
