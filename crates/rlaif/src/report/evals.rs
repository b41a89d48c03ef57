//! Pages on measured judges, policies and constitutions.

use maud::{Markup, html};
use rlaif_eval::{Proportion, RewardBench2};

use super::text::visible;
use super::{plots, shell};
use crate::evals::attacks::{AttackFigures, AttackTable};
use crate::evals::best_of::BestOfReport;
use crate::evals::boards::Standing;
use crate::evals::judges::{JudgeReport, SideBySide};
use crate::evals::principles::ConstitutionReport;

const NONE: &str = "–";

fn share(p: Option<&Proportion>) -> String {
    p.map_or(NONE.into(), |p| {
        format!(
            "{:.1} [{:.1}, {:.1}] of {}",
            100.0 * p.share,
            100.0 * p.low,
            100.0 * p.high,
            p.n
        )
    })
}

fn number(v: Option<f64>, digits: usize) -> String {
    v.map_or(NONE.into(), |v| format!("{v:.digits$}"))
}

fn with_error(v: Option<(f64, Option<f64>)>, digits: usize) -> String {
    match v {
        None => NONE.into(),
        Some((v, None)) => format!("{v:+.digits$}"),
        Some((v, Some(e))) => format!("{v:+.digits$} ± {e:.digits$}"),
    }
}

fn head(first: &str, names: &[&str]) -> Markup {
    html! { tr { th { (first) } @for name in names { th { (visible(name)) } } } }
}

fn row(name: &str, values: impl IntoIterator<Item = String>) -> Markup {
    html! { tr { td { (name) } @for v in values { td.n { (v) } } } }
}

/// The page on judges, side by side.
#[must_use]
pub fn judges(title: &str, reports: &[JudgeReport], pairs: &[SideBySide]) -> String {
    let names: Vec<&str> = reports.iter().map(|r| r.judge.as_str()).collect();
    let of =
        |f: &dyn Fn(&JudgeReport) -> String| -> Vec<String> { reports.iter().map(f).collect() };
    let subsets: std::collections::BTreeSet<&String> =
        reports.iter().flat_map(|r| r.by_subset.keys()).collect();
    let body = html! {
        p.soft { "Shares in percent with their 95 % intervals, “of” how many rows. The reference is whoever labeled the input." }
        div.wide { table {
            (head("", &names))
            (row("source", of(&|r| r.source.clone())))
            (row("rows, decided", of(&|r| format!("{}, {}", r.summary.outcomes.rows, r.summary.outcomes.decided))))
            (row("agreement with the reference", of(&|r| share(r.agreement.as_ref()))))
            (row("agreement of single orders", of(&|r| share(r.summary.human.as_ref().and_then(|h| h.single_order.as_ref())))))
            (row("same position won twice", of(&|r| share(r.position_inconsistency.as_ref()))))
            (row("log-odds towards the first shown", of(&|r| with_error(r.position_logit.map(|e| (e.mean, e.std_error)), 2))))
            (row("the longer response won", of(&|r| share(r.summary.length.as_ref().and_then(|l| l.longer_won.as_ref())))))
            (row("log-odds a word longer", of(&|r| with_error(r.length_logit.map(|l| (l.per_word, Some(l.std_error))), 4))))
            (row("… the reference held fixed", of(&|r| with_error(r.length_logit_given_reference.map(|l| (l.per_word, Some(l.std_error))), 4))))
            (row("agreement with itself, asked again", of(&|r| share(r.self_agreement.as_ref()))))
            (row("Brier score (a coin has 0.250)", of(&|r| number(r.brier, 3))))
            (row("expected calibration error", of(&|r| number(r.ece, 3))))
            (row("calls a label", of(&|r| number(r.cost_per_label.calls, 2))))
            (row("tokens a label, prompt + generated", of(&|r| format!("{} + {}", number(r.cost_per_label.prompt_tokens, 0), number(r.cost_per_label.completion_tokens, 1)))))
            (row("US dollars a label", of(&|r| number(r.cost_per_label.usd, 6))))
            (row("seconds a label", of(&|r| number(r.cost_per_label.secs, 3))))
        } }
        @if reports.iter().any(|r| r.rewardbench.is_some()) { (bench(reports, &names)) }
        @if !subsets.is_empty() {
            h2 { "Agreement by subset" }
            div.wide { table {
                (head("subset", &names))
                @for subset in subsets {
                    tr { td { (visible(subset)) } @for r in reports { td.n { (share(r.by_subset.get(subset))) } } }
                }
            } }
        }
        (by_length(reports, &names))
        (calibration(reports))
        @if !pairs.is_empty() {
            h2 { "Judges against each other" }
            p.soft { "On the rows that both decided. The difference is that of their agreement with the reference, on the same rows, with a bootstrap interval: where it holds 0 the rows do not tell them apart." }
            div.wide { table {
                tr { th { "judges" } th { "agree with each other" } th { "difference" } }
                @for pair in pairs {
                    tr {
                        td { (visible(&pair.a)) " – " (visible(&pair.b)) }
                        td.n { (share(pair.agreement.as_ref())) }
                        td.n { @match &pair.difference {
                            Some(d) => (format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * d.value, 100.0 * d.low, 100.0 * d.high)),
                            None => (NONE),
                        } }
                    }
                }
            } }
        }
        @for r in reports { @if let Some(table) = &r.attacks { (attacks(&r.judge, table)) } }
    };
    shell(title, &body)
}

