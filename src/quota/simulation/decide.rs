//! Who asks a replica, and what must hold of what it is answered.

use super::check::{Admission, MILLI, SECOND};
use super::replica::{State, Waiting};
use super::world::{Event, World};
use crate::model::limit::Window;
use crate::quota::book::{Question, Verdict};
use crate::quota::decision::{Decision, Mode};
use crate::quota::policy::Resolved;

/// How long who asks waits.
const PATIENCE: i64 = SECOND;

impl World {
    pub fn ask(&mut self, replica: usize, mut waiting: Waiting) {
        let (cut, lifetime) = (self.is_cut(replica), self.scenario.lifetime);
        let who = &mut self.replicas[replica];
        if who.state != State::Up {
            return;
        }
        if !cut {
            who.heard = self.now;
        } else if self.now - who.heard > lifetime {
            // What is known of the limits is too old to decide by.
            return;
        }
        waiting.since = Some(self.now);
        if !who.is_sweeping {
            who.is_sweeping = true;
            let incarnation = who.incarnation;
            self.after(SECOND, Event::Sweep(replica, incarnation));
        }
        self.attempt(replica, waiting);
    }

    pub fn wake(&mut self, replica: usize, at: i64) {
        let who = &mut self.replicas[replica];
        if who.wake_at == at {
            who.wake_at = i64::MAX;
            self.retry(replica);
        }
    }

    /// Those who wait ask again.
    pub fn retry(&mut self, replica: usize) {
        for waiting in std::mem::take(&mut self.replicas[replica].waiting) {
            self.attempt(replica, waiting);
        }
    }

    /// Decides, or waits.
    fn attempt(&mut self, replica: usize, waiting: Waiting) {
        // The policies that the engine goes by are believed for the lifetime of a lease, also while somebody waits.
        if self.now - self.replicas[replica].as_of > self.scenario.lifetime {
            if self.is_cut(replica) {
                self.tally.waited += 1;
                return;
            }
            let policy = self.policy();
            let who = &mut self.replicas[replica];
            (who.known, who.as_of) = (policy, self.now);
        }
        let who = &mut self.replicas[replica];
        let limits: Vec<Resolved> = (self.keys.iter().zip(&who.known))
            .map(|(account, applied)| Resolved { account: *account, applied: applied.clone() })
            .collect();
        let tick = who.tick(self.now);
        let used = |who: &super::replica::Replica| -> Vec<u64> {
            limits.iter().map(|resolved| who.book.view(tick, resolved).used).collect()
        };
        let before = used(who);
        let Waiting { amount, mode, .. } = waiting;
        let question = Question { limits: &limits, as_of: who.as_of, amount, mode, patient: true, again: false };
        let mut ask = Vec::new();
        let verdict = who.book.decide(tick, question, &mut ask);
        let after = used(who);
        for account in 0..self.keys.len() {
            if ask.contains(&self.keys[account]) {
                self.send(replica, account);
            }
        }
        match verdict {
            Verdict::Decided(decision) => {
                if decision.denial.is_some() || mode == Mode::Check {
                    self.check_nothing_taken(&decision, &before, &after);
                    self.tally.denied += u64::from(decision.denial.is_some());
                    self.trace(|| format!("r{replica} denies {waiting:?}: {:?}", decision.denial));
                } else {
                    self.admit(replica, waiting, &limits, &decision);
                }
            }
            Verdict::Wait(at) => {
                if after.iter().zip(&before).any(|(after, before)| after > before) {
                    self.fail(format!("who waits was charged: {before:?}, {after:?}"));
                }
                let left = waiting.since.unwrap_or(self.now) + PATIENCE - self.now;
                if left <= 0 {
                    self.tally.waited += 1;
                    self.trace(|| format!("r{replica} has no answer to {waiting:?}"));
                    if self.scenario.healthy {
                        self.fail(format!("r{replica} has no answer to {waiting:?} after a second"));
                    }
                    return;
                }
                let who = &mut self.replicas[replica];
                who.waiting.push(waiting);
                let wait = at.map_or(left, |at| who.until(self.now, at).min(left));
                let (at, incarnation) = (self.now + wait, who.incarnation);
                if at < who.wake_at {
                    who.wake_at = at;
                    self.after(wait, Event::Retry(replica, incarnation, at));
                }
            }
        }
    }

    /// I7.
    fn check_nothing_taken(&mut self, decision: &Decision, before: &[u64], after: &[u64]) {
        if decision.denial.is_some() != (decision.granted == 0) && decision.denial.is_some() {
            self.fail(format!("denied and granted: {decision:?}"));
        }
        if !decision.charges.is_empty() || after.iter().zip(before).any(|(after, before)| after > before) {
            self.fail(format!("denied and charged: {before:?}, {after:?}, {decision:?}"));
        }
    }

    fn admit(&mut self, replica: usize, waiting: Waiting, limits: &[Resolved], decision: &Decision) {
        let Waiting { amount, mode, .. } = waiting;
        self.tally.admitted += decision.granted;
        if (mode == Mode::All && decision.granted != amount)
            || decision.granted > amount
            || (decision.granted == 0 && amount > 0)
        {
            self.fail(format!("granted {} of {amount}, {mode:?}", decision.granted));
        }
        self.trace(|| format!("r{replica} admits {} of {waiting:?}: {:?}", decision.granted, decision.charges));
        let mut taken = Vec::new();
        for (account, Resolved { account: key, applied }) in limits.iter().enumerate() {
            let charge = decision.charges.iter().find(|charge| charge.account == *key);
            let charged = charge.map_or(0, |charge| charge.amount);
            let terms = &applied.terms;
            let optional = terms.amount.is_none() || terms.shadow || decision.degraded;
            if charged > decision.granted || (charged < decision.granted && !optional) {
                self.fail(format!("a{account} was charged {charged} for {decision:?}"));
            }
            let Some(charge) = charge else { continue };
            let slot = charge.slot;
            let admission = Admission { at: self.now, slot, amount: charge.amount, is_unsettled: waiting.repents };
            let record = &mut self.records[account];
            taken.push((account, record.admissions.len()));
            record.admissions.push(admission);
            self.check_admission(replica, account, admission);
        }
        if waiting.repents {
            let (wait, incarnation) = (self.random(0, 20 * MILLI), self.replicas[replica].incarnation);
            self.after(wait, Event::PutBack(replica, incarnation, taken));
        }
    }

    /// I6.
    fn check_admission(&mut self, replica: usize, account: usize, admission: Admission) {
        let (record, now) = (&self.records[account], self.now);
        let admitted = record.admitted(now);
        let granted = self.accounts[account].granted(record.window, now);
        let since = record.since(now);
        let why = match record.most(now, self.scenario.stale()) {
            Some(most) if admitted > most => format!("oversold: {admitted} of {most}"),
            _ if record.always_hard() && !record.has_bucket() && admitted > granted => {
                format!("admitted {admitted} of what was granted: {granted}")
            }
            _ if record.always_hard() && matches!(record.window, Window::Calendar(_)) && admission.slot != since => {
                format!("taken from {} in the window of {since}", admission.slot)
            }
            _ => return,
        };
        self.fail(format!("r{replica} a{account} {:?} at {now}: {why}", record.window));
    }
}
