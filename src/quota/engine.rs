//! The engine: decides from memory, and keeps its memory supplied by the ledger.
//!
//! A decision takes the lock of its organization's [`Book`](crate::quota::book::Book), and needs nothing else when that holds
//! enough. Where it does not, the account is put into the queue of the [`Exchanger`], and the decision waits for the answer.
//! What has to happen once is in `once`; `given` decides by limits that are none of an organization's policy.

pub mod given;
mod once;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, mpsc};
use uuid::Uuid;

use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::clock::Clock;
use crate::deadline;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::limit::Window;
use crate::quota::book::{Question, Verdict};
use crate::quota::decision::{AccountKey, Ask, Charge, Correction, Decision, LimitView, Subjects};
use crate::quota::desk::{Desk, Desks};
use crate::quota::exchanger::{Exchanger, Queued};
use crate::quota::policies::Policies;
use crate::quota::policy::{Policy, Resolved};
use crate::quota::rate::Tick;
use crate::quota::slots::{Calendar, slot};
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::{changes, meter, quota};

/// The longest wait for the ledger.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a decision has waited, from one try to the next.
#[derive(Debug)]
pub struct Waiting {
    began: Instant,
    patience: Duration,
    /// When another try is worth it although no answer came.
    at: Option<Tick>,
}

fn question<'a>(ask: &Ask<'_>, limits: &'a [Resolved], policy: &Policy) -> Question<'a> {
    Question { limits, as_of: policy.as_of, amount: ask.amount, mode: ask.mode, patient: true, again: false }
}

/// Decides. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policies: Policies,
    shared: Arc<Common>,
    signing_key: OnceCell<[u8; 32]>,
}

/// What the engine and its exchanger share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) database: Database,
    pub(super) clock: Clock,
    pub(super) desks: Desks,
    /// This process, in the ledger: an id that no other has, and that it will never have again.
    pub(super) replica: Uuid,
    began: Instant,
    queue: mpsc::UnboundedSender<Queued>,
}

impl Common {
    /// This replica's time.
    pub(super) fn tick(&self) -> Tick {
        let since = self.clock.instant().saturating_duration_since(self.began);
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }

    /// Puts accounts into the queue of the exchanger.
    pub(super) fn ask(&self, desk: &Arc<Desk>, accounts: impl IntoIterator<Item = AccountKey>) {
        self.queue(desk, accounts, false);
    }

    /// Puts accounts into the queue, each once. As many wait as there are counters at the most, hence no bound.
    pub(super) fn queue(&self, desk: &Arc<Desk>, accounts: impl IntoIterator<Item = AccountKey>, leave: bool) {
        for account in accounts {
            if desk.lock().book.enqueue(&account) {
                // The exchanger is gone only when the service ends.
                let _ = self.queue.send(Queued { desk: Arc::clone(desk), account, leave });
            }
        }
    }
}

impl Engine {
    /// An engine, and what supplies it: to be run once, beside the service. `lifetime` is how long what was granted may be
    /// used while the database is away.
    #[must_use]
    pub fn new(database: Database, clock: Clock, policies: Policies, lifetime: Duration) -> (Self, Exchanger) {
        let (queue, queued) = mpsc::unbounded_channel();
        let shared = Arc::new(Common {
            database,
            // A second before now: the time 0 is before everything.
            began: clock.instant().checked_sub(Duration::from_secs(1)).unwrap_or_else(|| clock.instant()),
            replica: crate::ids::v7(clock.now()),
            clock,
            desks: Desks::default(),
            queue,
        });
        let engine = Self(Arc::new(Inner { policies, shared: Arc::clone(&shared), signing_key: OnceCell::new() }));
        (engine, Exchanger::new(shared, queued, lifetime))
    }

    /// Decides what is asked at `now`, from memory where that knows; waits for the ledger where it does not.
    ///
    /// Errors: `METER_NOT_FOUND`; `DATABASE_UNAVAILABLE` when the limits of the organization are not known.
    pub async fn decide(&self, ask: &Ask<'_>, now: Instant) -> Result<Decision, Error> {
        let Inner { policies, shared, .. } = &*self.0;
        let known = policies.peek(ask.organization_id, now);
        let known =
            known.and_then(|policy| Some((policy.resolve(ask.organization_id, ask.meter, ask.subjects)?, policy)));
        let (limits, policy) = match known {
            Some(known) => known,
            // Boxed, as it is rare and large.
            None => Box::pin(self.resolve(ask)).await?,
        };
        let desk = shared.desks.of(ask.organization_id);
        match self.try_decide(&desk, question(ask, &limits, &policy), Some(policy.calendar)) {
            Verdict::Decided(decision) => Ok(decision),
            Verdict::Wait(at) => Box::pin(self.wait(&desk, ask, at)).await,
        }
    }

