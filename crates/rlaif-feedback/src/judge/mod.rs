//! Judgments: which of two responses follows the constitution better, with what probability.
//!
//! One function, [`judge`]. Each presentation order is read on its own; a pair of orders is
//! combined in log-odds (see [`crate::combine`]), and so are several principles and several judges.
//! A presentation that fails makes its view fail with it: a single order would carry the position
//! bias that the other was to cancel.
//!
//! Sources: Bai et al. 2022, §4.1 (choices, soft labels, chain of thought and its clamp); Lee et
//! al. 2023, §2.1 (both orders, self-consistency); Zheng et al. 2023, §3.4 (ties). Difference:
//! log-odds instead of probabilities are averaged.

mod config;
mod present;
mod verdict;

use futures::future;
use minijinja::context;
use rlaif_core::{
    Constitution, Judgment, Message, Model, Opinion, Outcome, Principle, Probability, Prompt,
    Provenance, Rater, Sampling, Shortened, Usage, seed,
};

use crate::VERSION;
use crate::ask;
use crate::error::FeedbackError;
use crate::score::{self, Scorer};
use crate::shorten::{Room, fit};
use crate::template::{Inserts, Purpose, Template, VerdictForm};
pub use config::{Exemplar, JudgeConfig, Juror, Method, Orders, Principles, Rationale, Ties};
use present::{Pair, Presented, present};

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
    jury: Vec<(Model, f64)>,
    exemplars: Vec<Exemplar>,
    pair: Template,
    reason_after: Template,
    scorer: Option<Scorer>,
    whole_is_inverted: bool,
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

    fn may_abstain(&self) -> bool {
        self.config.abstain && self.pair.abstain().is_some()
    }

    /// What may be answered: first, second, a tie and an abstention where they are offered.
    fn choices(&self) -> Vec<Vec<String>> {
        let mut choices = self.pair.choices().to_vec();
        if let (true, Some(spellings)) = (self.config.abstain, self.pair.abstain()) {
            choices.push(spellings.to_vec());
        }
        choices
    }

    fn room(&self) -> Room {
        Room {
            chars: self.config.max_input_chars,
            tokens: self.config.max_input_tokens,
        }
    }

    /// The principles by which an item is judged, with their weights; `None` is the whole
    /// constitution, or the template's own words.
    fn principles(&self, item_seed: u64) -> Vec<(Option<&Principle>, f64)> {
        if !self.pair.uses_principle() && self.config.method == Method::Compare {
            return vec![(None, 1.0)];
        }
        self.config.principles.of(&self.constitution, item_seed)
    }
}

fn settings(problem: String) -> FeedbackError {
    FeedbackError::Settings { problem }
}

/// What is known of a pair before a judge is asked.
struct Item<'a> {
    id: &'a str,
    seed: u64,
    prompt: &'a Prompt,
    response_a: &'a str,
    response_b: &'a str,
}

/// What a judgment came to.
#[derive(Default)]
struct End {
    p_first: Probability,
    outcome: Option<Outcome>,
    orders_agree: Option<bool>,
    reason: String,
    orders: Vec<rlaif_core::OrderResult>,
    opinions: Vec<Opinion>,
    scores: Vec<f64>,
    shortened: Option<Shortened>,
    usage: Usage,
}

impl Judge {
    fn record(&self, item: &Item<'_>, principle: Option<&Principle>, end: End) -> Judgment {
        Judgment {
            id: item.id.to_owned(),
            prompt: item.prompt.clone(),
            response_a: item.response_a.to_owned(),
            response_b: item.response_b.to_owned(),
            principle: principle.map(|p| p.id.clone()),
            p_first: end.p_first,
            outcome: end.outcome.unwrap_or(Outcome::Failed),
            orders_agree: end.orders_agree,
            reason: end.reason,
            orders: end.orders,
            opinions: end.opinions,
            scores: end.scores,
            shortened: end.shortened,
            rater: Rater::Model(self.model.id().clone()),
            cost: (&end.usage).into(),
            provenance: Some(Provenance {
                model: self.model.id().clone(),
                sampling: None,
                template: self.template_hash(),
                constitution: self.constitution.hash(),
                seed: item.seed,
                version: VERSION.to_owned(),
                lost: end.usage.lost,
            }),
        }
    }
}

