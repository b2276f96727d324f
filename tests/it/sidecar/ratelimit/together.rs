//! Several descriptors: all that they ask for is taken, or nothing.

use tenancy::proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use tenancy::proto::v1;

use super::support::{admitted, ask, daily, descriptor, exhaust, giving_back, one, own, taking, with_rules};
use crate::harness::{Client, World, eventually};
use crate::quota::asks::{limit, limited, monthly};
use crate::usage::support::create_meter;

/// What is left of a descriptor.
async fn left(sidecar: &Client, entries: &[(&str, &str)]) -> u32 {
    one(sidecar, taking(entries, 0)).await.1.limit_remaining
}

fn codes(reply: &tenancy::proto::envoy::service::ratelimit::v3::RateLimitResponse) -> Vec<Code> {
    reply.statuses.iter().map(DescriptorStatus::code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_is_over_its_limit_nothing_is_taken_for_any() {
    let rate = own("rate", "", 5, v1::RateLimitUnit::Minute);
    let (world, sidecar) = with_rules(vec![daily("a", "", 10), daily("b", "", 2), rate]).await;
    // Of two organizations, and of none.
    let (one_tenant, other) = (limited(&world, [monthly(10)]).await, world.tenant("other").await);
    create_meter(&other.client, "calls", v1::MeterAggregation::Sum).await;
    limit(&world, &other, monthly(1)).await;
    let first = [("tenant", one_tenant.slug.as_str()), ("meter", "calls")];
    let second = [("tenant", other.slug.as_str()), ("meter", "calls")];
    let (a, b, rate) = ([("a", "x")], [("b", "x")], [("rate", "x")]);

    let reply = ask(&sidecar, vec![taking(&a, 3), taking(&first, 2), taking(&rate, 2)]).await.unwrap();
    assert!(admitted(&reply));
    let all = [left(&sidecar, &a).await, left(&sidecar, &first).await, left(&sidecar, &rate).await];
    assert_eq!(all, [7, 8, 3]);

    // The last one is over, then the first one.
    for (request, expected) in [
        (
            vec![taking(&a, 3), taking(&first, 2), taking(&rate, 2), taking(&second, 2)],
            [Code::Ok, Code::Ok, Code::Ok, Code::OverLimit],
        ),
        (
            vec![taking(&b, 3), taking(&a, 3), taking(&first, 9), taking(&rate, 2)],
            [Code::OverLimit, Code::Ok, Code::OverLimit, Code::Ok],
        ),
    ] {
        let reply = ask(&sidecar, request).await.unwrap();
        assert!(!admitted(&reply));
        assert_eq!(codes(&reply), expected);
        let after = [left(&sidecar, &a).await, left(&sidecar, &first).await, left(&sidecar, &rate).await];
        assert_eq!(after, all, "nothing was taken");
    }
    let (is_admitted, _) = one(&sidecar, descriptor(&second)).await;
    assert!(is_admitted && exhaust(&sidecar, &b).await == 2, "nor of these");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_descriptors_of_one_counter_add_up() {
    let (world, sidecar) = with_rules(vec![daily("a", "", 10)]).await;
    let tenant = limited(&world, [monthly(10)]).await;
    for entries in [&[("a", "x")][..], &[("tenant", &tenant.slug), ("meter", "calls")]] {
        let reply = ask(&sidecar, vec![taking(entries, 6), taking(entries, 5)]).await.unwrap();
        assert_eq!(codes(&reply), [Code::Ok, Code::OverLimit], "{reply:?}");
        let reply = ask(&sidecar, vec![taking(entries, 6), taking(entries, 4)]).await.unwrap();
        assert!(admitted(&reply), "nothing was taken before: {reply:?}");
        assert_eq!(left(&sidecar, entries).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_back_when_another_one_is_over() {
    let (_world, sidecar) = with_rules(vec![daily("a", "", 10), daily("b", "", 1)]).await;
    let (a, b) = ([("a", "x")], [("b", "x")]);
    assert!(one(&sidecar, taking(&a, 8)).await.0);
    let reply = ask(&sidecar, vec![giving_back(&a, 5), taking(&b, 2)]).await.unwrap();
    assert_eq!(codes(&reply), [Code::Ok, Code::OverLimit]);
    assert_eq!(left(&sidecar, &a).await, 2);
    let reply = ask(&sidecar, vec![giving_back(&a, 5), taking(&b, 1)]).await.unwrap();
    assert!(admitted(&reply), "{reply:?}");
    eventually("it is given back", || async { left(&sidecar, &a).await == 7 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_requests_over_two_counters_take_all_or_nothing_on_two_replicas() {
    let (world, sidecar) = with_rules(vec![daily("a", "", 60), daily("b", "", 40)]).await;
    let replica = World::on(world.database.clone(), &[]).await;
    let sidecars = [sidecar, super::support::sidecar(&replica).await];
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let sidecar = sidecars[number % 2].clone();
        callers.spawn(async move {
            let mut count = 0;
            // Some early denial while another call holds what it gives back is no lie, but the end is not to be missed.
            let mut denied = 0;
            while denied < 5 {
                let reply = ask(&sidecar, vec![descriptor(&[("a", "x")]), descriptor(&[("b", "x")])]).await.unwrap();
                if admitted(&reply) { count += 1 } else { denied += 1 }
            }
            count
        });
    }
    let both: u32 = callers.join_all().await.into_iter().sum();
    assert_eq!(both, 40, "as much as the smaller one admits");
    let rest = exhaust(&sidecars[0], &[("a", "x")]).await + exhaust(&sidecars[1], &[("a", "x")]).await;
    assert_eq!(rest, 20, "denials took nothing of the other");
}
