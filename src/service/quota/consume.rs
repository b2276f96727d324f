//! Consumption that is safe to retry: by an operation id, in memory or in the ledger, or by the event that it carries.

use prost::Message as _;
use prost::bytes::BytesMut;
use tokio::sync::oneshot;

use crate::auth::gate;
use crate::auth::permission::Permission;
use crate::error::Error;
use crate::metering::recorder::{Draft, Fate};
use crate::model::usage::Quantity;
use crate::proto::reply::Reply;
use crate::proto::v1;
use crate::quota::decision::{Charge, Decision, LimitView, Operation, Recorded};
use crate::quota::operations::{Family, Name, Once, RequestHash, reused};
use crate::service::convert::quota::{self as convert, Consumption, reply};
use crate::service::convert::usage;
use crate::service::quota::decider::{Decider, Guest, is_unknown};

/// Dropped once the decision is made, and before its event or operation is written: the next of a batch may decide then.
pub type Decided = Option<oneshot::Sender<()>>;

/// What came of a consumption.
#[derive(Clone, Debug)]
pub enum Consumed {
    /// A decision from memory, and nothing else.
    Plainly(Decision),
    /// What may be repeated, or has an event.
    Carefully(v1::ConsumeQuotaResponse),
}

impl From<Consumed> for v1::ConsumeQuotaResponse {
    fn from(consumed: Consumed) -> Self {
        match consumed {
            Consumed::Plainly(decision) => answer(decision, None),
            Consumed::Carefully(reply) => reply,
        }
    }
}

impl Reply for Consumed {
    fn room(&self) -> usize {
        match self {
            Self::Plainly(decision) => decision.room(),
            Self::Carefully(reply) => reply.room(),
        }
    }

    fn write(&self, into: &mut BytesMut) {
        match self {
            Self::Plainly(decision) => decision.write(into),
            Self::Carefully(reply) => reply.write(into),
        }
    }
}

impl Decider {
    /// Consumes. `request` is what `consumption` was read from.
    pub async fn consume(
        &self,
        guest: &Guest<'_>,
        request: &v1::ConsumeQuotaRequest,
        consumption: &Consumption<'_>,
        decided: Decided,
    ) -> Result<Consumed, Error> {
        if consumption.operation_id.is_empty() && consumption.event.is_none() {
            return self.consume_plainly(guest, consumption, decided).await.map(Consumed::Plainly);
        }
        // Boxed: it is the larger part, and would be moved with every consumption that has nothing of it.
        Box::pin(self.consume_carefully(guest, request, consumption, decided)).await.map(Consumed::Carefully)
    }

    async fn consume_plainly(
        &self,
        guest: &Guest<'_>,
        consumption: &Consumption<'_>,
        decided: Decided,
    ) -> Result<Decision, Error> {
        let decision = self.decide(guest, &consumption.question, consumption.mode).await?;
        drop(decided);
        Ok(decision)
    }

    async fn consume_carefully(
        &self,
        guest: &Guest<'_>,
        request: &v1::ConsumeQuotaRequest,
        consumption: &Consumption<'_>,
        decided: Decided,
    ) -> Result<v1::ConsumeQuotaResponse, Error> {
        if consumption.event.is_some() {
            gate::require(guest.permitted.permissions(), Permission::UsageWrite)?;
        }
        if consumption.operation_id.is_empty() {
            return self.consume_with_event(guest, consumption, decided).await;
        }
        let name = Name::new(guest.organization_id(), Family::Consume, consumption.operation_id);
        let subjects = guest.subjects(consumption.question.named);
        let hash = convert::consumption_hash(request, subjects, consumption.mode);
        let work = || async {
            let reply = if consumption.durable {
                self.consume_durably(guest, consumption, name, hash, decided).await?
            } else {
                self.consume_with_event(guest, consumption, decided).await?
            };
            // A denial consumed nothing: asked again, it may be admitted.
            let kept = is_allowed(&reply).then(|| reply.encode_to_vec());
            Ok((reply, kept))
        };
        match self.operations.once(name, hash, work).await? {
            Once::Now(reply) => Ok(reply),
            Once::Before(reply) => decode(&reply),
        }
    }