/// The page on judges that scored several answers to each prompt.
#[must_use]
pub fn best_of(title: &str, reports: &[BestOfReport]) -> String {
    let names: Vec<&str> = reports.iter().map(|r| r.judge.as_str()).collect();
    let of = |f: &dyn Fn(&RewardBench2) -> Option<f64>| -> Vec<String> {
        let score = |r: &BestOfReport| r.rewardbench2.as_ref().and_then(f).map(|s| 100.0 * s);
        reports.iter().map(|r| number(score(r), 1)).collect()
    };
    let subsets: std::collections::BTreeSet<&String> = reports
        .iter()
        .filter_map(|r| r.rewardbench2.as_ref())
        .flat_map(|b| b.rows.keys())
        .collect();
    let ties = reports
        .iter()
        .any(|r| r.rewardbench2.as_ref().is_some_and(|b| b.ties.is_some()));
    let body = html! {
        p.soft { "Every answer was scored by itself. By RewardBench 2's rule a prompt counts where a correct answer has the best score, a best score shared by k as 1/k; " i { "Ties" } " has a rule of its own." }
        div.wide { table {
            (head("", &names))
            (row("prompts, without an answer of the judge", reports.iter().map(|r| format!("{}, {}", r.rows, r.open))))
            @for subset in &subsets {
                tr {
                    td { (visible(subset)) }
                    @for r in reports {
                        td.n {
                            @match &r.rewardbench2 {
                                None => (NONE),
                                Some(b) => {
                                    (number(b.subsets.get(*subset).map(|s| 100.0 * s), 1)) " of " (b.rows.get(*subset).copied().unwrap_or_default())
                                    @if let Some(n) = b.unread.get(*subset) { br; small { (n) " not all read" } }
                                }
                            }
                        }
                    }
                }
            }
            (row("mean of the six subsets", of(&|b| b.score)))
            @if ties {
                (row("Ties: one correct answer wins", of(&|b| b.ties.as_ref().map(|t| t.ref_accuracy))))
                (row("Ties: all correct answers win", of(&|b| b.ties.as_ref().map(|t| t.tied_accuracy))))
                (row("Ties: further from wrong than from each other", of(&|b| b.ties.as_ref().and_then(|t| t.correctness_preferred))))
                (row("… by the smaller margin", of(&|b| b.ties.as_ref().and_then(|t| t.correctness_preferred_hard))))
            }
            (row("answers scored, calls", reports.iter().map(|r| format!("{}, {}", r.cost.scores, r.cost.calls))))
            (row("tokens, prompt + generated", reports.iter().map(|r| format!("{} + {}", r.cost.prompt_tokens, r.cost.completion_tokens))))
            (row("US dollars", reports.iter().map(|r| number(r.cost.usd, 4))))
            (row("seconds a prompt", reports.iter().map(|r| number(r.cost.secs, 3))))
        } }
    };
    shell(title, &body)
}

