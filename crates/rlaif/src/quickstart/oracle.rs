//! The embedded world's oracle as an evaluator: known truth on completions, and on labels.

use std::collections::BTreeMap;

use rlaif_core::seed;
use rlaif_core::{Constitution, Judgment, Prompt, Verdict};
use rlaif_eval::Proportion;
use rlaif_world::{Annotator, Dimension, Reading, World, prefers};

use crate::error::Error;
use crate::evaluation::{Evaluator, Rater};

/// Reads completions of the embedded world and grades them under a constitution.
pub struct Oracle {
    world: &'static World,
    /// Σ weight of the principles that declare a dimension.
    weights: Vec<(Dimension, f64)>,
    /// Dimension of a principle, by id.
    of: BTreeMap<String, Dimension>,
}

/// The evaluator's name in files.
pub const NAME: &str = "oracle";
/// The number by which policies are compared.
pub const UTILITY: &str = "utility";

impl Oracle {
    /// An oracle for the principles' declared dimensions.
    ///
    /// # Errors
    /// [`Error::Input`] for a dimension that the world does not know.
    pub fn new(constitution: &Constitution) -> Result<Self, Error> {
        let world = World::load().map_err(|e| Error::input(e, "this is a fault of the program"))?;
        let mut weights: BTreeMap<Dimension, f64> = BTreeMap::new();
        let mut of = BTreeMap::new();
        for p in &constitution.principles {
            let Some(name) = &p.dimension else { continue };
            let dimension = Dimension::of(name).ok_or_else(|| {
                let known: Vec<&str> = Dimension::ALL.iter().map(|d| d.name()).collect();
                Error::input(
                    format!("principle `{}` declares the dimension `{name}`", p.id),
                    format!("the embedded world knows {}", known.join(", ")),
                )
            })?;
            *weights.entry(dimension).or_default() += p.weight;
            of.insert(p.id.clone(), dimension);
        }
        Ok(Oracle {
            world,
            weights: weights.into_iter().collect(),
            of,
        })
    }

    /// Weights of the dimensions that the constitution names.
    #[must_use]
    pub fn weights(&self) -> &[(Dimension, f64)] {
        &self.weights
    }

    /// Reads a completion.
    #[must_use]
    pub fn read(&self, prompt: &Prompt, completion: &str) -> Reading {
        self.world.read(prompt, completion)
    }

    /// Which response is the better one by the judgment's own principle, or by the whole constitution
    /// where it has none; [`Verdict::Tie`] where they are equally good, `None` for a principle without
    /// a dimension.
    #[must_use]
    pub fn label(&self, judgment: &Judgment) -> Option<Verdict> {
        let Some(principle) = &judgment.principle else {
            let (a, b) = (&judgment.response_a, &judgment.response_b);
            return Some(verdict(self.prefers(&judgment.prompt, a, b)));
        };
        let dimension = *self.of.get(principle)?;
        let grade = |text: &str| self.read(&judgment.prompt, text).scores.get(dimension);
        Some(verdict(prefers(
            grade(&judgment.response_a),
            grade(&judgment.response_b),
        )))
    }

    /// Whether the first of two completions is better under the whole constitution.
    #[must_use]
    pub fn prefers(&self, prompt: &Prompt, a: &str, b: &str) -> Option<bool> {
        let utility = |text: &str| self.read(prompt, text).scores.utility(&self.weights);
        prefers(utility(a), utility(b))
    }
}

/// Simulated people who label pairs: one drawn for each pair, as in a pool that shares the work.
pub struct Crowd {
    people: Vec<Annotator>,
    seed: u64,
}

impl Oracle {
    /// The simulated annotators of this constitution.
    #[must_use]
    pub fn crowd(&self, seed: u64) -> Crowd {
        Crowd {
            people: Annotator::pool(&self.weights, seed),
            seed,
        }
    }
}

impl Crowd {
    fn person(&self, id: &str) -> usize {
        let drawn = seed::derive(self.seed, &["annotator", id]);
        seed::index(drawn, self.people.len()).unwrap_or(0)
    }

    /// Whether the person to whom the pair falls prefers its first response.
    #[must_use]
    pub fn prefers_first(&self, oracle: &Oracle, j: &Judgment) -> bool {
        self.ask(oracle, j, 0, &j.id)
    }

    /// The verdict of the `next`th person after the pair's own; another `item` is another occasion.
    fn ask(&self, oracle: &Oracle, j: &Judgment, next: usize, item: &str) -> bool {
        let read = |text: &str| oracle.read(&j.prompt, text).scores;
        let who = &self.people[(self.person(&j.id) + next) % self.people.len()];
        who.prefers_first(&read(&j.response_a), &read(&j.response_b), self.seed, item)
    }
}

fn verdict(first: Option<bool>) -> Verdict {
    match first {
        Some(true) => Verdict::A,
        Some(false) => Verdict::B,
        None => Verdict::Tie,
    }
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

impl Evaluator for Oracle {
    fn name(&self) -> &str {
        NAME
    }

    /// Each dimension's grade in [−1, 1]; `utility`; and as shares: `harmful` (of all answers),
    /// `helpful` (of answers to prompts that ask for nothing harmful), `malformed`.
    fn measure(&self, prompt: &Prompt, completion: &str, _policy: &str) -> BTreeMap<String, f64> {
        let reading = self.read(prompt, completion);
        let mut numbers: BTreeMap<String, f64> = Dimension::ALL
            .iter()
            .map(|d| (d.name().to_owned(), reading.scores.get(*d)))
            .collect();
        numbers.insert(UTILITY.into(), reading.scores.utility(&self.weights));
        numbers.insert("malformed".into(), flag(reading.malformed));
        numbers.insert(
            "harmful".into(),
            flag(!reading.malformed && reading.scores.get(Dimension::Harmless) < 0.0),
        );
        if self.world.topic_of(prompt).is_some_and(|t| !t.harmful) {
            let helps = reading.scores.get(Dimension::Helpful) > 0.0;
            numbers.insert("helpful_rate".into(), flag(helps));
        }
        numbers
    }

    fn label(&self, judgment: &Judgment) -> Option<f64> {
        match Oracle::label(self, judgment)? {
            Verdict::A => Some(1.0),
            Verdict::B => Some(0.0),
            Verdict::Tie => Some(0.5),
            Verdict::Unparseable => None,
        }
    }

    fn raters(&self, labeled: &[Judgment], seed: u64) -> Vec<Rater> {
        let crowd = self.crowd(seed);
        let asked: Vec<[bool; 3]> = labeled
            .iter()
            .map(|j| {
                let again = format!("{} again", j.id);
                [(0, j.id.as_str()), (0, &again), (1, &j.id)]
                    .map(|(next, item)| crowd.ask(self, j, next, item))
            })
            .collect();
        let right = labeled.iter().zip(&asked).filter_map(|(j, said)| {
            let truth = self.prefers(&j.prompt, &j.response_a, &j.response_b)?;
            Some(said[0] == truth)
        });
        vec![Rater {
            who: format!("{} simulated people", crowd.people.len()),
            with_itself: Proportion::of(asked.iter().map(|said| said[0] == said[1])),
            with_another: Proportion::of(asked.iter().map(|said| said[0] == said[2])),
            right: Proportion::of(right),
        }]
    }

    fn compares_by(&self) -> Option<&str> {
        (!self.weights.is_empty()).then_some(UTILITY)
    }
}
