//! Requests that come with a token.

use std::collections::BTreeMap;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;

use crate::harness::World;
use crate::harness::keys::{create, secret_key};
use crate::quota::asks::{limit, limited, monthly};
use crate::sidecar::support::{Answer, Waiting, sidecar, waiting, with_key};
use crate::token::{exchange, issue, issue_with, member};

fn with_token(token: &str) -> Waiting {
    waiting().header("authorization", &format!("Bearer {token}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_is_told_which_user_it_is() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "viewer").await;
    let envoy = sidecar(&world).await;
    let request = v1::IssueTokenRequest {
        user_id: user.clone(),
        permissions: vec!["usage.read".into(), "members.read".into(), "members.add".into()],
        ..Default::default()
    };
    let token = issue_with(&tenant.client, request).await.unwrap();
    let expected: BTreeMap<String, String> = [
        ("x-tenant-id", tenant.id.as_str()),
        ("x-tenant-slug", "acme"),
        ("x-tenant-plan", "free"),
        ("x-tenant-role", "viewer"),
        ("x-user-id", &user),
        ("x-tenant-permissions", "members.read usage.read"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for request in [with_token(&token), with_key(&token), with_token(&token).raw()] {
        let passed = request.header("x-user-id", "spoofed").passes(&envoy).await;
        assert_eq!(passed.set, expected);
        assert_eq!(passed.removed, ["authorization", "x-acting-user", "x-api-key", "x-api-key-id"]);
        for (name, value) in [("tenant", Some(&*tenant.id)), ("user", Some(&*user)), ("api_key", None)] {
            assert_eq!(passed.metadata(name), value, "{name}");
        }
        let admission = passed.admission(&world).await;
        assert_eq!((admission.user.map(|id| id.to_string()), admission.api_key), (Some(user.clone()), None));
    }
    with_token(&token).route("permission", "usage.read").passes(&envoy).await;
    for missing in ["usage.write", "members.add", "organizations.read"] {
        let denied = with_token(&token).route("permission", missing).denied(&envoy).await;
        assert!(denied.is(403, "PERMISSION_MISSING") && denied.message.contains(missing), "{denied:?}");
    }
    // What a role has is what it has now.
    let request = v1::UpdateMemberRequest {
        member: Some(v1::Member {
            user_id: user.clone(),
            denied_permissions: vec!["usage.read".into()],
            ..v1::Member::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["denied_permissions".into()] }),
    };
    tenant.client.members().update_member(request).await.unwrap();
    let passed = with_token(&token).passes(&envoy).await;
    assert_eq!(passed.set["x-tenant-permissions"], "members.read");
    assert!(with_token(&token).route("permission", "usage.read").denied(&envoy).await.is(403, "PERMISSION_MISSING"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_exchanged_is_the_key() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let (key, secret) =
        create(&tenant.client, secret_key(&["usage.write", "usage.read", "users.act_as"])).await.unwrap();
    let token = exchange(&tenant.client, &secret).await.unwrap();
    let passed = with_token(&token).passes(&envoy).await;
    assert_eq!(passed.set["x-api-key-id"], key.api_key_id);
    assert_eq!(passed.set["x-tenant-permissions"], "usage.write usage.read", "as the vocabulary has them");
    assert_eq!(passed.removed, ["authorization", "x-acting-user", "x-api-key", "x-tenant-role", "x-user-id"]);
    assert_eq!(passed.metadata("api_key"), Some(&*key.api_key_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_organization_than_the_envoys_is_like_none() {
    let world = World::start().await;
    let (ours, theirs) = (member(&world, "ours", "owner").await, member(&world, "theirs", "owner").await);
    let envoy = world.service(&[Permission::Sidecar], &[&ours.0.id]).await;
    with_token(&issue(&ours.0.client, &ours.1).await.unwrap()).passes(&envoy).await;
    let token = issue(&theirs.0.client, &theirs.1).await.unwrap();
    let exchanged = exchange(&theirs.0.client, &theirs.0.key).await.unwrap();
    let request = v1::SuspendOrganizationRequest { organization_id: theirs.0.id.clone(), ..Default::default() };
    for suspended in [false, true] {
        for token in [&token, &exchanged] {
            let denied = with_token(token).denied(&envoy).await;
            assert!(denied.is(401, "TOKEN_INVALID"), "suspended {suspended}: {denied:?}");
        }
        world.operator().organizations().suspend_organization(request.clone()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_the_user_apply_in_the_same_hop() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let of_user = v1::LimitRule { subject_kind: v1::SubjectKind::User.into(), ..monthly(2) };
    limit(&world, &tenant, of_user).await;
    let envoy = sidecar(&world).await;
    let (ida, bob) = (tenant.member(&world, "ida", "member").await, tenant.member(&world, "bob", "member").await);
    for user in [&ida, &bob] {
        // Of one user, whichever token they come with.
        for passes in [true, true, false, false] {
            let token = issue(&tenant.client, user).await.unwrap();
            match with_token(&token).route("meter", "calls").ask(&envoy).await {
                Answer::Passed(_) => assert!(passes),
                Answer::Denied(denied) => assert!(!passes && denied.is(429, "LIMIT_EXCEEDED"), "{denied:?}"),
            }
        }
    }
}
