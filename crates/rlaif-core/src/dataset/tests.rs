use std::io::Write;

use super::*;
use crate::message::{Message, Role};

fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn one(json: &str) -> Row {
    let (_folder, path) = write("x.jsonl", json.replace('\n', " ").as_bytes());
    let dataset = read(&path).unwrap();
    assert!(dataset.faults.is_empty(), "{:?}", dataset.faults);
    dataset.rows[0].clone()
}

#[test]
fn rows_by_the_columns_that_people_have() {
    let row = one(r#"{"prompt": "Hi", "completions": ["a", "b", "c"], "extra": 1}"#);
    assert_eq!(row.prompt, Prompt::from("Hi"));
    assert_eq!(row.completions, ["a", "b", "c"]);
    assert_eq!(row.columns["extra"], 1);

    let row = one(r#"{"prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}]}"#);
    assert_eq!(
        (row.prompt, row.completions),
        (Prompt::from("Hi"), vec!["a".into(), "b".into()])
    );
    assert_eq!(row.label.get(), Some(1.0));

    let row = one(
        r#"{"chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: So.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: No."}"#,
    );
    let turns = vec![
        Message::user("Hi"),
        Message::assistant("Yes?"),
        Message::user("Why?"),
    ];
    assert_eq!(row.prompt, Prompt(turns));
    assert_eq!(row.completions, ["So.", "No."]);

    // A critique is about one of the prompt's completions; a revision is a second one.
    let row = one(
        r#"{"prompt": "Hi", "completions": ["a", "b"], "rlaif_id": "x/1", "response": "b",
            "critique": "Too short."}"#,
    );
    assert_eq!(row.completions, ["b"]);
    let row = one(
        r#"{"prompt": "Hi", "completions": ["b", "c"], "rlaif_id": "x/1", "response": "b",
            "critique": "Too short.", "revision": "c"}"#,
    );
    assert_eq!(row.completions, ["b", "c"]);

    // RewardBench 2: the correct answers first.
    let row = one(r#"{"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c"], "id": "tied:1"}"#);
    assert_eq!((row.completions.len(), row.label.get()), (3, None));
    assert_eq!(row.completions, ["a", "b", "c"]);

    let row = one(r#"{"instruction": "Add", "input": "1 2", "output": "3"}"#);
    assert_eq!(
        (row.prompt, row.completions),
        (Prompt::from("Add\n\n1 2"), vec!["3".to_owned()])
    );

    let row = one(r#"{"instruction": "Add", "generations": ["3", "4"], "ratings": [5, 1]}"#);
    assert_eq!(row.completions, ["3", "4"]);

    for (preference, label) in [
        ("1", Some(1.0)),
        ("2", Some(0.0)),
        ("1.25", Some(0.75)),
        ("0", None),
        ("1.5", None),
    ] {
        let row = one(&format!(
            r#"{{"instruction": "Q", "output_1": "a", "output_2": "b", "preference": {preference}}}"#
        ));
        assert_eq!(row.label.get(), label, "{preference}");
    }

    let row = one(r#"{"conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}"#);
    assert_eq!(
        (row.prompt, row.completions),
        (Prompt::from("Hi"), vec!["a".into(), "b".into()])
    );

    let row = one(
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"}]}"#,
    );
    assert_eq!(row.prompt.0[0].role, Role::System);
    assert_eq!(row.completions, ["a"]);
}

#[test]
fn a_malformed_row_is_named_by_its_line_and_the_others_go_on() {
    let text = "{\"prompt\": \"a\"}\n{\"prompt\": \n\n{\"promt\": \"b\"}\n{\"prompt\": \"c\"}\n\
                {\"instruction\":\"q\",\"output_1\":\"a\",\"output_2\":\"b\",\"preference\":7}\n";
    let (_folder, path) = write("x.jsonl", text.as_bytes());
    let dataset = read(&path).unwrap();
    assert_eq!(dataset.rows.len(), 2);
    let lines: Vec<usize> = dataset.faults.iter().map(|f| f.line).collect();
    assert_eq!(lines, [2, 4, 6]);
    assert!(
        dataset.faults[1].message.contains("`promt`"),
        "{:?}",
        dataset.faults
    );
    assert!(
        dataset.faults[2].message.contains('7'),
        "{:?}",
        dataset.faults
    );
}

#[test]
fn lists_texts_and_gzip() {
    let (_folder, path) = write("x.json", b"[\"How?\", \"Why?\"]");
    assert_eq!(read(&path).unwrap().rows[1].prompt, Prompt::from("Why?"));
    let (_folder, path) = write("x.json", b"{\"Topic\": {\"Sub\": [\"How?\", \"Why?\"]}}");
    assert_eq!(read(&path).unwrap().rows.len(), 2);
    // Texts directly in an object are the columns of one row.
    let (_folder, path) = write("x.json", b"{\n\"prompt\": \"How?\"\n}");
    assert_eq!(read(&path).unwrap().rows[0].prompt, Prompt::from("How?"));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"{\"prompt\": \"How?\"}\n").unwrap();
    let (_folder, path) = write("x.jsonl.gz", &gz.finish().unwrap());
    assert_eq!(read(&path).unwrap().rows[0].prompt, Prompt::from("How?"));
    let (_folder, path) = write("x.jsonl.gz", &[0x1f, 0x8b, 1, 2]);
    assert!(read(&path).unwrap_err().to_string().contains("gzip"));
    let (_folder, path) = write("x.parquet", b"PAR1 and nothing more");
    assert!(read(&path).unwrap_err().to_string().contains("Parquet"));
}

#[test]
fn parquet_with_nested_messages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let rows = vec![serde_json::json!({
        "prompt": [{"role": "user", "content": "Hi"}], "completions": ["a", "b"], "n": 1,
    })];
    crate::export::write_rows(&path, &rows).unwrap();
    let dataset = read(&path).unwrap();
    assert_eq!(dataset.rows[0].prompt, Prompt::from("Hi"));
    assert_eq!(dataset.rows[0].completions, ["a", "b"]);
    assert_eq!(dataset.rows[0].columns["n"], 1);
}

#[test]
fn ids_belong_to_the_row_and_not_to_its_place() {
    let (_f, forward) = write(
        "x.jsonl",
        b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n{\"prompt\":\"a\"}\n",
    );
    let (_g, backward) = write("x.jsonl", b"{\"prompt\":\"b\"}\n{\"prompt\":\"a\"}\n");
    let (forward, backward) = (read(&forward).unwrap().rows, read(&backward).unwrap().rows);
    assert_eq!(forward[0].id, backward[1].id);
    assert_eq!(forward[1].id, backward[0].id);
    assert_eq!(forward[2].id, format!("{}-2", forward[0].id));
    assert_eq!(one(r#"{"prompt": "a", "id": 7}"#).id, "7");
}

/// Public datasets, where they lie beside the checkout.
#[test]
fn real_files_are_read_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("RLAIF_DATA").map_or(root, PathBuf::from);
    if !root.is_dir() {
        println!("skipped: no data at `{}` (set RLAIF_DATA)", root.display());
        return;
    }
    for (file, rows) in [
        ("hh_rlhf/harmless_base_dev.jsonl.gz", 1745),
        ("alpaca_eval/gpt4_preferences_dev.jsonl.gz", 11763),
        ("alpaca_farm/eval_gpt-3.5-turbo-0301.json.gz", 357),
        ("instruct/llamafactory_dpo_en_demo.json.gz", 300),
        (
            "instruct/rasbt_instruction_data_with_preference.json.gz",
            1100,
        ),
        ("instruct/rasbt_instruction_data.json.gz", 1100),
        ("red_team/dangerousqa.json.gz", 200),
        ("red_team/harmfulqa.json.gz", 1960),
        ("anthropic_evals/persona/agreeableness.jsonl.gz", 1000),
    ] {
        let dataset = read(&root.join(file)).unwrap();
        let faults = &dataset.faults[..dataset.faults.len().min(3)];
        assert_eq!(
            dataset.rows.len() + dataset.faults.len(),
            rows,
            "{file}: {faults:?}"
        );
        let share = dataset.faults.len() as f64 / rows as f64;
        assert!(
            share < 0.01,
            "{file}: {} faults, such as {faults:?}",
            dataset.faults.len()
        );
    }
}
