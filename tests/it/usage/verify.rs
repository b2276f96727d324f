//! `tenancy usage verify`: silent about what is right, also while it changes, and never about what is not.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser as _;
use sqlx::AssertSqlSafe;
use tenancy::cli::usage::UsageCommand;
use tenancy::cli::usage::verify::{self, VerifyError};
use tenancy::cli::{Cli, Command};
use tenancy::model::usage::{hour, quarter};
use tenancy::proto::v1;

use crate::harness::{Client, World};
use crate::usage::support::{KINDS, create_meters_of_every_kind, drift, event, fates, model, void};

/// What the command says of a world, and how many differences it ended with.
pub async fn verify(world: &World, arguments: &[&str]) -> (String, usize) {
    let cli = Cli::parse_from(["tenancy", "usage", "verify"].iter().chain(arguments));
    let Some(Command::Usage(UsageCommand::Verify(wanted))) = cli.command else { panic!("another command") };
    let mut output = Vec::new();
    let different = match verify::run(&wanted, &world.running.database, &mut output).await {
        Ok(()) => 0,
        Err(VerifyError::Different(differences)) => differences,
        Err(error) => panic!("{error}"),
    };
    (String::from_utf8(output).unwrap(), different)
}

/// Events of every kind in two quarters of an hour, some of them voided; all told 7 × 8, 7 × 2 voided.
async fn load(client: &Client, round: u32, base: DateTime<Utc>) {
    for (kind, _) in KINDS {
        let events = (0..8_u32).map(|number| v1::UsageEvent {
            meter: kind.into(),
            quantity: format!("{}.5", number * 3 % 5),
            subject: if number % 3 == 0 && kind != "unique_count" { "" } else { ["ada", "grace"][number as usize % 2] }
                .into(),
            properties: model(["x", "y"][number as usize / 2 % 2]),
            ..event(&format!("{round} {kind} {number}"), base + TimeDelta::minutes(i64::from(number) * 4))
        });
        assert_eq!(fates(client, events.collect()).await, ["RECORDED"; 8]);
        for number in [2, 7] {
            let at = base + TimeDelta::minutes(number * 4);
            void(client, &format!("{round} {kind} {number}"), at).await.unwrap();
        }
    }
}

/// The tables that the damage is done to.
const TABLES: [&str; 6] =
    ["usage_events", "usage_series", "usage_aggregates", "usage_hours", "usage_unique_values", "usage_voids"];

