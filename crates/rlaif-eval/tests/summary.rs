//! The summary of a judge, on rows small enough to count by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use proptest::prelude::*;
use rlaif_core::message::Prompt;
use rlaif_core::{
    Judgment, ModelId, OrderResult, Outcome, PresentationOrder, Probability, Rater, Verdict,
};
use rlaif_eval::{JudgeSummary, OutcomeCounts};

fn order(order: PresentationOrder, p: Option<f64>) -> OrderResult {
    OrderResult {
        order,
        p_first: p.map_or(Probability::NONE, Probability::new),
        off_choice_mass: None,
        evidence: None,
        outcome: p.map_or(Outcome::Unparseable, |_| Outcome::Decided),
        raw: String::new(),
        error: None,
        told: rlaif_core::Told::default(),
    }
}

/// A judgment whose responses have so many words and whose orders were read so.
fn judgment(
    prompt: &str,
    lengths: (usize, usize),
    given: Option<f64>,
    swapped: Option<f64>,
) -> Judgment {
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let p = match (given, swapped) {
        (Some(a), Some(b)) => Some(1.0 / (1.0 + (-(logit(a) + logit(b)) / 2.0).exp())),
        (one, None) | (None, one) => one,
    };
    Judgment {
        orders: vec![
            order(PresentationOrder::Given, given),
            order(PresentationOrder::Swapped, swapped),
        ],
        ..Judgment::new(
            "",
            Prompt::from(prompt),
            [lengths.0, lengths.1].map(|n| "word ".repeat(n)),
            match p {
                None => Outcome::Unparseable,
                Some(p) if (p - 0.5).abs() < 0.02 => Outcome::Tie,
                Some(_) => Outcome::Decided,
            },
            p.map_or(Probability::NONE, Probability::new),
            Rater::Model(ModelId::new("judge")),
        )
    }
}

/// The same pair with the responses exchanged.
fn exchanged(j: &Judgment) -> Judgment {
    let mut other = j.clone();
    std::mem::swap(&mut other.response_a, &mut other.response_b);
    other.p_first = j.p_first.complement();
    for result in &mut other.orders {
        result.p_first = result.p_first.complement();
        result.order = match result.order {
            PresentationOrder::Given => PresentationOrder::Swapped,
            PresentationOrder::Swapped => PresentationOrder::Given,
        };
    }
    other
}

#[test]
fn a_summary_counted_by_hand() {
    let rows = [
        judgment("p", (3, 1), Some(0.9), Some(0.9)), // longer first, wins: agrees
        judgment("p", (1, 5), Some(0.9), Some(0.6)), // shorter first, wins: disagrees
        judgment("q", (2, 2), Some(0.8), Some(0.2)), // first position twice: a tie
        judgment("r", (60, 1), Some(0.3), None),     // one order read, B wins: agrees
        judgment("s", (1, 1), None, None),           // nothing read
    ];
    let labels = [
        Some(Verdict::A),
        Some(Verdict::B),
        Some(Verdict::A),
        Some(Verdict::B),
        None,
    ];
    let got = JudgeSummary::from_judgments(&rows, Some(&labels)).unwrap();

    assert_eq!(
        got.outcomes,
        OutcomeCounts {
            rows: 5,
            decided: 3,
            tie: 1,
            unparseable: 1,
            ..OutcomeCounts::default()
        }
    );
    let undecided = got.undecided.unwrap();
    assert_eq!((undecided.count, undecided.n), (2, 5));

    let position = got.position.unwrap();
    assert_eq!(
        (position.inconsistency.count, position.inconsistency.n),
        (1, 3)
    );
    assert_eq!((position.first_twice, position.second_twice), (1, 0));
    // Halves of logit p₁ − logit p₂: 0, (ln 9 − ln 1.5)/2 = ln √6, and ln 4; their mean.
    let expected = (6f64.ln() / 2.0 + 4f64.ln()) / 3.0;
    assert!((position.logit.mean - expected).abs() < 1e-12);

    // Decided: 3 against 1 words, longer won; 1 against 5, shorter won; 60 against 1, shorter won.
    let length = got.length.unwrap();
    let longer = length.longer_won.unwrap();
    assert_eq!((longer.count, longer.n, length.equal_length), (1, 3, 0));
    assert!(length.slope_per_word.unwrap().slope < 0.0);

    let human = got.human.unwrap();
    assert_eq!((human.labeled, human.label_ties), (4, 0));
    let counts = |p: Option<rlaif_eval::Proportion>| p.map(|p| (p.count, p.n)).unwrap();
    assert_eq!(counts(human.agreement), (2, 3));
    assert_eq!(counts(human.both_orders), (1, 2));
    // Given order: A✓, A✗, A✓, B✓. Swapped order: A✓, A✗, B✗.
    assert_eq!(counts(human.given_order), (3, 4));
    assert_eq!(counts(human.swapped_order), (1, 3));
    assert_eq!(counts(human.single_order), (4, 7));
    // Prompt `p` has two rows.
    assert_eq!(human.agreement_by_prompt.unwrap().units, 2);
    // Confidences 0.9, σ((ln 9 + ln 1.5)/2) = σ(ln √13.5), 0.7; the second verdict is wrong.
    let wrong = 13.5f64.sqrt() / (1.0 + 13.5f64.sqrt());
    let expected = (0.1f64.powi(2) + wrong.powi(2) + 0.3f64.powi(2)) / 3.0;
    assert!((human.brier.unwrap() - expected).abs() < 1e-12);
    // Bins (0.6, 0.7], (0.7, 0.8] and (0.8, 0.9] hold one row each: 0.7, 0.786 and 0.9.
    let expected = (0.3 + wrong + 0.1) / 3.0;
    assert!((human.ece.unwrap() - expected).abs() < 1e-12);
    // The label's side has 2 words more, 4 more and 59 fewer.
    let bins: Vec<_> = human
        .by_length
        .iter()
        .map(|b| b.agreement.map(|a| (a.count, a.n)))
        .collect();
    assert_eq!(bins, [Some((1, 1)), None, Some((1, 2)), None, None]);
}

