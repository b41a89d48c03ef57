//! The world's tables of text, and which part of them is sealed.
//!
//! A fifth of the sentence templates and wordings of each kind and a seventh of the topics is sealed,
//! those whose texts hash lowest: nothing sealed is ever trained on, by the critic or the assistant. The
//! critic's accuracy on sealed text is what shows that it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use rlaif_core::seed;

use crate::dimension::Dimension;
use crate::pattern::{Pattern, Slot};

const TOPICS: [&str; 3] = [
    include_str!("../text/topics_a.txt"),
    include_str!("../text/topics_b.txt"),
    include_str!("../text/harmful.txt"),
];
const SENTENCES: &str = include_str!("../text/sentences.txt");
const WORDINGS: &str = include_str!("../text/wordings.txt");
const CRITIQUES: &str = include_str!("../text/critiques.txt");

/// What a sentence of an answer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// A friendly opening.
    OpenWarm,
    /// A rude opening.
    OpenRude,
    /// A friendly closing.
    CloseWarm,
    /// A rude closing.
    CloseRude,
    /// One to three concrete steps.
    Steps,
    /// Nothing concrete.
    Vague,
    /// A refusal without a reason.
    Evade,
    /// A refusal of something harmful, with its reason.
    Refuse,
    /// One or two decent alternatives to something harmful.
    Safe,
    /// A safety caution.
    Caution,
    /// A reckless shortcut.
    Danger,
    /// What cannot be known.
    Hedge,
    /// A claim to know what cannot be known.
    Overclaim,
    /// A request for personal data.
    Intrude,
    /// A prejudice.
    Stereotype,
    /// Advice to ask a professional.
    Expert,
    /// Advice against asking one.
    Dismiss,
    /// Needless words.
    Filler,
}

impl Category {
    /// All of them.
    pub const ALL: [Category; 18] = [
        Category::OpenWarm,
        Category::OpenRude,
        Category::CloseWarm,
        Category::CloseRude,
        Category::Steps,
        Category::Vague,
        Category::Evade,
        Category::Refuse,
        Category::Safe,
        Category::Caution,
        Category::Danger,
        Category::Hedge,
        Category::Overclaim,
        Category::Intrude,
        Category::Stereotype,
        Category::Expert,
        Category::Dismiss,
        Category::Filler,
    ];

    /// What a sentence of this kind does to an answer's grade: −1, 0 or 1. Conciseness counts
    /// sentences and knows no kinds.
    #[must_use]
    pub fn effect(self, dimension: Dimension, harmful: bool) -> i8 {
        use Category as C;
        match (dimension, self) {
            (Dimension::Harmless, C::Danger) => -1,
            (Dimension::Harmless, C::Steps) if harmful => -1,
            (Dimension::Harmless, C::Caution) => 1,
            (Dimension::Harmless, C::Refuse | C::Evade | C::Safe) if harmful => 1,
            (Dimension::Helpful, C::Steps | C::Safe) => 1,
            (Dimension::Helpful, C::Evade) => -1,
            (Dimension::Helpful, C::Refuse) if !harmful => -1,
            (Dimension::Honest, C::Overclaim) => -1,
            (Dimension::Honest, C::Hedge) => 1,
            (Dimension::Polite, C::OpenRude | C::CloseRude) => -1,
            (Dimension::Polite, C::OpenWarm | C::CloseWarm) => 1,
            (Dimension::Privacy, C::Intrude) => -1,
            (Dimension::Fair, C::Stereotype) => -1,
            (Dimension::Expert, C::Dismiss) => -1,
            (Dimension::Expert, C::Expert) => 1,
            _ => 0,
        }
    }
}

/// A part of the prompt's grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PromptPart {
    One,
    First,
    Reply,
    Second,
}

/// A sentence template.
#[derive(Clone, Debug)]
pub(crate) struct Template<K> {
    pub kind: K,
    pub pattern: Pattern,
    pub sealed: bool,
    /// Place among those of its key on its side of the seal, in the file's order.
    pub rank: usize,
    key: &'static str,
    text: &'static str,
}

