//! What training came to: policies, who beats whom, before and after, curves, and what the method
//! costs.

use std::collections::BTreeMap;

use maud::{Markup, html};
use rlaif_core::Outcome;
use rlaif_eval::{Estimate, LABEL_PRICES, Proportion};
use serde::Deserialize;

use super::plots::{self, Series};
use super::text::visible;
use super::{figure, interval, percent};
use crate::evaluation::{Compared, Evaluation, Measured};

/// Prompts shown with every policy's answer.
const MAX_SAMPLES: usize = 24;

/// A line of a training log; what an algorithm does not log is absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// Step of a training on examples.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
    /// Held-out loss, where it was measured.
    pub eval_loss: Option<f64>,
    /// PPO's iteration.
    pub iteration: u64,
    /// Mean score.
    pub score: f64,
    /// KL a completion to the reference, in nats.
    pub kl: f64,
    /// Entropy a token, in nats.
    pub entropy: f64,
    /// Tokens a completion.
    pub length: f64,
    /// Whether the iteration updated the policy.
    pub updated: bool,
}

/// What a training stage's `summary.json` holds, as far as a report shows it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Step whose model was kept, by held-out loss.
    pub best_step: Option<u64>,
    /// PPO's policy that was kept; absent where it is the last.
    pub kept: Option<KeptLine>,
    /// Whether the KL budget ended PPO.
    pub stopped_by_kl: bool,
    /// Iterations after which the reward model was trained further.
    pub pauses: Vec<u64>,
    /// Figures on the test split.
    pub test_metrics: BTreeMap<String, Option<f64>>,
}

/// The policy that PPO ended with.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct KeptLine {
    /// The iteration that measured it.
    pub iteration: u64,
}

/// A stage that trained.
#[derive(Clone, Debug)]
pub struct Trained {
    /// `sft`, `reward`, `ppo` or `dpo`.
    pub stage: String,
    /// Its log.
    pub log: Vec<LogLine>,
    /// Its summary.
    pub summary: Summary,
}

/// What a page shows of training.
#[derive(Clone, Debug, Default)]
pub struct Training {
    /// Stages, in their order.
    pub stages: Vec<Trained>,
    /// The evaluation, where there is one.
    pub evaluation: Option<Evaluation>,
    /// Its completions.
    pub samples: Vec<Measured>,
    /// Comparisons labeled, for what they would have cost otherwise.
    pub labels: usize,
    /// Comparisons that the judge labeled in a second, where that was timed.
    pub labels_per_sec: Option<f64>,
}

impl Training {
    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.evaluation.is_none()
    }

    fn stage(&self, name: &str) -> Option<&Trained> {
        self.stages.iter().find(|s| s.stage == name)
    }
}

pub(super) fn section(t: &Training) -> Markup {
    html! {
        @if let Some(evaluation) = &t.evaluation {
            (headline(evaluation, t))
            (policies(evaluation))
            (samples(evaluation, &t.samples))
        }
        (curves(t))
        @if let Some(evaluation) = &t.evaluation { (bias(evaluation)) }
        @if t.labels > 0 { (cost(t)) }
    }
}

/// `12.3 ± 0.4`, the second figure 1.96 standard errors.
fn estimate(e: &Estimate, digits: usize) -> String {
    match e.std_error {
        Some(error) => format!("{:.digits$} ± {:.digits$}", e.mean, 1.96 * error),
        None => format!("{:.digits$}", e.mean),
    }
}

fn headline(evaluation: &Evaluation, t: &Training) -> Markup {
    let last = evaluation.policies.last();
    html! {
        h2 { "What the policy became" }
        p {
            (evaluation.prompts) " prompts that nothing was trained on; each policy answered each once. "
            "A win rate counts decided comparisons, ties stand beside."
        }
        div.figures {
            @for c in evaluation.comparisons.iter().filter(|c| last.is_some_and(|l| l.policy == c.policy)) {
                @if let Some(rate) = &c.result.rate {
                    @let ties = c.tie_rate.map_or(String::new(), |t| format!(", {:.0} % ties", 100.0 * t));
                    (figure(&percent(rate), &format!("{} beats {}, says the {}", c.policy, c.against, c.by),
                        &format!("{}{ties}", interval(rate))))
                }
            }
            @if let Some(accuracy) = t.stage("reward").and_then(|s| s.summary.test_metrics.get("accuracy").copied().flatten()) {
                (figure(&format!("{:.1} %", 100.0 * accuracy), "reward model's accuracy", "on held-out pairs of the judge"))
            }
        }
    }
}

