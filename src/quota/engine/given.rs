//! Decisions by limits that are given: those of the rate limit service's rules, which belong to no policy. The ledger is the
//! same, and so is exactness; what the caller must do itself is look again at what is in force while it waits.

use crate::ids::OrganizationId;
use crate::quota::book::{Question, Verdict};
use crate::quota::decision::{Change, Correction, Decision, Mode};
use crate::quota::engine::{Engine, Waiting};
use crate::quota::policy::Resolved;
use crate::quota::slots::LedgerTime;

/// A question about limits that are given.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Whose accounts they are; nobody's are the nil one's.
    pub organization_id: OrganizationId,
    /// The limits.
    pub limits: &'a [Resolved],
    /// When these were read from the database.
    pub as_of: LedgerTime,
    /// How much.
    pub amount: u64,
    /// What is to happen.
    pub mode: Mode,
}

impl<'a> Given<'a> {
    const fn question(&self) -> Question<'a> {
        let Self { limits, as_of, amount, mode, .. } = *self;
        Question { limits, as_of, amount, mode, patient: true, again: false }
    }
}

/// The corrections that give an amount back to the accounts of limits, but for rates, which the ledger does not correct.
#[must_use]
pub fn refunds(limits: &[Resolved], amount: u64) -> Vec<Correction> {
    let counted = limits
        .iter()
        .filter(|limit| limit.applied.terms.amount.is_some_and(|amount| amount > 0) && !limit.account.window.is_rate());
    counted.map(|limit| Correction { account: limit.account, slot: None, change: Change::Refund(amount) }).collect()
}

impl Engine {
    /// Decides from memory. `Err`: the ledger must be heard first; to be asked again by [`Self::given_again`].
    pub fn given(&self, given: &Given<'_>) -> Result<Decision, Waiting> {
        let desk = self.0.shared.desks.of(given.organization_id);
        match self.try_decide(&desk, given.question(), None) {
            Verdict::Decided(decision) => Ok(decision),
            Verdict::Wait(at) => Err(self.waiting(at)),
        }
    }

    /// Decides anew, and waits a while where that is too early: `None` then, and the limits in force are to be asked about
    /// again. That ends within a second.
    pub async fn given_again(&self, given: &Given<'_>, waiting: &mut Waiting) -> Option<Decision> {
        let desk = self.0.shared.desks.of(given.organization_id);
        self.try_again(&desk, given.question(), None, waiting).await
    }

    /// Gives an amount back to those of the limits that are rates, as far as this replica has counted it.
    pub fn give_back_rates(&self, organization_id: OrganizationId, limits: &[Resolved], amount: u64) {
        let shared = &self.0.shared;
        let Some(desk) = shared.desks.find(organization_id) else { return };
        let mut state = desk.lock();
        let now = shared.tick();
        for limit in limits.iter().filter(|limit| limit.account.window.is_rate()) {
            state.book.give_back(now, &limit.account, amount);
        }
    }
}
