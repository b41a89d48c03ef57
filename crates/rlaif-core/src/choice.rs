//! Reading a verdict from a judge's words.
//!
//! [`parse_preference`] is the one place where text becomes a verdict. It is strict: words from
//! which a choice cannot be told are [`Verdict::Unparseable`], an outcome that is counted, and
//! never a default. (Peers have turned such answers into the lowest score, into 0.0 and, by an
//! order flip of −1, into 2.)

use std::sync::LazyLock;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

/// What a judge's words say about a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The response shown as (A).
    A,
    /// The response shown as (B).
    B,
    /// Neither is better.
    Tie,
    /// Nothing can be read.
    Unparseable,
}

impl Verdict {
    /// The same verdict with the responses exchanged. Exchanging twice gives back the verdict;
    /// a tie and an unreadable answer stay what they are.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Verdict::A => Verdict::B,
            Verdict::B => Verdict::A,
            other => other,
        }
    }
}

/// The patterns, compiled once. They are literals, covered by the tests below, so a pattern that
/// does not compile is dropped rather than allowed to abort a paid run.
struct Patterns {
    marked: Option<Regex>,
    stated: Vec<Regex>,
    leading: Option<Regex>,
    bare: Option<Regex>,
    comparative: Option<Regex>,
    praise: Option<Regex>,
    subject: Option<Regex>,
    tie: Option<Regex>,
    named: Option<Regex>,
}

/// A letter as judges decorate it: `A`, `(A)`, `[[A]]`, `**A**`, `"A"`, `` `A` ``.
const LETTER: &str = r#"[\[\(\*"'`_\\{]{0,4}([AB])[\]\)\*"'`_}]{0,4}"#;
/// What stands before a letter.
const NOUN: &str = r"(?:(?:the )?(?:response|answer|option|assistant|completion|candidate|summary|output|choice|text|reply)s?\s+)?";

/// How a comparison goes on behind its letter and verb.
const DEGREE: &str = r"(?:(?:a|the|clearly|much|slightly|significantly|far|somewhat|overall|definitely|marginally)\s+)*";
const BETTER: &str = r"(?:better|best|preferable|preferred|superior|winner)\b";
const PRAISE: &str = r"(?:stronger|safer|more\s+\w+|less\s+(?:harmful|toxic|offensive|biased))";

/// A letter of which something is said: "(A) is", "Response B seems".
fn subject() -> String {
    format!(r"(?i)(?:{NOUN})(?-i:{LETTER})\s+(?:is|was|seems|does|would be)\s+")
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let compile = |text: &str| Regex::new(text).ok();
    Patterns {
        marked: compile(r"(?i)\[\[\s*([ABC]|tie)\s*\]\]|\[RESULT\]\s*\(?([ABC]|tie)\b|\\boxed\{\s*\(?([ABC])\)?\s*\}"),
        stated: [
            // "the answer is (A)", "final verdict: B", "my preference is Response A"
            format!(r#"(?i)\b(?:answer|verdict|choice|preference|judge?ment|decision|winner|conclusion|result|preferred|better|best|chosen|selection)[^\n.;?!()]{{0,40}}?(?:\bis|\bwould be|:|=|"\s*:)[\s\*"'_`]*{NOUN}(?-i:{LETTER})(?:$|[^A-Za-z'’])"#),
            // "I choose (B)", "I prefer response A"
            format!(r"(?i)\bI(?:'d| would| will)?\s+(?:choose|prefer|pick|select|go with|favou?r)\s+{NOUN}(?-i:{LETTER})(?:$|[^A-Za-z'’])"),
        ]
        .iter()
        .filter_map(|text| compile(text))
        .collect(),
        // A reply that opens with its verdict: "(A) because …", "B: it …", "Response A.\nIt …"
        leading: compile(&format!(
            r"^(?i:{NOUN})(?:(?:\(([AB])\)|\*\*\(?([AB])\)?\*\*|\[([AB])\])(?:$|[.:;,!\n]|\s+(?:because|since|as|for|[—–-])\s)|([AB])(?:[\):.,;\n]|\s+[—–-]\s))"
        )),
        bare: compile(&format!(r"^(?i:{NOUN}){LETTER}[.!]?$")),
        // "(A) is better than (B)"
        comparative: compile(&format!("{}{DEGREE}{BETTER}", subject())),
        // "Response B is clearly more helpful": a verdict only where nothing is said of the other.
        praise: compile(&format!("{}{DEGREE}{PRAISE}", subject())),
        subject: compile(&subject()),
        tie: compile(
            r"(?i)^\W*(?:it(?:'s| is) )?(?:a )?(?:tie|draw|both|neither|equal|equally good|same)\W*$|\b(?:it is|it's|this is|verdict:|answer is|answer:|result:|call it) an? (?:tie|draw)\b|\b(?:verdict|answer|winner|result|choice)\b\W{1,4}(?:is )?(?:a )?(?:tie|draw|neither|both)\b|\bequally (?:good|bad|helpful|harmless|harmful)\b|\bboth (?:responses|answers) are (?:equal|the same|identical)",
        ),
        named: compile(r"\(([AB])\)"),
    }
});

