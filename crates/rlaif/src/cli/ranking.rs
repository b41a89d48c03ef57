//! A ranking of each row's completions, from the labels of their pairs.

use std::collections::BTreeMap;
use std::sync::Arc;

use rlaif::error::Error;
use rlaif_core::Judgment;
use rlaif_core::dataset::Row;
use rlaif_eval::{Strengths, bradley_terry};
use serde_json::{Value, json};

use super::loose::{rater_name, with_columns};

/// One row for each input row with at least two completions. `strengths` are log-odds around a
/// mean of 0, `ranks` count from 1. `chosen` and `rejected` are the best and the worst, with the
/// probability that the strengths give, so that `rlaif export` reads the file. A row whose labels
/// do not connect its completions has no ranking, and says why.
pub fn rows(
    input: impl Iterator<Item = Result<Arc<Row>, Error>>,
    judgments: &[Judgment],
) -> impl Iterator<Item = Result<Value, Error>> {
    let by_id: BTreeMap<&str, &Judgment> = judgments.iter().map(|j| (j.id.as_str(), j)).collect();
    input
        .filter(|row| row.as_ref().map_or(true, |row| row.completions.len() > 1))
        .map(move |row| row.map(|row| ranked_row(&row, &by_id)))
}

fn ranked_row(row: &Row, by_id: &BTreeMap<&str, &Judgment>) -> Value {
    let n = row.completions.len();
    let mut games = Vec::new();
    let mut judge = None;
    for i in 0..n {
        for j in i + 1..n {
            let Some(judgment) = by_id.get(super::loose::pair_id(row, i, j).as_str()) else {
                continue;
            };
            judge.get_or_insert_with(|| rater_name(&judgment.rater));
            if let Some(p) = judgment.p_first.get() {
                games.push((i, j, p));
            }
        }
    }
    let label = match bradley_terry(n, &games) {
        Ok(found) => of_strengths(row, &found),
        Err(why) => json!({
            "strengths": null, "strength_se": null, "ranks": null,
            "chosen": null, "rejected": null, "p_chosen": null,
            "outcome": "not_run", "error": why.to_string(),
        }),
    };
    let mut added = json!({
        "rlaif_id": row.id, "completions": row.completions, "pairs_judged": games.len(),
        "judge": judge, "principle": null, "p_first": null, "orders_agree": null,
    });
    if let (Value::Object(all), Value::Object(label)) = (&mut added, label) {
        all.extend(label);
    }
    with_columns(&row.columns, &row.prompt, added)
}

fn of_strengths(row: &Row, found: &Strengths) -> Value {
    let best = found.order.first().copied().unwrap_or(0);
    let worst = found.order.last().copied().unwrap_or(0);
    let p = found.p_better(best, worst);
    // Equal strengths are a tie: there is neither a best nor a worst.
    let decided = found.strengths[best] - found.strengths[worst] > 1e-9
        && row.completions[best] != row.completions[worst];
    json!({
        "strengths": found.strengths, "strength_se": found.se, "ranks": found.ranks,
        "chosen": decided.then(|| &row.completions[best]),
        "rejected": decided.then(|| &row.completions[worst]),
        "p_chosen": decided.then_some(p),
        "outcome": if decided { "decided" } else { "tie" }, "error": null,
    })
}
