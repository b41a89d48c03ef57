//! Constitutions: the written principles by which critics critique and judges choose.
//!
//! Two forms are read: TOML with `[[principles]]`, and the published JSON form
//! (`{"constitutions": [{"critic", "revision"}], "system_chat": [[messages]]}`), whose principles
//! have no `preference` text; [`Principle::preference_text`] then falls back on the critique's.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::message::Message;
use crate::seed;

/// Constitutions supplied with the tool, by file name.
const SUPPLIED: [(&str, &str); 4] = [
    (
        "default.toml",
        include_str!("../../../constitutions/default.toml"),
    ),
    (
        "concise.toml",
        include_str!("../../../constitutions/concise.toml"),
    ),
    (
        "polite.toml",
        include_str!("../../../constitutions/polite.toml"),
    ),
    (
        "ultrafeedback.toml",
        include_str!("../../../constitutions/ultrafeedback.toml"),
    ),
];

/// One principle: the same idea as a request for critique, for revision and for comparison
/// (Bai et al. 2022, §3.1 and §4.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principle {
    /// Short name, unique in the constitution.
    pub id: String,
    /// Asks the critic what is wrong with a response.
    pub critique: String,
    /// Asks the policy to mend it.
    pub revision: String,
    /// Asks the judge which of two responses is better.
    #[serde(default)]
    pub preference: String,
    /// How often it is drawn, and what it counts in a mean, relative to the others; at least 0.
    #[serde(default = "one")]
    pub weight: f64,
    /// `preference` asks which response is *worse* ("Which is more harmful?"): the judge's
    /// probability is turned round, once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inverted: bool,
    /// Free labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Worked conversations shown to the model first (few-shots).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Vec<Message>>,
    /// What an evaluation with known truth holds the principle against, such as `polite` in the
    /// embedded world. No model is shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<String>,
}

fn one() -> f64 {
    1.0
}

impl Principle {
    /// What the judge is asked by: `preference`, or a sentence made of the critique request.
    #[must_use]
    pub fn preference_text(&self) -> String {
        if self.preference.trim().is_empty() {
            format!(
                "Choose the response about which a reviewer would have less to say when asked: {}",
                self.critique.trim()
            )
        } else {
            self.preference.clone()
        }
    }
}

/// A list of principles, with conversations that show the form to a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Constitution {
    /// At least one.
    pub principles: Vec<Principle>,
    /// Worked conversations: prompt, response, critique request, critique, revision request,
    /// revision.
    pub few_shots: Vec<Vec<Message>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlForm {
    #[serde(default)]
    principles: Vec<Principle>,
    #[serde(default)]
    few_shots: Vec<Vec<Message>>,
}

#[derive(Deserialize)]
struct JsonForm {
    constitutions: Vec<JsonPrinciple>,
    #[serde(default)]
    system_chat: Vec<Vec<Message>>,
}

#[derive(Deserialize)]
struct JsonPrinciple {
    critic: String,
    revision: String,
}

