//! The only place with SQL. `database.rs` holds the pools, `scope.rs` the scopes that are the only way to a connection;
//! every other file is one resource, its functions taking the scope they need.

pub mod api_key;
pub mod api_key_use;
pub mod audit_event;
pub mod changes;
pub mod database;
pub mod embedded;
pub mod error;
pub mod idempotency;
pub mod key_lookup;
pub mod limit;
pub mod member;
pub mod member_activity;
pub mod meter;
pub mod migrate;
pub mod organization;
pub mod plan;
pub mod platform_key;
pub mod purge;
pub mod quota;
pub mod rate_limit_domain;
pub mod role;
pub mod scope;
pub mod team;
pub mod upkeep;
pub mod usage;
pub mod user;
