//! An organization that is exported from one installation and restored on another: all of it, nothing of others, or nothing
//! at all.

mod command;
mod exact;
mod kept;
mod many;
mod moved;
mod refused;
pub mod support;
