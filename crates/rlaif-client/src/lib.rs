//! Models behind a socket, at the endpoint's speed, with nothing paid for twice.
//!
//! Main type: [`Endpoint`], a [`rlaif_core::LanguageModel`]; [`Embedder`] is its sibling for
//! vectors. What is asked of it becomes calls, which pass through layers of one trait, a file each,
//! from the outside in: `retry` asks again, `budget` holds money back, `journal` remembers, `pool`
//! chooses a server and waits in its `window` (or `batch`, which gathers calls for a provider's batch
//! interface), `line` speaks to it in the form that `wire` writes and reads. `dialect` is what an
//! endpoint refuses, `choice` the reading of probabilities, `halt` a person's wish to stop.
//!
//! Invariants: a failed call is a typed error and never a number; an answer from the journal costs
//! nothing and takes no permit; every wait is bounded; a key comes from a named environment
//! variable and reaches nothing but the request's header.

mod batch;
mod breaker;
mod budget;
mod call;
mod choice;
mod config;
mod dialect;
mod endpoint;
mod halt;
mod journal;
mod line;
mod meter;
mod pool;
mod prices;
mod rate;
mod retry;
mod reward;
mod window;
mod wire;

pub use budget::{Budget, Limits, Spent};
pub use config::{ClientError, Concurrency, EndpointConfig, Price, Replica};
pub use endpoint::{Embedder, Endpoint, Ledger, Notice};
pub use halt::Halt;
pub use journal::{Account, Entry, Filter, Journal, JournalError, JournalReader, State};
pub use meter::{Now, Stats};
pub use prices::{Prices, Quote};
pub use reward::{RewardRequest, rewards};
pub use wire::Api;
