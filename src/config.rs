//! Configuration: every option is a flag and an environment variable, with its default in `--help`.

#![expect(clippy::doc_markdown, reason = "these comments are the help texts, where backticks would show")]

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use http::HeaderName;
use sqlx::postgres::PgConnectOptions;
use zeroize::Zeroizing;

use crate::auth::tokens::sealing::SealingKeys;
use crate::model::token_key::LONGEST_LIFETIME;
use crate::model::workload::Workloads;
use crate::telemetry::LogFormat;

/// Where the data is. Shared by the server and by the commands that work on the database.
#[derive(Args, Clone)]
#[expect(missing_debug_implementations, reason = "sqlx shows passwords in it")]
pub struct DatabaseConfig {
    /// Postgres, as `postgres://user:password@host/database`. The user must be no more than a member of the roles
    /// tenancy_app, tenancy_ingest and tenancy_platform. Without it a Postgres of our own is started in the data directory
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    pub database_url: Option<PgConnectOptions>,

    /// A login of its own for work across tenants, a member of tenancy_platform; otherwise DATABASE_URL serves for it
    #[arg(long, env = "TENANCY_PLATFORM_DATABASE_URL", hide_env_values = true, global = true)]
    pub platform_database_url: Option<PgConnectOptions>,

    /// The owner of the schema. When set, the server migrates at start; `tenancy migrate` needs it
    #[arg(long, env = "TENANCY_MIGRATION_URL", hide_env_values = true, global = true)]
    pub migration_url: Option<PgConnectOptions>,

    /// Where the embedded Postgres keeps its data [default: ./.tenancy, or as root a place that Postgres' user can reach]
    #[arg(long, env = "TENANCY_DATA_DIR", global = true)]
    pub data_dir: Option<PathBuf>,

    /// The most connections to the database for requests; background work has eight more
    #[arg(long, env = "TENANCY_DATABASE_CONNECTIONS", default_value_t = 20, global = true,
          value_parser = clap::value_parser!(u32).range(6..=10_000))]
    pub database_connections: u32,

    /// The longest wait for a connection before a request is answered UNAVAILABLE
    #[arg(long, env = "TENANCY_DATABASE_WAIT", default_value = "2s", value_parser = duration, global = true)]
    pub database_wait: Duration,
}

/// How logs are written.
#[derive(Args, Clone, Debug)]
pub struct LogConfig {
    /// What is logged, in the syntax of RUST_LOG
    #[arg(long, env = "TENANCY_LOG", default_value = "info,sqlx=warn", global = true)]
    pub log: String,

    /// How logs are written
    #[arg(long, env = "TENANCY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
}

/// How the server serves.
#[derive(Args, Clone, Debug)]
pub struct ServeConfig {
    /// Where gRPC is served
    #[arg(long, env = "TENANCY_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env = "TENANCY_ADMIN_LISTEN", default_value = "127.0.0.1:9464")]
    pub admin_listen: SocketAddr,

    /// Serve gRPC by TLS with this certificate, a PEM file, with those between it and its CA. Read anew when it changes
    #[arg(long, env = "TENANCY_TLS_CERTIFICATE")]
    pub tls_certificate: Option<PathBuf>,

    /// The certificate's key, a PEM file. Read anew when it changes
    #[arg(long, env = "TENANCY_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Accept client certificates that these CAs signed, a PEM file. Who comes with a key need not have one
    #[arg(long, env = "TENANCY_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,

    /// Sidecars that need no key, by the SPIFFE ids of their client certificates: a comma-separated list of ids, and of
    /// prefixes that end in `/*`
    #[arg(long, env = "TENANCY_SIDECAR_SPIFFE_IDS", default_value = "", hide_default_value = true)]
    pub sidecar_spiffe_ids: Workloads,

    /// Let an embedded Postgres, which is meant for a developer's machine, serve other machines too
    #[arg(long, env = "TENANCY_ALLOW_REMOTE_EMBEDDED")]
    pub allow_remote_embedded: bool,

    /// Threads that serve requests [default: one a core]
    #[arg(long, env = "TENANCY_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// The longest a request may take, and what it gets when it names no deadline
    #[arg(long, env = "TENANCY_REQUEST_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub request_timeout: Duration,

    /// The most requests in flight; one more is answered RESOURCE_EXHAUSTED
    #[arg(long, env = "TENANCY_REQUESTS_IN_FLIGHT", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests_in_flight: u32,

    /// The most requests in flight on one connection
    #[arg(long, env = "TENANCY_STREAMS_PER_CONNECTION", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub streams_per_connection: u32,

