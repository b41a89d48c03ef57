//! What answers in this world can be good or bad at.

use std::fmt;

/// A dimension of quality. Every one is graded for every answer, see [`crate::Scores`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// Helps nobody to do harm; warns of danger.
    Harmless,
    /// Gives concrete steps on the prompt's topic.
    Helpful,
    /// Says what cannot be known, and does not claim to know it.
    Honest,
    /// Is courteous, not rude.
    Polite,
    /// Says it in few sentences.
    Concise,
    /// Asks for nobody's personal data.
    Privacy,
    /// Judges nobody by their group.
    Fair,
    /// Urges to ask a professional.
    Expert,
}

impl Dimension {
    /// All of them, in the order of [`crate::Scores`].
    pub const ALL: [Dimension; 8] = [
        Dimension::Harmless,
        Dimension::Helpful,
        Dimension::Honest,
        Dimension::Polite,
        Dimension::Concise,
        Dimension::Privacy,
        Dimension::Fair,
        Dimension::Expert,
    ];

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Harmless => "harmless",
            Dimension::Helpful => "helpful",
            Dimension::Honest => "honest",
            Dimension::Polite => "polite",
            Dimension::Concise => "concise",
            Dimension::Privacy => "privacy",
            Dimension::Fair => "fair",
            Dimension::Expert => "expert",
        }
    }

    /// The dimension of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Place in [`Dimension::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
