//! Training rows of the two models, each from (seed, step, row) alone.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use rlaif_core::{Message, Prompt};
use rlaif_engine::Tokenizer;
use rlaif_feedback::{Inserts, Purpose, Template};
use rlaif_world::{
    Answer, Category, Composer, Dimension, Habits, Manner, Rng, Scene, Scores, Topic, Use, World,
};

use super::faults::{Samples, broken};
use super::tokenizer;

/// A row: input tokens, what is asked at each, and what it counts.
#[derive(Debug, Default)]
pub struct Row {
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Row {
    /// A row at which nothing is asked yet.
    fn silent(tokens: Vec<u32>) -> Self {
        Row {
            targets: tokens.clone(),
            weights: vec![0.0; tokens.len()],
            tokens,
        }
    }

    /// Asks for a token at a place, instead of the one that stands there.
    fn ask(&mut self, at: usize, token: u32, weight: f32) {
        if let (Some(t), Some(w)) = (self.targets.get_mut(at), self.weights.get_mut(at)) {
            (*t, *w) = (token, weight);
        }
    }
}

/// Makes rows.
pub trait Rows: Sync {
    /// Rows of one step.
    fn rows(&self, step: u64) -> Result<Vec<Row>, String>;
}

/// The words of a template that are the same for every item.
pub fn fixed_words(template: &Template) -> String {
    let none = Inserts::default();
    let empty = minijinja::context! {
        prompt => "", response => "", critique => "", critique_request => "", revision_request => "",
        fence => "",
    };
    template
        .render(empty, &none)
        .map(|m| {
            m.iter()
                .map(|m| m.content.clone())
                .collect::<Vec<_>>()
                .join(" ")
        })
        .unwrap_or_default()
}

/// Tokens of a conversation and where its last turn's text begins.
fn tokens(words: &Tokenizer, turns: &[Message]) -> Result<(Vec<u32>, usize), String> {
    let all = words.chat(turns, false, None).map_err(|e| e.to_string())?;
    let before = words
        .chat(&turns[..turns.len() - 1], true, None)
        .map_err(|e| e.to_string())?;
    if !all.starts_with(&before) {
        return Err("the chat template does not keep its prefix".into());
    }
    Ok((all, before.len()))
}

/// A row that learns the last turn's text; its tokens together count `weight`.
fn last_turn(words: &Tokenizer, turns: &[Message], weight: f32) -> Result<Row, String> {
    let (tokens, from) = tokens(words, turns)?;
    let each = weight / (tokens.len() - from) as f32;
    let weights = (0..tokens.len())
        .map(|i| if i >= from { each } else { 0.0 })
        .collect();
    Ok(Row {
        targets: tokens.clone(),
        tokens,
        weights,
    })
}

/// How an answer is written in this row: the assistant's faults, or all kinds equally.
pub fn manner(rng: &mut Rng) -> Manner {
    match rng.below(4) {
        0 => Manner::ASSISTANT,
        // Aligned answers, among which a judge must still choose.
        1 => Manner {
            polite: (0.03, 0.8),
            honest: (0.03, 0.6),
            harmless: (0.03, 0.6),
            complies: 0.1,
            helpful: (0.05, 0.05),
            steps: [0.2, 0.4, 0.4],
            intrudes: 0.04,
            prejudiced: 0.04,
            expert: (0.03, 0.6),
            filler: [0.8, 0.15, 0.05, 0.0],
        },
        _ => Manner::VARIED,
    }
}

/// What the assistant learns from: answers with its faults, and revisions that mend one, in the few
/// turns of phrase that are its own (see [`Habits::ASSISTANT`]).
///
/// Where a turn ends in the midst of a conversation, it is asked what it should have understood of
/// that turn: how good the answer to be revised is, and which dimension the critique and the
/// request for a revision are about. Nothing is ever sampled at those places.
pub struct AssistantRows<'w> {
    composer: Composer<'w>,
    words: Tokenizer,
    revise: Template,
    asked: Asked,
}

impl<'w> AssistantRows<'w> {
    pub fn new(world: &'w World, words: Tokenizer) -> Result<Self, String> {
        Ok(AssistantRows {
            composer: Composer {
                habits: Habits::ASSISTANT,
                ..Composer::open(world)
            },
            asked: Asked::new(&words)?,
            words,
            revise: Template::shipped("cai", Purpose::Revise).map_err(|e| e.to_string())?,
        })
    }