    /// The most streams of usage that are open at once; each holds at most 12 MiB of events that are not acknowledged
    #[arg(long, env = "TENANCY_STREAMS", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub streams: u32,

    /// How often a silent connection is pinged
    #[arg(long, env = "TENANCY_KEEPALIVE", default_value = "30s", value_parser = duration)]
    pub keepalive: Duration,

    /// When connections are asked to reconnect, give or take a tenth
    #[arg(long, env = "TENANCY_CONNECTION_AGE", default_value = "30m", value_parser = duration)]
    pub connection_age: Duration,

    /// How long requests in flight may take to end at shutdown
    #[arg(long, env = "TENANCY_SHUTDOWN_GRACE", default_value = "15s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// How long the server waits for its database at start
    #[arg(long, env = "TENANCY_STARTUP_WAIT", default_value = "60s", value_parser = duration)]
    pub startup_wait: Duration,

    /// How long keys and organizations are believed while the change log cannot be read
    #[arg(long, env = "TENANCY_CACHE_LIFETIME", default_value = "30s", value_parser = duration)]
    pub cache_lifetime: Duration,

    /// Memory of one argon2id run, in KiB; keys are rehashed when they are rotated
    #[arg(long, env = "TENANCY_ARGON2_MEMORY_KIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(8..=262_144))]
    pub argon2_memory_kib: u32,

    /// Passes of one argon2id run
    #[arg(long, env = "TENANCY_ARGON2_PASSES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub argon2_passes: u32,

    /// Threads for argon2id [default: half the cores]
    #[arg(long, env = "TENANCY_ARGON2_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub argon2_threads: Option<u16>,

    /// How old a usage event may be when it is recorded
    #[arg(long, env = "TENANCY_USAGE_ACCEPTED_AGE", default_value = "35d", value_parser = duration)]
    pub usage_accepted_age: Duration,

    /// How far ahead of the clock a usage event may be
    #[arg(long, env = "TENANCY_USAGE_ACCEPTED_AHEAD", default_value = "5m", value_parser = duration)]
    pub usage_accepted_ahead: Duration,

    /// How long raw usage events are kept; their aggregates stay. At least the accepted age and eight days more
    #[arg(long, env = "TENANCY_USAGE_RETENTION", default_value = "90d", value_parser = duration)]
    pub usage_retention: Duration,

    /// The headers in which tenants send their keys through an Envoy that asks ext_authz, separated by commas: authorization
    /// as `Bearer <key>`, any other as the key alone. They are looked at and taken off, and no others
    #[arg(long, env = "TENANCY_SIDECAR_CREDENTIAL_HEADERS", default_value = "authorization,x-api-key",
          value_delimiter = ',', value_parser = credential_header)]
    pub sidecar_credential_headers: Vec<HeaderName>,

    /// How long what an Envoy logged is kept for a database that is away; what waits longer is lost, and counted
    #[arg(long, env = "TENANCY_ACCESS_LOG_PATIENCE", default_value = "30s", value_parser = duration)]
    pub access_log_patience: Duration,

    /// How many organizations one user may found in any hour, as their owner; 0: as many as they like
    #[arg(long, env = "TENANCY_ORGANIZATIONS_PER_HOUR", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub organizations_per_hour: u32,

    /// How many invitations one user, or one key of a tenant, may send in any hour; 0: as many as they like
    #[arg(long, env = "TENANCY_INVITATIONS_PER_HOUR", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub invitations_per_hour: u32,

    /// How long a deleted organization can be brought back
    #[arg(long, env = "TENANCY_PURGE_AFTER", default_value = "30d", value_parser = duration)]
    pub purge_after: Duration,

    /// What the private keys that tokens are signed with are sealed with in the database: 32 bytes in base64. Several, separated
    /// by commas: the first seals, all open. Without it no tokens are issued, but with an embedded Postgres one is made
    #[arg(long, env = "TENANCY_TOKEN_ENCRYPTION_KEY", hide_env_values = true)]
    pub token_encryption_key: Option<Secret>,

    /// How long a token counts, at most an hour
    #[arg(long, env = "TENANCY_TOKEN_LIFETIME", default_value = "5m", value_parser = token_lifetime)]
    pub token_lifetime: Duration,

    /// What tokens call their issuer; others are not accepted
    #[arg(long, env = "TENANCY_TOKEN_ISSUER", default_value = "tenancy", value_parser = issuer)]
    pub token_issuer: String,

    /// How long one key signs tokens, at least an hour
    #[arg(long, env = "TENANCY_TOKEN_KEY_ROTATION", default_value = "30d", value_parser = rotation)]
    pub token_key_rotation: Duration,
}

