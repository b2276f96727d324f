//! What the tests of moves share: the two commands, and what is in the tables of an organization.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use sqlx::{AssertSqlSafe, PgPool};
use tenancy::cli::export;
use tenancy::cli::restore::{self, Here, RestoreError};
use tenancy::clock::Clock;
use tenancy::model::portable::Sum;
use tenancy::proto::v1;
use tenancy::repository::database::Database;
use tenancy::repository::portable::LEFT_OUT;
use tenancy::repository::portable::owner::Owner;

use crate::harness::World;

/// The file of an organization.
pub async fn exported(world: &World, id: &str) -> String {
    exported_by(&world.running.database, id).await
}

/// The same by a database of its own.
pub async fn exported_by(database: &Database, id: &str) -> String {
    let mut file = Vec::new();
    export::write(id.parse().unwrap(), database, &Clock::system(), "test", &mut file).await.unwrap();
    String::from_utf8(file).unwrap()
}

/// Restores a file; what the command says.
pub async fn restored(world: &World, file: &str) -> Result<String, RestoreError> {
    restored_as(world, file, TimeDelta::days(90), false).await
}

/// The same, and users are those here who have their addresses.
pub async fn mapped(world: &World, file: &str) -> Result<String, RestoreError> {
    restored_as(world, file, TimeDelta::days(90), true).await
}

/// The same where raw events are kept for another time.
pub async fn kept_for(world: &World, file: &str, retention: TimeDelta) -> Result<String, RestoreError> {
    restored_as(world, file, retention, false).await
}

async fn restored_as(world: &World, file: &str, retention: TimeDelta, map_users: bool) -> Result<String, RestoreError> {
    let owner = Owner::new(&world.database.owner);
    let mut output = Vec::new();
    let here = Here { owner: &owner, retention, map_users };
    let outcome = restore::restore(file.as_bytes(), None, &here, &world.clock, &mut output).await;
    owner.close().await;
    outcome.map(|()| String::from_utf8(output).unwrap())
}

/// The file with its end made anew, as by somebody who means it.
pub fn signed(file: &str) -> String {
    let lines: Vec<&str> = file.lines().collect();
    let (_, lines) = lines.split_last().unwrap();
    let body: String = lines.iter().flat_map(|line| [*line, "\n"]).collect();
    let mut rows = BTreeMap::<String, u64>::new();
    for line in &lines[1..] {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        *rows.entry(line["table"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let mut sum = Sum::default();
    sum.add(&body);
    format!("{body}{}\n", serde_json::json!({"end": true, "rows": rows, "sha256": sum.hex()}))
}

/// The tables with an `organization_id`.
pub async fn tenant_tables(superuser: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped
         WHERE n.nspname = 'tenancy' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1",
    )
    .fetch_all(superuser)
    .await
    .unwrap()
}

/// Every row of an organization as text, by table, without the tables that stay behind.
pub async fn everything(superuser: &PgPool, id: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for table in tenant_tables(superuser).await {
        if LEFT_OUT.iter().all(|(left_out, _)| *left_out != table) {
            let sql = format!("SELECT t::text FROM tenancy.{table} t WHERE organization_id = '{id}' ORDER BY 1");
            all.insert(table, sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(superuser).await.unwrap());
        }
    }
    all
}

/// How many rows there are in all tables of the schema, but the log of changes and the applied migrations.
pub async fn rows(superuser: &PgPool) -> BTreeMap<String, i64> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'tenancy'::regnamespace
         AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    let mut all = BTreeMap::new();
    for table in tables {
        let sql = format!("SELECT count(*) FROM tenancy.{table}");
        let count = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(superuser).await.unwrap();
        all.insert(table, count);
    }
    all
}

/// Creates a platform-wide meter; its id is the installation's own.
pub async fn platform_meter(world: &World, key: &str, aggregation: v1::MeterAggregation) -> String {
    let meter = v1::Meter {
        key: key.into(),
        display_name: key.into(),
        aggregation: aggregation.into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    world.operator().meters().create_meter(request).await.unwrap().into_inner().meter.unwrap().meter_id
}
