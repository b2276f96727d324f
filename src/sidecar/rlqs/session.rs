//! One stream of an Envoy: its buckets, and what is sent for them. Nothing is spawned: all of it ends with the stream.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::auth::layer::Renewal;
use crate::auth::principal::Caller;
use crate::deadline;
use crate::error::Error;
use crate::ids::{OrganizationId, v7};
use crate::proto::envoy::service::rate_limit_quota::v3 as rlqs;
use crate::proto::envoy::service::rate_limit_quota::v3::rate_limit_quota_response as reply;
use crate::proto::envoy::r#type::v3 as kinds;
use crate::quota::decision::{Change, Charge, Correction, Operation};
use crate::sidecar::rlqs::RateLimitQuotas;
use crate::sidecar::rlqs::bucket::{Bucket, Return, Standing, Time};
use crate::sidecar::rlqs::judge::{Judge, LIFE, PATIENCE, Verdict};

/// How often a stream looks at what no report told it: its key, and the buckets that are due.
const LOOK: Duration = Duration::from_millis(250);
/// The most buckets of a stream.
const BUCKETS: usize = 10_000;
/// The most that a bucket's id may have: entries, and bytes.
const ENTRIES: usize = 16;
const BYTES: usize = 2048;
/// The most returns under way.
const RETURNING: usize = 4;
/// A token of a bucket that is not to be filled takes a hundred years.
const NEVER: i64 = 100 * 365 * 24 * 3600;

type Id = BTreeMap<String, String>;

/// The stream.
pub struct Session {
    judge: Judge,
    ending: CancellationToken,
    incoming: Streaming<rlqs::RateLimitQuotaUsageReports>,
    buckets: HashMap<Id, Held>,
    /// What is to come back, and is being written.
    returns: VecDeque<(OrganizationId, Return)>,
    returning: FuturesUnordered<BoxFuture<'static, ()>>,
    began: Instant,
    ticks: Interval,
    is_over: bool,
}

/// A bucket, and whose it is, as far as that was ever known.
struct Held {
    bucket: Bucket,
    owner: Option<OrganizationId>,
}

