//! Placeholder line while the module is written.
