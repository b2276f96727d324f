//! Questions whose answer would be too large are refused, and say so.

use chrono::{DateTime, TimeDelta, Utc};
use tenancy::model::usage::quarter;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Client, Refused, World, refused};
use crate::usage::support::{create_grouped_meter, create_meter, fold_hours, timestamp};

async fn ask(client: &Client, request: v1::QueryUsageRequest) -> Result<v1::QueryUsageResponse, Refused> {
    match client.usage().query_usage(request).await {
        Ok(reply) => Ok(reply.into_inner()),
        outcome => Err(refused(outcome)),
    }
}

fn query(meter: &str, start: DateTime<Utc>, end: DateTime<Utc>) -> v1::QueryUsageRequest {
    v1::QueryUsageRequest {
        meter: meter.into(),
        start_time: Some(timestamp(start)),
        end_time: Some(timestamp(end)),
        bucket: v1::UsageBucket::Month.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unique_counts_are_exact_up_to_a_million_stored_values() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = &tenant.client;
    let meter = create_meter(client, "users", v1::MeterAggregation::UniqueCount).await;
    let summary = client.usage().get_usage_summary(v1::GetUsageSummaryRequest::default()).await.unwrap().into_inner();
    let month = DateTime::from_timestamp(summary.start_time.unwrap().seconds, 0).unwrap();
    // As if each of 500,001 subjects had been there in each of two quarters of an hour, but for one.
    for statement in [
        "INSERT INTO tenancy.usage_unique_values
         SELECT $1::uuid, $2::uuid, '00000000-0000-0000-0000-000000000000', $3 + n / 500001 * interval '15 minutes',
             lpad((n % 500001)::text, 32, '0')::uuid
         FROM generate_series(0, 1000000) AS n",
        "INSERT INTO tenancy.usage_aggregates
         SELECT $1::uuid, $2::uuid, '00000000-0000-0000-0000-000000000000', $3 + n * interval '15 minutes', 500001, 500001
         FROM generate_series(0, 1) AS n",
    ] {
        let statement = sqlx::query(statement).bind(&tenant.id).bind(&meter.meter_id).bind(month);
        statement.execute(&world.database.superuser).await.unwrap();
    }
    fold_hours(&world.database).await;
    let refusal = ask(client, query("users", month, month + TimeDelta::minutes(30))).await.unwrap_err();
    assert!(refusal.is(Code::FailedPrecondition, "USAGE_RESULT_TOO_LARGE"), "{refusal:?}");
    let exact = ask(client, query("users", month, month + TimeDelta::minutes(15))).await.unwrap();
    assert_eq!(exact.total, "500001");
    let summary = client.usage().get_usage_summary(v1::GetUsageSummaryRequest::default()).await.unwrap().into_inner();
    let found = &summary.meters[0];
    assert_eq!((found.value.as_str(), found.value_missing_reason.as_str()), ("", "USAGE_RESULT_TOO_LARGE"));

    let one_less = "DELETE FROM tenancy.usage_unique_values WHERE value_id = '00000000-0000-0000-0000-000000000000'
                    AND bucket_start = $1";
    sqlx::query(one_less).bind(month).execute(&world.database.superuser).await.unwrap();
    let exact = ask(client, query("users", month, month + TimeDelta::minutes(30))).await.unwrap();
    assert_eq!(exact.total, "500001", "one is still there in the second quarter of an hour");
    let summary = client.usage().get_usage_summary(v1::GetUsageSummaryRequest::default()).await.unwrap().into_inner();
    assert_eq!(summary.meters[0].value, "500001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_at_most_ten_thousand_figures() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let meter = create_grouped_meter(&tenant.client, "calls", v1::MeterAggregation::Count, &["model"]).await;
    let start = quarter(world.clock.now()) - TimeDelta::days(1);
    // Each group has a point and a total, and so has the whole: 4,999 groups fit.
    for (from, to, fits) in [(1, 4999, true), (5000, 5000, false)] {
        for statement in [
            "INSERT INTO tenancy.usage_series
             SELECT $1::uuid, $2::uuid, lpad(n::text, 32, '0')::uuid, '', ARRAY[n::text] FROM generate_series($4, $5) AS n",
            "INSERT INTO tenancy.usage_aggregates
             SELECT $1::uuid, $2::uuid, lpad(n::text, 32, '0')::uuid, $3, 1, 1 FROM generate_series($4, $5) AS n",
        ] {
            let statement = sqlx::query(statement).bind(&tenant.id).bind(&meter.meter_id).bind(start);
            statement.bind(from).bind(to).execute(&world.database.superuser).await.unwrap();
        }
        fold_hours(&world.database).await;
        let request = |group_by: &[&str]| v1::QueryUsageRequest {
            group_by: group_by.iter().map(ToString::to_string).collect(),
            ..query("calls", start, start + TimeDelta::hours(1))
        };
        match ask(&tenant.client, request(&["model"])).await {
            Ok(reply) => assert!(fits && reply.groups.len() == 4999 && reply.total == "4999"),
            Err(refusal) => {
                assert!(!fits && refusal.is(Code::FailedPrecondition, "USAGE_RESULT_TOO_LARGE"), "{refusal:?}");
            }
        }
    }
}
