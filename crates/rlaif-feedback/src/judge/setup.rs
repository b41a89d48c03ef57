//! A judge before it is asked: its models, principles, templates and settings, and whether they go
//! together.

use rlaif_core::{Constitution, Model, Principle, seed};

use super::config::{Exemplar, JudgeConfig, Method, Orders, Principles, Rationale};
use super::settings;
use crate::error::FeedbackError;
use crate::score::Scorer;
use crate::shorten::Room;
use crate::template::{Purpose, Template, VerdictForm};

/// Everything a judgment needs beside the pair.
pub struct Judge {
    /// The judge.
    pub model: Model,
    /// The principles.
    pub constitution: Constitution,
    /// How to judge.
    pub config: JudgeConfig,
    /// The run's seed.
    pub seed: u64,
    pub(super) jury: Vec<(Model, f64)>,
    pub(super) exemplars: Vec<Exemplar>,
    pub(super) pair: Template,
    pub(super) reason_after: Template,
    pub(super) scorer: Option<Scorer>,
    pub(super) whole_is_inverted: bool,
    /// Hash of the constitution as it was given: every label holds it.
    pub(super) constitution_hash: String,
}

impl Judge {
    /// A judge with a pair template of the caller's, or the shipped one that the configuration
    /// names.
    ///
    /// # Errors
    /// [`FeedbackError::Template`]; [`FeedbackError::Settings`] for settings that contradict each
    /// other.
    pub fn new(
        model: Model,
        constitution: Constitution,
        config: JudgeConfig,
        pair: Option<Template>,
        seed: u64,
    ) -> Result<Self, FeedbackError> {
        let pair = match pair {
            Some(template) => template,
            None => Template::shipped(&config.template, Purpose::Pair)?,
        };
        Judge::check(&config, &constitution, &pair)?;
        let whole_is_inverted = constitution.principles.iter().all(|p| p.inverted);
        let scorer = match config.method {
            Method::Compare => None,
            Method::Score => Some(Scorer::new(
                model.clone(),
                constitution.clone(),
                config.clone(),
                None,
                seed,
            )?),
        };
        Ok(Judge {
            constitution_hash: constitution.hash(),
            model,
            constitution,
            config,
            seed,
            jury: Vec::new(),
            exemplars: Vec::new(),
            pair,
            reason_after: Template::shipped("reason_after", Purpose::ReasonAfter)?,
            scorer,
            whole_is_inverted,
        })
    }

