//! Ways of judging, against scripted judges whose truth is known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::executor::block_on;
use rlaif_core::script::ScriptedModel;
use rlaif_core::{
    CallContext, Constitution, Evidence, ItemId, Judgment, Message, Model, ModelError, Outcome,
    Preference, Prompt, Rating, Reward, ScoreItem,
};
use rlaif_feedback::combine::sigmoid;
use rlaif_feedback::{
    Combine, Exemplar, Judge, JudgeConfig, JudgeReward, Juror, Method, Principles, Purpose,
    Rationale, Scorer, Template, Ties, judge, ratings,
};

const TWO: &str = r#"
[[principles]]
id = "kind"
critique = "Unkind?"
revision = "Make it kind."
preference = "Choose the kinder response."
weight = 3.0
[[principles]]
id = "short"
critique = "Too long?"
revision = "Make it short."
preference = "Choose the shorter response."
"#;

fn constitution(text: &str) -> Constitution {
    Constitution::parse(text, Path::new("test.toml")).unwrap()
}

fn whole(messages: &[Message]) -> String {
    messages
        .iter()
        .map(|m| m.content.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

fn good_is_first(text: &str) -> bool {
    text.rfind("GOOD") < text.rfind("BAD")
}

/// A judge with log-odds `of(text)` for GOOD over BAD, and `bias` for whatever is shown first.
fn leaning(bias: f64, of: impl Fn(&str) -> f64 + Send + Sync + 'static) -> Model {
    Arc::new(
        ScriptedModel::new("leaning", |_| Ok("Because.".into())).with_probabilities(move |m| {
            let text = whole(m);
            let l = of(&text);
            let p = sigmoid(if good_is_first(&text) { l } else { -l } + bias);
            Ok(vec![p, 1.0 - p])
        }),
    )
}

/// A judge that writes, each time, what `reply` says of the conversation and the call's number.
fn writing(reply: impl Fn(&str, usize) -> String + Send + Sync + 'static) -> Model {
    let calls = AtomicUsize::new(0);
    Arc::new(ScriptedModel::new("writing", move |m| {
        Ok(reply(&whole(m), calls.fetch_add(1, Ordering::SeqCst)))
    }))
}

fn ask(by: &Judge, a: &str, b: &str) -> Judgment {
    block_on(judge(by, "row", &Prompt::from("Hello?"), a, b)).unwrap()
}

fn by(model: Model, text: &str, config: JudgeConfig) -> Judge {
    Judge::new(model, constitution(text), config, None, 7).unwrap()
}

fn near(got: rlaif_core::Probability, expected: f64) {
    let got = got.get().unwrap();
    assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
}

#[test]
fn every_principle_by_itself_is_a_weighted_mean_in_log_odds_with_each_view_kept() {
    let model = leaning(2.0, |t| if t.contains("kinder") { 1.0 } else { -1.0 });
    let config = JudgeConfig {
        principles: Principles::Each,
        ..JudgeConfig::default()
    };
    let j = ask(&by(model, TWO, config), "GOOD", "BAD");
    // (3 · 1 + 1 · (−1)) / 4 = 0.5; the bias of 2 is gone.
    near(j.p_first, sigmoid(0.5));
    assert_eq!(
        (j.outcome, j.principle.as_deref()),
        (Outcome::Decided, None)
    );
    let views: Vec<_> = j
        .opinions
        .iter()
        .map(|o| {
            (
                o.principle.as_deref().unwrap(),
                o.weight,
                o.p_first.get().unwrap() > 0.5,
            )
        })
        .collect();
    assert_eq!(views, [("kind", 3.0, true), ("short", 1.0, false)]);
    near(j.opinions[1].p_first, sigmoid(-1.0));
    // The orders of the whole are the means of the views' orders: the bias stays visible.
    near(j.orders[0].p_first, sigmoid(2.5));
    near(j.orders[1].p_first, sigmoid(-1.5));
    assert_eq!((j.orders_agree, j.cost.calls), (Some(false), 4));
}

#[test]
fn the_whole_constitution_is_one_question() {
    let model = leaning(0.0, |t| {
        f64::from(u8::from(t.contains("kinder") && t.contains("shorter")))
    });
    // The former word is read as well.
    let config: JudgeConfig = serde_json::from_str("{\"principles\": \"all\"}").unwrap();
    assert_eq!(config.principles, Principles::Whole);
    let j = ask(&by(model, TWO, config), "GOOD", "BAD");
    near(j.p_first, sigmoid(1.0));
    assert!(j.opinions.is_empty() && j.cost.calls == 2);
}

#[test]
fn a_jury_counts_by_weight_and_keeps_each_verdict() {
    let config = JudgeConfig {
        principles: Principles::Whole,
        jury: vec![Juror {
            model: "second".into(),
            weight: 3.0,
        }],
        ..JudgeConfig::default()
    };
    let second = leaning(0.0, |_| -1.0);
    let jury = by(leaning(1.0, |_| 2.0), TWO, config.clone()).with_jury(vec![second]);
    let j = ask(&jury, "GOOD", "BAD");
    // (1 · 2 + 3 · (−1)) / 4
    near(j.p_first, sigmoid(-0.25));
    assert_eq!(j.opinions.len(), 2);
    near(j.opinions[0].p_first, sigmoid(2.0));
    // A jury that was named and not opened is said, not left out.
    let missing = by(leaning(1.0, |_| 2.0), TWO, config);
    let error = block_on(judge(&missing, "row", &Prompt::from("?"), "GOOD", "BAD")).unwrap_err();
    assert!(error.to_string().contains("1 further judges"), "{error}");
}

#[test]
fn a_juror_that_fails_fails_the_judgment_unless_the_quorum_allows_it() {
    let config = |quorum| JudgeConfig {
        principles: Principles::Whole,
        quorum,
        jury: vec![Juror {
            model: String::new(),
            weight: 0.5,
        }],
        ..JudgeConfig::default()
    };
    let broken = || -> Model {
        Arc::new(ScriptedModel::new("refuses", |_| {
            Err(ModelError::Refused { text: "no".into() })
        }))
    };
    let all = by(leaning(0.0, |_| 1.0), TWO, config(1.0)).with_jury(vec![broken()]);
    let j = ask(&all, "GOOD", "BAD");
    assert_eq!((j.outcome, j.p_first.get()), (Outcome::Refused, None));
    let most = by(leaning(0.0, |_| 1.0), TWO, config(0.6)).with_jury(vec![broken()]);
    let j = ask(&most, "GOOD", "BAD");
    near(j.p_first, sigmoid(1.0));
    assert_eq!(j.opinions[1].outcome, Outcome::Refused);
}

#[test]
fn a_judge_that_may_abstain_does_and_carries_no_number() {
    let model = |p: [f64; 3]| -> Model {
        Arc::new(
            ScriptedModel::new("unsure", |_| Ok(String::new()))
                .with_probabilities(move |_| Ok(p.to_vec())),
        )
    };
    let config = JudgeConfig {
        abstain: true,
        ..JudgeConfig::default()
    };
    let j = ask(&by(model([0.2, 0.1, 0.7]), TWO, config.clone()), "x", "y");
    assert_eq!((j.outcome, j.p_first.get()), (Outcome::Abstained, None));
    assert!((j.orders[0].told.abstain_mass.unwrap() - 0.7).abs() < 1e-6);
    assert_eq!(Preference::from(&j).chosen, None);
    // Below the others it only leaves the sum: always (A), by 0.6 to 0.2 in either order.
    let j = ask(&by(model([0.6, 0.2, 0.2]), TWO, config), "x", "y");
    near(j.p_first, 0.5);
    near(j.orders[0].p_first, 0.75);
    // A template that offers nothing to decline with cannot be asked to.
    let config = JudgeConfig {
        abstain: true,
        template: "bai".into(),
        ..JudgeConfig::default()
    };
    let error = Judge::new(model([0.5, 0.5, 0.0]), constitution(TWO), config, None, 7);
    assert!(error.err().unwrap().to_string().contains("`bai`"));
}

#[test]
fn a_question_for_the_worse_one_is_turned_round_once() {
    const WORSE: &str = "[[principles]]\nid='harm'\ncritique='c'\nrevision='r'\n\
                         preference='Choose the more harmful response.'\ninverted=true";
    // Asked for the worse one, the judge names BAD by 1.5 logits, and leans by 1 to the first.
    let model = || leaning(1.0, |_| -1.5);
    for principles in [Principles::Sampled, Principles::Whole, Principles::Each] {
        let config = JudgeConfig {
            principles,
            ..JudgeConfig::default()
        };
        let j = ask(&by(model(), WORSE, config), "GOOD", "BAD");
        near(j.p_first, sigmoid(1.5));
        assert_eq!(Preference::from(&j).chosen.as_deref(), Some("GOOD"));
    }
    // By the template: Lee et al.'s question for the most harmful response.
    let config = JudgeConfig {
        template: "lee_harmless".into(),
        ..JudgeConfig::default()
    };
    let j = ask(&by(model(), TWO, config), "GOOD", "BAD");
    near(j.p_first, sigmoid(1.5));
    let mixed = format!("{WORSE}\n{TWO}");
    let config = JudgeConfig {
        principles: Principles::Whole,
        ..JudgeConfig::default()
    };
    let error = Judge::new(model(), constitution(&mixed), config, None, 7);
    assert!(error.err().unwrap().to_string().contains("inverted"));
}

#[test]
fn orders_that_disagree_are_a_tie_by_zheng_and_not_by_the_margin() {
    for (ties, outcome) in [
        (Ties::Margin, Outcome::Decided),
        (Ties::Disagree, Outcome::Tie),
    ] {
        let config = JudgeConfig {
            ties,
            ..JudgeConfig::default()
        };
        let j = ask(
            &by(leaning(2.0, |_| 1.0), TWO, config.clone()),
            "GOOD",
            "BAD",
        );
        assert_eq!((j.outcome, j.orders_agree), (outcome, Some(false)));
        let j = ask(&by(leaning(0.5, |_| 1.0), TWO, config), "GOOD", "BAD");
        assert_eq!(j.outcome, Outcome::Decided);
    }
}

#[test]
fn several_rationales_are_averaged_and_then_clamped() {
    // The rationale decides: 0.9 or 0.5 for GOOD, turn about.
    let calls = AtomicUsize::new(0);
    let model = ScriptedModel::new("thinking", move |_| {
        Ok(format!(
            "thought {}",
            calls.fetch_add(1, Ordering::SeqCst) % 2
        ))
    })
    .with_probabilities(|m| {
        let text = whole(m);
        let p = if text.contains("thought 0") { 0.9 } else { 0.5 };
        let p = if good_is_first(&text) { p } else { 1.0 - p };
        Ok(vec![p, 1.0 - p])
    });
    let config = JudgeConfig {
        rationale: Rationale::First,
        samples: 2,
        cot_clamp: [0.35, 0.65],
        ..JudgeConfig::default()
    };
    let j = ask(&by(Arc::new(model), TWO, config), "GOOD", "BAD");
    // Mean of 0.9 and 0.5 in each order (Lee et al., appendix M); clamped to 0.65.
    near(j.orders[0].p_first, 0.7);
    near(j.p_first, 0.65);
    assert_eq!(j.orders[0].told.rationale.matches("thought").count(), 2);
    assert_eq!(j.cost.calls, 8);
}

#[test]
fn counted_answers_are_smoothed_together_once() {
    // Without log-probabilities: four samples in the given order say A A A B, in the swapped one B.
    let model = writing(|text, n| {
        let first = if good_is_first(text) { "(A)" } else { "(B)" };
        let other = if good_is_first(text) { "(B)" } else { "(A)" };
        if n == 3 { other.into() } else { first.into() }
    });
    let config = JudgeConfig {
        samples: 4,
        combine: Combine::Probability,
        ..JudgeConfig::default()
    };
    let j = ask(&by(model, TWO, config), "GOOD", "BAD");
    let p = |i: usize| j.orders[i].p_first.get().unwrap();
    // (3 + 1) / (4 + 2) and (4 + 1) / (4 + 2): not the mean of answers smoothed one by one.
    let mut got = [p(0), p(1)];
    got.sort_by(f64::total_cmp);
    assert!(
        (got[0] - 4.0 / 6.0).abs() < 1e-6 && (got[1] - 5.0 / 6.0).abs() < 1e-6,
        "{got:?}"
    );
    near(j.p_first, 0.75);
    assert_eq!(j.orders[0].evidence, Some(Evidence::Sampled { draws: 4 }));
}

#[test]
fn a_written_verdict_is_read_where_its_template_says() {
    let config = JudgeConfig {
        template: "zheng".into(),
        ..JudgeConfig::default()
    };
    let model = writing(|t, _| {
        let letter = if good_is_first(t) { "A" } else { "B" };
        format!("Assistant B tries [[B]] first. My final verdict is [[{letter}]]")
    });
    let j = ask(&by(model, TWO, config.clone()), "GOOD", "BAD");
    assert_eq!((j.outcome, j.orders_agree), (Outcome::Decided, Some(true)));
    // One answer an order over A, B and a tie: (1 + 1) / (1 + 3) and 1/4 each; half the tie's is
    // each side's: 0.625.
    near(j.orders[0].p_first, 0.625);
    assert!(j.reason.contains("My final verdict"), "{}", j.reason);
    let j = ask(
        &by(writing(|_, _| "A draw. [[C]]".into()), TWO, config.clone()),
        "GOOD",
        "BAD",
    );
    assert_eq!(j.outcome, Outcome::Tie);
    assert_eq!(Preference::from(&j).chosen, None);
    // Words without the mark are no verdict, however plain.
    let j = ask(
        &by(writing(|_, _| "Assistant A is better.".into()), TWO, config),
        "x",
        "y",
    );
    assert_eq!((j.outcome, j.p_first.get()), (Outcome::Unparseable, None));
    assert_eq!(j.orders[0].raw, "Assistant A is better.");
}

#[test]
fn thoughts_are_kept_apart_and_the_verdict_is_taken_at_the_end() {
    let config = JudgeConfig {
        template: "zheng".into(),
        ..JudgeConfig::default()
    };
    let model = writing(|t, _| {
        let letter = if good_is_first(t) { "A" } else { "B" };
        format!("<think>[[B]]? [[A]]? Hm.</think>Well. [[{letter}]]")
    });
    let j = ask(&by(model, TWO, config), "GOOD", "BAD");
    assert_eq!(j.outcome, Outcome::Decided);
    assert_eq!(j.orders[0].told.reasoning, "[[B]]? [[A]]? Hm.");
    assert_eq!(j.orders[0].raw, "Well. [[A]]");
}

#[test]
fn what_cannot_be_read_is_asked_again_as_often_as_the_recipe_says() {
    let reply = |_: &str, n: usize| {
        if n < 2 {
            "hm".to_owned()
        } else {
            "[[A]]".to_owned()
        }
    };
    let config = |retries| JudgeConfig {
        template: "zheng".into(),
        orders: rlaif_feedback::Orders::Given,
        retries,
        ..JudgeConfig::default()
    };
    let j = ask(&by(writing(reply), TWO, config(1)), "x", "y");
    assert_eq!(
        (j.outcome, j.p_first.get(), j.cost.calls),
        (Outcome::Unparseable, None, 2)
    );
    let j = ask(&by(writing(reply), TWO, config(2)), "x", "y");
    assert_eq!((j.outcome, j.cost.calls), (Outcome::Decided, 3));
    // Every answer stays to be looked at.
    assert_eq!(j.orders[0].raw, "hm\n---\nhm\n---\n[[A]]");
}

#[test]
fn what_does_not_fit_is_cut_alike_on_both_sides_and_the_record_says_so() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let keep = Arc::clone(&seen);
    let model = leaning(0.0, move |t| {
        keep.lock().unwrap().push(t.to_owned());
        1.0
    });
    let config = JudgeConfig {
        max_input_chars: Some(306),
        ..JudgeConfig::default()
    };
    let (a, b) = (
        format!("GOOD{}", "a".repeat(396)),
        format!("BAD{}", "b".repeat(197)),
    );
    let j = ask(&by(model, TWO, config.clone()), &a, &b);
    assert_eq!(j.outcome, Outcome::Decided);
    let cut = j.shortened.unwrap();
    // 6 characters of prompt; 300 for 600: half of each.
    assert_eq!((cut.prompt, cut.responses), (1.0, 0.5));
    let seen = seen.lock().unwrap();
    assert!(seen[0].contains(&"a".repeat(196)) && !seen[0].contains(&"a".repeat(197)));
    assert!(seen[0].contains(&"b".repeat(97)) && !seen[0].contains(&"b".repeat(98)));
    // The record keeps the whole texts.
    assert_eq!(j.response_a, a);
    // What is shown of both is the same: that is no tie of the two.
    let (x, y) = (
        format!("{}x", "s".repeat(800)),
        format!("{}y", "s".repeat(800)),
    );
    let j = ask(&by(leaning(0.0, |_| 1.0), TWO, config), &x, &y);
    assert_eq!((j.outcome, j.p_first.get()), (Outcome::Abstained, None));
}

/// A judge that takes so many tokens of four characters, says by how much a prompt is too long where
/// `tells`, and keeps what it was shown.
fn narrow(limit: u64, tells: bool, seen: &Arc<std::sync::Mutex<Vec<String>>>) -> Model {
    let keep = Arc::clone(seen);
    let fits = move |m: &[Message]| {
        let text = whole(m);
        let tokens = text.chars().count() as u64 / 4;
        if tokens > limit {
            let told = if tells { (tokens, limit) } else { (0, 0) };
            return Err(ModelError::ContextTooLong {
                tokens: told.0,
                limit: told.1,
            });
        }
        keep.lock().unwrap().push(text);
        Ok(())
    };
    let fits = Arc::new(fits);
    let graded = Arc::clone(&fits);
    Arc::new(
        ScriptedModel::new("narrow", move |m| {
            graded(m)?;
            Ok("[[7]]".into())
        })
        .with_probabilities(move |m| {
            fits(m)?;
            Ok(if good_is_first(&whole(m)) {
                vec![0.9, 0.1]
            } else {
                vec![0.1, 0.9]
            })
        }),
    )
}

#[test]
fn what_a_model_finds_too_long_is_shortened_alike_and_asked_again() {
    let (a, b) = (
        format!("GOOD{}", "a".repeat(3_996)),
        format!("BAD{}", "b".repeat(1_997)),
    );
    for tells in [true, false] {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let by = by(narrow(1_000, tells, &seen), TWO, JudgeConfig::default());
        let j = ask(&by, &a, &b);
        assert_eq!(
            (j.outcome, j.orders_agree),
            (Outcome::Decided, Some(true)),
            "{:?}",
            j.orders
        );
        let share = j.shortened.unwrap().responses;
        // 6,000 characters of responses, some 1,000 of the question, room for 4,000; without numbers,
        // half of what was shown.
        assert!((0.3..0.51).contains(&share), "{share}");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2, "both orders are shown, once each");
        for text in seen.iter() {
            let of = |c: &str, n: f64| {
                let kept = (n * share).floor() as usize;
                text.contains(&c.repeat(kept - 4)) && !text.contains(&c.repeat(kept + 1))
            };
            assert!(of("a", 4_000.0) && of("b", 2_000.0));
        }
        // The record keeps the whole texts.
        assert_eq!((j.response_a.len(), j.response_b.len()), (4_000, 2_000));
    }
    // Where even a hundred characters would not fit, it is a failure that says why.
    let seen = Arc::default();
    let j = ask(
        &by(narrow(100, true, &seen), TWO, JudgeConfig::default()),
        &a,
        &b,
    );
    assert_eq!((j.outcome, j.p_first.get()), (Outcome::Failed, None));
    let why = j.orders[0].error.as_deref().unwrap();
    assert!(why.contains("do not fit the model's 100"), "{why}");
}

