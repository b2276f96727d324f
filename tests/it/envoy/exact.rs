//! A quota is exact however many Envoys and replicas there are.

use std::sync::Arc;

use tenancy::proto::v1;
use tokio::task::JoinSet;

use crate::envoy::harness::{Envoy, Guest, Upstream, Version, front, program};
use crate::harness::World;
use crate::quota::support::{calendar, monthly};

/// Two Envoys, each with a replica of its own; one database.
async fn pairs(upstream: &Upstream) -> [(World, Envoy); 2] {
    let first = World::start().await;
    let second = World::on(first.database.clone(), &[]).await;
    let (one, other) =
        tokio::join!(front(&first, upstream, |bootstrap| bootstrap), front(&second, upstream, |bootstrap| bootstrap));
    [(first, one), (second, other)]
}

/// Asks on both Envoys at once, over both versions of HTTP, each caller until it is refused; how many passed.
async fn exhaust(guest: &Arc<Guest>, envoys: [&Envoy; 2], path: &'static str) -> usize {
    let mut callers = JoinSet::new();
    for envoy in envoys {
        for version in [Version::Http1, Version::Http2, Version::Http1] {
            let (guest, address) = (Arc::clone(guest), envoy.address);
            callers.spawn(async move {
                let mut passed = 0;
                loop {
                    let answer = guest.get(path).send(address, version).await;
                    match (answer.status, answer.status != 200 && answer.reason() == "LIMIT_EXCEEDED") {
                        (200, _) => passed += 1,
                        (429, true) => return passed,
                        // A machine that is busy is slow to ask the other replica what it does not use.
                        (503, _) => {}
                        _ => panic!("{answer:?}"),
                    }
                }
            });
        }
    }
    callers.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_envoys_and_two_replicas_admit_exactly_the_limit() {
    if program().is_none() {
        return;
    }
    let upstream = Upstream::start().await;
    let [(first, one), (_second, other)] = Box::pin(pairs(&upstream)).await;
    for (slug, limit) in [("seven", 7), ("many", 300)] {
        let guest = Arc::new(Guest::limited(&first, slug, limit).await);
        let passed = exhaust(&guest, [&one, &other], "/call").await;
        assert_eq!(i64::try_from(passed).unwrap(), limit, "{slug}");
        for envoy in [&one, &other] {
            assert_eq!(guest.gets("/call", envoy).await.status, 429, "{slug}");
        }
        assert_eq!(guest.used("calls").await, limit);
        guest.records("calls", &limit.to_string(), limit).await;
    }
    assert_eq!(upstream.seen("/call"), 307, "what was refused did not reach the application");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_limits_the_tightest_is_exact_and_the_others_pay_for_what_passed() {
    if program().is_none() {
        return;
    }
    let upstream = Upstream::start().await;
    let [(first, one), (_second, other)] = Box::pin(pairs(&upstream)).await;
    let guest = Arc::new(Guest::limited(&first, "several", 1000).await);
    let of_key = v1::LimitRule {
        subject_kind: v1::SubjectKind::ApiKey.into(),
        window: calendar(v1::WindowUnit::Day),
        ..monthly("calls", 60)
    };
    guest.limit(&first.operator(), of_key).await;
    // Five at a time.
    assert_eq!(exhaust(&guest, [&one, &other], "/five").await, 12);
    let request = v1::GetQuotaRequest { meter: "calls".into(), ..Default::default() };
    let subject = v1::QuotaSubject { api_key_id: guest.tenant.key_id.clone(), ..Default::default() };
    let request = v1::GetQuotaRequest { subject: Some(subject), ..request };
    let limits = guest.tenant.client.quotas().get_quota(request).await.unwrap().into_inner().limits;
    let used: Vec<_> = limits.iter().map(|limit| limit.used).collect();
    assert_eq!(used, [60, 60], "{limits:?}");
}