    /// Whether the settings, the constitution and the template go together, before anything is
    /// asked.
    ///
    /// # Errors
    /// [`FeedbackError::Settings`] with what to do.
    pub fn check(
        config: &JudgeConfig,
        constitution: &Constitution,
        pair: &Template,
    ) -> Result<(), FeedbackError> {
        if let Some((key, problem)) = config.faults().into_iter().next() {
            return Err(settings(format!("`{key}` {problem}")));
        }
        let name = pair.name();
        if config.method == Method::Score {
            return Ok(());
        }
        if config.rationale == Rationale::First && !pair.has_reason() {
            return Err(settings(format!(
                "`rationale = \"first\"` needs a template with `[[reason]]` and `[[after_reason]]`, \
                 which `{name}` has not; a judge whose verdict is `\"written\"` gives its reasons \
                 with it"
            )));
        }
        if config.abstain && pair.abstain().is_none() {
            return Err(settings(format!(
                "`abstain = true` needs a template that offers it, as `abstain = [\"(none)\"]` under \
                 `[choices]`; `{name}` does not"
            )));
        }
        if config.principles == Principles::Each && !pair.uses_principle() {
            return Err(settings(format!(
                "`principles = \"each\"` asks by every principle, and the template `{name}` names none \
                 (`{{{{ principle }}}}`); take `whole`"
            )));
        }
        if !config.exemplars.is_empty() && !pair.uses_exemplars() {
            return Err(settings(format!(
                "`exemplars` are given, and the template `{name}` shows none (`{{{{ exemplars }}}}`)"
            )));
        }
        let some = |inverted| {
            constitution
                .principles
                .iter()
                .any(|p| p.inverted == inverted)
        };
        let by_all = config.principles == Principles::Whole && pair.uses_principle();
        if by_all && some(true) && some(false) {
            return Err(settings(
                "some principles ask for the better response and some (`inverted`) for the worse \
                 one, which is no question for `principles = \"whole\"`; take `each` or `sampled`"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Adds the further judges, in the order of `config.jury`, which holds their weights.
    #[must_use]
    pub fn with_jury(mut self, models: Vec<Model>) -> Self {
        let weights = self.config.jury.iter().map(|j| j.weight);
        self.jury = models.into_iter().zip(weights).collect();
        self
    }

    /// Gives the worked examples that a few-shot template shows.
    #[must_use]
    pub fn with_exemplars(mut self, exemplars: Vec<Exemplar>) -> Self {
        self.exemplars = exemplars;
        self
    }

    /// Replaces the template of `method = "score"`.
    ///
    /// # Errors
    /// [`FeedbackError::Settings`] where it cannot serve the configuration.
    pub fn with_score_template(mut self, template: Template) -> Result<Self, FeedbackError> {
        self.scorer = Some(Scorer::new(
            self.model.clone(),
            self.constitution.clone(),
            self.config.clone(),
            Some(template),
            self.seed,
        )?);
        Ok(self)
    }

    /// Calls that one pair takes, at most, retries left out (the reason after a verdict is asked
    /// only where there is one). `principles` counts those of the constitution with weight.
    #[must_use]
    pub fn calls_per_pair(config: &JudgeConfig, principles: usize) -> u32 {
        let views = match config.principles {
            Principles::Each => principles as u32,
            Principles::Sampled | Principles::Whole => 1,
        } * (1 + config.jury.len() as u32);
        if config.method == Method::Score {
            return 2 * views * config.samples;
        }
        let orders = match config.orders {
            Orders::Both => 2,
            Orders::Given => 1,
        };
        match config.rationale {
            Rationale::None => orders * views * config.samples,
            Rationale::After => orders * views * config.samples + 1,
            Rationale::First => 2 * orders * views * config.samples,
        }
    }

    /// SHA-256 of the template by which labels are had, and of the worked examples that it shows:
    /// part of what determines a label.
    #[must_use]
    pub fn template_hash(&self) -> String {
        let template = match &self.scorer {
            Some(scorer) if self.config.method == Method::Score => scorer.template_hash(),
            _ => self.pair.hash(),
        };
        if self.exemplars.is_empty() {
            return template.to_owned();
        }
        let shown = serde_json::to_string(&self.exemplars).unwrap_or_default();
        seed::sha256_hex(format!("{template}{shown}").as_bytes())
    }

    /// All judges with their weights, the first one included.
    pub fn jurors(&self) -> impl Iterator<Item = (&Model, f64)> {
        std::iter::once((&self.model, 1.0)).chain(self.jury.iter().map(|(m, w)| (m, *w)))
    }

    /// Choices that no spelling gives as one token, by the tokenizer that `count` knows.
    #[must_use]
    pub fn long_choices(&self, count: &dyn Fn(&str) -> Option<usize>) -> Vec<String> {
        let choices = match self.pair.verdict() {
            VerdictForm::Scored => self.choices(),
            VerdictForm::Written => Vec::new(),
        };
        choices
            .into_iter()
            .filter(|spellings| !spellings.iter().any(|s| count(s).is_none_or(|n| n == 1)))
            .filter_map(|spellings| spellings.into_iter().next())
            .collect()
    }

    pub(super) fn may_abstain(&self) -> bool {
        self.config.abstain && self.pair.abstain().is_some()
    }

    /// What may be answered: first, second, a tie and an abstention where they are offered.
    pub(super) fn choices(&self) -> Vec<Vec<String>> {
        let mut choices = self.pair.choices().to_vec();
        if let (true, Some(spellings)) = (self.config.abstain, self.pair.abstain()) {
            choices.push(spellings.to_vec());
        }
        choices
    }

    pub(super) fn room(&self) -> Room {
        Room {
            chars: self.config.max_input_chars,
            tokens: self.config.max_input_tokens,
        }
    }

    /// The principles by which an item is judged, with their weights; `None` is the whole
    /// constitution, or the template's own words.
    pub(super) fn principles(&self, item_seed: u64) -> Vec<(Option<&Principle>, f64)> {
        if !self.pair.uses_principle() && self.config.method == Method::Compare {
            return vec![(None, 1.0)];
        }
        self.config.principles.of(&self.constitution, item_seed)
    }
}
