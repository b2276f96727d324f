//! The pools, and the opening of scopes.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgPool, Postgres, Transaction};
use tokio::sync::watch;

use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::clock::Clock;
use crate::deadline;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::repository::changes::Change;
use crate::repository::error::{is_connection_fault, unreachable};
use crate::repository::scope::{
    Caches, Ingest, IngestScope, Lookup, LookupScope, Platform, PlatformScope, Purpose, Scope, Tenant, TenantScope,
};

/// How the database is reached. No `Debug`, here and wherever logins are kept: sqlx's shows the password.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "sqlx shows passwords in it")]
pub struct DatabaseOptions {
    /// The service's login, a member of the three roles and nothing more.
    pub connect: PgConnectOptions,
    /// A login of its own for platform scopes; otherwise the same.
    pub connect_platform: Option<PgConnectOptions>,
    /// The most connections for requests. Background work has eight of its own: a flood of requests does not delay it.
    pub max_connections: u32,
    /// The longest wait for a connection.
    pub acquire_timeout: Duration,
    /// The longest a statement of a request may run; what is left of the request's deadline when that is less.
    pub statement_timeout: Duration,
}

/// Connections for background work: the writers of usage and the workers.
const BACKGROUND_CONNECTIONS: u32 = 8;

/// Who leaves less time than this for a connection cannot blame the database when there is none.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// A pool for each login; the same one where there is one login.
#[derive(Clone)]
struct Pools {
    main: PgPool,
    platform: PgPool,
}

/// The pools. Cheap to clone; nothing but scopes comes out of it.
///
/// Requests and background work have pools apart, and not only for fairness: a connection belongs to the runtime that
/// opened it. One that a serving thread opened would have a writer wait for that thread, and would break with it at the
/// end, before the writers are done.
#[derive(Clone)]
pub struct Database {
    requests: Pools,
    background: Pools,
    options: Arc<DatabaseOptions>,
    clock: Clock,
    reachable: watch::Sender<bool>,
    caches: Caches,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// Makes the pools; connects to nothing yet, so that the service can start before its database.
    #[must_use]
    pub fn new(options: DatabaseOptions, clock: Clock) -> Self {
        let pools = |connections: u32| {
            let pool = |connect: &PgConnectOptions, connections: u32| {
                PgPoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(options.acquire_timeout)
                    // The check costs a round trip a scope; `begin` meets a stale connection by taking another one.
                    .test_before_acquire(false)
                    .connect_lazy_with(connect.clone())
            };
            let main = pool(&options.connect, connections);
            let platform = options.connect_platform.as_ref().map_or_else(|| main.clone(), |connect| pool(connect, 4));
            Pools { main, platform }
        };
        Self {
            requests: pools(options.max_connections),
            background: pools(BACKGROUND_CONNECTIONS),
            options: Arc::new(options),
            clock,
            reachable: watch::Sender::new(true),
            caches: Caches::default(),
        }
    }

    /// The pools for whoever asks.
    fn pools(&self) -> &Pools {
        if deadline::is_set() { &self.requests } else { &self.background }
    }

    /// A scope of one organization.
    pub async fn tenant(&self, permitted: &Permitted) -> Result<TenantScope, Error> {
        let organization_id = permitted.organization_id();
        let mut begin = self.begin_statement("tenancy_app");
        let _ = write!(begin, "; SET LOCAL tenancy.organization_id = '{organization_id}'");
        if let Some(user) = permitted.acting_user() {
            let _ = write!(begin, "; SET LOCAL tenancy.acting_user_id = '{user}'");
        }
        let kind =
            Tenant { organization_id, acting_user: permitted.acting_user(), context: permitted.context().clone() };
        Ok(Scope::new(self.begin(&self.pools().main, begin).await?, kind, Arc::clone(&self.caches)))
    }

    /// A scope of one organization that sees one moment, however long it reads, and changes nothing.
    pub async fn snapshot(&self, permitted: &Permitted) -> Result<TenantScope, Error> {
        let organization_id = permitted.organization_id();
        let begin =
            format!("{}; SET LOCAL tenancy.organization_id = '{organization_id}'", snapshot_of("tenancy_app", None));
        let kind = Tenant { organization_id, acting_user: None, context: permitted.context().clone() };
        Ok(Scope::new(self.begin(&self.pools().main, begin).await?, kind, Arc::clone(&self.caches)))
    }