/// Judges one pair. `id` names the row.
///
/// # Errors
/// [`FeedbackError::Template`] and [`FeedbackError::Settings`], or [`FeedbackError::Stop`] where
/// asking on is useless. A judgment that fails is a record whose `outcome` says how, without a
/// probability.
pub async fn judge(
    judge: &Judge,
    id: &str,
    prompt: &Prompt,
    response_a: &str,
    response_b: &str,
) -> Result<Judgment, FeedbackError> {
    if judge.jury.len() != judge.config.jury.len() {
        let (named, given) = (judge.config.jury.len(), judge.jury.len());
        return Err(settings(format!(
            "the jury has {named} further judges, and {given} were opened"
        )));
    }
    let item = Item {
        id,
        seed: seed::derive(judge.seed, &["judge", id]),
        prompt,
        response_a,
        response_b,
    };
    let principles = judge.principles(item.seed);
    let only = match principles.as_slice() {
        [(only, _)] => *only,
        _ => None,
    };
    if response_a == response_b {
        // Equal texts tie by definition; whatever a judge said of them would be position bias.
        let end = End {
            p_first: Probability::new(0.5),
            outcome: Some(Outcome::Tie),
            reason: "the responses are identical".into(),
            ..End::default()
        };
        return Ok(judge.record(&item, only, end));
    }
    if alike(judge, &item)? {
        let end = End {
            outcome: Some(Outcome::Abstained),
            reason: "what the judge can be shown of the two responses is identical".into(),
            ..End::default()
        };
        return Ok(judge.record(&item, only, end));
    }
    let end = match judge.config.method {
        Method::Compare => compare(judge, &item, &principles).await?,
        Method::Score => by_scores(judge, &item, &principles).await?,
    };
    Ok(judge.record(&item, only, end))
}

/// One judge's view by one principle, with what a reason needs.
struct View {
    opinion: Opinion,
    messages: Vec<Message>,
    shortened: Option<Shortened>,
    usage: Usage,
}

async fn compare(
    judge: &Judge,
    item: &Item<'_>,
    principles: &[(Option<&Principle>, f64)],
) -> Result<End, FeedbackError> {
    let mut asked = Vec::new();
    for (n, (model, weight)) in judge.jurors().enumerate() {
        for (principle, by) in principles {
            asked.push(view(
                judge,
                item,
                model,
                n,
                *principle,
                weight * by,
                principles.len(),
            ));
        }
    }
    let mut views = Vec::with_capacity(asked.len());
    for view in future::join_all(asked).await {
        views.push(view?);
    }
    let mut end = End::default();
    for view in &views {
        end.usage.add(&view.usage);
        end.shortened = end.shortened.or(view.shortened);
    }
    // The reason of a judgment is in the words of the first judge that has an opinion.
    let first = views
        .iter()
        .position(|v| v.opinion.outcome == Outcome::Decided);
    let (combined, orders) = match views.as_slice() {
        [only] => (
            verdict::of_orders(&judge.config, &only.opinion.orders),
            only.opinion.orders.clone(),
        ),
        several => {
            end.opinions = several.iter().map(|v| v.opinion.clone()).collect();
            verdict::of_opinions(&judge.config, &end.opinions)
        }
    };
    (end.p_first, end.outcome) = (combined.p_first, Some(combined.outcome));
    end.orders_agree = combined.orders_agree;
    let first = first.and_then(|at| views.get(at)).or(views.first());
    let Some(first) = first else { return Ok(end) };
    match (judge.config.rationale, combined.outcome) {
        (Rationale::After, Outcome::Decided) => {
            let first_is_better = combined.p_first.get().is_some_and(|p| p > 0.5);
            let messages = &first.messages;
            let (text, spent) = reason_after(judge, item.id, messages, first_is_better).await?;
            end.usage.add(&spent);
            end.reason = text;
        }
        (Rationale::First, _) => {
            let given = first.opinion.orders.first();
            end.reason = given.map(|o| o.told.rationale.clone()).unwrap_or_default();
        }
        _ => {}
    }
    if judge.pair.verdict() == VerdictForm::Written && end.reason.is_empty() {
        let given = first.opinion.orders.first();
        end.reason = given.map(|o| o.raw.clone()).unwrap_or_default();
    }
    end.orders = orders;
    Ok(end)
}

/// True where two different responses are shown as the same text.
fn alike(judge: &Judge, item: &Item<'_>) -> Result<bool, FeedbackError> {
    if judge.room() == Room::default() {
        return Ok(false);
    }
    let responses = [item.response_a, item.response_b];
    let shown = fit(judge.room(), judge.model.as_ref(), item.prompt, &responses)?;
    Ok(shown.responses.first() == shown.responses.get(1))
}

async fn view(
    judge: &Judge,
    item: &Item<'_>,
    model: &Model,
    juror: usize,
    principle: Option<&Principle>,
    weight: f64,
    principles: usize,
) -> Result<View, FeedbackError> {
    let responses = [item.response_a, item.response_b];
    let shown = fit(judge.room(), model.as_ref(), item.prompt, &responses)?;
    let (response_a, response_b) = match shown.responses.as_slice() {
        [a, b] => (a.as_str(), b.as_str()),
        _ => (item.response_a, item.response_b),
    };
    let standard = standard(&judge.constitution, principle);
    let mut label = String::new();
    if let Some(principle) = principle.filter(|_| principles > 1) {
        label.push_str(&format!(", by {}", principle.id));
    }
    if juror > 0 {
        label.push_str(&format!(", juror {juror}"));
    }
    let pair = Pair {
        id: item.id,
        prompt: &shown.prompt,
        response_a,
        response_b,
        standard: &standard,
        principle,
        model,
        label: &label,
    };
    let given = present(judge, &pair, false);
    let presented: Vec<Presented> = match judge.config.orders {
        Orders::Given => vec![given.await?],
        Orders::Both => {
            let (given, swapped) = future::join(given, present(judge, &pair, true)).await;
            vec![given?, swapped?]
        }
    };
    let mut usage = Usage::default();
    let mut messages = Vec::new();
    let mut orders = Vec::with_capacity(presented.len());
    for (i, p) in presented.into_iter().enumerate() {
        usage.add(&p.usage);
        if i == 0 {
            messages = p.messages;
        }
        orders.push(p.result);
    }
    let combined = verdict::of_orders(&judge.config, &orders);
    Ok(View {
        opinion: Opinion {
            judge: model.id().clone(),
            principle: principle.map(|p| p.id.clone()),
            weight,
            p_first: combined.p_first,
            outcome: combined.outcome,
            orders_agree: combined.orders_agree,
            orders,
        },
        messages,
        shortened: shown.shortened,
        usage,
    })
}

