//! Vocabulary that every other crate shares: messages, models, constitutions, records, dataset
//! files and the run folder.
//!
//! What is absent on purpose: no tensors, no sockets, no clocks, no global random state, and
//! nothing is printed. A value here depends on its arguments and, where a path is given, on that
//! file alone.

pub mod choice;
pub mod constitution;
pub mod dataset;
pub mod error;
pub mod export;
pub mod message;
pub mod model;
pub mod outcome;
pub mod pairs;
pub mod record;
pub mod reward;
pub mod rowlog;
pub mod run;
pub mod script;
pub mod seed;
pub mod table;

pub use choice::{Verdict, parse_preference};
pub use constitution::{Constitution, Principle};
pub use error::{Error, Result, line_of};
pub use message::{Message, Prompt, Role};
pub use model::{
    BoxFuture, CallContext, Capabilities, ChoiceLogprobs, ChoiceRequest, Completion, Evidence,
    Finish, ItemId, LanguageModel, Model, ModelError, ModelId, SampleRequest, Sampling, Tokens,
    Usage, says_too_long,
};
pub use outcome::{Outcome, Probability};
pub use record::{
    Candidate, Cost, Critique, Judgment, Opinion, OrderResult, Preference, PresentationOrder,
    Provenance, Rater, Rating, Revision, Shortened, Told,
};
pub use reward::{Reward, RewardError, Score, ScoreItem};
