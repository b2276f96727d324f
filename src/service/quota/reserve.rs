//! Reservations, from the first decision to the settlement on whichever replica; and refunds.

use chrono::TimeDelta;
use prost::Message as _;

use crate::auth::principal::Permitted;
use crate::error::Error;
use crate::ids;
use crate::model::usage::whole_milliseconds;
use crate::proto::v1;
use crate::quota::decision::{Charge, Mode, Operation, Recorded};
use crate::quota::operations::{Family, Name, Once, reused};
use crate::quota::reservation::Reservation;
use crate::service::convert::quota::{self as convert, Question, Reserving, reply};
use crate::service::convert::timestamp;
use crate::service::quota::decider::{Decider, Guest};

impl Decider {
    /// Reserves.
    pub async fn reserve(
        &self,
        guest: &Guest<'_>,
        reserving: &Reserving<'_>,
    ) -> Result<v1::ReserveQuotaResponse, Error> {
        if reserving.operation_id.is_empty() {
            return self.reserve_now(guest, reserving).await;
        }
        let name = Name::new(guest.organization_id(), Family::Reserve, reserving.operation_id);
        let hash = convert::reserving_hash(reserving, guest.subjects(reserving.question.named));
        let work = || async {
            let reply = self.reserve_now(guest, reserving).await?;
            // A denial reserved nothing: asked again, it may be admitted.
            let kept = (!reply.reservation_id.is_empty()).then(|| reply.encode_to_vec());
            Ok((reply, kept))
        };
        match Box::pin(self.operations.once(name, hash, work)).await? {
            Once::Now(reply) => Ok(reply),
            Once::Before(reply) => v1::ReserveQuotaResponse::decode(reply.as_ref()).map_err(Error::internal),
        }
    }

    async fn reserve_now(
        &self,
        guest: &Guest<'_>,
        reserving: &Reserving<'_>,
    ) -> Result<v1::ReserveQuotaResponse, Error> {
        // First, as it may fail, and then nothing is to be undone.
        let key = self.engine.signing_key().await?;
        let mut decision = self.decide(guest, &reserving.question, Mode::All).await?;
        if decision.denial.is_some() {
            return Ok(v1::ReserveQuotaResponse { decision: Some(reply::decision(decision)), ..Default::default() });
        }
        let (organization_id, now) = (guest.organization_id(), self.clock.now());
        let charges = std::mem::take(&mut decision.charges);
        let ttl = TimeDelta::from_std(reserving.ttl).map_err(Error::internal)?;
        let reservation = Reservation {
            organization_id,
            id: ids::v7(now),
            expire_time: whole_milliseconds(now + ttl),
            amount: reserving.question.amount,
            charges: charges.iter().copied().filter(Charge::is_refundable).collect(),
        };
        let Some(reservation_id) = reservation.sign(&key) else {
            self.engine.undo(organization_id, &charges);
            return Err(Error::internal(format!("a decision with {} charges", charges.len())));
        };
        self.reserved.open(organization_id, reservation.id, reserving.ttl, charges);
        Ok(v1::ReserveQuotaResponse {
            decision: Some(reply::decision(decision)),
            reservation_id,
            expire_time: Some(timestamp(reservation.expire_time)),
        })
    }

    /// Settles a reservation with what was really used.
    ///
    /// Errors: `RESERVATION_INVALID`, also for another organization's; `RESERVATION_EXPIRED`.
    pub async fn settle(
        &self,
        permitted: &Permitted,
        reservation_id: &str,
        actual: u64,
    ) -> Result<v1::CommitQuotaResponse, Error> {
        let organization_id = permitted.organization_id();
        let key = self.engine.signing_key().await?;
        let reservation = Reservation::verify(reservation_id, &key)
            .filter(|reservation| reservation.organization_id == organization_id)
            .ok_or_else(invalid)?;
        self.reserved.sweep();
        let recorded = if self.clock.now() < reservation.expire_time {
            let settlement = v1::CommitQuotaResponse {
                settled: reply::signed(actual),
                overage: reply::signed(actual.saturating_sub(reservation.amount)),
            };
            let operation = Operation {
                id: reservation.id,
                // Whatever the amount: the first settlement holds.
                request_hash: Vec::new(),
                reply: settlement.encode_to_vec(),
                corrections: reservation.corrections(actual),
            };
            match self.engine.record(organization_id, operation).await? {
                Recorded::Now => {
                    self.reserved.settled(reservation.id);
                    return Ok(settlement);
                }
                before @ Recorded::Before { .. } => Some(before),
            }
        } else {
            self.engine.recall(organization_id, reservation.id).await?
        };
        let Some(Recorded::Before { reply, .. }) = recorded else { return Err(expired(&reservation)) };
        // It may have been settled on another replica.
        self.reserved.settled(reservation.id);
        v1::CommitQuotaResponse::decode(reply.as_slice()).map_err(Error::internal)
    }

    /// Gives back what was consumed.
    pub async fn refund(&self, guest: &Guest<'_>, question: &Question<'_>, operation_id: &str) -> Result<(), Error> {
        let organization_id = guest.organization_id();
        let hash = convert::refund_hash(question, guest.subjects(question.named));
        let corrections = self.engine.refund(&guest.ask(question, Mode::All)).await?;
        let operation = Operation {
            id: Name::new(organization_id, Family::Refund, operation_id).uuid(),
            request_hash: hash.to_vec(),
            reply: Vec::new(),
            corrections,
        };
        match self.engine.record(organization_id, operation).await? {
            Recorded::Before { request_hash, .. } if request_hash != hash => Err(reused()),
            Recorded::Before { .. } | Recorded::Now => Ok(()),
        }
    }
}

fn invalid() -> Error {
    Error::InvalidRequest {
        reason: "RESERVATION_INVALID",
        message: "this is no reservation of the organization, as ReserveQuota returned it".to_owned(),
    }
}

fn expired(reservation: &Reservation) -> Error {
    Error::FailedPrecondition {
        reason: "RESERVATION_EXPIRED",
        subject: format!("reservations/{}", reservation.id),
        message: format!(
            "the reservation could be settled until {}; what it reserved stays used",
            reservation.expire_time
        ),
    }
}
