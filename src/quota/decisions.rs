//! Where all decisions are made, whoever asks: what the engine says, how many of what there were, and what is reserved.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{Counter, counter};
use prost::Message as _;

use crate::auth::principal::Permitted;
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::{self, OrganizationId};
use crate::model::usage::whole_milliseconds;
use crate::quota::decision::{Ask, Charge, Decision, LimitView, Recorded, Subjects};
use crate::quota::engine::given::Given;
use crate::quota::engine::{Engine, Waiting};
use crate::quota::reservation::{Reservation, Settlement};
use crate::quota::reserved::Reserved;

/// Decides. Cheap to clone; made once, as what it knows of reservations is the replica's.
#[derive(Clone, Debug)]
pub struct Decisions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    clock: Clock,
    /// The reservations of this replica.
    reserved: Reserved,
    outcomes: Outcomes,
}

/// The counters, looked up once: by their labels each of them would cost more than some decisions.
struct Outcomes {
    allowed: Counter,
    denied: Counter,
    error: Counter,
    degraded: Counter,
}

impl Outcomes {
    fn count(&self, decision: &Decision) {
        let outcome = if decision.denial.is_none() { &self.allowed } else { &self.denied };
        outcome.increment(1);
        if decision.degraded {
            self.degraded.increment(1);
        }
    }
}

impl std::fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outcomes")
    }
}

/// What was reserved, for who settles it.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The reservation.
    pub reservation: Reservation,
    /// All that settling it takes, signed.
    pub reservation_id: String,
    /// Until when it can be settled.
    pub expire_time: DateTime<Utc>,
}

/// A reservation that was settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// What it came to.
    pub settlement: Settlement,
    /// Somebody else had settled it.
    pub before: bool,
}

impl Decisions {
    /// Describes the metrics too, so a recorder must be installed before.
    #[must_use]
    pub fn new(engine: Engine, clock: Clock) -> Self {
        metrics::describe_counter!(
            "tenancy_quota_decisions_total",
            "Decisions about quotas, checks among them, by outcome: allowed, denied, error."
        );
        metrics::describe_counter!(
            "tenancy_quota_degraded_total",
            "Decisions that a limit did not enforce, as it says to admit while the database is away."
        );
        let outcome = |outcome| counter!("tenancy_quota_decisions_total", "outcome" => outcome);
        let outcomes = Outcomes {
            allowed: outcome("allowed"),
            denied: outcome("denied"),
            error: outcome("error"),
            degraded: counter!("tenancy_quota_degraded_total"),
        };
        let reserved = Reserved::new(engine.clone(), clock.clone());
        Self(Arc::new(Inner { engine, clock, reserved, outcomes }))
    }

    /// What decides.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Decides.
    ///
    /// Errors: as [`Engine::decide`].
    pub async fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Error> {
        let Inner { engine, clock, reserved, outcomes } = &*self.0;
        let now = clock.instant();
        reserved.sweep(now);
        let decided = engine.decide(ask, now).await;
        match &decided {
            Ok(decision) => outcomes.count(decision),
            Err(_) => outcomes.error.increment(1),
        }
        decided
    }

    /// Decides by limits that are given; see [`Engine::given`].
    pub fn given(&self, given: &Given<'_>) -> Result<Decision, Waiting> {
        let decided = self.0.engine.given(given);
        if let Ok(decision) = &decided {
            self.0.outcomes.count(decision);
        }
        decided
    }

    /// Decides anew; see [`Engine::given_again`].
    pub async fn given_again(&self, given: &Given<'_>, waiting: &mut Waiting) -> Option<Decision> {
        let decided = self.0.engine.given_again(given, waiting).await;
        if let Some(decision) = &decided {
            self.0.outcomes.count(decision);
        }
        decided
    }

