//! One Postgres for the whole run, started by the tests themselves, and a database for each test, cloned from a migrated
//! template.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _};
use tenancy::repository::embedded::{self, Embedded};
use tenancy::repository::migrate::{self, Provision};
use tokio::sync::OnceCell;

use crate::harness::eventually;

/// A database of one test.
#[derive(Clone, Debug)]
pub struct Cloned {
    /// As the service logs in: bound by row level security.
    pub service: PgConnectOptions,
    /// As the owner of the schema, who migrates and restores.
    pub owner: Arc<PgConnectOptions>,
    /// As the superuser, to look at what is really there. Never what is tested.
    pub superuser: PgPool,
}

struct Shared {
    // Lives as long as the process; Postgres goes down with it.
    _embedded: Embedded,
    superuser: PgConnectOptions,
    template: Provision,
}

static SHARED: OnceCell<Shared> = OnceCell::const_new();
static CLONES: AtomicU32 = AtomicU32::new(0);

impl Cloned {
    /// Takes the database away from the service: its connections end, and it gets no others.
    pub async fn cut(&self) {
        self.as_superuser(|name| format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")).await;
        // A connection that was being made meanwhile shows up late.
        eventually("the service's connections ended", || async {
            let left: i64 = sqlx::query_scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1",
            )
            .bind(self.service.get_username())
            .fetch_one(&self.superuser)
            .await
            .unwrap();
            left == 0
        })
        .await;
    }

    /// Gives it back.
    pub async fn restore(&self) {
        self.as_superuser(|name| format!("GRANT CONNECT ON DATABASE {name} TO PUBLIC")).await;
    }

    async fn as_superuser(&self, sql: impl Fn(&str) -> String) {
        let sql = sql(self.service.get_database().unwrap());
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.superuser).await.unwrap();
    }
}

/// A new database with the schema and nothing in it.
pub async fn clone_template() -> Cloned {
    let shared = SHARED.get_or_init(start).await;
    let name = format!("test_{}", CLONES.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect_with(&shared.superuser).await.unwrap();
    let sql = format!("CREATE DATABASE {name} TEMPLATE tenancy OWNER tenancy_owner");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    Cloned {
        service: shared.template.service.clone().database(&name),
        owner: Arc::new(shared.template.owner.clone().database(&name)),
        superuser: PgPoolOptions::new().max_connections(2).connect_lazy_with(shared.superuser.clone().database(&name)),
    }
}

async fn start() -> Shared {
    sweep();
    let options = embedded::Options {
        data_dir: Some(std::env::temp_dir().join(format!("tenancy-test-{}", std::process::id()))),
        settings: vec![("max_connections".into(), "400".into())],
        ..embedded::Options::default()
    };
    let embedded = tokio::task::spawn_blocking(move || embedded::start(&options)).await.unwrap().unwrap();
    let superuser = PgConnectOptions::new_without_pgpass()
        .host(&embedded.socket_dir().to_string_lossy())
        .port(embedded.port())
        .username(embedded.superuser())
        .password(embedded.superuser_password())
        .database("postgres");
    let template = migrate::provision(&superuser, embedded.superuser_password()).await.unwrap();
    Shared { _embedded: embedded, superuser, template }
}

/// Removes what earlier runs left: nothing runs at the end of a test process that could.
fn sweep() {
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.path());
    let ours =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tenancy-test-"));
    for directory in left.filter(ours) {
        // A directory whose lock is held belongs to a run that goes on.
        let abandoned = File::open(directory.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if abandoned {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
