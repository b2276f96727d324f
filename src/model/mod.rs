//! Validated types and their rules, one file a resource. No I/O, no protobuf, no SQL: a value of these types is right,
//! because there is no way to make a wrong one.

pub mod api_key;
pub mod audit_event;
pub mod etag;
pub mod invitation;
pub mod ip_range;
pub mod limit;
pub mod member;
pub mod meter;
pub mod organization;
pub mod origin;
pub mod plan;
pub mod platform_key;
pub mod portable;
pub mod rate_limit_domain;
pub mod role;
pub mod team;
pub mod text;
pub mod token_key;
pub mod usage;
pub mod user;
pub mod workload;
