//! Questions about quotas, as they come in; `reply` has what goes out. They borrow from their requests: a decision takes
//! microseconds, and copies would be a good part of them.

pub mod reply;
mod written;

use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::error::{Error, Violation, Violations};
use crate::ids::parse_uuid;
use crate::metering::recorder::Draft;
use crate::model::limit::MOST;
use crate::model::meter;
use crate::model::usage::Quantity;
use crate::proto::v1;
use crate::quota::decision::{Mode, Subjects};
use crate::quota::operations::RequestHash;
use crate::service::convert::usage;

/// The most requests of a batch.
pub const BATCH: usize = 1000;

/// The most characters of an operation id.
const OPERATION_ID: usize = 128;

/// How long a reservation may be settled, where its request does not say.
const TTL: Duration = Duration::from_mins(1);

/// The shortest and the longest that a request may say.
const TTLS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// How much of what, for whom.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Those that the request names.
    pub named: Subjects,
    /// The key of the meter.
    pub meter: &'a str,
    /// How much.
    pub amount: u64,
}

/// A consumption.
#[derive(Clone, Debug)]
pub struct Consumption<'a> {
    /// How much of what, for whom.
    pub question: Question<'a>,
    /// What happens when not all of it is left.
    pub mode: Mode,
    /// What makes it safe to retry; may be empty.
    pub operation_id: &'a str,
    /// Whether all replicas know of it.
    pub durable: bool,
    /// The event to record, and its identity as its producer has it.
    pub event: Option<(Draft, &'a str)>,
}

/// A reservation.
#[derive(Clone, Copy, Debug)]
pub struct Reserving<'a> {
    /// How much of what, for whom.
    pub question: Question<'a>,
    /// How long it may be settled.
    pub ttl: Duration,
    /// What makes it safe to retry; may be empty.
    pub operation_id: &'a str,
}

/// A check.
pub fn check(request: &v1::CheckQuotaRequest) -> Result<Question<'_>, Error> {
    let mut violations = Violations::default();
    let read = question(&mut violations, request.subject.as_ref(), &request.meter, (request.amount, 0));
    violations.finish()?;
    Ok(read)
}

/// A consumption.
pub fn consumption(request: &v1::ConsumeQuotaRequest) -> Result<Consumption<'_>, Error> {
    let mut violations = Violations::default();
    let question = question(&mut violations, request.subject.as_ref(), &request.meter, (request.amount, 1));
    let mode = violations.take(mode(request.mode)).unwrap_or(Mode::All);
    operation_id(&mut violations, &request.operation_id, request.durable);
    let event = request.event.as_ref().and_then(|event| {
        if request.durable {
            violations.add("durable", "must not be set with an event, which is known on every replica by itself");
        }
        if mode == Mode::BestEffort {
            violations.add("mode", "must not be CONSUME_MODE_BEST_EFFORT with an event, which is recorded or not");
        }
        carried(&mut violations, event, &request.meter, request.amount).map(|draft| (draft, event.event_id.as_str()))
    });
    violations.finish()?;
    Ok(Consumption { question, mode, operation_id: &request.operation_id, durable: request.durable, event })
}

/// A reservation.
pub fn reserving(request: &v1::ReserveQuotaRequest) -> Result<Reserving<'_>, Error> {
    let mut violations = Violations::default();
    let question = question(&mut violations, request.subject.as_ref(), &request.meter, (request.amount, 1));
    let ttl = violations.take(ttl(request.ttl)).unwrap_or(TTL);
    operation_id(&mut violations, &request.operation_id, false);
    violations.finish()?;
    Ok(Reserving { question, ttl, operation_id: &request.operation_id })
}

/// A refund.
pub fn refund(request: &v1::RefundQuotaRequest) -> Result<Question<'_>, Error> {
    let mut violations = Violations::default();
    let read = question(&mut violations, request.subject.as_ref(), &request.meter, (request.amount, 1));
    operation_id(&mut violations, &request.operation_id, true);
    violations.finish()?;
    Ok(read)
}

/// The amount of a settlement.
pub fn settled(amount: i64) -> Result<u64, Error> {
    let mut violations = Violations::default();
    let amount = bounded(&mut violations, amount, 0);
    violations.finish()?;
    Ok(amount)
}

/// Whose limits are looked at, and those of which meter, where one is named.
pub fn view(subject: Option<&v1::QuotaSubject>, meter: Option<&str>) -> Result<Subjects, Error> {
    let mut violations = Violations::default();
    let subjects = named(&mut violations, subject);
    if let Some(meter) = meter {
        key(&mut violations, meter);
    }
    violations.finish()?;
    Ok(subjects)
}

/// A batch has 1 to 1000 requests.
pub fn batch<T>(requests: &[T]) -> Result<(), Error> {
    if (1..=BATCH).contains(&requests.len()) {
        return Ok(());
    }
    Err(Violation::new("requests", format!("must be 1 to {BATCH} requests")).into())
}

/// The hash of a consumption, by what it means: whoever names itself or leaves that out asks the same.
#[must_use]
pub fn consumption_hash(request: &v1::ConsumeQuotaRequest, subjects: Subjects, mode: Mode) -> RequestHash {
    let mode = if mode == Mode::BestEffort { v1::ConsumeMode::BestEffort } else { v1::ConsumeMode::Normal };
    let same = v1::ConsumeQuotaRequest {
        organization_id: String::new(),
        subject: Some(subject(subjects)),
        operation_id: String::new(),
        mode: mode.into(),
        ..request.clone()
    };
    Sha256::digest(same.encode_to_vec()).into()
}

