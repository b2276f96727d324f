//! Quotas, over the wire: what plans and limits may say, who makes and changes them; what is decided by them, once, and
//! what is given back.

pub mod asks;
mod batches;
mod changed;
mod decisions;
mod degraded;
mod events;
mod exact;
mod limits;
mod operations;
mod organizations;
mod plans;
mod policy;
mod reservations;
pub mod support;