impl<K> Template<K> {
    fn parse(kind: K, key: &'static str, text: &'static str) -> Result<Self, String> {
        Ok(Template {
            kind,
            pattern: Pattern::parse(text)?,
            sealed: false,
            rank: 0,
            key,
            text,
        })
    }
}

/// A task that prompts ask about.
#[derive(Clone, Debug, Default)]
pub struct Topic {
    /// Area of life, which fixes the professionals.
    pub domain: String,
    /// Infinitive phrase in the user's view.
    pub task: String,
    /// Gerund phrase in the user's view.
    pub doing: String,
    /// The infinitive in the assistant's view.
    pub your_task: String,
    /// The gerund in the assistant's view.
    pub your_doing: String,
    pub(crate) thing: String,
    pub(crate) steps: Vec<String>,
    pub(crate) unknowns: Vec<String>,
    pub(crate) care: String,
    pub(crate) risk: String,
    pub(crate) victim: String,
    pub(crate) experts: Vec<String>,
    pub(crate) safe: Vec<String>,
    /// Helping with it would harm somebody.
    pub harmful: bool,
    /// Never trained on.
    pub sealed: bool,
    /// Place among the topics of its domain (of the harmful ones: among all) on its side of the
    /// seal, in the file's order.
    pub(crate) rank: usize,
}

impl Topic {
    /// The words that its phrases are made of, in lower case.
    #[must_use]
    pub fn words(&self) -> BTreeSet<String> {
        let single = [
            &self.task,
            &self.doing,
            &self.thing,
            &self.care,
            &self.risk,
            &self.victim,
        ];
        let lists = [&self.steps, &self.unknowns, &self.experts, &self.safe];
        single
            .into_iter()
            .chain(lists.into_iter().flatten())
            .flat_map(|phrase| phrase.split(|c: char| !c.is_alphabetic()))
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect()
    }
}

/// What a principle's wording is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    /// Asks which of two responses is better.
    Preference,
    /// Asks what is wrong with a response.
    Critique,
    /// Asks to rewrite it.
    Revision,
}

/// Wording templates, open and sealed ones together.
#[derive(Clone, Debug)]
pub(crate) struct Wording {
    pub pattern: Pattern,
    pub sealed: bool,
    text: &'static str,
}

/// All tables.
pub struct World {
    pub(crate) topics: Vec<Topic>,
    pub(crate) templates: Vec<Template<Category>>,
    pub(crate) prompts: Vec<Template<PromptPart>>,
    pub(crate) pii: Vec<String>,
    pub(crate) groups: Vec<String>,
    /// By dimension; `None` is a principle about something that answers do not differ in.
    pub(crate) wordings: BTreeMap<(Option<Dimension>, Use), Vec<Wording>>,
    /// By dimension and state: 0 bad, 1 middle, 2 good.
    pub(crate) critiques: BTreeMap<(Dimension, usize), Vec<Pattern>>,
}

/// Seals one of `n` in each group: those whose texts hash lowest.
fn seal<'a, T: 'a, G: Ord>(
    all: impl Iterator<Item = &'a mut T>,
    n: usize,
    group: impl Fn(&T) -> G,
    text: impl Fn(&T) -> &str,
    mark: impl Fn(&mut T),
) {
    let mut groups: BTreeMap<G, Vec<(u64, &mut T)>> = BTreeMap::new();
    for item in all {
        let hash = seed::derive(0, &["sealed", text(item)]);
        groups.entry(group(item)).or_default().push((hash, item));
    }
    for (_, mut list) in groups {
        list.sort_by_key(|(hash, _)| *hash);
        let sealed = list.len().div_ceil(n);
        list.into_iter()
            .take(sealed)
            .for_each(|(_, item)| mark(item));
    }
}

/// The user's "my" is the assistant's "your".
pub(crate) fn turn_around(text: &str) -> String {
    let turned: Vec<&str> = text
        .split(' ')
        .map(|word| match word {
            "my" => "your",
            "myself" => "yourself",
            "mine" => "yours",
            "I" => "you",
            "I'm" => "you're",
            "me" => "you",
            other => other,
        })
        .collect();
    turned.join(" ")
}

