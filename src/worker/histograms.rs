//! Adds up what histograms were told. They keep each value until then: without this, where nobody asks for `/metrics`, for good.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

/// How often. A busy second is some hundred thousand values, which take a millisecond or two.
const INTERVAL: Duration = Duration::from_secs(1);

/// Adds up what was told since the last time.
pub async fn run_once(metrics: &PrometheusHandle) {
    let metrics = metrics.clone();
    // On a thread that serves nobody.
    if let Err(error) = tokio::task::spawn_blocking(move || metrics.run_upkeep()).await {
        tracing::warn!(%error, "what histograms were told could not be added up");
    }
}

/// Goes on until `shutdown`.
pub async fn run(metrics: &PrometheusHandle, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        run_once(metrics).await;
    }
}