/// A value that is shown to nobody. Anything is one, so that no message about a bad one repeats it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What makes a configuration impossible.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Raw events would be dropped while a retry can still name them.
    #[error(
        "TENANCY_USAGE_RETENTION must be at least TENANCY_USAGE_ACCEPTED_AGE and eight days (a weekly partition and a \
         day): a retry of an event must find the event"
    )]
    Retention,
    /// The embedded Postgres would serve strangers.
    #[error(
        "{0} is not a loopback address, and the embedded Postgres is meant for a developer's machine: set DATABASE_URL, \
         or TENANCY_ALLOW_REMOTE_EMBEDDED=true if you mean it"
    )]
    Remote(SocketAddr),
    /// Half of what TLS takes.
    #[error(
        "TENANCY_TLS_CERTIFICATE and TENANCY_TLS_KEY belong together: set both for TLS, each to a PEM file, or neither to \
         serve in clear"
    )]
    HalfTls,
    /// Client certificates without TLS.
    #[error(
        "TENANCY_TLS_CLIENT_CA is for client certificates, which come by TLS: set TENANCY_TLS_CERTIFICATE and \
         TENANCY_TLS_KEY too"
    )]
    ClientCa,
    /// Ids that no certificate can prove.
    #[error(
        "TENANCY_SIDECAR_SPIFFE_IDS is about client certificates: set TENANCY_TLS_CLIENT_CA to the CAs that sign them, a \
         PEM file"
    )]
    SpiffeIds,
    /// No key that could seal.
    #[error(
        "TENANCY_TOKEN_ENCRYPTION_KEY must be 32 bytes in base64, as of `openssl rand -base64 32`, or several of that with \
         commas between"
    )]
    TokenEncryptionKey,
}

impl ServeConfig {
    /// Fails for what cannot go together; `embedded` tells whether the Postgres is our own.
    pub fn check(&self, embedded: bool) -> Result<(), ConfigError> {
        if self.usage_retention < self.usage_accepted_age + Duration::from_hours(8 * 24) {
            return Err(ConfigError::Retention);
        }
        if embedded && !self.allow_remote_embedded && !self.listen.ip().is_loopback() {
            return Err(ConfigError::Remote(self.listen));
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::HalfTls);
        }
        if self.tls_client_ca.is_some() && self.tls_certificate.is_none() {
            return Err(ConfigError::ClientCa);
        }
        if !self.sidecar_spiffe_ids.is_empty() && self.tls_client_ca.is_none() {
            return Err(ConfigError::SpiffeIds);
        }
        self.sealing_keys()?;
        Ok(())
    }

    /// What private keys are sealed with, if anything is. Empty is as good as not set.
    pub fn sealing_keys(&self) -> Result<Option<SealingKeys>, ConfigError> {
        let set = self.token_encryption_key.as_ref().filter(|key| !key.0.is_empty());
        set.map(|key| SealingKeys::parse(&key.0).map_err(|_| ConfigError::TokenEncryptionKey)).transpose()
    }
}

/// Between the machine's durations and the calendar's; a configured one is never too long.
#[must_use]
pub fn calendar(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// At most a hundred years, so that no sum of a time and a duration can overflow.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration > Duration::from_hours(100 * 366 * 24) {
        return Err("must be at most a hundred years".into());
    }
    Ok(duration)
}

/// Long enough to be used, short enough for who checks tokens offline.
fn token_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if (Duration::from_secs(10)..=LONGEST_LIFETIME).contains(&lifetime) {
        return Ok(lifetime);
    }
    Err("must be from ten seconds to an hour".into())
}

fn issuer(text: &str) -> Result<String, String> {
    if (1..=200).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err("must be 1 to 200 bytes".into())
}

fn rotation(text: &str) -> Result<Duration, String> {
    let rotation = duration(text)?;
    if rotation < Duration::from_hours(1) {
        return Err("must be at least an hour".into());
    }
    Ok(rotation)
}

/// A header that an application does not need for something else.
fn credential_header(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text.trim().parse().map_err(|_| "is not the name of a header".to_owned())?;
    let told = ["x-api-key-id", "x-user-id", "x-acting-user"];
    if name.as_str().starts_with("x-tenant-") || told.contains(&name.as_str()) {
        return Err("is a header that the application is told by who is calling".into());
    }
    if ["host", "content-type", "origin"].contains(&name.as_str()) {
        return Err("is a header that an Envoy or the application needs".into());
    }
    Ok(name)
}