#[test]
fn no_rows_and_failed_rows_give_no_figures() {
    let empty = JudgeSummary::from_judgments(&[], Some(&[])).unwrap();
    assert_eq!(
        serde_json::to_value(&empty).unwrap(),
        serde_json::json!({
            "outcomes": {"rows": 0, "decided": 0, "tie": 0, "abstained": 0, "unparseable": 0,
                         "refused": 0, "truncated": 0, "failed": 0, "not_run": 0},
            "undecided": null, "position": null, "length": null, "human": null,
        })
    );
    let failed = [judgment("p", (1, 2), None, None)];
    let got = JudgeSummary::from_judgments(&failed, Some(&[Some(Verdict::A)])).unwrap();
    let human = got.human.unwrap();
    assert_eq!((got.position, got.length), (None, None));
    assert_eq!(
        (human.labeled, human.agreement, human.brier),
        (1, None, None)
    );
    assert!(human.reliability.is_empty());
    assert!(JudgeSummary::from_judgments(&failed, Some(&[])).is_err());
}

proptest! {
    /// Which response a file names first is an accident, so nothing may depend on it. Files hold
    /// the summary, so this also reads it back from JSON.
    #[test]
    fn exchanging_responses_changes_nothing(
        rows in prop::collection::vec(
            (0..3u8, (0..80usize, 0..80usize),
             prop::option::of(0.001..0.999f64), prop::option::of(0.001..0.999f64),
             prop::option::of(any::<bool>()), any::<bool>()),
            0..25,
        ),
    ) {
        let mut here = Vec::new();
        let mut there = Vec::new();
        let (mut labels, mut other_labels) = (Vec::new(), Vec::new());
        for (prompt, lengths, given, swapped, label, exchange) in rows {
            let row = judgment(&prompt.to_string(), lengths, given, swapped);
            let label = label.map(|first| if first { Verdict::A } else { Verdict::B });
            there.push(if exchange { exchanged(&row) } else { row.clone() });
            other_labels.push(if exchange { label.map(Verdict::swapped) } else { label });
            here.push(row);
            labels.push(label);
        }
        let a = JudgeSummary::from_judgments(&here, Some(&labels)).unwrap();
        let b = JudgeSummary::from_judgments(&there, Some(&other_labels)).unwrap();
        prop_assert_eq!(a.outcomes, b.outcomes);
        prop_assert_eq!(a.length.map(|l| l.longer_won), b.length.map(|l| l.longer_won));
        prop_assert_eq!(
            a.position.map(|p| p.inconsistency), b.position.map(|p| p.inconsistency));
        if let (Some(a), Some(b)) = (a.position, b.position) {
            prop_assert!((a.logit.mean - b.logit.mean).abs() < 1e-9);
        }
        if let (Some(a), Some(b)) = (&a.human, &b.human) {
            prop_assert_eq!(a.agreement, b.agreement);
            prop_assert_eq!(a.agreement_by_prompt, b.agreement_by_prompt);
            prop_assert_eq!(a.single_order, b.single_order);
            prop_assert_eq!(&a.by_length, &b.by_length);
            if let (Some(a), Some(b)) = (a.brier, b.brier) {
                prop_assert!((a - b).abs() < 1e-9);
            }
        }
        prop_assert_eq!(a.human.is_some(), b.human.is_some());
        let text = serde_json::to_string(&a).unwrap();
        let back = serde_json::from_str::<JudgeSummary>(&text).unwrap();
        prop_assert_eq!(back.outcomes, a.outcomes);
    }
}
