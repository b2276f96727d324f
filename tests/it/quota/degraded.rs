//! Quotas without the database: replicas go on with what they were granted, then each limit does as it says; and when the
//! database is back, what was used is told, and nothing was granted twice.

use tenancy::proto::v1;

use crate::harness::{Client, Tenant, World, admin, eventually};
use crate::quota::asks::{limit, monthly, monthly_of_key};
use crate::quota::support;
use crate::usage::support::create_meter;

/// What is granted, and what is known of keys, lasts longer than any outage of these tests.
const PATIENT: [&str; 2] = ["--cache-lifetime", "1h"];

async fn ready(world: &World, status: u16) {
    let port = world.running.admin;
    eventually(&format!("/readyz is {status}"), || async { admin(port, "/readyz").await.0 == status }).await;
}

/// A tenant with a meter of each of these names, and its limit.
async fn with_limits(world: &World, rules: [(&str, v1::LimitRule); 3]) -> Tenant {
    let tenant = world.tenant("acme").await;
    for (meter, rule) in rules {
        create_meter(&tenant.client, meter, v1::MeterAggregation::Sum).await;
        limit(world, &tenant, v1::LimitRule { meter: meter.into(), ..rule }).await;
    }
    tenant
}

async fn take(client: &Client, meter: &str, amount: i64) -> v1::QuotaDecision {
    let request = v1::ConsumeQuotaRequest { meter: meter.into(), amount, ..Default::default() };
    client.quotas().consume_quota(request).await.unwrap().into_inner().decision.unwrap()
}

/// Takes one at a time while that is admitted by the limit; returns how many there were, and what came then.
async fn exhaust(client: &Client, meter: &str) -> (i64, v1::QuotaDecision) {
    let mut admitted = 0;
    loop {
        let decision = take(client, meter, 1).await;
        if !decision.allowed || decision.degraded {
            return (admitted, decision);
        }
        admitted += 1;
    }
}

