//! TLS: who is served by it, who is not, and what becomes of certificates that are replaced.

use std::time::Duration;

use tenancy::proto::v1;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{GET, organization};
use crate::harness::certificates::{Authority, Files, client, wire};
use crate::harness::{Tenant, Wire, World, eventually};

/// How long something takes that is done at once, on a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A service by TLS, a tenant of it, and who signed its certificate and those of its clients.
async fn serve() -> (World, Tenant, Files, Authority) {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let authority = Authority::new();
    let files = Files::new(&authority.server(), &authority);
    (files.serve(world.database.clone(), "spiffe://prod/*").await, tenant, files, authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_trusts_the_certificate_is_served() {
    let (world, tenant, _files, authority) = serve().await;
    let trusting = client(world.running.grpc, &authority, None).key(&tenant.key);
    assert_eq!(organization(&trusting).await.organization_id, tenant.id);
    let other = client(world.running.grpc, &Authority::new(), None).key(&tenant.key);
    let request = v1::GetOrganizationRequest::default();
    other.organizations().get_organization(request).await.expect_err("it is not whom the client trusts");
    assert_eq!(organization(&trusting).await.organization_id, tenant.id, "others go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_clear_is_refused_at_once() {
    let (world, tenant, ..) = serve().await;
    let talk = async {
        let wire = Wire::try_connect(world.running.grpc).await?;
        wire.try_call(GET, &[("x-api-key", &tenant.key)], &[]).await
    };
    timeout(AT_ONCE, talk).await.expect("at once").expect_err("it does not speak TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_to_shake_hands_holds_up_nobody() {
    let (world, tenant, _files, authority) = serve().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(world.running.grpc).await.unwrap());
    }
    let client = client(world.running.grpc, &authority, None).key(&tenant.key);
    timeout(AT_ONCE, organization(&client)).await.expect("there is one serving thread, and it serves");
    for mut stream in silent {
        let read = timeout(Duration::from_secs(20), stream.read(&mut [0; 16])).await;
        assert!(matches!(read.expect("it is sent away in the end"), Ok(0) | Err(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_waits_for_no_handshake() {
    let (mut world, tenant, _files, authority) = serve().await;
    let _silent = TcpStream::connect(world.running.grpc).await.unwrap();
    // Accepted after the silent one.
    organization(&client(world.running.grpc, &authority, None).key(&tenant.key)).await;
    world.running.stop();
    timeout(AT_ONCE, world.running.ended()).await.expect("at once").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_without_a_restart() {
    let (world, tenant, files, first) = serve().await;
    let (address, key) = (world.running.grpc, [("x-api-key", tenant.key.as_str())]);
    let get = v1::GetOrganizationRequest::default;
    let old = wire(address, &first, None).await.unwrap();
    old.call(GET, &key, get()).await.outcome.unwrap();

    let second = Authority::new();
    let pair = second.server();
    files.put("certificate.pem", &pair.certificate);
    // Longer than between two looks: what is there now does not fit, and is not served.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let still = wire(address, &first, None).await.expect("the old pair is kept");
    still.call(GET, &key, get()).await.outcome.unwrap();
    assert!(wire(address, &second, None).await.is_err(), "half a pair is not served");

    files.put("key.pem", &pair.key);
    eventually("the new pair is served", || async { wire(address, &second, None).await.is_ok() }).await;
    assert!(wire(address, &first, None).await.is_err(), "the old one is not any more");
    for connection in [old, still] {
        connection.call(GET, &key, get()).await.outcome.expect("old connections go on");
    }
}
