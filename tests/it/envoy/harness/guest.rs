//! A tenant whose requests come through the Envoy.

use chrono::{TimeDelta, Utc};
use tenancy::proto::v1;

use crate::envoy::harness::{Answer, Ask, Envoy, Version};
use crate::harness::{Client, Tenant, World, eventually};
use crate::quota::support::{create_limit, limit, monthly};
use crate::usage::support::{create_meter, timestamp};

/// A tenant with the meters `calls`, `tokens`, `bytes` and `time`.
#[derive(Debug)]
pub struct Guest {
    /// The tenant.
    pub tenant: Tenant,
}

impl Guest {
    /// A new one, with so many calls in a month.
    pub async fn limited(world: &World, slug: &str, calls: i64) -> Self {
        let guest = Self::new(world, slug).await;
        guest.limit(&world.operator(), monthly("calls", calls)).await;
        guest
    }

    /// A new one without limits.
    pub async fn new(world: &World, slug: &str) -> Self {
        Self::of(world.tenant(slug).await).await
    }

    /// A tenant as one, with the meters.
    pub async fn of(tenant: Tenant) -> Self {
        for meter in ["calls", "tokens", "bytes", "time"] {
            create_meter(&tenant.client, meter, v1::MeterAggregation::Sum).await;
        }
        Self { tenant }
    }

    /// Gives it a limit.
    pub async fn limit(&self, operator: &Client, rule: v1::LimitRule) -> v1::Limit {
        create_limit(operator, limit(&self.tenant.id, rule)).await.unwrap()
    }

    /// A GET with its key.
    pub fn get(&self, path: &str) -> Ask {
        Ask::get(path).key(&self.tenant.key)
    }

    /// What a GET with its key gets, over HTTP/1.1.
    pub async fn gets(&self, path: &str, envoy: &Envoy) -> Answer {
        self.get(path).send(envoy.address, Version::Http1).await
    }

    /// How much of a meter is used by its limits, as the ledger has it.
    pub async fn used(&self, meter: &str) -> i64 {
        let request = v1::GetQuotaRequest { meter: meter.into(), ..Default::default() };
        let limits = self.tenant.client.quotas().get_quota(request).await.unwrap().into_inner().limits;
        assert_eq!(limits.len(), 1, "{limits:?}");
        limits[0].used
    }

    /// What is recorded of a meter: the sum, and how many events.
    pub async fn recorded(&self, meter: &str) -> (String, i64) {
        let end = Utc::now() + TimeDelta::days(1);
        let request = v1::QueryUsageRequest {
            meter: meter.into(),
            bucket: v1::UsageBucket::Month.into(),
            start_time: Some(timestamp(end - TimeDelta::days(3))),
            end_time: Some(timestamp(end)),
            ..Default::default()
        };
        let reply = self.tenant.client.usage().query_usage(request).await.unwrap().into_inner();
        (reply.total, reply.event_count)
    }

    /// Waits until so much is recorded of a meter.
    pub async fn records(&self, meter: &str, total: &str, events: i64) {
        eventually(&format!("{total} of {meter} are recorded in {events} events"), || async {
            let recorded = self.recorded(meter).await;
            assert!(recorded.1 <= events, "{meter}: {recorded:?}");
            recorded == (total.to_owned(), events)
        })
        .await;
    }
}
