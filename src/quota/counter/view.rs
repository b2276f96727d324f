//! What a counter tells those who look.

use super::{Counter, Holding};
use crate::model::limit::Window;
use crate::quota::rate::Tick;
use crate::quota::slots::{LedgerTime, SECOND};

/// What is kept for those who look. Apart, as most counters have none of it, and there may be a million of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Seldom {
    /// Past the limit, and the alerts that were raised, as the ledger said last.
    pub(super) overage: u64,
    pub(super) alerts: Box<[u16]>,
    reserved: u64,
}

impl Counter {
    /// Notes a reservation, or its end.
    pub fn reserve(&mut self, amount: u64, more: bool) {
        self.note(|seldom| {
            let before = seldom.reserved;
            seldom.reserved = if more { before.saturating_add(amount) } else { before.saturating_sub(amount) };
        });
    }

    /// Changes what is kept for those who look.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Seldom)) {
        let mut seldom = self.seldom.take().unwrap_or_default();
        change(&mut seldom);
        self.seldom = (*seldom != Seldom::default()).then_some(seldom);
    }

    /// When the slot of a calendar window ends, by the database's clock.
    #[must_use]
    pub fn reset(&self, now: Tick) -> Option<LedgerTime> {
        match (&self.holding, self.applied.window) {
            (Holding::Slice(slice), Window::Calendar(_)) if now < slice.over => slice.slot.map(|slot| slot.end),
            _ => None,
        }
    }

    /// Used in the window, by all, as far as is known; of it reserved here; past the limit; and the alerts.
    #[must_use]
    pub fn used(&self) -> (u64, u64, u64, &[u16]) {
        let mine = match &self.holding {
            Holding::Slice(slice) => slice.used.saturating_add(slice.carried),
            Holding::Rate(rate) => rate.used(),
        };
        let (reserved, overage, alerts) =
            self.seldom.as_ref().map_or((0, 0, &[][..]), |seldom| (seldom.reserved, seldom.overage, &seldom.alerts));
        (self.known.saturating_add(mine).saturating_sub(self.told), reserved, overage, alerts)
    }

    /// When it makes sense to ask again for an amount that is not there, in microseconds from now.
    #[must_use]
    pub fn retry_after(&self, now: Tick, amount: u64) -> Option<i64> {
        let quiet = (self.quiet_until - now).max(0);
        match &self.holding {
            Holding::Rate(rate) => {
                let bounds = self.bounds();
                let own = rate.wait(now, amount, bounds);
                // Not with this share; the others' may come back within a window.
                own.or_else(|| (amount <= bounds.amount.max(bounds.burst)).then(|| quiet.max(SECOND / 10)))
            }
            Holding::Slice(slice) if now < slice.over && self.applied.window != Window::Lifetime => {
                (amount <= self.bounds().amount).then_some(slice.over - now)
            }
            Holding::Slice(_) => None,
        }
    }
}
