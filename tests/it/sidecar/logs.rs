//! What the tests of access logs share: an Envoy's side of the stream, requests that were let through, and what is on record.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream;
use rust_decimal::Decimal;
use tenancy::auth::permission::Permission;
use tenancy::ids;
use tenancy::proto::envoy::config::core::v3::{Metadata, RequestMethod};
use tenancy::proto::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
};
use tenancy::proto::envoy::service::accesslog::v3::stream_access_logs_message::{HttpAccessLogEntries, LogEntries};
use tenancy::proto::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use tenancy::proto::v1;
use tenancy::quota::reservation::Reservation;
use tenancy::sidecar::admission::{Admission, NAMESPACE};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::harness::{Client, Cloned, Tenant, World};

/// What the replicas sign with.
pub async fn signing_key(database: &Cloned) -> [u8; 32] {
    let key: Vec<u8> =
        sqlx::query_scalar("SELECT key FROM tenancy.signing_keys").fetch_one(&database.superuser).await.unwrap();
    key.try_into().unwrap()
}

/// Lets requests of a tenant through, as ext_authz does.
pub struct Admitting {
    pub key: [u8; 32],
    pub tenant: Tenant,
}

impl Admitting {
    pub async fn new(world: &World, tenant: &Tenant) -> Self {
        Self { key: signing_key(&world.database).await, tenant: tenant.clone() }
    }

    /// A request that took so much of the meter `calls` and is not limited.
    pub fn admit(&self, world: &World, amount: u64) -> Admission {
        let now = world.clock.now();
        Admission {
            reservation: Reservation {
                organization_id: self.tenant.id.parse().unwrap(),
                id: ids::v7(now),
                expire_time: now + chrono::TimeDelta::seconds(60),
                amount,
                charges: Vec::new(),
            },
            api_key: Some(self.tenant.key_id.parse().unwrap()),
            user: None,
            meter: Some("calls".into()),
            settle: None,
            recordings: Vec::new(),
        }
    }

    /// A request that reserved so many calls, and is settled by a header of the reply.
    pub async fn reserve(&self, client: &Client, amount: i64, ttl: Duration) -> Admission {
        let ttl = Some(prost_types::Duration { seconds: ttl.as_secs().try_into().unwrap(), nanos: 0 });
        let request = v1::ReserveQuotaRequest { meter: "calls".into(), amount, ttl, ..Default::default() };
        let reserved = client.quotas().reserve_quota(request).await.unwrap().into_inner();
        assert!(reserved.decision.unwrap().allowed);
        Admission {
            reservation: Reservation::verify(&reserved.reservation_id, &self.key).unwrap(),
            api_key: Some(self.tenant.key_id.parse().unwrap()),
            user: None,
            meter: Some("calls".into()),
            settle: Some("header:x-tokens".parse().unwrap()),
            recordings: Vec::new(),
        }
    }

    /// The last entry of a request.
    pub fn entry(&self, admission: &Admission) -> HttpAccessLogEntry {
        let ours = admission.metadata(&self.key).unwrap();
        let common = AccessLogCommon {
            metadata: Some(Metadata { filter_metadata: [(NAMESPACE.to_owned(), ours)].into() }),
            route_name: "api".into(),
            duration: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
            access_log_type: AccessLogType::DownstreamEnd.into(),
            ..AccessLogCommon::default()
        };
        let request = HttpRequestProperties {
            request_method: RequestMethod::Get.into(),
            request_headers_bytes: 100,
            request_body_bytes: 20,
        };
        let response = HttpResponseProperties {
            response_code: Some(200),
            response_headers_bytes: 3,
            response_body_bytes: 4000,
            ..HttpResponseProperties::default()
        };
        HttpAccessLogEntry { common_properties: Some(common), request: Some(request), response: Some(response) }
    }