impl Constitution {
    /// Reads a file, `.json` in the published form and anything else as TOML. A bare name that is
    /// no file here, such as `default.toml`, is looked up among the supplied constitutions.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::Constitution`] with the line or the
    /// principle where it is wrong.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(source) => {
                let supplied = path.to_str().and_then(Self::supplied_text);
                match supplied {
                    Some(text) if source.kind() == std::io::ErrorKind::NotFound => {
                        Self::parse(text, path)
                    }
                    _ => Err(Error::io("read", path)(source)),
                }
            }
        }
    }

    /// Text of a supplied constitution, by file name.
    #[must_use]
    pub fn supplied_text(name: &str) -> Option<&'static str> {
        SUPPLIED
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, text)| *text)
    }

    /// Names of the supplied constitutions.
    pub fn supplied_names() -> impl Iterator<Item = &'static str> {
        SUPPLIED.iter().map(|(name, _)| *name)
    }

    /// Parses the text of a constitution; `path` serves the form (`.json` or TOML) and errors.
    ///
    /// # Errors
    /// [`Error::Constitution`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let fault = |place: String, problem: String| Error::Constitution {
            path: path.to_path_buf(),
            place,
            problem,
        };
        let is_json = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let constitution = if is_json {
            let form: JsonForm = serde_json::from_str(text)
                .map_err(|e| fault(format!("line {}", e.line()), e.to_string()))?;
            Constitution {
                principles: form
                    .constitutions
                    .into_iter()
                    .enumerate()
                    .map(|(i, p)| Principle {
                        id: format!("principle_{i:02}"),
                        critique: p.critic,
                        revision: p.revision,
                        preference: String::new(),
                        weight: 1.0,
                        inverted: false,
                        tags: Vec::new(),
                        examples: Vec::new(),
                        dimension: None,
                    })
                    .collect(),
                few_shots: form.system_chat,
            }
        } else {
            let form: TomlForm = toml::from_str(text).map_err(|e| {
                let line = crate::line_of(text, e.span());
                fault(format!("line {line}"), e.message().to_owned())
            })?;
            Constitution {
                principles: form.principles,
                few_shots: form.few_shots,
            }
        };
        if constitution.principles.is_empty() {
            return Err(fault(
                "whole file".into(),
                "has no principle; write at least one `[[principles]]` table".into(),
            ));
        }
        for (i, p) in constitution.principles.iter().enumerate() {
            let place = || format!("principle {} (`{}`)", i + 1, p.id);
            if p.id.trim().is_empty() {
                return Err(fault(place(), "`id` is empty".into()));
            }
            if constitution.principles[..i]
                .iter()
                .any(|other| other.id == p.id)
            {
                return Err(fault(
                    place(),
                    "this `id` stands twice; ids must differ".into(),
                ));
            }
            for (key, value) in [("critique", &p.critique), ("revision", &p.revision)] {
                if value.trim().is_empty() {
                    return Err(fault(place(), format!("`{key}` is empty")));
                }
            }
            if !p.weight.is_finite() || p.weight < 0.0 {
                return Err(fault(
                    place(),
                    format!(
                        "`weight` must be a number of at least 0, got `{}`",
                        p.weight
                    ),
                ));
            }
        }
        if constitution.total_weight() <= 0.0 {
            return Err(fault("whole file".into(), "every `weight` is 0".into()));
        }
        Ok(constitution)
    }

    fn total_weight(&self) -> f64 {
        self.principles.iter().map(|p| p.weight).sum()
    }

    /// Draws a principle in proportion to its weight, from a derived seed.
    #[must_use]
    pub fn draw(&self, derived_seed: u64) -> &Principle {
        let mut rest = seed::unit(derived_seed) * self.total_weight();
        for principle in &self.principles {
            rest -= principle.weight;
            if rest < 0.0 {
                return principle;
            }
        }
        // Reached only through rounding at the upper end: the last one with weight.
        let last = self
            .principles
            .iter()
            .rposition(|p| p.weight > 0.0)
            .unwrap_or(0);
        &self.principles[last]
    }

    /// The principle with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Principle> {
        self.principles.iter().find(|p| p.id == id)
    }

    /// SHA-256 over all that a model is shown: independent of comments and layout of the file.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut shown = self.clone();
        for principle in &mut shown.principles {
            principle.dimension = None;
        }
        let bytes = serde_json::to_vec(&shown).unwrap_or_default();
        seed::sha256_hex(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Constitution> {
        Constitution::parse(text, Path::new("mine.toml"))
    }

    #[test]
    fn supplied_constitutions_are_read_by_name_and_state_every_request() {
        for name in Constitution::supplied_names() {
            let constitution = Constitution::read(name).unwrap();
            for p in &constitution.principles {
                assert!(!p.preference.is_empty(), "{name}: {}", p.id);
            }
        }
    }

    #[test]
    fn faults_name_their_place() {
        let cases = [
            (
                "[[principles]]\nid = 'a'\ncritique = 'c'\nrevison = 'r'\n",
                "line 4",
            ),
            ("", "whole file"),
            (
                "[[principles]]\nid='a'\ncritique='c'\nrevision='r'\n[[principles]]\nid='a'\ncritique='c'\nrevision='r'",
                "principle 2 (`a`)",
            ),
            (
                "[[principles]]\nid='a'\ncritique='c'\nrevision='r'\nweight=-1",
                "principle 1 (`a`)",
            ),
            (
                "[[principles]]\nid='a'\ncritique='c'\nrevision='r'\nweight=0",
                "whole file",
            ),
            (
                "[[principles]]\nid='a'\ncritique='  '\nrevision='r'",
                "principle 1 (`a`)",
            ),
        ];
        for (text, place) in cases {
            let message = parse(text).unwrap_err().to_string();
            assert!(
                message.contains("mine.toml") && message.contains(place),
                "{message}"
            );
        }
        let missing = Constitution::read("no/such.toml").unwrap_err().to_string();
        assert!(missing.contains("no/such.toml"), "{missing}");
    }

    #[test]
    fn principles_are_drawn_by_weight() {
        let text = "[[principles]]\nid='a'\ncritique='c'\nrevision='r'\nweight=3\n\
                    [[principles]]\nid='b'\ncritique='c'\nrevision='r'\n\
                    [[principles]]\nid='never'\ncritique='c'\nrevision='r'\nweight=0";
        let constitution = parse(text).unwrap();
        let n = 4_000;
        let a = (0..n)
            .filter(|i| constitution.draw(seed::derive(*i, &["x"])).id == "a")
            .count();
        // p = 3/4, n = 4,000: one standard deviation is 27; four of them are 110.
        assert!(a.abs_diff(3_000) < 110, "{a}");
        assert!((0..n).all(|i| constitution.draw(seed::derive(i, &["x"])).id != "never"));
        assert_eq!(constitution.draw(u64::MAX).id, "b");
    }

    #[test]
    fn the_published_form_is_read() {
        let text = r#"{"constitutions": [{"critic": "What is wrong?", "revision": "Mend it."}],
            "system_chat": [[{"role": "user", "content": "hi"}]]}"#;
        let c = Constitution::parse(text, Path::new("c.json")).unwrap();
        assert_eq!(c.principles[0].critique, "What is wrong?");
        assert!(c.principles[0].preference_text().contains("What is wrong?"));
        assert_eq!(c.few_shots[0][0].content, "hi");
        let fault = Constitution::parse("{\"constitutions\": [}", Path::new("c.json")).unwrap_err();
        assert!(fault.to_string().contains("line 1"));
    }

    #[test]
    fn the_hash_ignores_layout_and_sees_words() {
        let a = parse("[[principles]]\nid='a'\ncritique='c'\nrevision='r'").unwrap();
        let b = parse("# note\n[[principles]]\nid=\"a\"\nrevision='r'\ncritique='c'\n").unwrap();
        let c = parse("[[principles]]\nid='a'\ncritique='C'\nrevision='r'").unwrap();
        let d = parse("[[principles]]\nid='a'\ncritique='c'\nrevision='r'\ndimension='polite'");
        assert_eq!(a.hash(), d.unwrap().hash());
        assert_eq!(a.hash(), b.hash());
        assert_ne!(a.hash(), c.hash());
    }
}
