//! Clients that say of themselves what only Tenancy may say.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use http::Method;
use tenancy::proto::v1;

use crate::envoy::harness::{Ask, Bootstrap, Guest, Stage, Version, program, stage};
use crate::harness::{World, keys};

/// What Tenancy says of a request.
const SAID: [&str; 7] = [
    "x-tenant-id",
    "x-tenant-slug",
    "x-tenant-plan",
    "x-tenant-role",
    "x-tenant-permissions",
    "x-api-key-id",
    "x-user-id",
];

fn spoofed(ask: Ask) -> Ask {
    SAID.iter().fold(ask, |ask, name| ask.header(name, "spoofed").header(&name.to_uppercase(), "spoofed-again"))
}

#[tokio::test]
async fn a_spoofed_tenant_header_is_overwritten() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "overwritten").await;
    for path in ["/known", "/optional", "/call"] {
        for version in [Version::Http1, Version::Http2] {
            let ask = Ask::get(path).key(&guest.tenant.key);
            let ask = if version == Version::Http1 { spoofed(ask) } else { ask.header("x-tenant-id", "spoofed") };
            let answer = ask.send(stage.envoy.address, version).await;
            assert_eq!(answer.upstream("x-tenant-id"), Some(guest.tenant.id.clone()), "{path}");
            assert!(!answer.text().contains("spoofed"), "{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_spoofed_tenant_header_is_stripped_where_nobody_is_known_or_asked() {
    let Some(stage) = stage().await else { return };
    for path in ["/optional", "/public", "/healthz"] {
        let answer = spoofed(Ask::get(path)).send(stage.envoy.address, Version::Http1).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(!answer.text().contains("spoofed"), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_header_with_underscores_is_refused() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "underscores").await;
    for path in ["/known", "/healthz"] {
        let answer = guest.get(path).header("x_tenant_id", "spoofed").send(stage.envoy.address, Version::Http1).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_duplicated_key_is_ambiguous() {
    let Some(stage) = stage().await else { return };
    let (guest, other) =
        (Guest::new(&stage.world, "duplicated").await, Guest::new(&stage.world, "duplicated-too").await);
    let (mine, its) = (&guest.tenant.key, &other.tenant.key);
    let bearer = |key: &str| format!("Bearer {key}");
    for (ask, what) in [
        (Ask::get("/known").key(mine).key(its), "two keys"),
        (Ask::get("/known").key(mine).key(mine), "one key twice"),
        (Ask::get("/known").key(&format!("{mine},{its}")), "as an Envoy joins them"),
        (Ask::get("/known").key(mine).header("authorization", &bearer(its)), "one in each header"),
        (
            Ask::get("/known").header("authorization", &bearer(mine)).header("authorization", &bearer(its)),
            "two bearers",
        ),
        (Ask::get("/optional").key(mine).key(its), "where it is optional"),
    ] {
        for version in [Version::Http1, Version::Http2] {
            let answer = ask.send(stage.envoy.address, version).await;
            assert_eq!((answer.status, answer.reason().as_str()), (401, "CREDENTIALS_AMBIGUOUS"), "{what}");
        }
    }
}

/// A key that is good from these addresses only.
async fn key_from(world: &World, guest: &Guest, range: &str) -> String {
    let api_key = v1::ApiKey {
        organization_id: guest.tenant.id.clone(),
        allowed_ip_ranges: vec![range.to_owned()],
        ..keys::secret_key(&["usage.read"])
    };
    keys::create(&world.operator(), api_key).await.unwrap().1
}

#[tokio::test]
async fn an_address_in_x_forwarded_for_is_not_believed() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "addresses").await;
    for (range, status) in [("10.0.0.0/8", 403), ("127.0.0.0/8", 200)] {
        let key = key_from(&stage.world, &guest, range).await;
        for said in ["10.0.0.1", "10.0.0.1, 127.0.0.1", "127.0.0.1"] {
            let ask = Ask::get("/known").key(&key).header("x-forwarded-for", said);
            let answer = ask.send(stage.envoy.address, Version::Http1).await;
            assert_eq!(answer.status, status, "{range}, {said}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn behind_a_proxy_the_route_and_not_xff_num_trusted_hops_says_which_address_counts() {
    if program().is_none() {
        return;
    }
    // An Envoy tells of a proxy on its own machine by another address than it connects from: here the proxy is not there.
    let there = UdpSocket::bind("0.0.0.0:0").unwrap();
    let there = there.connect("192.0.2.1:9").and_then(|()| there.local_addr()).unwrap().ip();
    let everywhere = |bootstrap: Bootstrap| {
        let address = |ip| format!("ingress\n    address: {{socket_address: {{address: {ip}");
        bootstrap.replaced(&address("127.0.0.1"), &address("0.0.0.0"))
    };
    let line = "          use_remote_address: true\n";
    let hops = "          xff_num_trusted_hops: 1\n";
    let stage = Stage::with(|bootstrap| everywhere(bootstrap).replaced(line, &format!("{line}{hops}"))).await;
    let guest = Guest::new(&stage.world, "behind").await;
    let key = key_from(&stage.world, &guest, "10.0.0.0/8").await;
    for (path, ip, forwarded, status) in [
        // As a proxy would send it on, but an Envoy tells of the proxy.
        ("/known", there, "10.0.0.1", 403),
        ("/behind", there, "10.0.0.1", 200),
        ("/behind", there, "192.0.2.1, 10.0.0.1", 200),
        ("/behind", there, "10.0.0.1, 192.0.2.1", 403),
        ("/behind", there, "nonsense", 403),
        ("/behind", IpAddr::from([127, 0, 0, 1]), "10.0.0.1", 403),
    ] {
        let ask = Ask::get(path).key(&key).header("x-forwarded-for", forwarded);
        let answer = ask.send(SocketAddr::new(ip, stage.envoy.address.port()), Version::Http1).await;
        assert_eq!(answer.status, status, "{path}, {ip}, {forwarded}: {answer:?}");
    }
    // An Envoy that adds nothing to the header lets a client say all of it.
    let open = Stage::with(|bootstrap| everywhere(bootstrap).replaced(line, "")).await;
    let guest = Guest::new(&open.world, "behind").await;
    let key = key_from(&open.world, &guest, "10.0.0.0/8").await;
    let ask = Ask::get("/behind").key(&key).header("x-forwarded-for", "10.0.0.1, 192.0.2.1");
    let answer = ask.send(SocketAddr::new(there, open.envoy.address.port()), Version::Http1).await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[tokio::test]
async fn a_path_that_leads_elsewhere_is_not_another_route_to_the_application() {
    let Some(stage) = stage().await else { return };
    for path in ["/healthz/../known", "/public/../known", "//known", "/public/%2e%2e/known", "/known/"] {
        let answer = Ask::get(path).send(stage.envoy.address, Version::Http1).await;
        assert_eq!((answer.status, answer.reason().as_str()), (401, "CREDENTIALS_MISSING"), "{path}");
    }
    let answer = Ask::new(Method::GET, "/public%2f..%2fknown").send(stage.envoy.address, Version::Http1).await;
    assert_eq!(answer.status, 400, "{answer:?}");
}