    /// Decides, and records that it did before it says so.
    async fn consume_durably(
        &self,
        guest: &Guest<'_>,
        consumption: &Consumption<'_>,
        name: Name,
        hash: RequestHash,
        decided: Decided,
    ) -> Result<v1::ConsumeQuotaResponse, Error> {
        let organization_id = guest.organization_id();
        let mut decision = self.decide(guest, &consumption.question, consumption.mode).await?;
        drop(decided);
        if decision.denial.is_some() {
            // The first call may have been the one that used the limit up, on another replica.
            return match self.engine().recall(organization_id, name.uuid()).await? {
                Some(before) => repeated(before, hash),
                None => Ok(answer(decision, None)),
            };
        }
        let charges = std::mem::take(&mut decision.charges);
        let reply = answer(decision, None);
        let operation = Operation {
            id: name.uuid(),
            request_hash: hash.to_vec(),
            reply: reply.encode_to_vec(),
            corrections: Vec::new(),
        };
        match self.engine().record(organization_id, operation).await {
            Ok(Recorded::Now) => Ok(reply),
            Ok(before @ Recorded::Before { .. }) => {
                self.engine().undo(organization_id, &charges);
                repeated(before, hash)
            }
            // It may have been committed, and then a repetition is answered from the record and consumes nothing: so the
            // charge must stay. If it was not, the charge is lost until the window ends, which admits too little, and
            // never too much.
            Err(error) if is_unknown(&error) => Err(error),
            Err(error) => {
                self.engine().undo(organization_id, &charges);
                Err(error)
            }
        }
    }

    /// Decides, and records the event, if there is one, when it was admitted.
    async fn consume_with_event(
        &self,
        guest: &Guest<'_>,
        consumption: &Consumption<'_>,
        decided: Decided,
    ) -> Result<v1::ConsumeQuotaResponse, Error> {
        let Some((draft, event_id)) = &consumption.event else {
            return Ok(answer(self.consume_plainly(guest, consumption, decided).await?, None));
        };
        let (organization_id, amount) = (guest.organization_id(), consumption.question.amount);
        let draft = self.with_quantity(guest, draft.clone(), amount).await?;
        let mut decision = self.decide(guest, &consumption.question, consumption.mode).await?;
        drop(decided);
        if decision.denial.is_some() {
            // The first try may have been the one that used the limit up.
            return Ok(match self.recorder.known(guest.permitted, draft).await? {
                Some(fate @ (Fate::Duplicate | Fate::Filtered)) => {
                    admit(&mut decision, amount);
                    answer(decision, Some(usage::result(fate, (*event_id).to_owned())))
                }
                _ => answer(decision, None),
            });
        }
        let charges = std::mem::take(&mut decision.charges);
        let recorded = self.recorder.record(guest.permitted, vec![Ok(draft)]).await;
        let fate = recorded.and_then(|mut fates| fates.pop().ok_or_else(|| Error::internal("an event without a fate")));
        match fate {
            Ok(fate @ Fate::Recorded(_)) => Ok(answer(decision, Some(usage::result(fate, String::new())))),
            Ok(fate @ (Fate::Duplicate | Fate::Filtered)) => {
                self.engine().undo(organization_id, &charges);
                give_back(&mut decision.limits, &charges);
                Ok(answer(decision, Some(usage::result(fate, (*event_id).to_owned()))))
            }
            Ok(fate) => {
                self.engine().undo(organization_id, &charges);
                Err(not_recorded(fate, event_id))
            }
            // It may have been recorded, and then a retry finds the duplicate and gives its own charge back: so this one
            // must stay. If it was not, it is lost until the window ends, which admits too little, and never too much.
            Err(error) if is_unknown(&error) => Err(error),
            Err(error) => {
                self.engine().undo(organization_id, &charges);
                Err(error)
            }
        }
    }

    /// The event with the amount for its quantity where it has none, unless its meter takes that from a property.
    async fn with_quantity(&self, guest: &Guest<'_>, draft: Draft, amount: u64) -> Result<Draft, Error> {
        if draft.quantity.is_some() {
            return Ok(draft);
        }
        let meter = self.catalog.named(guest.organization_id(), &draft.meter).await?;
        let takes_property = meter.measure.amount_property().is_some();
        let quantity = (!takes_property).then(|| Quantity::parse("amount", &amount.to_string())).transpose()?;
        Ok(Draft { quantity, ..draft })
    }
}

