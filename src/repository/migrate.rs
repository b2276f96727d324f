//! The owner's work: migrations, the grants of the service's login, and the database of embedded mode. And the check
//! that the service itself is not the owner.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::repository::database::Database;
use crate::repository::scope::{Purpose, Scope};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Brings the schema up to date, and grants the service's login its roles when one is named. Safe to run from several
/// replicas at once: they wait for each other.
pub async fn migrate(owner: &PgConnectOptions, grant_to: Option<&str>) -> Result<(), Error> {
    let mut connection = PgConnection::connect_with(owner).await?;
    MIGRATIONS.run(&mut connection).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        error => Error::internal(error),
    })?;
    if let Some(login) = grant_to {
        let sql = format!("GRANT tenancy_app, tenancy_ingest, tenancy_platform TO {}", identifier(login));
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// The logins and the database of embedded mode.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "sqlx shows passwords in it")]
pub struct Provision {
    /// Who owns the schema and migrates.
    pub owner: PgConnectOptions,
    /// Whom the service logs in as.
    pub service: PgConnectOptions,
}

/// The names of embedded mode's database and logins.
const DATABASE: &str = "tenancy";
const OWNER: &str = "tenancy_owner";
const SERVICE: &str = "tenancy_service";

/// Makes the database and the logins of embedded mode where they are missing, and returns how to log in as each.
///
/// The passwords are derived from the superuser's, which is kept beside the data and nowhere else.
pub async fn provision(superuser: &PgConnectOptions, superuser_password: &str) -> Result<Provision, Error> {
    let password = |login: &str| {
        let context = format!("tenancy embedded login {login}");
        blake3::derive_key(&context, superuser_password.as_bytes()).map(|byte| format!("{byte:02x}")).concat()
    };
    let mut connection = PgConnection::connect_with(&superuser.clone().database("postgres")).await?;
    for (login, may) in [(OWNER, "CREATEROLE"), (SERVICE, "NOCREATEROLE NOINHERIT")] {
        let exists = sqlx::query_scalar!("SELECT 1 FROM pg_roles WHERE rolname = $1", login)
            .fetch_optional(&mut connection)
            .await?;
        if exists.is_none() {
            // Both parts are our own: a constant, and hexadecimal digits.
            let sql = format!("CREATE ROLE {login} LOGIN {may} PASSWORD '{}'", password(login));
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        }
    }
    let exists = sqlx::query_scalar!("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE)
        .fetch_optional(&mut connection)
        .await?;
    if exists.is_none() {
        let sql = format!("CREATE DATABASE {DATABASE} OWNER {OWNER}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    }
    connection.close().await?;
    let login = |name: &str| superuser.clone().database(DATABASE).username(name).password(&password(name));
    let provision = Provision { owner: login(OWNER), service: login(SERVICE) };
    migrate(&provision.owner, Some(SERVICE)).await?;
    Ok(provision)
}

/// Why the service does not start as it is logged in.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The role could get around row level security.
    #[error(
        "the role {role:?} {why}: it could bypass row level security. Let DATABASE_URL log in as a role that is only a \
         member of tenancy_app, tenancy_ingest and tenancy_platform (`tenancy migrate --grant-to LOGIN`)"
    )]
    Role {
        /// The role.
        role: String,
        /// What is wrong with it.
        why: String,
    },
    /// The schema is missing or not of this version, or the login was not granted its roles.
    #[error(
        "the schema is not the one of this version, or this login may not use it: run `tenancy migrate --grant-to LOGIN`, \
         or set TENANCY_MIGRATION_URL ({0})"
    )]
    Schema(String),
    /// The database could not be asked.
    #[error(transparent)]
    Database(#[from] Error),
}

/// Fails unless every scope runs as a role that row level security binds (I2), on the schema of this version.
pub async fn check_fitness(database: &Database) -> Result<(), Unfit> {
    let nobody = Permitted::system(OrganizationId::from(uuid::Uuid::nil()), "startup");
    let platform = PermittedPlatform::system("startup");
    check_role(database.tenant(&nobody).await.map_err(unfit)?).await?;
    check_role(database.ingest([]).await.map_err(unfit)?).await?;
    check_role(database.platform(&platform, Purpose::Upkeep).await.map_err(unfit)?).await?;
    check_role(database.lookup().await.map_err(unfit)?).await
}

/// A scope that cannot be opened for another reason than a database that is away: the roles are missing or not granted.
fn unfit(error: Error) -> Unfit {
    match error {
        Error::Internal(text) => Unfit::Schema(text),
        error => Unfit::Database(error),
    }
}

async fn check_role<K: std::fmt::Debug + Send>(mut scope: Scope<K>) -> Result<(), Unfit> {
    // A member of a role can become it, so what a role is a member of counts as much as what it is.
    let found = sqlx::query!(
        r#"SELECT asked.rolname::text AS "role!",
               CASE WHEN held.rolsuper THEN 'is or can become a superuser'
                    WHEN held.rolbypassrls THEN 'has or can get BYPASSRLS'
                    ELSE 'is or can become the owner of the tables' END AS "why!"
           FROM pg_roles asked JOIN pg_roles held ON pg_has_role(asked.oid, held.oid, 'MEMBER')
           WHERE asked.rolname IN (session_user, current_user)
             AND (held.rolsuper OR held.rolbypassrls OR EXISTS (
                 SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = 'tenancy' AND c.relowner = held.oid))
           LIMIT 1"#
    )
    .fetch_optional(&mut scope)
    .await
    .map_err(Error::from)?;
    if let Some(found) = found {
        return Err(Unfit::Role { role: found.role, why: found.why });
    }
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max();
    let applied = sqlx::query_scalar!("SELECT tenancy.schema_version()").fetch_one(&mut scope).await;
    match applied {
        Ok(applied) if applied == newest => Ok(()),
        Ok(applied) => Err(Unfit::Schema(format!("it is at version {applied:?}, this service at {newest:?}"))),
        Err(error) => Err(unfit(error.into())),
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
