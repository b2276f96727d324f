//! What Envoys ask and tell, over the wire. Names of tests tell which habit of a real Envoy they are for.

mod access_log;
mod access_log_ends;
mod access_log_pending;
mod access_log_races;
mod authz;
pub mod logs;
mod quota_envoy;
mod ratelimit;
mod rlqs;
mod rlqs_ends;
mod settle_all;
pub mod support;