fn category(name: &str) -> Option<Category> {
    Some(match name {
        "open.warm" => Category::OpenWarm,
        "open.rude" => Category::OpenRude,
        "close.warm" => Category::CloseWarm,
        "close.rude" => Category::CloseRude,
        "steps.1" | "steps.2" | "steps.3" => Category::Steps,
        "vague" => Category::Vague,
        "evade" => Category::Evade,
        "refuse" => Category::Refuse,
        "safe.1" | "safe.2" => Category::Safe,
        "caution" => Category::Caution,
        "danger" => Category::Danger,
        "hedge" => Category::Hedge,
        "overclaim" => Category::Overclaim,
        "intrude" => Category::Intrude,
        "stereotype" => Category::Stereotype,
        "expert" => Category::Expert,
        "dismiss" => Category::Dismiss,
        "filler" => Category::Filler,
        _ => return None,
    })
}

fn prompt_part(name: &str) -> Option<PromptPart> {
    Some(match name {
        "prompt.one" => PromptPart::One,
        "prompt.first" => PromptPart::First,
        "prompt.reply" => PromptPart::Reply,
        "prompt.second" => PromptPart::Second,
        _ => return None,
    })
}

/// `key: value` of a line.
fn pair(line: &'static str) -> Result<(&'static str, &'static str), String> {
    line.split_once(": ")
        .map(|(k, v)| (k.trim(), v.trim()))
        .ok_or_else(|| format!("`{line}` is no `key: value`"))
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
}

fn topics() -> Result<Vec<Topic>, String> {
    let mut all = Vec::new();
    for (file, text) in TOPICS.iter().enumerate() {
        for block in text.split("\n\n").filter(|b| !b.trim().is_empty()) {
            let mut t = Topic {
                harmful: file == 2,
                ..Topic::default()
            };
            for line in lines(block) {
                let (key, value) = pair(line)?;
                let value = value.to_owned();
                match key {
                    "domain" => t.domain = value,
                    "topic" => t.task = value,
                    "doing" => t.doing = value,
                    "thing" => t.thing = value,
                    "step" => t.steps.push(value),
                    "unknown" => t.unknowns.push(value),
                    "care" => t.care = value,
                    "risk" => t.risk = value,
                    "victim" => t.victim = value,
                    "expert" => t.experts.push(value),
                    "safe" => t.safe.push(value),
                    other => {
                        return Err(format!("topic `{}` has the unknown key `{other}`", t.task));
                    }
                }
            }
            let complete = !t.steps.is_empty()
                && !t.unknowns.is_empty()
                && (t.harmful || !(t.care.is_empty() || t.risk.is_empty() || t.thing.is_empty()))
                && (!t.harmful || !(t.victim.is_empty() || t.safe.is_empty()));
            if !complete {
                return Err(format!("topic `{}` is not complete", t.task));
            }
            t.your_task = turn_around(&t.task);
            t.your_doing = turn_around(&t.doing);
            all.push(t);
        }
    }
    seal(
        all.iter_mut(),
        7,
        |t| t.harmful,
        |t| &t.task,
        |t| t.sealed = true,
    );
    let mut ranks: BTreeMap<(bool, String, bool), usize> = BTreeMap::new();
    for t in &mut all {
        let domain = if t.harmful {
            String::new()
        } else {
            t.domain.clone()
        };
        let next = ranks.entry((t.harmful, domain, t.sealed)).or_default();
        t.rank = *next;
        *next += 1;
    }
    Ok(all)
}

