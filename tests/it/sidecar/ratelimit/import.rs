//! `tenancy ratelimit import`: from files of envoyproxy/ratelimit to decisions.

use std::path::Path;

use clap::Parser as _;
use tenancy::cli::ratelimit::RatelimitCommand;
use tenancy::cli::ratelimit::import;
use tenancy::cli::{Cli, Command};

use super::support::{create, daily, descriptor, domain, exhaust, get, one, sidecar, taking};
use crate::harness::World;
use crate::quota::asks::{limited, monthly};

/// As somebody has it who runs envoyproxy/ratelimit, with a rule of ours at the end.
const CONFIG: &str = r#"
# The edge of the shop.
domain: edge
descriptors:
  # Everybody, by address; known scanners not at all, and our own monitoring as it likes.
  - key: remote_address
    rate_limit: &slow
      unit: minute
      requests_per_unit: 5
  - key: remote_address
    value: 50.0.0.5
    rate_limit:
      unit: Second
      requests_per_unit: 0
  - key: remote_address
    value: 10.0.*
    rate_limit: {unlimited: true}
  - key: path
    value: "/checkout/*"
    detailed_metric: true
    descriptors:
      - key: method
        value: POST
        rate_limit: {name: checkout, unit: HOUR, requests_per_unit: 3}
      - key: method
        shadow_mode: true
        rate_limit: {unit: DAY, requests_per_unit: 1}
  - key: generic_key
    value: everything
    rate_limit:
      name: everything
      unit: DAY
      requests_per_unit: 2
  - key: generic_key
    value: bulk
    rate_limit:
      name: bulk
      replaces: [{name: everything}]
      unit: WEEK
      requests_per_unit: 4
  - key: api_version
    value: 2
    rate_limit: *slow
  - key: tenant
    rate_limit: {meter: calls}
  - key: org
    descriptors:
      - key: path
        rate_limit: {meter: calls, tenant_key: org, name: plan}
"#;

/// Runs the command; what it wrote, and whether all is well.
async fn imported(world: &World, arguments: &[&str], files: &[&Path]) -> (String, Result<(), String>) {
    let url = format!("http://{}", world.running.grpc);
    let files = files.iter().map(|file| file.to_str().unwrap());
    let all =
        ["tenancy", "ratelimit", "import", "--url", &url].into_iter().chain(arguments.iter().copied()).chain(files);
    let Some(Command::Ratelimit(RatelimitCommand::Import(command))) = Cli::parse_from(all).command else {
        panic!("another command")
    };
    let mut out = Vec::new();
    let outcome = import::run(&command, world.operator_key(), &mut out).await;
    (String::from_utf8(out).unwrap(), outcome.map_err(|error| error.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_taken_over_as_it_is() {
    let world = World::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("edge.yaml");
    std::fs::write(&file, CONFIG).unwrap();

    let (told, outcome) = imported(&world, &["--dry-run"], &[&file]).await;
    outcome.unwrap();
    assert!(told.contains("domain edge: would be created, 12 rules\n"), "{told}");
    assert!(get(&world.operator(), "edge").await.is_err(), "nothing is done");
    let (told, outcome) = imported(&world, &[], &[&file]).await;
    outcome.unwrap();
    for expected in ["domain edge: created, 12 rules\n", "every second or minute", "in UTC", "detailed_metric"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let first = get(&world.operator(), "edge").await.unwrap();
    for arguments in [&[][..], &["--replace"], &["--dry-run"]] {
        let (told, outcome) = imported(&world, arguments, &[&file]).await;
        outcome.unwrap();
        assert!(told.contains("domain edge: unchanged, 12 rules\n"), "{told}");
    }
    assert_eq!(get(&world.operator(), "edge").await.unwrap(), first);

    let tenant = limited(&world, [monthly(6)]).await;
    let sidecar = sidecar(&world).await;
    let count = async |entries: &[(&str, &str)]| exhaust(&sidecar, entries).await;
    assert_eq!(count(&[("remote_address", "1.2.3.4")]).await, 5);
    assert_eq!(count(&[("remote_address", "50.0.0.5")]).await, 0);
    assert!(one(&sidecar, taking(&[("remote_address", "10.0.7.7")], 1_000)).await.0);
    assert_eq!(count(&[("path", "/checkout/pay"), ("method", "POST")]).await, 3);
    assert!(one(&sidecar, taking(&[("path", "/checkout/pay"), ("method", "GET")], 9)).await.0, "shadow mode");
    assert_eq!(count(&[("generic_key", "everything")]).await, 2);
    assert_eq!(count(&[("api_version", "2")]).await, 5);
    assert_eq!(count(&[("tenant", &tenant.slug)]).await, 6);
    assert!(!one(&sidecar, descriptor(&[("org", &tenant.slug), ("path", "/")])).await.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_done_for_any_file_unless_all_are_good() {
    let world = World::start().await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good =
        write("good.yaml", "domain: good\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}]\n");
    let unknown = write("unknown.yaml", "domain: bad\ndescriptors:\n  - key: a\n    sleep_on_throttle: true\n");
    let year = write(
        "year.yaml",
        "domain: bad\ndescriptors:\n  - key: a\n    rate_limit: {unit: year, requests_per_unit: 1}\n",
    );
    let twice = write("twice.yaml", "domain: bad\ndescriptors:\n  - key: a\n  - key: a\n");
    let same = write("same.yaml", "domain: good\n");
    let missing = directory.path().join("missing.yaml");
    for (file, expected) in [
        (&unknown, &["unknown.yaml", "sleep_on_throttle", "4"][..]),
        (&year, &["year.yaml", "year is not supported", "4"]),
        (&twice, &["twice.yaml", "rules[1]"]),
        (&same, &["same.yaml", "good"]),
        (&missing, &["missing.yaml"]),
    ] {
        let (told, outcome) = imported(&world, &[], &[&good, file]).await;
        let error = outcome.unwrap_err();
        assert!(told.is_empty() && expected.iter().all(|part| error.contains(part)), "{expected:?}: {error}");
    }
    assert!(get(&world.operator(), "good").await.is_err());

    create(&world.operator(), domain("good", vec![daily("b", "", 2)])).await.unwrap();
    let (_, outcome) = imported(&world, &[], &[&good]).await;
    assert!(outcome.unwrap_err().contains("--replace"));
    let (told, outcome) = imported(&world, &["--replace", "--dry-run"], &[&good]).await;
    outcome.unwrap();
    assert!(told.contains("would be replaced, 1 rule\n"), "{told}");
    assert_eq!(get(&world.operator(), "good").await.unwrap().rules, [daily("b", "", 2)]);
    let (told, outcome) = imported(&world, &["--replace"], &[&good]).await;
    outcome.unwrap();
    assert!(told.contains("domain good: replaced, 1 rule\n"), "{told}");
    assert_eq!(get(&world.operator(), "good").await.unwrap().rules, [daily("a", "", 1)]);
    let tenant = world.tenant("acme").await;
    let command = import::Import {
        files: vec![good],
        url: format!("http://{}", world.running.grpc),
        key_file: None,
        replace: true,
        dry_run: false,
    };
    let refused = import::run(&command, &tenant.key, &mut Vec::new()).await.unwrap_err().to_string();
    assert!(refused.contains("PermissionDenied"), "{refused}");
}
