//! Sentence templates: literals, alternatives `[a|b|]` and slots `{name}`, to write and to read.

/// What a slot stands for; texts are from the assistant's view unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The task as an infinitive phrase (in prompts: from the user's view).
    Topic,
    /// The task as a gerund phrase (in prompts: from the user's view).
    Doing,
    /// The thing that the task is about.
    Thing,
    /// The n-th step, from 0.
    Step(u8),
    /// What nobody can know from here.
    Unknown,
    /// A caution.
    Care,
    /// A reckless shortcut.
    Risk,
    /// Who would be harmed.
    Victim,
    /// The n-th decent alternative, from 0.
    Safe(u8),
    /// A professional.
    Expert,
    /// Personal data.
    Pii,
    /// A group of people.
    Group,
}

impl Slot {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "topic" => Slot::Topic,
            "doing" => Slot::Doing,
            "thing" => Slot::Thing,
            "step1" => Slot::Step(0),
            "step2" => Slot::Step(1),
            "step3" => Slot::Step(2),
            "unknown" => Slot::Unknown,
            "care" => Slot::Care,
            "risk" => Slot::Risk,
            "victim" => Slot::Victim,
            "safe1" => Slot::Safe(0),
            "safe2" => Slot::Safe(1),
            "expert" => Slot::Expert,
            "pii" => Slot::Pii,
            "group" => Slot::Group,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Any(Vec<Vec<Piece>>),
    Slot(Slot),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(Vec<Piece>);

impl Pattern {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::pieces(text).map(Pattern)
    }

    fn pieces(text: &str) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let at = rest.find(['[', '{']).unwrap_or(rest.len());
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].to_owned()));
                rest = &rest[at..];
                continue;
            }
            let (close, is_slot) = if rest.starts_with('{') {
                ('}', true)
            } else {
                (']', false)
            };
            let end = rest
                .find(close)
                .ok_or_else(|| format!("`{text}` lacks a `{close}`"))?;
            let inner = &rest[1..end];
            if is_slot {
                let slot = Slot::of(&inner.to_lowercase());
                pieces.push(Piece::Slot(slot.ok_or_else(|| {
                    format!("`{text}` has the unknown slot `{inner}`")
                })?));
            } else {
                if inner.contains('[') {
                    return Err(format!("`{text}` has brackets within brackets"));
                }
                let list: Result<_, _> = inner.split('|').map(Self::pieces).collect();
                pieces.push(Piece::Any(list?));
            }
            rest = &rest[end + 1..];
        }
        Ok(pieces)
    }

    /// The slots, in order; those of alternatives too.
    pub fn slots(&self) -> Vec<Slot> {
        fn gather(pieces: &[Piece], out: &mut Vec<Slot>) {
            for piece in pieces {
                match piece {
                    Piece::Slot(s) => out.push(*s),
                    Piece::Any(list) => list.iter().for_each(|p| gather(p, out)),
                    Piece::Text(_) => {}
                }
            }
        }
        let mut out = Vec::new();
        gather(&self.0, &mut out);
        out
    }

    /// Writes the sentence: `choose(n)` draws one of n alternatives, `fill` gives a slot's text.
    /// The first letter becomes a capital.
    pub fn write<'a>(
        &self,
        mut choose: impl FnMut(usize) -> usize,
        mut fill: impl FnMut(Slot) -> &'a str,
    ) -> String {
        let mut out = String::new();
        write(&self.0, &mut choose, &mut fill, &mut out);
        capitalize(&mut out);
        out
    }

    /// Reads a sentence back: the slots' texts, or `None` where it is not of this pattern.
    /// `candidates` lists what a slot may hold.
    pub fn read<'a>(
        &self,
        sentence: &str,
        candidates: &impl Fn(Slot) -> Vec<&'a str>,
    ) -> Option<Vec<(Slot, &'a str)>> {
        let mut found = Vec::new();
        let pieces: Vec<&Piece> = self.0.iter().collect();
        read(&pieces, sentence, true, candidates, &mut found).then_some(found)
    }
}

