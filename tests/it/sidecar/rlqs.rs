//! Rate limit quotas: what Envoys are assigned, how it adds up over all of them, and what comes back.

use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;

use super::quota_envoy::{Envoy, State, calls, id, sidecar};
use crate::harness::{World, eventually};
use crate::quota::asks::{check, limit, limited, monthly, take, used};
use crate::quota::support::{calendar, rolling, update_limit};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_on_two_replicas_admit_no_more_than_the_limit_and_all_of_it_in_the_end() {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let tenant = limited(&one, [v1::LimitRule { window: calendar(v1::WindowUnit::Lifetime), ..monthly(600) }]).await;
    let bucket = calls(&tenant.slug);
    let mut envoys = Vec::new();
    for world in [&one, &two, &one, &two] {
        envoys.push(Envoy::of(world).await);
    }
    let (mut admitted, mut most) = (0, 0);
    for round in 0..80 {
        for (number, envoy) in envoys.iter_mut().enumerate() {
            envoy.listen();
            // Each has another load, and it comes and goes.
            let load = (number as u64 * 7 + round * 3) % 12;
            let passed = envoy.requests(&bucket, if round < 40 { load } else { 1 });
            admitted += passed;
            most = most.max(passed);
        }
        assert!(admitted <= 600, "round {round}: {admitted}");
        for envoy in &mut envoys {
            envoy.report().await.unwrap();
        }
        if round > 40 && admitted == 600 {
            break;
        }
        one.clock.advance(INTERVAL);
        two.clock.advance(INTERVAL);
        // What comes back is written beside the stream.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{admitted} of 600, at most {most} at once");
    assert!(admitted >= 594, "{admitted} of 600");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_envoy_does_not_use_comes_back() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let mut envoy = Envoy::of(&world).await;
    let bucket = calls(&tenant.id);
    assert!(!envoy.request(&bucket), "nothing is assigned");
    envoy.report().await.unwrap();
    let State::Tokens(slice) = envoy.state(&bucket) else { panic!("{:?}", envoy.state(&bucket)) };
    assert!((10..=50).contains(&slice), "at most half of it: {slice}");
    assert_eq!(used(&tenant.client).await, i64::try_from(slice).unwrap(), "consumed before it was sent");
    assert_eq!(envoy.requests(&bucket, 7), 7);
    world.clock.advance(INTERVAL);
    envoy.report().await.unwrap();
    // It is quiet from now on.
    for _ in 0..12 {
        world.clock.advance(INTERVAL);
        envoy.report().await.unwrap();
    }
    let (client, envoy) = (&tenant.client, &tokio::sync::Mutex::new(envoy));
    eventually("what was not used came back", || async move {
        envoy.lock().await.report().await.unwrap();
        used(client).await == 7
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_stream_had_counts_as_used() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let client = sidecar(&world).await;
    let mut envoy = Envoy::open(&client, &world.clock).await.unwrap();
    let bucket = calls(&tenant.id);
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    let first = used(&tenant.client).await;
    assert_eq!(envoy.requests(&bucket, 3), 3);
    let mut envoy = envoy.reopen(&client).await;
    assert_eq!(envoy.requests(&bucket, 2), 2, "it goes on with what it has");
    envoy.report().await.unwrap();
    let State::Tokens(second) = envoy.state(&bucket) else { panic!("{:?}", envoy.state(&bucket)) };
    for _ in 0..20 {
        world.clock.advance(INTERVAL);
        envoy.report().await.unwrap();
    }
    let (tenant, envoy) = (&tenant.client, &tokio::sync::Mutex::new(envoy));
    eventually("only the second slice comes back", || async move {
        envoy.lock().await.report().await.unwrap();
        used(tenant).await == first
    })
    .await;
    assert!(second > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_up_is_refused_until_the_next_window() {
    let world = World::start().await;
    let rule = v1::LimitRule { window: calendar(v1::WindowUnit::Day), ..monthly(5) };
    let tenant = limited(&world, [rule]).await;
    let mut envoy = Envoy::of(&world).await;
    let bucket = calls(&tenant.id);
    let mut admitted = 0;
    for _ in 0..20 {
        envoy.listen();
        admitted += envoy.requests(&bucket, 5);
        envoy.report().await.unwrap();
        world.clock.advance(INTERVAL);
    }
    assert_eq!(admitted, 5);
    assert_eq!(envoy.state(&bucket), State::Deny);
    assert!(!take(&tenant.client, 1).await.allowed);
    world.clock.advance(Duration::from_hours(24));
    envoy.requests(&bucket, 5);
    let envoy = &tokio::sync::Mutex::new(envoy);
    let bucket = &bucket;
    eventually("another day", || async move {
        let mut envoy = envoy.lock().await;
        envoy.request(bucket);
        envoy.report().await.unwrap();
        matches!(envoy.state(bucket), State::Tokens(_))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_hard_limit_all_may_pass_and_the_reports_are_counted() {
    let world = World::start().await;
    let tenant = limited(&world, []).await;
    let mut envoy = Envoy::of(&world).await;
    let bucket = calls(&tenant.id);
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    assert_eq!(envoy.state(&bucket), State::Allow, "without a limit");

    let soft = v1::LimitRule { enforcement: v1::LimitEnforcement::Soft.into(), ..monthly(10) };
    limit(&world, &tenant, soft).await;
    let client = &tenant.client;
    eventually("the limit is known", || async move { check(client, 0).await.limits.len() == 1 }).await;
    assert_eq!(envoy.requests(&bucket, 25), 25);
    world.clock.advance(INTERVAL);
    envoy.report().await.unwrap();
    assert_eq!(envoy.state(&bucket), State::Allow, "a soft one");
    assert_eq!(used(&tenant.client).await, 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_raised_or_blocked_is_in_force_within_a_report() {
    let world = World::start().await;
    let tenant = limited(&world, []).await;
    let made = limit(&world, &tenant, monthly(0)).await;
    let bucket = &calls(&tenant.id);
    let envoy = &tokio::sync::Mutex::new(Envoy::of(&world).await);
    let becomes = async |what: &str, state: fn(State) -> bool| {
        eventually(what, || async {
            let mut envoy = envoy.lock().await;
            envoy.request(bucket);
            envoy.report().await.unwrap();
            world.clock.advance(Duration::from_secs(1));
            state(envoy.state(bucket))
        })
        .await;
    };
    becomes("blocked", |state| state == State::Deny).await;
    let change = async |amount| {
        let rule = v1::LimitRule { amount: Some(amount), ..made.rule.clone().unwrap() };
        let wanted = v1::Limit { rule: Some(rule), etag: String::new(), ..made.clone() };
        update_limit(&world.operator(), wanted, &["rule.bound"]).await.unwrap();
    };
    change(1_000).await;
    becomes("raised", |state| matches!(state, State::Tokens(_))).await;
    change(0).await;
    becomes("blocked again, whatever it had", |state| state == State::Deny).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_goes_by_short_slices() {
    let world = World::start().await;
    let tenant = limited(&world, [v1::LimitRule { window: rolling(v1::WindowUnit::Second), ..monthly(20) }]).await;
    let mut envoy = Envoy::of(&world).await;
    let bucket = calls(&tenant.id);
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    let State::Tokens(slice) = envoy.state(&bucket) else { panic!("{:?}", envoy.state(&bucket)) };
    assert!((1..=10).contains(&slice), "{slice}");
    // In real time, as the slices are: each second at most what is admitted in one, and what was assigned in the last one.
    let mut admitted = 0;
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        envoy.listen();
        admitted += envoy.requests(&bucket, 2);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{admitted} in 4 s at 20 a second");
    assert!((5..=20 * 6).contains(&admitted), "{admitted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_is_never_open() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let other = world.tenant("other").await;
    let bound = world.service(&[Permission::Sidecar], &[&other.id]).await;
    let mut envoy = Envoy::of(&world).await;
    let long = "x".repeat(4096);
    for bad in [
        id(&[("tenant", &tenant.slug)]),
        id(&[("meter", "calls")]),
        id(&[]),
        id(&[("tenant", "nobody"), ("meter", "calls")]),
        id(&[("tenant", "Not A Slug"), ("meter", "calls")]),
        id(&[("tenant", &tenant.slug), ("meter", "unknown")]),
        id(&[("tenant", &tenant.slug), ("meter", "calls"), ("user", "nobody")]),
        id(&[("tenant", &tenant.slug), ("meter", "calls"), ("filler", &long)]),
    ] {
        envoy.request(&bad);
        envoy.report().await.unwrap();
        assert_eq!(envoy.state(&bad), State::Deny, "{bad:?}");
    }
    let mut envoy = Envoy::open(&bound, &world.clock).await.unwrap();
    let bucket = calls(&tenant.slug);
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    assert_eq!(envoy.state(&bucket), State::Deny, "another's");
    assert_eq!(used(&tenant.client).await, 0);
}
