//! Where all decisions are made: who asks, what the engine says, and how many of what there were.

use std::sync::Arc;

use metrics::{Counter, counter};

use crate::auth::principal::{Caller, Permitted, Principal};
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::metering::catalog::Catalog;
use crate::metering::recorder::Recorder;
use crate::quota::decision::{Ask, Decision, LimitView, Mode, Subjects};
use crate::quota::engine::Engine;
use crate::quota::operations::Operations;
use crate::quota::reserved::Reserved;
use crate::service::convert::quota::Question;

/// Decides, and does what comes with a decision.
#[derive(Debug)]
pub struct Decider {
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    /// What calls with an operation id were answered.
    pub(super) operations: Operations,
    /// The reservations of this replica.
    pub(super) reserved: Reserved,
    /// What events need: how their meters measure, and who records them.
    pub(super) catalog: Arc<Catalog>,
    pub(super) recorder: Recorder,
    outcomes: Outcomes,
}

/// The counters, looked up once: by their labels each of them would cost more than some decisions.
struct Outcomes {
    allowed: Counter,
    denied: Counter,
    error: Counter,
    degraded: Counter,
}

impl std::fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outcomes")
    }
}

/// A caller in the organization it was let into.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// That it may.
    pub permitted: &'a Permitted,
    /// Who it is itself: what it means where it names nobody.
    own: Subjects,
}

impl<'a> Guest<'a> {
    /// The caller.
    #[must_use]
    pub fn new(caller: &Caller, permitted: &'a Permitted) -> Self {
        let api_key = match caller.principal() {
            Principal::ApiKey { api_key_id, .. } => Some(api_key_id.uuid()),
            Principal::Service { .. } | Principal::Operator { .. } => None,
        };
        let own = Subjects { team: None, user: permitted.acting_user().map(UserId::uuid), api_key };
        Self { permitted, own }
    }

    /// Whom it asks for. That those it names exist is not checked: that would take the database, and what is counted
    /// for somebody who does not exist is nobody's loss but the organization's own.
    #[must_use]
    pub fn subjects(&self, named: Subjects) -> Subjects {
        Subjects {
            team: named.team.or(self.own.team),
            user: named.user.or(self.own.user),
            api_key: named.api_key.or(self.own.api_key),
        }
    }

    /// The question, as the engine takes it.
    #[must_use]
    pub fn ask<'q>(&self, question: &Question<'q>, mode: Mode) -> Ask<'q> {
        Ask {
            organization_id: self.organization_id(),
            subjects: self.subjects(question.named),
            meter: question.meter,
            amount: question.amount,
            mode,
        }
    }

    /// The organization.
    #[must_use]
    pub const fn organization_id(&self) -> OrganizationId {
        self.permitted.organization_id()
    }
}

impl Decider {
    /// Describes the metrics too, so a recorder must be installed before.
    #[must_use]
    pub fn new(engine: Engine, clock: Clock, catalog: Arc<Catalog>, recorder: Recorder) -> Self {
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
        Self { engine, operations: Operations::new(clock.clone()), reserved, clock, catalog, recorder, outcomes }
    }

    /// Decides.
    pub async fn decide(&self, guest: &Guest<'_>, question: &Question<'_>, mode: Mode) -> Result<Decision, Error> {
        self.reserved.sweep();
        let ask = guest.ask(question, mode);
        let decided = self.engine.decide(&ask).await;
        let outcome = match &decided {
            Ok(Decision { denial: None, .. }) => &self.outcomes.allowed,
            Ok(_) => &self.outcomes.denied,
            Err(_) => &self.outcomes.error,
        };
        outcome.increment(1);
        if decided.as_ref().is_ok_and(|decision| decision.degraded) {
            self.outcomes.degraded.increment(1);
        }
        decided
    }

    /// How much of the limits is used.
    pub async fn view(&self, guest: &Guest<'_>, named: Subjects, meter: Option<&str>) -> Result<Vec<LimitView>, Error> {
        self.reserved.sweep();
        self.engine.view(guest.permitted, guest.subjects(named), meter).await
    }
}

/// Whether it is unknown if what was to be committed was: the caller has to ask again, and what was charged stays.
pub(super) fn is_unknown(error: &Error) -> bool {
    match error {
        Error::DeadlineExceeded => true,
        Error::Unavailable { reason, .. } => *reason == "COMMIT_OUTCOME_UNKNOWN",
        _ => false,
    }
}
