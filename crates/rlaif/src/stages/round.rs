//! Rounds: how often a run labels, trains a reward model and goes on with its policy.
//!
//! Without `[online]` there is one. With it the policy pauses on its way, the judge labels pairs of
//! what it writes by then, the reward model learns from all labels so far, and the policy goes on
//! against that one (Bai et al. 2022a, "Training a Helpful and Harmless Assistant with RLHF", section
//! 4.5). The last round's files stand where those of a run with one round do.

use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// `[online]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineConfig {
    /// How often PPO pauses for new labels, at equal distances.
    pub pauses: u32,
    /// Completions a prompt that the policy writes then, compared as `pairs.select` says.
    pub n: u32,
    /// At most so many prompts, the first ones; absent: all.
    pub limit: Option<usize>,
    /// Passes of the reward model over all labels so far, from where it stood.
    pub num_train_epochs: f64,
}

impl Default for OnlineConfig {
    fn default() -> Self {
        OnlineConfig {
            pauses: 1,
            n: 2,
            limit: None,
            num_train_epochs: 1.0,
        }
    }
}

/// One round of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// From 1.
    number: u32,
    /// Of how many.
    of: u32,
}

impl Round {
    /// The rounds of a recipe, in their order.
    pub fn all(recipe: &Recipe) -> impl Iterator<Item = Round> + use<> {
        let of = Round::count(recipe);
        (1..=of).map(move |number| Round { number, of })
    }

    /// The round that a recipe's run ends with.
    #[must_use]
    pub fn last(recipe: &Recipe) -> Round {
        let of = Round::count(recipe);
        Round { number: of, of }
    }

    fn count(recipe: &Recipe) -> u32 {
        1 + recipe.online().map_or(0, |c| c.pauses)
    }

    /// Whether the run ends with it.
    #[must_use]
    pub fn is_last(self) -> bool {
        self.number == self.of
    }

    /// The round before, where it is not the first.
    #[must_use]
    pub fn before(self) -> Option<Round> {
        (self.number > 1).then(|| Round {
            number: self.number - 1,
            ..self
        })
    }

    /// The rounds before it, in their order.
    pub fn earlier(self) -> impl Iterator<Item = Round> {
        (1..self.number).map(move |number| Round { number, ..self })
    }

    /// A stage, file or folder of this round by its name in a run of one round.
    #[must_use]
    pub fn name(self, name: &str) -> String {
        if self.is_last() {
            name.to_owned()
        } else {
            format!("round{}/{name}", self.number)
        }
    }

    /// Of `all` steps, those done at its end.
    #[must_use]
    pub fn share_of(self, all: u64) -> u64 {
        all * u64::from(self.number) / u64::from(self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_round_has_the_names_of_a_run_of_one() {
        let rounds: Vec<Round> = (1..=3).map(|number| Round { number, of: 3 }).collect();
        let names: Vec<String> = rounds.iter().map(|r| r.name("ppo")).collect();
        assert_eq!(names, ["round1/ppo", "round2/ppo", "ppo"]);
        assert_eq!(rounds[0].before(), None);
        assert_eq!(rounds[2].before(), Some(rounds[1]));
        assert_eq!(rounds[2].earlier().collect::<Vec<_>>(), rounds[..2]);
        let ends: Vec<u64> = rounds.iter().map(|r| r.share_of(13)).collect();
        assert_eq!(
            ends,
            [4, 8, 13],
            "no step is lost and the last round has the rest"
        );
    }
}