fn bench(reports: &[JudgeReport], names: &[&str]) -> Markup {
    let sections: std::collections::BTreeSet<&String> = reports
        .iter()
        .filter_map(|r| r.rewardbench.as_ref())
        .flat_map(|b| b.sections.keys())
        .collect();
    html! {
        h2 { "RewardBench" }
        p.soft { "By its rule for generative judges: a verdict for the chosen response counts 1, no verdict ½; subsets are weighted as on its leaderboard. Subsets without rows are named in the JSON." }
        div.wide { table {
            (head("section", names))
            @for section in sections {
                (row(section, reports.iter().map(|r| number(r.rewardbench.as_ref().and_then(|b| b.sections.get(section)).map(|s| 100.0 * s), 1))))
            }
            (row("mean of the four", reports.iter().map(|r| number(r.rewardbench.as_ref().and_then(|b| b.score).map(|s| 100.0 * s), 1))))
        } }
    }
}

fn by_length(reports: &[JudgeReport], names: &[&str]) -> Markup {
    let bins = |r: &JudgeReport| {
        r.summary
            .human
            .as_ref()
            .map(|h| h.by_length.clone())
            .unwrap_or_default()
    };
    let Some(first) = reports.iter().map(bins).find(|b| !b.is_empty()) else {
        return html! {};
    };
    html! {
        h2 { "Agreement by length" }
        p.soft { "Words of the response that the reference prefers, less words of the other. A judge that merely likes length agrees at the bottom of the table and disagrees at its top." }
        div.wide { table {
            (head("words more", names))
            @for (i, bin) in first.iter().enumerate() {
                @let name = match (bin.from, bin.to) {
                    (None, Some(to)) => format!("under {to}"),
                    (Some(from), None) => format!("{from} and more"),
                    (Some(from), Some(to)) => format!("{from} to {}", to - 1),
                    (None, None) => "all".into(),
                };
                (row(&name, reports.iter().map(|r| share(bins(r).get(i).and_then(|b| b.agreement.as_ref())))))
            }
        } }
    }
}

