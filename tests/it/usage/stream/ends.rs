//! What ends a stream: its producer's faults, a key that is no longer good, a database that is away, an old connection, a
//! replica that stops.

use std::time::Duration;

use tenancy::proto::v1;
use tokio::time::Instant;
use tonic::Code;

use super::{Producer, prepared};
use crate::harness::keys::{create, revoke, seconds_from_now, secret_key};
use crate::harness::{Client, Tenant, World, eventually, raw, refused, waiting};
use crate::usage::support::{create_meter, events, stored};

const STREAM: &str = "/tenancy.v1.UsageService/StreamUsage";
/// The promise is a second; this machine may be busy. Far below the lifetime of what is believed.
const SOON: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_ends_the_stream_and_what_came_before_is_acknowledged() {
    let world = World::start().await;
    let client = prepared(&world).await;
    let now = world.clock.now();
    let mut large = events("large", 900, now);
    for event in &mut large {
        let text = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("x".repeat(5000))) };
        event.properties = Some(prost_types::Struct { fields: [("text".to_owned(), text)].into() });
    }
    let bad = [
        (2, events("same", 1, now), Code::InvalidArgument, "INVALID_FIELD"),
        (-1, events("back", 1, now), Code::InvalidArgument, "INVALID_FIELD"),
        (3, Vec::new(), Code::InvalidArgument, "INVALID_FIELD"),
        (3, events("many", 5001, now), Code::InvalidArgument, "INVALID_FIELD"),
        (3, large, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
    ];
    for (number, (sequence, batch, code, reason)) in bad.into_iter().enumerate() {
        let mut producer = Producer::open(&client).await.unwrap();
        producer.send(1, events(&format!("{number}.1"), 2, now)).await;
        producer.send(2, events(&format!("{number}.2"), 2, now)).await;
        producer.send(sequence, batch).await;
        producer.send(9, events(&format!("{number}.9"), 2, now)).await;
        for good in [1, 2] {
            assert_eq!(producer.acknowledgement().await.unwrap().unwrap().0, good);
        }
        let refusal = refused(producer.acknowledgement().await);
        assert!(refusal.is(code, reason), "{number}: {refusal:?}");
        if reason == "INVALID_FIELD" {
            assert_eq!(refusal.fields, [if sequence == 3 { "events" } else { "sequence" }]);
        }
    }
    assert_eq!(stored(&world.database).await, 5 * 4, "nothing of a bad message or after it");
    let refusal = refused(raw(&client, STREAM, b"\xff\xff".to_vec()).await);
    assert!(refusal.is(Code::InvalidArgument, "MALFORMED_MESSAGE"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_ends_it_with_that() {
    let world = World::start().await;
    let client = prepared(&world).await;
    let now = world.clock.now();
    let mut producer = Producer::open(&client).await.unwrap();
    producer.send(1, events("a", 3, now)).await;
    eventually("it is stored", || async { stored(&world.database).await == 3 }).await;
    world.database.cut().await;
    let mut sequence = 2;
    while producer.send(sequence, events(&format!("b{sequence}"), 1, now)).await && sequence < 200 {
        sequence += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(producer.acknowledgement().await.unwrap(), Some((1, vec!["RECORDED".to_owned(); 3])));
    let refusal = refused(producer.end().await);
    assert!(refusal.code == Code::Unavailable && refusal.retry, "{refusal:?}");
    world.database.restore().await;
    let again = async || {
        let mut producer = Producer::open(&client).await.ok()?;
        producer.send(1, events("a", 3, now)).await;
        producer.acknowledgement().await.ok()?
    };
    eventually("it is back", || async { again().await.is_some() }).await;
    assert_eq!(again().await, Some((1, vec!["DUPLICATE".to_owned(); 3])));
}

/// Two replicas on one database, and a tenant with a meter.
async fn replicas() -> (World, World, Tenant) {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let tenant = one.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    (one, two, tenant)
}

/// A stream on each replica that has recorded something; then `change`, which ends both: the idle one, and the one on
/// which messages come.
async fn ended_by(worlds: [&World; 2], key: &str, acting: Option<&str>, change: impl AsyncFnOnce(), reason: &str) {
    let mut producers = Vec::new();
    for world in worlds {
        let client = world.client(key);
        let client = if let Some(user) = acting { client.acting(user) } else { client };
        for _ in 0..2 {
            let mut producer = Producer::open(&client).await.unwrap();
            producer.send(0, events(reason, 1, world.clock.now())).await;
            producer.acknowledgement().await.unwrap().unwrap();
            producers.push(producer);
        }
    }
    change().await;
    let changed = Instant::now();
    let ends = producers.into_iter().enumerate().map(async |(number, mut producer)| {
        let refusal = if number % 2 == 0 {
            refused(producer.end().await)
        } else {
            let mut sequence = 1;
            loop {
                producer.send(sequence, events(&format!("{reason}{number}"), 1, worlds[0].clock.now())).await;
                match producer.acknowledgement().await {
                    Ok(_) => sequence += 1,
                    Err(status) => break refused(Err::<(), _>(status)),
                }
            }
        };
        assert_eq!(refusal.reason, reason, "{number}: {refusal:?}");
        assert!(changed.elapsed() < SOON, "{reason}, {number}: only after {:?}", changed.elapsed());
    });
    futures_util::future::join_all(ends).await;
    println!("I8: {reason}: all streams ended {:.1?} after the change", changed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_any_more_is_cut_off_on_every_replica() {
    let (one, two, tenant) = replicas().await;
    let worlds = [&one, &two];
    let new_key = async || create(&tenant.client, secret_key(&["usage.write", "users.act_as"])).await.unwrap();

    let (key, secret) = new_key().await;
    let change = async || drop(revoke(&tenant.client, &key.api_key_id).await.unwrap());
    ended_by(worlds, &secret, None, change, "API_KEY_REVOKED").await;

    let user = tenant.member(&one, "ida", "member").await;
    let (_, secret) = new_key().await;
    let request = v1::RemoveMemberRequest { user_id: user.clone(), ..Default::default() };
    let change = async || drop(tenant.client.members().remove_member(request).await.unwrap());
    ended_by(worlds, &secret, Some(&user), change, "NOT_A_MEMBER").await;

    let expiring = v1::ApiKey { expire_time: Some(seconds_from_now(&one, 3600)), ..secret_key(&["usage.write"]) };
    let (_, secret) = create(&tenant.client, expiring).await.unwrap();
    let change = async || worlds.iter().for_each(|world| world.clock.advance(Duration::from_secs(3601)));
    ended_by(worlds, &secret, None, change, "API_KEY_EXPIRED").await;

    let (_, secret) = new_key().await;
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    let change = async || drop(one.operator().organizations().suspend_organization(request).await.unwrap());
    ended_by(worlds, &secret, None, change, "ORGANIZATION_SUSPENDED").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_acknowledges_what_was_taken_and_ends_the_stream() {
    let mut world = World::start().await;
    let client = prepared(&world).await;
    let superuser = world.database.superuser.clone();
    let now = world.clock.now();
    let (mut idle, mut busy) = (Producer::open(&client).await.unwrap(), Producer::open(&client).await.unwrap());
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    busy.send(1, events("a", 2, now)).await;
    busy.send(2, events("b", 2, now)).await;
    waiting(&superuser, 1).await;
    // Both have arrived: nothing comes after them on this connection but what follows.
    busy.send(3, events("c", 2, now)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    world.running.stop();
    let refusal = refused(idle.end().await);
    assert!(refusal.is(Code::Unavailable, "SHUTTING_DOWN") && refusal.retry, "{refusal:?}");
    lock.rollback().await.unwrap();
    for sequence in [1, 2, 3] {
        assert_eq!(busy.acknowledgement().await.unwrap(), Some((sequence, vec!["RECORDED".to_owned(); 2])));
    }
    let refusal = refused(busy.acknowledgement().await);
    assert!(refusal.is(Code::Unavailable, "SHUTTING_DOWN"), "{refusal:?}");
    let stopping = Instant::now();
    world.running.ended().await.unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(5), "no stream keeps the service from stopping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_ends_its_streams() {
    let young = World::start().await;
    let client = prepared(&young).await;
    drop(client);
    let world = World::on(young.database.clone(), &["--connection-age", "500ms"]).await;
    let mut producer = Producer::open(&world.operator()).await.unwrap();
    let refusal = refused(producer.end().await);
    assert!(refusal.is(Code::Unavailable, "SHUTTING_DOWN"), "{refusal:?}");
    eventually("it goes on, on a new connection", || async { Producer::open(&world.operator()).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_has_the_time_that_its_producer_gives_it() {
    let world = World::start_with(&["--request-timeout", "600ms"]).await;
    let client = prepared(&world).await;
    let now = world.clock.now();
    let timed = client.clone().header("grpc-timeout", "300m");
    let mut producer = Producer::open(&timed).await.unwrap();
    let refusal = refused(producer.end().await);
    assert!(refusal.is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{refusal:?}");

    // None given: an idle stream is fine, longer than any unary call may take.
    let mut producer = Producer::open(&client).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    producer.send(1, events("late", 1, now)).await;
    assert_eq!(producer.acknowledgement().await.unwrap(), Some((1, vec!["RECORDED".to_owned()])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_record_gets_no_stream() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let opened = async |client: Client| refused(Producer::open(&client).await.map(drop));
    let reader = tenant.with_scopes(&world, &[tenancy::auth::permission::Permission::UsageRead]).await;
    assert!(opened(reader).await.is(Code::PermissionDenied, "PERMISSION_MISSING"));
    assert!(opened(world.anonymous()).await.is(Code::Unauthenticated, "CREDENTIALS_MISSING"));
}