    /// Decides, and reserves what was admitted; the decision keeps no charges then.
    ///
    /// Errors: as [`Engine::decide`]; nothing is reserved then.
    pub async fn reserve(&self, ask: &Ask<'_>, ttl: Duration) -> Result<(Decision, Option<Receipt>), Error> {
        let Inner { engine, clock, reserved, .. } = &*self.0;
        // First, as it may fail, and then nothing is to be undone.
        let key = engine.signing_key().await?;
        let mut decision = self.decide(ask).await?;
        if decision.denial.is_some() {
            return Ok((decision, None));
        }
        let now = clock.now();
        let charges = std::mem::take(&mut decision.charges);
        let ttl_delta = TimeDelta::from_std(ttl).map_err(Error::internal)?;
        let reservation = Reservation {
            organization_id: ask.organization_id,
            id: ids::v7(now),
            expire_time: whole_milliseconds(now + ttl_delta),
            amount: ask.amount,
            charges: charges.iter().copied().filter(Charge::is_refundable).collect(),
        };
        let Some(reservation_id) = reservation.sign(&key) else {
            engine.undo(ask.organization_id, &charges);
            return Err(Error::internal(format!("a decision with {} charges", charges.len())));
        };
        reserved.open(ask.organization_id, reservation.id, ttl, charges);
        let expire_time = reservation.expire_time;
        Ok((decision, Some(Receipt { reservation, reservation_id, expire_time })))
    }

    /// Settles a reservation with what was really used.
    ///
    /// Errors: `RESERVATION_INVALID`, also for another organization's; `RESERVATION_EXPIRED`.
    pub async fn settle(
        &self,
        organization_id: OrganizationId,
        reservation_id: &str,
        actual: u64,
    ) -> Result<Settlement, Error> {
        let Inner { engine, clock, .. } = &*self.0;
        let key = engine.signing_key().await?;
        let reservation = Reservation::verify(reservation_id, &key)
            .filter(|reservation| reservation.organization_id == organization_id)
            .ok_or_else(invalid)?;
        let settled = self.settle_all(&[(reservation, actual)], clock.now()).await.pop();
        Ok(settled.ok_or_else(|| Error::internal("a reservation without an outcome"))??.settlement)
    }

    /// Settles reservations of whichever organizations, as told at `at`, in few transactions: as if one by one in their
    /// order, what became of each in that order.
    ///
    /// Errors: `RESERVATION_EXPIRED`; of one that expired before `at` and was settled before that, what it was settled with.
    pub async fn settle_all(
        &self,
        settlements: &[(Reservation, u64)],
        at: DateTime<Utc>,
    ) -> Vec<Result<Settled, Error>> {
        let Inner { engine, clock, reserved, .. } = &*self.0;
        reserved.sweep(clock.instant());
        let is_open = |reservation: &Reservation| at < reservation.expire_time;
        let id = |reservation: &Reservation| (reservation.organization_id, reservation.id);
        let open = settlements.iter().filter(|(reservation, _)| is_open(reservation));
        let operations: Vec<_> = open
            .map(|(reservation, actual)| (reservation.organization_id, reservation.settlement(*actual).1))
            .collect();
        let expired_ids = settlements.iter().filter(|(reservation, _)| !is_open(reservation));
        let expired_ids: Vec<_> = expired_ids.map(|(reservation, _)| id(reservation)).collect();
        let (recorded, recalled) = futures_util::join!(engine.record_all(&operations), engine.recall_all(&expired_ids));
        let mut recorded = recorded.into_iter();
        let outcome = |(reservation, actual): &(Reservation, u64)| {
            let recorded = if is_open(reservation) {
                recorded.next().ok_or_else(|| Error::internal("a reservation without an outcome"))??
            } else {
                let recalled = recalled.as_ref().map_err(Error::clone)?;
                recalled.get(&id(reservation)).cloned().ok_or_else(|| expired(reservation))?
            };
            // It may have been settled on another replica.
            reserved.settled(reservation.id);
            Ok(match recorded {
                Recorded::Now => Settled { settlement: reservation.settlement(*actual).0, before: false },
                Recorded::Before { reply, .. } => {
                    Settled { settlement: Settlement::decode(reply.as_slice()).map_err(Error::internal)?, before: true }
                }
            })
        };
        settlements.iter().map(outcome).collect()
    }

    /// How much of the limits is used.
    pub async fn view(
        &self,
        permitted: &Permitted,
        subjects: Subjects,
        meter: Option<&str>,
    ) -> Result<Vec<LimitView>, Error> {
        let Inner { engine, clock, reserved, .. } = &*self.0;
        reserved.sweep(clock.instant());
        engine.view(permitted, subjects, meter).await
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
