//! The length-controlled win rate against alpaca_eval 0.6.6: `tests/golden/make_length_controlled.py`
//! made the file and says how.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)] // helpers of tests are tests

#[macro_use]
mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rlaif_core::dataset;
use rlaif_eval::{Benchmark, Compared, GamedRow, length_controlled};
use serde_json::Value;

/// Percentage points: the solver takes the same steps, so that only rounding is left.
const WITHIN: f64 = 1e-7;

/// The table of `make_length_controlled.py`, made again.
fn gamed(instructions: usize) -> Benchmark {
    let mut rows = Vec::new();
    for side in [-1.0, 1.0] {
        for i in 0..instructions {
            let difficulty = (i as f64).sin();
            let length = side * (0.25 + (i % 7) as f64 / 4.0);
            let logit = -0.6 * f64::tanh(length) + 0.3 * difficulty + (3.0 * i as f64).cos();
            rows.push(GamedRow {
                instruction: i,
                won: Some(1.0 / (1.0 + (-logit).exp())),
                length_difference: length,
                difficulty,
            });
        }
    }
    Benchmark::new(rows).unwrap()
}

#[track_caller]
fn check(name: &str, rows: &[Compared], benchmark: Option<&Benchmark>, rate: f64, error: f64) {
    let got = length_controlled(rows, benchmark).unwrap();
    assert!(
        (got.win_rate - rate).abs() <= WITHIN,
        "{name}: got {}, expected {rate}",
        got.win_rate
    );
    let got = got.standard_error.unwrap();
    assert!(
        (got - error).abs() <= WITHIN,
        "{name}: got {got}, expected {error}"
    );
}

#[test]
fn drawn_annotations_come_to_alpaca_evals_figures() {
    for (i, case) in golden!("length_controlled")["cases"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let column = |name: &str| case[name].as_array().unwrap().clone();
        let rows: Vec<Compared> = column("won")
            .iter()
            .zip(column("length_difference"))
            .zip(column("instruction"))
            .map(|((won, difference), instruction)| Compared {
                won: won.as_f64(),
                length_difference: difference.as_f64().unwrap(),
                instruction: instruction.as_u64().unwrap() as usize,
            })
            .collect();
        let benchmark = case["benchmark"].as_u64().map(|n| gamed(n as usize));
        let expected = |name: &str| case[name].as_f64().unwrap();
        check(
            &format!("case {i}"),
            &rows,
            benchmark.as_ref(),
            expected("win_rate"),
            expected("standard_error"),
        );
    }
}

/// Every model of the data folder's AlpacaEval annotations, both annotators, with a benchmark and
/// without.
#[test]
fn recorded_annotations_come_to_alpaca_evals_figures() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("RLAIF_DATA").map_or(beside, PathBuf::from);
    if !root.is_dir() {
        println!("skipped: no data at `{}` (set RLAIF_DATA)", root.display());
        return;
    }
    let golden = golden!("length_controlled");
    let expected = golden["recorded"].as_object().unwrap();
    let mut seen = 0;
    for annotator in ["gpt4", "weighted_gpt4_turbo"] {
        let path = root.join(format!("alpaca_eval/{annotator}_preferences_dev.jsonl.gz"));
        let all = dataset::read(&path).unwrap();
        let text =
            |row: &dataset::Row, column: &str| row.columns[column].as_str().unwrap().to_owned();
        let instructions: BTreeSet<String> =
            all.rows.iter().map(|r| text(r, "instruction")).collect();
        let place = |row: &dataset::Row| {
            let wanted = text(row, "instruction");
            instructions.iter().position(|i| *i == wanted).unwrap()
        };
        let benchmark = gamed(instructions.len());
        let models: BTreeSet<String> = all.rows.iter().map(|r| text(r, "generator_2")).collect();
        for model in models {
            let rows: Vec<Compared> = all
                .rows
                .iter()
                .filter(|r| text(r, "generator_2") == model)
                .map(|r| {
                    let characters = |column: &str| text(r, column).chars().count() as f64;
                    Compared {
                        won: r.columns["preference"]
                            .as_f64()
                            .map(|p| if p == 0.0 { 0.5 } else { p - 1.0 }),
                        length_difference: characters("output_1") - characters("output_2"),
                        instruction: place(r),
                    }
                })
                .collect();
            let name = format!("{annotator}/{model}");
            for (kind, benchmark) in [("minimal", None), ("full", Some(&benchmark))] {
                let figures = common::numbers(&expected[&name][kind]);
                check(&name, &rows, benchmark, figures[0], figures[1]);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, expected.len());
}

#[test]
fn what_cannot_be_controlled_is_said() {
    let row = |won: f64, length_difference: f64| Compared {
        won: Some(won),
        length_difference,
        instruction: 9,
    };
    let equal: Vec<Compared> = (0..6).map(|i| row(f64::from(i % 2), 5.0)).collect();
    assert!(length_controlled(&equal, None).is_err());
    let few: Vec<Compared> = (0..4).map(|i| row(0.5, f64::from(i))).collect();
    assert!(length_controlled(&few, None).is_err());
    let enough: Vec<Compared> = (0..6).map(|i| row(0.5, f64::from(i))).collect();
    assert!(length_controlled(&enough, None).is_ok());
    assert!(length_controlled(&enough, Some(&gamed(5))).is_err());
    assert!(length_controlled(&enough, Some(&gamed(10))).is_ok());
    assert!(Benchmark::new(Vec::new()).is_err());
}

/// All lengths doubled, or model and reference exchanged: s takes the first up, and the second turns
/// the rate round.
#[test]
fn units_of_length_do_not_matter_and_exchanged_sides_turn_the_rate_round() {
    let golden = golden!("length_controlled");
    let case = &golden["cases"][0];
    let rows = |scale: f64, exchanged: bool| -> Vec<Compared> {
        case["won"]
            .as_array()
            .unwrap()
            .iter()
            .zip(common::numbers(&case["length_difference"]))
            .map(|(won, difference)| {
                let won = won.as_f64().unwrap();
                Compared {
                    won: Some(if exchanged { 1.0 - won } else { won }),
                    length_difference: if exchanged { -difference } else { difference } * scale,
                    instruction: 0,
                }
            })
            .collect()
    };
    let rate = |rows: &[Compared]| length_controlled(rows, None).unwrap().win_rate;
    let given = rate(&rows(1.0, false));
    assert!((rate(&rows(2.0, false)) - given).abs() < 1e-9);
    assert!((rate(&rows(1.0, true)) - (100.0 - given)).abs() < 1e-9);
}
