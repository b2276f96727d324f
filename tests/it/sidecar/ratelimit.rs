//! `envoy.service.ratelimit.v3.RateLimitService`, and the rules that it decides by.

mod domains;
mod exact;
mod import;
mod rules;
mod support;
mod tenants;
mod together;
