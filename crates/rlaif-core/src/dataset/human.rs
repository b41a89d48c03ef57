//! Verdicts of people, as records with their rater.
//!
//! | shape | told by |
//! |---|---|
//! | AlpacaFarm, AlpacaEval | `output_1`, `output_2`, `preference` (1, 2; 1.5 or 0 a tie), `annotator` |
//! | argilla, flat export | `generations-0-rating.responses`, `….users`, `….status`, and `generations-0` … |
//! | Label Studio, pairwise | `annotations[].result[].value.selected` (`left`, `right`), and two texts in `data` |
//! | Label Studio, ranker | `annotations[].result[].value.ranker.rank`, and `data.items` |
//!
//! A rating or an annotation that was discarded is left out; equal ratings are a tie.

use std::path::Path;

use serde_json::{Map, Value};

use super::{RowFault, files};
use crate::error::Result;
use crate::message::Prompt;
use crate::outcome::{Outcome, Probability};
use crate::record::{Judgment, Rater};
use crate::seed;

/// What a file of verdicts holds.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// One a rater and pair, in the file's order.
    pub judgments: Vec<Judgment>,
    /// Rows that could not be read.
    pub faults: Vec<RowFault>,
}

/// Reads people's verdicts.
///
/// # Errors
/// As [`super::read`]; rows that cannot be read are in [`Verdicts::faults`].
pub fn read_verdicts(path: &Path) -> Result<Verdicts> {
    let mut verdicts = Verdicts::default();
    for value in files::Values::open(path)? {
        let (line, value) = value?;
        match value.and_then(|value| of_row(&value)) {
            Ok(found) => verdicts.judgments.extend(found),
            Err(message) => verdicts.faults.push(RowFault { line, message }),
        }
    }
    Ok(verdicts)
}

fn of_row(value: &Value) -> std::result::Result<Vec<Judgment>, String> {
    let row = value.as_object().ok_or("expected an object")?;
    if row.contains_key("annotations") && row.contains_key("data") {
        return label_studio(row);
    }
    if row.keys().any(|k| k.ends_with(".responses")) {
        return argilla(row);
    }
    if row.contains_key("preference") {
        return alpaca(row);
    }
    if row.get("fields").is_some_and(Value::is_object) && row.contains_key("responses") {
        // Its responses have a value and a user, no status.
        return Err(
            "argilla's nested layout does not say which ratings were discarded or are drafts: \
             export with `records.to_list(flatten=True)` and write one row a line"
                .into(),
        );
    }
    let found: Vec<String> = row.keys().map(|k| format!("`{k}`")).collect();
    Err(format!(
        "no verdict of a person: found {}; expected `preference` (AlpacaEval), `….responses` \
         (argilla), or `annotations` and `data` (Label Studio)",
        found.join(", ")
    ))
}

/// A verdict's record; `p_first` is 1, ½ or 0.
fn record(prompt: &Prompt, a: &str, b: &str, p_first: f64, rater: String) -> Judgment {
    let text = prompt.to_text();
    let outcome = match p_first == 0.5 {
        true => Outcome::Tie,
        false => Outcome::Decided,
    };
    Judgment::new(
        format!("{:016x}", seed::derive(0, &[&text, a, b, &rater])),
        prompt.clone(),
        [a.to_owned(), b.to_owned()],
        outcome,
        Probability::new(p_first),
        Rater::Human(rater),
    )
}

fn text<'a>(row: &'a Map<String, Value>, names: &[&str]) -> std::result::Result<&'a str, String> {
    let found = names
        .iter()
        .find_map(|n| row.get(*n).and_then(Value::as_str));
    found.ok_or_else(|| {
        let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
        let keys: Vec<String> = row.keys().map(|k| format!("`{k}`")).collect();
        format!(
            "needs a text {}; found {}",
            names.join(" or "),
            keys.join(", ")
        )
    })
}

fn prompt(row: &Map<String, Value>) -> std::result::Result<Prompt, String> {
    let asked = text(row, &["prompt", "instruction", "question"])?;
    let input = row
        .get("input")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .trim();
    Ok(match input {
        "" => Prompt::from(asked),
        input => Prompt::from(format!("{asked}\n\n{input}")),
    })
}

/// A name as text, whatever its type; a person without one is `someone`.
fn name(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Object(of)) => name(of.get("email").or_else(|| of.get("id"))),
        _ => "someone".into(),
    }
}

