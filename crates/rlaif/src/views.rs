//! The views behind combined labels: what each judge said by each principle, and who said nothing.

use std::collections::BTreeMap;

use rlaif_core::{Judgment, Outcome};

/// What one judge's views by one principle came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Pairs that it was asked about.
    pub asked: usize,
    /// Of these, pairs of which it said something: decided or a tie.
    pub read: usize,
    /// Pairs that it declined to decide.
    pub abstained: usize,
    /// Pairs where it and the combined label both lean to a side.
    pub leaned: usize,
    /// Of these, pairs where they lean to the same one.
    pub followed: usize,
    /// How the first view without an answer ended, and why where that is known.
    pub fault: Option<String>,
    margin: f64,
}

impl View {
    /// Mean |p − ½| over the views that were read; `None` without any.
    #[must_use]
    pub fn margin(&self) -> Option<f64> {
        (self.read > 0).then(|| self.margin / self.read as f64)
    }

    /// Views that brought neither an answer nor an abstention.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.asked - self.read - self.abstained
    }

    fn join(&mut self, other: &View) {
        self.asked += other.asked;
        self.read += other.read;
        self.abstained += other.abstained;
        self.fault = self.fault.take().or_else(|| other.fault.clone());
    }
}

/// The views behind labels that combine several; empty where each label is one judge's by one
/// principle.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Views {
    by: BTreeMap<(String, Option<String>), View>,
}

impl Views {
    /// Of all these judgments.
    #[must_use]
    pub fn of<'a>(judgments: impl IntoIterator<Item = &'a Judgment>) -> Self {
        let mut views = Views::default();
        for judgment in judgments {
            views.add(judgment);
        }
        views
    }

    /// Counts one judgment's views.
    pub fn add(&mut self, judgment: &Judgment) {
        let label = judgment.p_first.get().filter(|p| *p != 0.5);
        for opinion in &judgment.opinions {
            let key = (opinion.judge.to_string(), opinion.principle.clone());
            let view = self.by.entry(key).or_default();
            view.asked += 1;
            match opinion.p_first.get() {
                Some(p) => {
                    view.read += 1;
                    view.margin += (p - 0.5).abs();
                    if let (Some(label), true) = (label, p != 0.5) {
                        view.leaned += 1;
                        view.followed += usize::from((p > 0.5) == (label > 0.5));
                    }
                }
                None if opinion.outcome == Outcome::Abstained => view.abstained += 1,
                None => {
                    let reason = opinion.orders.iter().find_map(|o| o.error.as_deref());
                    view.fault.get_or_insert_with(|| match reason {
                        Some(reason) => format!("{}: {reason}", opinion.outcome),
                        None => opinion.outcome.to_string(),
                    });
                }
            }
        }
    }

    /// Judge, principle (`None` is the whole constitution) and what the views came to.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>, &View)> {
        self.by
            .iter()
            .map(|((judge, principle), view)| (judge.as_str(), principle.as_deref(), view))
    }

    /// True where no label combines several views.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// A line for each judge that is missing from labels: how often, and why. A label that a
    /// quorum carries without it looks like any other, so this is where it shows.
    #[must_use]
    pub fn absences(&self) -> Vec<String> {
        let mut judges: BTreeMap<&str, View> = BTreeMap::new();
        for (judge, _, view) in self.iter() {
            judges.entry(judge).or_default().join(view);
        }
        judges
            .into_iter()
            .filter(|(_, view)| view.missing() > 0)
            .map(|(judge, view)| {
                format!(
                    "`{judge}` gave no answer in {} of {} views ({})",
                    view.missing(),
                    view.asked,
                    view.fault.as_deref().unwrap_or("no reason is known")
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rlaif_core::{ModelId, Opinion, Probability, Prompt, Rater};

    use super::*;

    fn opinion(judge: &str, p: Option<f64>, outcome: Outcome) -> Opinion {
        Opinion {
            judge: ModelId::new(judge),
            principle: Some("kind".into()),
            weight: 1.0,
            p_first: p.map_or(Probability::NONE, Probability::new),
            outcome,
            orders_agree: None,
            orders: Vec::new(),
        }
    }

    #[test]
    fn an_absent_juror_is_named_and_an_abstention_is_no_absence() {
        let mut j = Judgment::new(
            "1",
            Prompt::from("p"),
            ["a".into(), "b".into()],
            Outcome::Decided,
            Probability::new(0.8),
            Rater::Model(ModelId::new("first")),
        );
        j.opinions = vec![
            opinion("first", Some(0.9), Outcome::Decided),
            opinion("second", None, Outcome::Failed),
            opinion("third", None, Outcome::Abstained),
            opinion("fourth", Some(0.3), Outcome::Decided),
        ];
        let views = Views::of([&j, &j]);
        assert_eq!(
            views.absences(),
            ["`second` gave no answer in 2 of 2 views (failed)"]
        );
        let of = |name| views.iter().find(|(judge, ..)| *judge == name).unwrap().2;
        assert_eq!((of("first").leaned, of("first").followed), (2, 2));
        assert_eq!((of("fourth").leaned, of("fourth").followed), (2, 0));
        assert!((of("fourth").margin().unwrap() - 0.2).abs() < 1e-12);
        assert_eq!(of("third").margin(), None);
    }
}
