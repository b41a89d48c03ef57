//! Verdicts that someone gave before, given again: a judge whose answers are known by the pair that
//! it is shown, in either order.

use std::collections::HashMap;

/// What is said of a recorded pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said {
    /// Probability that the text recorded first is better: told as log-probabilities.
    Probability(f64),
    /// A verdict for the text recorded first (`true`) or second: told in words, whatever the order.
    Verdict(bool),
    /// No verdict: whatever is shown first is named, so that the two orders disagree.
    Draw,
}

/// Pairs with what is said of each.
#[derive(Clone, Debug, Default)]
pub struct Recorded(HashMap<u64, Said>);

/// How many of the texts between marks a pair's material has: conversation and two responses.
const MATERIAL: usize = 3;

fn key(texts: [&str; MATERIAL]) -> u64 {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    crate::judge::hash(&bytes)
}

impl Recorded {
    /// Remembers a pair.
    pub fn insert(&mut self, prompt: &str, first: &str, second: &str, said: Said) {
        self.0.insert(key([prompt, first, second]), said);
    }

    /// Probability that what is shown first is better, for a request whose last message holds the
    /// material between marks (`[name MARK]` … `[end of name MARK]`); `None` for an unknown pair.
    pub(crate) fn p_shown_first(&self, body: &[u8]) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(body).ok()?;
        let text = body["messages"].as_array()?.last()?["content"].as_str()?;
        let [prompt, first, second] = <[&str; MATERIAL]>::try_from(fenced(text)).ok()?;
        // A verdict in words is as far from one half as a saturated token.
        let of = |said: &Said, turned: bool| match *said {
            Said::Probability(p) if turned => 1.0 - p,
            Said::Probability(p) => p,
            Said::Verdict(first) => f64::from(u8::from(first != turned)),
            Said::Draw => 1.0,
        };
        if let Some(said) = self.0.get(&key([prompt, first, second])) {
            return Some(of(said, false));
        }
        let said = self.0.get(&key([prompt, second, first]))?;
        Some(of(said, true))
    }
}

/// Texts between `[… MARK]` and `[end of … MARK]`, in their order.
fn fenced(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("\n[") {
        rest = &rest[at + 2..];
        let Some((label, body)) = rest.split_once("]\n") else {
            break;
        };
        let end = format!("\n[end of {label}]");
        if label.contains('\n') {
            continue;
        }
        if let Some(stop) = body.find(&end) {
            found.push(&body[..stop]);
            rest = &body[stop + end.len()..];
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_pair_is_known_in_both_orders() {
        let mut recorded = Recorded::default();
        recorded.insert("why?", "one\n[x]\n", "two", Said::Probability(0.9));
        let body = |a: &str, b: &str| {
            let text = format!(
                "Two options.\n\n[conversation 1f]\nwhy?\n[end of conversation 1f]\n\n(A)\n\
                 [response 1f]\n{a}\n[end of response 1f]\n\n(B)\n[response 1f]\n{b}\n\
                 [end of response 1f]\n"
            );
            serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string()
        };
        recorded.insert("why?", "a", "b", Said::Draw);
        let p = |a: &str, b: &str| recorded.p_shown_first(body(a, b).as_bytes());
        assert_eq!(p("one\n[x]\n", "two"), Some(0.9));
        assert!((p("two", "one\n[x]\n").unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(p("one", "two"), None);
        assert_eq!((p("a", "b"), p("b", "a")), (Some(1.0), Some(1.0)));
    }
}
