//! What is asked of the engine, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::ids::{LimitId, MeterId, OrganizationId};
use crate::model::limit::{Maker, SubjectKind, Terms, Window};
use crate::quota::slots::LedgerTime;

/// Who asks, beside the organization.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Subjects {
    pub team: Option<Uuid>,
    pub user: Option<Uuid>,
    pub api_key: Option<Uuid>,
}

/// A question.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Who in it.
    pub subjects: Subjects,
    /// The key of the meter.
    pub meter: &'a str,
    /// How much.
    pub amount: u64,
    /// What is to happen.
    pub mode: Mode,
}

/// What is to happen when there is enough, and when there is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing is consumed.
    Check,
    /// All or nothing.
    All,
    /// What is left.
    BestEffort,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Why not; `None`: admitted.
    pub denial: Option<Denial>,
    /// How much was admitted.
    pub granted: u64,
    /// When to ask again at the earliest; `None` where waiting does not help.
    pub retry_after: Option<Duration>,
    /// A limit was not enforced, for want of a database.
    pub degraded: bool,
    /// The limits that applied, the tightest first.
    pub limits: Vec<LimitView>,
    /// What was taken from where; none for a check or a denial.
    pub charges: Vec<Charge>,
}

/// Why something was denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// Not enough is left.
    LimitExceeded,
    /// The amount of a limit is 0.
    Blocked,
    /// It can never be admitted at once.
    AmountTooLarge,
    /// The database is away, and what this replica was granted is used up.
    LedgerUnavailable,
}

impl Denial {
    /// As in the API.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::Blocked => "BLOCKED",
            Self::AmountTooLarge => "AMOUNT_TOO_LARGE",
            Self::LedgerUnavailable => "LEDGER_UNAVAILABLE",
        }
    }
}

/// A limit that applies, whichever subject it is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Its id.
    pub limit_id: LimitId,
    /// Where it comes from.
    pub source: Source,
    /// The key of its meter.
    pub meter: Arc<str>,
    /// The meter.
    pub meter_id: MeterId,
    /// Whose consumption it adds up.
    pub subject_kind: SubjectKind,
    /// In which time.
    pub window: Window,
    /// How much, and what then.
    pub terms: Terms,
}

/// Where a limit comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The plan.
    Plan,
    /// A limit of the organization, by whom it was made.
    Limit(Maker),
    /// A rule of the rate limit service, or what a request to it brought along: none of a tenant's limits, and in UTC.
    Rule,
}

/// A limit, and how much of it is used.
#[derive(Clone, Debug)]
pub struct LimitView {
    /// The limit.
    pub limit: Arc<Applied>,
    /// Whose consumption.
    pub subject_id: Uuid,
    /// Used in the window, reservations included, as far as is known.
    pub used: u64,
    /// Of it, reserved by this replica and not settled.
    pub reserved: u64,
    /// What is left, as far as is known.
    pub remaining: u64,
    /// Past the amount.
    pub overage: u64,
    /// When the calendar window ends.
    pub reset_time: Option<LedgerTime>,
    /// It denied the decision.
    pub denied: bool,
    /// It is in shadow mode, and would have.
    pub would_deny: bool,
    /// The percentages that were reached.
    pub alerts: Vec<u16>,
}

/// The name of an account in the ledger: whose consumption of what in which time, whatever limits it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AccountKey {
    /// What kind of subject.
    pub subject_kind: SubjectKind,
    /// Which one; of an organization its own id.
    pub subject_id: Uuid,
    /// Of which meter.
    pub meter_id: MeterId,
    /// In which time.
    pub window: Window,
}

/// What a decision took from an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Charge {
    /// The account.
    pub account: AccountKey,
    /// The start of the window, or of the step of a rolling one, that it was taken from; of a rate a number of its own.
    pub slot: LedgerTime,
    /// How much.
    pub amount: u64,
}

impl Charge {
    /// Whether it can be given back later: what a rate took goes away by itself.
    #[must_use]
    pub const fn is_refundable(&self) -> bool {
        !self.account.window.is_rate()
    }
}

/// Something that must happen once over all replicas, and is then known for at least 24 hours.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its id.
    pub id: Uuid,
    /// SHA-256 of the request; empty where whatever is asked under this id gets the same reply.
    pub request_hash: Vec<u8>,
    /// What a repetition is answered.
    pub reply: Vec<u8>,
    /// What it changes in the ledger.
    pub corrections: Vec<Correction>,
}

/// A change of what was consumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Correction {
    /// The account.
    pub account: AccountKey,
    /// The start of the window, or of the step of a rolling one; `None`: the present one. One that is over is left as it is.
    pub slot: Option<LedgerTime>,
    /// What is corrected.
    pub change: Change,
}

/// How what was consumed is corrected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Less was used: at most all of it.
    Refund(u64),
    /// More was used, past the limit or not.
    Overage(u64),
}

/// What became of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It happened now.
    Now,
    /// It had happened before.
    Before {
        /// As it was then.
        request_hash: Vec<u8>,
        /// As it was then.
        reply: Vec<u8>,
    },
}
