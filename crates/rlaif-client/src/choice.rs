//! Log-probabilities of choices, read off the most likely tokens.
//!
//! Every token that is listed at a place counts towards the choice that it spells, alone or with
//! what was generated before it: `A`, ` A`, `(A` and `(`, `A`, `)` all spell `(A)`. Where the
//! answer opens with prose, the place at which its verdict stands is read instead.

use rlaif_core::choice::read_choice;

use crate::wire::Position;

/// Probabilities of the choices, before they are normalized.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Masses {
    /// One a choice.
    pub choices: Vec<f64>,
    /// Probability of all tokens that were not listed.
    pub unseen: f64,
    /// The most that a choice can have which is not listed: at each place that was read, neither
    /// more than the unlisted mass nor more than the least listed probability.
    floor: f64,
}

enum Reading {
    Choice(usize),
    Open,
    Other,
}

/// Below this the opening is prose by which a choice can hardly be told.
const ENOUGH: f64 = 0.1;

/// What a beginning of an answer says.
fn read(text: &str, choices: &[Vec<String>]) -> Reading {
    let decorated = |c: char| c.is_whitespace() || "*\"'`".contains(c);
    let text = text.trim_start_matches(decorated);
    if text.is_empty() {
        return Reading::Open;
    }
    let mut open = Vec::new();
    for (i, spellings) in choices.iter().enumerate() {
        for spelling in spellings.iter().map(|s| s.trim()) {
            let complete = text
                .strip_prefix(spelling)
                .is_some_and(|rest| !rest.chars().next().is_some_and(char::is_alphanumeric));
            if complete {
                // A longer spelling of another choice may still be under way ("1" in "10").
                let longer = choices.iter().enumerate().any(|(j, other)| {
                    j != i
                        && other
                            .iter()
                            .any(|s| s.trim().len() > text.len() && s.trim().starts_with(text))
                });
                return if longer {
                    Reading::Open
                } else {
                    Reading::Choice(i)
                };
            }
            if spelling.starts_with(text) && !open.contains(&i) {
                open.push(i);
            }
        }
    }
    match open.as_slice() {
        [] => Reading::Other,
        [only] => Reading::Choice(*only),
        _ => Reading::Open,
    }
}

/// Reads the masses from the answer's opening.
fn opening(positions: &[Position], choices: &[Vec<String>]) -> Masses {
    let mut masses = Masses {
        choices: vec![0.0; choices.len()],
        unseen: 0.0,
        floor: 0.0,
    };
    let mut weight = 1.0;
    let mut prefix = String::new();
    for (at, position) in positions.iter().enumerate() {
        let (mut listed, mut least) = (0.0, f64::INFINITY);
        let mut next = None;
        for (token, logprob) in &position.top {
            let p = logprob.exp();
            listed += p;
            least = p.min(least);
            let text = format!("{prefix}{token}");
            match read(&text, choices) {
                Reading::Choice(i) => masses.choices[i] += weight * p,
                Reading::Open if *token == position.token => {
                    // At the answer's end an open reading is as complete as it will be.
                    match (at + 1 == positions.len(), read_choice(&text, choices)) {
                        (true, Some(i)) => masses.choices[i] += weight * p,
                        _ => next = Some((weight * p, text)),
                    }
                }
                Reading::Open | Reading::Other => {}
            }
        }
        let unlisted = (1.0 - listed).max(0.0);
        masses.unseen += weight * unlisted;
        masses.floor = masses.floor.max(weight * unlisted.min(least));
        match next {
            Some((w, text)) => (weight, prefix) = (w, text),
            None => break,
        }
    }
    masses
}

/// Reads the masses at the place where the answer's verdict stands, given what precedes it.
fn in_prose(positions: &[Position], text: &str, choices: &[Vec<String>]) -> Option<Masses> {
    let chosen = read_choice(text, choices)?;
    let core = |s: &str| s.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    let spelled = |token: &str, i: usize| {
        let token = core(token);
        !token.is_empty() && choices[i].iter().any(|s| core(s) == token)
    };
    // The last token that spells the verdict: what comes first may be talk about a response.
    let position = positions.iter().rev().find(|p| spelled(&p.token, chosen))?;
    let mut masses = Masses {
        choices: vec![0.0; choices.len()],
        unseen: 0.0,
        floor: 0.0,
    };
    let (mut listed, mut least) = (0.0, f64::INFINITY);
    for (token, logprob) in &position.top {
        let p = logprob.exp();
        listed += p;
        least = p.min(least);
        if let Some(i) = (0..choices.len()).find(|i| spelled(token, *i)) {
            masses.choices[i] += p;
        }
    }
    masses.unseen = (1.0 - listed).max(0.0);
    masses.floor = masses.unseen.min(least);
    Some(masses)
}

