//! A row that somebody else holds, so that a request stops where a test wants it to.

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

use crate::harness::eventually;

/// Rows locked by the superuser, until this is dropped.
#[derive(Debug)]
pub struct Lock {
    transaction: Transaction<'static, Postgres>,
}

impl Lock {
    /// Locks an organization's row.
    pub async fn organization(superuser: &PgPool, id: &str) -> Self {
        Self::row(superuser, &format!("SELECT 1 FROM tenancy.organizations WHERE organization_id = '{id}' FOR UPDATE"))
            .await
    }

    /// Locks a user's row.
    pub async fn user(superuser: &PgPool, id: &str) -> Self {
        Self::row(superuser, &format!("SELECT 1 FROM tenancy.users WHERE user_id = '{id}' FOR UPDATE")).await
    }

    async fn row(superuser: &PgPool, sql: &str) -> Self {
        let mut transaction = superuser.begin().await.unwrap();
        let locked = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await.unwrap();
        assert_eq!(locked.len(), 1, "{sql}");
        Self { transaction }
    }

    /// Lets go.
    pub async fn free(self) {
        self.transaction.rollback().await.unwrap();
    }
}

/// Waits until so many statements wait for a lock.
pub async fn waiting(superuser: &PgPool, wanted: i64) {
    eventually(&format!("{wanted} statements wait for a lock"), || async {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(superuser)
        .await
        .unwrap();
        count == wanted
    })
    .await;
}
