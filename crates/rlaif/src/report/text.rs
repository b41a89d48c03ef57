//! Untrusted text made visible, and two texts side by side.

use maud::{Markup, html};
use rlaif_core::Rater;
use rlaif_core::record::RevisionFlag;

/// Text with characters that cannot be seen, or that turn the direction of writing, shown by
/// their code. Escaping is maud's.
pub(super) fn visible(text: &str) -> Markup {
    let hidden = |c: char| {
        matches!(c,
            '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    html! {
        @for part in text.split_inclusive(hidden) {
            @match part.chars().next_back().filter(|c| hidden(*c)) {
                Some(c) => {
                    (part.strip_suffix(c).unwrap_or(part))
                    span.invisible { (format!("U+{:04X}", u32::from(c))) }
                }
                None => (part),
            }
        }
    }
}

pub(super) fn rater(rater: &Rater) -> String {
    match rater {
        Rater::Model(id) => id.to_string(),
        Rater::Human(name) => name.clone(),
    }
}

pub(super) fn flag(flag: RevisionFlag) -> &'static str {
    match flag {
        RevisionFlag::Unchanged => "unchanged",
        RevisionFlag::RepeatsCritique => "repeats the critique",
        RevisionFlag::Refusal => "became a refusal",
        RevisionFlag::Empty => "empty",
    }
}

/// Before and after, with the words that went and came marked.
pub(super) fn diff(before: &str, after: &str) -> Markup {
    let diff = similar::TextDiff::from_unicode_words(before, after);
    let side = |skip: similar::ChangeTag, name: &str| {
        html! {
            div.side {
                h4 { (name) }
                div.text {
                    @for change in diff.iter_all_changes().filter(|c| c.tag() != skip) {
                        @match change.tag() {
                            similar::ChangeTag::Equal => (visible(change.value())),
                            similar::ChangeTag::Delete => del { (visible(change.value())) },
                            similar::ChangeTag::Insert => ins { (visible(change.value())) },
                        }
                    }
                }
            }
        }
    };
    html! {
        div.sides {
            (side(similar::ChangeTag::Insert, "before"))
            (side(similar::ChangeTag::Delete, "after"))
        }
    }
}