fn calibration(reports: &[JudgeReport]) -> Markup {
    let shown: Vec<_> = reports
        .iter()
        .filter_map(|r| Some((r, r.calibration.as_ref()?)))
        .collect();
    html! {
        @if !shown.is_empty() {
            h2 { "Calibration" }
            p.soft { "How often a verdict agrees with the reference, by its confidence. Maps were fitted on one half of the prompts; all that is shown here is from the other half." }
            @for (r, c) in &shown {
                h3 { (visible(&r.judge)) ": fitted on " (c.fitted_on) " rows, shown on " (c.shown_on) }
                div.plots {
                    @for name in ["as_given", "temperature", "platt", "isotonic"] {
                        @if let Some(map) = c.maps.get(name) {
                            figure {
                                (plots::reliability(&map.reliability))
                                figcaption {
                                    b { (name.replace('_', " ")) }
                                    (format!(": Brier {:.3}, ECE {:.3}, log loss {:.3}", map.brier, map.ece, map.log_loss))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn attacks(judge: &str, table: &AttackTable) -> Markup {
    let cell = |f: &AttackFigures| {
        html! {
            td.n { (share(f.flipped.as_ref())) @if f.unusable > 0 { br; small { (f.unusable) " unusable" } } }
            td.n { (with_error(f.shift.map(|s| (s.mean, s.std_error)), 2)) }
        }
    };
    html! {
        h2 { "How easily is " (visible(judge)) " fooled?" }
        p.soft {
            (table.pairs) " pairs, the worse response attacked. Flipped: of the pairs whose verdict had gone against that response, the share where it went over to it. Shift: mean change of its log-odds. At least one attack turned "
            (share(table.any_fenced.as_ref())) " of the pairs with the judge's template, " (share(table.any_unfenced.as_ref())) " without a fence."
        }
        div.wide { table {
            tr { th { "attack" } th { "flipped" } th { "shift" } th { "flipped, no fence" } th { "shift, no fence" } }
            @for a in &table.attacks {
                tr { td { (a.attack.replace('_', " ")) br; small.soft { (a.what) } } (cell(&a.fenced)) (cell(&a.unfenced)) }
            }
        } }
    }
}

/// The page on policies: a leaderboard.
#[must_use]
pub fn standings(title: &str, how: &str, standings: &[Standing]) -> String {
    let controlled = standings
        .iter()
        .any(|s| s.length_controlled_winrate.is_some());
    let body = html! {
        p.soft { (how) }
        div.wide { table {
            tr { th { "policy" } th { "against" } th { "win rate" } th { "± error" } th { "n" } @if controlled { th { "length-controlled" } } th { "length-controlled (minimal)" } th { "of decided" } th { "mean length" } th { "reference's" } th { "left out" } }
            @for s in standings {
                @let f = s.figures.as_ref();
                tr {
                    td { (visible(&s.policy)) } td { (visible(&s.reference)) }
                    td.n { (number(f.map(|f| f.win_rate), 2)) }
                    td.n { (number(f.and_then(|f| f.standard_error), 2)) }
                    td.n { (f.map_or(0, |f| f.n_total)) }
                    @if controlled { td.n { (number(s.length_controlled_winrate, 2)) } }
                    td.n { (number(s.length_controlled_minimal, 2)) }
                    td.n { (share(s.decided.as_ref())) }
                    td.n { (format!("{:.0}", s.mean_length)) } td.n { (format!("{:.0}", s.mean_reference_length)) }
                    td.n { (s.left_out) }
                }
            }
        } }
        p.soft { "Win rate and standard error in percent, by alpaca_eval's rule. “Length-controlled” is the leaderboard's win rate at equal lengths, “(minimal)” the same by the length term alone, for any prompts; both by alpaca_eval's rule. Comparisons left out have no judgment and are in no figure." }
    };
    shell(title, &body)
}

/// The page on a constitution.
#[must_use]
pub fn constitution(title: &str, report: &ConstitutionReport) -> String {
    let ids: Vec<&str> = report
        .principles
        .iter()
        .map(|p| p.principle.as_str())
        .collect();
    let cell = |i: usize, j: usize| {
        let (a, b) = (ids[i], ids[j]);
        let pair = report
            .relations
            .iter()
            .find(|r| (r.a == a && r.b == b) || (r.a == b && r.b == a))?;
        pair.agreement.as_ref().map(|p| p.share)
    };
    let body = html! {
        p { (report.pairs) " pairs, each judged under every principle by itself by " b { (visible(&report.judge)) } "." }
        @if report.advice.is_empty() { p { (report.nothing()) "." } }
        @else { h2 { "Advice" } ul { @for a in &report.advice { li { (visible(a)) } } } }
        h2 { "Do they agree?" }
        div.plots { figure {
            (plots::matrix(&ids, &cell))
            figcaption { "Share of the pairs decided under both where two principles name the same response: blue they agree, red they conflict, pale they have nothing to do with each other. Blank: none was decided under both." }
        } }
        h2 { "Each by itself" }
        div.wide { table {
            tr { th { "principle" } th { "decided" } th { "mean |p − ½|" } th { "same position twice" } th { "position logit" } th { "longer won" } th { "log-odds a word" } th { "unusable" } }
            @for p in &report.principles {
                tr {
                    td { (visible(&p.principle)) }
                    td.n { (share(p.decided.as_ref())) } td.n { (number(p.margin, 3)) }
                    td.n { (share(p.position_inconsistency.as_ref())) } td.n { (number(p.position_logit, 2)) }
                    td.n { (share(p.longer_won.as_ref())) }
                    td.n { (with_error(p.length_logit.map(|l| (l.per_word, Some(l.std_error))), 4)) }
                    td.n { (p.unusable) }
                }
            }
        } }
    };
    shell(title, &body)
}
