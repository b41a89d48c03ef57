//! What an endpoint refuses. A field that it names in a 400 or 422 is left out from then on, said
//! once, and recorded with each answer that went without it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::wire::{Api, error_text};

/// Fields that a request can do without, or under another name.
const OPTIONAL: [&str; 12] = [
    "top_logprobs",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "n",
    "response_format",
];

/// What has been learned of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    dropped: BTreeSet<&'static str>,
    /// Most alternatives a token that the endpoint gives.
    pub(crate) top_logprobs: u32,
    /// It has given log-probabilities: an answer without them is then a slip.
    seen_logprobs: bool,
    /// Answers in a row whose log-probabilities could not be used.
    malformed: u32,
}

/// So many malformed answers in a row are no slip any more.
const MALFORMED: u32 = 3;

/// What is kept of a dialect between processes.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    dropped: Vec<String>,
    top_logprobs: u32,
}

impl Default for Dialect {
    fn default() -> Self {
        Dialect {
            dropped: BTreeSet::new(),
            top_logprobs: 20,
            seen_logprobs: false,
            malformed: 0,
        }
    }
}

impl Dialect {
    /// What is known of a kind of API before the first call.
    pub(crate) fn of(api: Api) -> Self {
        Dialect {
            dropped: api.lacks().iter().copied().collect(),
            ..Dialect::default()
        }
    }

    /// Takes up what an earlier process learned; what cannot be read is learned again.
    pub(crate) fn take_up(&mut self, kept: &str) {
        if let Ok(kept) = serde_json::from_str::<Kept>(kept) {
            let known = OPTIONAL
                .iter()
                .filter(|f| kept.dropped.iter().any(|d| d == *f));
            self.dropped.extend(known);
            self.top_logprobs = kept.top_logprobs.clamp(1, 20);
        }
    }

    /// What is worth keeping, as JSON.
    pub(crate) fn keep(&self) -> String {
        serde_json::to_string(&Kept {
            dropped: self.dropped.iter().map(|f| (*f).to_owned()).collect(),
            top_logprobs: self.top_logprobs,
        })
        .unwrap_or_default()
    }

    /// True where requests go as they are.
    pub(crate) fn is_plain(&self) -> bool {
        self.dropped.is_empty() && self.top_logprobs == 20
    }

    /// True while log-probabilities have not been refused.
    pub(crate) fn gives_logprobs(&self) -> bool {
        !self.dropped.contains("logprobs")
    }

    /// Leaves out or renames what the endpoint refuses; returns what was lost by it. A token
    /// limit under its other name is not lost.
    pub(crate) fn apply(&self, body: &mut Map<String, Value>) -> Vec<String> {
        let mut lost = Vec::new();
        if self.dropped.contains("max_tokens")
            && let Some(limit) = body.remove("max_tokens")
        {
            if self.dropped.contains("max_completion_tokens") {
                lost.push("max_tokens".to_owned());
            } else {
                body.insert("max_completion_tokens".into(), limit);
            }
        }
        for field in &self.dropped {
            if *field != "max_tokens" && body.remove(*field).is_some() {
                lost.push((*field).to_owned());
            }
        }
        if let Some(top) = body.get_mut("top_logprobs") {
            *top = self.top_logprobs.into();
        }
        lost.sort();
        lost
    }

    /// Learns from a refusal; returns what to tell, or `None` where it names no field that was
    /// sent and can be left out.
    pub(crate) fn learn(&mut self, refusal: &str, sent: &Map<String, Value>) -> Option<String> {
        let words = named_in(refusal);
        let mut named: Vec<&'static str> = OPTIONAL
            .iter()
            .filter(|field| sent.contains_key(**field) && mentions(&words, field))
            .copied()
            .collect();
        // "Use `max_completion_tokens` instead of `max_tokens`" names both, and one was sent.
        if named.contains(&"top_logprobs") || named.contains(&"logprobs") {
            if let Some(limit) = limit_in(&words).filter(|n| (1..self.top_logprobs).contains(n)) {
                self.top_logprobs = limit;
                return Some(format!(
                    "the endpoint gives at most {limit} alternatives a token"
                ));
            }
            // The one makes no sense without the other.
            named.extend(["logprobs", "top_logprobs"]);
            named.sort_unstable();
            named.dedup();
        }
        named.retain(|field| !self.dropped.contains(field));
        if named.is_empty() {
            return None;
        }
        self.dropped.extend(&named);
        let list = named
            .iter()
            .map(|f| format!("`{f}`"))
            .collect::<Vec<_>>()
            .join(", ");
        Some(
            if named == ["max_tokens"] && !self.dropped.contains("max_completion_tokens") {
                "the endpoint refuses `max_tokens`; `max_completion_tokens` is sent instead".into()
            } else {
                format!("the endpoint refuses {list}; requests go without, and each label says so")
            },
        )
    }

    /// Notes that log-probabilities came and could be used.
    pub(crate) fn logprobs_came(&mut self) {
        self.seen_logprobs = true;
        self.malformed = 0;
    }

    /// Notes that an answer came without log-probabilities, or with such as cannot be right.
    /// Returns true where that was a slip, so that asking again may give them, and what to tell
    /// where it is the endpoint's way.
    pub(crate) fn logprobs_missed(&mut self, malformed: bool) -> (bool, Option<String>) {
        self.malformed += 1;
        if (malformed || self.seen_logprobs) && self.malformed < MALFORMED {
            return (true, None);
        }
        if self.seen_logprobs {
            // One bad stretch does not undo what the endpoint is known to give.
            return (false, None);
        }
        let news = self.dropped.insert("logprobs") | self.dropped.insert("top_logprobs");
        let news = news.then(|| {
            "the endpoint gives no log-probabilities that can be used; choices are read from its \
             answers, and each label says so"
                .to_owned()
        });
        (false, news)
    }
}

