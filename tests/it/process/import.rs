//! An import by the real binary, whose server is killed in the middle.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use tenancy::proto::v1;
use tokio::task::block_in_place;
use tonic::transport::Endpoint;

use super::Place;
use crate::harness::Client;

const LINES: usize = 10_000;

const fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_outlives_its_server() {
    let place = Place::new();
    let key = place.operator_key();
    let server = place.start();
    place.ready().await;
    let client = Client::new(Endpoint::from_shared(format!("http://{}", place.grpc)).unwrap().connect_lazy()).key(&key);
    let organization =
        v1::Organization { slug: "acme".into(), display_name: "Acme".into(), ..v1::Organization::default() };
    let request = v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    let organization_id = client.organizations().create_organization(request).await.unwrap().into_inner();
    let organization_id = organization_id.organization.unwrap().organization_id;
    let meter = v1::Meter {
        organization_id: organization_id.clone(),
        key: "calls".into(),
        display_name: "Calls".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    client.meters().create_meter(request).await.unwrap();

    let key_file = place.directory.path().join("key");
    std::fs::write(&key_file, format!("{key}\n")).unwrap();
    let url = format!("http://{}", place.grpc);
    let mut command = place.command(&["usage", "import", "--url", &url, "--organization", "acme", "--key-file"]);
    command.arg(&key_file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut import = command.spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    let time = chrono::Utc::now();
    let line = |number: usize| {
        let time = time.to_rfc3339();
        format!(r#"{{"specversion":"1.0","id":"{number}","source":"/test","type":"calls","time":"{time}"}}{}"#, "\n")
    };
    let mut server = Some(server);
    for number in 0..LINES {
        block_in_place(|| input.write_all(line(number).as_bytes())).unwrap();
        if number % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Twice, and once while nothing is read any more.
        if number == LINES / 3 || number == LINES / 2 {
            server.take().unwrap().kill();
            server = Some(place.start());
        }
    }
    drop(input);
    let output = block_in_place(|| import.wait_with_output()).unwrap();
    let (told, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{told}{complaints}");
    assert!(told.starts_with(&format!("{LINES} lines: ")) && told.contains(" 0 conflict, 0 rejected"), "{told}");
    assert!(complaints.contains("trying again"), "it was broken off: {complaints}");

    place.ready().await;
    let quarter = time.timestamp() / 900 * 900;
    let request = v1::QueryUsageRequest {
        organization_id,
        meter: "calls".into(),
        start_time: Some(at(quarter)),
        end_time: Some(at(quarter + 900)),
        bucket: v1::UsageBucket::Hour.into(),
        ..Default::default()
    };
    let figures = client.usage().query_usage(request).await.unwrap().into_inner();
    assert_eq!(figures.total, LINES.to_string(), "each line counts once: {told}");
}
