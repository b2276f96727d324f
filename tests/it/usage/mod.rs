//! Meters and usage: over the wire what callers are told, beside the writer itself races and faults, and as the superuser
//! what the tables really hold (I5).

mod bounds;
mod calendar;
mod exactness;
mod figures;
mod meters;
mod partitions;
mod record;
mod support;
mod writer;
