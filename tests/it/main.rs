//! The integration tests: a real server on a port of its own, on a database of its own, as the application role.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is what owns the time")]
#![expect(
    clippy::cloned_ref_to_slice_refs,
    clippy::unnecessary_wraps,
    reason = "what a test sends and expects reads best as it stands in the request"
)]

mod acting_user;
mod api_key;
mod api_key_rotation;
mod audit_event;
mod bad_input;
mod caches;
mod credentials;
mod database_down;
mod embedded;
mod envoy;
mod harness;
mod import;
mod invitation;
mod isolation;
mod member;
mod memory;
mod operator;
mod organization;
mod organization_lifecycle;
mod permission;
mod portable;
mod process;
mod quota;
mod role;
mod secrets;
mod sidecar;
mod sizes;
mod team;
mod tidy;
mod token;
mod transport;
mod usage;
mod user;
mod verify;