/// A label from the scores of both responses (see [`score::p_better`]).
async fn by_scores(
    judge: &Judge,
    item: &Item<'_>,
    principles: &[(Option<&Principle>, f64)],
) -> Result<End, FeedbackError> {
    let Some(scorer) = &judge.scorer else {
        return Err(settings("`method = \"score\"` has no template".into()));
    };
    let mut end = End::default();
    let (mut total, mut sums) = (0.0, [0.0, 0.0]);
    let mut reasons = Vec::new();
    for (model, juror) in judge.jurors() {
        for (principle, by) in principles {
            let [a, b] = [item.response_a, item.response_b]
                .map(|text| score::rate(scorer, model, item.id, item.prompt, text, *principle));
            let (a, b) = future::join(a, b).await;
            let (a, b) = (a?, b?);
            for r in [&a, &b] {
                end.usage.add(&r.usage);
                end.shortened = end.shortened.or(r.rating.shortened);
                reasons.push(match &r.rating.error {
                    Some(error) => error.clone(),
                    None => r.rating.reason.clone(),
                });
            }
            let weight = juror * by;
            let mut opinion = Opinion {
                judge: model.id().clone(),
                principle: principle.map(|p| p.id.clone()),
                weight,
                p_first: Probability::NONE,
                outcome: Outcome::Decided,
                orders_agree: None,
                orders: Vec::new(),
            };
            match (a.rating.score, b.rating.score) {
                (Some(x), Some(y)) => {
                    opinion.p_first = score::p_better(&a.rating, &b.rating);
                    total += weight;
                    sums[0] += weight * x;
                    sums[1] += weight * y;
                }
                (None, _) => opinion.outcome = a.rating.outcome,
                (_, None) => opinion.outcome = b.rating.outcome,
            }
            end.opinions.push(opinion);
        }
    }
    let (combined, _) = verdict::of_opinions(&judge.config, &end.opinions);
    (end.p_first, end.outcome) = (combined.p_first, Some(combined.outcome));
    if combined.p_first.get().is_some() {
        end.scores = sums.iter().map(|s| s / total).collect();
    }
    reasons.retain(|r| !r.is_empty());
    end.reason = reasons.join("\n---\n");
    if end.opinions.len() == 1 {
        end.opinions.clear();
    }
    Ok(end)
}

/// The standard by which to choose: one principle's words, or all of them as a list.
pub(crate) fn standard(constitution: &Constitution, principle: Option<&Principle>) -> String {
    match principle {
        Some(principle) => principle.preference_text(),
        None => {
            let list: Vec<String> = constitution
                .principles
                .iter()
                .map(|p| format!("- {}", p.preference_text().trim()))
                .collect();
            format!(
                "Choose the option that does better by these principles, taken together:\n{}",
                list.join("\n")
            )
        }
    }
}

/// Asks why, in the words of the given order, where the response given first is option (A).
async fn reason_after(
    judge: &Judge,
    id: &str,
    judged: &[Message],
    first_is_better: bool,
) -> Result<(String, Usage), FeedbackError> {
    // As the template spells it, without the brackets that the question puts round it.
    let spelled = judge.pair.choices().get(usize::from(!first_is_better));
    let verdict = spelled
        .and_then(|s| s.first())
        .map(|s| s.trim_matches(|c: char| !c.is_alphanumeric()))
        .unwrap_or_default();
    let (judged, _) = ask::with_prefill(judged.to_vec());
    let inserts = Inserts {
        judged: &judged,
        ..Inserts::default()
    };
    let messages = judge.reason_after.render(context! { verdict }, &inserts)?;
    let cx = ask::context("judge", id, 0, judge.seed, "reason");
    let sampling = Sampling::greedy(judge.config.rationale_tokens);
    // A reason that does not come takes nothing from the verdict: it stays empty.
    let answer = ask::sample(&judge.model, messages, &sampling, &cx).await?;
    Ok((
        if answer.outcome == Outcome::Decided {
            answer.text
        } else {
            String::new()
        },
        answer.usage,
    ))
}
