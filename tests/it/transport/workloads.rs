//! Sidecars that come with a certificate in place of a key: who is let in, and to what.

use tenancy::auth::permission::{METHODS, Permission};
use tonic::Code;

use crate::harness::certificates::{Authority, Files, Pair, client, wire};
use crate::harness::{Client, Tenant, World, eventually, raw, refused};

/// What a sidecar may ask.
const ASK: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Who is let in.
const WORKLOADS: &str = "spiffe://prod/ns/envoy/*, spiffe://prod/gateway";
const GATEWAY: &[&str] = &["spiffe://prod/gateway"];

/// A service, and who signed its certificate and its clients'.
struct Place {
    world: World,
    tenant: Tenant,
    files: Files,
    authority: Authority,
}

impl Place {
    async fn new() -> Self {
        let world = World::start().await;
        let tenant = world.tenant("acme").await;
        let authority = Authority::new();
        let files = Files::new(&authority.server(), &authority);
        Self { world: files.serve(world.database.clone(), WORKLOADS).await, tenant, files, authority }
    }

    fn client(&self, identity: &Pair) -> Client {
        client(self.world.running.grpc, &self.authority, Some(identity))
    }
}

/// Fails unless the sidecar comes past authentication; what it asks is nothing, and answered accordingly.
async fn let_in(client: &Client, who: &str) {
    let code = raw(client, ASK, Vec::new()).await.err().map_or(Code::Ok, |status| status.code());
    let behind = [Code::Ok, Code::InvalidArgument, Code::Unimplemented];
    assert!(behind.contains(&code), "{who}: {code:?}");
}

async fn is_nobody(client: &Client, who: &str) {
    let refusal = refused(raw(client, ASK, Vec::new()).await);
    assert!(refusal.is(Code::Unauthenticated, "CREDENTIALS_MISSING"), "{who}: {refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_on_the_list_are_let_in_and_nobody_else() {
    let place = Place::new().await;
    for id in ["spiffe://prod/ns/envoy/sa/a", "spiffe://prod/gateway"] {
        let_in(&place.client(&place.authority.client(&[id])), id).await;
        // A certificate that names no use is for all of them.
        let_in(&place.client(&place.authority.client_with(&[id], |_| {})), id).await;
    }
    for uris in [
        &["spiffe://prod/ns/other"][..],
        &["spiffe://prod/gateway/x"],
        &["spiffe://staging/gateway"],
        &["https://prod/gateway"],
        &["spiffe://prod/gateway", "spiffe://prod/gateway"],
        &["spiffe://prod/gateway", "https://elsewhere"],
        &[],
    ] {
        is_nobody(&place.client(&place.authority.client(uris)), &format!("{uris:?}")).await;
    }
    is_nobody(&client(place.world.running.grpc, &place.authority, None), "without a certificate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_good_ends_the_connection() {
    let place = Place::new().await;
    let other = Authority::new().client(GATEWAY);
    let for_servers = place
        .authority
        .client_with(GATEWAY, |params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]);
    let expired = place.authority.expired(GATEWAY);
    for (why, identity) in [("another CA's", other), ("for servers", for_servers), ("expired", expired)] {
        // A key does not help: whoever shows a certificate claims to be whom it names.
        let key = [("x-api-key", place.tenant.key.as_str())];
        let talk = async {
            let wire = wire(place.world.running.grpc, &place.authority, Some(&identity)).await?;
            wire.try_call(super::GET, &key, &[]).await
        };
        talk.await.expect_err(why);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_may_do_what_sidecars_do_and_nothing_else() {
    let place = Place::new().await;
    let sidecar = place.client(&place.authority.client(GATEWAY));
    let mut others = 0;
    for (method, _) in METHODS.iter().filter(|(_, permission)| *permission != Permission::Sidecar) {
        let refusal = refused(raw(&sidecar, method, Vec::new()).await);
        assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{method}: {refusal:?}");
        others += 1;
    }
    assert!(others > 40, "{others}");
    let user = uuid::Uuid::from_u128(1).to_string();
    let refusal = refused(raw(&sidecar.acting(&user), ASK, Vec::new()).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "it acts for nobody: {refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_goes_before_the_certificate() {
    let place = Place::new().await;
    let sidecar = place.client(&place.authority.client(GATEWAY));
    let tenant = sidecar.clone().key(&place.tenant.key);
    assert_eq!(super::organization(&tenant).await.organization_id, place.tenant.id);
    let refusal = refused(raw(&tenant, ASK, Vec::new()).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    for (header, value, reason) in [
        ("x-api-key", "nonsense", "API_KEY_MALFORMED"),
        ("x-api-key", "", "API_KEY_MALFORMED"),
        ("authorization", "Basic YTpi", "CREDENTIALS_MALFORMED"),
    ] {
        let refusal = refused(raw(&sidecar.clone().header(header, value), ASK, Vec::new()).await);
        assert!(refusal.is(Code::Unauthenticated, reason), "{header}: {value}: {refusal:?}");
    }
    // One that is not on the list has its key all the same.
    let unlisted = place.client(&place.authority.client(&["spiffe://prod/x"])).key(&place.tenant.key);
    assert_eq!(super::organization(&unlisted).await.organization_id, place.tenant.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_authority_is_replaced_without_a_restart() {
    let place = Place::new().await;
    let (old, other) = (place.authority.client(GATEWAY), Authority::new());
    let new = other.client(GATEWAY);
    let address = place.world.running.grpc;
    let serves = async |identity: &Pair| match wire(address, &place.authority, Some(identity)).await {
        Ok(wire) => wire.try_call(ASK, &[], &[]).await.is_ok(),
        Err(_) => false,
    };
    assert!(serves(&old).await && !serves(&new).await);
    place.files.put("client-ca.pem", &(place.authority.pem() + &other.pem()));
    eventually("both are trusted", || async { serves(&new).await }).await;
    assert!(serves(&old).await);
    place.files.put("client-ca.pem", &other.pem());
    eventually("the old one is not any more", || async { !serves(&old).await }).await;
    assert!(serves(&new).await);
}