/// Used, as the ledger has it.
async fn used(client: &Client, meter: &str) -> i64 {
    let request = v1::GetQuotaRequest { meter: meter.into(), ..Default::default() };
    client.quotas().get_quota(request).await.unwrap().into_inner().limits[0].used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_each_limit_does_as_it_says() {
    let world = World::start_with(&PATIENT).await;
    let fallback = v1::LimitFallback::Admit.into();
    let enforcement = v1::LimitEnforcement::Soft.into();
    let rules = [
        ("deny", monthly(1_000)),
        ("admit", v1::LimitRule { fallback, ..monthly(1_000) }),
        ("soft", v1::LimitRule { enforcement, ..monthly(100) }),
    ];
    let client = with_limits(&world, rules).await.client;
    for meter in ["deny", "admit", "soft"] {
        assert!(take(&client, meter, 5).await.allowed);
    }
    world.database.cut().await;
    ready(&world, 503).await;

    let (by_lease, denied) = exhaust(&client, "deny").await;
    assert!(by_lease > 0 && by_lease < 995, "{by_lease}: some of it was granted");
    assert_eq!((denied.reason.as_str(), denied.degraded), ("LEDGER_UNAVAILABLE", false), "{denied:?}");
    assert_eq!(denied.retry_after.unwrap().seconds, 1);
    assert!(denied.limits[0].denied, "{denied:?}");

    let (counted, degraded) = exhaust(&client, "admit").await;
    assert!(counted > 0 && counted < 995 && degraded.allowed && degraded.granted == 1, "{counted}: {degraded:?}");
    let more = take(&client, "admit", 900).await;
    assert!(more.allowed && more.degraded && more.reason.is_empty(), "{more:?}");
    let (_, metrics) = admin(world.running.admin, "/metrics").await;
    let count = metrics.lines().find_map(|line| line.strip_prefix("tenancy_quota_degraded_total "));
    assert!(count.is_some_and(|count| count.parse::<u64>().unwrap() >= 2), "{metrics}");

    let past = take(&client, "soft", 200).await;
    assert!(past.allowed && !past.degraded && past.limits[0].overage == 105, "{past:?}");

    world.database.restore().await;
    ready(&world, 200).await;
    // What was taken is told; what a limit admitted without counting is not.
    for (meter, amount) in [("deny", 5 + by_lease), ("admit", 5 + counted), ("soft", 205)] {
        eventually(&format!("{meter} is told"), || async { used(&client, meter).await == amount }).await;
    }
    let mut left = 995 - by_lease;
    eventually("the rest is admitted", || {
        let client = client.clone();
        async move { take(&client, "deny", 1).await.allowed }
    })
    .await;
    left -= 1;
    let (rest, denied) = exhaust(&client, "deny").await;
    assert_eq!((rest, denied.reason.as_str()), (left, "LIMIT_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replicas_use_meanwhile_is_granted_to_nobody_else() {
    let one = World::start_with(&PATIENT).await;
    let two = World::on(one.database.clone(), &PATIENT).await;
    let lifetime = support::calendar(v1::WindowUnit::Lifetime);
    let rolling = support::rolling(v1::WindowUnit::Day);
    let rules = [
        ("month", monthly(200)),
        ("lifetime", v1::LimitRule { window: lifetime, ..monthly(200) }),
        ("rolling", v1::LimitRule { window: rolling, ..monthly(200) }),
    ];
    let tenant = with_limits(&one, rules).await;
    let clients = [&one, &two].map(|world| world.client(&tenant.key));
    let meters = ["month", "lifetime", "rolling"];
    let mut admitted = [0; 3];
    for client in &clients {
        for (meter, admitted) in meters.iter().zip(&mut admitted) {
            assert!(take(client, meter, 3).await.allowed);
            *admitted += 3;
        }
    }
    one.database.cut().await;
    ready(&one, 503).await;
    ready(&two, 503).await;
    for client in &clients {
        for (meter, admitted) in meters.iter().zip(&mut admitted) {
            let (by_lease, denied) = exhaust(client, meter).await;
            assert_eq!(denied.reason, "LEDGER_UNAVAILABLE", "{denied:?}");
            *admitted += by_lease;
        }
    }
    one.database.restore().await;
    ready(&one, 200).await;
    ready(&two, 200).await;
    for (meter, mut admitted) in meters.into_iter().zip(admitted) {
        // Until both say that nothing is left, and no longer that they cannot know.
        loop {
            let mut reasons = Vec::new();
            for client in &clients {
                let (more, denied) = exhaust(client, meter).await;
                admitted += more;
                reasons.push((more, denied.reason));
            }
            if reasons.iter().all(|(more, reason)| *more == 0 && reason == "LIMIT_EXCEEDED") {
                break;
            }
        }
        assert_eq!(admitted, 200, "{meter}");
        assert_eq!(used(&clients[0], meter).await, 200, "{meter}: as is told by all");
    }
}

/// Somebody's key, of which nothing is known yet.
fn of_key(number: u128, amount: i64) -> v1::ConsumeQuotaRequest {
    let api_key_id = uuid::Uuid::from_u128(number + 1).to_string();
    let subject = Some(v1::QuotaSubject { api_key_id, ..Default::default() });
    v1::ConsumeQuotaRequest { subject, meter: "calls".into(), amount, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_cannot_be_read_fail_for_themselves() {
    let world = World::start().await;
    let (broken, sound) = (world.tenant("broken").await, world.tenant("sound").await);
    for tenant in [&broken, &sound] {
        create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
        limit(&world, tenant, monthly_of_key(10)).await;
    }
    for number in 0..20 {
        let reply = broken.client.quotas().consume_quota(of_key(number, 1)).await.unwrap().into_inner();
        assert!(reply.decision.unwrap().allowed);
    }
    sqlx::query("UPDATE tenancy.quota_accounts SET state = '{}' WHERE organization_id = $1::uuid")
        .bind(&broken.id)
        .execute(&world.database.superuser)
        .await
        .unwrap();

    // A replica that holds nothing has to ask about all of them, many in one transaction.
    let replica = World::on(world.database.clone(), &[]).await;
    let mut asks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let whose = if number % 5 == 0 { &broken } else { &sound };
        let (client, is_sound) = (replica.client(&whose.key), number % 5 != 0);
        asks.spawn(async move {
            let request = of_key(number / 5 + if is_sound { number * 100 } else { 0 }, 1);
            let decision = client.quotas().consume_quota(request).await.unwrap().into_inner().decision.unwrap();
            (is_sound, decision.allowed, decision.reason)
        });
    }
    for (is_sound, allowed, reason) in asks.join_all().await {
        let expected = if is_sound { "" } else { "LEDGER_UNAVAILABLE" };
        assert_eq!((allowed, reason.as_str()), (is_sound, expected));
    }
}
