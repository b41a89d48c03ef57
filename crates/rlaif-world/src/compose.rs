//! Prompts, answers, critiques and revisions, drawn from the tables.

use std::cell::RefCell;

use rlaif_core::{Message, Prompt};

use crate::dimension::Dimension;
use crate::oracle::Scores;
use crate::pattern::Slot;
use crate::rng::Rng;
use crate::tables::{Category, PromptPart, Template, Topic, Use, World};

/// Which side of the seal to draw from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What training may see.
    Open,
    /// What it may not.
    Sealed,
}

impl Side {
    fn admits(self, sealed: bool) -> bool {
        sealed == (self == Side::Sealed)
    }
}

/// A prompt and what it is about.
#[derive(Clone, Debug)]
pub struct Scene<'w> {
    /// The topic asked about.
    pub topic: &'w Topic,
    /// The conversation up to the answer.
    pub prompt: Prompt,
}

/// One sentence of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentence {
    /// What it does.
    pub category: Category,
    /// Its words.
    pub text: String,
    /// Steps or alternatives it names, by index in the topic.
    pub(crate) items: Vec<usize>,
}

/// An answer as a list of sentences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// In order.
    pub sentences: Vec<Sentence>,
}

impl Answer {
    /// The answer's text.
    #[must_use]
    pub fn text(&self) -> String {
        let list: Vec<&str> = self.sentences.iter().map(|s| s.text.as_str()).collect();
        list.join(" ")
    }

    fn has(&self, category: Category) -> bool {
        self.sentences.iter().any(|s| s.category == category)
    }

    /// Distinct steps and alternatives.
    fn items(&self, category: Category) -> Vec<usize> {
        let mut items: Vec<usize> = self
            .sentences
            .iter()
            .filter(|s| s.category == category)
            .flat_map(|s| s.items.iter().copied())
            .collect();
        items.sort_unstable();
        items.dedup();
        items
    }

    /// The grades of this answer to a prompt on a harmful or harmless topic.
    #[must_use]
    pub fn scores(&self, harmful: bool) -> Scores {
        let steps = self.items(Category::Steps).len();
        let safe = self.items(Category::Safe).len();
        Scores::count(harmful, steps, safe, self.sentences.len(), &|category| {
            self.has(category)
        })
    }
}

/// How often an answer does what: the faults of whoever writes it. Pairs are (bad, good); the rest
/// is neither.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Rude, warm.
    pub polite: (f64, f64),
    /// Overclaims, hedges.
    pub honest: (f64, f64),
    /// Dangerous shortcuts on harmless topics, cautions.
    pub harmless: (f64, f64),
    /// Complies with what is harmful (the rest declines).
    pub complies: f64,
    /// Nothing concrete, refuses without reason (the rest gives steps).
    pub helpful: (f64, f64),
    /// Probability of each number of steps, from 1.
    pub steps: [f64; 3],
    /// Asks for personal data.
    pub intrudes: f64,
    /// Prejudice.
    pub prejudiced: f64,
    /// Dismisses, urges professionals.
    pub expert: (f64, f64),
    /// Probability of each number of needless sentences, from 0.
    pub filler: [f64; 4],
}

impl Manner {
    /// The assistant before alignment: real faults at these rates.
    pub const ASSISTANT: Manner = Manner {
        polite: (0.25, 0.3),
        honest: (0.2, 0.2),
        harmless: (0.2, 0.2),
        complies: 0.9,
        helpful: (0.2, 0.1),
        steps: [0.3, 0.4, 0.3],
        intrudes: 0.15,
        prejudiced: 0.15,
        expert: (0.12, 0.2),
        filler: [0.5, 0.3, 0.15, 0.05],
    };

    /// All kinds of answer about equally often: what a critic learns from.
    pub const VARIED: Manner = Manner {
        polite: (0.33, 0.33),
        honest: (0.3, 0.3),
        harmless: (0.3, 0.3),
        complies: 0.5,
        helpful: (0.2, 0.2),
        steps: [0.34, 0.33, 0.33],
        intrudes: 0.3,
        prejudiced: 0.3,
        expert: (0.3, 0.3),
        filler: [0.5, 0.25, 0.15, 0.1],
    };
}

/// Draws from the tables, one side of each seal.
#[derive(Clone, Copy)]
pub struct Composer<'w> {
    /// The tables.
    pub world: &'w World,
    /// Side of the sentence and prompt templates.
    pub templates: Side,
    /// Side of the topics.
    pub topics: Side,
    /// Side of the principles' wordings.
    pub wordings: Side,
    /// What is used of all that.
    pub habits: Habits,
}

/// How much of the language somebody uses: of what is on the side of the seal, the first so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// Sentence templates of each kind.
    pub templates: usize,
    /// Topics of each domain.
    pub topics: usize,
    /// Harmful topics.
    pub harmful: usize,
    /// Steps and alternatives of each topic.
    pub items: usize,
}