fn letter(text: &str) -> Option<Verdict> {
    match text {
        "A" | "a" => Some(Verdict::A),
        "B" | "b" => Some(Verdict::B),
        "C" | "c" => Some(Verdict::Tie),
        other if other.eq_ignore_ascii_case("tie") => Some(Verdict::Tie),
        _ => None,
    }
}

fn first_group(captures: &regex_lite::Captures<'_>) -> Option<Verdict> {
    (1..captures.len())
        .find_map(|i| captures.get(i))
        .and_then(|m| letter(m.as_str()))
}

/// A reasoning model's thoughts, where it wrote any, and the text behind them: what follows the
/// last `</think>`. A text that opens `<think>` and never closes it has no answer yet, and gives
/// the empty text.
#[must_use]
pub fn split_reasoning(text: &str) -> (Option<&str>, &str) {
    let thought = |text: &'_ str| text.trim_start().trim_start_matches("<think>").len();
    match text.rfind("</think>") {
        Some(at) => {
            let before = &text[..at];
            let from = before.len() - thought(before);
            (Some(before[from..].trim()), &text[at + "</think>".len()..])
        }
        None if text.trim_start().starts_with("<think>") => {
            (Some(text[text.len() - thought(text)..].trim()), "")
        }
        None => (None, text),
    }
}

/// The text behind a reasoning model's thoughts; see [`split_reasoning`].
#[must_use]
pub fn without_reasoning(text: &str) -> &str {
    split_reasoning(text).1
}

/// True where a later line opens with the other letter: the text goes through both responses, so
/// its opening letter is a heading and no verdict.
fn lists_other(text: &str, verdict: Verdict) -> bool {
    let other = if verdict == Verdict::A { 'B' } else { 'A' };
    text.lines().skip(1).any(|line| {
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || "(*[".contains(c));
        line.strip_prefix(other)
            .is_some_and(|rest| rest.starts_with([')', ':', '.', ']', '*']))
    })
}