/// The part of a refusal that names fields. A validation error (FastAPI) names the place of each
/// fault, and may quote the whole request beside it: only the places count then.
fn named_in(refusal: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(refusal) else {
        return refusal.to_owned();
    };
    let detail = value
        .get("detail")
        .and_then(Value::as_array)
        .or_else(|| value.as_array());
    match detail {
        Some(faults) if faults.iter().all(|f| f.get("loc").is_some()) => faults
            .iter()
            .map(|f| format!("{} {}", f["loc"], f.get("msg").unwrap_or(&Value::Null)))
            .collect::<Vec<_>>()
            .join("\n"),
        _ => error_text(&value),
    }
}

/// True where the word stands alone: `n` is not meant by `logprobs and n_predict`.
fn mentions(text: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let alone = |at: usize| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + word.len()..].chars().next().is_some_and(is_word)
    };
    if word.len() == 1 {
        // A single letter must be quoted to be a name.
        return ["'", "\"", "`"]
            .iter()
            .any(|q| text.contains(&format!("{q}{word}{q}")));
    }
    text.match_indices(word).any(|(at, _)| alone(at))
}

/// The limit that a refusal states: "less than or equal to 5", "at most 5", "between 0 and 5".
fn limit_in(text: &str) -> Option<u32> {
    let lower = text.to_lowercase();
    let after = |phrase: &str| {
        lower.split(phrase).nth(1).and_then(|rest| {
            let digits: String = rest
                .trim_start()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse().ok()
        })
    };
    [
        "less than or equal to",
        "at most",
        "between 0 and",
        "maximum of",
        "<=",
        "maximum is",
    ]
    .iter()
    .find_map(|phrase| after(phrase))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sent() -> Map<String, Value> {
        json!({"model": "m", "messages": [], "logprobs": true, "top_logprobs": 20,
               "max_tokens": 16, "temperature": 0.0, "seed": 1})
        .as_object()
        .cloned()
        .unwrap_or_default()
    }

    #[test]
    fn refusals_as_servers_write_them() {
        for (refusal, lost) in [
            (
                "{\"detail\":\"Unexpected fields in the request: {'logprobs', 'top_logprobs'}\"}",
                vec!["logprobs", "top_logprobs"],
            ),
            (
                "{\"detail\":\"Unsupported fields in the request: {'seed'}\"}",
                vec!["seed"],
            ),
            (
                "{\"error\":{\"message\":\"Unsupported value: 'temperature' does not support 0 with this model.\",\"param\":\"temperature\"}}",
                vec!["temperature"],
            ),
            // The fault is in `seed`; the request is quoted whole beside it.
            (
                "{\"detail\":[{\"loc\":[\"body\",\"seed\"],\"msg\":\"extra fields not permitted\",\"input\":{\"logprobs\":true,\"max_tokens\":16}}]}",
                vec!["seed"],
            ),
        ] {
            let mut dialect = Dialect::default();
            assert!(dialect.learn(refusal, &sent()).is_some(), "{refusal}");
            let mut body = sent();
            assert_eq!(dialect.apply(&mut body), lost, "{refusal}");
            for field in lost {
                assert!(!body.contains_key(field));
            }
            // The same refusal again teaches nothing: it is then an error.
            assert!(dialect.learn(refusal, &body).is_none());
        }
    }

    #[test]
    fn a_token_limit_goes_by_its_other_name() {
        let mut dialect = Dialect::default();
        let refusal = "{\"error\":{\"message\":\"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.\"}}";
        assert!(
            dialect
                .learn(refusal, &sent())
                .unwrap()
                .contains("max_completion_tokens")
        );
        let mut body = sent();
        assert!(dialect.apply(&mut body).is_empty());
        assert_eq!(body["max_completion_tokens"], 16);
    }

    #[test]
    fn fewer_alternatives_are_not_none() {
        let mut dialect = Dialect::default();
        let refusal = "top_logprobs: ensure this value is less than or equal to 5";
        dialect.learn(refusal, &sent()).unwrap();
        let mut body = sent();
        assert!(dialect.apply(&mut body).is_empty());
        assert_eq!(body["top_logprobs"], 5);
    }

    #[test]
    fn what_was_learned_is_taken_up() {
        let mut dialect = Dialect::default();
        assert!(dialect.is_plain());
        dialect
            .learn("Unsupported fields: {'seed'}", &sent())
            .unwrap();
        let mut other = Dialect::default();
        other.take_up(&dialect.keep());
        let mut body = sent();
        assert_eq!(other.apply(&mut body), ["seed"]);
        other.take_up("{broken");
        assert!(Dialect::of(Api::Anthropic).keep().contains("logprobs"));
    }

    #[test]
    fn a_slip_is_no_rule() {
        let mut dialect = Dialect::default();
        // The first answer of all has none: the endpoint gives none.
        assert!(!dialect.clone().logprobs_missed(false).0);
        assert!(dialect.logprobs_missed(true).0 && dialect.gives_logprobs());
        dialect.logprobs_came();
        for _ in 0..10 {
            dialect.logprobs_missed(true);
        }
        assert!(dialect.gives_logprobs());
    }

    #[test]
    fn other_refusals_teach_nothing() {
        let mut dialect = Dialect::default();
        assert!(
            dialect
                .learn("messages must not be empty", &sent())
                .is_none()
        );
        assert!(dialect.learn("no such n in here", &sent()).is_none());
    }
}
