//! Scopes: the only way to a connection.
//!
//! A scope is one transaction as one role, opened in one round trip: `BEGIN; SET LOCAL ROLE …; SET LOCAL tenancy.… `.
//! `SET LOCAL` statements, because they survive PgBouncer's transaction pooling and reach the workers of Citus. A scope
//! that is dropped rolls back; only [`Scope::commit`] keeps what was done.
//!
//! Postgres answers the COMMIT of a failed transaction with ROLLBACK, not with an error. So a scope watches its
//! statements, and its commit fails when one of them failed or was abandoned, even if the caller swallowed the error.

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr, Transaction};

use crate::auth::principal::Context;
use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::repository::changes::Change;
use crate::repository::error::commit_failed;

/// A transaction that sees the rows of one role and setting.
pub struct Scope<K> {
    transaction: Transaction<'static, Postgres>,
    /// False from the start of a statement until it succeeded.
    clean: bool,
    /// What the caches of this replica are told at the end.
    announced: Vec<Change>,
    caches: Caches,
    kind: K,
}

/// The caches of this replica, told of every change that it commits, before anybody else can be.
pub type Caches = Arc<OnceLock<Box<dyn Fn(&Change) + Send + Sync>>>;

/// One organization, as `tenancy_app`.
pub type TenantScope = Scope<Tenant>;
/// What belongs to no organization, as `tenancy_platform`.
pub type PlatformScope = Scope<Platform>;
/// The usage tables of the organizations it names, as `tenancy_ingest`.
pub type IngestScope = Scope<Ingest>;
/// No organization at all, as `tenancy_app`: every tenant table is empty. For the lookup functions only.
pub type LookupScope = Scope<Lookup>;

/// What a tenant scope knows of itself.
#[derive(Debug)]
pub struct Tenant {
    pub(super) organization_id: OrganizationId,
    pub(super) acting_user: Option<UserId>,
    pub(super) context: Context,
}

/// What a platform scope knows of itself.
#[derive(Debug)]
pub struct Platform {
    pub(super) context: Context,
}

/// What an ingest scope knows of itself.
#[derive(Debug)]
pub struct Ingest;

/// What a lookup scope knows of itself.
#[derive(Debug)]
pub struct Lookup;

/// Why a platform scope is opened. The whole list of what is done across tenants; review what is added to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Create an organization: its row, its slug, its first audit record.
    CreateOrganization,
    /// List organizations, or find one by its slug.
    ReadOrganizations,
    /// Create, read and change users, who belong to no organization.
    Users,
    /// Platform-wide meters.
    PlatformMeters,
    /// Create, read, change and archive plans.
    Plans,
    /// Create, read, change and delete the rules of the rate limit service.
    RateLimits,
    /// Keys of services and operators.
    PlatformKeys,
    /// Read the audit of the platform.
    PlatformAudit,
    /// Read what all replicas sign with.
    SigningKeys,
    /// Make, replace and read the keys that tokens are signed with.
    TokenKeys,
    /// Read and prune the change log.
    Changes,
    /// Make and drop partitions, purge organizations, forget old request ids.
    Upkeep,
    /// Read who the members of an organization are, for its export.
    ExportOrganization,
}

impl Purpose {
    /// For metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateOrganization => "create_organization",
            Self::ReadOrganizations => "read_organizations",
            Self::Users => "users",
            Self::PlatformMeters => "platform_meters",
            Self::Plans => "plans",
            Self::RateLimits => "rate_limits",
            Self::PlatformKeys => "platform_keys",
            Self::PlatformAudit => "platform_audit",
            Self::SigningKeys => "signing_keys",
            Self::TokenKeys => "token_keys",
            Self::Changes => "changes",
            Self::Upkeep => "upkeep",
            Self::ExportOrganization => "export_organization",
        }
    }
}

/// A scope that changes configuration: it knows who does it, for the audit and for repeated requests.
pub trait Accountable: fmt::Debug + Send {
    /// Who, by which method, in which request.
    fn context(&self) -> &Context;
    /// The organization whose audit it is; `None` for the platform's.
    fn organization(&self) -> Option<OrganizationId>;
}

impl Accountable for Tenant {
    fn context(&self) -> &Context {
        &self.context
    }
    fn organization(&self) -> Option<OrganizationId> {
        Some(self.organization_id)
    }
}

impl Accountable for Platform {
    fn context(&self) -> &Context {
        &self.context
    }
    fn organization(&self) -> Option<OrganizationId> {
        None
    }
}

impl<K> Scope<K> {
    pub(super) fn new(transaction: Transaction<'static, Postgres>, kind: K, caches: Caches) -> Self {
        Self { transaction, clean: true, announced: Vec::new(), caches, kind }
    }

    /// Notes a change for the caches of this replica; `changes::announce` tells those of the others.
    pub(super) fn announce(&mut self, change: Change) {
        self.announced.push(change);
    }

    /// What the scope knows of itself.
    pub fn kind(&self) -> &K {
        &self.kind
    }

    /// Makes all that was done durable.
    ///
    /// Errors: `Internal` when a statement of the scope failed and its error was swallowed: nothing was kept then.
    /// `Unavailable` (`COMMIT_OUTCOME_UNKNOWN`) when the connection broke before the answer came.
    pub async fn commit(self) -> Result<(), Error> {
        if !self.clean {
            self.transaction.rollback().await?;
            return Err(Error::internal("a statement of this scope failed or was abandoned; nothing was committed"));
        }
        let outcome = self.transaction.commit().await.map_err(|error| commit_failed(&error));
        // Whatever the outcome: forgetting too much does no harm, and an unknown outcome may be a commit. The caller gets
        // its answer afterwards, so whoever changes something sees the change in the next request.
        if let Some(tell) = self.caches.get() {
            self.announced.iter().for_each(tell);
        }
        outcome
    }

    /// Undoes all that was done. Dropping does too; this one waits until it is.
    pub async fn rollback(self) -> Result<(), Error> {
        Ok(self.transaction.rollback().await?)
    }
}

impl Scope<Tenant> {
    /// The organization.
    #[must_use]
    pub fn organization_id(&self) -> OrganizationId {
        self.kind.organization_id
    }

    /// The user for whom the caller acts.
    #[must_use]
    pub fn acting_user(&self) -> Option<UserId> {
        self.kind.acting_user
    }
}

impl<K: fmt::Debug> fmt::Debug for Scope<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("kind", &self.kind).field("clean", &self.clean).finish_non_exhaustive()
    }
}

/// Every statement goes through here and leaves its outcome in `clean`.
impl<'c, K: fmt::Debug + Send> Executor<'c> for &'c mut Scope<K> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let was_clean = std::mem::replace(&mut self.clean, false);
        let rows = (*self.transaction).fetch_many(query);
        stream::try_unfold((rows, &mut self.clean), move |(mut rows, clean)| async move {
            if let Some(row) = rows.try_next().await? {
                return Ok(Some((row, (rows, clean))));
            }
            *clean = was_clean;
            Ok(None)
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let was_clean = std::mem::replace(&mut self.clean, false);
            let row = (*self.transaction).fetch_optional(query).await?;
            self.clean = was_clean;
            Ok(row)
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        (*self.transaction).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        (*self.transaction).describe(sql)
    }
}
