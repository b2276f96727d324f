//! Logs and metrics of the process.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts writing logs to stderr. `filter` is in the syntax of `RUST_LOG`, such as `info,tenancy=debug`.
pub fn log(filter: &str, format: LogFormat) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // What filters by spans takes locks for every span there is, once as it is made, entered, left and closed.
    let filter: Box<dyn Layer<Registry> + Send + Sync> = match filter.parse::<Targets>() {
        Ok(targets) if !filter.contains('[') => Box::new(targets),
        _ => Box::new(EnvFilter::try_new(filter)?),
    };
    let layer = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let registry = Registry::default().with(filter);
    match format {
        LogFormat::Text => registry.with(layer).try_init()?,
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// Starts to collect metrics; the handle renders them for Prometheus. Once a process.
pub fn metrics() -> Result<PrometheusHandle, BuildError> {
    // From 100 µs, a warm decision, to 10 s, the longest request.
    let seconds = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)?;
    builder.install_recorder()
}
