//! Usage: the writing of events with their aggregates, the figures that these answer, and the events themselves.

use chrono::{DateTime, Utc};

use crate::model::usage::query::Span;

pub mod event;
pub mod figures;
pub mod ingest;
pub mod recount;
pub mod summary;
pub mod void;

/// The most stored values that a unique count reads: each distinct value is stored once a quarter of an hour and series.
pub const UNIQUE_VALUES: i64 = 1_000_000;

/// The starts and the ends of spans, which is how a statement takes any number of them.
fn columns(spans: &[Span]) -> (Vec<DateTime<Utc>>, Vec<DateTime<Utc>>) {
    spans.iter().map(|span| (span.start, span.end)).unzip()
}
