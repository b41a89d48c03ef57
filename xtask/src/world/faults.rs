//! Answers that no grammar makes, so that the critic knows a fault where it sees one.

use std::path::Path;

use rlaif_world::{Answer, Category, Composer, Habits, Manner, Rng, Scene, Sentence, World};

use super::data::manner;
use super::model::Model;

/// A faulty answer.
#[derive(Clone)]
pub struct Fault<'w> {
    pub scene: Scene<'w>,
    pub text: String,
    /// The answer that it was made from, if it was.
    pub intact: Option<Answer>,
}

/// Where faults come from: the assistant's own slips, and a few ways to break an answer.
pub struct Faults<'w> {
    slips: Vec<Fault<'w>>,
}

/// Answers to look for slips in. Hotter, an answer has more than one or two slips.
const ANSWERS: usize = 6_000;
const TEMPERATURES: [f32; 3] = [0.7, 0.9, 1.1];

impl<'w> Faults<'w> {
    /// Broken answers only.
    pub fn made() -> Self {
        Faults { slips: Vec::new() }
    }

    /// Lets the finished assistant answer, and keeps what does not parse: the mistakes that a critic
    /// of its policies will have to see, which no rule for breaking an answer makes quite so.
    pub fn of(world: &'w World, assistant: &Path) -> Result<Self, String> {
        let c = Composer {
            habits: Habits::ASSISTANT,
            ..Composer::open(world)
        };
        let mut model = Model::open(assistant)?;
        let mut rng = Rng::of(5, &["slips"]);
        let mut slips = Vec::new();
        for temperature in TEMPERATURES {
            let scenes: Vec<_> = (0..ANSWERS).map(|_| c.scene(&mut rng, 0.4)).collect();
            let talks: Vec<_> = scenes.iter().map(|s| s.prompt.0.clone()).collect();
            let answers = model.sample(&talks, temperature)?;
            let before = slips.len();
            slips.extend(scenes.into_iter().zip(answers).filter_map(|(scene, text)| {
                let malformed = world.read_on(scene.topic, &text).malformed;
                (malformed && !text.trim().is_empty()).then_some(Fault {
                    scene,
                    text,
                    intact: None,
                })
            }));
            println!(
                "critic: {} of {ANSWERS} answers of the assistant at temperature {temperature} do not parse",
                slips.len() - before
            );
        }
        if slips.is_empty() {
            return Err(format!(
                "`{}` makes no mistakes; it cannot be the assistant",
                assistant.display()
            ));
        }
        Ok(Faults { slips })
    }

    /// Two in five are slips, where there are any.
    pub fn draw(&self, c: &Composer<'w>, rng: &mut Rng) -> Fault<'w> {
        loop {
            if rng.chance(0.4)
                && let Some(slip) = rng.pick(&self.slips)
            {
                return slip.clone();
            }
            let scene = c.scene(rng, 0.4);
            let how = manner(rng);
            let answer = c.answer(rng, scene.topic, &how);
            let text = match rng.below(6) {
                0 | 1 => spoil(c, rng, &scene, &answer.text()),
                2 | 3 => splice(c, rng, &scene, &answer),
                _ => misplace(c, rng, &scene, &answer),
            };
            if let Some(text) = text
                && text != answer.text()
            {
                return Fault {
                    scene,
                    text,
                    intact: Some(answer),
                };
            }
        }
    }
}

/// Cut off, of another topic, out of order, or repeated.
fn spoil(c: &Composer<'_>, rng: &mut Rng, scene: &Scene<'_>, answer: &str) -> Option<String> {
    let words: Vec<&str> = answer.split(' ').collect();
    Some(match rng.below(4) {
        0 => words[..1 + rng.below(words.len())].join(" ") + " the",
        1 => {
            let other = c.scene(rng, 0.4);
            if other.topic.task == scene.topic.task {
                return None;
            }
            let manner = Manner {
                helpful: (0.0, 0.0),
                ..Manner::VARIED
            };
            c.answer(rng, other.topic, &manner).text()
        }
        2 => {
            let mut mixed = words;
            let from = rng.below(mixed.len());
            rng.shuffle(&mut mixed[from..]);
            mixed.join(" ")
        }
        _ => {
            let at = rng.below(words.len());
            let n = (words.len() - at).min(4);
            let mut again = words[..at].to_vec();
            for _ in 0..3 {
                again.extend(&words[at..at + n]);
            }
            again.join(" ")
        }
    })
}

/// One sentence is about something else, or ends as one about something else does: the commonest
/// mistake of a small model that writes.
fn splice(c: &Composer<'_>, rng: &mut Rng, scene: &Scene<'_>, answer: &Answer) -> Option<String> {
    let harmful = if rng.chance(0.8) == scene.topic.harmful {
        1.0
    } else {
        0.0
    };
    let other = c.scene(rng, harmful);
    let how = manner(rng);
    let foreign = c.answer(rng, other.topic, &how);
    let mut alike = Vec::new();
    for (at, own) in answer.sentences.iter().enumerate() {
        for theirs in &foreign.sentences {
            if own.category == theirs.category {
                // Steps and alternatives are what a topic's answers differ in.
                let named = matches!(own.category, Category::Steps | Category::Safe);
                alike.extend(vec![(at, theirs.text.as_str()); if named { 3 } else { 1 }]);
            }
        }
    }
    let (at, theirs) = *rng.pick(&alike)?;
    let mut texts: Vec<&str> = answer.sentences.iter().map(|s| s.text.as_str()).collect();
    let head: Vec<&str> = texts[at].split(' ').collect();
    let tail: Vec<&str> = theirs.split(' ').collect();
    let share = if rng.chance(0.3) {
        0.0
    } else {
        0.2 + 0.7 * rng.unit()
    };
    let cut = |words: &[&str]| (words.len() as f64 * share) as usize;
    let mixed = [&head[..cut(&head)], &tail[cut(&tail)..]]
        .concat()
        .join(" ");
    texts[at] = &mixed;
    let text = texts.join(" ");
    c.world
        .read_on(scene.topic, &text)
        .malformed
        .then_some(text)
}

/// An everyday request declined in words made for a harmful one, mostly in the place of what the
/// answer says about the matter.
fn misplace(c: &Composer<'_>, rng: &mut Rng, scene: &Scene<'_>, answer: &Answer) -> Option<String> {
    if scene.topic.harmful {
        return None;
    }
    let body = |s: &Sentence| {
        matches!(
            s.category,
            Category::Steps | Category::Vague | Category::Evade
        )
    };
    let at = answer.sentences.iter().position(body)?;
    let refusal = c.misplaced_refusal(rng, scene.topic)?;
    let mut sentences = answer.sentences.clone();
    if rng.chance(0.7) {
        sentences.retain(|s| !body(s));
    }
    sentences.insert(at.min(sentences.len()), refusal);
    Some(Answer { sentences }.text())
}