fn answer(decision: Decision, event: Option<v1::UsageEventResult>) -> v1::ConsumeQuotaResponse {
    v1::ConsumeQuotaResponse { decision: Some(reply::decision(decision)), event }
}

fn is_allowed(reply: &v1::ConsumeQuotaResponse) -> bool {
    reply.decision.as_ref().is_some_and(|decision| decision.allowed)
}

fn decode(reply: &[u8]) -> Result<v1::ConsumeQuotaResponse, Error> {
    v1::ConsumeQuotaResponse::decode(reply).map_err(Error::internal)
}

/// The reply of the first call with this id.
fn repeated(recorded: Recorded, hash: RequestHash) -> Result<v1::ConsumeQuotaResponse, Error> {
    match recorded {
        Recorded::Before { request_hash, reply } if request_hash == hash => decode(&reply),
        Recorded::Before { .. } => Err(reused()),
        Recorded::Now => Err(Error::internal("an operation that was recalled happened now")),
    }
}

/// Turns a denial into what it was when its event was recorded.
fn admit(decision: &mut Decision, amount: u64) {
    decision.denial = None;
    decision.retry_after = None;
    decision.granted = amount;
    for limit in &mut decision.limits {
        limit.denied = false;
    }
}

/// Shows the limits as they are without these charges.
fn give_back(limits: &mut [LimitView], charges: &[Charge]) {
    for limit in limits {
        let of_limit = |charge: &&Charge| {
            charge.account.subject_kind == limit.limit.subject_kind
                && charge.account.subject_id == limit.subject_id
                && charge.account.meter_id == limit.limit.meter_id
                && charge.account.window == limit.limit.window
        };
        let back: u64 = charges.iter().filter(of_limit).map(|charge| charge.amount).sum();
        // What was past the amount goes first, as it came last.
        let past = back.min(limit.overage);
        limit.used = limit.used.saturating_sub(back);
        limit.overage -= past;
        limit.remaining += back - past;
    }
}

fn not_recorded(fate: Fate, event_id: &str) -> Error {
    let v1::UsageEventResult { reason, message, .. } = usage::result(fate, String::new());
    let message = if reason.is_empty() { message } else { format!("{reason}: {message}") };
    Error::FailedPrecondition {
        reason: "EVENT_NOT_RECORDED",
        subject: format!("usageEvents/{event_id}"),
        message: format!("the event was not recorded, and nothing was consumed: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::model::limit::{Enforcement, SubjectKind, Terms, Window};
    use crate::quota::decision::{AccountKey, Applied, Source};

    #[test]
    fn what_is_given_back_is_shown_as_never_taken() {
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let terms = Terms {
            amount: Some(10),
            burst: 0,
            enforcement: Enforcement::Soft,
            shadow: false,
            fallback: None,
            alert_percents: Vec::new(),
        };
        let applied = Applied {
            limit_id: id.into(),
            source: Source::Plan,
            meter: "calls".into(),
            meter_id: id.into(),
            subject_kind: SubjectKind::User,
            window: Window::Lifetime,
            terms,
        };
        let view = LimitView {
            limit: Arc::new(applied),
            subject_id: id,
            used: 12,
            reserved: 0,
            remaining: 0,
            overage: 2,
            reset_time: None,
            denied: false,
            would_deny: false,
            alerts: Vec::new(),
        };
        let charge = |subject_id| {
            let account = AccountKey {
                subject_kind: SubjectKind::User,
                subject_id,
                meter_id: id.into(),
                window: Window::Lifetime,
            };
            Charge { account, slot: 0, amount: 5 }
        };
        let mut limits = vec![view];
        give_back(&mut limits, &[charge(other)]);
        assert_eq!((limits[0].used, limits[0].remaining, limits[0].overage), (12, 0, 2));
        give_back(&mut limits, &[charge(id), charge(other)]);
        assert_eq!((limits[0].used, limits[0].remaining, limits[0].overage), (7, 3, 0));
    }
}
