//! Operation ids: what is repeated is done once, on this replica or on all, and what was denied can be asked again.

use std::time::Duration;

use tenancy::proto::v1;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{Client, World, eventually, refused};
use crate::quota::asks::{calls, consume, limited, monthly, monthly_of_key, quota, take, used};

fn named(id: &str, amount: i64) -> v1::ConsumeQuotaRequest {
    v1::ConsumeQuotaRequest { operation_id: id.into(), ..calls(amount) }
}

fn durable(id: &str, amount: i64) -> v1::ConsumeQuotaRequest {
    v1::ConsumeQuotaRequest { durable: true, ..named(id, amount) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_gets_the_first_reply_and_consumes_nothing() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let client = &tenant.client;
    for ask in [named, durable] {
        let before = used(client).await;
        let id = if ask("", 1).durable { "everywhere" } else { "here" };
        let first = consume(client, ask(id, 3)).await.unwrap();
        assert!(first.decision.as_ref().unwrap().allowed);
        // By any spelling.
        let spelled = v1::ConsumeQuotaRequest {
            organization_id: tenant.slug.clone(),
            subject: Some(v1::QuotaSubject { api_key_id: tenant.key_id.clone(), ..Default::default() }),
            mode: v1::ConsumeMode::Normal.into(),
            ..ask(id, 3)
        };
        assert_eq!(consume(client, ask(id, 3)).await.unwrap(), first);
        assert_eq!(consume(client, spelled).await.unwrap(), first);
        assert_eq!(used(client).await, before + 3);
        let refusal = refused(consume(client, ask(id, 2)).await);
        assert!(refusal.is(Code::InvalidArgument, "OPERATION_ID_REUSED"), "{refusal:?}");
        assert_eq!(used(client).await, before + 3);
    }
    world.clock.advance(Duration::from_secs(601));
    take(client, 4).await;
    let forgotten = consume(client, named("here", 3)).await.unwrap().decision.unwrap();
    assert!(!forgotten.allowed, "after ten minutes it is another call: {forgotten:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_at_once_one_consumes() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(1000)]).await;
    let replica = World::on(world.database.clone(), &[]).await;
    let race = async |request: v1::ConsumeQuotaRequest, clients: &[Client]| {
        let mut calls = JoinSet::new();
        for number in 0..50 {
            let (client, request) = (clients[number % clients.len()].clone(), request.clone());
            calls.spawn(async move { consume(&client, request).await.unwrap().decision.unwrap() });
        }
        calls.join_all().await
    };
    let here = tenant.client.clone();
    let replies = race(named("a", 7), std::slice::from_ref(&here)).await;
    assert!(replies.iter().all(|reply| *reply == replies[0] && reply.granted == 7), "{replies:?}");
    assert_eq!(used(&here).await, 7);

    let there = replica.client(&tenant.key);
    let replies = race(durable("a-everywhere", 7), &[here.clone(), there.clone()]).await;
    assert!(replies.iter().all(|reply| *reply == replies[0] && reply.granted == 7), "{replies:?}");
    let known = used(&here).await + used(&there).await;
    assert!((14..=21).contains(&known), "each replica knows its own, and some of the other's: {known}");
    let refusal = refused(consume(&there, durable("a-everywhere", 8)).await);
    assert!(refusal.is(Code::InvalidArgument, "OPERATION_ID_REUSED"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_not_remembered() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly_of_key(1)]).await;
    for ask in [named, durable] {
        let id = if ask("", 1).durable { "everywhere" } else { "here" };
        assert!(!consume(&tenant.client, ask(id, 2)).await.unwrap().decision.unwrap().allowed);
    }
    let refusal =
        refused(consume(&tenant.client, v1::ConsumeQuotaRequest { meter: "none".into(), ..named("c", 1) }).await);
    assert!(refusal.is(Code::NotFound, "METER_NOT_FOUND"), "{refusal:?}");
    // Where there is room later, the same call is admitted.
    let wider = v1::Limit {
        organization_id: tenant.id.clone(),
        subject_id: tenant.key_id.clone(),
        rule: Some(monthly_of_key(10)),
        ..v1::Limit::default()
    };
    let request = v1::CreateLimitRequest { limit: Some(wider), ..Default::default() };
    world.operator().limits().create_limit(request).await.unwrap();
    for ask in [named, durable] {
        let id = if ask("", 1).durable { "everywhere" } else { "here" };
        assert!(consume(&tenant.client, ask(id, 2)).await.unwrap().decision.unwrap().allowed);
    }
    assert!(consume(&tenant.client, named("c", 1)).await.unwrap().decision.unwrap().allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_call_that_used_the_limit_up_is_known_on_every_replica() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(5)]).await;
    let first = consume(&tenant.client, durable("a", 5)).await.unwrap();
    assert!(first.decision.as_ref().unwrap().allowed);
    let replica = World::on(world.database.clone(), &[]).await;
    let there = replica.client(&tenant.key);
    assert!(!take(&there, 1).await.allowed, "nothing is left");
    assert_eq!(consume(&there, durable("a", 5)).await.unwrap(), first, "and yet this one was admitted");
    assert!(!consume(&there, durable("b", 5)).await.unwrap().decision.unwrap().allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_gives_back_once() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let client = &tenant.client;
    assert!(take(client, 10).await.allowed);
    let refund = async |id: &str, amount| {
        let request =
            v1::RefundQuotaRequest { meter: "calls".into(), amount, operation_id: id.into(), ..Default::default() };
        client.quotas().refund_quota(request).await
    };
    for _ in 0..3 {
        refund("a", 4).await.unwrap();
    }
    let refusal = refused(refund("a", 5).await);
    assert!(refusal.is(Code::InvalidArgument, "OPERATION_ID_REUSED"), "{refusal:?}");
    eventually("what was given back is there", || async { take(client, 4).await.allowed }).await;
    assert!(!take(client, 1).await.allowed);
    // At most what was consumed.
    refund("b", 1_000_000).await.unwrap();
    eventually("all of it is there", || async { take(client, 10).await.allowed }).await;
    assert!(!take(client, 1).await.allowed);
    assert!(quota(client).await[0].used <= 10);
    let refusal = refused(refund("", 1).await);
    assert_eq!(refusal.fields, ["operation_id"]);
}
