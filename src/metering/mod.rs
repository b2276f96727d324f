//! Metering: which meters there are (`catalog`), events on their way in (`parcel` → `recorder` → `writer`, with its `queue`,
//! `pace`, `batch`, `known_series`, `repeats` and `replies`), and how a range of time is cut for figures (`buckets`).

pub mod buckets;
pub mod catalog;
pub mod parcel;
pub mod recorder;
pub mod writer;

mod batch;
mod known_series;
mod pace;
mod queue;
mod repeats;
mod replies;
