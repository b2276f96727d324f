//! What every test works with: [`World`] is a running service and its database, [`Client`] calls it with one key.

pub mod certificates;
mod client;
mod errors;
pub mod keys;
mod load;
mod lock;
mod postgres;
mod tenant;
mod wire;
mod world;

pub use client::{Client, RawReply, raw};
pub use errors::{Refused, refused, taken_apart};
pub use load::{Expect, Load, Target, unavailable, verify};
pub use lock::{Lock, waiting};
pub use postgres::{Cloned, clone_template};
pub use tenant::Tenant;
pub use wire::{Wire, admin};
pub use world::{TOKEN_ENCRYPTION_KEY, World, eventually, options};
