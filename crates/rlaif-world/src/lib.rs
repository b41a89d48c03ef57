//! A synthetic grammar of assistant conversations, an oracle that knows its truth, and simulated annotators.