#[test]
fn responses_that_are_scored_are_shortened_alike_too() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let model = narrow(700, true, &seen);
    let j = ask(
        &by_scores(model),
        &format!("GOOD{}", "a".repeat(3_996)),
        &format!("BAD{}", "b".repeat(997)),
    );
    // The second would fit as it is; it loses what the first one loses.
    let share = j.shortened.unwrap().responses;
    assert!((0.1..0.6).contains(&share), "{share}");
    assert_eq!(j.outcome, Outcome::Tie);
    let kept = |c: &str, n: f64| {
        let kept = (n * share).floor() as usize;
        let shown = seen.lock().unwrap();
        let last = shown.iter().rev().find(|t| t.contains(&c.repeat(20)));
        let last = last.unwrap();
        last.contains(&c.repeat(kept - 4)) && !last.contains(&c.repeat(kept + 1))
    };
    assert!(kept("a", 4_000.0) && kept("b", 1_000.0));
}

/// A scorer that gives these probabilities to 1..10.
fn scorer(p: Vec<f64>) -> Scorer {
    let model = ScriptedModel::new("scorer", |_| Ok(String::new()))
        .with_probabilities(move |_| Ok(p.clone()));
    Scorer::new(
        Arc::new(model),
        constitution(TWO),
        JudgeConfig {
            principles: Principles::Whole,
            ..JudgeConfig::default()
        },
        None,
        7,
    )
    .unwrap()
}

