//! A constitution in a judge's hands: which principles let it decide, which say the same, which
//! conflict, and which ask for length.
//!
//! Every pair is judged under each principle by itself. Which response of a pair stands first is an
//! accident, so correlations of log-odds are taken about zero, which exchanging the responses of any
//! pair leaves as they are.

use rlaif_core::{Judgment, Outcome};
use rlaif_eval::{
    PositionBias, Proportion, correlation_about_zero, length_preference, position_bias,
};
use serde::Serialize;

use super::{first_won, log_odds};
use crate::evals::judges::LengthLogit;

/// Below this share of decided pairs a principle hardly ever decides.
const SELDOM: f64 = 0.2;
/// From this share of agreement on, with as much correlation, two principles say the same.
const SAME: f64 = 0.9;

/// One principle in the judge's hands.
#[derive(Clone, Debug, Serialize)]
pub struct PrincipleFigures {
    /// Its id.
    pub principle: String,
    /// Share of pairs decided under it.
    pub decided: Option<Proportion>,
    /// Pairs that gave no probability.
    pub unusable: u64,
    /// Share of pairs where the same position wins twice.
    pub position_inconsistency: Option<Proportion>,
    /// Mean log-odds towards the response shown first.
    pub position_logit: Option<f64>,
    /// Mean |p − ½|: how sure the judge is.
    pub margin: Option<f64>,
    /// Share of decided pairs of different length that the longer response won.
    pub longer_won: Option<Proportion>,
    /// Log-odds a word of length difference.
    pub length_logit: Option<LengthLogit>,
    /// What to do about it; empty where nothing.
    pub advice: Vec<String>,
}

/// Two principles on the pairs decided under both.
#[derive(Clone, Debug, Serialize)]
pub struct PrinciplePair {
    /// One.
    pub a: String,
    /// The other.
    pub b: String,
    /// Share of pairs where they name the same response.
    pub agreement: Option<Proportion>,
    /// Correlation of their log-odds about zero, in [−1, 1].
    pub correlation: Option<f64>,
    /// `duplicate`, `conflict`, or neither.
    pub relation: Option<&'static str>,
}

/// A constitution, measured.
#[derive(Clone, Debug, Serialize)]
pub struct ConstitutionReport {
    /// The judge.
    pub judge: String,
    /// Pairs judged under each principle.
    pub pairs: u64,
    /// In the constitution's order.
    pub principles: Vec<PrincipleFigures>,
    /// Every two.
    pub relations: Vec<PrinciplePair>,
    /// All advice, as a list to read.
    pub advice: Vec<String>,
}

impl ConstitutionReport {
    /// What is said where there is no advice: few pairs show little with certainty.
    #[must_use]
    pub fn nothing(&self) -> String {
        format!(
            "Nothing stands out with certainty on {} pairs: no principle that hardly ever decides, and \
             no two that say the same or the opposite",
            self.pairs
        )
    }
}

/// Measures a constitution: `judged[k][i]` is pair i under principle k; `None` where it was not
/// reached.
#[must_use]
pub fn report(judge: &str, ids: &[String], judged: &[Vec<Option<Judgment>>]) -> ConstitutionReport {
    let principles: Vec<PrincipleFigures> = ids
        .iter()
        .zip(judged)
        .map(|(id, column)| figures(id, column))
        .collect();
    let mut relations = Vec::new();
    for i in 0..ids.len() {
        for j in i + 1..ids.len() {
            relations.push(relation((&ids[i], &judged[i]), (&ids[j], &judged[j])));
        }
    }
    let mut advice: Vec<String> = principles
        .iter()
        .flat_map(|p| p.advice.iter().cloned())
        .collect();
    for pair in &relations {
        let share = pair.agreement.map_or(0.0, |a| 100.0 * a.share);
        match pair.relation {
            Some("duplicate") => advice.push(format!(
                "`{}` and `{}` name the same response in {share:.0} % of the pairs: keep one, or \
                 give each half the weight",
                pair.a, pair.b
            )),
            Some(_) => advice.push(format!(
                "`{}` and `{}` name the same response in only {share:.0} % of the pairs: they \
                 conflict; say in their words which goes first, or set their weights",
                pair.a, pair.b
            )),
            None => {}
        }
    }
    ConstitutionReport {
        judge: judge.to_owned(),
        pairs: judged.first().map_or(0, Vec::len) as u64,
        principles,
        relations,
        advice,
    }
}

