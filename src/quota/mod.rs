//! Quotas: decisions in memory that are exact over all replicas.
//!
//! Pure, and simulated: `slots` (windows), `ledger` (what was granted to whom), `rate` and `counter` (what this replica holds),
//! `policy` (what is in force), `counters` and `book` (decisions over several of them). With I/O: `policies`, `rules` (those of the rate limit
//! service), `desk`, `engine`, `exchanger`;
//! `decisions` is what callers go to.
//! README, "How exactness holds", has the argument in short.

pub mod book;
pub mod counter;
pub mod counters;
pub mod decision;
pub mod decisions;
pub mod desk;
pub mod engine;
pub mod exchanger;
pub mod ledger;
pub mod operations;
pub mod policies;
pub mod policy;
pub mod rate;
pub mod reservation;
pub mod reserved;
pub mod rules;
#[cfg(test)]
mod simulation;
pub mod slots;
