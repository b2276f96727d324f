//! An import of people by the real binary: its server is killed, it is killed itself, it is interrupted, and its input is far
//! larger than its memory.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Output, Stdio};

use nix::sys::signal::Signal;
use tokio::task::block_in_place;
use tonic::transport::Endpoint;

use super::{Place, support};
use crate::harness::{Client, Tenant, eventually};

const MEMBERS: usize = 12_000;

/// A service with an organization, and the key to it in a file.
async fn acme(place: &Place, key: &str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", place.grpc)).unwrap();
    let anonymous = Client::new(endpoint.connect_lazy());
    let operator = anonymous.clone().key(key);
    Tenant::create_by(&operator, &anonymous, "acme").await;
    fs::write(place.directory.path().join("key"), key).unwrap();
    operator
}

fn import(place: &Place, arguments: &[&str]) -> Child {
    let (url, key_file) = (format!("http://{}", place.grpc), place.directory.path().join("key"));
    let mut command = place.command(&["import", "--url", &url, "--key-file", key_file.to_str().unwrap()]);
    command.args(["--organization", "acme"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(import: Child) -> (bool, String, String) {
    let Output { status, stdout, stderr } = block_in_place(|| import.wait_with_output()).unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// How many records of members that were added the audit of the organization has, and of how many different ones.
async fn added(operator: &Client) -> (usize, usize) {
    let mut ids = Vec::new();
    let mut request = tenancy::proto::v1::ListAuditEventsRequest {
        organization_id: "acme".into(),
        filter: "action = \"members.add\"".into(),
        page_size: 1000,
        ..Default::default()
    };
    loop {
        let Ok(reply) = operator.audit().list_audit_events(request.clone()).await else { return (0, 0) };
        let reply = reply.into_inner();
        ids.extend(reply.audit_events.into_iter().map(|event| event.resource_id));
        if reply.next_page_token.is_empty() {
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            return (count, ids.len());
        }
        request.page_token = reply.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_outlives_its_server_and_a_killed_one_is_finished_by_another() {
    let place = Place::new();
    let key = place.operator_key();
    let mut server = place.start();
    place.ready().await;
    let operator = acme(&place, &key).await;
    let rows: Vec<String> = (0..MEMBERS).map(|number| format!("u{number}@example.com,member\n")).collect();
    let file = place.directory.path().join("people.csv");
    fs::write(&file, format!("email,role\n{}", rows.concat())).unwrap();
    let arguments = [file.to_str().unwrap(), "--type", "member", "--create-users"];

    // Killed where it stands, and an interrupted one says where that is.
    let mut first = import(&place, &arguments);
    eventually("some are there", || async { added(&operator).await.0 > 500 }).await;
    first.kill().unwrap();
    first.wait().unwrap();
    let known = added(&operator).await.0;
    let second = import(&place, &arguments);
    eventually("some more are there", || async { added(&operator).await.0 > known + 500 }).await;
    support::send(second.id(), Signal::SIGINT);
    let (is_good, told, complaints) = ended(second);
    assert!(!is_good && complaints.contains("interrupted"), "{told}{complaints}");
    let (_, from) = complaints.trim().rsplit_once("continue with --from-line ").expect(&complaints);

    let third = import(&place, &[&arguments[..], &["--from-line", from]].concat());
    let known = added(&operator).await.0;
    assert!(known < MEMBERS, "there is something left to do");
    server.kill();
    server = place.start();
    let (is_good, told, complaints) = ended(third);
    assert!(is_good, "{told}{complaints}");
    assert!(complaints.contains("trying again") && told.contains(" 0 refused"), "{told}{complaints}");
    place.ready().await;
    assert_eq!(added(&operator).await, (MEMBERS, MEMBERS), "all of them, each once");

    let (is_good, told, complaints) = ended(import(&place, &arguments));
    assert!(
        is_good && told.starts_with(&format!("{MEMBERS} rows: 0 created, {MEMBERS} unchanged")),
        "{told}{complaints}"
    );
    server.send(Signal::SIGTERM);
    assert_eq!(server.ended().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_an_import_is_bounded() {
    let place = Place::new();
    let key = place.operator_key();
    let _server = place.start();
    place.ready().await;
    acme(&place, &key).await;
    let mut running = import(&place, &["--type", "member"]);
    let mut input = running.stdin.take().unwrap();
    // 440 MB: lines without an end, quotes that are not closed, and rows that are refused.
    let long = vec![b'x'; 10 << 20];
    let rows = "no address,viewer\n".repeat(10_000);
    block_in_place(|| {
        input.write_all(b"email,role\n").unwrap();
        for _ in 0..20 {
            input.write_all(&long).unwrap();
        }
        input.write_all(b"\n").unwrap();
        for _ in 0..12 {
            input.write_all(&long).unwrap();
            input.write_all(b"\n\"").unwrap();
            input.write_all(&long).unwrap();
            input.write_all(b"\n").unwrap();
            input.write_all(rows.as_bytes()).unwrap();
        }
    });
    let status = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    drop(input);
    let (is_good, told, complaints) = ended(running);
    assert!(!is_good && told.starts_with("120025 rows: 0 created, 0 unchanged, 120025 refused"), "{told}{complaints}");
    assert!(told.contains("  25 INVALID_ROW\n") && told.contains("and 120005 more"), "{told}");
    assert!(peak.parse::<u64>().unwrap() < 100 << 10, "{peak} kB");
}
