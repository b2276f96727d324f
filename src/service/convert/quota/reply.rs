//! Decisions about quotas, as they go out.

use std::time::Duration;

use prost_types::Timestamp;

use crate::error::Error;
use crate::model::limit::Maker;
use crate::proto::v1;
use crate::quota::decision::{Decision, LimitView, Source};
use crate::quota::slots::{LedgerTime, SECOND};
use crate::service::convert::limit::{subject_kind, window};
use crate::service::convert::told;

/// A decision.
#[must_use]
pub fn decision(decision: Decision) -> v1::QuotaDecision {
    v1::QuotaDecision {
        allowed: decision.denial.is_none(),
        granted: signed(decision.granted),
        reason: decision.denial.map(|denial| denial.reason().to_owned()).unwrap_or_default(),
        retry_after: decision.retry_after.map(duration),
        limits: decision.limits.into_iter().map(limit).collect(),
        degraded: decision.degraded,
    }
}

/// A limit, and how much of it is used.
#[must_use]
pub fn limit(view: LimitView) -> v1::QuotaLimit {
    v1::QuotaLimit {
        limit_id: view.limit.limit_id.to_string(),
        source: limit_source(view.limit.source).into(),
        meter: view.limit.meter.as_ref().to_owned(),
        subject_kind: subject_kind(view.limit.subject_kind).into(),
        subject_id: view.subject_id.to_string(),
        window: Some(window(view.limit.window)),
        amount: view.limit.terms.amount.map(signed),
        used: signed(view.used),
        reserved: signed(view.reserved),
        remaining: signed(view.remaining),
        overage: signed(view.overage),
        reset_time: view.reset_time.map(reset_time),
        denied: view.denied,
        would_deny: view.would_deny,
        alerts: view.alerts.into_iter().map(i32::from).collect(),
    }
}

/// Where a limit comes from.
#[must_use]
pub const fn limit_source(source: Source) -> v1::QuotaSource {
    match source {
        Source::Plan => v1::QuotaSource::Plan,
        Source::Limit(Maker::Platform) => v1::QuotaSource::Platform,
        Source::Limit(Maker::Organization) => v1::QuotaSource::Organization,
        // QuotaService does not ask for these.
        Source::Rule => v1::QuotaSource::Unspecified,
    }
}

/// When a window ends.
#[must_use]
pub fn reset_time(end: LedgerTime) -> Timestamp {
    let nanos = i32::try_from(end.rem_euclid(SECOND) * 1000).unwrap_or_default();
    Timestamp { seconds: end.div_euclid(SECOND), nanos }
}

/// What became of a request of a batch that failed.
#[must_use]
pub fn failed(error: &Error) -> v1::QuotaResult {
    v1::QuotaResult { reason: error.reason(), message: told(error), ..v1::QuotaResult::default() }
}

/// The same of a settlement.
#[must_use]
pub fn unsettled(error: &Error) -> v1::SettlementResult {
    v1::SettlementResult { reason: error.reason(), message: told(error), ..v1::SettlementResult::default() }
}

/// An amount for the wire. None is greater than an `i64` can be.
#[must_use]
pub fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// A time span for the wire.
#[must_use]
pub fn duration(span: Duration) -> prost_types::Duration {
    let nanos = i32::try_from(span.subsec_nanos()).unwrap_or_default();
    prost_types::Duration { seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), nanos }
}
