//! What supplies the engine: tells the ledger what was used, and asks it for more.
//!
//! Accounts that are asked about at the same time share a transaction, whoever they belong to, as the writer of usage does it.
//! A sweep looks after those that nobody waits for; another connection hears which accounts others want back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::quota::decision::AccountKey;
use crate::quota::desk::Desk;
use crate::quota::engine::Common;
use crate::quota::ledger::{Answer, Lifetime};
use crate::quota::rate::Tick;
use crate::quota::slots::LedgerTime;
use crate::repository::error::unreachable;
use crate::repository::quota::{self, Exchange};

/// The most accounts of a transaction.
const BATCH: usize = 256;
/// The most organizations of a transaction: the policies look for each row's organization in lists of them.
const ORGANIZATIONS: usize = 64;
/// The most transactions under way.
const TRANSACTIONS: usize = 3;
/// How often is looked after what nobody waits for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long an answer may take: those who wait are told before that the ledger is away.
const LONGEST: Duration = Duration::from_secs(2);
/// How often a transaction that lost against others is tried, in all.
const ATTEMPTS: u32 = 3;
/// How long giving everything back may take when the service stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// An account whose turn it is to be asked about.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) desk: Arc<Desk>,
    pub(super) account: AccountKey,
    pub(super) leave: bool,
}

/// Exchanges what was used for what may be: to be run once, beside the service.
#[derive(Debug)]
pub struct Exchanger {
    shared: Arc<Common>,
    queued: mpsc::UnboundedReceiver<Queued>,
    lifetime: Lifetime,
}

/// A question and the desk that it is from.
struct Asked {
    desk: Arc<Desk>,
    exchange: Exchange,
}

