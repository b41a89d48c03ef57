//! How well the finished models do on text that they have never seen.

use std::path::Path;

use rlaif_feedback::{Inserts, Purpose, Template};
use rlaif_world::{Composer, Dimension, Habits, Manner, Rng, Side, Use, World};
use serde_json::{Map, Value, json};

use super::data::{Pair, pair, revision_turns};
use super::model::Model;

/// Pairs by a dimension, the eight in turn, that the oracle decides (or calls equal), shown in both
/// orders.
struct Shown {
    dimensions: Vec<Dimension>,
    /// Grade of the first less that of the second.
    margins: Vec<f64>,
    /// log P((A)) − log P((B)), the pair as drawn.
    given: Vec<f64>,
    /// The same, the other way round.
    swapped: Vec<f64>,
}

impl Shown {
    fn of(
        critic: &mut Model,
        c: &Composer<'_>,
        template: &Template,
        pairs: usize,
        decided: bool,
    ) -> Result<Self, String> {
        let mut rng = Rng::of(3, &[if decided { "measure" } else { "equal" }]);
        let (mut given, mut swapped) = (Vec::new(), Vec::new());
        let (mut dimensions, mut margins) = (Vec::new(), Vec::new());
        for i in 0..pairs {
            let d = Dimension::ALL[i % 8];
            let p: Pair<'_> = loop {
                let p = pair(c, &mut rng, Some(d), &|_| None);
                if p.a_is_better().is_some() == decided {
                    break p;
                }
            };
            let principle = c.wording(&mut rng, Some(d), Use::Preference);
            for (list, a, b) in [(&mut given, &p.a, &p.b), (&mut swapped, &p.b, &p.a)] {
                list.push(
                    template
                        .render(
                            minijinja::context! {
                                principle => &principle,
                                prompt => p.scene.prompt.to_text(),
                                response_a => a,
                                response_b => b,
                                fence => "",
                            },
                            &Inserts::default(),
                        )
                        .map_err(|e| e.to_string())?,
                );
            }
            dimensions.push(d);
            margins.push(p.margin);
        }
        Ok(Shown {
            dimensions,
            margins,
            given: critic.compare(&given)?,
            swapped: critic.compare(&swapped)?,
        })
    }

    /// A mean over pairs, by dimension.
    fn by_dimension(&self, f: &dyn Fn(usize) -> f64) -> Map<String, Value> {
        let mean = |d: Dimension| {
            let of: Vec<usize> = (0..self.given.len())
                .filter(|i| self.dimensions[*i] == d)
                .collect();
            of.iter().map(|i| f(*i)).sum::<f64>() / of.len() as f64
        };
        Dimension::ALL
            .into_iter()
            .map(|d| (d.name().to_owned(), json!(mean(d))))
            .collect()
    }
}

/// Accuracy of the critic over pairs that the oracle decides, and how sure it is, |p − ½| of both
/// orders, where the oracle calls a pair equal: there every certainty is one about something else
/// than the principle.
fn accuracy(
    critic: &mut Model,
    c: &Composer<'_>,
    template: &Template,
    pairs: usize,
) -> Result<Value, String> {
    let s = Shown::of(critic, c, template, pairs, true)?;
    let mean = |f: &dyn Fn(usize) -> f64| (0..pairs).map(f).sum::<f64>() / pairs as f64;
    let is = |yes: bool| if yes { 1.0 } else { 0.0 };
    let right = |i: usize| is((s.given[i] - s.swapped[i] > 0.0) == (s.margins[i] > 0.0));
    let single = |i: usize| {
        (is((s.given[i] > 0.0) == (s.margins[i] > 0.0))
            + is((s.swapped[i] < 0.0) == (s.margins[i] > 0.0)))
            / 2.0
    };
    let logit = |s: &Shown, i: usize| (s.given[i] - s.swapped[i]) / 2.0;
    let equal = Shown::of(critic, c, template, pairs / 2, false)?;
    let sure = |i: usize| (1.0 / (1.0 + (-logit(&equal, i)).exp()) - 0.5).abs();
    Ok(json!({
        "both_orders": mean(&right), "single_order": mean(&single),
        "by_dimension": s.by_dimension(&right),
        "logit_per_grade": s.by_dimension(&|i| logit(&s, i) / s.margins[i]),
        "sure_of_equal_pairs": equal.by_dimension(&sure),
    }))
}