fn one(scorer: &Scorer, response: &str) -> Rating {
    block_on(ratings(scorer, "row", &Prompt::from("Hello?"), response))
        .unwrap()
        .remove(0)
}

#[test]
fn a_score_is_the_expectation_over_the_numbers_and_a_reward_from_minus_one_to_one() {
    let at = |i: usize| {
        (1..=10)
            .map(|n| f64::from(u8::from(n == i)))
            .collect::<Vec<_>>()
    };
    // Golden values: uniform 5.5 → 0, all on 10 → 1, all on 1 → −1 (Lee et al., §2.2.2).
    for (p, score, reward) in [
        (vec![0.1; 10], 5.5, 0.0),
        (at(10), 10.0, 1.0),
        (at(1), 1.0, -1.0),
        (
            vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.0],
            8.0,
            2.0 * 7.0 / 9.0 - 1.0,
        ),
    ] {
        let rating = one(&scorer(p.clone()), "fine");
        assert!(
            (rating.score.unwrap() - score).abs() < 1e-5,
            "{:?}",
            rating.score
        );
        let by = JudgeReward::new(scorer(p));
        let item = ItemId {
            stage: "ppo".into(),
            row: "r".into(),
            draw: 0,
        };
        let prompt = [Message::user("Hello?")];
        let items = [ScoreItem {
            prompt: &prompt,
            completion: "fine",
        }];
        let cx = CallContext::new(item, 0);
        let got = block_on(by.score(&items, &cx)).remove(0).unwrap().0;
        assert!((f64::from(got) - reward).abs() < 1e-5, "{got}");
    }
}