impl Exchanger {
    pub(super) fn new(shared: Arc<Common>, queued: mpsc::UnboundedReceiver<Queued>, lifetime: Duration) -> Self {
        let lifetime = Lifetime(i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX));
        Self { shared, queued, lifetime }
    }

    /// Goes on until `stop`, then gives back all that is held.
    pub async fn run(mut self, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let sweeping = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                sweep(&shared);
            }
        };
        tokio::select! {
            () = self.serve() => {}
            () = sweeping => {}
            () = hear(&shared) => {}
            () = stop.cancelled() => {}
        }
        if shared.database.is_reachable() && tokio::time::timeout(FAREWELL, self.leave()).await.is_err() {
            tracing::warn!("not all quotas that were held could be given back");
        }
    }

    /// Serves the queue: one transaction after the other has its turn, up to some at a time.
    async fn serve(&mut self) {
        let permits = Arc::new(Semaphore::new(TRANSACTIONS));
        let transactions = TaskTracker::new();
        loop {
            // Who comes while all are under way shares the next one.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let mut turn = Vec::new();
            if self.queued.recv_many(&mut turn, BATCH).await == 0 {
                return;
            }
            let (shared, lifetime) = (Arc::clone(&self.shared), self.lifetime);
            transactions.spawn(async move {
                take_turn(&shared, lifetime, turn).await;
                drop(permit);
            });
        }
    }

    /// Gives back all that is held.
    async fn leave(&mut self) {
        loop {
            let mut held = 0;
            for desk in self.shared.desks.all() {
                let accounts = due(&self.shared, &desk, true);
                held += accounts.len();
                self.shared.queue(&desk, accounts, true);
            }
            if held == 0 {
                return;
            }
            let mut turn = Vec::new();
            while self.queued.try_recv().map(|queued| turn.push(Queued { leave: true, ..queued })).is_ok() {}
            let mut turn = turn.into_iter();
            loop {
                let part: Vec<_> = turn.by_ref().take(BATCH).collect();
                if part.is_empty() {
                    break;
                }
                take_turn(&self.shared, self.lifetime, part).await;
            }
            // What was under way when the service was told to stop, or did not succeed.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Asks the ledger about accounts, and hands out its answers.
async fn take_turn(shared: &Common, lifetime: Lifetime, turn: Vec<Queued>) {
    let sent = shared.tick();
    let mut asked: Vec<Asked> = Vec::with_capacity(turn.len());
    for Queued { desk, account, leave } in turn {
        let mut state = desk.lock();
        let calendar = state.book.calendar(&account, state.calendar);
        let question = state.book.question(sent, shared.replica, &account, leave);
        drop(state);
        if let Some(request) = question {
            let key = (desk.organization_id, account);
            asked.push(Asked { desk, exchange: Exchange { key, calendar, request } });
        }
    }
    asked.sort_by_key(|asked| asked.exchange.key);
    while !asked.is_empty() {
        // Neighbours are of one organization.
        let mut organizations = 0;
        let mut last = None;
        let end = asked.iter().position(|asked| {
            if last.replace(asked.exchange.key.0) != Some(asked.exchange.key.0) {
                organizations += 1;
            }
            organizations > ORGANIZATIONS
        });
        let rest = asked.split_off(end.unwrap_or(asked.len()));
        exchange(shared, lifetime, sent, std::mem::replace(&mut asked, rest)).await;
    }
}

/// Exchanges in one transaction; where that fails for what is in the rows, in halves, until the fault is alone: accounts of
/// others do not suffer from it.
async fn exchange(shared: &Common, lifetime: Lifetime, sent: Tick, asked: Vec<Asked>) {
    let mut parts = vec![asked];
    while let Some(mut asked) = parts.pop() {
        let began = shared.clock.instant();
        let exchanges: Vec<_> = asked.iter().map(|asked| asked.exchange.clone()).collect();
        let outcome = if shared.database.is_reachable() {
            tokio::select! {
                outcome = transact(shared, lifetime, &exchanges) => outcome,
                () = shared.database.unreachable() => Err(unreachable()),
                () = tokio::time::sleep(LONGEST) => Err(unreachable()),
            }
        } else {
            Err(unreachable())
        };
        metrics::histogram!("tenancy_quota_exchange_seconds")
            .record(shared.clock.instant().saturating_duration_since(began));
        match outcome {
            Ok((ledger, answers)) => {
                for (asked, answer) in asked.iter().zip(&answers) {
                    hand_out(shared, &asked.desk, &asked.exchange, (sent, ledger), answer);
                }
            }
            Err(Error::Internal(error)) if asked.len() > 1 => {
                tracing::warn!(%error, accounts = asked.len(), "an exchange with the ledger of quotas failed; halving it");
                let second = asked.split_off(asked.len() / 2);
                parts.extend([second, asked]);
            }
            Err(error) => {
                tracing::warn!(%error, accounts = asked.len(), "the ledger of quotas did not answer");
                metrics::counter!("tenancy_quota_failed_exchanges_total").increment(1);
                for Asked { desk, exchange } in asked {
                    desk.lock().book.failed(&exchange.key.1, shared.tick());
                    desk.answered.notify_waiters();
                }
            }
        }
    }
}

fn hand_out(
    shared: &Common,
    desk: &Arc<Desk>,
    exchange: &Exchange,
    (sent, ledger): (Tick, LedgerTime),
    answer: &Answer,
) {
    let account = exchange.key.1;
    let times = (sent, shared.tick());
    let consequence = desk.lock().book.answered(&account, times, ledger, &exchange.request, answer);
    desk.answered.notify_waiters();
    for percent in &consequence.raised {
        metrics::counter!("tenancy_quota_alerts_total").increment(1);
        tracing::info!(
            organization_id = %desk.organization_id, meter_id = %account.meter_id, subject = account.subject_kind.as_str(),
            subject_id = %account.subject_id, window = %account.window, percent, "a quota alert"
        );
    }
    if consequence.again {
        shared.ask(desk, [account]);
    }
}

async fn transact(
    shared: &Common,
    lifetime: Lifetime,
    exchanges: &[Exchange],
) -> Result<(LedgerTime, Vec<Answer>), Error> {
    let mut attempt = 1;
    loop {
        let outcome = async {
            let mut organizations: Vec<_> = exchanges.iter().map(|exchange| exchange.key.0).collect();
            organizations.dedup();
            let mut scope = shared.database.ingest(organizations).await?;
            let answered = quota::exchange(&mut scope, shared.clock.ahead(), lifetime, exchanges).await?;
            scope.commit().await?;
            Ok(answered)
        };
        match outcome.await {
            Err(Error::Conflict) if attempt < ATTEMPTS => attempt += 1,
            outcome => return outcome,
        }
    }
}

/// Asks about accounts that nobody waits for: to tell what was used, to keep what is held, or to give it back.
fn sweep(shared: &Common) {
    let mut accounts = 0;
    for desk in shared.desks.all() {
        accounts += desk.lock().book.len();
        shared.ask(&desk, due(shared, &desk, false));
    }
    shared.desks.tidy();
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("tenancy_quota_accounts").set(accounts as f64);
}

/// The accounts of an organization that the ledger is to hear of; with `leave` all of them. Not under one lock: those that
/// have their places changed meanwhile are found the next time.
fn due(shared: &Common, desk: &Desk, leave: bool) -> Vec<AccountKey> {
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(place) = from {
        let due;
        (due, from) = desk.lock().book.due(shared.tick(), leave, place);
        all.extend(due);
    }
    all
}

/// Hears which accounts are wanted back. Without it, others get what is not used when it is idle.
async fn hear(shared: &Common) {
    loop {
        if let Ok(mut listener) = quota::listen(&shared.database).await {
            while let Ok((organization_id, account)) = quota::recalled(&mut listener).await {
                let Some(desk) = shared.desks.find(organization_id) else { continue };
                let wanted = desk.lock().book.recall(&account, shared.tick());
                if wanted {
                    shared.ask(&desk, [account]);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
