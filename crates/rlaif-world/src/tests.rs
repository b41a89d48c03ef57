use std::collections::BTreeSet;

use rlaif_core::Prompt;

use crate::tables::Template;
use crate::*;

fn world() -> &'static World {
    World::load().unwrap()
}

fn composer() -> Composer<'static> {
    Composer::open(world())
}

#[test]
fn what_is_composed_is_read_back_with_the_same_grades() {
    let w = world();
    for sealed in [Side::Open, Side::Sealed] {
        let c = Composer {
            world: w,
            templates: sealed,
            topics: sealed,
            wordings: sealed,
            habits: Habits::ALL,
        };
        let mut rng = Rng::new(1);
        for _ in 0..3_000 {
            let scene = c.scene(&mut rng, 0.4);
            let found = w.topic_of(&scene.prompt).unwrap();
            assert_eq!(found.task, scene.topic.task, "{:?}", scene.prompt);
            let answer = c.answer(&mut rng, scene.topic, &Manner::VARIED);
            let reading = w.read(&scene.prompt, &answer.text());
            assert!(!reading.malformed, "{}", answer.text());
            assert_eq!(
                reading.scores,
                answer.scores(scene.topic.harmful),
                "{:?}\n{}",
                reading.categories,
                answer.text()
            );
            for d in Dimension::ALL {
                let better = c.revise(&mut rng, scene.topic, &answer, d);
                let reading = w.read(&scene.prompt, &better.text());
                assert!(!reading.malformed, "{}", better.text());
                let (old, new) = (
                    answer.scores(scene.topic.harmful).get(d),
                    reading.scores.get(d),
                );
                assert!(new >= old, "{d}: {}\n-> {}", answer.text(), better.text());
            }
        }
    }
}

#[test]
fn text_that_is_not_of_the_world_is_malformed() {
    let w = world();
    let c = composer();
    let mut rng = Rng::new(2);
    let (one, other) = loop {
        let (a, b) = (c.scene(&mut rng, 0.0), c.scene(&mut rng, 0.0));
        if a.topic.task != b.topic.task {
            break (a, b);
        }
    };
    let manner = Manner {
        helpful: (0.0, 0.0),
        ..Manner::VARIED
    };
    let answer = c.answer(&mut rng, one.topic, &manner).text();
    assert!(!w.read(&one.prompt, &answer).malformed);
    // Steps of another topic are off the topic.
    assert!(w.read(&other.prompt, &answer).malformed);
    for text in ["", "  ", "Banana banana.", &answer[..answer.len() / 2 + 1]] {
        let reading = w.read(&one.prompt, text);
        assert!(reading.malformed, "{text}");
        assert_eq!(reading.scores, Scores::malformed());
    }
    let unknown = Prompt::from("What is the airspeed of a swallow?");
    assert!(w.read(&unknown, &answer).malformed);
}

#[test]
fn the_tables_have_both_sides_of_every_seal() {
    let w = world();
    let topics = |sealed, harmful| {
        w.topics()
            .iter()
            .filter(|t| t.sealed == sealed && t.harmful == harmful)
            .count()
    };
    for harmful in [false, true] {
        assert!(topics(true, harmful) >= 4, "{}", topics(true, harmful));
        assert!(topics(false, harmful) >= 30);
    }
    let kinds: BTreeSet<Category> = w.templates.iter().map(|t| t.kind).collect();
    assert_eq!(kinds.len(), 18);
    for kind in kinds {
        let (sealed, open): (Vec<&Template<Category>>, Vec<_>) = w
            .templates
            .iter()
            .filter(|t| t.kind == kind)
            .partition(|t| t.sealed);
        assert!(sealed.len() >= 3, "{kind:?} has {} sealed", sealed.len());
        assert!(open.len() >= 20, "{kind:?} has {} open", open.len());
    }
    for ((d, kind), list) in &w.wordings {
        let sealed = list.iter().filter(|x| x.sealed).count();
        assert!(sealed >= 5, "{d:?} {kind:?} has {sealed} sealed");
    }
}

#[test]
fn the_vocabulary_is_of_a_language() {
    let mut words = BTreeSet::new();
    for side in [Side::Open, Side::Sealed] {
        let c = Composer {
            world: world(),
            templates: side,
            topics: side,
            wordings: side,
            habits: Habits::ALL,
        };
        let mut rng = Rng::new(3);
        for _ in 0..10_000 {
            let scene = c.scene(&mut rng, 0.4);
            let text = c.answer(&mut rng, scene.topic, &Manner::VARIED).text();
            for m in &scene.prompt.0 {
                words.extend(split(&m.content));
            }
            words.extend(split(&text));
        }
    }
    assert!(words.len() >= 3_000, "{} words", words.len());
}

fn split(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
}

#[test]
fn the_assistant_has_the_faults_that_it_is_said_to_have() {
    let c = composer();
    let mut rng = Rng::new(4);
    let n = 4_000;
    let (mut harmful, mut rude) = (0, 0);
    for _ in 0..n {
        let scene = c.scene(&mut rng, 0.4);
        let s = c
            .answer(&mut rng, scene.topic, &Manner::ASSISTANT)
            .scores(scene.topic.harmful);
        harmful += usize::from(s.get(Dimension::Harmless) < 0.0);
        rude += usize::from(s.get(Dimension::Polite) < 0.0);
    }
    // Rude: p = 0.25, one standard deviation of n = 4,000 is 27.
    assert!(rude.abs_diff(1_000) < 110, "{rude}");
    // Harmful: 0.4 · 0.8 · 0.7 with steps, 0.6 · 0.18 reckless: 0.224 + 0.108 = 0.332; one standard
    // deviation of n = 4,000 is 30.
    assert!(harmful.abs_diff(1_328) < 120, "{harmful}");
}

#[test]
fn annotators_disagree_about_as_much_as_people() {
    let c = composer();
    let weights: Vec<_> = Dimension::ALL.iter().map(|d| (*d, 1.0)).collect();
    let people = Annotator::pool(&weights, 0);
    let mut rng = Rng::new(5);
    let (mut agree, mut all) = (0usize, 0usize);
    for i in 0..600 {
        let scene = c.scene(&mut rng, 0.4);
        let [a, b] = [0, 1].map(|_| {
            c.answer(&mut rng, scene.topic, &Manner::ASSISTANT)
                .scores(scene.topic.harmful)
        });
        let votes: Vec<bool> = people
            .iter()
            .map(|p| p.prefers_first(&a, &b, 0, &i.to_string()))
            .collect();
        for j in 0..votes.len() {
            for k in 0..j {
                agree += usize::from(votes[j] == votes[k]);
                all += 1;
            }
        }
    }
    // With a quarter of labels turned round, two people of one mind agree in 0.75² + 0.25² = 0.625;
    // AlpacaFarm's people agreed in 0.66.
    let rate = agree as f64 / all as f64;
    assert!((0.56..0.70).contains(&rate), "{rate}");
}

#[test]
fn the_supplied_constitutions_are_in_words_that_nobody_was_trained_on() {
    for name in ["default.toml", "concise.toml", "polite.toml"] {
        let constitution = rlaif_core::Constitution::read(name).unwrap();
        for p in &constitution.principles {
            for text in [&p.critique, &p.revision, &p.preference] {
                let open = world()
                    .wordings
                    .values()
                    .flatten()
                    .filter(|w| !w.sealed)
                    .any(|w| w.pattern.read(text, &|_| Vec::new()).is_some());
                assert!(!open, "{name}: {text}");
            }
        }
    }
}
