//! What a naive service does: tonic's own server, and for each call an INSERT in a transaction of its own. It knows
//! the meters, asks for no key, and keeps no figures.

use std::collections::HashMap;
use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use futures_util::stream::Empty;
use rust_decimal::Decimal;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tenancy::proto::v1;
use tenancy::proto::v1::usage_service_server::{UsageService, UsageServiceServer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::support::Failure;

const INSERT: &str = "INSERT INTO tenancy.usage_events VALUES ($1, $2, $3, $4, $5, $2)";

/// The service.
#[derive(Debug)]
struct Naive {
    pool: PgPool,
    /// By organization.
    meters: HashMap<Uuid, Uuid>,
}

/// Serves on the runtime that everybody begins with, until the process ends.
pub async fn serve(
    postgres: PgConnectOptions,
    connections: u32,
    meters: HashMap<Uuid, Uuid>,
) -> Result<SocketAddr, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("naive").enable_all().build()?;
    let (ready, address) = oneshot::channel();
    let serving = async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let _ = ready.send(listener.local_addr()?);
        let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
        let pool = pool.connect_lazy_with(postgres);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = UsageServiceServer::new(Naive { pool, meters });
        Server::builder().add_service(service).serve_with_incoming(incoming).await?;
        Ok::<_, Failure>(())
    };
    std::thread::Builder::new().name("naive".into()).spawn(move || runtime.block_on(serving))?;
    Ok(address.await?)
}

impl Naive {
    async fn insert(&self, organization: &str, event: &v1::UsageEvent) -> Result<(), Failure> {
        let organization_id: Uuid = organization.parse()?;
        let at = event.occurred_at.unwrap_or_default();
        let occurred_at =
            DateTime::<Utc>::from_timestamp(at.seconds, at.nanos.try_into()?).ok_or("a time out of range")?;
        sqlx::query(INSERT)
            .bind(organization_id)
            .bind(occurred_at)
            .bind(event.event_id.parse::<Uuid>()?)
            .bind(self.meters.get(&organization_id).ok_or("no meter")?)
            .bind(event.quantity.parse::<Decimal>()?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl UsageService for Naive {
    async fn record_usage(
        &self,
        request: Request<v1::RecordUsageRequest>,
    ) -> Result<Response<v1::RecordUsageResponse>, Status> {
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.events.len());
        for event in request.events {
            self.insert(&request.organization_id, &event).await.map_err(|error| Status::internal(error.to_string()))?;
            let status = v1::UsageEventStatus::Recorded.into();
            results.push(v1::UsageEventResult { status, event_id: event.event_id, ..Default::default() });
        }
        Ok(Response::new(v1::RecordUsageResponse { results }))
    }

    type StreamUsageStream = Empty<Result<v1::StreamUsageResponse, Status>>;

    async fn stream_usage(
        &self,
        _: Request<tonic::Streaming<v1::StreamUsageRequest>>,
    ) -> Result<Response<Self::StreamUsageStream>, Status> {
        Err(only_recording())
    }

    async fn query_usage(&self, _: Request<v1::QueryUsageRequest>) -> Result<Response<v1::QueryUsageResponse>, Status> {
        Err(only_recording())
    }

    async fn get_usage_summary(
        &self,
        _: Request<v1::GetUsageSummaryRequest>,
    ) -> Result<Response<v1::GetUsageSummaryResponse>, Status> {
        Err(only_recording())
    }

    async fn list_usage_events(
        &self,
        _: Request<v1::ListUsageEventsRequest>,
    ) -> Result<Response<v1::ListUsageEventsResponse>, Status> {
        Err(only_recording())
    }

    async fn void_usage_event(
        &self,
        _: Request<v1::VoidUsageEventRequest>,
    ) -> Result<Response<v1::VoidUsageEventResponse>, Status> {
        Err(only_recording())
    }
}

fn only_recording() -> Status {
    Status::unimplemented("only RecordUsage")
}
