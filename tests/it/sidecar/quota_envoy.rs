//! An Envoy as far as its rate limit quotas go, as 1.40 was measured: it reports when it is told to, admits by what it was
//! assigned, and goes on with that when its stream breaks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, stream};
use tenancy::auth::permission::Permission;
use tenancy::clock::Clock;
use tenancy::proto::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::BucketAction;
use tenancy::proto::envoy::service::rate_limit_quota::v3::rate_limit_quota_usage_reports::BucketQuotaUsage;
use tenancy::proto::envoy::service::rate_limit_quota::v3::{
    BucketId, RateLimitQuotaResponse, RateLimitQuotaUsageReports,
};
use tenancy::proto::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, Strategy};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::harness::{Client, World};

/// What a bucket's requests have in common.
pub type Id = BTreeMap<String, String>;

/// The bucket of a tenant's calls.
pub fn calls(tenant: &str) -> Id {
    id(&[("tenant", tenant), ("meter", "calls")])
}

/// A bucket's id.
pub fn id(entries: &[(&str, &str)]) -> Id {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A client as an Envoy is.
pub async fn sidecar(world: &World) -> Client {
    world.service(&[Permission::Sidecar], &[]).await
}

/// An Envoy.
pub struct Envoy {
    clock: Clock,
    reports: mpsc::Sender<RateLimitQuotaUsageReports>,
    replies: Streaming<RateLimitQuotaResponse>,
    buckets: BTreeMap<Id, Held>,
    markers: u32,
}

/// What it knows of a bucket.
#[derive(Debug, Default)]
struct Held {
    strategy: Option<Strategy>,
    tokens: u64,
    until: Option<Instant>,
    allowed: u64,
    denied: u64,
    is_new: bool,
}

/// What a bucket may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing was assigned, or it is over.
    Nothing,
    /// All may pass.
    Allow,
    /// Nothing may.
    Deny,
    /// So many tokens are left.
    Tokens(u64),
}

impl Envoy {
    /// Opens a stream with a client.
    pub async fn open(client: &Client, clock: &Clock) -> Result<Self, Status> {
        let (reports, receiver) = mpsc::channel(16);
        let outgoing = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let replies = client.rate_limit_quotas().stream_rate_limit_quotas(outgoing).await?.into_inner();
        Ok(Self { clock: clock.clone(), reports, replies, buckets: BTreeMap::new(), markers: 0 })
    }

    /// The same of a world, with a key for all organizations.
    pub async fn of(world: &World) -> Self {
        Self::open(&sidecar(world).await, &world.clock).await.unwrap()
    }

    /// Opens another stream when the last one broke, and keeps what it has.
    pub async fn reopen(self, client: &Client) -> Self {
        Self { buckets: self.buckets, ..Self::open(client, &self.clock).await.unwrap() }
    }

    /// A request; tells whether it passes. Without an assignment none does.
    pub fn request(&mut self, id: &Id) -> bool {
        let now = self.clock.instant();
        let held = self.buckets.entry(id.clone()).or_insert_with(|| Held { is_new: true, ..Held::default() });
        let passes = match held.state(now) {
            State::Nothing | State::Deny | State::Tokens(0) => false,
            State::Allow => true,
            State::Tokens(_) => {
                held.tokens -= 1;
                true
            }
        };
        *(if passes { &mut held.allowed } else { &mut held.denied }) += 1;
        passes
    }

    /// So many requests; how many pass.
    pub fn requests(&mut self, id: &Id, count: u64) -> u64 {
        (0..count).map(|_| u64::from(self.request(id))).sum()
    }

    /// What a bucket may do now.
    pub fn state(&self, id: &Id) -> State {
        self.buckets.get(id).map_or(State::Nothing, |held| held.state(self.clock.instant()))
    }

    /// Whether it has such a bucket.
    pub fn knows(&self, id: &Id) -> bool {
        self.buckets.contains_key(id)
    }

