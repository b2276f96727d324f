//! Meters and usage: over the wire what callers are told, beside the writer itself races and faults, and as the superuser
//! what the tables really hold (I5).

mod bounds;
mod calendar;
mod downtime;
mod events;
mod exactness;
mod figures;
mod hours;
mod import;
mod measured;
mod meters;
mod organizations;
mod partitions;
mod record;
mod recount;
pub mod stream;
mod summary;
pub mod support;
mod too_large;
pub mod verify;
mod void;
mod void_races;
mod writer;