/// Makes the first letter a capital.
pub(crate) fn capitalize(text: &mut String) {
    if let Some(first) = text.chars().next()
        && first.is_ascii_lowercase()
    {
        text.replace_range(..1, &first.to_ascii_uppercase().to_string());
    }
}

fn write<'a>(
    pieces: &[Piece],
    choose: &mut impl FnMut(usize) -> usize,
    fill: &mut impl FnMut(Slot) -> &'a str,
    out: &mut String,
) {
    for piece in pieces {
        match piece {
            Piece::Text(t) => out.push_str(t),
            Piece::Any(list) => {
                if let Some(chosen) = list.get(choose(list.len())) {
                    write(chosen, choose, fill, out);
                }
            }
            Piece::Slot(s) => out.push_str(fill(*s)),
        }
    }
}

fn read<'a>(
    pieces: &[&Piece],
    text: &str,
    start: bool,
    candidates: &impl Fn(Slot) -> Vec<&'a str>,
    found: &mut Vec<(Slot, &'a str)>,
) -> bool {
    let Some((piece, rest)) = pieces.split_first() else {
        return text.is_empty();
    };
    match piece {
        Piece::Text(t) => strip(text, t, start)
            .is_some_and(|left| read(rest, left, start && t.is_empty(), candidates, found)),
        Piece::Any(list) => list.iter().any(|chosen| {
            let whole: Vec<&Piece> = chosen.iter().chain(rest.iter().copied()).collect();
            read(&whole, text, start, candidates, found)
        }),
        Piece::Slot(slot) => candidates(*slot).into_iter().any(|t| {
            let Some(left) = strip(text, t, start) else {
                return false;
            };
            found.push((*slot, t));
            let ok = read(rest, left, false, candidates, found);
            if !ok {
                found.pop();
            }
            ok
        }),
    }
}

/// Removes a prefix; at the start of a sentence the first letter may be a capital.
fn strip<'t>(text: &'t str, prefix: &str, start: bool) -> Option<&'t str> {
    if !start {
        return text.strip_prefix(prefix);
    }
    let mut chars = prefix.chars();
    let Some(first) = chars.next() else {
        return Some(text);
    };
    let got = text.chars().next()?;
    got.eq_ignore_ascii_case(&first)
        .then(|| text[got.len_utf8()..].strip_prefix(chars.as_str()))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let p = Pattern::parse("[I'd|I would] say{topic}, [first {step1}|{step1}].").unwrap();
        let texts = |s: Slot| match s {
            Slot::Topic => vec![" wash", " wash up"],
            _ => vec!["rinse", "rinse it"],
        };
        for i in 0..2 {
            let text = p.write(|n| i % n, |s| texts(s)[i]);
            let found = p.read(&text, &texts).unwrap();
            assert_eq!(
                found,
                [
                    (Slot::Topic, texts(Slot::Topic)[i]),
                    (Slot::Step(0), texts(Slot::Step(0))[i])
                ]
            );
        }
        assert_eq!(p.read("I'd say wash, rinse it twice.", &texts), None);
        assert_eq!(p.read("I'd say wash, rinse", &texts), None);
    }

    #[test]
    fn a_slot_in_front_is_capitalized_and_read() {
        let p = Pattern::parse("[|Sure, ]{group} know.").unwrap();
        let text = p.write(|_| 0, |_| "tall people");
        assert_eq!(text, "Tall people know.");
        assert!(p.read(&text, &|_| vec!["tall people"]).is_some());
    }

    #[test]
    fn faults_are_named() {
        assert!(Pattern::parse("a [b").unwrap_err().contains("lacks"));
        assert!(
            Pattern::parse("a {b}")
                .unwrap_err()
                .contains("unknown slot")
        );
    }
}
