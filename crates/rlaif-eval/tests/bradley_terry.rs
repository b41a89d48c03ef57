//! Bradley-Terry strengths against SciPy's optimizer; `golden/make_bradley_terry.py` made the file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use rlaif_eval::bradley_terry;
use serde_json::Value;

#[test]
fn strengths_and_errors_are_scipys() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("golden/bradley_terry.json")).unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let n = case["n"].as_u64().unwrap() as usize;
        let games: Vec<(usize, usize, f64)> =
            serde_json::from_value(case["games"].clone()).unwrap();
        let found = bradley_terry(n, &games).unwrap();
        // SciPy stops where the likelihood is flat to double precision: 1e-6 in the strengths. Its
        // Hessian is by finite differences: 1e-4.
        for (key, got, tolerance) in [
            ("strengths", &found.strengths, 1e-5),
            ("se", &found.se, 1e-3),
        ] {
            for (got, expected) in got.iter().zip(case[key].as_array().unwrap()) {
                let expected = expected.as_f64().unwrap();
                assert!(
                    (got - expected).abs() < tolerance,
                    "{key}: {got} is not {expected}"
                );
            }
        }
    }
}