impl Habits {
    /// The whole language.
    pub const ALL: Habits = Habits {
        templates: usize::MAX,
        topics: usize::MAX,
        harmful: usize::MAX,
        items: usize::MAX,
    };

    /// What the embedded assistant is at home in: 36 everyday topics and 16 harmful ones.
    pub const ASSISTANT: Habits = Habits {
        templates: 12,
        topics: 3,
        harmful: 16,
        items: 4,
    };

    fn has(&self, topic: &Topic) -> bool {
        topic.rank
            < if topic.harmful {
                self.harmful
            } else {
                self.topics
            }
    }
}

impl<'w> Composer<'w> {
    /// What training may see.
    #[must_use]
    pub fn open(world: &'w World) -> Self {
        Composer {
            world,
            templates: Side::Open,
            topics: Side::Open,
            wordings: Side::Open,
            habits: Habits::ALL,
        }
    }

    /// A prompt; `harmful` is the share of those that ask for something harmful.
    pub fn scene(&self, rng: &mut Rng, harmful: f64) -> Scene<'w> {
        let bad = rng.chance(harmful);
        let topics: Vec<&Topic> = self
            .world
            .topics
            .iter()
            .filter(|t| t.harmful == bad && self.topics.admits(t.sealed) && self.habits.has(t))
            .collect();
        let topic = topics[rng.below(topics.len())];
        let fill = |slot| match slot {
            Slot::Topic => topic.task.as_str(),
            _ => topic.doing.as_str(),
        };
        let mut say = |part| {
            let list: Vec<&Template<PromptPart>> = self
                .world
                .prompts
                .iter()
                .filter(|t| t.kind == part && self.templates.admits(t.sealed))
                .collect();
            let pattern = &list[rng.below(list.len())].pattern;
            let mut text = pattern.write(|n| rng.below(n), fill);
            capitalize_sentences(&mut text);
            text
        };
        let (first, reply, second, one) = (
            say(PromptPart::First),
            say(PromptPart::Reply),
            say(PromptPart::Second),
            say(PromptPart::One),
        );
        let prompt = if rng.chance(0.1) {
            Prompt(vec![
                Message::user(first),
                Message::assistant(reply),
                Message::user(second),
            ])
        } else {
            Prompt::from(one)
        };
        Scene { topic, prompt }
    }

    /// A sentence of a category; `items` are the steps or alternatives that it names.
    fn sentence(
        &self,
        rng: &mut Rng,
        topic: &Topic,
        category: Category,
        items: &[usize],
    ) -> Option<Sentence> {
        let list: Vec<&Template<Category>> = self
            .world
            .templates
            .iter()
            .filter(|t| {
                t.kind == category
                    && self.templates.admits(t.sealed)
                    && t.rank < self.habits.templates
                    && (!matches!(category, Category::Steps | Category::Safe)
                        || count_items(t) == items.len())
                    && t.pattern
                        .slots()
                        .into_iter()
                        .all(|s| !self.world.candidates(topic, s).is_empty())
            })
            .collect();
        let pattern = &rng.pick(&list)?.pattern;
        let rng = RefCell::new(rng);
        let text = pattern.write(
            |n| rng.borrow_mut().below(n),
            |slot| {
                let list = self.world.candidates(topic, slot);
                match slot {
                    Slot::Step(i) | Slot::Safe(i) => {
                        list[items.get(usize::from(i)).copied().unwrap_or(0) % list.len().max(1)]
                    }
                    _ => list[rng.borrow_mut().below(list.len())],
                }
            },
        );
        Some(Sentence {
            category,
            text,
            items: items.to_vec(),
        })
    }

    fn some_of(rng: &mut Rng, of: usize, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        rng.shuffle(&mut all);
        all.truncate(n);
        all
    }

    /// What stands in the middle of an answer: steps, alternatives, or nothing of use.
    fn body(&self, rng: &mut Rng, topic: &Topic, manner: &Manner) -> Vec<Sentence> {
        let mut out = Vec::new();
        let kind = rng.weighted(&[
            manner.helpful.0,
            manner.helpful.1,
            1.0 - manner.helpful.0 - manner.helpful.1,
        ]);
        if topic.harmful && !rng.chance(manner.complies) {
            if kind == 1 {
                out.extend(self.sentence(rng, topic, Category::Evade, &[]));
            } else {
                out.extend(self.sentence(rng, topic, Category::Refuse, &[]));
                let n = rng.below(3);
                out.extend(self.safe(rng, topic, n));
            }
        } else if kind == 0 {
            out.extend(self.sentence(rng, topic, Category::Vague, &[]));
        } else if kind == 1 {
            out.extend(self.sentence(rng, topic, Category::Evade, &[]));
        } else {
            let n = 1 + rng.weighted(&manner.steps);
            out.extend(self.steps(rng, topic, n));
        }
        out
    }

    /// `n` steps, in one sentence or several.
    fn steps(&self, rng: &mut Rng, topic: &Topic, n: usize) -> Vec<Sentence> {
        let items = Self::some_of(rng, topic.steps.len().min(self.habits.items), n);
        let cut = if n > 1 && rng.chance(0.3) { 1 } else { n };
        let mut out = Vec::new();
        out.extend(self.sentence(rng, topic, Category::Steps, &items[..cut]));
        if cut < n {
            out.extend(self.sentence(rng, topic, Category::Steps, &items[cut..]));
        }
        out
    }

    fn safe(&self, rng: &mut Rng, topic: &Topic, n: usize) -> Option<Sentence> {
        let items = Self::some_of(rng, topic.safe.len().min(self.habits.items), n);
        (n > 0)
            .then(|| self.sentence(rng, topic, Category::Safe, &items))
            .flatten()
    }

    /// A refusal in words made for something harmful, whatever the topic is. It names the topic's
    /// own thing as the victim, or somebody whom another topic would hurt. A policy that is paid for
    /// declining may come to write so about everyday matters; no answer of this grammar does.
    pub fn misplaced_refusal(&self, rng: &mut Rng, topic: &Topic) -> Option<Sentence> {
        let mut strange = topic.clone();
        strange.victim = match &strange.thing {
            thing if !thing.is_empty() && rng.chance(0.5) => thing.clone(),
            _ => self.scene(rng, 1.0).topic.victim.clone(),
        };
        self.sentence(rng, &strange, Category::Refuse, &[])
    }

    /// An answer in this manner.
    pub fn answer(&self, rng: &mut Rng, topic: &Topic, manner: &Manner) -> Answer {
        let three = |rng: &mut Rng, (bad, good): (f64, f64)| match rng.unit() {
            u if u < bad => -1,
            u if u < bad + good => 1,
            _ => 0,
        };
        let mut sentences = Vec::new();
        let mut push = |s: Option<Sentence>| sentences.extend(s);
        let tone = three(rng, manner.polite);
        // A tone shows at the beginning, at the end, or at both.
        let place = rng.below(4);
        let open = (tone != 0 && place != 3).then_some(if tone > 0 {
            Category::OpenWarm
        } else {
            Category::OpenRude
        });
        let close = (tone != 0 && place >= 2).then_some(if tone > 0 {
            Category::CloseWarm
        } else {
            Category::CloseRude
        });
        if let Some(c) = open {
            push(self.sentence(rng, topic, c, &[]));
        }
        let fillers = rng.weighted(&manner.filler);
        let before = if fillers > 0 { rng.below(2) } else { 0 };
        for _ in 0..before {
            push(self.sentence(rng, topic, Category::Filler, &[]));
        }
        for s in self.body(rng, topic, manner) {
            push(Some(s));
        }
        let mut extras: Vec<Category> = vec![Category::Filler; fillers - before];
        match three(rng, manner.harmless) {
            1 => extras.push(Category::Caution),
            -1 => extras.push(Category::Danger),
            _ => {}
        }
        match three(rng, manner.honest) {
            1 => extras.push(Category::Hedge),
            -1 => extras.push(Category::Overclaim),
            _ => {}
        }
        match three(rng, manner.expert) {
            1 => extras.push(Category::Expert),
            -1 => extras.push(Category::Dismiss),
            _ => {}
        }
        if rng.chance(manner.intrudes) {
            extras.push(Category::Intrude);
        }
        if rng.chance(manner.prejudiced) {
            extras.push(Category::Stereotype);
        }
        rng.shuffle(&mut extras);
        for c in extras {
            push(self.sentence(rng, topic, c, &[]));
        }
        if let Some(c) = close {
            push(self.sentence(rng, topic, c, &[]));
        }
        Answer { sentences }
    }

    /// The answer with one dimension mended, everything else word for word as it was.
    pub fn revise(
        &self,
        rng: &mut Rng,
        topic: &Topic,
        answer: &Answer,
        dimension: Dimension,
    ) -> Answer {
        use Category as C;
        let mut s = answer.sentences.clone();
        let score = answer.scores(topic.harmful).get(dimension);
        let drop = |s: &mut Vec<Sentence>, bad: &[C]| s.retain(|x| !bad.contains(&x.category));
        // Further advice goes before a closing.
        let insert = |s: &mut Vec<Sentence>, new: Option<Sentence>| {
            let at = s
                .iter()
                .position(|x| matches!(x.category, C::CloseWarm | C::CloseRude))
                .unwrap_or(s.len());
            if let Some(new) = new {
                s.insert(at, new);
            }
        };
        match dimension {
            Dimension::Polite if score < 1.0 => {
                drop(&mut s, &[C::OpenRude, C::CloseRude]);
                if let Some(new) = self.sentence(rng, topic, C::OpenWarm, &[]) {
                    s.insert(0, new);
                }
            }
            Dimension::Honest if score < 1.0 => {
                drop(&mut s, &[C::Overclaim]);
                insert(&mut s, self.sentence(rng, topic, C::Hedge, &[]));
            }
            Dimension::Harmless if score < 1.0 && !topic.harmful => {
                drop(&mut s, &[C::Danger]);
                insert(&mut s, self.sentence(rng, topic, C::Caution, &[]));
            }
            Dimension::Harmless if score < 1.0 => {
                self.replace_body(rng, topic, &mut s);
            }
            // What helps here is a decent way out; an answer that complies is helpful already.
            Dimension::Helpful if topic.harmful && (score > 0.6 || answer.has(C::Steps)) => {}
            Dimension::Helpful if topic.harmful => self.replace_body(rng, topic, &mut s),
            Dimension::Helpful if score < 1.0 => {
                let at = s
                    .iter()
                    .position(|x| matches!(x.category, C::Steps | C::Vague | C::Evade))
                    .unwrap_or(0);
                drop(&mut s, &[C::Steps, C::Vague, C::Evade]);
                for (i, new) in self.steps(rng, topic, 3).into_iter().enumerate() {
                    s.insert((at + i).min(s.len()), new);
                }
            }
            Dimension::Concise => {
                drop(&mut s, &[C::Filler]);
                if s.len() > 3 {
                    // Beyond what answers the question, courtesy and extras go first.
                    drop(&mut s, &[C::CloseWarm, C::CloseRude, C::OpenRude]);
                }
            }
            Dimension::Privacy => drop(&mut s, &[C::Intrude]),
            Dimension::Fair => drop(&mut s, &[C::Stereotype]),
            Dimension::Expert if score < 1.0 => {
                drop(&mut s, &[C::Dismiss]);
                insert(&mut s, self.sentence(rng, topic, C::Expert, &[]));
            }
            _ => {}
        }
        if s.is_empty() {
            return answer.clone();
        }
        Answer { sentences: s }
    }

    /// Declines what is harmful and offers two decent alternatives.
    fn replace_body(&self, rng: &mut Rng, topic: &Topic, s: &mut Vec<Sentence>) {
        use Category as C;
        let body = [C::Steps, C::Vague, C::Evade, C::Refuse, C::Safe, C::Danger];
        let at = s
            .iter()
            .position(|x| body.contains(&x.category))
            .unwrap_or(0);
        s.retain(|x| !body.contains(&x.category));
        let new = [
            self.sentence(rng, topic, C::Refuse, &[]),
            self.safe(rng, topic, 2),
        ];
        for (i, new) in new.into_iter().flatten().enumerate() {
            s.insert((at + i).min(s.len()), new);
        }
    }

    /// A wording of a principle; `None` is a principle that answers do not differ in.
    pub fn wording(&self, rng: &mut Rng, dimension: Option<Dimension>, kind: Use) -> String {
        let list: Vec<_> = self
            .world
            .wordings
            .get(&(dimension, kind))
            .into_iter()
            .flatten()
            .filter(|w| self.wordings.admits(w.sealed))
            .collect();
        match rng.pick(&list) {
            Some(w) => w.pattern.write(|n| rng.below(n), |_| ""),
            None => String::new(),
        }
    }

    /// A critique of an answer by a dimension.
    pub fn critique(
        &self,
        rng: &mut Rng,
        topic: &Topic,
        answer: &Answer,
        dimension: Dimension,
    ) -> String {
        let state = match answer.scores(topic.harmful).grade(dimension) {
            0 | 1 => 0,
            2 | 3 => 1,
            _ => 2,
        };
        let find = |state| self.world.critiques.get(&(dimension, state));
        // Privacy and fairness know only bad and good.
        let list = find(state).or_else(|| find(2));
        match list.and_then(|l| rng.pick(l)) {
            Some(p) => p.write(|n| rng.below(n), |_| ""),
            None => String::new(),
        }
    }
}

fn count_items(t: &Template<Category>) -> usize {
    t.pattern
        .slots()
        .into_iter()
        .filter(|s| matches!(s, Slot::Step(_) | Slot::Safe(_)))
        .count()
}

/// Capitals after each sentence's end: a prompt template may have two sentences, the second of
/// which may begin with a slot.
fn capitalize_sentences(text: &mut String) {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if start && c.is_ascii_lowercase() {
            out.push(c.to_ascii_uppercase());
            start = false;
            continue;
        }
        if matches!(c, '.' | '?' | '!') {
            start = true;
        } else if c != ' ' {
            start = false;
        }
        out.push(c);
    }
    *text = out;
}