fn alpaca(row: &Map<String, Value>) -> std::result::Result<Vec<Judgment>, String> {
    let (a, b) = (text(row, &["output_1"])?, text(row, &["output_2"])?);
    let rater = name(row.get("annotator"));
    // A row that nobody has judged yet is no verdict.
    let p_first = match row.get("preference") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(value) => match value.as_f64() {
            Some(0.0 | 1.5) => 0.5,
            Some(p) if p == 1.0 || p == 2.0 => 2.0 - p,
            _ => {
                return Err(format!(
                    "`preference` of a person must be 1, 2, or 1.5 or 0 for a tie, got `{value}`"
                ));
            }
        },
    };
    Ok(vec![record(&prompt(row)?, a, b, p_first, rater)])
}

fn argilla(row: &Map<String, Value>) -> std::result::Result<Vec<Judgment>, String> {
    let prompt = prompt(row)?;
    let mut completions = Vec::new();
    while let Some(text) = row.get(&format!("generations-{}", completions.len())) {
        let text = text.as_str();
        completions.push(text.ok_or("`generations-…` must be texts")?);
    }
    // Ratings by rater, one a completion.
    let mut raters: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    for i in 0..completions.len() {
        let list = |part: &str| {
            let key = format!("generations-{i}-rating.responses{part}");
            row.get(&key)
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        };
        let (values, users, states) = (list(""), list(".users"), list(".status"));
        for (n, value) in values.iter().enumerate() {
            if states.get(n).is_some_and(|s| s != "submitted") {
                continue;
            }
            let rater = name(users.get(n));
            let at = match raters.iter().position(|(known, _)| *known == rater) {
                Some(at) => at,
                None => {
                    raters.push((rater, vec![None; completions.len()]));
                    raters.len() - 1
                }
            };
            raters[at].1[i] = value.as_f64();
        }
    }
    let mut found = Vec::new();
    for (rater, ratings) in raters {
        for i in 0..completions.len() {
            for j in i + 1..completions.len() {
                if let (Some(x), Some(y)) = (ratings[i], ratings[j]) {
                    let p = if x == y {
                        0.5
                    } else {
                        f64::from(u8::from(x > y))
                    };
                    found.push(record(
                        &prompt,
                        completions[i],
                        completions[j],
                        p,
                        rater.clone(),
                    ));
                }
            }
        }
    }
    Ok(found)
}

fn label_studio(row: &Map<String, Value>) -> std::result::Result<Vec<Judgment>, String> {
    let data = row
        .get("data")
        .and_then(Value::as_object)
        .ok_or("`data` must be an object")?;
    let annotations = row.get("annotations").and_then(Value::as_array);
    let prompt = prompt(data)?;
    let mut found = Vec::new();
    for annotation in annotations.into_iter().flatten() {
        if annotation.get("was_cancelled") == Some(&Value::Bool(true)) {
            continue;
        }
        let rater = name(annotation.get("completed_by"));
        for result in annotation
            .get("result")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let value = &result["value"];
            if let Some(rank) = value["ranker"]["rank"].as_array() {
                found.extend(ranked(data, &prompt, rank, &rater)?);
                continue;
            }
            let tie = value["choices"].as_array().is_some_and(|choices| {
                let of = |c: &Value| c.as_str().map(str::to_lowercase).unwrap_or_default();
                choices
                    .iter()
                    .any(|c| ["tie", "equal", "same"].contains(&of(c).as_str()))
            });
            let p_first = match value["selected"].as_str() {
                Some("left") => 1.0,
                Some("right") => 0.0,
                _ if tie => 0.5,
                _ => continue,
            };
            let a = text(
                data,
                &["text1", "answer1", "response_1", "output_1", "response_a"],
            )?;
            let b = text(
                data,
                &["text2", "answer2", "response_2", "output_2", "response_b"],
            )?;
            found.push(record(&prompt, a, b, p_first, rater.clone()));
        }
    }
    Ok(found)
}

