//! When Tenancy does not answer: nobody passes who should not, and clients are told to come back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Code;

use crate::envoy::harness::{Ask, Bootstrap, Envoy, Upstream, Version, program};
use crate::harness::Wire;

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An address where somebody accepts and never says a word.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    address
}

async fn before(tenancy: SocketAddr, change: impl FnOnce(Bootstrap) -> Bootstrap) -> (Envoy, Upstream) {
    let upstream = Upstream::start().await;
    let envoy = Envoy::start(&change(Bootstrap::shipped(tenancy, upstream.address)), "svc_any").await;
    (envoy, upstream)
}

#[tokio::test]
async fn without_an_answer_a_request_is_503_by_status_on_error() {
    if program().is_none() {
        return;
    }
    for tenancy in [nobody().await, silent().await] {
        let (envoy, upstream) = before(tenancy, |bootstrap| {
            bootstrap.replaced("timeout: 2s\n                envoy_grpc", "timeout: 0.3s\n                envoy_grpc")
        })
        .await;
        for version in [Version::Http1, Version::Http2] {
            let asked = Instant::now();
            let answer = Ask::get("/any").key("sk_test_any").send(envoy.address, version).await;
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        }
        // Where nobody is asked, nobody is missed.
        assert_eq!(Ask::get("/healthz").send(envoy.address, Version::Http1).await.status, 200);
        let wire = Wire::connect(envoy.address).await;
        let status = wire.try_call("/any/app.v1.App/Do", &[], b"").await.unwrap().outcome.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(upstream.seen("/any"), 0);
    }
}

#[tokio::test]
async fn without_status_on_error_a_fault_looks_like_a_denial() {
    if program().is_none() {
        return;
    }
    let line = "              status_on_error: {code: ServiceUnavailable}\n";
    let (envoy, upstream) = before(nobody().await, |bootstrap| bootstrap.replaced(line, "")).await;
    assert_eq!(Ask::get("/any").send(envoy.address, Version::Http1).await.status, 403, "the reason for the line");
    assert_eq!(upstream.seen("/any"), 0);
}