async fn execute(world: &World, sql: &str) -> u64 {
    let mut changed = 0;
    for statement in sql.split(';') {
        let statement = AssertSqlSafe(statement.to_owned());
        changed = sqlx::query(statement).execute(&world.database.superuser).await.unwrap().rows_affected();
    }
    changed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one entry a sort of damage")]
async fn each_sort_of_damage_is_reported() {
    let world = World::start().await;
    // The two quarters of each round lie in one hour.
    let base = hour(world.clock.now()) - TimeDelta::days(9);
    for slug in ["acme", "other"] {
        let client = world.tenant(slug).await.client;
        create_meters_of_every_kind(&client).await;
        load(&client, 0, base).await;
        load(&client, 1, base + TimeDelta::days(7)).await;
    }
    world.tenant("idle").await;
    assert_eq!(drift(&world.database).await, 0);
    assert_eq!(verify(&world, &[]).await, ("3 organizations, 0 differences\n".into(), 0));
    for table in TABLES {
        execute(&world, &format!("CREATE TABLE public.{table} AS TABLE tenancy.{table}")).await;
    }

    let nil = "'00000000-0000-0000-0000-000000000000'";
    let of = |meter: &str| {
        format!(
            "(organization_id, meter_id) IN (SELECT m.organization_id, m.meter_id FROM tenancy.meters m
             JOIN tenancy.organizations o USING (organization_id) WHERE o.slug = 'acme' AND m.key = '{meter}')"
        )
    };
    let first = format!("bucket_start = '{base}'");
    let whole = |meter: &str| format!("{} AND series_id = {nil} AND {first}", of(meter));
    let quarter = base.format("%Y-%m-%dT%H:%M:%SZ");
    // A quarter that is not what its events add up to is not what its hour has of it either: two lines.
    let damages = [
        (
            format!("UPDATE tenancy.usage_aggregates SET event_count = event_count + 1 WHERE {}", whole("count")),
            2,
            format!("acme, count, the whole, {quarter}: expected count=3 sum=8.5, found count=4 sum=8.5\n"),
        ),
        (
            format!("UPDATE tenancy.usage_aggregates SET event_count = event_count + 1 WHERE {}", whole("count")),
            2,
            format!("acme, count, the whole, the hour of {quarter}: expected count=7 sum=15, found count=6 sum=15\n"),
        ),
        (
            format!("UPDATE tenancy.usage_aggregates SET quantity_sum = quantity_sum - 1 WHERE {}", whole("sum")),
            2,
            "found count=3 sum=7.5\n".into(),
        ),
        (
            format!("UPDATE tenancy.usage_aggregates SET quantity_min = 0 WHERE {}", whole("min")),
            2,
            "expected count=3 sum=8.5 min=0.5, found count=3 sum=8.5 min=0\n".into(),
        ),
        (
            // Not the latest of the hour.
            format!("UPDATE tenancy.usage_aggregates SET latest_event_id = {nil} WHERE {}", whole("latest")),
            1,
            "latest=4.5 of 00000000-0000-0000-0000-000000000000 at ".into(),
        ),
        // The whole, its group, and its subject in the group.
        (
            format!("DELETE FROM tenancy.usage_events WHERE {} AND event_name = '0 sum 1'", of("sum")),
            3,
            "acme, sum, subject \"grace\", groups [\"x\"], ".into(),
        ),
        // An event that counts although it is voided.
        (format!("DELETE FROM tenancy.usage_voids v USING tenancy.usage_events e WHERE v.event_id = e.event_id
             AND v.organization_id = e.organization_id AND e.event_name = '1 avg 7' AND e.{}", of("avg").replacen("(organization_id, meter_id)", "organization_id = v.organization_id AND (e.organization_id, e.meter_id)", 1)), 3, "acme, avg, subject \"grace\", groups [\"y\"], ".into()),
        (
            format!("DELETE FROM tenancy.usage_unique_values WHERE {} AND value_id = (SELECT min(value_id::text)::uuid FROM tenancy.usage_unique_values)", whole("unique_count")),
            1,
            " is there, found value ".into(),
        ),
        (
            format!("INSERT INTO tenancy.usage_unique_values SELECT organization_id, meter_id, series_id, bucket_start, {nil}
                 FROM tenancy.usage_aggregates WHERE {}", whole("unique_count")),
            1,
            format!("expected value {} is not there, found value {} is there\n", nil.replace('\'', ""), nil.replace('\'', "")),
        ),
        // Where there is no event, next to it and where no partition is any more.
        (
            format!("INSERT INTO tenancy.usage_aggregates SELECT organization_id, meter_id, series_id,
                 bucket_start + interval '3 hours', 1, 1 FROM tenancy.usage_aggregates WHERE {}", whole("sum")),
            2,
            "expected count=0, found count=1 sum=1\n".into(),
        ),
        (
            format!("INSERT INTO tenancy.usage_aggregates SELECT organization_id, meter_id, series_id,
                 bucket_start + interval '3 years', 1, 1 FROM tenancy.usage_aggregates WHERE {}", whole("sum")),
            2,
            "expected count=0, found count=1 sum=1\n".into(),
        ),
        (
            format!("DELETE FROM tenancy.usage_aggregates WHERE {}", whole("max")),
            2,
            "expected count=3 sum=8.5 max=4.5, found count=0\n".into(),
        ),
        // Without its name, the events of a subject are no longer those of its group.
        (
            format!("DELETE FROM tenancy.usage_series WHERE {} AND subject = 'grace' AND group_values = '{{x}}'", of("max")),
            8,
            "expected a name of the series, found none\n".into(),
        ),
    ];
    let hours = [
        ("count", "event_count = event_count + 1", "expected count=6 sum=15, found count=7 sum=15\n"),
        ("sum", "quantity_sum = quantity_sum - 1", "expected count=6 sum=15, found count=6 sum=14\n"),
        ("min", "quantity_min = NULL", "expected count=6 sum=15 min=0.5, found count=6 sum=15\n"),
        ("max", "quantity_max = 9", "expected count=6 sum=15 max=4.5, found count=6 sum=15 max=9\n"),
        ("latest", "latest_at = latest_at + interval '1 millisecond'", ":24:00.001Z\n"),
        ("latest", &format!("latest_event_id = {nil}"), " of 00000000-0000-0000-0000-000000000000 at "),
        ("latest", "latest_quantity = 7", "found count=6 sum=15 latest=7 of "),
    ];
    let hours = hours.map(|(meter, change, said)| {
        (format!("UPDATE tenancy.usage_hours SET {change} WHERE {}", whole(meter)), 1, said.to_owned())
    });
    let superfluous = |after: &str| {
        let insert = format!(
            "INSERT INTO tenancy.usage_hours SELECT organization_id, meter_id, series_id, bucket_start + interval '{after}',
                 1, 1 FROM tenancy.usage_hours WHERE {}",
            whole("sum")
        );
        (insert, 1, "expected count=0, found count=1 sum=1\n".to_owned())
    };
    let missing = (
        format!("DELETE FROM tenancy.usage_hours WHERE {}", whole("max")),
        1,
        format!("acme, max, the whole, the hour of {quarter}: expected count=6 sum=15 max=4.5, found count=0\n"),
    );
    let hours = hours.into_iter().chain([superfluous("3 hours"), superfluous("3 years"), missing]);
    for (damage, lines, said) in damages.into_iter().chain(hours) {
        assert_eq!(execute(&world, &damage).await, 1, "{damage}");
        let (output, different) = verify(&world, &[]).await;
        assert!(output.contains(&said), "{damage}\n{output}");
        assert_eq!((different, output.lines().count()), (lines, lines + 1), "{damage}\n{output}");
        assert_eq!(verify(&world, &["--organization", "other", "--organization", "idle"]).await.1, 0, "{damage}");
        for table in TABLES {
            let insert = format!("INSERT INTO tenancy.{table} TABLE public.{table}");
            execute(&world, &format!("TRUNCATE tenancy.{table};{insert}")).await;
        }
    }
    assert_eq!(verify(&world, &[]).await.1, 0, "the tables are as they were");

    execute(&world, &format!("UPDATE tenancy.usage_aggregates SET event_count = 9 WHERE {}", whole("sum"))).await;
    execute(&world, &format!("UPDATE tenancy.usage_hours SET event_count = event_count + 6 WHERE {}", whole("sum")))
        .await;
    let (after, at) = ((base + TimeDelta::minutes(15)).to_rfc3339(), base.to_rfc3339());
    assert_eq!(verify(&world, &["--since", &after]).await.1, 0);
    assert_eq!(verify(&world, &["--until", &at]).await.1, 0);
    assert_eq!(verify(&world, &["--since", &at, "--until", &after, "--organization", "acme"]).await.1, 1);

    // Hours are compared where they lie whole within, also when their raw events are gone.
    execute(&world, &format!("UPDATE tenancy.usage_hours SET event_count = event_count - 1 WHERE {}", whole("sum")))
        .await;
    let end = (base + TimeDelta::hours(1)).to_rfc3339();
    let before_the_end = (base + TimeDelta::minutes(45)).to_rfc3339();
    for (since, until, differences) in [(&at, &end, 2), (&at, &before_the_end, 1), (&after, &end, 0)] {
        assert_eq!(verify(&world, &["--since", since, "--until", until]).await.1, differences, "{since} {until}");
    }
    execute(&world, "SELECT tenancy.drop_usage_partitions('2100-01-01')").await;
    let (output, different) = verify(&world, &["--until", &end]).await;
    assert!(output.contains("aggregates were not recounted") && output.contains("the hour of"), "{output}");
    assert_eq!(different, 1, "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_reported_while_events_come_and_go() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meters_of_every_kind(&tenant.client).await;
    let base = quarter(world.clock.now()) - TimeDelta::hours(2);
    let done = AtomicBool::new(false);
    let producing = async {
        for round in 0..8 {
            load(&tenant.client, round, base).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let verifying = async {
        let mut times = 0;
        while !done.load(Ordering::Relaxed) {
            assert_eq!(verify(&world, &[]).await, ("1 organizations, 0 differences\n".into(), 0));
            times += 1;
        }
        times
    };
    let ((), times) = tokio::join!(producing, verifying);
    assert!(times > 3, "{times}");
    assert_eq!(drift(&world.database).await, 0);
}