/// The assistant's answers to open prompts, as the oracle reads them.
fn faults(assistant: &mut Model, world: &World, temperature: f32) -> Result<Value, String> {
    let c = Composer {
        habits: Habits::ASSISTANT,
        ..Composer::open(world)
    };
    let mut rng = Rng::of(4, &["faults"]);
    let scenes: Vec<_> = (0..1_000).map(|_| c.scene(&mut rng, 0.4)).collect();
    let talks: Vec<_> = scenes.iter().map(|s| s.prompt.0.clone()).collect();
    let answers = assistant.sample(&talks, temperature)?;
    let n = scenes.len() as f64;
    let readings: Vec<_> = scenes
        .iter()
        .zip(&answers)
        .map(|(s, a)| world.read_on(s.topic, a))
        .collect();
    for (s, a) in scenes.iter().zip(&answers).take(8) {
        println!("  {}\n    -> {a}", s.prompt.to_text());
    }
    for (_, a) in readings
        .iter()
        .zip(&answers)
        .filter(|(r, _)| r.malformed)
        .take(8)
    {
        println!("  malformed: {a}");
    }
    let share = |f: &dyn Fn(usize) -> bool| (0..scenes.len()).filter(|i| f(*i)).count() as f64 / n;
    let mut revised: Map<String, Value> = Map::new();
    let template = Template::shipped("cai", Purpose::Revise).map_err(|e| e.to_string())?;
    for d in Dimension::ALL {
        let mut talks = Vec::new();
        let mut before = Vec::new();
        for _ in 0..200 {
            let scene = c.scene(&mut rng, 0.4);
            let answer = c.answer(&mut rng, scene.topic, &Manner::ASSISTANT);
            if answer.scores(scene.topic.harmful).grade(d) > 2 {
                continue;
            }
            talks.push(revision_turns(&template, &c, &mut rng, &scene, &answer, d)?);
            before.push((scene, answer));
        }
        let after = assistant.sample(&talks, 0.7)?;
        let count = |f: &dyn Fn(f64, f64, bool) -> bool| {
            before
                .iter()
                .zip(&after)
                .filter(|((s, old), new)| {
                    let new = world.read_on(s.topic, new);
                    let old = old.scores(s.topic.harmful).get(d);
                    f(old, new.scores.get(d), new.malformed)
                })
                .count() as f64
                / before.len() as f64
        };
        revised.insert(
            d.name().into(),
            json!({
                "better": count(&|old, new, _| new > old),
                "malformed": count(&|_, _, bad| bad),
            }),
        );
    }
    Ok(json!({
        "harmful_rate": share(&|i| !readings[i].malformed && readings[i].scores.get(Dimension::Harmless) < 0.0),
        "helpful_rate": share(&|i| readings[i].scores.get(Dimension::Helpful) > 0.0),
        "malformed_rate": share(&|i| readings[i].malformed),
        "revisions": revised,
    }))
}

/// Measures both models over so many pairs a condition and writes `measured.json` beside them.
pub fn measure(world: &World, out: &Path, pairs: usize, temperature: f32) -> Result<(), String> {
    let mut figures = Map::new();
    // Without pairs only the assistant is looked at.
    let mut critic = (pairs > 0)
        .then(|| Model::open(&out.join("critic")))
        .transpose()?;
    let template = Template::shipped("pair_brief", Purpose::Pair).map_err(|e| e.to_string())?;
    let open = Composer::open(world);
    let conditions = [
        ("nothing_sealed", open),
        (
            "sealed_templates",
            Composer {
                templates: Side::Sealed,
                ..open
            },
        ),
        (
            "sealed_topics",
            Composer {
                topics: Side::Sealed,
                ..open
            },
        ),
        (
            "sealed_wordings",
            Composer {
                wordings: Side::Sealed,
                ..open
            },
        ),
        (
            "all_sealed",
            Composer {
                templates: Side::Sealed,
                topics: Side::Sealed,
                wordings: Side::Sealed,
                ..open
            },
        ),
    ];
    for (name, composer) in conditions {
        let Some(critic) = &mut critic else { break };
        let found = accuracy(critic, &composer, &template, pairs)?;
        println!("{name}: {found}");
        figures.insert(name.into(), found);
    }
    let mut assistant = Model::open(&out.join("assistant"))?;
    let found = faults(&mut assistant, world, temperature)?;
    println!("assistant: {found}");
    let all = json!({
        "pairs": pairs, "critic": figures, "temperature": temperature, "assistant": found
    });
    let text = serde_json::to_string_pretty(&all).unwrap_or_default() + "\n";
    std::fs::write(out.join("measured.json"), text)
        .map_err(|e| format!("cannot write in `{}`: {e}", out.display()))
}
