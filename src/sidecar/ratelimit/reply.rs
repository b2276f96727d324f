//! What Envoy is told.
//!
//! The statuses are all it takes for its x-ratelimit-* and retry-after headers. It cannot say why: the body does.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::model::limit::{Unit, Window};
use crate::proto::envoy::config::core::v3::HeaderValue;
use crate::proto::envoy::service::ratelimit::v3::RateLimitResponse;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit as ProtoUnit;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use crate::quota::decision::{Decision, LimitView, Source};
use crate::quota::slots::{Calendar, length, slot, until};
use crate::service::convert::quota::reply::duration;
use crate::sidecar::ratelimit::taking::{Found, Outcome};

/// The reply.
#[must_use]
pub fn reply(outcomes: &[Outcome], now: DateTime<Utc>) -> RateLimitResponse {
    let statuses = outcomes.iter().map(|outcome| status(outcome, now)).collect();
    let Some(reason) = outcomes.iter().find_map(Outcome::refusal) else {
        return RateLimitResponse { overall_code: Code::Ok.into(), statuses, ..RateLimitResponse::default() };
    };
    let body = serde_json::json!({"error": {"code": 429, "reason": reason, "message": message(reason)}});
    let content_type =
        HeaderValue { key: "content-type".into(), value: "application/json".into(), ..HeaderValue::default() };
    RateLimitResponse {
        overall_code: Code::OverLimit.into(),
        statuses,
        response_headers_to_add: vec![content_type],
        request_headers_to_add: Vec::new(),
        raw_body: body.to_string().into_bytes(),
    }
}

/// For a person.
fn message(reason: &str) -> &'static str {
    match reason {
        "LIMIT_EXCEEDED" => "the limit is used up; try again later",
        "BLOCKED" => "the limit admits nothing",
        "AMOUNT_TOO_LARGE" => "the request is larger than the limit ever admits at once",
        "ORGANIZATION_SUSPENDED" => "the tenant is suspended",
        _ => "the tenant is not known",
    }
}

fn status(outcome: &Outcome, now: DateTime<Utc>) -> DescriptorStatus {
    let code = if outcome.refusal().is_some() { Code::OverLimit } else { Code::Ok }.into();
    let unlimited = DescriptorStatus { code, limit_remaining: u32::MAX, ..DescriptorStatus::default() };
    match &outcome.found {
        // As envoyproxy/ratelimit has it.
        Found::Free | Found::Closed(_) => DescriptorStatus { code, ..DescriptorStatus::default() },
        Found::Unlimited => unlimited,
        Found::Decided(decision) => match tightest(decision) {
            None => unlimited,
            Some(view) => DescriptorStatus {
                code,
                current_limit: Some(limit(outcome, view)),
                limit_remaining: saturated(view.remaining),
                duration_until_reset: until_reset(decision, view, now).map(duration),
            },
        },
    }
}

/// The limit that the client should know: one that denied, else of those that can the one with the least left.
fn tightest(decision: &Decision) -> Option<&LimitView> {
    let limits = decision.limits.iter().filter(|view| view.limit.terms.amount.is_some());
    limits.min_by_key(|view| (!view.denied, view.limit.terms.shadow, view.remaining))
}

fn limit(outcome: &Outcome, view: &LimitView) -> RateLimit {
    // A tenant's limits have no names; the meter's says what is counted.
    let name = match (view.limit.source, outcome.name()) {
        (Source::Plan | Source::Limit(_), "") => &view.limit.meter,
        (Source::Plan | Source::Limit(_) | Source::Rule, name) => name,
    };
    let unit = match view.limit.window {
        Window::Calendar(unit) | Window::Rolling(unit) => match unit {
            Unit::Second => ProtoUnit::Second,
            Unit::Minute => ProtoUnit::Minute,
            Unit::Hour => ProtoUnit::Hour,
            Unit::Day => ProtoUnit::Day,
            Unit::Week => ProtoUnit::Week,
            Unit::Month => ProtoUnit::Month,
        },
        Window::Lifetime => ProtoUnit::Unknown,
    };
    RateLimit {
        name: name.to_owned(),
        requests_per_unit: saturated(view.limit.terms.amount.unwrap_or(u64::MAX)),
        unit: unit.into(),
    }
}

/// Of a calendar window until its end; of a rolling one until it is worth asking again, or as long as it is. `None`: never,
/// or not known.
fn until_reset(decision: &Decision, view: &LimitView, now: DateTime<Utc>) -> Option<Duration> {
    let window = view.limit.window;
    if let Some(length) = length(window) {
        let again = decision.retry_after.filter(|_| view.denied);
        return Some(again.unwrap_or_else(|| Duration::from_micros(length.unsigned_abs())));
    }
    let end = view.reset_time.or_else(|| {
        // Nothing was counted yet: of a rule's window the calendar is known.
        let is_rule = view.limit.source == Source::Rule && window != Window::Lifetime;
        is_rule.then(|| slot(window, now.timestamp_micros(), Calendar::default()).end)
    })?;
    Some(until(end, now))
}

/// The most that can be said for more.
fn saturated(amount: u64) -> u32 {
    u32::try_from(amount).unwrap_or(u32::MAX)
}
