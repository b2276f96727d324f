//! Events on their way in, from whatever front end: resolve the meter, judge the time, hand them to the writer, and tell
//! each event's fate.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::auth::principal::Permitted;
use crate::clock::Clock;
use crate::error::{Error, Violation};
use crate::ids::OrganizationId;
use crate::metering::catalog::{Catalog, View};
use crate::metering::writer::{Candidate, Verdict, Writer};
use crate::model::usage::{Event, EventId, Quantity, whole_milliseconds};

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
    /// How much.
    pub quantity: Quantity,
    /// Of whom; may be empty.
    pub subject: String,
    /// A JSON object as text; see [`Event::properties`].
    pub properties: Option<String>,
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
    /// Not acceptable.
    Rejected {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// For a developer.
        message: String,
    },
}

/// Takes events in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    catalog: Arc<Catalog>,
    writer: Writer,
    clock: Clock,
    accepted: Accepted,
}

/// What is known of a draft before the writer is asked.
enum Judged {
    /// It is no event.
    Rejected { reason: &'static str, message: String },
    /// It is one, and is handed in. `untimely` is its fate when it was not recorded before.
    HandedIn { event_id: EventId, untimely: Option<(&'static str, String)> },
}

impl Recorder {
    /// A recorder of what the writer writes.
    #[must_use]
    pub const fn new(catalog: Arc<Catalog>, writer: Writer, clock: Clock, accepted: Accepted) -> Self {
        Self { catalog, writer, clock, accepted }
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
        let organization_id = permitted.organization_id();
        let view = self.view(organization_id, &drafts).await?;
        let now = self.clock.now();
        let mut candidates = Vec::with_capacity(drafts.len());
        let judged: Vec<Judged> =
            drafts.into_iter().map(|draft| self.judge(draft, &view, now, &mut candidates)).collect();
        let mut verdicts = self.writer.record(organization_id, candidates).await?.into_iter();
        judged
            .into_iter()
            .map(|judged| match judged {
                Judged::Rejected { reason, message } => Ok(Fate::Rejected { reason, message }),
                Judged::HandedIn { event_id, untimely } => match (verdicts.next(), untimely) {
                    (Some(Verdict::Recorded), _) => Ok(Fate::Recorded(event_id)),
                    (Some(Verdict::Duplicate), _) => Ok(Fate::Duplicate),
                    (Some(Verdict::Conflict), _) => Ok(Fate::Conflict),
                    (Some(Verdict::Absent), Some((reason, message))) => Ok(Fate::Rejected { reason, message }),
                    (Some(Verdict::Absent), None) | (None, _) => Err(Error::internal("an event without a verdict")),
                },
            })
            .inspect(count)
            .collect()
    }

    /// The meters, new enough that none of those named is missing only because it was created a moment ago: an event
    /// that is rejected is not sent again.
    async fn view(&self, organization_id: OrganizationId, drafts: &[Result<Draft, Violation>]) -> Result<View, Error> {
        let began = self.clock.instant();
        let view = self.catalog.view(organization_id).await?;
        if drafts.iter().flatten().all(|draft| view.of_key(&draft.meter).is_some()) {
            return Ok(view);
        }
        self.catalog.view_since(organization_id, began).await
    }

    fn judge(
        &self,
        draft: Result<Draft, Violation>,
        view: &View,
        now: DateTime<Utc>,
        candidates: &mut Vec<Candidate>,
    ) -> Judged {
        let draft = match draft {
            Ok(draft) => draft,
            Err(violation) => return invalid(&violation),
        };
        if draft.event_id.is_some() && draft.occurred_at.is_none() {
            return invalid(&Violation::new(
                "occurred_at",
                "must be set with event_id: both are the identity by which a retry is recognised",
            ));
        }
        let Some(meter) = view.of_key(&draft.meter) else {
            return Judged::Rejected {
                reason: "METER_NOT_FOUND",
                message: format!("there is no meter with the key {:?}", draft.meter),
            };
        };
        let occurred_at = whole_milliseconds(draft.occurred_at.unwrap_or(now));
        let untimely = self.untimely(occurred_at, now);
        let event_id = match (draft.event_id, &untimely) {
            (Some(event_id), _) => event_id,
            (None, None) => EventId::chosen(now),
            // It cannot have been recorded before.
            (None, Some((reason, message))) => return Judged::Rejected { reason, message: message.clone() },
        };
        let event = Event {
            event_id: event_id.clone(),
            occurred_at,
            meter_id: meter.meter_id,
            quantity: draft.quantity,
            subject: draft.subject,
            properties: draft.properties,
        };
        candidates.push(Candidate { event, recordable: untimely.is_none() });
        Judged::HandedIn { event_id, untimely }
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
    Judged::Rejected { reason: "INVALID_FIELD", message: format!("{} {}", violation.field, violation.description) }
}

fn count(fate: &Result<Fate, Error>) {
    let status = match fate {
        Ok(Fate::Recorded(_)) => "recorded",
        Ok(Fate::Duplicate) => "duplicate",
        Ok(Fate::Conflict) => "conflict",
        Ok(Fate::Rejected { .. }) => "rejected",
        Err(_) => return,
    };
    metrics::counter!("tenancy_usage_events_total", "status" => status).increment(1);
}
