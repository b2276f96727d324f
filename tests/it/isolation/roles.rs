//! I2: the service refuses to run as a role that row level security does not bind.

use sqlx::AssertSqlSafe;
use tenancy::clock::Clock;
use tenancy::repository::database::{Database, DatabaseOptions};
use tenancy::repository::migrate::{Unfit, check_fitness};

use crate::harness::{clone_template, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_bound_role_is_fit() {
    let cloned = clone_template().await;
    let name = cloned.service.get_database().unwrap().to_owned();
    let roles = format!(
        "CREATE ROLE {name}_bypass LOGIN BYPASSRLS PASSWORD 'x'; CREATE ROLE {name}_owner LOGIN PASSWORD 'x'; \
         CREATE ROLE {name}_stranger LOGIN PASSWORD 'x'; GRANT tenancy_owner TO {name}_owner; \
         GRANT tenancy_app, tenancy_ingest, tenancy_platform TO {name}_bypass, {name}_owner"
    );
    sqlx::raw_sql(AssertSqlSafe(roles)).execute(&cloned.superuser).await.unwrap();

    let fitness = async |login: Option<String>| {
        let mut options: DatabaseOptions = options(&cloned);
        match login {
            Some(login) => options.connect = options.connect.username(&login).password("x"),
            None => options.connect = (*cloned.superuser.connect_options()).clone(),
        }
        check_fitness(&Database::new(options, Clock::system())).await
    };
    assert!(matches!(fitness(None).await, Err(Unfit::Role { .. })), "superuser");
    assert!(matches!(fitness(Some(format!("{name}_bypass"))).await, Err(Unfit::Role { .. })), "BYPASSRLS");
    assert!(matches!(fitness(Some(format!("{name}_owner"))).await, Err(Unfit::Role { .. })), "a member of the owner");
    assert!(matches!(fitness(Some(format!("{name}_stranger"))).await, Err(Unfit::Schema(_))), "without the roles");
    check_fitness(&Database::new(options(&cloned), Clock::system())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_across_tenants_can_have_a_login_of_its_own() {
    let cloned = clone_template().await;
    let name = cloned.service.get_database().unwrap().to_owned();
    let roles = format!(
        "CREATE ROLE {name}_main LOGIN NOINHERIT PASSWORD 'x'; GRANT tenancy_app, tenancy_ingest TO {name}_main; \
         CREATE ROLE {name}_platform LOGIN NOINHERIT PASSWORD 'x'; GRANT tenancy_platform TO {name}_platform"
    );
    sqlx::raw_sql(AssertSqlSafe(roles)).execute(&cloned.superuser).await.unwrap();
    let login = |role: &str| cloned.service.clone().username(&format!("{name}_{role}")).password("x");
    let mut options = DatabaseOptions { connect: login("main"), ..options(&cloned) };
    let alone = check_fitness(&Database::new(options.clone(), Clock::system())).await;
    assert!(matches!(alone, Err(Unfit::Schema(_))), "the main login has no part in the platform: {alone:?}");
    options.connect_platform = Some(login("platform"));
    check_fitness(&Database::new(options, Clock::system())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_schema_version_is_unfit() {
    let cloned = clone_template().await;
    sqlx::raw_sql("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)")
        .execute(&cloned.superuser)
        .await
        .unwrap();
    let outcome = check_fitness(&Database::new(options(&cloned), Clock::system())).await;
    assert!(matches!(outcome, Err(Unfit::Schema(_))), "{outcome:?}");
}
