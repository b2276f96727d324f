//! Who asks, and what a decision for them comes with.

use std::sync::Arc;

use crate::auth::principal::{Caller, Permitted, Principal};
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::metering::catalog::Catalog;
use crate::metering::recorder::Recorder;
use crate::quota::decision::{Ask, Decision, LimitView, Mode, Subjects};
use crate::quota::decisions::Decisions;
use crate::quota::engine::Engine;
use crate::quota::operations::Operations;
use crate::service::convert::quota::Question;

/// Decides, and does what comes with a decision.
#[derive(Debug)]
pub struct Decider {
    pub(super) decisions: Decisions,
    /// What calls with an operation id were answered.
    pub(super) operations: Operations,
    /// What events need: how their meters measure, and who records them.
    pub(super) catalog: Arc<Catalog>,
    pub(super) recorder: Recorder,
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
            Principal::User { .. }
            | Principal::Service { .. }
            | Principal::Operator { .. }
            | Principal::Workload { .. } => None,
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
    /// Made once: what it remembers is the replica's.
    #[must_use]
    pub fn new(decisions: Decisions, clock: Clock, catalog: Arc<Catalog>, recorder: Recorder) -> Self {
        Self { decisions, operations: Operations::new(clock), catalog, recorder }
    }

    /// What decides.
    pub(super) fn engine(&self) -> &Engine {
        self.decisions.engine()
    }

    /// Decides.
    pub async fn decide(&self, guest: &Guest<'_>, question: &Question<'_>, mode: Mode) -> Result<Decision, Error> {
        self.decisions.decide(&guest.ask(question, mode)).await
    }

    /// How much of the limits is used.
    pub async fn view(&self, guest: &Guest<'_>, named: Subjects, meter: Option<&str>) -> Result<Vec<LimitView>, Error> {
        self.decisions.view(guest.permitted, guest.subjects(named), meter).await
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
