//! Golden files, read and compared.
#![allow(dead_code, unused_macros)] // each file of tests uses its own part

use serde_json::Value;

pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

/// Relative to the expected value, or to 1e-3 where that is smaller.
#[track_caller]
pub fn close(got: f64, expected: f64, relative: f64) {
    let allowed = relative * expected.abs().max(1e-3);
    assert!(
        (got - expected).abs() <= allowed,
        "got {got}, expected {expected}"
    );
}

macro_rules! golden {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("golden/", $name, ".json"))).unwrap()
    };
}
