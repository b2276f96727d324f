//! What an entry of a log says: whether it is the last of a request that was let through, and what that came to. Pure.

use prost_types::Duration;
use serde_json::{Map, Value};

use crate::model::usage::{Quantity, SUBJECT_CHARACTERS};
use crate::proto::envoy::config::core::v3::RequestMethod;
use crate::proto::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties,
};
use crate::quota::reservation::Reservation;
use crate::sidecar::admission::{Admission, NAMESPACE, Source};
use crate::sidecar::usage::{Amount, Request};

/// What an Envoy says of a reply when one of its rate limit filters made it, which come after ours: measured with 1.40.
const REFUSED: [&str; 4] =
    ["request_rate_limited", "rate_limiter_error", "rate_limited_by_quota", "local_rate_limited"];

/// An entry.
#[derive(Debug)]
pub enum Entry {
    /// Nothing is to be recorded of it: of a request that is not over, or that was not let through by us.
    Ignored,
    /// It says that we let the request through, and we did not.
    Forged,
    /// The last of a request.
    Finished(Box<Finished>),
}

/// A request that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What its events have in common.
    pub request: Request,
    /// What is recorded of it: first what it was admitted for, if that was metered.
    pub amounts: Vec<Amount>,
    /// What was reserved, and how much was used of it; `None` where nothing is to be settled.
    pub settlement: Option<(Reservation, u64)>,
    /// What it was let through with.
    pub admission: Admission,
    /// How many amounts it should have said and did not.
    pub unreadable: u32,
}

impl Entry {
    /// Reads an entry; `key` is what reservations are signed with.
    #[must_use]
    pub fn read(entry: &HttpAccessLogEntry, key: &[u8; 32]) -> Self {
        let Some(common) = entry.common_properties.as_ref().filter(|common| is_final(common)) else {
            return Self::Ignored;
        };
        let ours = common.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(NAMESPACE));
        // Where a route takes no key, it may say other things.
        let Some(ours) = ours.filter(|ours| ours.fields.contains_key("reservation")) else { return Self::Ignored };
        match Admission::read(ours, key) {
            Some(admission) => Self::Finished(Box::new(Finished::new(admission, entry, common))),
            None => Self::Forged,
        }
    }
}

/// Others are written when a request begins, now and then while it goes on, and of each try to reach the application.
fn is_final(common: &AccessLogCommon) -> bool {
    match common.access_log_type() {
        AccessLogType::DownstreamEnd => true,
        AccessLogType::NotSet => !common.intermediate_log_entry,
        _ => false,
    }
}

impl Finished {
    fn new(admission: Admission, entry: &HttpAccessLogEntry, common: &AccessLogCommon) -> Self {
        let mut unreadable = 0;
        let mut measured = |source: &Source| {
            let amount = measure(source, entry, common);
            if amount.is_none() {
                unreadable += 1;
                tracing::debug!(reservation_id = %admission.reservation.id, %source, "an access log without an amount");
            }
            amount
        };
        let reserved = admission.reservation.amount;
        // A request that we let through and a rate limit did not took nothing of what was reserved, and was none to record.
        let was_refused = was_refused(entry);
        let actual = admission.settle.as_ref().filter(|_| !was_refused).and_then(&mut measured);
        let mut amounts = Vec::with_capacity(1 + admission.recordings.len());
        if let Some(meter) = &admission.meter
            && !(was_refused && admission.settle.is_some())
            && let Some(quantity) = actual.or_else(|| Quantity::whole(reserved))
        {
            amounts.push(Amount { meter: meter.clone(), quantity, is_admitted: true });
        }
        for recording in admission.recordings.iter().filter(|_| !was_refused) {
            if let Some(quantity) = measured(&recording.source) {
                amounts.push(Amount { meter: recording.meter.clone(), quantity, is_admitted: false });
            }
        }
        let settles = admission.settle.is_some() && !admission.reservation.charges.is_empty();
        let used = if was_refused { 0 } else { actual.map_or(reserved, Quantity::rounded_up) };
        let settlement = settles.then(|| (admission.reservation.clone(), used));
        Self { request: Request::of(&admission, properties(entry, common)), amounts, settlement, admission, unreadable }
    }
}

fn was_refused(entry: &HttpAccessLogEntry) -> bool {
    entry.response.as_ref().is_some_and(|response| REFUSED.contains(&response.response_code_details.as_str()))
}

/// How much it was; `None` where the entry does not say, or something absurd.
fn measure(source: &Source, entry: &HttpAccessLogEntry, common: &AccessLogCommon) -> Option<Quantity> {
    let received = || entry.request.as_ref().map(|of| of.request_headers_bytes.saturating_add(of.request_body_bytes));
    let sent = || entry.response.as_ref().map(|of| of.response_headers_bytes.saturating_add(of.response_body_bytes));
    match source {
        Source::Requests => Some(Quantity::ONE),
        Source::RequestBytes => Quantity::whole(received()?),
        Source::ResponseBytes => Quantity::whole(sent()?),
        Source::Bytes => Quantity::whole(received()?.saturating_add(sent()?)),
        Source::Milliseconds => milliseconds(common.duration.or(common.time_to_last_downstream_tx_byte)?),
        Source::ResponseHeader(name) => {
            let response = entry.response.as_ref()?;
            let text = response.response_headers.get(name).or_else(|| response.response_trailers.get(name))?.trim();
            // Empty is no amount, though an event without a quantity counts one.
            Quantity::parse(name, text).ok().filter(|_| !text.is_empty())
        }
    }
}

fn milliseconds(Duration { seconds, nanos }: Duration) -> Option<Quantity> {
    let (seconds, nanos) =
        (u64::try_from(seconds).ok()?, u64::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?);
    let whole = seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)?;
    Quantity::parse("duration", &format!("{whole}.{:06}", nanos % 1_000_000)).ok()
}

/// What figures can be grouped and filtered by. Nothing that a client chooses freely, such as a path: there would be as many
/// series of each figure.
fn properties(entry: &HttpAccessLogEntry, common: &AccessLogCommon) -> Map<String, Value> {
    let mut properties = Map::new();
    let method = entry.request.as_ref().map(HttpRequestProperties::request_method);
    if let Some(method) = method.filter(|method| *method != RequestMethod::MethodUnspecified) {
        properties.insert("method".into(), method.as_str_name().into());
    }
    if let Some(code) = entry.response.as_ref().and_then(|response| response.response_code) {
        properties.insert("response_code".into(), code.into());
    }
    let route: String = common.route_name.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARACTERS).collect();
    if !route.is_empty() {
        properties.insert("route".into(), route.into());
    }
    properties
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
