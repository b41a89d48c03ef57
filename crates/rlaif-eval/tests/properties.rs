//! What must hold for any rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use proptest::prelude::*;
use rlaif_eval::*;

fn comparison() -> impl Strategy<Value = Comparison> {
    prop_oneof![
        Just(Comparison::Win),
        Just(Comparison::Loss),
        Just(Comparison::Tie)
    ]
}

proptest! {
    #[test]
    fn wilson_stays_in_the_unit_interval_and_holds_the_share(n in 1u64..100_000, part in 0.0..=1.0f64) {
        let count = (part * n as f64) as u64;
        let p = Proportion::new(count, n).unwrap();
        prop_assert!(0.0 <= p.low && p.low <= p.share && p.share <= p.high && p.high <= 1.0);
        prop_assert!(p.low < p.high);
        // The complement's interval is the mirror image.
        let q = Proportion::new(n - count, n).unwrap();
        prop_assert!((p.low - (1.0 - q.high)).abs() < 1e-12);
    }

    #[test]
    fn exchanging_the_players_gives_one_minus_the_rate(games in prop::collection::vec(comparison(), 0..60)) {
        let here = win_rate(&games);
        let there: Vec<_> = games.iter().map(|g| g.exchanged()).collect();
        let there = win_rate(&there);
        prop_assert_eq!(here.rate.is_none(), here.wins + here.losses == 0);
        match (here.rate, there.rate) {
            (Some(a), Some(b)) => prop_assert!((a.share - (1.0 - b.share)).abs() < 1e-15),
            (None, None) => {}
            other => prop_assert!(false, "{other:?}"),
        }
        if let (Some(a), Some(b)) = (here.rate_ties_half, there.rate_ties_half) {
            prop_assert!((a - (1.0 - b)).abs() < 1e-15);
        }
    }

    #[test]
    fn exchanging_the_responses_leaves_the_position_bias(
        readings in prop::collection::vec((0.0..=1.0f64, 0.0..=1.0f64), 1..40),
    ) {
        let here = PositionBias::from_readings(&readings).unwrap();
        let exchanged: Vec<_> = readings.iter().map(|(p, q)| (1.0 - q, 1.0 - p)).collect();
        let there = PositionBias::from_readings(&exchanged).unwrap();
        prop_assert_eq!(
            (here.first_twice, here.second_twice, here.inconsistency),
            (there.first_twice, there.second_twice, there.inconsistency)
        );
        // 1 − p rounds to 2⁻⁵³, which near the clip of 1e-6 moves a log-odds by 1e-10.
        prop_assert!((here.logit.mean - there.logit.mean).abs() < 1e-9);
    }

    #[test]
    fn exchanging_the_responses_leaves_the_slope(
        rows in prop::collection::vec((-200..200i32, any::<bool>()), 2..40),
    ) {
        let x: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
        let y: Vec<bool> = rows.iter().map(|r| r.1).collect();
        let minus: Vec<f64> = x.iter().map(|x| -x).collect();
        let not: Vec<bool> = y.iter().map(|y| !y).collect();
        prop_assert_eq!(log_odds_slope(&x, &y), log_odds_slope(&minus, &not));
        if let Ok(got) = log_odds_slope(&x, &y) {
            prop_assert!(got.slope.is_finite() && got.std_error > 0.0);
        }
    }

    #[test]
    fn the_bootstrap_repeats_under_its_seed_and_holds_a_mean_within_the_sample(
        values in prop::collection::vec(-5.0..5.0f64, 1..30),
        seed in any::<u64>(),
    ) {
        let settings = Bootstrap { replicates: 50, ..Bootstrap::new(seed) };
        let mean = |s: &[&f64]| Some(s.iter().copied().sum::<f64>() / s.len() as f64);
        let a = bootstrap(&values, mean, &settings).unwrap();
        prop_assert_eq!(a, bootstrap(&values, mean, &settings).unwrap());
        let least = values.iter().copied().fold(f64::INFINITY, f64::min) - 1e-9;
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) + 1e-9;
        prop_assert!(least <= a.low && a.low <= a.high && a.high <= most);
        // Groups of one, in the order of their rows, are items.
        let groups: Vec<usize> = (0..values.len()).collect();
        prop_assert_eq!(a, bootstrap_clustered(&values, &groups, mean, &settings).unwrap());
    }

    #[test]
    fn calibration_figures_stay_in_range_and_bins_hold_every_row(
        rows in prop::collection::vec((0.0..=1.0f64, any::<bool>()), 1..80),
        bins in 1usize..15,
    ) {
        let (p, y): (Vec<f64>, Vec<bool>) = rows.into_iter().unzip();
        for binning in [Binning::EqualWidth(bins), Binning::EqualMass(bins)] {
            let diagram = reliability(&p, &y, binning).unwrap();
            prop_assert_eq!(diagram.iter().map(|b| b.happened.n).sum::<u64>(), p.len() as u64);
            prop_assert!(diagram.iter().all(|b| b.low - 1e-12 <= b.mean_p && b.mean_p <= b.high + 1e-12));
            prop_assert!((0.0..=1.0).contains(&ece(&p, &y, binning).unwrap()));
        }
        prop_assert!((0.0..=1.0).contains(&brier(&p, &y).unwrap()));
        prop_assert!(log_loss(&p, &y).unwrap().is_finite());
    }

    /// Against the definition, pair by pair.
    #[test]
    fn kendall_counts_pairs(rows in prop::collection::vec((0..6i32, 0..6i32), 2..40)) {
        let x: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
        let y: Vec<f64> = rows.iter().map(|r| f64::from(r.1)).collect();
        let (mut difference, mut in_x, mut in_y) = (0.0, 0.0, 0.0);
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[..i] {
                let (dx, dy) = ((a.0 - b.0).signum(), (a.1 - b.1).signum());
                difference += f64::from(dx * dy);
                in_x += f64::from(dx.abs());
                in_y += f64::from(dy.abs());
            }
        }
        match kendall_tau_b(&x, &y) {
            Ok(tau) => prop_assert!((tau - difference / f64::sqrt(in_x * in_y)).abs() < 1e-12),
            Err(_) => prop_assert!(in_x == 0.0 || in_y == 0.0),
        }
    }
}