impl Session {
    pub(super) fn new(
        quotas: RateLimitQuotas,
        renewal: Renewal,
        caller: Caller,
        ending: CancellationToken,
        incoming: Streaming<rlqs::RateLimitQuotaUsageReports>,
    ) -> Self {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            began: quotas.shared.clock.instant(),
            judge: Judge { quotas, renewal, caller },
            ending,
            incoming,
            buckets: HashMap::new(),
            returns: VecDeque::new(),
            returning: FuturesUnordered::new(),
            ticks,
            is_over: false,
        }
    }

    /// The next assignments; `None` when the stream is over.
    pub(super) async fn next(&mut self) -> Option<Result<rlqs::RateLimitQuotaResponse, Status>> {
        while !self.is_over {
            self.begin_returns();
            let done = tokio::select! {
                biased;
                // An Envoy opens another stream, and goes on meanwhile with what it has.
                () = self.ending.cancelled() => return None,
                Some(()) = self.returning.next() => continue,
                _ = self.ticks.tick() => Event::Tick,
                message = self.incoming.next() => Event::Message(message),
            };
            let work = async {
                match done {
                    Event::Tick => self.tick().await,
                    Event::Message(Some(Ok(reports))) => self.hear(reports).await,
                    Event::Message(Some(Err(status))) => Err(status),
                    Event::Message(None) => {
                        self.is_over = true;
                        Ok(Vec::new())
                    }
                }
            };
            match work.await {
                Ok(bucket_action) if bucket_action.is_empty() => {}
                Ok(bucket_action) => return Some(Ok(rlqs::RateLimitQuotaResponse { bucket_action })),
                Err(status) => {
                    self.is_over = true;
                    return Some(Err(status));
                }
            }
        }
        None
    }

    fn now(&self) -> Time {
        let since = self.judge.quotas.shared.clock.instant().saturating_duration_since(self.began);
        Time::try_from(since.as_millis()).unwrap_or(Time::MAX)
    }

    async fn hear(&mut self, reports: rlqs::RateLimitQuotaUsageReports) -> Result<Vec<reply::BucketAction>, Status> {
        let mut actions = Vec::new();
        for usage in reports.bucket_quota_usages {
            let id = usage.bucket_id.map(|id| id.bucket).unwrap_or_default();
            let now = self.now();
            if !self.buckets.contains_key(&id) && self.buckets.len() >= BUCKETS {
                let message = "a stream has at most 10,000 buckets: build their ids of less";
                let retry_after = Duration::from_mins(1);
                return Err(Error::Overloaded { reason: "TOO_MANY_BUCKETS", message, retry_after }.into());
            }
            if !is_fit(&id) {
                // It is not kept, nor repeated to those who read the log.
                tracing::warn!(entries = id.len(), "a bucket is refused: its id is too large");
                actions.push(action(id, blanket(false), LIFE));
                continue;
            }
            let new = || Held { bucket: Bucket::new(now), owner: None };
            let mut held = self.buckets.remove(&id).unwrap_or_else(new);
            let is_new = held.bucket.standing() == Standing::Nothing;
            let is_first =
                is_new && usage.time_elapsed.is_none_or(|elapsed| elapsed.seconds == 0 && elapsed.nanos == 0);
            let unpaid = held.bucket.report(now, is_first, usage.num_requests_allowed, usage.num_requests_denied);
            if let Some(owner) = held.owner {
                let parts = held.bucket.give_back(now, held.bucket.is_refused());
                self.returns.extend(parts.into_iter().map(|part| (owner, part)));
            }
            if held.bucket.is_idle(now) {
                let forgotten = reply::bucket_action::AbandonAction {};
                let forgotten = reply::bucket_action::BucketAction::AbandonAction(forgotten);
                let bucket_id = Some(rlqs::BucketId { bucket: id });
                actions.push(reply::BucketAction { bucket_id, bucket_action: Some(forgotten) });
                continue;
            }
            // What was refused is reported as often as anything; it is looked at when that may help.
            if !held.bucket.is_refused() || held.bucket.is_due(now) || unpaid > 0 {
                self.look(&id, &mut held, &mut actions, Some((unpaid, is_new && !is_first))).await;
            }
            self.buckets.insert(id, held);
        }
        Ok(actions)
    }

    async fn tick(&mut self) -> Result<Vec<reply::BucketAction>, Status> {
        match self.judge.renew().await {
            // While the database is away, what was believed is asked for again.
            Ok(()) | Err(Error::Unavailable { .. } | Error::DeadlineExceeded | Error::Internal(_)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
        let now = self.now();
        let mut actions = Vec::new();
        let due: Vec<Id> =
            self.buckets.iter().filter(|(_, held)| held.bucket.is_due(now)).map(|(id, _)| id.clone()).collect();
        for id in due {
            if let Some(mut held) = self.buckets.remove(&id) {
                self.look(&id, &mut held, &mut actions, None).await;
                self.buckets.insert(id, held);
            }
        }
        Ok(actions)
    }

    /// Looks at a bucket, and says what its Envoy is to be told. `reported`: what the report that is the cause says to be
    /// admitted and of no slice, and whether it may be of one of an earlier stream.
    async fn look(
        &mut self,
        id: &Id,
        held: &mut Held,
        actions: &mut Vec<reply::BucketAction>,
        reported: Option<(u64, bool)>,
    ) {
        let now = self.now();
        let (verdict, owner) = self.judge.look(id, &held.bucket, now, reported).await;
        if owner.is_some() && owner != held.owner {
            // Another has the slug now, or it is the first look.
            held.bucket.disown();
            held.owner = owner;
        }
        let bucket = &mut held.bucket;
        let before = bucket.standing();
        match verdict {
            Verdict::Keep => bucket.look_soon(now),
            Verdict::Allow(life) => {
                bucket.look_soon(now);
                if !bucket.is_told(now, true, life) {
                    bucket.tell(now, true, life);
                    actions.push(action(id.clone(), blanket(true), life));
                }
            }
            Verdict::Refuse(again) => {
                refuse(id, bucket, actions, now);
                bucket.look_at(now.saturating_add(again));
            }
            Verdict::Short(again) => {
                // What it has it may use up.
                if !bucket.has_left(now) {
                    refuse(id, bucket, actions, now);
                }
                bucket.look_at(now.saturating_add(again));
            }
            Verdict::Give(taken) => {
                bucket.give(now, &taken);
                bucket.look_soon(now);
                // An Envoy's bucket is full only when it had none before.
                actions.push(action(id.clone(), blanket(false), taken.life));
                actions.push(action(id.clone(), tokens(taken.amount), taken.life));
            }
        }
        if before != bucket.standing() {
            tracing::debug!(bucket = ?id, standing = ?bucket.standing(), "an assignment");
        }
    }

    /// Writes down what comes back, a few at a time. What cannot be written stays used.
    fn begin_returns(&mut self) {
        while self.returning.len() < RETURNING
            && let Some((organization_id, part)) = self.returns.pop_front()
        {
            let (engine, clock) =
                (self.judge.quotas.decisions.engine().clone(), self.judge.quotas.shared.clock.clone());
            self.returning.push(Box::pin(async move {
                let correction = |charge: &Charge| Correction {
                    account: charge.account,
                    slot: Some(charge.slot),
                    change: Change::Refund(part.amount),
                };
                let corrections = part.charges.iter().map(correction).collect();
                let id = v7(clock.now());
                let operation = Operation { id, request_hash: Vec::new(), reply: Vec::new(), corrections };
                let recorded = deadline::scope(clock.instant() + PATIENCE, engine.record(organization_id, operation));
                if let Err(error) = recorded.await {
                    tracing::warn!(%error, amount = part.amount, "what a sidecar did not use stays used");
                }
            }));
        }
    }
}

enum Event {
    Tick,
    Message(Option<Result<rlqs::RateLimitQuotaUsageReports, Status>>),
}

fn refuse(id: &Id, bucket: &mut Bucket, actions: &mut Vec<reply::BucketAction>, now: Time) {
    if !bucket.is_told(now, false, LIFE) {
        bucket.tell(now, false, LIFE);
        actions.push(action(id.clone(), blanket(false), LIFE));
    }
}

fn is_fit(id: &Id) -> bool {
    id.len() <= ENTRIES && id.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= BYTES
}

fn blanket(allowed: bool) -> kinds::rate_limit_strategy::Strategy {
    use kinds::rate_limit_strategy::{BlanketRule, Strategy};
    Strategy::BlanketRule(if allowed { BlanketRule::AllowAll } else { BlanketRule::DenyAll }.into())
}

fn tokens(amount: u64) -> kinds::rate_limit_strategy::Strategy {
    kinds::rate_limit_strategy::Strategy::TokenBucket(kinds::TokenBucket {
        max_tokens: u32::try_from(amount).unwrap_or(u32::MAX),
        tokens_per_fill: Some(1),
        fill_interval: Some(prost_types::Duration { seconds: NEVER, nanos: 0 }),
    })
}

fn action(id: Id, strategy: kinds::rate_limit_strategy::Strategy, life: u64) -> reply::BucketAction {
    let assignment = reply::bucket_action::QuotaAssignmentAction {
        // In whole seconds: an Envoy leaves the rest out.
        assignment_time_to_live: Some(prost_types::Duration {
            seconds: i64::try_from(life).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        rate_limit_strategy: Some(kinds::RateLimitStrategy { strategy: Some(strategy) }),
    };
    reply::BucketAction {
        bucket_id: Some(rlqs::BucketId { bucket: id }),
        bucket_action: Some(reply::bucket_action::BucketAction::QuotaAssignmentAction(assignment)),
    }
}
