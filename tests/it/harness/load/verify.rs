//! What is really there, against what was acknowledged.

use std::collections::BTreeMap;

use sqlx::PgPool;

use super::Ledger;

/// Fails unless every acknowledged write is there exactly once, and nothing else is; `organization_id` is the target's.
/// To be called when every writer has been acknowledged its last write.
pub async fn verify(superuser: &PgPool, organization_id: &str, ledger: Ledger) {
    println!(
        "acknowledged: {} organizations, {} members, {} events",
        ledger.organizations.len(),
        ledger.members.len(),
        ledger.events.len()
    );
    let mut organizations = ledger.organizations;
    organizations.sort();
    let stored: Vec<(String, String)> = sqlx::query_as(
        r#"SELECT slug, organization_id::text FROM tenancy.organizations WHERE slug LIKE 'load-%' ORDER BY slug COLLATE "C""#,
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    assert_eq!(stored, organizations, "organizations");

    let mut members = ledger.members;
    members.sort();
    for sql in [
        "SELECT user_id::text FROM tenancy.members WHERE organization_id = $1::text::uuid ORDER BY 1",
        "SELECT user_id::text FROM tenancy.users WHERE email LIKE 'load-%' AND $1 IS NOT NULL ORDER BY 1",
        // Written in the same transaction, so as many.
        "SELECT split_part(resource_id, '/', 1) FROM tenancy.audit_events
         WHERE organization_id = $1::text::uuid AND resource_type = 'member' ORDER BY 1",
    ] {
        let stored: Vec<String> = sqlx::query_scalar(sql).bind(organization_id).fetch_all(superuser).await.unwrap();
        assert_eq!(stored, members, "{sql}");
    }

    let events: BTreeMap<String, (i64, String)> = ledger
        .events
        .into_iter()
        .map(|(id, quantity, subject)| (id.to_string(), (i64::from(quantity), subject)))
        .collect();
    let stored: Vec<(String, i64, String)> = sqlx::query_as(
        "SELECT event_id::text, quantity::bigint, subject FROM tenancy.usage_events
         WHERE organization_id = $1::text::uuid",
    )
    .bind(organization_id)
    .fetch_all(superuser)
    .await
    .unwrap();
    assert_eq!(stored.len(), events.len(), "each event once");
    let stored: BTreeMap<_, _> = stored.into_iter().map(|(id, quantity, subject)| (id, (quantity, subject))).collect();
    assert_eq!(stored, events);
    recount(superuser, organization_id).await;
}

/// Fails unless the aggregates are what the events add up to, by the quarter of an hour and by the hour: of the whole meter,
/// and of the subjects together.
async fn recount(superuser: &PgPool, organization_id: &str) {
    let nil = "00000000-0000-0000-0000-000000000000";
    let buckets = [("usage_aggregates", "15 minutes"), ("usage_hours", "1 hour")];
    let series = [("=", "true"), ("<>", "subject <> ''")];
    for ((table, width), (series, subjects)) in buckets.into_iter().flat_map(|of| series.map(|series| (of, series))) {
        let sql = format!(
            "WITH counted AS (
                 SELECT meter_id, date_bin('{width}', occurred_at, 'epoch') AS bucket, count(*) AS n, sum(quantity) AS q
                 FROM tenancy.usage_events WHERE organization_id = $1::text::uuid AND {subjects} GROUP BY 1, 2),
             kept AS (
                 SELECT meter_id, bucket_start AS bucket, sum(event_count) AS n, sum(quantity_sum) AS q
                 FROM tenancy.{table}
                 WHERE organization_id = $1::text::uuid AND series_id {series} '{nil}' GROUP BY 1, 2)
             SELECT concat_ws(' ', bucket, counted.n, counted.q, kept.n, kept.q)
             FROM counted FULL JOIN kept USING (meter_id, bucket)
             WHERE counted.n IS DISTINCT FROM kept.n OR counted.q IS DISTINCT FROM kept.q"
        );
        let wrong: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(organization_id).fetch_all(superuser).await.unwrap();
        assert!(wrong.is_empty(), "{table} is not what the events add up to: {wrong:?}");
    }
}