#[test]
fn what_is_not_defined_is_an_error_or_none_and_never_a_number() {
    assert_eq!(Proportion::new(0, 0), None);
    assert_eq!(Proportion::new(3, 2), None);
    assert!(wilson(3, 2, 0.95).is_err());
    assert!(wilson(1, 2, 1.0).is_err());
    assert!(agreement::<u8>(&[], &[]).is_err());
    assert!(agreement(&[1, 2], &[1]).is_err());
    assert!(cohen_kappa::<u8>(&[], &[]).is_err());
    assert!(cohen_kappa(&["A", "A"], &["A", "A"]).is_err());
    assert_eq!(win_rate(&[Comparison::Tie]).rate, None);
    assert_eq!(win_rate(&[]).rate_ties_half, None);
    assert!(win_rate_clustered(&[Comparison::Tie], &[0], &Bootstrap::new(0)).is_err());
    assert!(brier(&[], &[]).is_err());
    assert!(log_loss(&[], &[]).is_err());
    assert!(ece(&[], &[], Binning::EqualWidth(10)).is_err());
    assert!(ece(&[0.5], &[true], Binning::EqualMass(0)).is_err());
    let outside = Error::OutOfRange {
        statistic: "the Brier score",
        expected: "probabilities in [0, 1]",
        got: 1.5,
        row: 1,
    };
    assert_eq!(brier(&[0.5, 1.5], &[true, true]), Err(outside));
    assert!(brier(&[f64::NAN], &[true]).is_err());
    assert!(PositionBias::from_readings(&[]).is_err());
    assert!(PositionBias::from_readings(&[(0.5, f64::NAN)]).is_err());
    for correlation in [pearson, spearman, kendall_tau_b] {
        assert!(correlation(&[1.0], &[1.0]).is_err());
        assert!(correlation(&[1.0, 1.0], &[1.0, 2.0]).is_err());
        assert!(correlation(&[1.0, f64::INFINITY], &[1.0, 2.0]).is_err());
    }
    assert!(pearson(&[-1e300, 1e300], &[0.0, 1.0]).is_err());
    // The sign of x predicts y: β would be infinite.
    assert!(log_odds_slope(&[1.0, -2.0, 3.0], &[true, false, true]).is_err());
    assert!(log_odds_slope(&[0.0, 0.0], &[true, false]).is_err());
    assert!(bootstrap(&[1.0; 0], |_| Some(1.0), &Bootstrap::new(0)).is_err());
    assert!(bootstrap(&[1.0], |_| None, &Bootstrap::new(0)).is_err());
    assert!(bootstrap(&[1.0], |_| Some(f64::NAN), &Bootstrap::new(0)).is_err());
}

/// A statistic without a value on some replicates is counted there, not replaced: with one win
/// among four rows a replicate misses it with probability (3/4)⁴ = 0.316.
#[test]
fn replicates_without_a_value_are_counted() {
    let decided_only = |s: &[&bool]| s.iter().any(|won| **won).then_some(1.0);
    let got = bootstrap(
        &[true, false, false, false],
        decided_only,
        &Bootstrap::new(3),
    )
    .unwrap();
    assert_eq!(got.replicates + got.undefined, 1_000);
    // Three standard deviations of a binomial with n = 1,000 and p = 0.316 are 44.
    assert!((272..=360).contains(&got.undefined), "{got:?}");
}

/// Edges −1 and 2 make the bins …−2, −1…1, 2….
#[test]
fn length_bins_include_their_lower_edge() {
    let bins = agreement_by_length(
        &[-5, -1, 1, 2, 9],
        &[false, true, false, true, true],
        &[-1, 2],
    )
    .unwrap();
    let counts: Vec<_> = bins
        .iter()
        .map(|b| b.agreement.map(|a| (a.count, a.n)))
        .collect();
    assert_eq!(counts, [Some((0, 1)), Some((1, 2)), Some((2, 2))]);
    assert_eq!((bins[1].from, bins[1].to), (Some(-1), Some(2)));
    assert!(agreement_by_length(&[], &[], &[1, 1]).is_err());

    let by = agreement_by(&["x", "y", "x"], &[1, 1, 1], &[1, 0, 0]).unwrap();
    assert_eq!((by["x"].count, by["x"].n, by["y"].share), (1, 2, 0.0));
}