/// Every pair of a ranking, the better one first as often as it stands so in `data.items`.
fn ranked(
    data: &Map<String, Value>,
    prompt: &Prompt,
    rank: &[Value],
    rater: &str,
) -> std::result::Result<Vec<Judgment>, String> {
    let items = data
        .get("items")
        .and_then(Value::as_array)
        .ok_or("`data.items` must be a list")?;
    let place = |item: &Value| rank.iter().position(|id| *id == item["id"]);
    let body = |item: &Value| item["body"].as_str().map(str::to_owned);
    let mut found = Vec::new();
    for (i, first) in items.iter().enumerate() {
        for second in items.iter().skip(i + 1) {
            if let (Some(x), Some(y)) = (place(first), place(second)) {
                let (a, b) = body(first)
                    .zip(body(second))
                    .ok_or("an item has no `body`")?;
                let p = f64::from(u8::from(x < y));
                found.push(record(prompt, &a, &b, p, rater.to_owned()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(row: Value) -> Vec<(String, Option<f64>, Outcome)> {
        let rater = |j: &Judgment| match &j.rater {
            Rater::Human(name) => name.clone(),
            Rater::Model(id) => panic!("{id} is no person"),
        };
        let found = of_row(&row).unwrap();
        found
            .iter()
            .map(|j| (rater(j), j.p_first.get(), j.outcome))
            .collect()
    }

    #[test]
    fn alpacas_preferences() {
        let row = |p: Value| json!({"instruction": "Q", "input": "", "output_1": "a", "output_2": "b", "annotator": 7, "preference": p});
        assert_eq!(
            told(row(json!(1))),
            [("7".into(), Some(1.0), Outcome::Decided)]
        );
        assert_eq!(
            told(row(json!(2.0))),
            [("7".into(), Some(0.0), Outcome::Decided)]
        );
        assert_eq!(
            told(row(json!(1.5))),
            [("7".into(), Some(0.5), Outcome::Tie)]
        );
        assert_eq!(told(row(Value::Null)), []);
        assert!(of_row(&row(json!(3))).unwrap_err().contains("`3`"));
    }

    #[test]
    fn argillas_ratings_by_rater() {
        let row = json!({
            "instruction": "Q", "generations-0": "a", "generations-1": "b",
            "generations-0-rating.responses": [4, 2, 5],
            "generations-0-rating.responses.users": ["ann", "bob", "cy"],
            "generations-0-rating.responses.status": ["submitted", "submitted", "discarded"],
            "generations-1-rating.responses": [1, 2, 1],
            "generations-1-rating.responses.users": ["ann", "bob", "cy"],
            "generations-1-rating.responses.status": ["submitted", "submitted", "submitted"],
        });
        // Equal ratings are a tie; what was discarded makes no pair.
        assert_eq!(
            told(row),
            [
                ("ann".into(), Some(1.0), Outcome::Decided),
                ("bob".into(), Some(0.5), Outcome::Tie),
            ]
        );
    }

    #[test]
    fn argillas_nested_layout_is_refused_with_what_to_do() {
        // As `records.to_json` of argilla 2.8.0 writes it.
        let row = json!({
            "id": "1", "fields": {"instruction": "Q", "generations-0": "a", "generations-1": "b"},
            "metadata": {}, "suggestions": {}, "vectors": {}, "status": "pending",
            "responses": {"generations-0-rating": [{"value": 5, "user_id": "u"}],
                          "generations-1-rating": [{"value": 3, "user_id": "u"}]},
            "_server_id": null});
        let said = of_row(&row).unwrap_err();
        assert!(said.contains("to_list(flatten=True)"), "{said}");
    }

    #[test]
    fn label_studios_pairs_and_rankings() {
        let row = |value: Value| {
            json!({"id": 1, "data": {"prompt": "Q", "text1": "a", "text2": "b",
            "items": [{"id": "x", "body": "1"}, {"id": "y", "body": "2"}, {"id": "z", "body": "3"}]},
            "annotations": [{"completed_by": {"email": "d@e"}, "was_cancelled": false, "result": [{"value": value}]},
                            {"completed_by": 2, "was_cancelled": true, "result": [{"value": {"selected": "left"}}]}]})
        };
        assert_eq!(
            told(row(json!({"selected": "right"}))),
            [("d@e".into(), Some(0.0), Outcome::Decided)]
        );
        assert_eq!(
            told(row(json!({"choices": ["Tie"]}))),
            [("d@e".into(), Some(0.5), Outcome::Tie)]
        );
        let ranked = told(row(json!({"ranker": {"rank": ["y", "z", "x"]}})));
        let p: Vec<_> = ranked.iter().map(|(_, p, _)| p.unwrap()).collect();
        // (1, 2), (1, 3), (2, 3) of items ranked 3rd, 1st, 2nd.
        assert_eq!(p, [0.0, 0.0, 1.0]);
    }
}
