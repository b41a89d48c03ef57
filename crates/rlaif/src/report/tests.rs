use std::path::Path;
use std::sync::Arc;

use rlaif_core::script::ScriptedModel;
use rlaif_core::{Constitution, Prompt};
use rlaif_feedback::{Judge, JudgeConfig, judge};

use super::*;

const HOSTILE: &str = "</div></article><script>document.title='PWNED'</script><img src=x \
                       onerror=\"document.title='PWNED'\">\u{202e}evil\u{200b}";

fn judgment(a: &str, b: &str) -> Judgment {
    let model = ScriptedModel::new(HOSTILE, |_| Ok(HOSTILE.into()))
        .with_probabilities(|_| Ok(vec![0.8, 0.2]));
    let constitution = Constitution::parse(
        "[[principles]]\nid='<b>'\ncritique='c'\nrevision='r'",
        Path::new("c"),
    )
    .unwrap();
    let config = JudgeConfig {
        rationale: rlaif_feedback::Rationale::After,
        ..Default::default()
    };
    let by = Judge::new(Arc::new(model), constitution, config, None, 1).unwrap();
    futures::executor::block_on(judge(&by, HOSTILE, &Prompt::from(HOSTILE), a, b)).unwrap()
}

#[test]
fn hostile_text_stays_text() {
    let judgments = vec![judgment(HOSTILE, "fine")];
    let summary = JudgeSummary::from_judgments(&judgments, None).unwrap();
    let html = render(&Page {
        title: HOSTILE,
        judgments: &judgments,
        sample_of: judgments.len(),
        revisions: &[],
        summary: &summary,
        training: &Training::default(),
    });
    assert!(!html.contains("<script>document"), "a script came through");
    assert!(!html.contains("<img"), "a tag came through");
    assert!(html.contains("&lt;img"));
    assert!(html.contains("U+202E") && html.contains("U+200B"));
    // Attribute values are quoted and escaped: no quote of the text ends one.
    assert!(!html.contains("onerror=\"document"));
}

#[test]
fn a_label_of_shortened_responses_says_so() {
    let mut judged = judgment("a", "b");
    judged.shortened = Some(rlaif_core::Shortened {
        prompt: 1.0,
        responses: 0.375,
    });
    let judgments = vec![judged];
    let summary = JudgeSummary::from_judgments(&judgments, None).unwrap();
    let html = render(&Page {
        title: "t",
        judgments: &judgments,
        sample_of: 1,
        revisions: &[],
        summary: &summary,
        training: &Training::default(),
    });
    assert!(html.contains("shown 38 % of each response") && html.contains("1 did not fit"));
    assert!(!html.contains("of the prompt"));
}

#[test]
fn what_policies_wrote_stays_text_and_curves_are_drawn() {
    use crate::evaluation::{Evaluation, Measured};
    use training::{KeptLine, LogLine, Trained};
    let mut training = Training {
        evaluation: Some(Evaluation {
            prompts: 1,
            policies: serde_json::from_value(serde_json::json!([
                {"policy": "base", "completions": 1, "failed": 0, "numbers": {}},
                {"policy": "ppo", "completions": 1, "failed": 0,
                 "numbers": {HOSTILE: {HOSTILE: {"mean": 1.0, "std_error": null, "n": 1}}}},
            ]))
            .unwrap(),
            ..Evaluation::default()
        }),
        ..Training::default()
    };
    training.samples = vec![Measured {
        id: "1".into(),
        policy: "ppo".into(),
        prompt: Prompt::from(HOSTILE),
        completion: HOSTILE.into(),
        outcome: Outcome::Decided,
        tokens: None,
        words: 1,
        reward: Some(1.0),
        kl: None,
        numbers: BTreeMap::from([(HOSTILE.into(), BTreeMap::from([(HOSTILE.into(), 1.0)]))]),
    }];
    let line = |i: u64| LogLine {
        iteration: i,
        score: i as f64,
        kl: (i * i) as f64,
        ..LogLine::default()
    };
    training.stages = vec![Trained {
        stage: "ppo".into(),
        log: (1..=3).map(line).collect(),
        summary: training::Summary {
            kept: Some(KeptLine { iteration: 2 }),
            ..training::Summary::default()
        },
    }];
    let summary = JudgeSummary::from_judgments(&[], None).unwrap();
    let html = render(&Page {
        title: "t",
        judgments: &[],
        sample_of: 0,
        revisions: &[],
        summary: &summary,
        training: &training,
    });
    assert!(!html.contains("<script>document") && !html.contains("<img"));
    assert!(html.matches("&lt;img").count() >= 3);
    // Three iterations at KL 1, 4, 9: √KL runs from 1 to 3, and the stop at 2 stands in the middle
    // of the axis from 38 to 310.
    assert!(
        html.contains("<line class=\"diag\" x1=\"174.0\""),
        "the stop is not marked"
    );
    assert!(
        html.contains("38.0,196.0 174.0,103.0 310.0,10.0"),
        "the path is not drawn"
    );
}

#[test]
fn a_large_file_is_shown_in_part_and_says_so() {
    let one = judgment("a", "b");
    let many: Vec<Judgment> = (0..1_000)
        .map(|i| Judgment {
            id: format!("row{i}"),
            outcome: if i % 10 == 0 {
                Outcome::Refused
            } else {
                Outcome::Decided
            },
            ..one.clone()
        })
        .collect();
    let rows = chosen_rows(&many);
    assert!(rows.len() <= MAX_CARDS, "{}", rows.len());
    assert!(
        rows.iter()
            .filter(|j| j.outcome == Outcome::Refused)
            .count()
            >= MAX_UNDECIDED
    );
    let summary = JudgeSummary::from_judgments(&many, None).unwrap();
    let html = render(&Page {
        title: "t",
        judgments: &many,
        sample_of: many.len(),
        revisions: &[],
        summary: &summary,
        training: &Training::default(),
    });
    assert!(html.contains(&format!("{} of 1000 rows", rows.len())));
}

#[test]
fn words_that_went_and_came_are_marked() {
    let html = diff("be rude now", "be kind now").into_string();
    assert!(
        html.contains("<del>rude</del>") && html.contains("<ins>kind</ins>"),
        "{html}"
    );
}
