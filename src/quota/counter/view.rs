//! What a counter tells those who look.

use super::{Counter, Holding};
use crate::model::limit::Window;
use crate::quota::rate::Tick;
use crate::quota::slots::{LedgerTime, SECOND};

impl Counter {
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
        (self.known.saturating_add(mine).saturating_sub(self.told), self.reserved, self.overage, &self.alerts)
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