    /// A scope across organizations that sees the moment of another one, as `portable::export::moment` names it.
    pub async fn platform_snapshot(
        &self,
        permitted: &PermittedPlatform,
        purpose: Purpose,
        moment: &str,
    ) -> Result<PlatformScope, Error> {
        if !moment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            return Err(Error::internal(format!("{moment:?} is no name of a snapshot")));
        }
        let begin = snapshot_of("tenancy_platform", Some(moment));
        metrics::counter!("tenancy_platform_scopes_total", "purpose" => purpose.as_str()).increment(1);
        let kind = Platform { context: permitted.context().clone() };
        Ok(Scope::new(self.begin(&self.pools().platform, begin).await?, kind, Arc::clone(&self.caches)))
    }

    /// A scope of the usage tables of the given organizations.
    pub async fn ingest(&self, organizations: impl IntoIterator<Item = OrganizationId>) -> Result<IngestScope, Error> {
        let mut begin = self.begin_statement("tenancy_ingest");
        // By their last digit, as the policies look for them; see the migrations.
        let mut lists: [Vec<String>; 16] = Default::default();
        for organization_id in organizations {
            let [.., last] = organization_id.uuid().into_bytes();
            lists[usize::from(last % 16)].push(organization_id.to_string());
        }
        for (digit, list) in lists.iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            let _ = write!(begin, "; SET LOCAL tenancy.ingest_organizations_{digit:x} = '{}'", list.join(","));
        }
        Ok(Scope::new(self.begin(&self.pools().main, begin).await?, Ingest, Arc::clone(&self.caches)))
    }

    /// A scope across organizations, for a named purpose.
    pub async fn platform(&self, permitted: &PermittedPlatform, purpose: Purpose) -> Result<PlatformScope, Error> {
        let begin = self.begin_statement("tenancy_platform");
        metrics::counter!("tenancy_platform_scopes_total", "purpose" => purpose.as_str()).increment(1);
        let kind = Platform { context: permitted.context().clone() };
        Ok(Scope::new(self.begin(&self.pools().platform, begin).await?, kind, Arc::clone(&self.caches)))
    }

    /// A scope of no organization, for the lookup of keys.
    pub async fn lookup(&self) -> Result<LookupScope, Error> {
        let begin = self.begin_statement("tenancy_app");
        Ok(Scope::new(self.begin(&self.pools().main, begin).await?, Lookup, Arc::clone(&self.caches)))
    }

    /// A connection that listens for changes. It belongs to no scope: it runs LISTEN and nothing else.
    pub(super) async fn listener(&self) -> Result<PgListener, Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.options.acquire_timeout)
            .connect_lazy_with(self.options.connect.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // Who listens wants to hear of a broken connection at once, not when there is another one.
        listener.eager_reconnect(false);
        Ok(listener)
    }

    /// Makes a connection and gives it up: fails at once where nobody is there. A pool tries again until its time is
    /// over.
    pub async fn knock(&self) -> Result<(), Error> {
        Ok(PgConnection::connect_with(&self.options.connect).await?.close().await?)
    }

    /// Names the caches that are told of what is committed here. Once; a second call changes nothing.
    pub fn tell(&self, caches: impl Fn(&Change) + Send + Sync + 'static) {
        let _ = self.caches.set(Box::new(caches));
    }

    /// Whether the database answered when it was last asked; kept true by the worker that follows the change log.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        *self.reachable.borrow()
    }

    /// Notes whether the database answers. While it does not, scopes of requests fail at once and do not queue up.
    pub fn set_reachable(&self, reachable: bool) {
        let changed = self.reachable.send_if_modified(|known| std::mem::replace(known, reachable) != reachable);
        if changed {
            tracing::warn!(reachable, "the database's state changed");
        }
    }

    /// Waits until the database does not answer.
    pub async fn unreachable(&self) {
        // The sender lives as long as this does.
        let _ = self.reachable.subscribe().wait_for(|reachable| !reachable).await;
    }

    /// Tells whenever the database goes or comes back.
    #[must_use]
    pub fn watch_reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }

    /// Closes every connection; waits for scopes that are still open.
    pub async fn close(&self) {
        for pools in [&self.requests, &self.background] {
            pools.main.close().await;
            pools.platform.close().await;
        }
    }

    fn begin_statement(&self, role: &str) -> String {
        let timeout = deadline::remaining(self.clock.instant(), self.options.statement_timeout).as_millis().max(1);
        // Statements are written so that one plan is good for all values, and are short. Planning a query over all partitions
        // anew each time, which Postgres prefers where it overestimates them, takes longer than the query: measured, 7 ms
        // instead of 3 for a month by day. For the same estimates it would compile them.
        format!(
            "BEGIN; SET LOCAL ROLE {role}; SET LOCAL statement_timeout = {timeout}; \
             SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off"
        )
    }

    /// Begins on a connection that works. A pool of stale connections, as after a restart of Postgres, is walked through
    /// at once: nothing was done on them yet, so taking another one is safe.
    async fn begin(&self, pool: &PgPool, statement: String) -> Result<Transaction<'static, Postgres>, Error> {
        let wait = deadline::remaining(self.clock.instant(), self.options.acquire_timeout);
        if !self.is_reachable() && deadline::is_set() {
            return Err(unreachable());
        }
        // Leave the caller the time to hear of it.
        let wait = wait.mul_f32(0.8);
        let attempts = async {
            let mut stale = pool.size() + 1;
            loop {
                match pool.begin_with(AssertSqlSafe(statement.clone())).await {
                    Err(error)
                        if is_connection_fault(&error) && stale > 0 && !matches!(error, sqlx::Error::PoolTimedOut) =>
                    {
                        stale -= 1;
                    }
                    outcome => return outcome,
                }
            }
        };
        match tokio::time::timeout(wait, attempts).await {
            Ok(begun) => Ok(begun?),
            Err(_) if wait < SHORTEST_WAIT => Err(Error::DeadlineExceeded),
            Err(_) => Err(unreachable()),
        }
    }
}

/// Begins what reads a whole organization: for as long as it takes, and each value as the same text on every server.
fn snapshot_of(role: &str, moment: Option<&str>) -> String {
    let moment = moment.map(|moment| format!("; SET TRANSACTION SNAPSHOT '{moment}'")).unwrap_or_default();
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY{moment}; SET LOCAL ROLE {role}; SET LOCAL statement_timeout = 0; \
         SET LOCAL jit = off; SET LOCAL TimeZone = 'UTC'; SET LOCAL bytea_output = 'hex'"
    )
}
