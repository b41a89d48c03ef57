//! A folder with a tiny model and files, and the binary run in it.
#![allow(dead_code)] // each file of tests uses its own part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Where a test runs the binary.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// A folder with a model whose words are `w3` to `w80`, `(A)` and `(B)`, and files of rows.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../rlaif-engine/tests/golden/tied");
        std::fs::copy(
            golden.join("model.safetensors"),
            model.join("model.safetensors"),
        )
        .unwrap();
        let config = std::fs::read_to_string(golden.join("config.json")).unwrap();
        // Its positions are rotary: more of them cost nothing.
        let config = config.replace(
            "\"max_position_embeddings\": 256",
            "\"max_position_embeddings\": 1024",
        );
        std::fs::write(model.join("config.json"), config).unwrap();
        let vocab: serde_json::Map<String, Value> = (0..83)
            .map(|i| {
                (
                    match i {
                        0..3 => ["<pad>", "<s>", "</s>"][i].to_owned(),
                        81 => "(A)".to_owned(),
                        82 => "(B)".to_owned(),
                        _ => format!("w{i}"),
                    },
                    json!(i),
                )
            })
            .collect();
        let added: Vec<Value> = ["<pad>", "<s>", "</s>"]
            .iter()
            .enumerate()
            .map(|(i, t)| {
                json!({"id": i, "content": t, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added, "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w3"}});
        std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let template = "{% for m in messages %}<s> {{ m.content }} {% if m.role == 'assistant' %}</s> {% endif %}{% endfor %}{% if add_generation_prompt %}<s>{% endif %}";
        std::fs::write(model.join("chat_template.jinja"), template).unwrap();
        let rows: Vec<String> = (0..60)
            .map(|i| {
                // What is chosen speaks of w10 to w19, what is rejected of w40 to w49.
                let words = |base: usize| (0..4 + i % 5).map(|t| format!("w{}", base + (i + t * 3) % 10)).collect::<Vec<_>>().join(" ");
                json!({"prompt": format!("w{} w{}", 20 + i % 20, 50 + i % 30), "chosen": words(10), "rejected": words(40)}).to_string()
            })
            .collect();
        std::fs::write(dir.path().join("pairs.jsonl"), rows.join("\n")).unwrap();
        Bench { dir }
    }

    pub fn command(&self, args: &str) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_rlaif"));
        c.current_dir(self.dir.path()).args(args.split_whitespace());
        c
    }

    pub fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn json(&self, args: &str) -> Value {
        let out = self.run(&format!("{args} --json"));
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        serde_json::from_slice(&out.stdout).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn lines(&self, name: &str) -> Vec<Value> {
        std::fs::read_to_string(self.path(name))
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }
}

/// The binary in a folder, beside a server of this process.
pub async fn rlaif(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.current_dir(folder).args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}