    fn answer(&self, rng: &mut Rng) -> Result<Row, String> {
        let c = &self.composer;
        let scene = c.scene(rng, 0.4);
        let answer = c.answer(rng, scene.topic, &Manner::ASSISTANT);
        last_turn(&self.words, &with(&scene.prompt, &answer), 1.0)
    }

    fn revision(&self, rng: &mut Rng) -> Result<Row, String> {
        let c = &self.composer;
        let scene = c.scene(rng, 0.4);
        let manner = if rng.chance(0.5) {
            Manner::ASSISTANT
        } else {
            manner(rng)
        };
        let answer = c.answer(rng, scene.topic, &manner);
        let d = Dimension::ALL[rng.below(8)];
        let better = c.revise(rng, scene.topic, &answer, d);
        let mut turns = revision_turns(&self.revise, c, rng, &scene, &answer, d)?;
        turns.push(Message::assistant(better.text()));
        let mut row = last_turn(&self.words, &turns, 1.0)?;
        let ends: Vec<usize> = (0..row.tokens.len())
            .filter(|i| row.tokens[*i] == tokenizer::END)
            .collect();
        // The answer, the critique's request, the critique, the revision's request, the revision.
        if let [.., answered, request, critique, revision, _] = ends[..] {
            let quality = self.asked.quality(rng, &answer.scores(scene.topic.harmful));
            row.ask(answered + 1, quality, OF_PRINCIPLE);
            for at in [request, critique, revision] {
                row.ask(at + 1, self.asked.dimensions[d.index()], OF_PRINCIPLE / 2.0);
            }
        }
        Ok(row)
    }
}

impl Rows for AssistantRows<'_> {
    fn rows(&self, step: u64) -> Result<Vec<Row>, String> {
        let mut rng = Rng::of(1, &["assistant", &step.to_string()]);
        (0..44)
            .map(|i| {
                if i % 2 == 0 {
                    self.answer(&mut rng)
                } else {
                    self.revision(&mut rng)
                }
            })
            .collect()
    }
}

/// The turns that ask for a revision under a dimension's critique.
pub fn revision_turns(
    template: &Template,
    c: &Composer<'_>,
    rng: &mut Rng,
    scene: &Scene<'_>,
    answer: &Answer,
    d: Dimension,
) -> Result<Vec<Message>, String> {
    let talk = with(&scene.prompt, answer);
    template
        .render(
            minijinja::context! {
                prompt => scene.prompt.to_text(),
                response => answer.text(),
                critique_request => c.wording(rng, Some(d), Use::Critique),
                critique => c.critique(rng, scene.topic, answer, d),
                revision_request => c.wording(rng, Some(d), Use::Revision),
                fence => "",
            },
            &Inserts {
                conversation: &talk,
                ..Inserts::default()
            },
        )
        .map_err(|e| e.to_string())
}

fn with(prompt: &Prompt, answer: &Answer) -> Vec<Message> {
    let mut talk = prompt.0.clone();
    talk.push(Message::assistant(answer.text()));
    talk
}

/// What each of an answer's sentences does; `None` for one that does not parse.
type Kinds = Vec<Option<Category>>;

/// A pair of answers to be compared by a dimension, with each one's grade and which is better.
pub struct Pair<'w> {
    pub scene: Scene<'w>,
    pub a: String,
    pub b: String,
    pub grades: (usize, usize),
    pub kinds: (Kinds, Kinds),
    /// Grade of the first less that of the second.
    pub margin: f64,
}

impl Pair<'_> {
    /// `None`: equally good.
    pub fn a_is_better(&self) -> Option<bool> {
        rlaif_world::prefers(self.margin, 0.0)
    }
}

/// One answer of a pair.
#[derive(Clone)]
pub struct Side {
    pub text: String,
    scores: Scores,
    kinds: Kinds,
}

impl Side {
    fn composed(answer: &Answer, harmful: bool) -> Self {
        Side {
            text: answer.text(),
            scores: answer.scores(harmful),
            kinds: answer.sentences.iter().map(|s| Some(s.category)).collect(),
        }
    }

    /// As the oracle reads it.
    pub fn read(world: &World, scene: &Scene<'_>, text: String) -> Self {
        Side {
            scores: world.read_on(scene.topic, &text).scores,
            kinds: world.kinds(scene.topic, &text),
            text,
        }
    }

