//! Events on their way in, from whatever front end: resolve the meter, judge the time, hand them to the writer, and tell
//! each event's fate.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use metrics::Counter;
use serde_json::Value;

use crate::auth::principal::Permitted;
use crate::clock::Clock;
use crate::error::{Error, Violation};
use crate::ids::OrganizationId;
use crate::metering::catalog::{Catalog, View};
use crate::metering::parcel::Parcel;
use crate::metering::writer::{Candidate, Verdict, Writer};
use crate::model::usage::{Event, EventId, NamedSeries, Quantity, Unmeasured, whole_milliseconds};

/// Which times are accepted.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// How long ago an event may have happened.
    pub age: TimeDelta,
    /// How far ahead of our clock a producer's may be.
    pub ahead: TimeDelta,
}

impl Default for Accepted {
    fn default() -> Self {
        Self { age: TimeDelta::days(35), ahead: TimeDelta::minutes(5) }
    }
}

/// An event as its producer has it, every field checked.
#[derive(Clone, Debug)]
pub struct Draft {
    /// `None`: the server chooses; then the event is not safe to retry. Only with a time is it an identity.
    pub event_id: Option<EventId>,
    /// `None`: now.
    pub occurred_at: Option<DateTime<Utc>>,
    /// The key of the meter.
    pub meter: String,
    /// How much; `None` where nothing was sent.
    pub quantity: Option<Quantity>,
    /// Of whom; may be empty.
    pub subject: String,
    /// What else is known: an object within the bounds of [`crate::model::usage`].
    pub properties: Option<Value>,
}

/// What became of an event.
#[derive(Clone, PartialEq, Debug)]
pub enum Fate {
    /// Recorded, under this identity.
    Recorded(EventId),
    /// The very same was recorded before.
    Duplicate,
    /// Another with this identity was recorded before.
    Conflict,
    /// Left out by the filter of its meter.
    Filtered,
    /// Not acceptable.
    Rejected {
        /// Why, in `UPPER_SNAKE`.
        reason: Cow<'static, str>,
        /// For a developer.
        message: String,
    },
    /// Not known to be recorded, as its organization's share of the request failed: to be sent again.
    Unavailable {
        /// Why, in `UPPER_SNAKE`.
        reason: String,
        /// For a developer.
        message: String,
    },
}

impl Fate {
    /// Of events whose organization the caller may not record for.
    pub(super) fn refused(error: &Error, events: usize) -> Vec<Self> {
        let fate = Self::Rejected { reason: error.reason().into(), message: error.to_string() };
        counted(vec![fate; events])
    }

    /// Of events whose organization's share failed for a reason that may pass.
    pub(super) fn unavailable(error: &Error, events: usize) -> Vec<Self> {
        let message = match error {
            Error::Internal(text) => {
                tracing::error!(error = %text, "internal error");
                "internal error".to_owned()
            }
            other => other.to_string(),
        };
        counted(vec![Self::Unavailable { reason: error.reason(), message }; events])
    }
}

fn counted(fates: Vec<Fate>) -> Vec<Fate> {
    fates.iter().for_each(count);
    fates
}

/// Takes events in. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    catalog: Arc<Catalog>,
    writer: Writer,
    clock: Clock,
    accepted: Accepted,
    /// Those recorded, the usual fate: by its label the counter would cost each event a search.
    recorded: Counter,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

/// What is known of a draft before the writer is asked.
enum Judged {
    /// Its fate is known.
    Settled(Fate),
    /// It is one, and is handed in. `refusal` is its fate when it was not recorded before.
    HandedIn { event_id: EventId, refusal: Option<(&'static str, String)> },
}

impl Recorder {
    /// A recorder of what the writer writes. Counts, so the recorder of metrics must be installed before.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, writer: Writer, clock: Clock, accepted: Accepted) -> Self {
        Self { catalog, writer, clock, accepted, recorded: counter("recorded") }
    }

    /// Records events of one organization; returns their fates in their order, after the commit. One that is wrong does
    /// not sink the rest.
    ///
    /// Errors: as [`Writer::record`].
    pub async fn record(
        &self,
        permitted: &Permitted,
        drafts: Vec<Result<Draft, Violation>>,
    ) -> Result<Vec<Fate>, Error> {
        self.record_all(permitted, &drafts).await
    }

    async fn record_all(&self, permitted: &Permitted, drafts: &[Result<Draft, Violation>]) -> Result<Vec<Fate>, Error> {
        let organization_id = permitted.organization_id();
        let view = self.view(organization_id, drafts).await?;
        let now = self.clock.now();
        let mut candidates = Vec::with_capacity(drafts.len());
        let judged: Vec<Judged> = drafts.iter().map(|draft| self.judge(draft, &view, now, &mut candidates)).collect();
        let mut verdicts = self.writer.record(organization_id, candidates).await?.into_iter();
        judged
            .into_iter()
            .map(|judged| match judged {
                Judged::Settled(fate) => Ok(fate),
                Judged::HandedIn { event_id, refusal } => match (verdicts.next(), refusal) {
                    (Some(Verdict::Recorded), _) => Ok(Fate::Recorded(event_id)),
                    (Some(Verdict::Duplicate), _) => Ok(Fate::Duplicate),
                    (Some(Verdict::Conflict), _) => Ok(Fate::Conflict),
                    (Some(Verdict::Absent), Some((reason, message))) => {
                        Ok(Fate::Rejected { reason: reason.into(), message })
                    }
                    (Some(Verdict::Absent), None) | (None, _) => Err(Error::internal("an event without a verdict")),
                },
            })
            .inspect(|fate| match fate {
                Ok(Fate::Recorded(_)) => self.recorded.increment(1),
                Ok(fate) => count(fate),
                Err(_) => {}
            })
            .collect()
    }

    /// What became of an event if it was recorded before, or never will be; `None` when it could be recorded now. Records
    /// nothing.
    ///
    /// Errors: as [`Writer::record`].
    pub async fn known(&self, permitted: &Permitted, draft: Draft) -> Result<Option<Fate>, Error> {
        let (organization_id, drafts) = (permitted.organization_id(), [Ok(draft)]);
        let view = self.view(organization_id, &drafts).await?;
        let mut candidates = Vec::with_capacity(1);
        for draft in &drafts {
            if let Judged::Settled(fate) = self.judge(draft, &view, self.clock.now(), &mut candidates) {
                return Ok(Some(fate));
            }
        }
        for candidate in &mut candidates {
            candidate.recordable = false;
        }
        Ok(self.writer.record(organization_id, candidates).await?.first().and_then(|verdict| match verdict {
            Verdict::Duplicate => Some(Fate::Duplicate),
            Verdict::Conflict => Some(Fate::Conflict),
            Verdict::Recorded | Verdict::Absent => None,
        }))
    }

    /// Records what is open of a request's events, every organization's for itself and all at once; each has its answer
    /// in `answers`, which are of [`Parcel::open`]. What was refused for want of room stays open.
    pub async fn record_parcel(&self, parcel: &mut Parcel, answers: Vec<Result<Permitted, Error>>) {
        let jobs = parcel.permitted(answers).into_iter();
        join_all(jobs.map(async |job| *job.outcome = Some(self.record_all(&job.permitted, job.drafts).await))).await;
    }

    /// The meters, new enough that none of those named is missing only because it was created a moment ago: an event
    /// that is rejected is not sent again.
    pub async fn meters<'k>(
        &self,
        organization_id: OrganizationId,
        mut keys: impl Iterator<Item = &'k str> + Send,
    ) -> Result<View, Error> {
        self.catalog.view_with(Some(organization_id), |view| keys.all(|key| view.of_key(key).is_some())).await
    }

