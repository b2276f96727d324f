//! Connections: broken off, too old, and drained.

use std::error::Error as _;
use std::time::Duration;

use tenancy::proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{UPDATE, audited, rename};
use crate::harness::{Lock, Tenant, Wire, World, admin, eventually, waiting};

/// How a client goes away.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Leaves {
    /// It resets its stream.
    Cancels,
    /// It dies.
    BreaksOff,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_leaves_nothing_behind() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let superuser = &world.database.superuser;
    let user = v1::User { email: "ida@example.com".into(), display_name: "Ida".into(), ..v1::User::default() };
    let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
    let user = world.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap();
    for leaves in [Leaves::Cancels, Leaves::BreaksOff] {
        let audit = audited(&world).await;
        let lock = Lock::user(superuser, &user.user_id).await;
        let wire = Wire::connect(world.running.grpc).await;
        let request =
            v1::AddMemberRequest { user_id: user.user_id.clone(), role: "viewer".into(), ..Default::default() };
        // It holds the lock of the organization when it comes to the user.
        let headers = [("x-api-key", tenant.key.as_str()), ("grpc-timeout", "3S")];
        let call = wire.call("/tenancy.v1.MemberService/AddMember", &headers, request);
        tokio::select! {
            reply = call => panic!("answered: {reply:?}"),
            () = waiting(superuser, 1) => {}
        }
        if leaves == Leaves::BreaksOff {
            wire.break_off();
        }
        // The organization's lock is freed, although the user's row is still held: others go on.
        tenant.client.organizations().update_organization(rename()).await.unwrap();
        waiting(superuser, 0).await;
        lock.free().await;
        let members = tenant.client.members().list_members(v1::ListMembersRequest::default()).await.unwrap();
        assert!(members.into_inner().members.is_empty(), "{leaves:?}");
        assert_eq!(audited(&world).await, audit + 1, "{leaves:?}: the rename and nothing else");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_is_replaced_and_no_call_fails() {
    let (world, tenant) = ageing("200ms").await;
    let replaced = async {
        for _ in 0..5 {
            let wire = Wire::connect(world.running.grpc).await;
            wire.closed().await.expect("it is closed properly, after a GOAWAY");
        }
    };
    let calls = async {
        loop {
            let request = v1::GetOrganizationRequest::default();
            match world.client(&tenant.key).organizations().get_organization(request).await {
                Ok(_) => {}
                // Others repeat such a call by themselves, as gRPC wants it; tonic leaves that to its caller.
                Err(status) if never_sent(&status) => {}
                Err(status) => panic!("a call that was sent failed: {status:?}"),
            }
        }
    };
    tokio::select! {
        () = replaced => {}
        () = calls => {}
        () = tokio::time::sleep(Duration::from_mins(1)) => panic!("connections do not grow old"),
    }
}

/// A replica whose connections grow old, and a tenant that was created over another's: the calls that create it must not
/// meet a GOAWAY.
async fn ageing(age: &str) -> (World, Tenant) {
    let young = World::start().await;
    let tenant = young.tenant("acme").await;
    (World::on(young.database.clone(), &["--connection-age", age]).await, tenant)
}

/// Whether hyper's client had taken the call and not sent it when the GOAWAY came: before it gave it to h2, or when h2, on
/// another thread, had read the GOAWAY a moment before and took nothing more. One that was sent and is beyond the last stream
/// of a GOAWAY looks as the latter; that there is none is for the test after this one.
fn never_sent(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let is_past_the_end =
            |error: &h2::Error| error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || error.downcast_ref::<h2::Error>().is_some_and(is_past_the_end)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The first GOAWAY names the last stream that there can be, so that what is on its way is taken; see RFC 9113, 6.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_connection_is_announced_first() {
    const GOAWAY: u8 = 7;
    let (world, _) = ageing("50ms").await;
    let mut stream = TcpStream::connect(world.running.grpc).await.unwrap();
    // And empty settings.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    loop {
        let mut head = [0; 9];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut head)).await;
        read.expect("it ends").expect("it is not closed without a GOAWAY");
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut body).await.unwrap();
        if head[3] == GOAWAY {
            assert_eq!(body[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], "the last stream, and no error");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_outlives_its_connections_age() {
    let (world, tenant) = ageing("50ms").await;
    let lock = Lock::organization(&world.database.superuser, &tenant.id).await;
    let wire = Wire::connect(world.running.grpc).await;
    let headers = [("x-api-key", tenant.key.as_str())];
    let mut call = Box::pin(wire.call(UPDATE, &headers, rename()));
    tokio::select! {
        reply = &mut call => panic!("answered: {reply:?}"),
        // A connection that was made later is gone already.
        () = async { Wire::connect(world.running.grpc).await.closed().await.unwrap() } => {}
    }
    lock.free().await;
    (&mut call).await.outcome.unwrap();
    drop(call);
    wire.closed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_lets_requests_end_and_no_new_ones_in() {
    let mut world = World::start().await;
    let tenant = world.tenant("acme").await;
    let lock = Lock::organization(&world.database.superuser, &tenant.id).await;
    let idle = Wire::connect(world.running.grpc).await;
    let blocked = tokio::spawn({
        let client = tenant.client.clone();
        async move { client.organizations().update_organization(rename()).await }
    });
    waiting(&world.database.superuser, 1).await;

    world.running.stop();
    let (grpc, port) = (world.running.grpc, world.running.admin);
    eventually("/readyz says draining", || async { admin(port, "/readyz").await == (503, "draining\n".into()) }).await;
    assert_eq!(admin(port, "/livez").await.0, 200);
    eventually("new connections are refused", || async { TcpStream::connect(grpc).await.is_err() }).await;
    idle.closed().await.unwrap();
    assert!(!blocked.is_finished());

    lock.free().await;
    let renamed = blocked.await.unwrap().unwrap().into_inner().organization.unwrap();
    assert_eq!(renamed.display_name, "Renamed");
    world.running.ended().await.unwrap();
    assert!(TcpStream::connect(port).await.is_err());
    let stored: String =
        sqlx::query_scalar("SELECT display_name FROM tenancy.organizations WHERE organization_id = $1::text::uuid")
            .bind(&tenant.id)
            .fetch_one(&world.database.superuser)
            .await
            .unwrap();
    assert_eq!(stored, "Renamed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_end_is_cut_off_after_the_grace() {
    let mut world = World::start_with(&["--shutdown-grace", "200ms"]).await;
    let tenant = world.tenant("acme").await;
    let lock = Lock::organization(&world.database.superuser, &tenant.id).await;
    let blocked = tokio::spawn({
        let client = tenant.client.clone().header("grpc-timeout", "2S");
        async move { client.organizations().update_organization(rename()).await }
    });
    waiting(&world.database.superuser, 1).await;
    world.running.stop();
    blocked.await.unwrap().unwrap_err();
    world.running.ended().await.unwrap();
    lock.free().await;
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.organizations WHERE display_name = 'Renamed'")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(stored, 0);
}