fn figures(id: &str, column: &[Option<Judgment>]) -> PrincipleFigures {
    let judgments: Vec<Judgment> = column.iter().flatten().cloned().collect();
    let usable: Vec<f64> = judgments.iter().filter_map(|j| j.p_first.get()).collect();
    let decided = Proportion::of(
        judgments
            .iter()
            .filter(|j| j.p_first.get().is_some())
            .map(|j| j.outcome == Outcome::Decided),
    );
    let position: Option<PositionBias> = position_bias(&judgments);
    let length = length_preference(&judgments);
    let length_logit = length.and_then(|l| l.slope_per_word).map(|s| LengthLogit {
        per_word: s.slope,
        std_error: s.std_error,
        n: s.n,
    });
    let longer_won = length.and_then(|l| l.longer_won);
    let mut advice = Vec::new();
    let unusable = column.len() - usable.len();
    if column.len() < 2 * unusable {
        advice.push(format!(
            "under `{id}` {unusable} of {} pairs gave no verdict: the judge cannot answer it; put \
             it as a question about two responses",
            column.len()
        ));
    } else if decided.is_some_and(|d| d.high < SELDOM) {
        advice.push(format!(
            "`{id}` hardly ever decides: drop it, or bring prompts that it is about"
        ));
    }
    if position.is_some_and(|p| p.inconsistency.low > 0.5) {
        advice.push(format!(
            "under `{id}` the same position wins twice in most pairs: this judge cannot apply it; \
             simpler words or a stronger judge"
        ));
    }
    if let (Some(slope), Some(longer)) = (length_logit, longer_won) {
        // Both have to say so: a slope hangs on a few long texts, a share does not.
        let z = slope.per_word / slope.std_error;
        if z > 1.96 && longer.low > 0.5 {
            advice.push(format!(
                "`{id}` goes with length: the longer response won {:.0} %, and each word adds \
                 {:.3} log-odds; ask for the point rather than for more, or pair responses of like \
                 length",
                100.0 * longer.share,
                slope.per_word
            ));
        } else if z < -1.96 && longer.high < 0.5 {
            advice.push(format!(
                "`{id}` goes with brevity: the longer response won only {:.0} %; fine where that is \
                 what it asks for",
                100.0 * longer.share
            ));
        }
    }
    PrincipleFigures {
        principle: id.to_owned(),
        decided,
        unusable: unusable as u64,
        position_inconsistency: position.map(|p| p.inconsistency),
        position_logit: position.map(|p| p.logit.mean),
        margin: (!usable.is_empty())
            .then(|| usable.iter().map(|p| (p - 0.5).abs()).sum::<f64>() / usable.len() as f64),
        longer_won,
        length_logit,
        advice,
    }
}

type Column<'a> = (&'a String, &'a Vec<Option<Judgment>>);

fn relation(a: Column<'_>, b: Column<'_>) -> PrinciplePair {
    let both = || {
        a.1.iter()
            .zip(b.1)
            .filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?)))
    };
    let agreement =
        Proportion::of(both().filter_map(|(a, b)| Some(first_won(a)? == first_won(b)?)));
    let (x, y): (Vec<f64>, Vec<f64>) = both()
        .filter_map(|(a, b)| Some((log_odds(a)?, log_odds(b)?)))
        .unzip();
    let correlation = correlation_about_zero(&x, &y).ok();
    let relation = match (agreement, correlation) {
        // Both have to say so: verdicts alone may differ by what a judge does where it cannot decide.
        (Some(share), Some(r)) if share.high < 0.5 && r < 0.0 => Some("conflict"),
        (Some(share), Some(r)) if share.low >= SAME && r >= SAME => Some("duplicate"),
        _ => None,
    };
    PrinciplePair {
        a: a.0.clone(),
        b: b.0.clone(),
        agreement,
        correlation,
        relation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evals::tests::judged;

    #[test]
    fn what_is_planted_in_a_constitution_is_found() {
        // Forty pairs; the longer response is now first, now second, by one to four words.
        let texts = |i: usize| {
            let long = format!("word{}", " more".repeat(1 + i % 4));
            if i.is_multiple_of(3) {
                (long, "word".to_owned())
            } else {
                ("word".to_owned(), long)
            }
        };
        let column = |p: &dyn Fn(usize) -> Option<f64>| -> Vec<Option<Judgment>> {
            let pair = |i| {
                let (a, b) = texts(i);
                Some(judged(p(i), &a, &b))
            };
            (0..40).map(pair).collect()
        };
        let side = |i: usize| if i.is_multiple_of(2) { 0.8 } else { 0.2 };
        // The longer one wins but in every tenth pair.
        let longer = |i: usize| {
            if i.is_multiple_of(3) != (i % 10 == 5) {
                0.9
            } else {
                0.1
            }
        };
        let columns = [
            column(&|i| Some(side(i))),
            column(&|i| Some(side(i))),
            column(&|i| Some(1.0 - side(i))),
            column(&|_| Some(0.5)),
            column(&|_| None),
            column(&|i| Some(longer(i))),
        ];
        let ids: Vec<String> = ["one", "same", "other", "never", "mute", "long"]
            .map(str::to_owned)
            .into();
        let report = report("judge", &ids, &columns);
        let relation = |a: &str, b: &str| {
            report
                .relations
                .iter()
                .find(|r| r.a == a && r.b == b)
                .map(|r| (r.relation, r.correlation))
        };
        assert_eq!(
            relation("one", "same").map(|r| r.0),
            Some(Some("duplicate"))
        );
        assert_eq!(
            relation("one", "other").map(|r| r.0),
            Some(Some("conflict"))
        );
        assert!(
            relation("one", "other").is_some_and(|r| r.1.is_some_and(|r| (r + 1.0).abs() < 1e-12))
        );
        assert_eq!(relation("one", "never"), Some((None, None)));
        let advice = |id: &str| {
            let of = report.principles.iter().find(|p| p.principle == id);
            of.map(|p| p.advice.join(" ")).unwrap_or_default()
        };
        assert!(advice("never").contains("hardly ever decides"));
        assert!(advice("mute").contains("gave no verdict"));
        assert!(
            advice("long").contains("goes with length"),
            "{}",
            advice("long")
        );
        assert_eq!(advice("one"), "");
        assert_eq!(report.advice.len(), 6, "{:?}", report.advice);
    }
}