fn policies(evaluation: &Evaluation) -> Markup {
    let numbers: Vec<(&String, &String)> = evaluation
        .policies
        .iter()
        .flat_map(|p| {
            p.numbers
                .iter()
                .flat_map(|(who, n)| n.keys().map(move |k| (who, k)))
        })
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let cell = |e: &Option<Estimate>, digits| match e {
        Some(e) => html! { td.n { (estimate(e, digits)) } },
        None => html! { td.n { "–" } },
    };
    html! {
        div.wide { table {
            tr {
                th { "policy" } th { "reward" } th { "KL (nats)" } th { "tokens" } th { "words" }
                th { "no answer" }
            }
            @for p in &evaluation.policies {
                tr {
                    td { b { (p.policy) } }
                    (cell(&p.reward, 2))
                    @match (&p.kl, &p.kl_to) {
                        (Some(kl), Some(to)) => td.n { (estimate(kl, 2)) " to " (to) },
                        _ => td.n { "–" },
                    }
                    (cell(&p.tokens, 1)) (cell(&p.words, 1))
                    td.n { (p.failed) }
                }
            }
        } }
        p.soft { "Means over completions, ± 1.96 standard errors. KL is that to the policy that it started from, a completion." }
        @if !numbers.is_empty() {
            h3 { "What evaluators measured" }
            div.wide { table {
                tr { th { "mean" } @for p in &evaluation.policies { th { (p.policy) } } }
                @for (who, name) in &numbers {
                    tr {
                        td { (visible(who)) ": " (visible(name)) }
                        @for p in &evaluation.policies {
                            (cell(&p.numbers.get(*who).and_then(|n| n.get(*name)).copied(), 3))
                        }
                    }
                }
            } }
        }
        h3 { "Who beats whom" }
        div.wide { table {
            tr { th { "comparison" } th { "by" } th { "won" } th { "lost" } th { "ties" } th { "win rate" } th { "failed" } }
            @for c in &evaluation.comparisons { (comparison(c)) }
        } }
    }
}

fn comparison(c: &Compared) -> Markup {
    html! {
        tr {
            td { (c.policy) " against " (c.against) }
            td.n { (visible(&c.by)) }
            td.n { (c.result.wins) } td.n { (c.result.losses) } td.n { (c.result.ties) }
            td.n {
                @match &c.result.rate {
                    Some(r) => (format!("{:.3} [{:.3}, {:.3}]", r.share, r.low, r.high)),
                    None => "nothing decided",
                }
            }
            td.n { (c.failed) }
        }
    }
}

/// An even spread of prompts, every policy's answer side by side.
fn samples(evaluation: &Evaluation, all: &[Measured]) -> Markup {
    let names: Vec<&str> = evaluation
        .policies
        .iter()
        .map(|p| p.policy.as_str())
        .collect();
    let mut by: BTreeMap<&str, BTreeMap<&str, &Measured>> = BTreeMap::new();
    for m in all {
        by.entry(&m.id).or_default().insert(&m.policy, m);
    }
    let step = by.len().div_ceil(MAX_SAMPLES).max(1);
    html! {
        h2 { "The same prompts, before and after" }
        @if step > 1 { p.soft { "Every " (step) "th prompt of " (by.len()) "." } }
        @for answers in by.values().step_by(step) {
            article.card {
                @if let Some(first) = answers.values().next() {
                    div.prompt { div.text { (visible(&first.prompt.to_text())) } }
                }
                div.policies {
                    @for name in &names {
                        @if let Some(m) = answers.get(name) { (answer(m)) }
                    }
                }
            }
        }
    }
}

fn answer(m: &Measured) -> Markup {
    html! {
        div.side {
            h4 { (m.policy) }
            @if m.outcome == Outcome::Decided {
                div.text { (visible(&m.completion)) }
            } @else {
                div.text.failed { "no answer: " (m.outcome) }
            }
            p.soft.small {
                @if let Some(reward) = m.reward { "reward " (format!("{reward:.2}")) " · " }
                @if let Some(tokens) = m.tokens { (tokens) " tokens" }
                @for (who, numbers) in &m.numbers {
                    @if let Some((name, value)) = first_number(numbers) {
                        " · " (visible(who)) " " (visible(name)) " " (format!("{value:.2}"))
                    }
                }
            }
            @if m.numbers.values().any(|n| n.len() > 1) {
                details.small {
                    summary { "all numbers" }
                    @for (who, numbers) in &m.numbers {
                        @for (name, value) in numbers {
                            (visible(who)) " " (visible(name)) " " (format!("{value:.2}")) br;
                        }
                    }
                }
            }
        }
    }
}