    /// Reports all buckets, and takes in what comes until the report was answered.
    pub async fn report(&mut self) -> Result<(), Status> {
        self.markers += 1;
        // What is refused is told at once, and after all that was reported before it.
        let marker = id(&[("marker", &self.markers.to_string()), ("filler", &"x".repeat(4096))]);
        let mut usages: Vec<_> = self.buckets.iter_mut().map(|(id, held)| held.usage(id)).collect();
        usages.push(BucketQuotaUsage { bucket_id: Some(BucketId { bucket: marker.clone() }), ..Default::default() });
        let message = RateLimitQuotaUsageReports { domain: "tenancy".into(), bucket_quota_usages: usages };
        let _ = self.reports.send(message).await;
        loop {
            let reply = timeout(Duration::from_secs(30), self.replies.message()).await.expect("an answer");
            let Some(reply) = reply? else { return Err(Status::cancelled("the stream was ended")) };
            if self.take(reply, &marker) {
                return Ok(());
            }
        }
    }

    /// Takes in what was sent without a report.
    pub fn listen(&mut self) {
        while let Some(Ok(Some(reply))) = self.replies.message().now_or_never() {
            self.take(reply, &Id::new());
        }
    }

    /// Waits until the stream ends.
    pub async fn ended(&mut self) -> Result<(), Status> {
        let end = async {
            while let Some(reply) = self.replies.message().await? {
                self.take(reply, &Id::new());
            }
            Ok(())
        };
        timeout(Duration::from_secs(30), end).await.expect("an end")
    }

    /// Tells whether the marker was in it.
    fn take(&mut self, reply: RateLimitQuotaResponse, marker: &Id) -> bool {
        let now = self.clock.instant();
        let mut is_marked = false;
        for action in reply.bucket_action {
            let id = action.bucket_id.unwrap().bucket;
            is_marked |= id == *marker;
            let Some(held) = self.buckets.get_mut(&id) else { continue };
            match action.bucket_action.unwrap() {
                BucketAction::QuotaAssignmentAction(assignment) => {
                    let life = assignment.assignment_time_to_live.unwrap();
                    assert_eq!(life.nanos, 0, "an Envoy takes whole seconds");
                    held.assign(now, assignment.rate_limit_strategy.unwrap().strategy.unwrap());
                    held.until = Some(now + Duration::from_secs(life.seconds.try_into().unwrap()));
                }
                BucketAction::AbandonAction(_) => {
                    self.buckets.remove(&id);
                }
            }
        }
        is_marked
    }
}

impl Held {
    fn state(&self, now: Instant) -> State {
        match &self.strategy {
            Some(strategy) if self.until.is_some_and(|until| now < until) => match strategy {
                Strategy::BlanketRule(rule) if *rule == BlanketRule::AllowAll as i32 => State::Allow,
                Strategy::BlanketRule(_) => State::Deny,
                _ => State::Tokens(self.tokens),
            },
            _ => State::Nothing,
        }
    }

    /// A bucket that is there lends its filling to the next one; after anything else the next one is full.
    fn assign(&mut self, now: Instant, strategy: Strategy) {
        if let Strategy::TokenBucket(next) = &strategy {
            assert_eq!(next.tokens_per_fill, Some(1));
            assert!(next.fill_interval.unwrap().seconds > 1_000_000_000, "it is not to be filled");
            let most = u64::from(next.max_tokens);
            self.tokens = match (self.state(now), &self.strategy) {
                (State::Tokens(left), Some(Strategy::TokenBucket(last))) => most * left / u64::from(last.max_tokens),
                _ => most,
            };
        }
        self.strategy = Some(strategy);
    }

    fn usage(&mut self, id: &Id) -> BucketQuotaUsage {
        let seconds = if std::mem::take(&mut self.is_new) { 0 } else { 5 };
        BucketQuotaUsage {
            bucket_id: Some(BucketId { bucket: id.clone() }),
            time_elapsed: Some(prost_types::Duration { seconds, nanos: 0 }),
            num_requests_allowed: std::mem::take(&mut self.allowed),
            num_requests_denied: std::mem::take(&mut self.denied),
        }
    }
}
