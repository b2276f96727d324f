//! Counters that hold leases, without a database: a ledger in memory answers them.

use std::collections::HashMap;

use tenancy::model::limit::{Enforcement, Terms};
use tenancy::quota::book::{Book, Question, Verdict};
use tenancy::quota::decision::{AccountKey, Mode};
use tenancy::quota::ledger::{Account, Lifetime};
use tenancy::quota::policy::Resolved;
use tenancy::quota::rate::Tick;
use tenancy::quota::slots::{Calendar, LedgerTime, SECOND, slot};
use uuid::Uuid;

/// When everything is granted, by the clock of the replica.
pub const NOW: Tick = SECOND;
/// The same moment by the clock of the ledger.
const LEDGER: LedgerTime = 1_767_225_600 * SECOND;
/// Longer than any bench takes.
const LIFETIME: Lifetime = Lifetime(7 * 24 * 3600 * SECOND);

/// A ledger.
#[derive(Debug, Default)]
pub struct Ledger(HashMap<AccountKey, Account>);

/// So much, and no more.
pub fn terms(amount: u64) -> Terms {
    Terms {
        amount: Some(amount),
        burst: 0,
        enforcement: Enforcement::Hard,
        shadow: false,
        fallback: None,
        alert_percents: Vec::new(),
    }
}

/// A question about so much.
pub fn question(limits: &[Resolved], amount: u64, mode: Mode) -> Question<'_> {
    Question { limits, as_of: LEDGER, amount, mode, patient: true, again: false }
}

impl Ledger {
    /// Asks until it is decided, with whatever has to be asked of the ledger; returns whether it was admitted.
    pub fn supply(&mut self, book: &mut Book, limits: &[Resolved], amount: u64, mode: Mode) -> bool {
        loop {
            let mut asked = Vec::new();
            if let Verdict::Decided(decision) = book.decide(NOW, question(limits, amount, mode), &mut asked) {
                return decision.denial.is_none();
            }
            for account in asked {
                let Some(request) = book.question(NOW, Uuid::from_u128(3), &account, false) else { continue };
                let known = self.0.entry(account).or_insert_with(|| Account::new(account.window));
                let slot = slot(account.window, LEDGER, Calendar::default());
                let answer = known.exchange(account.window, LEDGER, slot, LIFETIME, &request);
                book.answered(&account, (NOW, NOW), LEDGER, &request, &answer);
            }
        }
    }
}