    /// Whether the organization's plan includes a feature; from memory where that knows.
    ///
    /// Errors: `ORGANIZATION_NOT_FOUND`; `DATABASE_UNAVAILABLE` when the plan is not known.
    pub async fn includes(&self, organization_id: OrganizationId, feature: &str) -> Result<bool, Error> {
        let Inner { policies, shared, .. } = &*self.0;
        let policy = match policies.peek(organization_id, shared.clock.instant()) {
            Some(policy) => policy,
            None => Box::pin(policies.get(organization_id)).await?,
        };
        Ok(policy.includes(feature))
    }

    /// The limits that apply, read from the database where need be: a meter that is not known may have been created on
    /// another replica a moment ago.
    async fn resolve(&self, ask: &Ask<'_>) -> Result<(Vec<Resolved>, Policy), Error> {
        let since = self.0.shared.clock.instant();
        let policy = self.0.policies.get(ask.organization_id).await?;
        if let Some(limits) = policy.resolve(ask.organization_id, ask.meter, ask.subjects) {
            return Ok((limits, policy));
        }
        let policy = self.0.policies.get_since(ask.organization_id, since).await?;
        let limits = policy
            .resolve(ask.organization_id, ask.meter, ask.subjects)
            .ok_or_else(|| Error::not_found(meter::RESOURCE, ask.meter))?;
        Ok((limits, policy))
    }

    fn try_decide(&self, desk: &Arc<Desk>, question: Question<'_>, calendar: Option<Calendar>) -> Verdict {
        let shared = &self.0.shared;
        let mut accounts = Vec::new();
        let verdict = {
            let mut state = desk.lock();
            state.calendar = calendar.unwrap_or(state.calendar);
            // Taken under the lock: a decision that waited for it does not go by a time that has passed.
            state.book.decide(shared.tick(), question, &mut accounts)
        };
        shared.ask(desk, accounts);
        verdict
    }

    /// Errors: as [`Self::decide`].
    async fn wait(&self, desk: &Arc<Desk>, ask: &Ask<'_>, at: Option<Tick>) -> Result<Decision, Error> {
        let mut waiting = self.waiting(at);
        loop {
            // Who waited long, or was stopped, goes by what is in force now.
            let (limits, policy) = self.resolve(ask).await?;
            let question = question(ask, &limits, &policy);
            if let Some(decision) = self.try_again(desk, question, Some(policy.calendar), &mut waiting).await {
                return Ok(decision);
            }
        }
    }

    fn waiting(&self, at: Option<Tick>) -> Waiting {
        let began = self.0.shared.clock.instant();
        Waiting { began, patience: deadline::remaining(began, PATIENCE).mul_f32(0.8), at }
    }

    /// Decides once more; where that is too early, waits until it may be worth another try, with the limits in force then.
    async fn try_again(
        &self,
        desk: &Arc<Desk>,
        question: Question<'_>,
        calendar: Option<Calendar>,
        waiting: &mut Waiting,
    ) -> Option<Decision> {
        let shared = &self.0.shared;
        let mut answered = std::pin::pin!(desk.answered.notified());
        // From here on no answer is missed; one may have come already.
        answered.as_mut().enable();
        let left = waiting.patience.saturating_sub(shared.clock.instant().saturating_duration_since(waiting.began));
        let question = Question { patient: !left.is_zero(), again: true, ..question };
        let at = match self.try_decide(desk, question, calendar) {
            Verdict::Decided(decision) => return Some(decision),
            Verdict::Wait(next) => next.or(waiting.at.filter(|at| *at > shared.tick())),
        };
        waiting.at = at;
        let nap = at.map_or(left, |at| Duration::from_micros((at - shared.tick()).max(0).unsigned_abs()).min(left));
        // Either way it is decided anew.
        let _ = tokio::time::timeout(nap, answered).await;
        None
    }

    /// Gives back, in memory, what a decision of this replica took a moment ago.
    pub fn undo(&self, organization_id: OrganizationId, charges: &[Charge]) {
        if let Some(desk) = self.0.shared.desks.find(organization_id) {
            desk.lock().book.put_back(charges);
        }
    }

    /// Counts what was charged as reserved until it is released, for those who look.
    pub fn reserved(&self, organization_id: OrganizationId, charges: &[Charge], more: bool) {
        if let Some(desk) = self.0.shared.desks.find(organization_id) {
            desk.lock().book.reserve(charges, more);
        }
    }

