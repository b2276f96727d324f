//! Decisions written as they go out, field by field, for what is answered from memory. As messages they would first have
//! all their texts copied, and be measured twice: a twentieth of a decision. `reply` makes the messages, and a test compares.

use prost::bytes::{BufMut as _, BytesMut};
use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint};
use uuid::Uuid;

use crate::proto::reply::Reply;
use crate::quota::decision::{Decision, LimitView};
use crate::service::convert::limit::{subject_kind, window};
use crate::service::convert::quota::reply::{duration, limit_source, reset_time, signed};

/// About how many bytes a limit takes, and everything but the limits.
const LIMIT: usize = 176;
const REST: usize = 48;

/// Bytes that are left for the length of a message: most have between 128 bytes and 16 KiB, and others are moved.
const LENGTH: usize = 2;

/// As the first field of the replies to `CheckQuota` and `ConsumeQuota`, and nothing else.
impl Reply for Decision {
    fn room(&self) -> usize {
        REST + LIMIT * self.limits.len()
    }

    fn write(&self, into: &mut BytesMut) {
        nested(into, 1, |into| decision(into, self));
    }
}

/// The fields of `QuotaDecision`.
fn decision(into: &mut BytesMut, decision: &Decision) {
    flag(into, 1, decision.denial.is_none());
    number(into, 2, signed(decision.granted));
    if let Some(denial) = decision.denial {
        text(into, 3, denial.reason());
    }
    if let Some(wait) = decision.retry_after {
        encoding::message::encode(4, &duration(wait), into);
    }
    for view in &decision.limits {
        nested(into, 5, |into| limit(into, view));
    }
    flag(into, 6, decision.degraded);
}

/// The fields of `QuotaLimit`.
fn limit(into: &mut BytesMut, view: &LimitView) {
    id(into, 1, view.limit.limit_id.uuid());
    number(into, 2, i32::from(limit_source(view.limit.source)).into());
    text(into, 3, &view.limit.meter);
    number(into, 4, i32::from(subject_kind(view.limit.subject_kind)).into());
    id(into, 5, view.subject_id);
    encoding::message::encode(6, &window(view.limit.window), into);
    if let Some(amount) = view.limit.terms.amount {
        // Also when it is 0, which is not the same as none.
        encoding::int64::encode(7, &signed(amount), into);
    }
    number(into, 8, signed(view.used));
    number(into, 9, signed(view.reserved));
    number(into, 10, signed(view.remaining));
    number(into, 11, signed(view.overage));
    if let Some(end) = view.reset_time {
        encoding::message::encode(12, &reset_time(end), into);
    }
    flag(into, 13, view.denied);
    flag(into, 14, view.would_deny);
    if !view.alerts.is_empty() {
        let alerts: Vec<i32> = view.alerts.iter().copied().map(i32::from).collect();
        encoding::int32::encode_packed(15, &alerts, into);
    }
}

/// A number, unless it is 0.
fn number(into: &mut BytesMut, tag: u32, number: i64) {
    if number != 0 {
        encoding::int64::encode(tag, &number, into);
    }
}

/// A flag, unless it is not set.
fn flag(into: &mut BytesMut, tag: u32, flag: bool) {
    if flag {
        encoding::bool::encode(tag, &flag, into);
    }
}

/// A text, unless it is empty.
fn text(into: &mut BytesMut, tag: u32, text: &str) {
    if !text.is_empty() {
        encode_key(tag, WireType::LengthDelimited, into);
        encode_varint(text.len() as u64, into);
        into.put_slice(text.as_bytes());
    }
}

/// An id as a text.
fn id(into: &mut BytesMut, tag: u32, id: Uuid) {
    text(into, tag, id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
}

/// A message within, whose length is known when it has been written.
fn nested(into: &mut BytesMut, tag: u32, fields: impl FnOnce(&mut BytesMut)) {
    encode_key(tag, WireType::LengthDelimited, into);
    let start = into.len();
    into.put_bytes(0, LENGTH);
    fields(into);
    let length = into.len() - start - LENGTH;
    let taken = encoded_len_varint(length as u64);
    if taken != LENGTH {
        into.put_bytes(0, taken.saturating_sub(LENGTH));
        into.copy_within(start + LENGTH..start + LENGTH + length, start + taken);
        into.truncate(start + taken + length);
    }
    encode_varint(length as u64, &mut &mut into[start..start + taken]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;
    use prost::Message as _;

    use super::*;
    use crate::model::limit::{Enforcement, Maker, SubjectKind, Terms, Unit, Window};
    use crate::proto::v1;
    use crate::quota::decision::{Applied, Denial, Source};
    use crate::service::convert::quota::reply;

    fn amounts() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 1..200_u64, any::<u64>()]
    }

    fn applied() -> impl Strategy<Value = Applied> {
        let sources = [Source::Plan, Source::Limit(Maker::Platform), Source::Limit(Maker::Organization), Source::Rule];
        let kinds = [SubjectKind::Organization, SubjectKind::Team, SubjectKind::User, SubjectKind::ApiKey];
        let windows = [Window::Lifetime, Window::Calendar(Unit::Month), Window::Rolling(Unit::Second)];
        let chosen = (select(sources.to_vec()), select(kinds.to_vec()), select(windows.to_vec()));
        // Far longer than the key of a meter, so that lengths of one, two and three bytes come up.
        let meter = (0..3_u32, "[a-z]{0,60}").prop_map(|(power, text)| text.repeat(20_usize.pow(power)));
        (any::<u128>(), chosen, meter, option::of(amounts())).prop_map(
            |(id, (source, subject_kind, window), meter, amount)| {
                let terms = Terms {
                    amount,
                    burst: 0,
                    enforcement: Enforcement::Hard,
                    shadow: false,
                    fallback: None,
                    alert_percents: Vec::new(),
                };
                let (limit_id, meter_id) = (Uuid::from_u128(id).into(), Uuid::from_u128(!id).into());
                Applied { limit_id, source, meter: meter.into(), meter_id, subject_kind, window, terms }
            },
        )
    }

    fn views() -> impl Strategy<Value = LimitView> {
        let figures = (amounts(), amounts(), amounts(), amounts());
        let rest = (option::of(-1_000_000_000_000_i64..253_370_764_800_000_000), any::<bool>(), any::<bool>());
        (applied(), any::<u128>(), figures, rest, vec(0..200_u16, 0..3)).prop_map(
            |(limit, subject_id, (used, reserved, remaining, overage), (reset_time, denied, would_deny), alerts)| {
                LimitView {
                    limit: Arc::new(limit),
                    subject_id: Uuid::from_u128(subject_id),
                    used,
                    reserved,
                    remaining,
                    overage,
                    reset_time,
                    denied,
                    would_deny,
                    alerts,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn it_is_the_message(
            denial in option::of(select(vec![Denial::LimitExceeded, Denial::Blocked])),
            granted in amounts(),
            wait in option::of(0..u64::MAX),
            degraded in any::<bool>(),
            limits in vec(views(), 0..4),
        ) {
            let retry_after = wait.map(Duration::from_nanos);
            let decision = Decision { denial, granted, retry_after, degraded, limits, charges: Vec::new() };
            let message = v1::ConsumeQuotaResponse { decision: Some(reply::decision(decision.clone())), event: None };
            let mut written = BytesMut::new();
            decision.write(&mut written);
            prop_assert_eq!(&written[..], message.encode_to_vec());
        }
    }
}
