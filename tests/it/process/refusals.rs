//! What the binary refuses to start with, and the way that its error names.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tenancy::repository::embedded;
use tokio::task::block_in_place;

use super::{Place, Signal};
use crate::embedded::support;
use crate::harness::clone_template;

/// Runs a server that must refuse; returns what it says.
async fn refused(place: &Place, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = place.server(arguments);
    command.envs(environment.iter().copied());
    let (code, said) = place.run(command).ended().await;
    assert_eq!(code, Some(1), "{said}");
    said
}

async fn serves(place: &Place, environment: &[(&str, &str)]) {
    let mut command = place.server(&[]);
    command.envs(environment.iter().copied());
    let process = place.run(command);
    place.ready().await;
    process.send(Signal::SIGINT);
    assert_eq!(process.ended().await.0, Some(0));
}

/// The URL of a login by a socket, which sqlx cannot write down itself.
pub(super) fn url(options: &PgConnectOptions) -> String {
    let socket = options.get_host().to_owned();
    let mut url = options.clone().host("socket").to_url_lossy();
    url.query_pairs_mut().append_pair("host", &socket);
    url.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_postgres_is_for_this_machine() {
    let place = Place::new();
    let everywhere = format!("0.0.0.0:{}", place.grpc.port());
    for listen in ["0.0.0.0:0", "[::]:0", everywhere.as_str()] {
        let said = refused(&place, &["--listen", listen], &[]).await;
        assert!(said.contains("loopback") && said.contains("TENANCY_ALLOW_REMOTE_EMBEDDED"), "{said}");
    }
    assert!(!place.data.exists(), "nothing was begun");
    serves(&place, &[("TENANCY_LISTEN", &everywhere), ("TENANCY_ALLOW_REMOTE_EMBEDDED", "true")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_configuration_of_tls_is_none() {
    let place = Place::new();
    let (certificate, key) = (("TENANCY_TLS_CERTIFICATE", "/nowhere/c.pem"), ("TENANCY_TLS_KEY", "/nowhere/k.pem"));
    let (client_ca, ids) =
        (("TENANCY_TLS_CLIENT_CA", "/nowhere/a.pem"), ("TENANCY_SIDECAR_SPIFFE_IDS", "spiffe://a/*"));
    for (environment, named) in [
        (&[certificate][..], "TENANCY_TLS_KEY"),
        (&[key], "TENANCY_TLS_CERTIFICATE"),
        (&[client_ca], "TENANCY_TLS_CERTIFICATE"),
        (&[ids], "TENANCY_TLS_CLIENT_CA"),
        (&[certificate, key, ids], "TENANCY_TLS_CLIENT_CA"),
    ] {
        let said = refused(&place, &[], environment).await;
        assert!(said.contains("set ") && said.contains(named), "{environment:?}: {said}");
    }
    assert!(!place.data.exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_events_are_kept_as_long_as_they_may_be_retried() {
    let place = Place::new();
    for (retention, age) in [("42d", "35d"), ("90d", "83d"), ("0s", "0s")] {
        let environment = [("TENANCY_USAGE_RETENTION", retention), ("TENANCY_USAGE_ACCEPTED_AGE", age)];
        let said = refused(&place, &[], &environment).await;
        assert!(said.contains("TENANCY_USAGE_RETENTION") && said.contains("TENANCY_USAGE_ACCEPTED_AGE"), "{said}");
    }
    assert!(!place.data.exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_could_bypass_row_level_security_is_refused() {
    let place = Place::new();
    let database = clone_template().await;
    let superuser = url(&database.superuser.connect_options());
    let service = url(&database.service);
    for environment in [
        vec![("DATABASE_URL", superuser.as_str())],
        vec![("DATABASE_URL", &service), ("TENANCY_PLATFORM_DATABASE_URL", &superuser)],
    ] {
        let said = refused(&place, &[], &environment).await;
        assert!(said.contains("could bypass row level security"), "{said}");
        assert!(said.contains("tenancy migrate --grant-to"), "{said}");
        let password = superuser.split(['@', ':']).nth(2).unwrap();
        assert!(password.len() > 20 && !said.contains(password), "{said}");
    }
    // The way that the error names.
    serves(&place, &[("DATABASE_URL", &service), ("TENANCY_DATABASE_CONNECTIONS", "6")]).await;
    assert!(!place.data.exists(), "with DATABASE_URL nothing is embedded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there_is_waited_for_and_then_given_up() {
    let place = Place::new();
    let nowhere = place.directory.path().join("nowhere");
    let url = url(&PgConnectOptions::new_without_pgpass().host(&nowhere.to_string_lossy()).username("x").database("x"));
    let said =
        refused(&place, &["--startup-wait", "100ms", "--database-wait", "100ms"], &[("DATABASE_URL", &url)]).await;
    assert!(said.contains("waiting for the database") && said.contains("cannot be reached"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_makes_a_foreign_database_fit_and_grants_a_login_what_it_needs() {
    let place = Place::new();
    // A server as an operator has one: none of our roles in it.
    let directory = support::directory();
    let postgres = block_in_place(|| {
        let mut options = support::options(directory.path());
        options.settings = vec![("max_connections".into(), "40".into())];
        embedded::start(&options)
    })
    .unwrap();
    let superuser = PgConnectOptions::new_without_pgpass()
        .host(&postgres.socket_dir().to_string_lossy())
        .port(postgres.port())
        .username(postgres.superuser())
        .password(postgres.superuser_password())
        .database("postgres");
    let mut connection = PgConnection::connect_with(&superuser).await.unwrap();
    // A name that has to be quoted.
    let login = "app \"x\" login";
    for sql in [
        "CREATE ROLE boss LOGIN CREATEROLE PASSWORD 'b'".to_owned(),
        format!("CREATE ROLE \"{}\" LOGIN NOINHERIT PASSWORD 'a'", login.replace('"', "\"\"")),
        "CREATE DATABASE platform OWNER boss".into(),
    ] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let database = superuser.database("platform");
    let superuser_url = url(&database);
    let owner = url(&database.clone().username("boss").password("b"));
    let service = url(&database.username(login).password("a"));

    let said = refused(&place, &[], &[("DATABASE_URL", &service)]).await;
    assert!(said.contains("run `tenancy migrate --grant-to LOGIN`"), "{said}");
    let (code, said) = place.run(place.command(&["migrate", "--grant-to", login])).ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("TENANCY_MIGRATION_URL"), "{said}");

    // The second time there is nothing left to do.
    for _ in 0..2 {
        let mut command = place.command(&["migrate", "--grant-to", login]);
        command.env("TENANCY_MIGRATION_URL", &owner);
        let (code, said) = place.run(command).ended().await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("the schema is up to date"), "{said}");
    }
    // The owner is not fit, were it granted the roles or not.
    refused(&place, &[], &[("DATABASE_URL", &owner)]).await;
    let said = refused(&place, &[], &[("DATABASE_URL", &owner), ("TENANCY_MIGRATION_URL", &superuser_url)]).await;
    assert!(said.contains("could bypass row level security"), "{said}");
    serves(&place, &[("DATABASE_URL", &service)]).await;

    // A login that does not exist is named.
    let mut command = place.command(&["migrate", "--grant-to", "nobody"]);
    command.env("TENANCY_MIGRATION_URL", &owner);
    let (code, said) = place.run(command).ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nobody"), "{said}");
    block_in_place(|| postgres.stop()).unwrap();
}
