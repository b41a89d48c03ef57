//! A small world whose truth is known: a grammar of assistant conversations, an oracle that reads
//! answers back and grades them, and simulated annotators.
//!
//! It is a laboratory. Figures measured in it hold in it; they show that the method works as
//! implemented, and what a weak judge, a missing KL penalty or too few labels do to it.

mod annotators;
mod compose;
mod dimension;
mod models;
mod oracle;
mod pattern;
mod rng;
mod tables;

pub use annotators::{ANNOTATORS, Annotator};
pub use compose::{Answer, Composer, Habits, Manner, Scene, Sentence, Side};
pub use dimension::Dimension;
pub use models::write_models;
pub use oracle::{Reading, Scores, prefers};
pub use rng::Rng;
pub use tables::{Category, Topic, Use, World};

#[cfg(test)]
mod tests;
