//! The change log: what the caches of every replica follow.
//!
//! A row is written in the transaction of the change it tells of, so there is none without the other. A replica reads
//! the rows whose transaction was not over when it looked last ([`read`]); a notification makes it look at once.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::PgListener;

use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::repository::database::Database;
use crate::repository::scope::{Accountable, PlatformScope, Scope};

/// The channel of the notifications. Their payload is not used: what changed is read from the log.
const CHANNEL: &str = "tenancy_changes";

/// Something that a cache may hold and that is no longer as it was.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// A key, by its lookup id.
    ApiKey(String),
    /// An organization's own facts: status, plan, zone.
    Organization(OrganizationId),
    /// A membership.
    Member(OrganizationId, UserId),
    /// The roles of one organization: what any of its members may do.
    Roles(OrganizationId),
    /// A user, in all memberships.
    User(UserId),
    /// The meters of one organization.
    Meters(OrganizationId),
    /// The platform-wide meters.
    PlatformMeters,
    /// The plans.
    Plans,
    /// The limits of one organization, beside those of its plan.
    Limits(OrganizationId),
    /// The rules of the rate limit service.
    RateLimits,
    /// The keys that tokens are signed with.
    TokenKeys,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(lookup_id) => write!(f, "api_key:{lookup_id}"),
            Self::Organization(id) => write!(f, "organization:{id}"),
            Self::Member(organization, user) => write!(f, "member:{organization}:{user}"),
            Self::Roles(id) => write!(f, "roles:{id}"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::Meters(id) => write!(f, "meters:{id}"),
            Self::PlatformMeters => write!(f, "platform_meters:"),
            Self::Plans => write!(f, "plans:"),
            Self::Limits(id) => write!(f, "limits:{id}"),
            Self::RateLimits => write!(f, "rate_limits:"),
            Self::TokenKeys => write!(f, "token_keys:"),
        }
    }
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::internal(format!("unknown change {text:?}"));
        let (kind, name) = text.split_once(':').ok_or_else(unknown)?;
        Ok(match kind {
            "api_key" => Self::ApiKey(name.to_owned()),
            "organization" => Self::Organization(name.parse()?),
            "member" => {
                let (organization, user) = name.split_once(':').ok_or_else(unknown)?;
                Self::Member(organization.parse()?, user.parse()?)
            }
            "roles" => Self::Roles(name.parse()?),
            "user" => Self::User(name.parse()?),
            "meters" => Self::Meters(name.parse()?),
            "platform_meters" => Self::PlatformMeters,
            "plans" => Self::Plans,
            "limits" => Self::Limits(name.parse()?),
            "rate_limits" => Self::RateLimits,
            "token_keys" => Self::TokenKeys,
            _ => return Err(unknown()),
        })
    }
}

/// Writes a change into the log, and wakes the replicas at commit; this one knows before the commit returns.
pub async fn announce<K: Accountable>(scope: &mut Scope<K>, change: &Change) -> Result<(), Error> {
    scope.announce(change.clone());
    sqlx::query!(
        "WITH logged AS (INSERT INTO tenancy.changes (subject) VALUES ($1)) SELECT pg_notify($2, '')",
        change.to_string(),
        CHANNEL
    )
    .fetch_one(&mut *scope)
    .await?;
    Ok(())
}

/// The same of many changes at once.
pub async fn announce_all<K: Accountable>(scope: &mut Scope<K>, changes: Vec<Change>) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let subjects: Vec<String> = changes.iter().map(ToString::to_string).collect();
    for change in changes {
        scope.announce(change);
    }
    sqlx::query!(
        "WITH logged AS (INSERT INTO tenancy.changes (subject) SELECT * FROM UNNEST($1::text[])) SELECT pg_notify($2, '')",
        &subjects,
        CHANNEL
    )
    .fetch_one(&mut *scope)
    .await?;
    Ok(())
}

/// What was read from the log.
#[derive(Debug)]
pub struct Reading {
    /// The rows, by id.
    pub changes: Vec<(i64, String)>,
    /// The oldest transaction that was not over: where to read from next.
    pub horizon: i64,
}

/// Reads the changes of all transactions from `horizon` on; `None` reads no change, only where to begin.
///
/// Transactions below the returned horizon were over when this looked, so their rows were seen, in whatever order they
/// committed. A transaction above it may be seen again: the rows are to be recognised by their ids.
pub async fn read(scope: &mut PlatformScope, horizon: Option<i64>) -> Result<Reading, Error> {
    // One statement, hence one snapshot for the rows and the horizon.
    let rows = sqlx::query!(
        r#"SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS "horizon!", c.change_id AS "change_id?",
               c.subject AS "subject?"
           FROM (VALUES (0)) AS one LEFT JOIN tenancy.changes c ON c.transaction_id >= $1::bigint::text::xid8
           ORDER BY c.change_id"#,
        horizon.unwrap_or(i64::MAX)
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(Reading {
        horizon: rows.first().map_or(0, |row| row.horizon),
        changes: rows.into_iter().filter_map(|row| Some((row.change_id?, row.subject?))).collect(),
    })
}

/// Forgets changes older than the given age in seconds; every replica has seen them, or starts anew. Returns how many.
pub async fn prune(scope: &mut PlatformScope, older_than_seconds: f64) -> Result<u64, Error> {
    let pruned = sqlx::query!(
        "DELETE FROM tenancy.changes WHERE create_time < now() - make_interval(secs => $1)",
        older_than_seconds
    )
    .execute(&mut *scope)
    .await?;
    Ok(pruned.rows_affected())
}

/// A connection on which [`wait`] hears of changes.
#[derive(Debug)]
pub struct Listener(PgListener);

/// Begins to listen.
pub async fn listen(database: &Database) -> Result<Listener, Error> {
    let mut listener = database.listener().await?;
    listener.listen(CHANNEL).await?;
    Ok(Listener(listener))
}

/// Waits for a notification. Error: the connection broke, and notifications may have been lost.
pub async fn wait(listener: &mut Listener) -> Result<(), Error> {
    match listener.0.try_recv().await? {
        Some(_) => Ok(()),
        None => Err(crate::repository::error::unreachable()),
    }
}