/// The number that stands for all of an evaluator's: `utility`, else its first.
fn first_number<T>(numbers: &BTreeMap<String, T>) -> Option<(&str, &T)> {
    numbers
        .get_key_value("utility")
        .or_else(|| numbers.iter().next())
        .map(|(name, value)| (name.as_str(), value))
}

fn curves(t: &Training) -> Markup {
    html! {
        @if !t.stages.is_empty() {
            h2 { "Learning curves" }
            div.plots {
                @for s in &t.stages {
                    @if s.stage == "ppo" { (ppo_curves(s, t.evaluation.as_ref())) } @else { (fit_curve(s)) }
                }
            }
        }
    }
}

fn fit_curve(s: &Trained) -> Markup {
    let train = s.log.iter().map(|l| (l.step as f64, l.loss)).collect();
    let held = s
        .log
        .iter()
        .filter_map(|l| Some((l.step as f64, l.eval_loss?)))
        .collect();
    let marks: Vec<f64> = s.summary.best_step.iter().map(|b| *b as f64).collect();
    let series = [Series::line("train", train), Series::dots("held out", held)];
    html! {
        figure {
            (plots::lines(&format!("loss of {}", s.stage), "step", "loss", &series, &marks))
            figcaption {
                b { (s.stage) } ": loss by step; dots are held-out. "
                @if let Some(best) = s.summary.best_step { "The model of step " (best) " was kept, by held-out loss." }
            }
        }
    }
}

fn ppo_curves(s: &Trained, evaluation: Option<&Evaluation>) -> Markup {
    let of = |value: &dyn Fn(&LogLine) -> f64| -> Vec<(f64, f64)> {
        s.log
            .iter()
            .map(|l| (l.iteration as f64, value(l)))
            .collect()
    };
    let kept = s.summary.kept.as_ref().map(|k| k.iteration);
    let marks: Vec<f64> = kept.iter().map(|k| *k as f64).collect();
    // A batch whose KL estimate is below 0 is at 0: the policy has not moved.
    let root = |l: &LogLine| l.kl.max(0.0).sqrt();
    let at = |iteration: u64| s.log.iter().find(|l| l.iteration == iteration);
    let pauses = &s.summary.pauses;
    // Scores of different reward models are no one curve.
    let scores = |x: &dyn Fn(&LogLine) -> f64| -> Vec<(String, Vec<(f64, f64)>)> {
        (0..=pauses.len())
            .map(|which| {
                let of = |l: &&LogLine| pauses.partition_point(|p| *p < l.iteration) == which;
                let points = s.log.iter().filter(of).map(|l| (x(l), l.score));
                let name = match pauses.len() {
                    0 => "reward model".to_owned(),
                    _ => format!("reward model {}", which + 1),
                };
                (name, points.collect())
            })
            .collect()
    };
    let by_iteration: Vec<Series> = scores(&|l| l.iteration as f64)
        .into_iter()
        .map(|(name, points)| Series::line(&name, points))
        .collect();
    let mut series: Vec<Series> = scores(&root)
        .into_iter()
        .map(|(name, points)| Series::path(&name, points))
        .collect();
    for (name, points) in utilities(evaluation, &|i| at(i).map(root)) {
        series.push(Series::path(&name, points).on_own_scale());
    }
    let chosen: Vec<f64> = kept.and_then(at).map(root).into_iter().collect();
    html! {
        figure {
            (plots::lines("reward by iteration", "iteration", "mean score",
                &by_iteration, &marks))
            figcaption {
                b { "ppo" } ": mean score of the reward model by iteration."
                @if let Some(last) = pauses.last() {
                    " It was trained further on labels of the policy's own answers after iteration "
                    @for p in &pauses[..pauses.len() - 1] { (p) ", " } (last) "."
                }
                @if kept.is_some() { " The dashed line is the policy that was kept." }
            }
        }
        figure {
            (plots::lines("KL by iteration", "iteration", "KL, nats", &[Series::line("KL", of(&|l| l.kl))], &marks))
            figcaption { b { "ppo" } ": KL to the reference, a completion." @if s.summary.stopped_by_kl { " The budget ended the run." } }
        }
        figure {
            (plots::lines("length by iteration", "iteration", "tokens", &[Series::line("tokens", of(&|l| l.length))], &marks))
            figcaption { b { "ppo" } ": tokens a completion." }
        }
        figure {
            (plots::lines("reward against the root of KL", "√KL", "mean score", &series, &chosen))
            figcaption {
                "Reward against √KL (Gao et al. 2022), one point an iteration."
                @if series.len() > 1 { " Beside it, on a scale of its own, what the evaluators say of the same completions: where the reward goes on rising and they fall, the reward is being exploited." }
                @if !chosen.is_empty() { " The dashed line is the chosen stop." }
            }
        }
    }
}