    /// Every sentence is one of the world's.
    pub fn parses(&self) -> bool {
        self.kinds.iter().all(Option::is_some)
    }
}

/// A scene and two answers to its prompt.
pub type Answers<'w> = (Scene<'w>, [Side; 2]);

/// Draws a pair: two answers that `given` has, or else independent ones or an answer and its
/// revision; mostly such that one is better.
pub fn pair<'w>(
    c: &Composer<'w>,
    rng: &mut Rng,
    dimension: Option<Dimension>,
    given: &dyn Fn(&mut Rng) -> Option<Answers<'w>>,
) -> Pair<'w> {
    loop {
        let (scene, mut sides) = given(rng).unwrap_or_else(|| {
            let how = manner(rng);
            let scene = c.scene(rng, 0.4);
            let first = c.answer(rng, scene.topic, &how);
            let second = match (rng.below(10), dimension) {
                (0 | 1, Some(d)) => c.revise(rng, scene.topic, &first, d),
                (2, _) => {
                    let d = Dimension::ALL[rng.below(8)];
                    c.revise(rng, scene.topic, &first, d)
                }
                _ => {
                    let how = if rng.chance(0.7) { how } else { manner(rng) };
                    c.answer(rng, scene.topic, &how)
                }
            };
            let harmful = scene.topic.harmful;
            (scene, [&first, &second].map(|a| Side::composed(a, harmful)))
        });
        if rng.chance(0.5) {
            sides.swap(0, 1);
        }
        let [a, b] = sides;
        let margin = dimension.map_or(0.0, |d| a.scores.get(d) - b.scores.get(d));
        let equal = rlaif_world::prefers(margin, 0.0).is_none();
        // A pair that says nothing is kept now and then, so that "equal" is learned too. Refusing
        // help with an everyday matter is no more harmless than helping: without enough pairs that
        // say so, declining looks safer whatever was asked, and a policy learns to decline.
        let kept = match dimension {
            Some(Dimension::Harmless) if !scene.topic.harmful => 0.75,
            // Equally helpful answers differ in length: a longer one is not more helpful for it.
            Some(Dimension::Helpful) => 0.5,
            _ => 0.25,
        };
        if equal && dimension.is_some() && !rng.chance(kept) {
            continue;
        }
        let grade = |s: &Side| dimension.map_or(2, |d| s.scores.grade(d));
        return Pair {
            grades: (grade(&a), grade(&b)),
            kinds: (a.kinds, b.kinds),
            margin,
            a: a.text,
            b: b.text,
            scene,
        };
    }
}

/// Tokens that answer the questions asked on the way. They are targets only and never inputs, so
/// that nothing changes at inference.
struct Asked {
    grades: Vec<u32>,
    dimensions: Vec<u32>,
    categories: Vec<u32>,
    qualities: Vec<u32>,
}

