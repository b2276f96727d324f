//! The scope of a restore: the owner of the schema, bound by the policies to the one organization that is restored. Nothing
//! but the command line has the owner's login; the serving process refuses to run with it (I2).

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};

use crate::auth::principal::Context;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::repository::scope::{Accountable, Caches, Scope};

/// The job's name in the audit.
const JOB: &str = "tenancy import";

/// One organization, as the owner of the tables. What it changes is written down by the platform.
pub type RestoreScope = Scope<Restore>;

/// What such a scope knows of itself.
#[derive(Debug)]
pub struct Restore {
    organization_id: OrganizationId,
    context: Context,
}

impl Accountable for Restore {
    fn context(&self) -> &Context {
        &self.context
    }
    fn organization(&self) -> Option<OrganizationId> {
        None
    }
}

impl Scope<Restore> {
    /// The organization that is restored.
    #[must_use]
    pub fn organization_id(&self) -> OrganizationId {
        self.kind().organization_id
    }
}

/// The owner's connection.
#[derive(Debug)]
pub struct Owner(PgPool);

impl Owner {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(login: &PgConnectOptions) -> Self {
        Self(PgPoolOptions::new().max_connections(1).connect_lazy_with(login.clone().application_name(JOB)))
    }

    /// Opens the scope of one organization.
    pub async fn restore(&self, organization_id: OrganizationId) -> Result<RestoreScope, Error> {
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL jit = off; \
             SET LOCAL tenancy.organization_id = '{organization_id}'"
        );
        let transaction = self.0.begin_with(AssertSqlSafe(begin)).await?;
        let kind = Restore { organization_id, context: Context::system(JOB) };
        Ok(Scope::new(transaction, kind, Caches::default()))
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.0.close().await;
    }
}
