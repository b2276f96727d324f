//! Tests of what an entry says.

use std::collections::BTreeMap;

use chrono::DateTime;
use prost_types::Struct;
use uuid::Uuid;

use super::*;
use crate::ids;
use crate::model::limit::{SubjectKind, Window};
use crate::proto::envoy::config::core::v3::Metadata;
use crate::proto::envoy::data::accesslog::v3::{HttpRequestProperties, HttpResponseProperties};
use crate::quota::decision::{AccountKey, Charge};
use crate::sidecar::admission::recordings;

const KEY: [u8; 32] = [7; 32];

fn admission(settle: Option<&str>, record: &str) -> Admission {
    let now = DateTime::from_timestamp_millis(1_800_000_000_123).unwrap();
    let account = AccountKey {
        subject_kind: SubjectKind::Organization,
        subject_id: Uuid::from_u128(1),
        meter_id: Uuid::from_u128(3).into(),
        window: Window::Lifetime,
    };
    Admission {
        reservation: Reservation {
            organization_id: Uuid::from_u128(1).into(),
            id: ids::v7(now),
            expire_time: now,
            amount: 5,
            charges: vec![Charge { account, slot: now.timestamp_micros(), amount: 5 }],
        },
        api_key: Some(Uuid::from_u128(2)),
        user: None,
        meter: Some("calls".into()),
        settle: settle.map(|source| source.parse().unwrap()),
        recordings: recordings(record).unwrap(),
    }
}

fn entry(admission: &Admission) -> HttpAccessLogEntry {
    let ours = admission.metadata(&KEY).unwrap();
    let common = AccessLogCommon {
        metadata: Some(Metadata { filter_metadata: [(NAMESPACE.to_owned(), ours)].into() }),
        route_name: "api\n".into(),
        duration: Some(Duration { seconds: 1, nanos: 234_567_890 }),
        access_log_type: AccessLogType::DownstreamEnd.into(),
        ..AccessLogCommon::default()
    };
    let request = HttpRequestProperties {
        request_method: RequestMethod::Post.into(),
        request_headers_bytes: 10,
        request_body_bytes: 200,
    };
    let response = HttpResponseProperties {
        response_code: Some(200),
        response_headers_bytes: 3000,
        response_body_bytes: 40_000,
        ..HttpResponseProperties::default()
    };
    HttpAccessLogEntry { common_properties: Some(common), request: Some(request), response: Some(response) }
}

fn common(entry: &mut HttpAccessLogEntry) -> &mut AccessLogCommon {
    entry.common_properties.as_mut().unwrap()
}

fn finished(entry: &HttpAccessLogEntry) -> Finished {
    match Entry::read(entry, &KEY) {
        Entry::Finished(finished) => *finished,
        other => panic!("{other:?}"),
    }
}

fn amounts(finished: &Finished) -> Vec<(&str, String)> {
    finished.amounts.iter().map(|of| (of.meter.as_str(), of.quantity.decimal().to_string())).collect()
}

#[test]
fn only_the_last_entry_of_a_request_counts() {
    let mut entry = entry(&admission(None, ""));
    for number in 0..=14 {
        common(&mut entry).access_log_type = number;
        let counts = matches!(Entry::read(&entry, &KEY), Entry::Finished(_));
        assert_eq!(counts, [0, 6].contains(&number), "{number}");
    }
    common(&mut entry).access_log_type = 0;
    common(&mut entry).intermediate_log_entry = true;
    assert!(matches!(Entry::read(&entry, &KEY), Entry::Ignored));
    assert!(matches!(Entry::read(&HttpAccessLogEntry::default(), &KEY), Entry::Ignored));
}

#[test]
fn what_is_not_signed_by_us_is_forged_and_what_is_not_ours_is_ignored() {
    let entry = entry(&admission(None, ""));
    assert!(matches!(Entry::read(&entry, &[8; 32]), Entry::Forged));
    let with = |fields: BTreeMap<String, prost_types::Value>, namespace: &str| {
        let mut entry = entry.clone();
        let filter_metadata = [(namespace.to_owned(), Struct { fields })].into();
        common(&mut entry).metadata = Some(Metadata { filter_metadata });
        Entry::read(&entry, &KEY)
    };
    let ours = admission(None, "").metadata(&KEY).unwrap().fields;
    assert!(matches!(with(ours.clone(), "envoy.filters.http.other"), Entry::Ignored));
    assert!(matches!(with(BTreeMap::new(), NAMESPACE), Entry::Ignored));
    let mut without = ours.clone();
    without.remove("reservation");
    assert!(matches!(with(without, NAMESPACE), Entry::Ignored));
    for bad in [None, Some(prost_types::value::Kind::NumberValue(1.0))] {
        let mut wrong = ours.clone();
        wrong.insert("reservation".into(), prost_types::Value { kind: bad });
        assert!(matches!(with(wrong, NAMESPACE), Entry::Forged));
    }
    assert!(matches!(with(ours, NAMESPACE), Entry::Finished(_)));
}