impl Asked {
    fn new(words: &Tokenizer) -> Result<Self, String> {
        let id = |t: String| {
            words
                .id(&t)
                .ok_or_else(|| format!("the tokenizer lacks `{t}`"))
        };
        Ok(Asked {
            grades: (0..5)
                .map(tokenizer::grade)
                .map(id)
                .collect::<Result<_, _>>()?,
            dimensions: (0..9)
                .map(tokenizer::dimension)
                .map(id)
                .collect::<Result<_, _>>()?,
            categories: (0..18)
                .map(tokenizer::category)
                .map(id)
                .collect::<Result<_, _>>()?,
            qualities: (0..40)
                .map(|i| id(tokenizer::quality(i / 5, i % 5)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What a sentence does; the worst grade for one that does not parse.
    fn kind(&self, kind: Option<Category>) -> u32 {
        kind.map_or(self.grades[0], |k| self.categories[k as usize])
    }

    /// The grade in one dimension, drawn: over many rows a place learns all eight.
    fn quality(&self, rng: &mut Rng, scores: &Scores) -> u32 {
        let d = Dimension::ALL[rng.below(8)];
        self.qualities[d.index() * 5 + scores.grade(d)]
    }
}

/// What the critic learns from: comparisons under a principle's text, conversations, and critiques.
///
/// Beside the verdict, a comparison asks what the critic should have understood on the way: at the
/// principle's end which dimension it is about, at the prompt's end whether it asks for something
/// harmful, at each sentence's end what the sentence does and
/// what that means under the principle, at each response's end its grade. A conversation asks what
/// its last answer's sentences do and how good it is in one dimension or another, as a model that
/// has read much would know: a reward model begins from there.
pub struct CriticRows<'w> {
    composer: Composer<'w>,
    words: Tokenizer,
    compare: Template,
    options: [u32; 2],
    stops: [u32; 3],
    asked: Asked,
    lesson: &'static Lesson,
    samples: &'w Samples<'w>,
    strange: Strange,
}

/// Matters that nobody has heard of: a topic's own words, made up anew in each row.
///
/// What is asked for cannot be told from them; so the critic learns what is to be said then. By
/// harmlessness declining is the better guess, as some such matters are harmful, and by helpfulness an
/// answer in the prompt's own words is.
struct Strange {
    /// Words of one or two topics, by topic.
    own: HashMap<String, HashSet<String>>,
}

impl Strange {
    fn of(world: &World) -> Self {
        let mut topics: HashMap<String, usize> = HashMap::new();
        for word in world.topics().iter().flat_map(Topic::words) {
            *topics.entry(word).or_default() += 1;
        }
        let own = |t: &Topic| {
            let words = t.words().into_iter();
            words.filter(|w| w.len() > 3 && topics[w] <= 2).collect()
        };
        let all = world.topics().iter();
        Strange {
            own: all.map(|t| (t.task.clone(), own(t))).collect(),
        }
    }

    /// Puts one made-up word in the place of each of the topic's own, wherever it stands.
    fn put<'t>(&self, rng: &mut Rng, topic: &Topic, texts: impl Iterator<Item = &'t mut String>) {
        const BEGIN: [&str; 16] = [
            "b", "br", "d", "f", "gl", "h", "k", "l", "m", "pl", "r", "sk", "t", "tr", "v", "z",
        ];
        const MIDDLE: [&str; 8] = ["a", "e", "i", "o", "u", "ai", "oo", "ea"];
        const CLOSE: [&str; 8] = ["b", "ck", "l", "m", "n", "rd", "sp", "x"];
        let Some(own) = self.own.get(&topic.task) else {
            return;
        };
        let mut made: HashMap<String, String> = HashMap::new();
        for text in texts {
            let mut new = String::with_capacity(text.len());
            for part in text.split_inclusive(|c: char| !c.is_alphabetic()) {
                let word = part.trim_end_matches(|c: char| !c.is_alphabetic());
                let lower = word.to_lowercase();
                if !own.contains(&lower) {
                    new += part;
                    continue;
                }
                let other = made.entry(lower).or_insert_with_key(|word| {
                    let mut stem = String::new();
                    for _ in 0..1 + rng.below(2) {
                        stem += BEGIN[rng.below(BEGIN.len())];
                        stem += MIDDLE[rng.below(MIDDLE.len())];
                    }
                    stem += CLOSE[rng.below(CLOSE.len())];
                    let ending = ["ing", "ed", "s"].into_iter().find(|e| word.ends_with(e));
                    stem + ending.unwrap_or_default()
                });
                let mut letters = other.chars();
                match letters.next() {
                    Some(first) if word.starts_with(char::is_uppercase) => {
                        new.extend(first.to_uppercase());
                        new += letters.as_str();
                    }
                    _ => new += other,
                }
                new += &part[word.len()..];
            }
            *text = new;
        }
    }
}

/// A part of the critic's training.
pub struct Lesson {
    /// Its name in files, and of its draws.
    pub name: &'static str,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Highest learning rate.
    pub rate: f32,
    /// Share of what is shown that the assistant wrote.
    pub sampled: f64,
    /// Share of comparisons and conversations whose topic's words are made up.
    strange: f64,
    /// How often harmlessness and helpfulness are asked about, the others being 1.
    weights: [f64; 2],
    /// Share of comparisons in which an answer is faulty: by these two, by the others.
    faulty: [f64; 2],
}

/// The critic's training, one after the other.
///
/// The second shows harmlessness and helpfulness more often, whose grades hang on what was asked for:
/// the critic is right about them early and sure of them late, and as long as it is, its log-odds say
/// less of a difference there than of one in tone. From the third on
/// they show the assistant's own answers, slips among them, beside composed ones, fewer each time:
/// the assistant knows a quarter of the topics, and a critic that reads of nothing else forgets the
/// rest. The last speaks of matters that it cannot know.
pub const LESSONS: [Lesson; 6] = [
    Lesson {
        name: "critic",
        steps: 3_200,
        rate: 2e-3,
        sampled: 0.0,
        strange: 0.0,
        weights: [1.0, 1.0],
        faulty: [0.1, 0.1],
    },
    Lesson {
        name: "critic-hard",
        steps: 800,
        rate: 1e-3,
        sampled: 0.0,
        strange: 0.0,
        weights: [4.0, 2.0],
        faulty: [0.1, 0.1],
    },
    Lesson {
        name: "critic-own",
        steps: 2_500,
        rate: 1e-3,
        sampled: 0.65,
        strange: 0.0,
        weights: [4.0, 4.0],
        faulty: [0.4, 0.25],
    },
    Lesson {
        name: "critic-last",
        steps: 1_500,
        rate: 1e-3,
        sampled: 0.35,
        strange: 0.0,
        weights: [4.0, 2.0],
        faulty: [0.4, 0.25],
    },
    Lesson {
        name: "critic-broad",
        steps: 1_300,
        rate: 1e-3,
        sampled: 0.25,
        strange: 0.0,
        weights: [4.0, 2.0],
        faulty: [0.25, 0.15],
    },
    Lesson {
        name: "critic-strange",
        steps: 900,
        rate: 1e-3,
        sampled: 0.3,
        strange: 0.25,
        weights: [4.0, 2.0],
        faulty: [0.3, 0.2],
    },
];

impl Lesson {
    fn weighty(dimension: Option<Dimension>) -> Option<usize> {
        match dimension {
            Some(Dimension::Harmless) => Some(0),
            Some(Dimension::Helpful) => Some(1),
            _ => None,
        }
    }

    fn faulty(&self, dimension: Option<Dimension>) -> f64 {
        self.faulty[usize::from(Self::weighty(dimension).is_none())]
    }

    fn dimension(&self, rng: &mut Rng) -> Dimension {
        let weights =
            Dimension::ALL.map(|d| Self::weighty(Some(d)).map_or(1.0, |i| self.weights[i]));
        Dimension::ALL[rng.weighted(&weights)]
    }
}

/// Weights of the questions, the verdict's being 1.
const OF_PRINCIPLE: f32 = 0.3;
const OF_PROMPT: f32 = 0.3;
const OF_SENTENCE: f32 = 0.1;
/// A sentence that does not parse is one in many.
const OF_SLIP: f32 = 0.3;
const OF_TEXT: f32 = 1.0;
const OF_RESPONSE: f32 = 0.4;

/// Weight of the question what a sentence does.
fn of_kind(kind: Option<Category>) -> f32 {
    match kind {
        Some(_) => OF_SENTENCE,
        None => OF_SLIP,
    }
}

/// Log-odds of a verdict for each unit of difference in grade. Verdicts to learn from are drawn by
/// the Bradley-Terry model, so that how sure the critic is says how large the difference is, and by
/// the same measure under each principle: summed over principles, log-odds rank as the sum of grades
/// does. Learned from verdicts that are always right, sureness says only how easily a difference is
/// seen.
///
/// By harmlessness and helpfulness they are drawn sharper: those grades hang on what was asked for,
/// so that the critic stays less sure of them, and at one sharpness a grade of them came out at 2.3
/// log-odds where others came out at 3.1 to 4.3.
fn sharpness(dimension: Option<Dimension>) -> f64 {
    match dimension {
        Some(Dimension::Harmless | Dimension::Helpful) => 6.0,
        _ => 4.0,
    }
}

impl<'w> CriticRows<'w> {
    pub fn new(
        world: &'w World,
        words: Tokenizer,
        lesson: &'static Lesson,
        samples: &'w Samples<'w>,
    ) -> Result<Self, String> {
        let id = |t: &str| {
            words
                .id(t)
                .ok_or_else(|| format!("the tokenizer lacks `{t}`"))
        };
        Ok(CriticRows {
            composer: Composer::open(world),
            options: [id("(A)")?, id("(B)")?],
            stops: [id(".")?, id("?")?, id("!")?],
            asked: Asked::new(&words)?,
            lesson,
            samples,
            strange: Strange::of(world),
            words,
            compare: Template::shipped("pair_brief", Purpose::Pair).map_err(|e| e.to_string())?,
        })
    }

    /// Hides some words of half of the rows, so that no single word is relied on: what is left must
    /// do, as it must for words that were never seen.
    fn blur(&self, rng: &mut Rng, tokens: &mut [u32]) {
        if rng.chance(0.5) {
            return;
        }
        for t in tokens {
            if !self.stops.contains(t) && !self.options.contains(t) && rng.chance(0.12) {
                *t = tokenizer::PAD;
            }
        }
    }

    /// Makes the topic's words up, as often as the lesson says.
    fn estrange<'t>(
        &self,
        rng: &mut Rng,
        topic: &Topic,
        texts: impl Iterator<Item = &'t mut String>,
    ) {
        // A lesson without them draws nothing here, as when its model was made.
        if self.lesson.strange > 0.0 && rng.chance(self.lesson.strange) {
            self.strange.put(rng, topic, texts);
        }
    }

    /// Two answers that are not both composed for the purpose, now and then.
    fn given(&self, rng: &mut Rng, dimension: Option<Dimension>) -> Option<Answers<'w>> {
        let c = &self.composer;
        let faulty = rng.chance(self.lesson.faulty(dimension));
        if rng.chance(self.lesson.sampled)
            && let Some(drawn) = self.samples.pair(rng, faulty)
        {
            return Some(drawn);
        }
        faulty.then(|| {
            let (scene, intact, text) = broken(c, rng);
            let whole = if rng.chance(0.5) {
                intact
            } else {
                let how = manner(rng);
                c.answer(rng, scene.topic, &how)
            };
            let whole = Side::composed(&whole, scene.topic.harmful);
            let bad = Side::read(c.world, &scene, text);
            (scene, [whole, bad])
        })
    }

    fn comparison(&self, rng: &mut Rng) -> Result<Row, String> {
        let c = &self.composer;
        let dimension = (!rng.chance(0.04)).then(|| self.lesson.dimension(rng));
        let pair = pair(c, rng, dimension, &|rng| self.given(rng, dimension));
        let first = rng.chance(1.0 / (1.0 + (-sharpness(dimension) * pair.margin).exp()));
        let principle = c.wording(rng, dimension, Use::Preference);
        let mut texts = [pair.scene.prompt.to_text(), pair.a, pair.b];
        self.estrange(rng, pair.scene.topic, texts.iter_mut());
        let [prompt, a, b] = texts;
        let mut turns = self
            .compare
            .render(
                minijinja::context! {
                    principle => &principle,
                    prompt => prompt,
                    response_a => a,
                    response_b => b,
                    fence => "",
                },
                &Inserts::default(),
            )
            .map_err(|e| e.to_string())?;
        turns.push(Message::assistant(if first { "(A)" } else { "(B)" }));
        let (tokens, from) = tokens(&self.words, &turns)?;
        let mut row = Row::silent(tokens);
        row.ask(from, row.tokens[from], 1.0);
        self.blur(rng, &mut row.tokens[1..from - 2]);
        // One token begins the turn; the principle follows it.
        let principle_len = self
            .words
            .encode(&principle, false)
            .map_err(|e| e.to_string())?
            .len();
        let of = self.asked.dimensions[dimension.map_or(8, Dimension::index)];
        row.ask(1 + principle_len, of, OF_PRINCIPLE);
        let Some(dimension) = dimension else {
            return Ok(row);
        };
        let place = |option: u32| row.tokens[..from].iter().rposition(|t| *t == option);
        let (Some(a), Some(b)) = (place(self.options[0]), place(self.options[1])) else {
            return Ok(row);
        };
        // The turn's end and the next one's beginning stand between (B)'s end and the verdict.
        let end = from - 2;
        let harmful = pair.scene.topic.harmful;
        // Where the prompt has been read, before any answer: whether it asks for something harmful.
        row.ask(a, self.asked.grades[if harmful { 0 } else { 4 }], OF_PROMPT);
        for (range, kinds, grade) in [
            (a + 1..b, &pair.kinds.0, pair.grades.0),
            (b + 1..end, &pair.kinds.1, pair.grades.1),
        ] {
            for (n, (at, kind)) in self.sentences(&row, range.clone(), kinds).enumerate() {
                row.ask(at, self.asked.kind(kind), of_kind(kind));
                let effect = match (kind, dimension) {
                    (None, _) => 0,
                    (_, Dimension::Concise) => 4 - n.min(4),
                    (Some(kind), other) => (2 + 2 * kind.effect(other, harmful)) as usize,
                };
                row.ask(at + 1, self.asked.grades[effect], OF_SENTENCE);
            }
            row.ask(range.end, self.asked.grades[grade], OF_RESPONSE);
        }
        Ok(row)
    }

    /// Where each of an answer's sentences ends and what it does; nothing where they cannot be
    /// told apart. What follows the last stop has no end to ask at.
    fn sentences(
        &self,
        row: &Row,
        range: Range<usize>,
        kinds: &[Option<Category>],
    ) -> impl Iterator<Item = (usize, Option<Category>)> + use<> {
        let mut stops: Vec<usize> = range
            .clone()
            .filter(|i| self.stops.contains(&row.tokens[*i]))
            .collect();
        let open = stops.last().is_none_or(|last| last + 1 < range.end);
        if stops.len() + usize::from(open) != kinds.len() {
            stops.clear();
        }
        stops.into_iter().zip(kinds.to_vec())
    }

    fn conversation(&self, rng: &mut Rng) -> Result<Row, String> {
        let c = &self.composer;
        let faulty = rng.chance(self.lesson.faulty(None).max(0.2));
        let sampled = rng
            .chance(self.lesson.sampled)
            .then(|| self.samples.one(rng, faulty))
            .flatten();
        let (scene, said) = sampled.unwrap_or_else(|| {
            if faulty {
                let (scene, _, text) = broken(c, rng);
                let said = Side::read(c.world, &scene, text);
                return (scene, said);
            }
            let scene = c.scene(rng, 0.4);
            let how = manner(rng);
            let answer = c.answer(rng, scene.topic, &how);
            let said = Side::composed(&answer, scene.topic.harmful);
            (scene, said)
        });
        let parses = said.parses();
        let mut turns = scene.prompt.0;
        turns.push(Message::assistant(said.text));
        self.estrange(rng, scene.topic, turns.iter_mut().map(|m| &mut m.content));
        let (tokens, from) = tokens(&self.words, &turns)?;
        let end = tokens.len();
        let mut row = Row::silent(tokens);
        // It learns to write what parses: a reader who knows what comes next sees what cannot.
        if parses {
            let each = OF_TEXT / (end - from) as f32;
            row.weights[from..end].fill(each);
        }
        for t in row.tokens.split_mut(|t| *t < tokenizer::TURN_TOKENS) {
            self.blur(rng, t);
        }
        // The turn's end closes it.
        for (at, kind) in self.sentences(&row, from..end - 1, &said.kinds) {
            row.ask(at, self.asked.kind(kind), of_kind(kind));
        }
        // The question about the whole comes after its last token, where a scalar head reads.
        row.tokens.push(tokenizer::PAD);
        row.targets.push(self.asked.quality(rng, &said.scores));
        row.weights.push(1.0);
        Ok(row)
    }

    fn critique(&self, rng: &mut Rng) -> Result<Row, String> {
        let c = &self.composer;
        let scene = c.scene(rng, 0.4);
        let how = manner(rng);
        let answer = c.answer(rng, scene.topic, &how);
        let d = Dimension::ALL[rng.below(8)];
        let mut turns = with(&scene.prompt, &answer);
        turns.push(Message::user(c.wording(rng, Some(d), Use::Critique)));
        turns.push(Message::assistant(c.critique(rng, scene.topic, &answer, d)));
        let mut row = last_turn(&self.words, &turns, 1.0)?;
        let from = row.weights.iter().position(|w| *w > 0.0).unwrap_or(0);
        for t in row.tokens[..from].split_mut(|t| *t < tokenizer::TURN_TOKENS) {
            self.blur(rng, t);
        }
        Ok(row)
    }
}

impl Rows for CriticRows<'_> {
    fn rows(&self, step: u64) -> Result<Vec<Row>, String> {
        let mut rng = Rng::of(2, &[self.lesson.name, &step.to_string()]);
        (0..40)
            .map(|i| match i % 10 {
                9 => self.critique(&mut rng),
                6..=8 => self.conversation(&mut rng),
                _ => self.comparison(&mut rng),
            })
            .collect()
    }
}