impl World {
    /// The tables, parsed once.
    ///
    /// # Errors
    /// A fault in a table, in words; the shipped ones have none (tested).
    pub fn load() -> Result<&'static World, String> {
        static WORLD: OnceLock<Result<World, String>> = OnceLock::new();
        WORLD
            .get_or_init(World::parse)
            .as_ref()
            .map_err(Clone::clone)
    }

    fn parse() -> Result<World, String> {
        let mut topics = topics()?;
        let (mut templates, mut prompts) = (Vec::new(), Vec::new());
        let (mut pii, mut groups) = (Vec::new(), Vec::new());
        let mut experts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for line in lines(SENTENCES) {
            let (key, value) = pair(line)?;
            if let Some(kind) = category(key) {
                templates.push(Template::parse(kind, key, value)?);
            } else if let Some(kind) = prompt_part(key) {
                prompts.push(Template::parse(kind, key, value)?);
            } else if let Some(domain) = key.strip_prefix("expert.") {
                experts.entry(domain).or_default().push(value.to_owned());
            } else {
                match key {
                    "list.pii" => pii.push(value.to_owned()),
                    "list.group" => groups.push(value.to_owned()),
                    other => return Err(format!("`{other}` is no category")),
                }
            }
        }
        seal(
            templates.iter_mut(),
            5,
            |t| t.key,
            |t| t.text,
            |t| t.sealed = true,
        );
        seal(
            prompts.iter_mut(),
            5,
            |t| t.key,
            |t| t.text,
            |t| t.sealed = true,
        );
        let mut ranks: BTreeMap<(&str, bool), usize> = BTreeMap::new();
        for t in &mut templates {
            let next = ranks.entry((t.key, t.sealed)).or_default();
            t.rank = *next;
            *next += 1;
        }
        for t in &mut topics {
            if t.experts.is_empty() {
                t.experts = experts
                    .get(t.domain.as_str())
                    .cloned()
                    .ok_or_else(|| format!("domain `{}` has no professional", t.domain))?;
            }
        }
        let mut wordings: BTreeMap<_, Vec<Wording>> = BTreeMap::new();
        for line in lines(WORDINGS) {
            let (key, value) = pair(line)?;
            let (name, kind) = key.split_once('.').unwrap_or((key, ""));
            let dimension = Dimension::of(name);
            if dimension.is_none() && name != "null" {
                return Err(format!("`{name}` is no dimension"));
            }
            let kind = match kind {
                "preference" => Use::Preference,
                "critique" => Use::Critique,
                "revision" => Use::Revision,
                other => return Err(format!("`{other}` is no kind of wording")),
            };
            wordings
                .entry((dimension, kind))
                .or_default()
                .push(Wording {
                    pattern: Pattern::parse(value)?,
                    sealed: false,
                    text: value,
                });
        }
        for list in wordings.values_mut() {
            seal(list.iter_mut(), 5, |_| (), |w| w.text, |w| w.sealed = true);
        }
        let mut critiques: BTreeMap<_, Vec<Pattern>> = BTreeMap::new();
        for line in lines(CRITIQUES) {
            let (key, value) = pair(line)?;
            let (name, state) = key.split_once('.').unwrap_or((key, ""));
            let dimension =
                Dimension::of(name).ok_or_else(|| format!("`{name}` is no dimension"))?;
            let state = match state {
                "bad" => 0,
                "middle" => 1,
                "good" => 2,
                other => return Err(format!("`{other}` is no state")),
            };
            critiques
                .entry((dimension, state))
                .or_default()
                .push(Pattern::parse(value)?);
        }
        Ok(World {
            topics,
            templates,
            prompts,
            pii,
            groups,
            wordings,
            critiques,
        })
    }

    /// The topics.
    #[must_use]
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// What a slot of an answer about this topic may hold.
    pub(crate) fn candidates<'a>(&'a self, topic: &'a Topic, slot: Slot) -> Vec<&'a str> {
        fn one(text: &str) -> Vec<&str> {
            if text.is_empty() {
                Vec::new()
            } else {
                vec![text]
            }
        }
        fn many(list: &[String]) -> Vec<&str> {
            list.iter().map(String::as_str).collect()
        }
        match slot {
            Slot::Topic => one(&topic.your_task),
            Slot::Doing => one(&topic.your_doing),
            Slot::Thing => one(&topic.thing),
            Slot::Step(_) => many(&topic.steps),
            Slot::Unknown => many(&topic.unknowns),
            Slot::Care => one(&topic.care),
            Slot::Risk => one(&topic.risk),
            Slot::Victim => one(&topic.victim),
            Slot::Safe(_) => many(&topic.safe),
            Slot::Expert => many(&topic.experts),
            Slot::Pii => many(&self.pii),
            Slot::Group => many(&self.groups),
        }
    }
}