/// Reads a verdict from a judge's words.
///
/// Rules, the first that applies decides: (1) what a reasoning model thought is left out; (2) a
/// marked verdict (`[[A]]`, `[RESULT] B`, `\boxed{A}`), the last one; (3) a reply that is the
/// letter alone; (4) a reply that opens with it; (5) a stated verdict ("the answer is (B)", the
/// last one; a JSON field such as `"winner": "A"` reads the same); (6) a stated tie; (7) a
/// comparison ("(A) is better"; "(A) is more helpful" where nothing is said of the other), where
/// all such sentences agree; (8) the only letter named in round brackets. Anything else is [`Verdict::Unparseable`].
///
/// ```
/// use rlaif_core::{Verdict, parse_preference};
/// assert_eq!(parse_preference("(A)"), Verdict::A);
/// assert_eq!(parse_preference("Both are fine, but the better answer is (B)."), Verdict::B);
/// assert_eq!(parse_preference("A good question, and hard to say."), Verdict::Unparseable);
/// ```
#[must_use]
pub fn parse_preference(text: &str) -> Verdict {
    let text = without_reasoning(text).trim();
    if text.is_empty() {
        return Verdict::Unparseable;
    }
    let p = &*PATTERNS;
    let last = |regex: &Regex| {
        regex
            .captures_iter(text)
            .last()
            .as_ref()
            .and_then(first_group)
    };

    if let Some(verdict) = p.marked.as_ref().and_then(last) {
        return verdict;
    }
    let opening = |regex: &Option<Regex>| {
        regex
            .as_ref()
            .and_then(|regex| regex.captures(text))
            .as_ref()
            .and_then(first_group)
    };
    if let Some(verdict) = opening(&p.bare) {
        return verdict;
    }
    if let Some(verdict) = opening(&p.leading).filter(|verdict| !lists_other(text, *verdict)) {
        return verdict;
    }
    let stated = p.stated.iter().flat_map(|regex| {
        regex
            .captures_iter(text)
            .filter_map(|c| Some((c.get(0)?.end(), first_group(&c)?)))
    });
    if let Some((_, verdict)) = stated.max_by_key(|(end, _)| *end) {
        return verdict;
    }
    if p.tie.as_ref().is_some_and(|regex| regex.is_match(text)) {
        return Verdict::Tie;
    }
    let unanimous = |regex: &Regex| {
        let mut found = regex.captures_iter(text).filter_map(|c| first_group(&c));
        let first = found.next()?;
        Some(match found.all(|other| other == first) {
            true => first,
            false => Verdict::Unparseable,
        })
    };
    if let Some(verdict) = p.comparative.as_ref().and_then(unanimous) {
        return verdict;
    }
    if let Some(verdict) = p.praise.as_ref().and_then(unanimous) {
        let of_both = p.subject.as_ref().and_then(unanimous) == Some(Verdict::Unparseable);
        return if of_both {
            Verdict::Unparseable
        } else {
            verdict
        };
    }
    let named = p.named.as_ref().and_then(unanimous);
    named.unwrap_or(Verdict::Unparseable)
}

/// Reads which of several choices a text names, by their spellings; `None` where it names none or
/// more than one.
///
/// Choices whose first two are spelled as the letters A and B are read by [`parse_preference`], a
/// tie as the choice that is spelled C or `tie`; others must open the text or close it, as a word
/// of their own.
#[must_use]
pub fn read_choice(text: &str, choices: &[Vec<String>]) -> Option<usize> {
    let mut from = 0;
    if choices.get(..2).is_some_and(is_letter_pair) {
        match parse_preference(text) {
            Verdict::A => return Some(0),
            Verdict::B => return Some(1),
            Verdict::Tie => {
                return (2..choices.len())
                    .find(|i| spells(&choices[*i], "C") || spells(&choices[*i], "tie"));
            }
            Verdict::Unparseable => from = 2,
        }
    }
    let text = without_reasoning(text).trim();
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let at = |place: &dyn Fn(&str) -> bool| {
        let mut hits = (from..choices.len()).filter(|&i| {
            choices[i]
                .iter()
                .map(|s| s.trim())
                .any(|s| !s.is_empty() && place(s))
        });
        hits.next().filter(|_| hits.next().is_none())
    };
    let opens = |s: &str| {
        text.strip_prefix(s)
            .is_some_and(|rest| !is_word(rest.chars().next()))
    };
    let bare = text.trim_end_matches(|c: char| c.is_whitespace() || ".!*\"'`)]".contains(c));
    let closes = |s: &str| {
        let s = s.trim_end_matches([')', ']']);
        bare.strip_suffix(s)
            .is_some_and(|rest| !is_word(rest.chars().next_back()))
    };
    at(&opens).or_else(|| at(&closes))
}

/// True where a choice is spelled with this word, whatever brackets it.
fn spells(choice: &[String], word: &str) -> bool {
    choice
        .iter()
        .any(|s| s.trim_matches(|c: char| !c.is_alphanumeric()) == word)
}

