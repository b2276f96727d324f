//! I8 for tokens: what ends them, seen on another replica that has them in memory.

use std::time::Duration;

use tenancy::proto::v1;
use tokio::time::Instant;
use tonic::Code;

use super::{exchange, issue, member, revoke};
use crate::harness::keys::{self, create, knock, secret_key, update};
use crate::harness::{Client, Tenant, World, eventually, refused};
use crate::sidecar::support::{Answer, sidecar, waiting};
use crate::usage::stream::Producer;
use crate::usage::support::{create_meter, events};

/// The promise is a second; this machine may be busy. Far below the lifetime of what is believed.
const SOON: Duration = Duration::from_secs(4);

/// Two replicas, and a tenant with a user.
async fn replicas(role: &str) -> (World, World, Tenant, String) {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let (tenant, user) = member(&one, "acme", role).await;
    (one, two, tenant, user)
}

/// A client of the other replica with a token that it knows.
async fn known(world: &World, token: &str) -> Client {
    let client = world.anonymous().token(token);
    knock(&client).await.unwrap();
    client
}

/// Waits until the token is refused so, at the door and by the Envoy that asks the same replica.
async fn until(world: &World, token: &str, code: Code, reason: &str) {
    let (changed, client, envoy) = (Instant::now(), world.anonymous().token(token), sidecar(world).await);
    loop {
        match knock(&client).await {
            Ok(_) => assert!(changed.elapsed() < SOON, "not seen on the other replica: {reason}"),
            outcome => {
                let refusal = refused(outcome);
                assert!(refusal.is(code, reason), "{refusal:?}");
                break;
            }
        }
    }
    println!("I8: {reason}: {:.1?} after the reply", changed.elapsed());
    let status = if code == Code::Unauthenticated { 401 } else { 403 };
    match waiting().header("authorization", &format!("Bearer {token}")).ask(&envoy).await {
        Answer::Denied(denied) => assert!(denied.is(status, reason), "{denied:?}"),
        Answer::Passed(passed) => panic!("it passed: {passed:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_the_user_becomes_of_their_tokens() {
    let (one, two, tenant, user) = replicas("member").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    known(&two, &token).await;
    let request = v1::SuspendMemberRequest { user_id: user.clone(), ..Default::default() };
    tenant.client.members().suspend_member(request).await.unwrap();
    until(&two, &token, Code::PermissionDenied, "MEMBER_SUSPENDED").await;
    let request = v1::ReactivateMemberRequest { user_id: user.clone(), ..Default::default() };
    tenant.client.members().reactivate_member(request).await.unwrap();
    let client = &two.anonymous().token(&token);
    eventually("who is reactivated goes on", || async move { knock(client).await.is_ok() }).await;

    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    one.operator().organizations().suspend_organization(request).await.unwrap();
    until(&two, &token, Code::PermissionDenied, "ORGANIZATION_SUSPENDED").await;
    let request = v1::ResumeOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    one.operator().organizations().resume_organization(request).await.unwrap();
    eventually("who is resumed goes on", || async move { knock(client).await.is_ok() }).await;

    // Removed, and added again: the old token does not come back.
    let request = v1::RemoveMemberRequest { user_id: user.clone(), ..Default::default() };
    tenant.client.members().remove_member(request).await.unwrap();
    until(&two, &token, Code::PermissionDenied, "NOT_A_MEMBER").await;
    let request = v1::AddMemberRequest { user_id: user.clone(), role: "owner".into(), ..Default::default() };
    one.operator()
        .members()
        .add_member(v1::AddMemberRequest { organization_id: tenant.id.clone(), ..request })
        .await
        .unwrap();
    eventually("who was added again is known", || async {
        refused(knock(&two.anonymous().token(&token)).await).reason != "NOT_A_MEMBER"
    })
    .await;
    until(&two, &token, Code::Unauthenticated, "TOKEN_REVOKED").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    known(&two, &token).await;

    let request = v1::DeactivateUserRequest { user_id: user.clone(), ..Default::default() };
    one.operator().users().deactivate_user(request).await.unwrap();
    until(&two, &token, Code::PermissionDenied, "NOT_A_MEMBER").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_tokens_are_refused_and_later_ones_are_not() {
    let (one, two, tenant, user) = replicas("member").await;
    let other = one.tenant("other").await;
    let add = v1::AddMemberRequest {
        organization_id: other.id.clone(),
        user_id: user.clone(),
        role: "viewer".into(),
        ..Default::default()
    };
    one.operator().members().add_member(add).await.unwrap();
    let elsewhere = issue(&other.client, &user).await.unwrap();
    let token = issue(&tenant.client, &user).await.unwrap();
    known(&two, &token).await;
    known(&two, &elsewhere).await;
    let colleague = tenant.member(&one, "bob", "member").await;
    let theirs = issue(&tenant.client, &colleague).await.unwrap();

    revoke(&tenant.client, "", &user).await.unwrap();
    // At once where it was revoked; and what is issued then is good at once, also where the old is still known.
    let refusal = refused(knock(&one.anonymous().token(&token)).await);
    assert!(refusal.is(Code::Unauthenticated, "TOKEN_REVOKED"), "{refusal:?}");
    known(&one, &issue(&tenant.client, &user).await.unwrap()).await;
    until(&two, &token, Code::Unauthenticated, "TOKEN_REVOKED").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    known(&two, &token).await;
    known(&two, &elsewhere).await;

    revoke(&one.operator(), "", &user).await.unwrap();
    until(&two, &token, Code::Unauthenticated, "TOKEN_REVOKED").await;
    until(&two, &elsewhere, Code::Unauthenticated, "TOKEN_REVOKED").await;
    known(&two, &issue(&tenant.client, &user).await.unwrap()).await;
    known(&two, &theirs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_revocation_counts_however_many_come_at_once() {
    let (one, two, tenant, user) = replicas("member").await;
    let generation = async || -> i64 {
        let sql =
            "SELECT token_generation FROM tenancy.members WHERE organization_id = $1::uuid AND user_id = $2::uuid";
        sqlx::query_scalar(sql).bind(&tenant.id).bind(&user).fetch_one(&one.database.superuser).await.unwrap()
    };
    let before = generation().await;
    let clients = [one.client(&tenant.key), two.client(&tenant.key), one.operator(), two.operator()];
    let revocations = clients.iter().cycle().take(8).map(|client| revoke(client, "acme", &user));
    futures_util::future::join_all(revocations).await.into_iter().for_each(Result::unwrap);
    assert_eq!(generation().await, before + 8);
    let audited = sqlx::query_scalar("SELECT count(*) FROM tenancy.audit_events WHERE action = 'tokens.revoke'");
    let audited: i64 = audited.fetch_one(&one.database.superuser).await.unwrap();
    assert_eq!(audited, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_moment_ago_is_good_where_the_revocation_before_it_is_not_known_yet() {
    let (_one, two, tenant, user) = replicas("member").await;
    known(&two, &issue(&tenant.client, &user).await.unwrap()).await;
    // Behind the service's back, so that the other replica hears nothing of it: its second of belief has to be over.
    two.clock.advance(Duration::from_secs(2));
    revoke_unheard(&two, &tenant, &user).await;
    let third = World::on(two.database.clone(), &[]).await;
    let token = issue(&third.client(&tenant.key), &user).await.unwrap();
    known(&two, &token).await;
}

async fn revoke_unheard(world: &World, tenant: &Tenant, user: &str) {
    let sql = "UPDATE tenancy.members SET token_generation = token_generation + 1
               WHERE organization_id = $1::uuid AND user_id = $2::uuid";
    let revoke = sqlx::query(sql).bind(&tenant.id).bind(user);
    assert_eq!(revoke.execute(&world.database.superuser).await.unwrap().rows_affected(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_the_key_becomes_of_its_tokens() {
    let (_one, two, tenant, _) = replicas("member").await;
    let new = async || {
        let (key, secret) = create(&tenant.client, secret_key(&["organizations.read"])).await.unwrap();
        let token = exchange(&tenant.client, &secret).await.unwrap();
        known(&two, &token).await;
        (key, token)
    };
    let (key, token) = new().await;
    update(&tenant.client, v1::ApiKey { disabled: true, ..key }, &["disabled"]).await.unwrap();
    until(&two, &token, Code::Unauthenticated, "API_KEY_DISABLED").await;
    let (key, token) = new().await;
    let fewer = v1::ApiKey { scopes: vec!["usage.read".into()], ..key };
    let key = update(&tenant.client, fewer, &["scopes"]).await.unwrap();
    let client = &two.anonymous().token(&token);
    eventually("it has fewer scopes", || async move { knock(client).await.is_err() }).await;
    assert!(refused(knock(client).await).is(Code::PermissionDenied, "PERMISSION_MISSING"));
    let wanted = v1::ApiKey { scopes: vec!["organizations.read".into()], ..key };
    let key = update(&tenant.client, wanted, &["scopes"]).await.unwrap();
    eventually("it has them again", || async move { knock(client).await.is_ok() }).await;
    let bound = v1::ApiKey { allowed_ip_ranges: vec!["192.0.2.0/24".into()], ..key };
    let key = update(&tenant.client, bound, &["allowed_ip_ranges"]).await.unwrap();
    until_bound(client).await;
    keys::revoke(&tenant.client, &key.api_key_id).await.unwrap();
    until_revoked(client).await;
    let (key, token) = new().await;
    keys::rotate(&tenant.client, &key.api_key_id, Some(0)).await.unwrap();
    until(&two, &token, Code::Unauthenticated, "TOKEN_REVOKED").await;
}

/// What a key is bound to afterwards binds its tokens too.
async fn until_bound(client: &Client) {
    eventually("it is bound to addresses", || async move { knock(client).await.is_err() }).await;
    assert!(refused(knock(client).await).is(Code::PermissionDenied, "IP_NOT_ALLOWED"));
}

async fn until_revoked(client: &Client) {
    eventually(
        "it is revoked",
        || async move { refused(knock(client).await).is(Code::Unauthenticated, "API_KEY_REVOKED") },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_token() {
    let (one, _two, tenant, user) = replicas("member").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    for (what, reason) in [("it is over", "TOKEN_EXPIRED"), ("it is revoked", "TOKEN_REVOKED")] {
        let client = one.anonymous().token(&issue(&tenant.client, &user).await.unwrap());
        let mut producer = Producer::open(&client).await.unwrap();
        producer.send(1, events(what, 2, one.clock.now())).await;
        assert_eq!(producer.acknowledgement().await.unwrap().unwrap().1, ["RECORDED", "RECORDED"]);
        if reason == "TOKEN_EXPIRED" {
            one.clock.advance(Duration::from_secs(301));
        } else {
            revoke(&tenant.client, "", &user).await.unwrap();
        }
        let refusal = refused(producer.end().await);
        assert!(refusal.is(Code::Unauthenticated, reason), "{what}: {refusal:?}");
    }
}