    /// The corrections that give an amount back to every account that a decision would have taken it from.
    pub async fn refund(&self, ask: &Ask<'_>) -> Result<Vec<Correction>, Error> {
        Ok(given::refunds(&self.in_force(ask).await?, ask.amount))
    }

    /// The limits that apply to a question.
    ///
    /// Errors: as [`Self::decide`].
    pub async fn in_force(&self, ask: &Ask<'_>) -> Result<Vec<Resolved>, Error> {
        Ok(self.resolve(ask).await?.0)
    }

    /// The limits that apply, by meter, and how much of them is used: as the ledger has it now.
    pub async fn view(
        &self,
        permitted: &Permitted,
        subjects: Subjects,
        meter: Option<&str>,
    ) -> Result<Vec<LimitView>, Error> {
        let organization_id = permitted.organization_id();
        let Inner { shared, policies, .. } = &*self.0;
        let policy = policies.get_since(organization_id, shared.clock.instant()).await?;
        let meters = match meter {
            Some(meter) => vec![meter],
            None => policy.meters(),
        };
        let mut limits = Vec::new();
        for meter in meters {
            let found = policy
                .resolve(organization_id, meter, subjects)
                .ok_or_else(|| Error::not_found(meter::RESOURCE, meter))?;
            limits.push(found);
        }
        let accounts: Vec<_> = limits.iter().flatten().map(|limit| limit.account).collect();
        self.tell(organization_id, &accounts).await;
        let mut scope = shared.database.tenant(permitted).await?;
        let (now, ledger) = quota::read(&mut scope, shared.clock.ahead(), &accounts).await?;
        drop(scope);
        let desk = shared.desks.of(organization_id);
        let state = desk.lock();
        let mut views = Vec::with_capacity(accounts.len());
        for limits in &limits {
            let mut of_meter: Vec<LimitView> = limits
                .iter()
                .map(|limit| {
                    let mut view = state.book.view(shared.tick(), limit);
                    if let (Some(account), Some(amount)) = (ledger.get(&limit.account), limit.applied.terms.amount) {
                        let known = account.state(limit.account.window, now);
                        // Rates are told seldom, and over by then: what this replica knows is as true.
                        if !limit.account.window.is_rate() {
                            view.used = known.used;
                        }
                        view.remaining = amount.saturating_sub(view.used);
                        view.overage = if limit.applied.terms.is_soft() {
                            view.used.saturating_sub(amount)
                        } else {
                            known.overage
                        };
                        view.alerts = known.alerts;
                        view.reset_time = known.reset;
                    } else if matches!(limit.account.window, Window::Calendar(_)) {
                        // Nothing was used yet: the window is the calendar's.
                        view.reset_time = Some(slot(limit.account.window, now, policy.calendar).end);
                    }
                    view
                })
                .collect();
            of_meter.sort_by_key(|view| view.remaining);
            views.append(&mut of_meter);
        }
        Ok(views)
    }

    /// Has the ledger hear what was used of accounts here, and waits for it, though not for long.
    async fn tell(&self, organization_id: OrganizationId, accounts: &[AccountKey]) {
        let shared = &self.0.shared;
        let Some(desk) = shared.desks.find(organization_id) else { return };
        let wait = deadline::remaining(shared.clock.instant(), PATIENCE).mul_f32(0.5);
        let told = async {
            let mut began = None;
            loop {
                let mut answered = std::pin::pin!(desk.answered.notified());
                answered.as_mut().enable();
                let untold: Vec<_> = {
                    let state = desk.lock();
                    let since = *began.get_or_insert_with(|| shared.tick());
                    accounts.iter().filter(|account| !state.book.is_told(account, since)).copied().collect()
                };
                if untold.is_empty() {
                    return;
                }
                shared.ask(&desk, untold);
                answered.await;
            }
        };
        // What is not told in time is not in the figures.
        let _ = tokio::time::timeout(wait, told).await;
    }

    /// What reservations are signed with, the same on every replica.
    pub async fn signing_key(&self) -> Result<[u8; 32], Error> {
        let read = || async {
            let permitted = PermittedPlatform::system("quota");
            let mut scope = self.0.shared.database.platform(&permitted, Purpose::SigningKeys).await?;
            quota::signing_key(&mut scope).await
        };
        self.0.signing_key.get_or_try_init(read).await.copied()
    }

    /// Forgets what a change made untrue. Its counters learn of it with the next decision.
    pub fn apply(&self, change: &changes::Change) {
        self.0.policies.apply(change);
    }

    /// Forgets all policies, as when the change log could not be followed.
    pub fn forget_all(&self) {
        self.0.policies.forget_all();
    }
}
