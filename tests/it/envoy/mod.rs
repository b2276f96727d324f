//! A real Envoy in front of an application, with deploy/envoy/envoy.yaml, and Tenancy behind it. What an Envoy makes of our
//! answers is not what one would think; each surprise has a test here that is named after it.

mod allowed;
mod denied;
mod exact;
mod faults;
mod files;
mod harness;
mod limited;
mod metered;
mod quotas;
mod restarts;
mod secured;
mod spoofed;
mod tokens;
