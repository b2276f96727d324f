//! Reservations, from the first decision to the settlement on whichever replica; and refunds.

use prost::Message as _;

use crate::auth::principal::Permitted;
use crate::error::Error;
use crate::proto::v1;
use crate::quota::decision::{Mode, Operation, Recorded};
use crate::quota::decisions::Receipt;
use crate::quota::operations::{Family, Name, Once, reused};
use crate::quota::reservation::Settlement;
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
        let ask = guest.ask(&reserving.question, Mode::All);
        let (decision, receipt) = self.decisions.reserve(&ask, reserving.ttl).await?;
        let decision = Some(reply::decision(decision));
        Ok(match receipt {
            None => v1::ReserveQuotaResponse { decision, ..Default::default() },
            Some(Receipt { reservation_id, expire_time, .. }) => {
                v1::ReserveQuotaResponse { decision, reservation_id, expire_time: Some(timestamp(expire_time)) }
            }
        })
    }

    /// Settles a reservation with what was really used.
    ///
    /// Errors: as [`Decisions::settle`](crate::quota::decisions::Decisions::settle).
    pub async fn settle(
        &self,
        permitted: &Permitted,
        reservation_id: &str,
        actual: u64,
    ) -> Result<v1::CommitQuotaResponse, Error> {
        let Settlement { settled, overage } =
            self.decisions.settle(permitted.organization_id(), reservation_id, actual).await?;
        Ok(v1::CommitQuotaResponse { settled, overage })
    }

    /// Gives back what was consumed.
    pub async fn refund(&self, guest: &Guest<'_>, question: &Question<'_>, operation_id: &str) -> Result<(), Error> {
        let organization_id = guest.organization_id();
        let hash = convert::refund_hash(question, guest.subjects(question.named));
        let corrections = self.engine().refund(&guest.ask(question, Mode::All)).await?;
        let operation = Operation {
            id: Name::new(organization_id, Family::Refund, operation_id).uuid(),
            request_hash: hash.to_vec(),
            reply: Vec::new(),
            corrections,
        };
        match self.engine().record(organization_id, operation).await? {
            Recorded::Before { request_hash, .. } if request_hash != hash => Err(reused()),
            Recorded::Before { .. } | Recorded::Now => Ok(()),
        }
    }
}
