//! Training rows of the two models, each from (seed, step, row) alone.

use std::ops::Range;

use rlaif_core::{Message, Prompt};
use rlaif_engine::Tokenizer;
use rlaif_feedback::{Inserts, Purpose, Template};
use rlaif_world::{
    Answer, Category, Composer, Dimension, Habits, Manner, Rng, Scene, Scores, Sentence, Use, World,
};

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

/// An answer that no grammar makes: cut off, of another topic, repeated or out of order.
pub fn spoil(c: &Composer<'_>, rng: &mut Rng, scene: &Scene<'_>, answer: &str) -> String {
    let words: Vec<&str> = answer.split(' ').collect();
    match rng.below(4) {
        0 => words[..1 + rng.below(words.len())].join(" ") + " the",
        1 => {
            let other = c.scene(rng, 0.4);
            if other.topic.task == scene.topic.task {
                return String::new();
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
    }
}

/// An answer one sentence of which ends as a sentence about something else does: the commonest
/// mistake of a small model that writes.
pub fn splice(c: &Composer<'_>, rng: &mut Rng, scene: &Scene<'_>, answer: &Answer) -> String {
    let other = c.scene(rng, if scene.topic.harmful { 1.0 } else { 0.0 });
    let how = manner(rng);
    let foreign = c.answer(rng, other.topic, &how);
    let mut texts: Vec<&str> = answer.sentences.iter().map(|s| s.text.as_str()).collect();
    // Steps and alternatives are what a topic's answers differ in.
    let named = |a: &Answer, rng: &mut Rng| {
        let of = |s: &Sentence| matches!(s.category, Category::Steps | Category::Safe);
        let list: Vec<usize> = (0..a.sentences.len())
            .filter(|i| of(&a.sentences[*i]))
            .collect();
        rng.pick(&list).copied()
    };
    let (Some(at), Some(from)) = (named(answer, rng), named(&foreign, rng)) else {
        return String::new();
    };
    let head: Vec<&str> = texts[at].split(' ').collect();
    let tail: Vec<&str> = foreign.sentences[from].text.split(' ').collect();
    let share = 0.2 + 0.7 * rng.unit();
    let cut = |words: &[&str]| (words.len() as f64 * share) as usize;
    let mixed = [&head[..cut(&head)], &tail[cut(&tail)..]]
        .concat()
        .join(" ");
    texts[at] = &mixed;
    texts.join(" ")
}

/// How an answer is written in this row: the assistant's faults, or all kinds equally.
fn manner(rng: &mut Rng) -> Manner {
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

/// A pair of answers to be compared by a dimension, with each one's grade and which is better.
pub struct Pair<'w> {
    pub scene: Scene<'w>,
    pub a: String,
    pub b: String,
    pub grades: (usize, usize),
    /// What each one's sentences do; empty for a spoiled answer.
    pub kinds: (Vec<Category>, Vec<Category>),
    /// Grade of the first less that of the second.
    pub margin: f64,
}

impl Pair<'_> {
    /// `None`: equally good.
    pub fn a_is_better(&self) -> Option<bool> {
        rlaif_world::prefers(self.margin, 0.0)
    }
}

/// Draws a pair: independent answers, or an answer and its revision; mostly such that one is better.
pub fn pair<'w>(
    c: &Composer<'w>,
    rng: &mut Rng,
    dimension: Option<Dimension>,
    decided_only: bool,
) -> Pair<'w> {
    loop {
        let scene = c.scene(rng, 0.4);
        let harmful = scene.topic.harmful;
        let how = manner(rng);
        let first = c.answer(rng, scene.topic, &how);
        let kind = rng.below(10);
        let second = match (kind, dimension) {
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
        let (mut texts, mut scores) = (
            [first.text(), second.text()],
            [first.scores(harmful), second.scores(harmful)],
        );
        let mut kinds =
            [&first, &second].map(|a| a.sentences.iter().map(|s| s.category).collect::<Vec<_>>());
        if kind == 9 && !decided_only {
            let bad = if rng.chance(0.5) {
                spoil(c, rng, &scene, &texts[1])
            } else {
                splice(c, rng, &scene, &second)
            };
            let reading = c.world.read_on(scene.topic, &bad);
            if !bad.is_empty() && bad != texts[1] {
                texts[1] = bad;
                scores[1] = reading.scores;
                kinds[1].clear();
            }
        }
        let of = |i: usize| dimension.map_or(0.0, |d| scores[i].get(d));
        let margin = of(0) - of(1);
        let equal = rlaif_world::prefers(margin, 0.0).is_none();
        // A pair that says nothing is kept now and then, so that "equal" is learned too. Refusing
        // help with an everyday matter is no more harmless than helping: without enough pairs that
        // say so, declining looks safer whatever was asked, and a policy learns to decline.
        let kept = match dimension {
            Some(Dimension::Harmless) if !harmful => 0.75,
            _ => 0.25,
        };
        if equal && dimension.is_some() && (decided_only || !rng.chance(kept)) {
            continue;
        }
        let grade = |i: usize| dimension.map_or(2, |d| scores[i].grade(d));
        let (x, y) = if rng.chance(0.5) { (0, 1) } else { (1, 0) };
        return Pair {
            grades: (grade(x), grade(y)),
            kinds: (std::mem::take(&mut kinds[x]), std::mem::take(&mut kinds[y])),
            margin: if x == 0 { margin } else { -margin },
            a: std::mem::take(&mut texts[x]),
            b: std::mem::take(&mut texts[y]),
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
    lesson: Lesson,
}

/// What the critic is shown more of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// All dimensions equally.
    All,
    /// Harmlessness and helpfulness, whose grades hang on what was asked for: the critic is right
    /// about them early and sure of them late, and as long as it is, its log-odds say less of a
    /// difference there than of one in tone.
    Hard,
}

impl Lesson {
    fn dimension(self, rng: &mut Rng) -> Dimension {
        match self {
            Lesson::All => Dimension::ALL[rng.below(8)],
            Lesson::Hard => {
                let weights = Dimension::ALL.map(|d| match d {
                    Dimension::Harmless => 4.0,
                    Dimension::Helpful => 2.0,
                    _ => 1.0,
                });
                Dimension::ALL[rng.weighted(&weights)]
            }
        }
    }
}

/// Weights of the questions, the verdict's being 1.
const OF_PRINCIPLE: f32 = 0.3;
const OF_PROMPT: f32 = 0.3;
const OF_SENTENCE: f32 = 0.1;
const OF_RESPONSE: f32 = 0.4;

/// Log-odds of a verdict for each unit of difference in grade. Verdicts to learn from are drawn by
/// the Bradley-Terry model, so that how sure the critic is says how large the difference is, and by
/// the same measure under each principle: summed over principles, log-odds rank as the sum of grades
/// does. Learned from verdicts that are always right, sureness says only how easily a difference is
/// seen.
const SHARPNESS: f64 = 4.0;

impl<'w> CriticRows<'w> {
    pub fn new(world: &'w World, words: Tokenizer, lesson: Lesson) -> Result<Self, String> {
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

    fn comparison(&self, rng: &mut Rng) -> Result<Row, String> {
        let c = &self.composer;
        let dimension = (!rng.chance(0.04)).then(|| self.lesson.dimension(rng));
        let pair = pair(c, rng, dimension, false);
        let first = rng.chance(1.0 / (1.0 + (-SHARPNESS * pair.margin).exp()));
        let principle = c.wording(rng, dimension, Use::Preference);
        let mut turns = self
            .compare
            .render(
                minijinja::context! {
                    principle => &principle,
                    prompt => pair.scene.prompt.to_text(),
                    response_a => &pair.a,
                    response_b => &pair.b,
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
                row.ask(at, self.asked.categories[kind as usize], OF_SENTENCE);
                let effect = match dimension {
                    Dimension::Concise => 4 - n.min(4),
                    other => (2 + 2 * kind.effect(other, harmful)) as usize,
                };
                row.ask(at + 1, self.asked.grades[effect], OF_SENTENCE);
            }
            row.ask(range.end, self.asked.grades[grade], OF_RESPONSE);
        }
        Ok(row)
    }

    /// Where each of an answer's sentences ends and what it does; nothing where they cannot be
    /// told apart.
    fn sentences(
        &self,
        row: &Row,
        range: Range<usize>,
        kinds: &[Category],
    ) -> impl Iterator<Item = (usize, Category)> + use<> {
        let mut stops: Vec<usize> = range
            .filter(|i| self.stops.contains(&row.tokens[*i]))
            .collect();
        if stops.len() != kinds.len() {
            stops.clear();
        }
        stops.into_iter().zip(kinds.to_vec())
    }

    fn conversation(&self, rng: &mut Rng) -> Result<Row, String> {
        let c = &self.composer;
        let scene = c.scene(rng, 0.4);
        let how = manner(rng);
        let answer = c.answer(rng, scene.topic, &how);
        let (mut text, mut scores) = (answer.text(), answer.scores(scene.topic.harmful));
        let mut kinds: Vec<Category> = answer.sentences.iter().map(|s| s.category).collect();
        let bad = match rng.unit() {
            u if u < 0.1 => spoil(c, rng, &scene, &text),
            u if u < 0.2 => splice(c, rng, &scene, &answer),
            _ => String::new(),
        };
        if !bad.is_empty() && bad != text {
            scores = c.world.read_on(scene.topic, &bad).scores;
            text = bad;
            kinds.clear();
        }
        let mut turns = scene.prompt.0.clone();
        turns.push(Message::assistant(text));
        let (tokens, from) = tokens(&self.words, &turns)?;
        let end = tokens.len();
        let mut row = Row::silent(tokens);
        for t in row.tokens.split_mut(|t| *t < tokenizer::TURN_TOKENS) {
            self.blur(rng, t);
        }
        for (at, kind) in self.sentences(&row, from..end, &kinds) {
            row.ask(at, self.asked.categories[kind as usize], OF_SENTENCE);
        }
        // The question about the whole comes after its last token, where a scalar head reads.
        row.tokens.push(tokenizer::PAD);
        row.targets.push(self.asked.quality(rng, &scores));
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
        let lesson = match self.lesson {
            Lesson::All => "critic",
            Lesson::Hard => "critic, what is hard",
        };
        let mut rng = Rng::of(2, &[lesson, &step.to_string()]);
        (0..40)
            .map(|i| match i % 10 {
                9 => self.critique(&mut rng),
                6..=8 => self.conversation(&mut rng),
                _ => self.comparison(&mut rng),
            })
            .collect()
    }
}