/// Probabilities of the choices; `None` where the answer names none of them.
///
/// A choice that is not listed where the choices were read is given the most that it can have there,
/// so that it is unlikely and not impossible. What is listed at other places says nothing of it.
pub(crate) fn masses(
    positions: &[Position],
    text: &str,
    choices: &[Vec<String>],
) -> Option<Masses> {
    let first = opening(positions, choices);
    let sum: f64 = first.choices.iter().sum();
    let mut masses = if sum >= ENOUGH {
        first
    } else {
        match in_prose(positions, text, choices) {
            Some(masses) => masses,
            None if sum > 0.0 => first,
            None => return None,
        }
    };
    let floor = masses.floor.max(1e-12);
    for mass in &mut masses.choices {
        if *mass == 0.0 {
            *mass = floor;
        }
    }
    Some(masses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters() -> Vec<Vec<String>> {
        vec![
            vec!["(A)".into(), "A".into()],
            vec!["(B)".into(), "B".into()],
        ]
    }

    fn at(token: &str, top: &[(&str, f64)]) -> Position {
        let top = top.iter().map(|(t, p)| ((*t).to_owned(), p.ln())).collect();
        Position {
            token: token.into(),
            top,
        }
    }

    fn near(got: &[f64], expected: &[f64]) {
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() < 1e-9, "{got:?} is not {expected:?}");
        }
    }

    #[test]
    fn spellings_of_one_token_are_summed() {
        let p = [at(
            "A",
            &[
                ("A", 0.5),
                (" A", 0.1),
                ("(A", 0.05),
                ("B", 0.2),
                ("The", 0.1),
            ],
        )];
        let m = masses(&p, "A", &letters()).unwrap();
        near(&m.choices, &[0.65, 0.2]);
        near(&[m.unseen], &[0.05]);
    }

    #[test]
    fn a_bracket_is_followed_to_its_letter() {
        // 0.8 opens "("; then A 0.6 and B 0.3. Beside it "A" alone has 0.1 at the first place.
        let p = [
            at("(", &[("(", 0.8), ("A", 0.1)]),
            at("A", &[("A", 0.6), ("B", 0.3)]),
            at(")", &[(")", 1.0)]),
        ];
        let m = masses(&p, "(A)", &letters()).unwrap();
        near(&m.choices, &[0.1 + 0.8 * 0.6, 0.8 * 0.3]);
        near(&[m.unseen], &[0.1 + 0.8 * 0.1]);
    }

    #[test]
    fn a_verdict_behind_prose_is_read_where_it_stands() {
        let p = [
            at("The", &[("The", 0.97), ("A", 0.01)]),
            at(" answer", &[(" answer", 1.0)]),
            at(" is", &[(" is", 1.0)]),
            at(" (", &[(" (", 1.0)]),
            at("B", &[("B", 0.7), ("A", 0.25)]),
            at(")", &[(")", 1.0)]),
        ];
        let m = masses(&p, "The answer is (B)", &letters()).unwrap();
        near(&m.choices, &[0.25, 0.7]);
        // Prose that names none of them gives nothing.
        assert_eq!(masses(&[at("Hm", &[("Hm", 1.0)])], "Hm", &letters()), None);
    }

    #[test]
    fn a_choice_that_is_not_listed_is_unlikely_and_not_impossible() {
        let m = masses(&[at("A", &[("A", 0.98), ("The", 0.015)])], "A", &letters()).unwrap();
        near(&m.choices, &[0.98, 0.005]);
    }

    #[test]
    fn what_is_listed_behind_the_choices_says_nothing_of_them() {
        // The answer opens with neither; (B) has at most the least of what is listed there, 0.01. What
        // is unlikely at the next place does not make (A) certain.
        let p = [
            at("[", &[("[", 0.7), ("(A", 0.02), ("The", 0.01)]),
            at("response", &[("response", 0.999_999), ("x", 1e-9)]),
        ];
        let m = masses(&p, "[response", &letters()).unwrap();
        near(&m.choices, &[0.02, 0.01]);
    }

    #[test]
    fn numbers_that_begin_alike_are_told_apart() {
        let numbers: Vec<Vec<String>> = (1..=10).map(|i| vec![i.to_string()]).collect();
        let m = masses(
            &[
                at("1", &[("1", 0.6), ("7", 0.4)]),
                at("0", &[("0", 0.9), (".", 0.1)]),
            ],
            "10",
            &numbers,
        )
        .unwrap();
        near(
            &[m.choices[0], m.choices[6], m.choices[9]],
            &[0.06, 0.4, 0.54],
        );
        // The answer ends behind "1": it is 1.
        let m = masses(&[at("1", &[("1", 0.6), ("7", 0.4)])], "1", &numbers).unwrap();
        near(&[m.choices[0], m.choices[6]], &[0.6, 0.4]);
    }
}
