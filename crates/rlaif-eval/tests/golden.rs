//! Against SciPy, scikit-learn and NumPy: `tests/golden/make.py` made the files and says how.
//!
//! Tolerance: 1e-12 relative where both sides evaluate a closed form in f64 (sums of at most 300
//! terms, each rounded to 1e-16). Where another holds, the test says why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

#[macro_use]
mod common;

use rlaif_eval::quantile::{normal_quantile, quantile};
use rlaif_eval::*;
use serde_json::Value;

use common::{close, numbers};

const CLOSED_FORM: f64 = 1e-12;

fn flags(value: &Value) -> Vec<bool> {
    numbers(value).iter().map(|&v| v == 1.0).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Fails where z² / 2n loses its 2, or z² / 4n² its square.
#[test]
fn wilson_is_scipys() {
    let golden = golden!("intervals");
    for case in golden["wilson"].as_array().unwrap() {
        let case = numbers(case);
        let got = wilson(case[0] as u64, case[1] as u64, case[2]).unwrap();
        // Ends near 0 are differences of numbers near 1: absolute accuracy, 1e-15.
        close(got.low, case[3], CLOSED_FORM);
        close(got.high, case[4], CLOSED_FORM);
        if case[2] == 0.95 {
            let default = Proportion::new(case[0] as u64, case[1] as u64).unwrap();
            close(default.low, case[3], CLOSED_FORM);
            close(default.high, case[4], CLOSED_FORM);
        }
    }
}

/// Fails where a digit of a coefficient of any of the three branches changes (each branch has
/// levels here: the middle, 0.01 … 0.076 and 1e-6, and 1e-20 and beyond).
#[test]
fn normal_quantiles_are_scipys() {
    let golden = golden!("intervals");
    for case in golden["normal_quantile"].as_array().unwrap() {
        let case = numbers(case);
        // Φ⁻¹ of a p that is itself rounded: near 1 the rounding of p, 1e-16 of 1e-9, shows.
        let tolerance = if case[0] > 0.999 { 1e-8 } else { 1e-14 };
        close(normal_quantile(case[0]).unwrap(), case[1], tolerance);
    }
}

/// Fails for another of the nine definitions, such as h = q n.
#[test]
fn quantiles_are_numpys() {
    let golden = golden!("intervals");
    let sample = numbers(&golden["quantile"]["sample"]);
    let at = numbers(&golden["quantile"]["at"]);
    for (q, expected) in at.iter().zip(numbers(&golden["quantile"]["value"])) {
        close(quantile(&sample, *q).unwrap(), expected, CLOSED_FORM);
    }
}

fn mean(sample: &[&f64]) -> Option<f64> {
    (!sample.is_empty()).then(|| sample.iter().copied().sum::<f64>() / sample.len() as f64)
}

/// Monte Carlo against Monte Carlo: with 20,000 replicates an end at level 0.025 has a standard
/// error of √(0.025 · 0.975 / 20,000) / φ(1.96) = 0.019 standard deviations of the statistic, that
/// is 0.005 of the interval's width (3.9 of them); 0.02 is four of these.
/// Fails where the confidence is one-sided (ends at 0.05 and 0.95), or items of a group are drawn
/// one by one.
#[test]
fn bootstrap_ends_are_scipys() {
    let golden = golden!("intervals");
    let settings = Bootstrap {
        replicates: 20_000,
        ..Bootstrap::new(1)
    };
    let check = |got: BootstrapInterval, expected: &Value| {
        let (low, high) = (number(&expected["low"]), number(&expected["high"]));
        let allowed = 0.02 * (high - low);
        assert!(
            (got.low - low).abs() < allowed && (got.high - high).abs() < allowed,
            "{got:?} {expected}"
        );
    };
    let plain = &golden["bootstrap"];
    let values = numbers(&plain["values"]);
    check(bootstrap(&values, mean, &settings).unwrap(), plain);

    let clustered = &golden["clustered"];
    let values = numbers(&clustered["values"]);
    let groups: Vec<i64> = numbers(&clustered["groups"])
        .iter()
        .map(|g| *g as i64)
        .collect();
    let got = bootstrap_clustered(&values, &groups, mean, &settings).unwrap();
    assert_eq!(got.units, 10);
    check(got, clustered);
}

/// Fails where the expected agreement uses one rater's frequencies twice (Scott's pi).
#[test]
fn kappa_and_accuracy_are_scikit_learns() {
    for case in golden!("agreement")["cases"].as_array().unwrap() {
        let labels =
            |side: &str| -> Vec<i64> { numbers(&case[side]).iter().map(|v| *v as i64).collect() };
        let (left, right) = (labels("left"), labels("right"));
        close(
            agreement(&left, &right).unwrap().share,
            number(&case["accuracy"]),
            CLOSED_FORM,
        );
        close(
            cohen_kappa(&left, &right).unwrap().kappa,
            number(&case["kappa"]),
            CLOSED_FORM,
        );
    }
}

/// Fails where the clipping of the log loss is 1e-12, where a value on an edge goes to the bin that
/// begins there, and where ECE is not weighted by the rows of a bin.
#[test]
fn calibration_is_scikit_learns() {
    for case in golden!("calibration")["cases"].as_array().unwrap() {
        let (p, y) = (numbers(&case["p"]), flags(&case["y"]));
        close(brier(&p, &y).unwrap(), number(&case["brier"]), CLOSED_FORM);
        close(
            log_loss(&p, &y).unwrap(),
            number(&case["log_loss"]),
            CLOSED_FORM,
        );
        for (name, binning) in [
            ("width_4", Binning::EqualWidth(4)),
            ("width_8", Binning::EqualWidth(8)),
            ("mass_4", Binning::EqualMass(4)),
            ("mass_8", Binning::EqualMass(8)),
        ] {
            let expected = &case[name];
            let bins = reliability(&p, &y, binning).unwrap();
            let (share, mean) = (numbers(&expected["share"]), numbers(&expected["mean"]));
            assert_eq!(bins.len(), share.len(), "{name}");
            for (bin, (share, mean)) in bins.iter().zip(share.iter().zip(mean)) {
                close(bin.happened.share, *share, CLOSED_FORM);
                close(bin.mean_p, mean, CLOSED_FORM);
            }
            assert_eq!(
                bins.iter().map(|b| b.happened.n).sum::<u64>(),
                p.len() as u64
            );
            close(
                ece(&p, &y, binning).unwrap(),
                number(&expected["ece"]),
                CLOSED_FORM,
            );
        }
    }
}

/// Fails where tied values get the first of their ranks, and where tau-b loses its correction for
/// ties (tau-a): the second case is rounded to integers and full of ties.
#[test]
fn correlations_are_scipys() {
    for case in golden!("correlation")["cases"].as_array().unwrap() {
        let (x, y) = (numbers(&case["x"]), numbers(&case["y"]));
        close(
            pearson(&x, &y).unwrap(),
            number(&case["pearson"]),
            CLOSED_FORM,
        );
        close(
            correlation_about_zero(&x, &y).unwrap(),
            number(&case["about_zero"]),
            CLOSED_FORM,
        );
        close(
            spearman(&x, &y).unwrap(),
            number(&case["spearman"]),
            CLOSED_FORM,
        );
        close(
            kendall_tau_b(&x, &y).unwrap(),
            number(&case["kendall"]),
            CLOSED_FORM,
        );
    }
}

/// The root is found by Newton here and by Brent's method there. Both stop at the rounding of the
/// score, a sum of 300 terms: about 1e-14 of its slope, so 1e-11 of β at worst.
/// Fails where the information lacks (1 − σ), or x is scaled and the result is not scaled back.
#[test]
fn the_log_odds_slope_is_the_root_of_the_score() {
    for case in golden!("slope")["cases"].as_array().unwrap() {
        let (x, y) = (numbers(&case["x"]), flags(&case["y"]));
        let got = log_odds_slope(&x, &y).unwrap();
        let (slope, std_error) = (number(&case["slope"]), number(&case["std_error"]));
        // Of the larger of β and its standard error: β itself may be near 0.
        assert!(
            (got.slope - slope).abs() <= 1e-11 * slope.abs().max(std_error),
            "{got:?} {slope}"
        );
        assert!(
            (got.std_error - std_error).abs() <= 1e-10 * std_error,
            "{got:?} {std_error}"
        );
    }
}
