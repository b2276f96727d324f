//! Every tenant table, found in the catalog, with each of the four verbs: in B's scope, A's rows are neither seen nor
//! changed, and none can be slipped in for A.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, PgPool};

use crate::harness::{Tenant, World};
use crate::isolation::cases::Furnished;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_verb_reaches_another_tenants_rows() {
    let world = World::start().await;
    let victim = Furnished::create(&world, "victim").await;
    let attacker = Furnished::create(&world, "attacker").await.tenant;
    let superuser = &world.database.superuser;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id'
         WHERE n.nspname = 'tenancy' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    assert!(tables.len() >= 15, "{tables:?}");

    for table in &tables {
        let before = rows(superuser, table, &victim.tenant).await;
        assert!(!before.is_empty(), "{table}: the victim has no row here, so this would prove nothing");
        // Postgres refuses a value for a generated column before it looks at who gives it.
        let columns: String = sqlx::query_scalar(
            "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
             WHERE attrelid = ('tenancy.' || $1)::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        )
        .bind(table)
        .fetch_one(superuser)
        .await
        .unwrap();
        for scope in scopes(&attacker) {
            attack(&world, &scope, (table, &columns), &attacker, &victim.tenant).await;
        }
        let after = rows(superuser, table, &victim.tenant).await;
        assert_eq!(before, after, "{table}");
    }
}

/// The victim's rows as they are, each as text.
async fn rows(superuser: &PgPool, table: &str, tenant: &Tenant) -> Vec<String> {
    let sql = format!("SELECT t::text FROM tenancy.{table} t WHERE organization_id = '{}' ORDER BY 1", tenant.id);
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(superuser).await.unwrap()
}

/// How scopes begin that are the attacker's, and some that nobody opens.
fn scopes(attacker: &Tenant) -> Vec<String> {
    let begin = |role: &str, settings: &[String]| {
        let settings: Vec<_> =
            settings.iter().map(|name| format!("; SET LOCAL tenancy.{name} = '{}'", attacker.id)).collect();
        format!("BEGIN; SET LOCAL ROLE {role}{}", settings.concat())
    };
    let lists: Vec<String> = "0123456789abcdef".chars().map(|digit| format!("ingest_organizations_{digit}")).collect();
    let own: Vec<String> =
        lists.iter().filter(|list| list.chars().last() == attacker.id.chars().last()).cloned().collect();
    assert_eq!(own.len(), 1);
    vec![
        begin("tenancy_app", &["organization_id".into()]),
        begin("tenancy_app", &[]),
        begin("tenancy_ingest", &own),
        begin("tenancy_ingest", &lists),
        begin("tenancy_ingest", &[]),
    ]
}

async fn attack(world: &World, begin: &str, (table, columns): (&str, &str), attacker: &Tenant, victim: &Tenant) {
    let mut connection = PgConnection::connect_with(&world.database.service).await.unwrap();
    for attack in [
        // Named, and not named at all: a statement without a condition is the commonest mistake.
        format!("SELECT count(*) FROM tenancy.{table} WHERE organization_id = '{}'", victim.id),
        format!("SELECT count(*) FROM tenancy.{table} WHERE organization_id <> '{}'", attacker.id),
        format!("UPDATE tenancy.{table} SET organization_id = organization_id WHERE organization_id = '{}'", victim.id),
        format!("UPDATE tenancy.{table} SET organization_id = '{}'", victim.id),
        format!("DELETE FROM tenancy.{table} WHERE organization_id = '{}'", victim.id),
        format!(
            "INSERT INTO tenancy.{table} ({columns}) SELECT {columns} FROM (SELECT (jsonb_populate_record(t, \
             '{{\"organization_id\": \"{}\"}}')).* FROM tenancy.{table} t) AS slipped",
            victim.id
        ),
    ] {
        sqlx::raw_sql(AssertSqlSafe(begin.to_owned())).execute(&mut connection).await.unwrap();
        match sqlx::raw_sql(AssertSqlSafe(attack.clone())).fetch_all(&mut connection).await {
            Ok(rows) => {
                use sqlx::Row as _;
                let seen: i64 = rows.first().map_or(0, |row| row.try_get(0).unwrap_or(0));
                assert_eq!(seen, 0, "{begin}: {attack}");
            }
            // Refused for want of the grant, or by the policy's check.
            Err(error) => {
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(String::from);
                assert_eq!(code.as_deref(), Some("42501"), "{begin}: {attack}: {error}");
            }
        }
        // Kept, if it did anything: the rows are compared afterwards.
        sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}
