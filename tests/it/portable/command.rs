//! The two commands as they are run: by the real binary, from one database to another, in memory that does not grow with the file.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::task::block_in_place;

use crate::harness::World;
use crate::isolation::cases::Furnished;
use crate::portable::support::{everything, rows};

/// The program, with this database and no other setting.
fn tenancy(arguments: &[&str], variable: &str, login: &PgConnectOptions) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenancy"));
    for (name, _) in std::env::vars() {
        if name == "DATABASE_URL" || name.starts_with("TENANCY_") {
            command.env_remove(name);
        }
    }
    // The tests' Postgres listens on a socket, whose directory no URL has as its host.
    let mut url = login.clone().host("localhost").to_url_lossy();
    url.query_pairs_mut().append_pair("host", login.get_host());
    command.args(arguments).env(variable, url.as_str());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> Output {
    block_in_place(|| command.output()).unwrap()
}

/// The most memory that a process had so far, in KiB.
fn peak(process: &Child) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_goes_from_one_to_the_other() {
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = Furnished::create(&origin, "acme").await.tenant;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("acme.ndjson");
    let file = path.to_str().unwrap();

    let output = run(tenancy(&["export", "nobody", "--output", file], "DATABASE_URL", &origin.database.service));
    assert!(!output.status.success() && !path.exists());
    let export = || tenancy(&["export", "acme", "--output", file], "DATABASE_URL", &origin.database.service);
    let output = run(export());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("rows of acme in "), "{said}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let written = fs::read(&path).unwrap();
    let output = run(export());
    assert!(!output.status.success(), "never over a file");
    assert_eq!(fs::read(&path).unwrap(), written);

    // Not with a login of the service, which may not write all this.
    let before = rows(&destination.database.superuser).await;
    for (variable, login) in
        [("DATABASE_URL", &destination.database.service), ("TENANCY_MIGRATION_URL", &destination.database.service)]
    {
        let output = run(tenancy(&["import", file], variable, login));
        assert!(!output.status.success(), "{output:?}");
    }
    assert_eq!(rows(&destination.database.superuser).await, before);

    let output = run(tenancy(&["import", file], "TENANCY_MIGRATION_URL", &destination.database.owner));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.starts_with("acme is restored\n"), "{said} {:?}", output.stderr);
    let there = everything(&origin.database.superuser, &acme.id).await;
    assert_eq!(there, everything(&destination.database.superuser, &acme.id).await);
    let output = run(tenancy(&["import", file], "TENANCY_MIGRATION_URL", &destination.database.owner));
    assert!(!output.status.success() && String::from_utf8(output.stderr).unwrap().contains("already exists"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_with_the_file() {
    const ROWS: i64 = 30_000;
    const GROWTH: i64 = 24 << 10;
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = origin.tenant("acme").await;
    sqlx::query(
        "INSERT INTO tenancy.audit_events (organization_id, audit_event_id, occur_time, actor_type, actor_id, action,
             resource_type, resource_id, before)
         SELECT $1::uuid, gen_random_uuid(), now(), 'system', 'test', 'x.y', 'x', n::text, jsonb_build_object('x', repeat('x', 1500))
         FROM generate_series(1, $2) AS n",
    )
    .bind(&acme.id)
    .bind(ROWS)
    .execute(&origin.database.superuser)
    .await
    .unwrap();

    let mut export = tenancy(&["export", "acme"], "DATABASE_URL", &origin.database.service).spawn().unwrap();
    let mut output = export.stdout.take().unwrap();
    let mut file = vec![0; 2 << 20];
    block_in_place(|| output.read_exact(&mut file)).unwrap();
    let begun = peak(&export);
    let most = usize::try_from(ROWS).unwrap() * 1_500;
    block_in_place(|| (&mut output).take((most - file.len()) as u64).read_to_end(&mut file)).unwrap();
    let grown = peak(&export) - begun;
    block_in_place(|| output.read_to_end(&mut file)).unwrap();
    assert!(block_in_place(|| export.wait()).unwrap().success());
    assert!(grown < GROWTH, "the export grew by {grown} KiB over {} bytes", file.len());

    let mut import = tenancy(&["import"], "TENANCY_MIGRATION_URL", &destination.database.owner);
    let mut import = import.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    block_in_place(|| input.write_all(&file[..6 << 20])).unwrap();
    let begun = peak(&import);
    block_in_place(|| input.write_all(&file[6 << 20..most])).unwrap();
    let grown = peak(&import) - begun;
    block_in_place(|| input.write_all(&file[most..])).unwrap();
    drop(input);
    let output = block_in_place(|| import.wait_with_output()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(grown < GROWTH, "the import grew by {grown} KiB");
    assert!(String::from_utf8(output.stdout).unwrap().contains("audit_events\n"));
}
