//! Slices: units of a limit, slot by slot.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::limit::Window;
use crate::quota::decision::Change;
use crate::quota::ledger::{Answer, Known, Lease, Lifetime, MEMORY, Request, State};
use crate::quota::slots::{LedgerTime, NEVER, Slot, length};

/// An account of units.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Slices {
    pub(super) terms: Known,
    /// In their order; the last one is the present one. Of a calendar window or a lifetime there is one.
    slots: Vec<SlotState>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct SlotState {
    start: LedgerTime,
    end: LedgerTime,
    /// Used by replicas that hold nothing more here.
    #[serde(default)]
    closed: u64,
    /// Of what was granted, given back by those who had consumed it.
    #[serde(default)]
    refunded: u64,
    /// Used past what was granted.
    #[serde(default)]
    overage: u64,
    /// The percentages that were reached.
    #[serde(default)]
    alerts: Vec<u16>,
    #[serde(default)]
    holders: Vec<Holder>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Holder {
    replica: Uuid,
    sequence: u64,
    granted: u64,
    used: u64,
    expires: LedgerTime,
    /// It has closed what it held, and is known for its number alone.
    #[serde(default)]
    gone: bool,
}

impl SlotState {
    fn granted(&self) -> u64 {
        let held: u64 = self.holders.iter().map(|holder| holder.granted).sum();
        (self.closed + held).saturating_sub(self.refunded)
    }

    /// As far as the replicas said.
    fn used(&self) -> u64 {
        let used: u64 = self.holders.iter().map(|holder| holder.used).sum();
        (self.closed + used).saturating_sub(self.refunded) + self.overage
    }

    fn holder(&mut self, replica: Uuid) -> Option<&mut Holder> {
        self.holders.iter_mut().find(|holder| holder.replica == replica)
    }

    /// Hears what a replica says of what it holds here. `past`: the slot is not the present one.
    fn hear(&mut self, request: &Request, now: LedgerTime, hard: bool, past: bool) {
        let Some(holder) = self.holder(request.replica) else { return };
        if holder.gone {
            // It says again what was heard, as no answer reached it.
            holder.sequence = request.sequence;
            return;
        }
        // What was granted and never arrived comes back. Past a limit that only counts, more is used than was granted.
        holder.granted = if hard { holder.granted.min(request.held).max(request.used) } else { request.held };
        holder.used = request.used;
        if (request.closing && past) || request.leaving {
            let used = holder.used;
            *holder = Holder { sequence: request.sequence, granted: 0, used: 0, expires: now, gone: true, ..*holder };
            self.closed += used;
        }
    }
}

impl Slices {
    pub(super) fn exchange(
        &mut self,
        window: Window,
        now: LedgerTime,
        slot: Slot,
        lifetime: Lifetime,
        request: &Request,
    ) -> Answer {
        self.turn(window, now, slot);
        let earlier =
            self.slots.iter().flat_map(|slot| &slot.holders).filter(|holder| holder.replica == request.replica);
        if earlier.map(|holder| holder.sequence).max().is_some_and(|sequence| sequence >= request.sequence) {
            return Answer { stale: true, ..Answer::default() };
        }
        self.terms.learn(&request.terms);
        let hard = self.terms.hard;
        let present = self.slots.last().map(|slot| slot.start);
        if let Some(told) = self.slots.iter_mut().find(|slot| Some(slot.start) == request.slot) {
            told.hear(request, now, hard, request.slot != present);
        }
        // Whoever was heard in an earlier slot, or in none, holds nothing in this one that it knows of.
        if let Some(current) = self.slots.last_mut()
            && request.slot != Some(current.start)
            && let Some(holder) = current.holder(request.replica)
        {
            (holder.granted, holder.used) = (0, 0);
        }
        let granted = self.granted(window, now);
        let used: u64 = self.slots.iter().map(SlotState::used).sum();
        let available = if hard {
            let overage: u64 = self.slots.iter().map(|slot| slot.overage).sum();
            self.terms.amount.saturating_sub(granted + overage)
        } else {
            u64::MAX
        };
        let Some(current) = self.slots.last_mut() else { return Answer::default() };
        let alive = |holder: &&Holder| holder.replica != request.replica && holder.expires > now;
        let others = current.holders.iter().filter(alive).count() as u64;
        let more = if request.leaving { 0 } else { slice(available, others + 1, request) };
        let lease = (!request.leaving).then(|| {
            let expires = now.saturating_add(lifetime.0);
            let held = if let Some(holder) = current.holder(request.replica) {
                holder.granted += more;
                (holder.sequence, holder.expires, holder.gone) = (request.sequence, expires, false);
                holder.granted
            } else {
                let Request { replica, sequence, .. } = *request;
                current.holders.push(Holder { replica, sequence, granted: more, used: 0, expires, gone: false });
                more
            };
            let slot = Slot { start: current.start, end: current.end };
            let excess = if hard { granted.saturating_sub(self.terms.amount) } else { 0 };
            let kept = held.saturating_sub(excess);
            Lease { slot, held, tokens: 0, cap: kept, fair: kept, expires }
        });
        let raised: Vec<u16> = request
            .terms
            .alert_percents
            .iter()
            .copied()
            .filter(|percent| {
                u128::from(used) * 100 >= u128::from(self.terms.amount) * u128::from(*percent)
                    && !current.alerts.contains(percent)
            })
            .collect();
        current.alerts.extend(&raised);
        let alerts = current.alerts.clone();
        let overage = self.slots.iter().map(|slot| slot.overage).sum();
        let current = self.slots.last().map_or(&[][..], |slot| &slot.holders);
        let unspent = current.iter().filter(alive).map(|holder| holder.granted.saturating_sub(holder.used)).sum();
        Answer { stale: false, lease, used, unspent, overage, alerts, raised }
    }

    /// Begins the slot of `now` when the last one is over, and forgets those that do not count any more.
    fn turn(&mut self, window: Window, now: LedgerTime, slot: Slot) {
        let last = self.slots.last().map(|last| last.end);
        if last.is_none_or(|end| end <= now) {
            let start = slot.start.max(last.unwrap_or(slot.start));
            self.slots.push(SlotState { start, end: slot.end.max(start + 1), ..SlotState::default() });
        }
        let since = counted_since(window, now, self.slots.last().map_or(now, |slot| slot.start));
        self.slots.retain(|slot| slot.end > since);
        for slot in &mut self.slots {
            slot.holders.retain(|holder| holder.granted > 0 || holder.used > 0 || holder.expires + MEMORY > now);
        }
    }

    pub(super) fn correct(&mut self, now: LedgerTime, start: Option<LedgerTime>, change: Change) -> bool {
        let found = match start {
            Some(start) => self.slots.iter_mut().find(|slot| slot.start == start),
            None => self.slots.last_mut().filter(|slot| slot.end > now),
        };
        let Some(slot) = found else { return false };
        match change {
            Change::Refund(amount) => {
                // Overage was consumed as well, and last.
                let past = slot.overage.min(amount);
                slot.overage -= past;
                slot.refunded += (amount - past).min(slot.granted());
            }
            Change::Overage(amount) => slot.overage = slot.overage.saturating_add(amount),
        }
        true
    }

    pub(super) fn state(&self, window: Window, now: LedgerTime) -> State {
        let present = self.slots.last().filter(|slot| slot.end > now);
        let since = counted_since(window, now, present.map_or(now, |slot| slot.start));
        let counted = || self.slots.iter().filter(|slot| slot.end > since);
        State {
            used: counted().map(SlotState::used).sum(),
            overage: counted().map(|slot| slot.overage).sum(),
            alerts: present.map(|slot| slot.alerts.clone()).unwrap_or_default(),
            reset: present.filter(|_| matches!(window, Window::Calendar(_))).map(|slot| slot.end),
        }
    }

    pub(super) fn granted(&self, window: Window, now: LedgerTime) -> u64 {
        let since = counted_since(window, now, self.slots.last().map_or(now, |slot| slot.start));
        self.slots.iter().filter(|slot| slot.end > since).map(SlotState::granted).sum()
    }

    pub(super) fn expires(&self, window: Window) -> LedgerTime {
        let end = self.slots.last().map_or(0, |slot| slot.end);
        end.saturating_add(length(window).unwrap_or(0)).min(NEVER)
    }
}

/// Slots that end by then do not count: those before the present one of a calendar window, those past a rolling one.
fn counted_since(window: Window, now: LedgerTime, present: LedgerTime) -> LedgerTime {
    length(window).map_or(present, |length| now - length)
}

/// How much is granted: enough for who waits, otherwise no more than half of a fair part of what is left, so that slices
/// shrink as the limit nears.
fn slice(available: u64, replicas: u64, request: &Request) -> u64 {
    if request.need > available {
        return 0;
    }
    let fair = available.div_ceil(2 * replicas);
    request.wanted.max(request.need).min(request.need.max(fair))
}
