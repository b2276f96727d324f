//! The service and its own Postgres, in a directory that is gone afterwards. Loopback and a Unix socket only.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use sqlx::postgres::PgConnectOptions;
use tenancy::app::{self, Running};
use tenancy::cli::{Cli, Command, operator};
use tenancy::clock::Clock;
use tenancy::proto::v1;
use tenancy::proto::v1::api_key_service_client::ApiKeyServiceClient;
use tenancy::proto::v1::organization_service_client::OrganizationServiceClient;
use tenancy::repository::database::DatabaseOptions;
use tenancy::repository::embedded::{self, Embedded};
use tenancy::repository::migrate;
use tenancy::telemetry::{self, LogFormat};
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::support::Failure;

/// A running service.
#[derive(Debug)]
pub struct Server {
    /// The time.
    pub clock: Clock,
    /// An operator's key.
    pub operator: String,
    /// The service.
    pub running: Running,
    runtime: Runtime,
    // Before the directory is removed, Postgres is down: fields drop in this order.
    embedded: Option<Embedded>,
    _directory: Directory,
}

#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Server {
    /// Starts Postgres and the service, the latter with these flags and else as it is by default, on a runtime of its own;
    /// returns how its database is reached as the superuser too.
    pub fn start(flags: &[&str]) -> Result<(Self, PgConnectOptions), Failure> {
        // The spans of requests, which cost something, as in production; but no line between the tables.
        telemetry::log("warn,tenancy::transport::context=info", LogFormat::Text)?;
        let directory = std::env::temp_dir().join(format!("tenancy-bench-{}", std::process::id()));
        // To try others: `name=value`, parted by semicolons.
        let settings = std::env::var("TENANCY_BENCH_POSTGRES").unwrap_or_default();
        let settings = settings.split(';').filter_map(|setting| setting.split_once('='));
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let options = embedded::Options { data_dir: Some(directory.clone()), settings, ..embedded::Options::default() };
        let directory = Directory(directory);
        let embedded = embedded::start(&options)?;
        let superuser = PgConnectOptions::new_without_pgpass()
            .host(&embedded.socket_dir().to_string_lossy())
            .port(embedded.port())
            .username(embedded.superuser())
            .password(embedded.superuser_password());
        let arguments = ["tenancy", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let cli = Cli::try_parse_from(arguments.iter().chain(flags))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let clock = Clock::system();
        let (running, operator) = runtime.block_on(async {
            let provision = migrate::provision(&superuser, embedded.superuser_password()).await?;
            let database = DatabaseOptions {
                connect: provision.service,
                connect_platform: None,
                max_connections: cli.database.database_connections,
                acquire_timeout: cli.database.database_wait,
                statement_timeout: Duration::from_secs(30),
            };
            let running = app::start(&cli.serve, database, clock.clone(), telemetry::metrics()?).await?;
            let operator = operator_key(&running, &clock).await?;
            Ok::<_, Failure>((running, operator))
        })?;
        let superuser = superuser.database("tenancy");
        let server = Self { clock, operator, running, runtime, embedded: Some(embedded), _directory: directory };
        Ok((server, superuser))
    }

    /// A new connection to the service.
    pub async fn connect(&self) -> Result<Channel, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.running.grpc))?.tcp_nodelay(true);
        Ok(endpoint.connect().await?)
    }

    /// A new organization; its id and a key of its that has these scopes.
    pub async fn tenant(&self, slug: &str, scopes: &[&str]) -> Result<(String, String), Failure> {
        let channel = self.connect().await?;
        let organization =
            v1::Organization { slug: slug.into(), display_name: slug.into(), ..v1::Organization::default() };
        let request = v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        let mut organizations = OrganizationServiceClient::new(channel.clone());
        let created = organizations.create_organization(keyed(request, &self.operator)?).await?.into_inner();
        let organization_id = created.organization.unwrap_or_default().organization_id;
        let api_key = v1::ApiKey {
            organization_id: organization_id.clone(),
            kind: v1::ApiKeyKind::SecretTest.into(),
            display_name: "benchmark".into(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            ..v1::ApiKey::default()
        };
        let request = v1::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
        let created = ApiKeyServiceClient::new(channel).create_api_key(keyed(request, &self.operator)?).await?;
        Ok((organization_id, created.into_inner().secret))
    }

    /// Stops the service, then Postgres, and removes everything.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.running.stop();
        self.runtime.block_on(self.running.ended())?;
        self.embedded.take().map_or(Ok(()), Embedded::stop)?;
        Ok(())
    }
}

/// A request with a key.
pub fn keyed<T>(message: T, key: &str) -> Result<Request<T>, Failure> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-api-key", key.parse()?);
    Ok(request)
}

async fn operator_key(running: &Running, clock: &Clock) -> Result<String, Failure> {
    let cli = Cli::try_parse_from(["tenancy", "operator", "create", "--name", "benchmark"])?;
    let Some(Command::Operator(command)) = cli.command else { return Err("another command".into()) };
    let mut output = Vec::new();
    operator::run(command, &running.database, clock, &mut output).await?;
    Ok(String::from_utf8(output)?.trim().to_owned())
}