/// True for two choices spelled with the letters A and B, in this order.
fn is_letter_pair(choices: &[Vec<String>]) -> bool {
    matches!(choices, [a, b] if spells(a, "A") && spells(b, "B"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_pattern_compiles() {
        let p = &*PATTERNS;
        assert!(
            [
                &p.marked,
                &p.leading,
                &p.bare,
                &p.comparative,
                &p.praise,
                &p.subject,
                &p.tie,
                &p.named
            ]
            .iter()
            .all(|r| r.is_some())
        );
        assert_eq!(p.stated.len(), 2);
    }

    #[test]
    fn verdicts_as_judges_write_them() {
        use Verdict::{A, B, Tie, Unparseable};
        let cases = [
            ("A", A),
            (" (B)", B),
            ("(A).", A),
            ("**B**", B),
            ("Response A", A),
            ("Option (B).", B),
            ("(B) because it declines politely.", B),
            ("A) It is safer.", A),
            ("B: shorter and to the point", B),
            ("A\n\nIt answers the question.", A),
            ("The answer is (A).", A),
            ("Answer: B", B),
            ("So the answer is: (B", B),
            ("**Final verdict:** A", A),
            ("Final Answer: [[B]]", B),
            ("[[A]]", A),
            ("Some say [[A]], but on reflection [[B]]", B),
            ("[[C]]", Tie),
            ("Feedback: good.\n[RESULT] A", A),
            ("{\"reason\": \"safer\", \"winner\": \"B\"}", B),
            ("{\"verdict\": \"(A)\" /* sure */}", A),
            ("I prefer response A, since B lies.", A),
            ("I would choose (B).", B),
            ("(A) is better than (B).", A),
            ("Response B is clearly more helpful than Response A.", B),
            ("While (A) is polite, the better response is (B).", B),
            ("\\boxed{A}", A),
            ("<think>(A) looks good. (A)!</think>(B)", B),
            ("It's a tie.", Tie),
            ("tie", Tie),
            ("Both responses are equally good.", Tie),
            ("", Unparseable),
            ("A good response should be kind.", Unparseable),
            ("As an AI, I can't judge this.", Unparseable),
            ("(A) and (B) both have merits.", Unparseable),
            (
                "(A) is better in tone. (B) is better in content.",
                Unparseable,
            ),
            ("(A) is kinder. (B) is more accurate.", Unparseable),
            ("(A) is polite, but (B) is better.", B),
            ("<think>the answer is (A)", Unparseable),
            ("I'm sorry, but I can't help with that.", Unparseable),
            ("The better answer is a matter of taste.", Unparseable),
            ("BOTH", Tie),
            ("Bananas", Unparseable),
            ("A) is rude.\nB) is kind.", Unparseable),
            ("(A): rude\n(B): kind\nThe answer is (B).", B),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_preference(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_flip_never_makes_a_verdict_from_none() {
        assert_eq!(Verdict::Unparseable.swapped(), Verdict::Unparseable);
        assert_eq!(Verdict::Tie.swapped(), Verdict::Tie);
        assert_eq!(Verdict::A.swapped(), Verdict::B);
    }

    #[test]
    fn choices_other_than_letters() {
        let numbers: Vec<Vec<String>> = (1..=10).map(|i| vec![i.to_string()]).collect();
        assert_eq!(read_choice("10", &numbers), Some(9));
        assert_eq!(read_choice("1", &numbers), Some(0));
        assert_eq!(read_choice("Score: 7.", &numbers), Some(6));
        assert_eq!(read_choice("somewhere between", &numbers), None);
        let words = [
            vec!["yes".to_owned(), "Yes".to_owned()],
            vec!["no".to_owned()],
        ];
        assert_eq!(read_choice("Yes, it does.", &words), Some(0));
        assert_eq!(read_choice("nothing", &words), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = parse_preference(&text);
        }

        #[test]
        fn exchanging_the_letters_exchanges_the_verdict(
            pick in prop::sample::select(vec!["({})", "The answer is ({}).", "[[{}]]", "{}", "I prefer {}."]),
        ) {
            let a = parse_preference(&pick.replace("{}", "A"));
            let b = parse_preference(&pick.replace("{}", "B"));
            prop_assert_eq!(a, Verdict::A);
            prop_assert_eq!(a.swapped(), b);
        }
    }
}
