//! Regression, recalibration and leaderboards against SciPy, scikit-learn, alpaca_eval and
//! rewardbench: `tests/golden/make.py` made the files and says how.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

#[macro_use]
mod common;

use rlaif_eval::*;
use serde_json::Value;

use common::{close, numbers};

/// MINPACK stops at a gradient of 1e-9 and less: seven digits and more are common to both.
#[test]
fn logistic_regression_is_scipys() {
    for case in golden!("logistic")["cases"].as_array().unwrap() {
        let rows: Vec<Vec<f64>> = case["x"].as_array().unwrap().iter().map(numbers).collect();
        let fit = logistic(&rows, &numbers(&case["y"])).unwrap();
        for (got, expected) in fit.coefficients.iter().zip(numbers(&case["coefficients"])) {
            close(*got, expected, 1e-7);
        }
        for (got, expected) in fit.std_errors.iter().zip(numbers(&case["std_errors"])) {
            close(*got, expected, 1e-7);
        }
    }
}

#[test]
fn what_has_no_maximum_is_said() {
    let separated: Vec<Vec<f64>> = [-2.0, -1.0, 1.0, 2.0].map(|x| vec![x]).into();
    assert!(logistic(&separated, &[0.0, 0.0, 1.0, 1.0]).is_err());
    let twice: Vec<Vec<f64>> = [-2.0, -1.0, 1.0, 2.0].map(|x| vec![x, 2.0 * x]).into();
    assert!(logistic(&twice, &[0.0, 1.0, 0.0, 1.0]).is_err());
    assert!(logistic(&separated, &[0.0, 1.0, 0.0, 1.0]).is_ok());
    assert!(Recalibration::temperature(&[0.9, 0.8], &[true, true]).is_err());
}

#[test]
fn recalibration_is_scikit_learns() {
    for case in golden!("recalibrate")["cases"].as_array().unwrap() {
        let p = numbers(&case["p"]);
        let y: Vec<bool> = numbers(&case["y"]).iter().map(|y| *y == 1.0).collect();
        match Recalibration::temperature(&p, &y).unwrap() {
            Recalibration::Temperature { temperature } => {
                close(temperature, case["temperature"].as_f64().unwrap(), 1e-9);
            }
            other => panic!("{other:?}"),
        }
        let platt = numbers(&case["platt"]);
        match Recalibration::platt(&p, &y).unwrap() {
            Recalibration::Platt { slope, intercept } => {
                close(slope, platt[0], 1e-7);
                close(intercept, platt[1], 1e-7);
            }
            other => panic!("{other:?}"),
        }
        let rising = Recalibration::isotonic(&p, &y).unwrap();
        let (at, value) = (
            numbers(&case["isotonic"]["at"]),
            numbers(&case["isotonic"]["value"]),
        );
        for (at, value) in at.iter().zip(value) {
            close(rising.apply(*at), value, 1e-9);
        }
    }
}

#[test]
fn win_rates_are_alpaca_evals() {
    for case in golden!("boards")["alpaca"].as_array().unwrap() {
        let won = numbers(&case["won"]);
        let got = alpaca_win_rate(&won).unwrap();
        close(got.win_rate, case["win_rate"].as_f64().unwrap(), 1e-12);
        close(
            got.discrete_win_rate,
            case["discrete_win_rate"].as_f64().unwrap(),
            1e-12,
        );
        assert_eq!(got.standard_error.is_some(), won.len() > 1);
        if let Some(error) = got.standard_error {
            close(error, case["standard_error"].as_f64().unwrap(), 1e-12);
        }
        for (name, count) in [
            ("n_wins", got.n_wins),
            ("n_wins_base", got.n_wins_base),
            ("n_draws", got.n_draws),
            ("n_total", got.n_total),
        ] {
            assert_eq!(case[name].as_f64().unwrap(), count as f64, "{name}");
        }
    }
}

#[test]
fn sections_are_rewardbenchs() {
    for case in golden!("boards")["rewardbench"].as_array().unwrap() {
        let rows: Vec<(&str, Pick)> = case["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let pick = match row[1].as_f64().unwrap() {
                    0.0 => Pick::Rejected,
                    1.0 => Pick::Chosen,
                    _ => Pick::Neither,
                };
                (row[0].as_str().unwrap(), pick)
            })
            .collect();
        let got = rewardbench(rows).unwrap();
        let expected = case["sections"].as_object().unwrap();
        assert_eq!(
            got.sections
                .keys()
                .collect::<std::collections::BTreeSet<_>>(),
            expected.keys().collect()
        );
        for (section, score) in expected {
            close(got.sections[section], score.as_f64().unwrap(), 1e-12);
        }
        let subsets = case["subsets"].as_object().unwrap();
        assert_eq!(got.subsets.len(), subsets.len());
        for (subset, score) in subsets {
            close(got.subsets[subset], score.as_f64().unwrap(), 1e-12);
        }
    }
    assert_eq!(rewardbench([("no subset of theirs", Pick::Chosen)]), None);
}

#[test]
fn subsets_are_rewardbench_2s() {
    for case in golden!("rewardbench2")["cases"].as_array().unwrap() {
        let rows: Vec<BestOf> = case["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| BestOf {
                subset: row["subset"].as_str().unwrap().into(),
                id: row["id"].as_str().unwrap().into(),
                n_correct: row["num_correct"].as_u64().unwrap() as usize,
                scores: row["scores"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(Value::as_f64)
                    .collect(),
            })
            .collect();
        let got = rewardbench2(&rows).unwrap();
        let expected = case["subsets"].as_object().unwrap();
        assert_eq!(got.subsets.len(), expected.len());
        for (subset, score) in expected {
            close(got.subsets[subset], score.as_f64().unwrap(), 1e-12);
        }
        let all: f64 = got.subsets.values().sum();
        match got.score {
            Some(score) => close(score, all / 6.0, 1e-12),
            None => assert_eq!(expected.len(), 3),
        }
        // Part of the cases has ratings that cannot be read, and says so.
        assert!(got.unread["Factuality"] > 0 && !got.unread.contains_key("Ties"));
    }
    assert_eq!(rewardbench2(&[]), None);
}