#[test]
fn amounts_are_of_their_sources() {
    let all = "n=requests,in=request_bytes,out=response_bytes,io=bytes,time=milliseconds,tokens=header:x-tokens";
    let mut entry = entry(&admission(Some("milliseconds"), all));
    entry.response.as_mut().unwrap().response_headers.insert("x-tokens".into(), " 12.50 ".into());
    let found = finished(&entry);
    let expected = [
        ("calls", "1234.56789"),
        ("n", "1"),
        ("in", "210"),
        ("out", "43000"),
        ("io", "43210"),
        ("time", "1234.56789"),
        ("tokens", "12.5"),
    ];
    assert_eq!(amounts(&found), expected.map(|(meter, amount)| (meter, amount.to_owned())));
    assert_eq!(found.settlement.unwrap().1, 1235, "rounded up");
    let properties = serde_json::json!({"method": "POST", "response_code": 200, "route": "api"});
    assert_eq!(Value::Object(found.request.properties), properties);
    assert_eq!((found.unreadable, found.request.subject), (0, Some(Uuid::from_u128(2))));
}

#[test]
fn without_a_duration_the_last_byte_tells() {
    let mut entry = entry(&admission(Some("milliseconds"), ""));
    common(&mut entry).duration = None;
    common(&mut entry).time_to_last_downstream_tx_byte = Some(Duration { seconds: 0, nanos: 7_000_000 });
    assert_eq!(amounts(&finished(&entry)), [("calls", "7".to_owned())]);
    for bad in [None, Some(Duration { seconds: -1, nanos: 0 }), Some(Duration { seconds: i64::MAX, nanos: 0 })] {
        common(&mut entry).time_to_last_downstream_tx_byte = bad;
        assert_eq!(amounts(&finished(&entry)), [("calls", "5".to_owned())], "what was reserved: {bad:?}");
    }
}

#[test]
fn what_cannot_be_read_settles_as_reserved_and_records_nothing() {
    let mut entry = entry(&admission(Some("header:x-tokens"), "other=header:x-tokens"));
    let giant = "9".repeat(1 << 20);
    for bad in [None, Some(""), Some(" "), Some("-1"), Some("1e3"), Some("1,2"), Some("NaN"), Some(giant.as_str())] {
        let headers = &mut entry.response.as_mut().unwrap().response_headers;
        headers.clear();
        headers.extend(bad.map(|bad| ("x-tokens".to_owned(), bad.to_owned())));
        let found = finished(&entry);
        assert_eq!(amounts(&found), [("calls", "5".to_owned())], "{bad:?}");
        assert_eq!((found.settlement.unwrap().1, found.unreadable), (5, 2));
    }
    // A trailer does as well; a header comes first.
    let response = entry.response.as_mut().unwrap();
    response.response_headers.clear();
    response.response_trailers.insert("x-tokens".into(), "0.25".into());
    let found = finished(&entry);
    assert_eq!(amounts(&found), [("calls", "0.25".to_owned()), ("other", "0.25".to_owned())]);
    assert_eq!(found.settlement.unwrap().1, 1);
}

#[test]
fn only_what_is_to_be_settled_is() {
    let found = finished(&entry(&admission(None, "")));
    assert!(found.settlement.is_none(), "it was admitted with what it takes");
    assert_eq!(amounts(&found), [("calls", "5".to_owned())]);
    let unlimited = admission(Some("bytes"), "");
    let reservation = Reservation { charges: Vec::new(), ..unlimited.reservation.clone() };
    let found = finished(&entry(&Admission { reservation, ..unlimited }));
    assert!(found.settlement.is_none(), "nothing was taken");
    assert_eq!(amounts(&found), [("calls", "43210".to_owned())]);
}

#[test]
fn what_a_rate_limit_refused_after_us_is_no_usage() {
    for details in ["request_rate_limited", "rate_limiter_error", "rate_limited_by_quota", "local_rate_limited"] {
        let refused = |admission: &Admission| {
            let mut entry = entry(admission);
            entry.response.as_mut().unwrap().response_code_details = details.into();
            finished(&entry)
        };
        let found = refused(&admission(Some("bytes"), "other=requests"));
        let used = found.settlement.as_ref().map(|(_, used)| *used);
        assert_eq!((amounts(&found), used, found.unreadable), (vec![], Some(0), 0), "{details}");
        // What was taken for good is used.
        let found = refused(&admission(None, "other=requests"));
        assert!(found.settlement.is_none(), "{details}");
        assert_eq!(amounts(&found), [("calls", "5".to_owned())], "{details}");
    }
}
