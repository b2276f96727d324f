//! `tenancy usage verify`: silent about what is right, also while it changes, and never about what is not.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser as _;
use sqlx::AssertSqlSafe;
use tenancy::cli::usage::UsageCommand;
use tenancy::cli::usage::verify::{self, VerifyError};
use tenancy::cli::{Cli, Command};
use tenancy::model::usage::quarter;
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
const TABLES: [&str; 5] = ["usage_events", "usage_series", "usage_aggregates", "usage_unique_values", "usage_voids"];

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
    let base = quarter(world.clock.now()) - TimeDelta::days(9);
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
    let damages = [
        (
            format!("UPDATE tenancy.usage_aggregates SET event_count = event_count + 1 WHERE {}", whole("count")),
            1,
            format!("acme, count, the whole, {quarter}: expected count=3 sum=8.5, found count=4 sum=8.5\n"),
        ),
        (
            format!("UPDATE tenancy.usage_aggregates SET quantity_sum = quantity_sum - 1 WHERE {}", whole("sum")),
            1,
            "found count=3 sum=7.5\n".into(),
        ),
        (
            format!("UPDATE tenancy.usage_aggregates SET quantity_min = 0 WHERE {}", whole("min")),
            1,
            "expected count=3 sum=8.5 min=0.5, found count=3 sum=8.5 min=0\n".into(),
        ),
        (
            format!("UPDATE tenancy.usage_aggregates SET latest_event_id = {nil} WHERE {}", whole("latest")),
            1,
            "latest=4.5 of 00000000-0000-0000-0000-000000000000\n".into(),
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
            1,
            "expected count=0, found count=1 sum=1\n".into(),
        ),
        (
            format!("INSERT INTO tenancy.usage_aggregates SELECT organization_id, meter_id, series_id,
                 bucket_start + interval '3 years', 1, 1 FROM tenancy.usage_aggregates WHERE {}", whole("sum")),
            1,
            "expected count=0, found count=1 sum=1\n".into(),
        ),
        (
            format!("DELETE FROM tenancy.usage_aggregates WHERE {}", whole("max")),
            1,
            "expected count=3 sum=8.5 max=4.5, found count=0\n".into(),
        ),
        // Without its name, the events of a subject are no longer those of its group.
        (
            format!("DELETE FROM tenancy.usage_series WHERE {} AND subject = 'grace' AND group_values = '{{x}}'", of("max")),
            8,
            "expected a name of the series, found none\n".into(),
        ),
    ];
    for (damage, lines, said) in damages {
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
    let (after, at) = ((base + TimeDelta::minutes(15)).to_rfc3339(), base.to_rfc3339());
    assert_eq!(verify(&world, &["--since", &after]).await.1, 0);
    assert_eq!(verify(&world, &["--until", &at]).await.1, 0);
    assert_eq!(verify(&world, &["--since", &at, "--until", &after, "--organization", "acme"]).await.1, 1);
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