/// The same of a reservation.
#[must_use]
pub fn reserving_hash(reserving: &Reserving<'_>, subjects: Subjects) -> RequestHash {
    let same = v1::ReserveQuotaRequest {
        subject: Some(subject(subjects)),
        meter: reserving.question.meter.to_owned(),
        amount: reply::signed(reserving.question.amount),
        ttl: Some(reply::duration(reserving.ttl)),
        ..Default::default()
    };
    Sha256::digest(same.encode_to_vec()).into()
}

/// The same of a refund.
#[must_use]
pub fn refund_hash(question: &Question<'_>, subjects: Subjects) -> RequestHash {
    let same = v1::RefundQuotaRequest {
        subject: Some(subject(subjects)),
        meter: question.meter.to_owned(),
        amount: reply::signed(question.amount),
        ..Default::default()
    };
    Sha256::digest(same.encode_to_vec()).into()
}

fn subject(subjects: Subjects) -> v1::QuotaSubject {
    let text = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    v1::QuotaSubject { api_key_id: text(subjects.api_key), user_id: text(subjects.user), team_id: text(subjects.team) }
}

fn question<'a>(
    violations: &mut Violations,
    subject: Option<&v1::QuotaSubject>,
    meter: &'a str,
    (amount, least): (i64, u64),
) -> Question<'a> {
    let named = named(violations, subject);
    key(violations, meter);
    Question { named, meter, amount: bounded(violations, amount, least) }
}

fn named(violations: &mut Violations, subject: Option<&v1::QuotaSubject>) -> Subjects {
    let Some(subject) = subject else { return Subjects::default() };
    let mut id = |field: &str, text: &str| {
        let id = parse_uuid(text);
        if id.is_none() && !text.is_empty() {
            violations.add(field, "must be a UUID or empty");
        }
        id
    };
    Subjects {
        team: id("subject.team_id", &subject.team_id),
        user: id("subject.user_id", &subject.user_id),
        api_key: id("subject.api_key_id", &subject.api_key_id),
    }
}

fn key(violations: &mut Violations, meter: &str) {
    if !meter::is_key(meter) {
        violations.add("meter", "must be the key of a meter");
    }
}

fn bounded(violations: &mut Violations, amount: i64, least: u64) -> u64 {
    match u64::try_from(amount) {
        Ok(amount) if (least..=MOST).contains(&amount) => amount,
        _ => {
            violations.add("amount", format!("must be {least} to {MOST}"));
            least
        }
    }
}

fn mode(mode: i32) -> Result<Mode, Violation> {
    match v1::ConsumeMode::try_from(mode) {
        Ok(v1::ConsumeMode::Unspecified | v1::ConsumeMode::Normal) => Ok(Mode::All),
        Ok(v1::ConsumeMode::BestEffort) => Ok(Mode::BestEffort),
        Err(_) => Err(Violation::new("mode", "is not a mode")),
    }
}

fn operation_id(violations: &mut Violations, id: &str, required: bool) {
    if required && id.is_empty() {
        violations.add("operation_id", "must be set: by it a repetition is known on every replica");
    }
    if id.chars().count() > OPERATION_ID || id.chars().any(char::is_control) {
        violations.add("operation_id", format!("must be at most {OPERATION_ID} printable characters"));
    }
}

fn ttl(ttl: Option<prost_types::Duration>) -> Result<Duration, Violation> {
    let Some(ttl) = ttl else { return Ok(TTL) };
    let read = || Some(Duration::new(u64::try_from(ttl.seconds).ok()?, u32::try_from(ttl.nanos).ok()?));
    let good = (0..1_000_000_000).contains(&ttl.nanos);
    let read = good.then(read).flatten().filter(|ttl| TTLS.contains(ttl));
    read.ok_or_else(|| Violation::new("ttl", "must be 1 second to 24 hours"))
}

/// The event that a consumption carries. Its quantity stays empty where it was: what that means, the meter decides.
fn carried(violations: &mut Violations, event: &v1::UsageEvent, meter: &str, amount: i64) -> Option<Draft> {
    if !event.organization_id.is_empty() {
        violations.add("event.organization_id", "must be empty: it is the request's");
    }
    if !event.meter.is_empty() && event.meter != meter {
        violations.add("event.meter", "must be the meter of the request or empty");
        return None;
    }
    if event.event_id.is_empty() {
        violations.add("event.event_id", "must be set: by it a retry is recognised");
    }
    if event.occurred_at.is_none() {
        violations.add("event.occurred_at", "must be set: by it a retry is recognised");
    }
    // Or its key would be wrong twice.
    if !meter::is_key(meter) {
        return None;
    }
    let draft = usage::draft(&mut v1::UsageEvent { meter: meter.to_owned(), ..event.clone() });
    let draft = violations.take(draft.map_err(|violation| violation.within("event")))?;
    if draft.quantity.is_some() && draft.quantity != Quantity::parse("amount", &amount.to_string()).ok() {
        violations.add("event.quantity", "must be the amount of the request or empty");
    }
    Some(draft)
}

#[cfg(test)]
mod tests;