/// The number that stands for each evaluator's, at PPO's iterations.
fn utilities(
    evaluation: Option<&Evaluation>,
    x: &dyn Fn(u64) -> Option<f64>,
) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut by: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for i in evaluation.iter().flat_map(|e| &e.iterations) {
        for (who, numbers) in &i.numbers {
            if let (Some((_, value)), Some(x)) = (first_number(numbers), x(i.iteration)) {
                by.entry(who).or_default().push((x, value.mean));
            }
        }
    }
    by.into_iter()
        .map(|(who, points)| (who.to_owned(), points))
        .collect()
}

fn bias(evaluation: &Evaluation) -> Markup {
    let b = &evaluation.bias;
    // Slopes a word are small: as many digits as show two of them.
    let pm = |value: f64, error: f64| {
        let digits = (2.0 - value.abs().max(error).max(1e-9).log10().ceil()).clamp(1.0, 6.0);
        let digits = digits as usize;
        format!("{value:+.digits$} ± {:.digits$}", 1.96 * error)
    };
    html! {
        @if b.judge.is_some() || b.reward.is_some() || b.policy.is_some() {
            h2 { "Preference for length, on its way" }
            p.soft { "A judge's taste for longer answers becomes the reward model's, and the reward model's the policy's. Where longer answers are better these figures say nothing against them." }
            div.figures {
                @if let Some(j) = &b.judge {
                    (figure(&pm(j.slope, j.std_error), "judge: log-odds a word", &format!("{} decided pairs", j.n)))
                }
                @if let Some(r) = &b.reward {
                    (figure(&pm(r.slope, r.std_error), "reward model: score a word", &format!("{} held-out pairs", r.n)))
                }
                @if let Some(p) = &b.policy {
                    (figure(&format!("{:+.1} ± {:.1}", p.mean, 1.96 * p.std_error.unwrap_or(0.0)), "policy: change in words", &format!("{} prompts, against what it started from", p.n)))
                }
            }
        }
    }
}

/// What the labels cost at named prices, and how steady and right whoever gives them is.
fn cost(t: &Training) -> Markup {
    let labels = t.labels;
    let raters = t.evaluation.iter().flat_map(|e| &e.raters);
    let cell = |p: &Option<Proportion>| match p {
        Some(p) => format!("{:.3} [{:.3}, {:.3}]", p.share, p.low, p.high),
        None => "–".into(),
    };
    html! {
        h2 { "These labels, against other people's" }
        @if let Some(rate) = t.labels_per_sec {
            p { "The judge labeled " (format!("{rate:.1}")) " pairs a second." }
        }
        @if t.evaluation.iter().any(|e| !e.raters.is_empty()) {
            div.wide { table {
                tr { th { "who" } th { "agrees with itself" } th { "with another of its kind" } th { "right, by known truth" } }
                @for r in raters {
                    tr { td { (visible(&r.who)) } td.n { (cell(&r.with_itself)) } td.n { (cell(&r.with_another)) } td.n { (cell(&r.right)) } }
                }
            } }
            p.soft { "A judge agrees with itself where it names the same response when the pair is shown the other way round; a person, where the same pair is asked again." }
        }
        div.wide { table {
            tr { th { "labels by" } th { "a label" } th { (labels) " labels" } th { "source" } }
            @for p in LABEL_PRICES {
                tr { td { (p.rater) } td.n { (format!("${:.2}", p.usd)) } td.n { (format!("${:.0}", p.usd * labels as f64)) } td.n { (p.source) } }
            }
        } }
    }
}
