//! API keys before any tenant is known: their format, how their secrets are hashed and proven, and what is remembered.
//!
//! `key` and `kind` parse and make keys without I/O. `hashing` is argon2 itself, `stored_hash` what it
//! leaves in the database, `argon_pool` the threads it runs on, with
//! `argon_queue` deciding whose turn it is. `cache` answers "is this presented key the secret of a record" and is the
//! module a caller wants; `single_flight` and `gate` are what it is built from. Nothing here knows SQL, gRPC or a clock:
//! records come from the caller's loader and the time comes as a parameter.

pub mod argon_pool;
pub mod argon_queue;
pub mod base62;
pub mod cache;
pub mod gate;
pub mod hashing;
pub mod key;
pub mod kind;
pub mod overload;
pub mod single_flight;
pub mod stored_hash;

#[cfg(test)]
mod testing;