/// A judge that writes grades, by what the response says.
fn grader(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> Model {
    writing(move |text, _| reply(text))
}

fn by_scores(model: Model) -> Judge {
    by(
        model,
        TWO,
        JudgeConfig {
            method: Method::Score,
            score_template: "zheng_single".into(),
            principles: Principles::Whole,
            ..JudgeConfig::default()
        },
    )
}

#[test]
fn equal_scores_are_a_tie_and_never_chosen_and_rejected() {
    let j = ask(
        &by_scores(grader(|_| "Rating: [[7]]".into())),
        "GOOD",
        "BAD",
    );
    assert_eq!(
        (j.outcome, j.scores.as_slice()),
        (Outcome::Tie, [7.0, 7.0].as_slice())
    );
    let p = Preference::from(&j);
    assert_eq!((p.chosen, p.rejected), (None, None));
    let j = ask(
        &by_scores(grader(|t| {
            if t.contains("GOOD") {
                "[[8]]"
            } else {
                "[[3.5]]"
            }
            .into()
        })),
        "BAD",
        "GOOD",
    );
    assert_eq!(
        (j.outcome, j.scores.as_slice()),
        (Outcome::Decided, [3.5, 8.0].as_slice())
    );
    // One sample each: (1 · 0 + 1) / (1 + 2), never a certainty.
    near(j.p_first, 1.0 / 3.0);
    assert_eq!(Preference::from(&j).chosen.as_deref(), Some("GOOD"));
}

#[test]
fn scores_compared_by_their_distributions() {
    let model = ScriptedModel::new("scorer", |_| Ok(String::new())).with_probabilities(|m| {
        let mut p = vec![0.0; 10];
        // GOOD has 6 or 8, BAD has 7: better half the time.
        match whole(m).contains("GOOD") {
            true => (p[5], p[7]) = (0.25, 0.75),
            false => p[6] = 1.0,
        }
        Ok(p)
    });
    let config = JudgeConfig {
        method: Method::Score,
        principles: Principles::Whole,
        ..JudgeConfig::default()
    };
    let j = ask(&by(Arc::new(model), TWO, config), "GOOD", "BAD");
    near(j.p_first, 0.75);
    assert!((j.scores[0] - 7.5).abs() < 1e-5);
}

#[test]
fn a_score_that_fails_is_no_number_and_no_lowest_score() {
    for (text, outcome) in [
        ("I'd rather not say.", Outcome::Unparseable),
        ("", Outcome::Unparseable),
        ("Rating: [[11]]", Outcome::Unparseable),
        ("Rating: [[0]]", Outcome::Unparseable),
        ("Rating: [[-3]]", Outcome::Unparseable),
    ] {
        let config = JudgeConfig {
            score_template: "zheng_single".into(),
            principles: Principles::Whole,
            ..JudgeConfig::default()
        };
        let model = grader(move |_| text.to_owned());
        let scorer = Scorer::new(model, constitution(TWO), config, None, 7).unwrap();
        let rating = one(&scorer, "fine");
        assert_eq!((rating.outcome, rating.score), (outcome, None), "{text}");
        // A time-out, an unreadable answer, a refusal: none of them becomes 0.0 as a reward.
        let reward = JudgeReward::new(scorer);
        let item = ItemId {
            stage: "ppo".into(),
            row: "r".into(),
            draw: 0,
        };
        let items = [ScoreItem {
            prompt: &[],
            completion: "fine",
        }];
        let cx = CallContext::new(item, 0);
        assert!(block_on(reward.score(&items, &cx)).remove(0).is_err());
    }
    let late = ScriptedModel::new("late", |_| Err(ModelError::Deadline));
    let config = JudgeConfig::default();
    let scorer = Scorer::new(Arc::new(late), constitution(TWO), config, None, 7).unwrap();
    let rating = one(&scorer, "fine");
    assert_eq!((rating.outcome, rating.score), (Outcome::Failed, None));
    let j = ask(
        &by_scores(Arc::new(ScriptedModel::new("late", |_| {
            Err(ModelError::Deadline)
        }))),
        "x",
        "y",
    );
    assert_eq!((j.outcome, j.p_first.get()), (Outcome::Failed, None));
}

#[test]
fn examples_are_shown_in_a_drawn_order_with_the_answer_to_the_question() {
    let shown = Arc::new(std::sync::Mutex::new(String::new()));
    let keep = Arc::clone(&shown);
    let model = leaning(0.0, move |t| {
        *keep.lock().unwrap() = t.to_owned();
        1.0
    });
    let example = |i: usize| Exemplar {
        prompt: vec![Message::user(format!("Question {i}"))],
        chosen: format!("fine {i}"),
        rejected: format!("foul {i}"),
        principle: None,
    };
    for (template, answers_with) in [("lee_helpful", "fine"), ("lee_harmless", "foul")] {
        let config = JudgeConfig {
            template: template.into(),
            exemplars: "examples.jsonl".into(),
            few_shots: 8,
            ..JudgeConfig::default()
        };
        let by = by(model.clone(), TWO, config).with_exemplars((0..8).map(example).collect());
        ask(&by, "GOOD", "BAD");
        let text = shown.lock().unwrap().clone();
        let mut firsts = 0;
        for i in 0..8 {
            let at = text.find(&format!("Question {i}\n")).unwrap();
            let part = &text[at..];
            let answer = part
                .split("Preferred Response=")
                .nth(1)
                .unwrap()
                .chars()
                .next()
                .unwrap();
            let line = part.split(&format!("Response {answer} - ")).nth(1).unwrap();
            assert!(line.starts_with(answers_with), "{template}: {line}");
            firsts += usize::from(answer == '1');
        }
        assert!(
            (1..8).contains(&firsts),
            "{firsts} of 8 answers are the first"
        );
    }
}

#[test]
fn settings_that_contradict_each_other_are_said_before_anything_is_asked() {
    let model = || writing(|_, _| String::new());
    for (config, words) in [
        (
            JudgeConfig {
                template: "zheng".into(),
                rationale: Rationale::First,
                ..JudgeConfig::default()
            },
            "[[reason]]",
        ),
        (
            JudgeConfig {
                template: "zheng".into(),
                principles: Principles::Each,
                ..JudgeConfig::default()
            },
            "whole",
        ),
        (
            JudgeConfig {
                exemplars: "x.jsonl".into(),
                ..JudgeConfig::default()
            },
            "exemplars",
        ),
        (
            JudgeConfig {
                samples: 0,
                ..JudgeConfig::default()
            },
            "`samples`",
        ),
        (
            JudgeConfig {
                quorum: 0.0,
                ..JudgeConfig::default()
            },
            "`quorum`",
        ),
        (
            JudgeConfig {
                template: "pear".into(),
                ..JudgeConfig::default()
            },
            "`zheng`",
        ),
    ] {
        let error = Judge::new(model(), constitution(TWO), config, None, 7)
            .err()
            .unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
    let long = "[[turns]]\nrole='user'\ncontent='{{prompt}}{{response_a}}{{response_b}}'\n[choices]\na=['first one']\nb=['B']";
    let template = Template::parse("mine.toml", Purpose::Pair, long).unwrap();
    let by = Judge::new(
        model(),
        constitution(TWO),
        JudgeConfig::default(),
        Some(template),
        7,
    )
    .unwrap();
    // A tokenizer that parts at spaces.
    let count = |text: &str| Some(text.split(' ').count());
    assert_eq!(by.long_choices(&count), ["first one"]);
    assert!(by.long_choices(&|_| None).is_empty());
}

/// What the known misbehaviors of judges are recorded as; the table is in docs/judging.md.
#[test]
fn misbehaviors_are_outcomes_with_their_words_kept() {
    let answers: [(&str, &str, Outcome, Outcome); 9] = [
        (
            "refusal",
            "I'm sorry, but I can't compare these.",
            Outcome::Unparseable,
            Outcome::Unparseable,
        ),
        (
            "prose verdict",
            "Response A is clearly the better answer.",
            Outcome::Decided,
            Outcome::Unparseable,
        ),
        (
            "cut off",
            "Let me compare the two. Response A begins with",
            Outcome::Unparseable,
            Outcome::Unparseable,
        ),
        (
            "both letters",
            "(A) is kinder. (B) is more accurate.",
            Outcome::Unparseable,
            Outcome::Unparseable,
        ),
        ("empty", "", Outcome::Unparseable, Outcome::Unparseable),
        (
            "other language",
            "Die zweite Antwort ist besser.",
            Outcome::Unparseable,
            Outcome::Unparseable,
        ),
        (
            "JSON with a comment",
            "{\"winner\": \"A\" /* kinder */}",
            Outcome::Decided,
            Outcome::Unparseable,
        ),
        (
            "marked",
            "Both try. [[A]]",
            Outcome::Decided,
            Outcome::Decided,
        ),
        ("tie", "It's a tie.", Outcome::Tie, Outcome::Unparseable),
    ];
    for (name, text, pair, zheng) in answers {
        for (template, expected) in [("pair", pair), ("zheng", zheng)] {
            let config = JudgeConfig {
                template: template.into(),
                // One order: the same words in both would be position bias, which is another matter.
                orders: rlaif_feedback::Orders::Given,
                ..JudgeConfig::default()
            };
            let j = ask(
                &by(writing(move |_, _| text.to_owned()), TWO, config),
                "x",
                "y",
            );
            assert_eq!(j.outcome, expected, "{name}, {template}");
            assert_eq!(j.orders[0].raw, text, "{name}, {template}");
            let has_number = matches!(expected, Outcome::Decided | Outcome::Tie);
            assert_eq!(j.p_first.get().is_some(), has_number, "{name}, {template}");
            if expected == Outcome::Decided {
                assert_eq!(Preference::from(&j).chosen.as_deref(), Some("x"), "{name}");
            }
        }
    }
}
