//! Batches: each request for itself, in its own organization, with its own fate, in the order given.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Client, World, refused};
use crate::quota::asks::{calls, limited, monthly, reservation, used};
use crate::usage::support::{create_meter, event, fate, stored};

/// The amount that was granted, what became of the event, or why it failed.
fn told(result: &v1::QuotaResult) -> String {
    match (&result.decision, &result.event) {
        (Some(decision), None) => format!("{}{}", decision.granted, decision.reason),
        (Some(decision), Some(event)) => format!("{} {}", decision.granted, fate(event)),
        (None, _) => {
            assert!(!result.message.is_empty());
            result.reason.clone()
        }
    }
}

async fn consume_all(client: &Client, requests: Vec<v1::ConsumeQuotaRequest>) -> Vec<String> {
    let request = v1::BatchConsumeQuotaRequest { requests };
    client.quotas().batch_consume_quota(request).await.unwrap().into_inner().results.iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_its_own_fate_in_order() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let (client, now) = (&tenant.client, world.clock.now());
    let named = |id: &str, amount| v1::ConsumeQuotaRequest { operation_id: id.into(), ..calls(amount) };
    let requests = vec![
        calls(4),
        v1::ConsumeQuotaRequest { meter: "none".into(), ..calls(1) },
        calls(-1),
        named("a", 3),
        named("a", 3),
        named("a", 2),
        v1::ConsumeQuotaRequest { organization_id: "elsewhere".into(), ..calls(1) },
        calls(4),
        v1::ConsumeQuotaRequest { mode: v1::ConsumeMode::BestEffort.into(), ..calls(4) },
        v1::ConsumeQuotaRequest { organization_id: tenant.slug.clone(), ..calls(1) },
    ];
    let expected = [
        "4",
        "METER_NOT_FOUND",
        "INVALID_FIELD",
        "3",
        "3",
        "OPERATION_ID_REUSED",
        "ORGANIZATION_NOT_FOUND",
        "0LIMIT_EXCEEDED",
        "3",
        "0LIMIT_EXCEEDED",
    ];
    assert_eq!(consume_all(client, requests).await, expected);
    assert_eq!(used(client).await, 10);

    create_meter(client, "bytes", v1::MeterAggregation::Sum).await;
    let rule = v1::LimitRule { meter: "bytes".into(), ..monthly(10) };
    crate::quota::asks::limit(&world, &tenant, rule).await;
    let bytes = |amount| v1::ConsumeQuotaRequest { meter: "bytes".into(), ..calls(amount) };
    let carrying = |id: &str, amount| v1::ConsumeQuotaRequest {
        event: Some(v1::UsageEvent { meter: String::new(), ..event(id, now) }),
        ..bytes(amount)
    };
    let durable =
        |id: &str, amount| v1::ConsumeQuotaRequest { operation_id: id.into(), durable: true, ..bytes(amount) };
    let requests = vec![
        carrying("a", 3),
        carrying("b", 3),
        durable("x", 2),
        durable("x", 2),
        bytes(1),
        carrying("c", 3),
        durable("y", 1),
        carrying("d", 1),
    ];
    let expected = ["3 RECORDED", "3 RECORDED", "2", "2", "1", "0LIMIT_EXCEEDED", "1", "0LIMIT_EXCEEDED"];
    assert_eq!(consume_all(client, requests.clone()).await, expected);
    let again = ["3 DUPLICATE", "3 DUPLICATE", "2", "2", "0LIMIT_EXCEEDED", "0LIMIT_EXCEEDED", "1", "0LIMIT_EXCEEDED"];
    assert_eq!(consume_all(client, requests).await, again);
    assert_eq!(stored(&world.database).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_reservations_and_settlements() {
    let world = World::start().await;
    let client = limited(&world, [monthly(10)]).await.client;
    let check = |amount| v1::CheckQuotaRequest { meter: "calls".into(), amount, ..Default::default() };
    let request = v1::BatchCheckQuotaRequest { requests: vec![check(10), check(11), check(-1), check(10)] };
    let checked = client.quotas().batch_check_quota(request).await.unwrap().into_inner().results;
    assert_eq!(checked.iter().map(told).collect::<Vec<_>>(), ["10", "0AMOUNT_TOO_LARGE", "INVALID_FIELD", "10"]);

    let request =
        v1::BatchReserveQuotaRequest { requests: vec![reservation(4), reservation(7), reservation(0), reservation(6)] };
    let reserved = client.quotas().batch_reserve_quota(request).await.unwrap().into_inner().results;
    assert_eq!(reserved.iter().map(told).collect::<Vec<_>>(), ["4", "0LIMIT_EXCEEDED", "INVALID_FIELD", "6"]);
    assert!(reserved.iter().all(|result| result.reservation_id.is_empty() == result.expire_time.is_none()));

    let settle = |place: usize, amount| v1::CommitQuotaRequest {
        reservation_id: reserved[place].reservation_id.clone(),
        amount,
        ..Default::default()
    };
    let requests = vec![settle(3, 2), settle(1, 1), settle(0, 9), settle(0, -1), settle(3, 5)];
    let request = v1::BatchCommitQuotaRequest { requests };
    let settled = client.quotas().batch_commit_quota(request).await.unwrap().into_inner().results;
    let told: Vec<_> = settled.iter().map(|result| (result.settled, result.overage, result.reason.as_str())).collect();
    // Settled in any order.
    assert!(told[0] == (2, 0, "") || told[0] == (5, 0, ""), "{told:?}");
    assert_eq!(told[4], told[0]);
    assert_eq!(told[1..4], [(0, 0, "RESERVATION_INVALID"), (9, 5, ""), (0, 0, "INVALID_FIELD")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_a_thousand_requests_at_most() {
    let world = World::start().await;
    let client = limited(&world, []).await.client;
    for count in [0, 1001] {
        let refusal = refused(
            client.quotas().batch_consume_quota(v1::BatchConsumeQuotaRequest { requests: vec![calls(1); count] }).await,
        );
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["requests"], "{refusal:?}");
    }
    assert_eq!(consume_all(&client, vec![calls(1); 1000]).await, vec!["1"; 1000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_batch_reaches_another_tenant() {
    let world = World::start().await;
    let victim = limited(&world, [monthly(10)]).await;
    let attacker = world.tenant("attacker").await;
    let reserved = crate::quota::asks::reserve(&victim.client, reservation(3)).await.reservation_id;
    let service = world.service(Permission::ALL, &[&attacker.id]).await;
    for client in [&attacker.client, &service] {
        for named in [&victim.id, &victim.slug] {
            let consume = v1::ConsumeQuotaRequest { organization_id: named.clone(), ..calls(1) };
            assert_eq!(consume_all(client, vec![consume]).await, ["ORGANIZATION_NOT_FOUND"]);
            let check =
                v1::CheckQuotaRequest { organization_id: named.clone(), meter: "calls".into(), ..Default::default() };
            let request = v1::BatchCheckQuotaRequest { requests: vec![check] };
            let results = client.quotas().batch_check_quota(request).await.unwrap().into_inner().results;
            assert_eq!(told(&results[0]), "ORGANIZATION_NOT_FOUND");
            let reserve = v1::ReserveQuotaRequest { organization_id: named.clone(), ..reservation(1) };
            let request = v1::BatchReserveQuotaRequest { requests: vec![reserve] };
            let results = client.quotas().batch_reserve_quota(request).await.unwrap().into_inner().results;
            assert_eq!(told(&results[0]), "ORGANIZATION_NOT_FOUND");
            let settle =
                v1::CommitQuotaRequest { organization_id: named.clone(), reservation_id: reserved.clone(), amount: 0 };
            let request = v1::BatchCommitQuotaRequest { requests: vec![settle] };
            let results = client.quotas().batch_commit_quota(request).await.unwrap().into_inner().results;
            assert_eq!(results[0].reason, "ORGANIZATION_NOT_FOUND");
        }
        let settle = v1::CommitQuotaRequest {
            organization_id: attacker.id.clone(),
            reservation_id: reserved.clone(),
            amount: 0,
        };
        let request = v1::BatchCommitQuotaRequest { requests: vec![settle] };
        let results = client.quotas().batch_commit_quota(request).await.unwrap().into_inner().results;
        assert_eq!(results[0].reason, "RESERVATION_INVALID");
    }
    assert_eq!(used(&victim.client).await, 3);
}
