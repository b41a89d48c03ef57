//! Answers that no grammar makes, so that the critic knows a fault where it sees one.

use std::path::Path;

use rlaif_world::{Answer, Category, Composer, Habits, Manner, Rng, Scene, Sentence, World};

use super::data::{Answers, Side, manner};
use super::model::Model;

/// What the finished assistant answered to one prompt, several times.
struct Answered<'w> {
    scene: Scene<'w>,
    parsed: Vec<Side>,
    slips: Vec<Side>,
}

/// The assistant's own answers: what a critic of its policies will have to tell apart.
///
/// A slip is always shown beside an answer that parses *and is the assistant's too*. Beside one that
/// the grammar composed, it could be told by the turns of phrase that are the assistant's own, and a
/// critic that learned from such pairs knew a slip from a good answer of the assistant no better than
/// by chance.
#[derive(Default)]
pub struct Samples<'w> {
    answered: Vec<Answered<'w>>,
}

/// Prompts to answer; how hot, and how much the assistant is shaken. Hotter, an answer has more than
/// one or two slips. Shaken, it is sure of what is wrong: it goes over to another topic's words or
/// names the wrong profession, as policies do that were trained for long.
const PROMPTS: usize = 6_000;
const WAYS: [(f32, f32); 7] = [
    (0.7, 0.0),
    (0.7, 0.0),
    (0.8, 0.0),
    (0.9, 0.0),
    (1.1, 0.0),
    (0.7, 0.15),
    (0.7, 0.25),
];

impl<'w> Samples<'w> {
    /// Lets the finished assistant answer each prompt several times.
    pub fn of(world: &'w World, assistant: &Path) -> Result<Self, String> {
        let c = Composer {
            habits: Habits::ASSISTANT,
            ..Composer::open(world)
        };
        let mut rng = Rng::of(5, &["slips"]);
        let mut answered: Vec<Answered<'w>> = (0..PROMPTS)
            .map(|_| Answered {
                scene: c.scene(&mut rng, 0.5),
                parsed: Vec::new(),
                slips: Vec::new(),
            })
            .collect();
        let mut talks: Vec<_> = answered.iter().map(|a| a.scene.prompt.0.clone()).collect();
        for (temperature, shaken) in WAYS {
            // A row's place is its seed: the same temperature again gives other answers.
            talks.rotate_left(1);
            answered.rotate_left(1);
            let answers = Model::shaken(assistant, shaken)?.sample(&talks, temperature)?;
            let mut slips = 0;
            for (to, text) in answered.iter_mut().zip(answers) {
                if text.trim().is_empty() {
                    continue;
                }
                let side = Side::read(world, &to.scene, text);
                let list = if side.parses() {
                    &mut to.parsed
                } else {
                    slips += 1;
                    &mut to.slips
                };
                if list.iter().all(|s| s.text != side.text) {
                    list.push(side);
                }
            }
            println!(
                "critic: {slips} of {PROMPTS} answers of the assistant at temperature {temperature}, \
                 shaken by {shaken}, do not parse"
            );
        }
        if answered.iter().all(|a| a.slips.is_empty()) {
            return Err(format!(
                "`{}` makes no mistakes; it cannot be the assistant",
                assistant.display()
            ));
        }
        Ok(Samples { answered })
    }

    /// Nothing was answered.
    pub fn is_empty(&self) -> bool {
        self.answered.is_empty()
    }

    /// Two answers to one prompt: a slip beside one that parses, or two that do.
    ///
    /// As many slips are the shorter answer as the longer. A long answer has more places to slip at,
    /// and a critic that saw them as they come took brevity for a virtue under every principle: 3.2
    /// log-odds a grade of conciseness, summed over the seven that are about something else.
    pub fn pair(&self, rng: &mut Rng, slip: bool) -> Option<Answers<'w>> {
        let longer = rng.chance(0.5);
        // Most prompts have two that parse, a third of them a slip.
        for _ in 0..1_000 {
            let a = rng.pick(&self.answered)?;
            let sides = match (slip, &a.parsed[..], &a.slips[..]) {
                (true, parsed @ [_, ..], slips @ [_, ..]) => [rng.pick(parsed), rng.pick(slips)],
                (false, parsed @ [_, _, ..], _) => {
                    let first = rng.below(parsed.len());
                    let second = (first + 1 + rng.below(parsed.len() - 1)) % parsed.len();
                    [parsed.get(first), parsed.get(second)]
                }
                _ => continue,
            };
            if let [Some(first), Some(second)] = sides {
                if slip && longer != (second.text.len() > first.text.len()) {
                    continue;
                }
                return Some((a.scene.clone(), [first.clone(), second.clone()]));
            }
        }
        None
    }

    /// One answer, a slip or one that parses.
    pub fn one(&self, rng: &mut Rng, slip: bool) -> Option<(Scene<'w>, Side)> {
        let (scene, [parsed, slipped]) = self.pair(rng, slip)?;
        Some((scene, if slip { slipped } else { parsed }))
    }
}

/// A broken answer, and the one that it was made from.
pub fn broken<'w>(c: &Composer<'w>, rng: &mut Rng) -> (Scene<'w>, Answer, String) {
    loop {
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
            return (scene, answer, text);
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
