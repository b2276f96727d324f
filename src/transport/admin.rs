//! The admin port: `/livez`, `/readyz` and `/metrics`. Plain HTTP, for the machine's own network.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::repository::database::Database;

/// What the admin port tells of.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Whether the database can be reached.
    pub database: Database,
    /// Cancelled as soon as the service begins to drain.
    pub draining: CancellationToken,
    /// The metrics.
    pub metrics: PrometheusHandle,
}

/// Serves until `shutdown`, which comes after the drain: probes are answered while requests end.
pub async fn run(listener: TcpListener, admin: Admin, shutdown: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        // The process answers: nothing else is needed to be alive, or a broken database would restart every replica.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|State(admin): State<Admin>| async move { admin.metrics.render() }))
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if admin.database.is_reachable() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the database cannot be reached\n")
    }
}
