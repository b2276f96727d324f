//! The admin port: `/livez`, `/readyz`, `/metrics` and `/.well-known/jwks.json`. Plain HTTP, for the machine's own network.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::tokens::{PublicKey, Tokens};
use crate::model::token_key::KEPT_SECONDS;
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
    /// The public keys of tokens.
    pub tokens: Arc<Tokens>,
}

/// A JSON Web Key Set (RFC 7517).
#[derive(Serialize)]
struct KeySet {
    keys: Vec<PublicKey>,
}

/// Serves until `shutdown`, which comes after the drain: probes are answered while requests end.
pub async fn run(listener: TcpListener, admin: Admin, shutdown: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        // The process answers: nothing else is needed to be alive, or a broken database would restart every replica.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|State(admin): State<Admin>| async move { admin.metrics.render() }))
        .route("/.well-known/jwks.json", get(key_set))
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

async fn key_set(State(admin): State<Admin>) -> Response {
    let keys = admin.tokens.public_keys().await;
    let Some(set) = keys.ok().and_then(|keys| serde_json::to_string(&KeySet { keys }).ok()) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the database cannot be reached\n").into_response();
    };
    let kept = format!("public, max-age={KEPT_SECONDS}");
    ([(CONTENT_TYPE, "application/jwk-set+json".to_owned()), (CACHE_CONTROL, kept)], set).into_response()
}
