//! Events on their way in, whether they come in one request or on a stream: validate → authorize → record → reply.

use futures_util::future::join_all;

use crate::auth::gate::Gate;
use crate::auth::principal::Caller;
use crate::error::{Error, Violation};
use crate::metering::parcel::Parcel;
use crate::metering::recorder::Recorder;
use crate::model::usage::REQUEST_EVENTS;
use crate::proto::v1;
use crate::service::convert::usage as convert;

/// Takes events in.
#[derive(Debug)]
pub struct Intake {
    /// Lets callers in.
    pub gate: Gate,
    /// Takes events in.
    pub recorder: Recorder,
}

/// A request's events, validated.
#[derive(Debug)]
pub struct Batch {
    parcel: Parcel,
    /// The identities of the events as their producer has them.
    sent: Vec<String>,
}

impl Batch {
    /// Validates a request: all of it is refused, or each event for itself later.
    pub fn read(organization_id: String, events: Vec<v1::UsageEvent>) -> Result<Self, Error> {
        if !(1..=REQUEST_EVENTS).contains(&events.len()) {
            return Err(Violation::new("events", format!("must be 1 to {REQUEST_EVENTS} events")).into());
        }
        let mut sent = Vec::with_capacity(events.len());
        let events = events.into_iter().map(|mut event| {
            let draft = convert::draft(&mut event);
            sent.push(event.event_id);
            (event.organization_id, draft)
        });
        Ok(Self { parcel: Parcel::new(organization_id, events)?, sent })
    }

    /// Whether something was refused because the queue is full, so that [`Intake::record`] may do better later.
    pub fn is_overloaded(&self) -> bool {
        self.parcel.is_overloaded()
    }

    /// What became of each event. Error: why the request as a whole was refused or failed.
    pub fn reply(self) -> Result<Vec<v1::UsageEventResult>, Error> {
        let fates = self.parcel.fates()?.into_iter();
        Ok(fates.zip(self.sent).map(|(fate, sent)| convert::result(fate, sent)).collect())
    }
}

impl Intake {
    /// Authorizes the caller in every organization that is named, and records what may be. What became of it is in the
    /// batch. Done again, it tries what was refused for want of room, and nothing else.
    pub async fn record(&self, caller: &Caller, batch: &mut Batch) {
        let answers = join_all(batch.parcel.open().map(|organization| self.gate.tenant(caller, organization))).await;
        self.recorder.record_parcel(&mut batch.parcel, answers).await;
    }
}
