//! `tenancy usage import`: from lines of a file to what is stored, and what is said of the others.

use std::io::Cursor;
use std::time::Duration;

use clap::Parser as _;
use serde_json::{Value, json};
use tenancy::cli::client::Input;
use tenancy::cli::usage::UsageCommand;
use tenancy::cli::usage::import;
use tenancy::cli::{Cli, Command};
use tenancy::proto::v1;

use crate::harness::{World, eventually};
use crate::usage::support::{create_meter, stored};

/// Runs the command; what it wrote, and whether all is well.
async fn imported(world: &World, key: &str, arguments: &[&str], lines: String) -> (String, Result<(), String>) {
    let url = format!("http://{}", world.running.grpc);
    let cli = Cli::parse_from(["tenancy", "usage", "import", "--url", &url].iter().chain(arguments));
    let Some(Command::Usage(UsageCommand::Import(command))) = cli.command else { panic!("another command") };
    let input = Input { bytes: Some(lines.len() as u64), reader: Box::new(Cursor::new(lines)) };
    let mut out = Vec::new();
    let outcome = import::run(&command, key, input, &mut out).await;
    (String::from_utf8(out).unwrap(), outcome.map_err(|error| error.to_string()))
}

/// A line, with changes.
fn line(world: &World, id: &str, changes: &Value) -> String {
    let time = world.clock.now().date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc().to_rfc3339();
    let mut event =
        json!({"specversion": "1.0", "id": id, "source": "/gateway", "type": "calls", "time": time, "quantity": 2});
    for (name, value) in changes.as_object().unwrap() {
        event[name] = value.clone();
    }
    format!("{event}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_has_its_fate() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    let event = |id: &str, changes: Value| line(&world, id, &changes);
    let lines = [
        event("1", json!({})),
        event("2", json!({"quantity": "0.125", "subject": "ida", "data": {"region": "eu"}})),
        "\n".to_owned(),
        event("1", json!({})),
        event("1", json!({"quantity": 3})),
        event("3", json!({"time": null})),
        event("4", json!({"type": "unknown"})),
        "nonsense\n".to_owned(),
        event("1", json!({"source": "/another"})),
        event("5", json!({"quantity": "-1"})),
    ]
    .concat();
    let (told, outcome) = imported(&world, &tenant.key, &[], lines.clone()).await;
    assert_eq!(outcome.unwrap_err(), "5 lines were not recorded");
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told[0], "9 lines: 3 recorded, 1 duplicate, 0 filtered, 1 conflict, 4 rejected");
    assert_eq!(told[1..4], ["  1 INVALID_FIELD", "  2 INVALID_LINE", "  1 METER_NOT_FOUND"]);
    let numbers: Vec<&str> = told[4..].iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(numbers, ["line 5", "line 6", "line 7", "line 8", "line 10"], "{told:?}");
    assert_eq!(stored(&world.database).await, 3);

    // Once more: what is there counts once.
    let good = event("1", json!({})) + &event("6", json!({}));
    let (told, outcome) = imported(&world, &tenant.key, &[], good).await;
    outcome.unwrap();
    assert_eq!(told, "2 lines: 1 recorded, 1 duplicate, 0 filtered, 0 conflict, 0 rejected\n");
    let total: String = sqlx::query_scalar(
        "SELECT sum(quantity_sum)::text FROM tenancy.usage_aggregates
         WHERE series_id = '00000000-0000-0000-0000-000000000000'",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!(total.trim_end_matches('0'), "6.125");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_imports_for_the_organizations_that_lines_name() {
    let world = World::start().await;
    let (one, two) = (world.tenant("one").await, world.tenant("two").await);
    for tenant in [&one, &two] {
        create_meter(&tenant.client, "tokens", v1::MeterAggregation::Sum).await;
    }
    let lines = [
        line(&world, "1", &json!({"organizationid": "one"})),
        line(&world, "1", &json!({"organizationid": two.id})),
        line(&world, "2", &json!({})),
        line(&world, "1", &json!({"organizationid": "nobody"})),
    ]
    .concat();
    let arguments = ["--meter", "tokens", "--organization", "two"];
    let (told, outcome) = imported(&world, world.operator_key(), &arguments, lines).await;
    assert_eq!(outcome.unwrap_err(), "1 line was not recorded");
    assert!(told.starts_with("4 lines: 3 recorded,") && told.contains("line 4: ORGANIZATION_NOT_FOUND"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_told_at_once_and_what_may_is_tried() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    let lines = || (0..10).map(|id| line(&world, &id.to_string(), &json!({}))).collect::<String>();
    let (told, outcome) = imported(&world, "nonsense", &[], lines()).await;
    assert!(outcome.unwrap_err().contains("API key") && told.contains("it ended early"), "{told}");

    // A database that is away for a moment.
    world.database.cut().await;
    let (outcome, ()) = tokio::join!(imported(&world, &tenant.key, &["--patience", "30s"], lines()), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.database.restore().await;
    });
    outcome.1.unwrap();
    assert_eq!(stored(&world.database).await, 10);
    world.database.cut().await;
    eventually("it is away", || async { !world.running.database.is_reachable() }).await;
    let (_, outcome) = imported(&world, &tenant.key, &["--patience", "500ms"], lines()).await;
    assert!(outcome.unwrap_err().starts_with("nothing was acknowledged for 500ms: "));
    world.database.restore().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_imported_whole() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    let lines: String = (0..12_000).map(|id| line(&world, &id.to_string(), &json!({}))).collect();
    let (told, outcome) = imported(&world, &tenant.key, &[], lines).await;
    outcome.unwrap();
    assert!(told.starts_with("12000 lines: 12000 recorded, 0 duplicate"), "{told}");
    assert_eq!(stored(&world.database).await, 12_000);
}