    /// The same, whose reply had so many tokens.
    pub fn entry_with_tokens(&self, admission: &Admission, tokens: &str) -> HttpAccessLogEntry {
        let mut entry = self.entry(admission);
        entry.response.as_mut().unwrap().response_headers.insert("x-tokens".into(), tokens.into());
        entry
    }
}

/// A sidecar with a key of its own, for all organizations or for those given.
pub async fn sidecar(world: &World, organizations: &[&str]) -> Client {
    world.service(&[Permission::Sidecar], organizations).await
}

/// An Envoy's side of a stream.
pub struct Log {
    messages: mpsc::Sender<StreamAccessLogsMessage>,
    replies: Streaming<StreamAccessLogsResponse>,
}

impl Log {
    pub async fn open(client: &Client) -> Result<Self, Status> {
        let (messages, receiver) = mpsc::channel(1);
        let outgoing = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let client = client.access_logs();
        let replies = client.max_encoding_message_size(64 << 20).stream_access_logs(outgoing).await?.into_inner();
        Ok(Self { messages, replies })
    }

    /// Sends a message; false when the stream has ended.
    pub async fn send(&self, entries: Vec<HttpAccessLogEntry>) -> bool {
        let log_entries = Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: entries }));
        self.send_message(StreamAccessLogsMessage { identifier: None, log_entries }).await
    }

    pub async fn send_message(&self, message: StreamAccessLogsMessage) -> bool {
        self.messages.send(message).await.is_ok()
    }

    /// Sends no more, and waits until all is recorded.
    pub async fn finish(self) {
        let Self { messages, mut replies } = self;
        drop(messages);
        let reply = timeout(Duration::from_secs(30), replies.message()).await.expect("30 s are enough");
        assert_eq!(reply.unwrap(), Some(StreamAccessLogsResponse {}));
        assert_eq!(replies.message().await.unwrap(), None);
    }

    /// Why it ends.
    pub async fn end(&mut self) -> Result<(), Status> {
        let end = timeout(Duration::from_secs(30), self.replies.message()).await.expect("30 s are enough");
        end.map(drop)
    }
}

/// Logs entries, and waits until they are recorded.
pub async fn log(client: &Client, entries: Vec<HttpAccessLogEntry>) {
    let log = Log::open(client).await.unwrap();
    assert!(log.send(entries).await);
    log.finish().await;
}

/// An event on record: its id, meter, quantity, subject, and properties.
pub type Stored = (String, String, String, String, serde_json::Value);

/// The events on record, by meter and id.
pub async fn events(database: &Cloned) -> Vec<Stored> {
    sqlx::query_as(
        "SELECT coalesce(e.event_name, e.event_id::text), m.key, trim_scale(e.quantity)::text, e.subject, coalesce(e.properties, 'null')
         FROM tenancy.usage_events e JOIN tenancy.meters m USING (organization_id, meter_id) ORDER BY 2, 1",
    )
    .fetch_all(&database.superuser)
    .await
    .unwrap()
}

/// How many events there are of each meter, and what their figures add up to.
pub async fn totals(database: &Cloned) -> BTreeMap<String, (i64, Decimal)> {
    let rows: Vec<(String, i64, Decimal)> = sqlx::query_as(
        "SELECT m.key, sum(a.event_count)::bigint, trim_scale(sum(a.quantity_sum)) FROM tenancy.usage_aggregates a
         JOIN tenancy.meters m USING (organization_id, meter_id)
         WHERE a.series_id = '00000000-0000-0000-0000-000000000000' GROUP BY 1",
    )
    .fetch_all(&database.superuser)
    .await
    .unwrap();
    rows.into_iter().map(|(meter, count, sum)| (meter, (count, sum))).collect()
}

/// What the metrics say of entries with this outcome: of all tests of this process together.
pub async fn counted(world: &World, line: &str) -> u64 {
    let (_, metrics) = crate::harness::admin(world.running.admin, "/metrics").await;
    let found = metrics.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or(0)
}
