//! From an Envoy to Tenancy by TLS: with a key out of a file, and with a certificate in place of a key.

use std::fs;

use tempfile::TempDir;
use tenancy::auth::permission::Permission;

use crate::envoy::harness::{Bootstrap, Envoy, Guest, Upstream, program};
use crate::harness::certificates::{Authority, Files};
use crate::harness::{World, eventually};

/// A service by TLS, and what it takes to come to it.
struct Place {
    world: World,
    /// Of the same service in clear, for what a test prepares.
    clear: World,
    guest: Guest,
    upstream: Upstream,
    authority: Authority,
    _files: Files,
    secrets: TempDir,
}

impl Place {
    async fn new() -> Self {
        let clear = World::start().await;
        let guest = Guest::new(&clear, "secured").await;
        let authority = Authority::new();
        let files = Files::new(&authority.server(), &authority);
        let world = files.serve(clear.database.clone(), "spiffe://prod/gateway").await;
        let secrets = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let place = Self { world, clear, guest, upstream: Upstream::start().await, authority, _files: files, secrets };
        place.put("ca.crt", &place.authority.pem());
        for name in ["key.yaml", "ca.yaml", "certificate.yaml"] {
            let text = Bootstrap::file(&format!("secrets/{name}")).text().to_owned();
            place.put(name, &text.replace("/etc/tenancy", place.path()).replace("tenancy.example.com", "localhost"));
        }
        place
    }

    fn path(&self) -> &str {
        self.secrets.path().to_str().unwrap()
    }

    /// As a mounted secret is replaced: by a rename.
    fn put(&self, name: &str, text: &str) {
        let path = self.secrets.path();
        fs::write(path.join("new"), text).unwrap();
        fs::rename(path.join("new"), path.join(name)).unwrap();
    }

    /// An Envoy with this file as its cluster.
    async fn envoy(&self, cluster: &str) -> Envoy {
        let shipped = Bootstrap::shipped(self.world.running.grpc, self.upstream.address).with_cluster(cluster);
        let text = shipped.text().replace("/etc/envoy/secrets", self.path()).replace("/etc/tenancy", self.path());
        Envoy::start(&Bootstrap::new(text.replace("tenancy.example.com", "localhost")), "none").await
    }

    async fn sidecar_key(&self) -> String {
        self.clear.service_key(&[Permission::Sidecar], &[]).await
    }
}

#[tokio::test]
async fn over_tls_the_key_comes_from_a_file_that_can_be_replaced() {
    if program().is_none() {
        return;
    }
    let place = Place::new().await;
    place.put("key", "svc_nonsense\n");
    let envoy = place.envoy("cluster-tls.yaml").await;
    assert_eq!(place.guest.gets("/public", &envoy).await.status, 503, "the sidecar is not let in");
    place.put("key", &format!("{}\n", place.sidecar_key().await));
    eventually("the new key is used", || async { place.guest.gets("/public", &envoy).await.status == 200 }).await;
    // A Tenancy that somebody else vouches for is none.
    place.put("ca.crt", &Authority::new().pem());
    let other = place.envoy("cluster-tls.yaml").await;
    assert_eq!(place.guest.gets("/public", &other).await.status, 503);
}

#[tokio::test]
async fn over_mtls_a_certificate_is_enough() {
    if program().is_none() {
        return;
    }
    let place = Place::new().await;
    for (id, status) in [("spiffe://prod/gateway", 200), ("spiffe://prod/other", 503)] {
        let identity = place.authority.client(&[id]);
        place.put("tls.crt", &identity.certificate);
        place.put("tls.key", &identity.key);
        let envoy = place.envoy("cluster-mtls.yaml").await;
        let answer = place.guest.gets("/public", &envoy).await;
        assert_eq!(answer.status, status, "{id}: {answer:?}");
        if status == 200 {
            assert_eq!(answer.upstream("x-tenant-slug").as_deref(), Some("secured"));
        }
    }
}
