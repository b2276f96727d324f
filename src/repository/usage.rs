//! Usage: the writing of events with their aggregates, the figures that these answer, and the events themselves.

pub mod event;
pub mod figures;
pub mod ingest;
pub mod recount;
pub mod summary;
pub mod void;

/// The most stored values that a unique count reads: each distinct value is stored once a quarter of an hour and series.
pub const UNIQUE_VALUES: i64 = 1_000_000;
