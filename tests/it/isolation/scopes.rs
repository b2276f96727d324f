//! I3: what a scope promises of its commit.

use sqlx::Executor as _;
use tenancy::auth::principal::{Permitted, PermittedPlatform};
use tenancy::clock::Clock;
use tenancy::error::Error;
use tenancy::ids::OrganizationId;
use tenancy::repository::database::Database;
use tenancy::repository::scope::{Purpose, TenantScope};

use crate::harness::{Cloned, clone_template, options};

async fn scope(cloned: &Cloned) -> TenantScope {
    let database = Database::new(options(cloned), Clock::system());
    let permitted = Permitted::system(OrganizationId::new(Clock::system().now()), "test");
    database.tenant(&permitted).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swallowed_failure_fails_the_commit() {
    let cloned = clone_template().await;
    // Whatever way a statement is run, and whether it fails at its start or in its middle.
    for failing in
        ["SELECT 1 / 0", "SELECT 1 / (3 - n) FROM generate_series(1, 5) n", "SELECT * FROM tenancy.platform_keys"]
    {
        for way in 0..4 {
            let mut scope = scope(&cloned).await;
            let failed = match way {
                0 => scope.execute(failing).await.is_err(),
                1 => (&mut scope).fetch_optional(failing).await.is_err(),
                2 => (&mut scope).fetch_all(failing).await.is_err(),
                _ => sqlx::query(failing).fetch_all(&mut scope).await.is_err(),
            };
            assert!(failed, "{failing}");
            // A statement after it, whose failure is swallowed as well.
            let _ = (&mut scope).execute("SELECT 1").await;
            assert!(matches!(scope.commit().await, Err(Error::Internal(_))), "{failing}, {way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_statement_fails_the_commit() {
    let cloned = clone_template().await;
    let mut scope = scope(&cloned).await;
    let abandoned =
        tokio::time::timeout(std::time::Duration::from_millis(50), (&mut scope).execute("SELECT pg_sleep(0.2)")).await;
    assert!(abandoned.is_err());
    assert!(matches!(scope.commit().await, Err(Error::Internal(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_scope_commits_and_a_dropped_one_does_not() {
    let cloned = clone_template().await;
    let database = Database::new(options(&cloned), Clock::system());
    let insert = "INSERT INTO tenancy.changes (subject) VALUES ('platform_meters:')";
    for commit in [true, false] {
        let permitted = PermittedPlatform::system("test");
        let mut scope = database.platform(&permitted, Purpose::Changes).await.unwrap();
        (&mut scope).execute(insert).await.unwrap();
        if commit {
            scope.commit().await.unwrap();
        }
    }
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tenancy.changes").fetch_one(&cloned.superuser).await.unwrap();
    assert_eq!(kept, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_leaves_the_outcome_unknown() {
    let cloned = clone_template().await;
    let mut scope = scope(&cloned).await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut scope).await.unwrap();
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&cloned.superuser).await.unwrap();
    let outcome = scope.commit().await;
    assert!(matches!(outcome, Err(Error::Unavailable { reason: "COMMIT_OUTCOME_UNKNOWN", .. })), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_is_what_it_says() {
    let cloned = clone_template().await;
    let mut scope = scope(&cloned).await;
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut scope).await.unwrap();
    assert_eq!(role, "tenancy_app");
    let setting: String =
        sqlx::query_scalar("SELECT current_setting('tenancy.organization_id')").fetch_one(&mut scope).await.unwrap();
    assert_eq!(setting, scope.organization_id().to_string());
}