    async fn view(&self, organization_id: OrganizationId, drafts: &[Result<Draft, Violation>]) -> Result<View, Error> {
        self.meters(organization_id, drafts.iter().flatten().map(|draft| draft.meter.as_str())).await
    }

    fn judge(
        &self,
        draft: &Result<Draft, Violation>,
        view: &View,
        now: DateTime<Utc>,
        candidates: &mut Vec<Candidate>,
    ) -> Judged {
        let draft = match draft {
            Ok(draft) => draft,
            Err(violation) => return invalid(violation),
        };
        if draft.event_id.is_some() && draft.occurred_at.is_none() {
            return invalid(&Violation::new(
                "occurred_at",
                "must be set with event_id: both are the identity by which a retry is recognised",
            ));
        }
        let Some(meter) = view.of_key(&draft.meter) else {
            return rejected("METER_NOT_FOUND", format!("there is no meter with the key {:?}", draft.meter));
        };
        let measured = meter.measure.measurement(draft.quantity, &draft.subject, draft.properties.as_ref());
        let measurement = match measured {
            Ok(measurement) => measurement,
            Err(Unmeasured::Filtered) => return Judged::Settled(Fate::Filtered),
            Err(Unmeasured::Invalid(violation)) => return invalid(&violation),
        };
        let occurred_at = whole_milliseconds(draft.occurred_at.unwrap_or(now));
        // Only for an event that was not recorded before: a retry is recognised also when its time has passed.
        let refusal = match meter.archive_time {
            Some(_) => Some(("METER_ARCHIVED", format!("the meter {:?} takes no more events", draft.meter))),
            None => self.untimely(occurred_at, now),
        };
        let event_id = match (&draft.event_id, &refusal) {
            (Some(event_id), _) => event_id.clone(),
            (None, None) => EventId::chosen(now),
            // It cannot have been recorded before.
            (None, Some((reason, message))) => return rejected(reason, message.clone()),
        };
        let event = Event {
            event_id: event_id.clone(),
            occurred_at,
            meter_id: meter.meter_id,
            aggregation: meter.measure.aggregation,
            quantity: measurement.quantity,
            value_id: measurement.value_id,
            series: NamedSeries::of(&draft.subject, measurement.group_values),
            properties: draft.properties.as_ref().map(Value::to_string),
        };
        candidates.push(Candidate { event, recordable: refusal.is_none() });
        Judged::HandedIn { event_id, refusal }
    }

    /// Why an event of this time is not recorded; `None` when it is.
    fn untimely(&self, occurred_at: DateTime<Utc>, now: DateTime<Utc>) -> Option<(&'static str, String)> {
        let Accepted { age, ahead } = self.accepted;
        if now - occurred_at > age {
            return Some(("EVENT_TOO_OLD", format!("occurred_at is more than {} days ago", age.num_days())));
        }
        if occurred_at - now > ahead {
            return Some(("EVENT_IN_FUTURE", format!("occurred_at is more than {} s ahead", ahead.num_seconds())));
        }
        None
    }
}

fn invalid(violation: &Violation) -> Judged {
    rejected("INVALID_FIELD", format!("{} {}", violation.field, violation.description))
}

const fn rejected(reason: &'static str, message: String) -> Judged {
    Judged::Settled(Fate::Rejected { reason: Cow::Borrowed(reason), message })
}

fn count(fate: &Fate) {
    let status = match fate {
        Fate::Recorded(_) => "recorded",
        Fate::Duplicate => "duplicate",
        Fate::Conflict => "conflict",
        Fate::Filtered => "filtered",
        Fate::Rejected { .. } => "rejected",
        Fate::Unavailable { .. } => "unavailable",
    };
    counter(status).increment(1);
}

fn counter(status: &'static str) -> Counter {
    metrics::counter!("tenancy_usage_events_total", "status" => status)
}
