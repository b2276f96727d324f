//! Background jobs. Each has a `run_once` step that a test can drive, and a loop that repeats it.

pub mod changes;
pub mod health;
pub mod histograms;
pub mod last_used;
pub mod token_keys;
pub mod upkeep;
