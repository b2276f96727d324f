//! What a request must be, and that all that is wrong with it is told at once.

use prost_types::Timestamp;

use super::*;

fn consume() -> v1::ConsumeQuotaRequest {
    v1::ConsumeQuotaRequest { meter: "calls".into(), amount: 3, ..Default::default() }
}

fn carrying(event: v1::UsageEvent) -> v1::ConsumeQuotaRequest {
    v1::ConsumeQuotaRequest { event: Some(event), ..consume() }
}

fn event() -> v1::UsageEvent {
    let occurred_at = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    v1::UsageEvent { event_id: "a".into(), occurred_at, ..v1::UsageEvent::default() }
}

fn fields<T>(read: Result<T, Error>) -> Vec<String> {
    match read {
        Ok(_) => Vec::new(),
        Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let subject = v1::QuotaSubject { api_key_id: "x".into(), user_id: "y".into(), team_id: "z".into() };
    let wrong = v1::ConsumeQuotaRequest {
        subject: Some(subject),
        meter: "Not a key".into(),
        amount: 0,
        mode: 17,
        operation_id: "x".repeat(129),
        ..Default::default()
    };
    let expected =
        ["subject.team_id", "subject.user_id", "subject.api_key_id", "meter", "amount", "mode", "operation_id"];
    assert_eq!(fields(consumption(&wrong)), expected);
    let wrong = v1::ReserveQuotaRequest { ttl: Some(prost_types::Duration::default()), ..Default::default() };
    assert_eq!(fields(reserving(&wrong)), ["meter", "amount", "ttl"]);
    assert_eq!(fields(refund(&v1::RefundQuotaRequest::default())), ["meter", "amount", "operation_id"]);
    assert_eq!(fields(view(None, Some(""))), ["meter"]);
    assert_eq!(fields(view(None, None)), [""; 0]);
}

#[test]
fn amounts() {
    let check_of = |amount| v1::CheckQuotaRequest { meter: "calls".into(), amount, ..Default::default() };
    for (amount, checked, consumed) in [
        (-1, false, false),
        (0, true, false),
        (1, true, true),
        (1_000_000_000_000_000, true, true),
        (1_000_000_000_000_001, false, false),
    ] {
        assert_eq!(check(&check_of(amount)).is_ok(), checked, "{amount}");
        assert_eq!(settled(amount).is_ok(), checked, "{amount}");
        assert_eq!(consumption(&v1::ConsumeQuotaRequest { amount, ..consume() }).is_ok(), consumed, "{amount}");
    }
}

#[test]
fn times_to_live() {
    let of = |seconds, nanos| ttl(Some(prost_types::Duration { seconds, nanos })).ok();
    assert_eq!(ttl(None).unwrap(), TTL);
    assert_eq!(of(1, 0), Some(Duration::from_secs(1)));
    assert_eq!(of(86_400, 0), Some(Duration::from_hours(24)));
    for (seconds, nanos) in [(0, 999_999_999), (86_400, 1), (-1, 0), (2, -1), (2, 1_000_000_000), (i64::MAX, 0)] {
        assert_eq!(of(seconds, nanos), None, "{seconds} {nanos}");
    }
}

#[test]
fn an_event_belongs_to_its_request() {
    assert_eq!(fields(consumption(&carrying(event()))), [""; 0]);
    for quantity in ["3", "3.0", "03"] {
        assert_eq!(fields(consumption(&carrying(v1::UsageEvent { quantity: quantity.into(), ..event() }))), [""; 0]);
    }
    let wrong = [
        ("event.quantity", v1::UsageEvent { quantity: "2".into(), ..event() }),
        ("event.quantity", v1::UsageEvent { quantity: "three".into(), ..event() }),
        ("event.meter", v1::UsageEvent { meter: "bytes".into(), ..event() }),
        ("event.organization_id", v1::UsageEvent { organization_id: "acme".into(), ..event() }),
        ("event.event_id", v1::UsageEvent { event_id: String::new(), ..event() }),
        ("event.occurred_at", v1::UsageEvent { occurred_at: None, ..event() }),
        ("event.subject", v1::UsageEvent { subject: "a\0b".into(), ..event() }),
    ];
    for (field, event) in wrong {
        assert_eq!(fields(consumption(&carrying(event))), [field]);
    }
    let both = v1::ConsumeQuotaRequest {
        durable: true,
        operation_id: "a".into(),
        mode: v1::ConsumeMode::BestEffort.into(),
        ..carrying(event())
    };
    assert_eq!(fields(consumption(&both)), ["durable", "mode"]);
    assert_eq!(fields(consumption(&v1::ConsumeQuotaRequest { durable: true, ..consume() })), ["operation_id"]);
}

#[test]
fn requests_of_one_meaning_have_one_hash() {
    let id = Uuid::from_u128(1);
    let subjects = Subjects { api_key: Some(id), ..Subjects::default() };
    let named = v1::ConsumeQuotaRequest {
        organization_id: "acme".into(),
        subject: Some(v1::QuotaSubject { api_key_id: id.to_string(), ..Default::default() }),
        mode: v1::ConsumeMode::Normal.into(),
        operation_id: "a".into(),
        ..consume()
    };
    let hash = |request: &v1::ConsumeQuotaRequest| consumption_hash(request, subjects, Mode::All);
    assert_eq!(hash(&named), hash(&consume()));
    assert_ne!(hash(&consume()), hash(&v1::ConsumeQuotaRequest { amount: 4, ..consume() }));
    assert_ne!(hash(&consume()), hash(&carrying(event())));
    assert_ne!(hash(&consume()), consumption_hash(&consume(), Subjects::default(), Mode::All));
    assert_ne!(hash(&consume()), consumption_hash(&consume(), subjects, Mode::BestEffort));
}
