//! Metering: which meters there are (`catalog`), events on their way in (`recorder` → `writer`, with its `queue` and
//! `batch`), and how a range of time is cut for figures (`buckets`).

pub mod buckets;
pub mod catalog;
pub mod recorder;
pub mod writer;

mod batch;
mod queue;
