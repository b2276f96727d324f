//! What a token says, and who gets one.

use jsonwebtoken::jwk::{JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use prost_types::Duration;
use serde_json::Value;
use tenancy::auth::permission::{Permission, Permissions};
use tenancy::model::member::Role;
use tenancy::proto::v1;
use tonic::Code;

use super::{claims, issue, issue_with, key_set, member, names, part, permissions};
use crate::harness::{World, refused};

/// What no token has.
const NEVER: [Permission; 3] = [Permission::UsersActAs, Permission::TokensIssue, Permission::TokensExchange];

/// All that a role has and a token can have.
fn of_role(role: Role) -> Vec<String> {
    names(Permissions::of_role(role).iter().filter(|permission| !NEVER.contains(permission)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_says_who_where_and_what() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "member").await;
    let request = v1::IssueTokenRequest { user_id: user.clone(), ..Default::default() };
    let issued = tenant.client.tokens().issue_token(request).await.unwrap().into_inner();
    let (header, said) = (part(&issued.token, 0), claims(&issued.token));
    let set = key_set(&world).await;
    assert_eq!(header, serde_json::json!({"typ": "JWT", "alg": "EdDSA", "kid": set[0]["kid"]}));
    for (name, expected) in [
        ("iss", "tenancy"),
        ("aud", "tenancy"),
        ("kind", "user"),
        ("sub", &user),
        ("tid", &tenant.id),
        ("org", "acme"),
        ("plan", "free"),
        ("role", "member"),
    ] {
        assert_eq!(said[name], expected, "{name}: {said}");
    }
    assert_eq!(permissions(&issued.token), of_role(Role::Member));
    let time = |name: &str| said[name].as_i64().unwrap();
    assert_eq!((time("nbf"), time("exp") - time("iat")), (time("iat"), 300));
    assert_eq!(issued.expire_time.unwrap().seconds, time("exp"));
    assert!(said.get("key").is_none() && said["jti"].as_str().unwrap().len() == 36);
    let another = issue(&tenant.client, &user).await.unwrap();
    assert_ne!(claims(&another)["jti"], said["jti"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_the_key_set_can_check_a_token_offline() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "viewer").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    let set = key_set(&world).await;
    // As any library reads the set, with nothing but its own names.
    let read: JwkSet = serde_json::from_value(serde_json::json!({ "keys": set })).unwrap();
    let key = read.find(&decode_header(&token).unwrap().kid.unwrap()).unwrap();
    assert_eq!(key.common.key_algorithm, Some(KeyAlgorithm::EdDSA));
    assert_eq!(key.common.public_key_use, Some(PublicKeyUse::Signature));
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["tenancy"]);
    validation.set_issuer(&["tenancy"]);
    let decoded = decode::<Value>(&token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap();
    assert_eq!(decoded.claims["sub"], user);
    let mut other = key.clone();
    if let jsonwebtoken::jwk::AlgorithmParameters::OctetKeyPair(parameters) = &mut other.algorithm {
        parameters.x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".into();
    }
    assert!(decode::<Value>(&token, &DecodingKey::from_jwk(&other).unwrap(), &validation).is_err());

    let request = v1::GetJsonWebKeySetRequest {};
    let by_rpc = tenant.client.tokens().get_json_web_key_set(request).await.unwrap().into_inner().keys;
    assert_eq!(by_rpc.len(), set.len());
    for (rpc, http) in by_rpc.iter().zip(&set) {
        let v1::JsonWebKey { kty, crv, x, kid, alg, r#use } = rpc;
        let same = serde_json::json!({"kty": kty, "crv": crv, "x": x, "kid": kid, "alg": alg, "use": r#use});
        assert_eq!(*http, same);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hands_out_in_a_token_what_they_do_not_hold() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "admin").await;
    let all = of_role(Role::Admin);
    let tenant_issuer = tenant.with_scopes(&world, &[Permission::TokensIssue, Permission::UsageRead]).await;
    let platform = world.service(&[Permission::TokensIssue], &[&tenant.id]).await;
    let request = |names: &[&str]| v1::IssueTokenRequest {
        organization_id: "acme".into(),
        user_id: user.clone(),
        permissions: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    for (client, wanted, expected) in [
        (&tenant.client, &[][..], all.clone()),
        (&tenant_issuer, &[], vec!["usage.read".to_owned()]),
        (&platform, &[], all.clone()),
        (&world.operator(), &[], all.clone()),
        (
            &tenant.client,
            &["usage.read", "members.read", "organizations.create", "tokens.issue"],
            vec!["members.read".to_owned(), "usage.read".to_owned()],
        ),
        (&tenant_issuer, &["members.read"], Vec::new()),
    ] {
        let token = issue_with(client, request(wanted)).await.unwrap();
        assert_eq!(permissions(&token), expected, "{wanted:?}");
    }
    // Who acts for somebody hands out what that one has: only owners issue tokens at all.
    let owner = tenant.member(&world, "owner", "owner").await;
    for client in [&tenant.client, &world.operator()] {
        let refusal = refused(issue_with(&client.clone().acting(&user), request(&[])).await);
        assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
        issue_with(&client.clone().acting(&owner), request(&[])).await.unwrap();
    }
    let viewer = tenant.member(&world, "viewer", "viewer").await;
    let issuer = world.service(&[Permission::TokensIssue, Permission::UsersActAs], &[]).await.acting(&owner);
    let wide = v1::IssueTokenRequest { user_id: viewer, ..request(&[]) };
    assert!(permissions(&issue_with(&issuer, wide).await.unwrap()).is_empty(), "the key's, the owner's, the viewer's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_active_member_of_an_open_organization_gets_one() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "member").await;
    let (other, stranger) = member(&world, "other", "owner").await;
    let nobody = "018f6d2e-0000-7000-8000-00000000dead";
    let operator = world.operator();
    let by_operator = |user_id: &str| v1::IssueTokenRequest {
        organization_id: "acme".into(),
        user_id: user_id.into(),
        ..Default::default()
    };
    for user_id in [&*stranger, nobody] {
        for outcome in [issue(&tenant.client, user_id).await, issue_with(&operator, by_operator(user_id)).await] {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::PermissionDenied, "NOT_A_MEMBER"), "{refusal:?}");
        }
    }
    // A tenant's key reaches no other organization, whoever the user is.
    for user_id in [&user, &stranger] {
        let refusal = refused(issue_with(&other.client, by_operator(user_id)).await);
        assert!(refusal.is(Code::NotFound, "ORGANIZATION_NOT_FOUND"), "{refusal:?}");
    }
    let request = v1::SuspendMemberRequest { user_id: user.clone(), ..Default::default() };
    tenant.client.members().suspend_member(request).await.unwrap();
    let refusal = refused(issue(&tenant.client, &user).await);
    assert!(refusal.is(Code::PermissionDenied, "MEMBER_SUSPENDED"), "{refusal:?}");
    let gone = tenant.member(&world, "gone", "member").await;
    let request = v1::DeactivateUserRequest { user_id: gone.clone(), ..Default::default() };
    operator.users().deactivate_user(request).await.unwrap();
    assert!(refused(issue(&tenant.client, &gone).await).is(Code::PermissionDenied, "NOT_A_MEMBER"));
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    operator.organizations().suspend_organization(request).await.unwrap();
    let refusal = refused(issue_with(&operator, by_operator(&user)).await);
    assert!(refusal.is(Code::PermissionDenied, "ORGANIZATION_SUSPENDED"), "{refusal:?}");
    // All that is wrong, at once.
    let request = v1::IssueTokenRequest {
        user_id: "ida".into(),
        permissions: vec!["root".into()],
        lifetime: Some(Duration::default()),
        ..Default::default()
    };
    assert_eq!(refused(issue_with(&other.client, request).await).fields, ["user_id", "lifetime", "permissions[0]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lives_for_as_long_as_is_asked_and_never_longer_than_is_configured() {
    let world = World::start_with(&["--token-lifetime", "2m", "--token-issuer", "https://id.example"]).await;
    let (tenant, user) = member(&world, "acme", "member").await;
    for (asked, expected) in
        [(None, 120), (Some((30, 0)), 30), (Some((1, 500_000_000)), 1), (Some((i64::MAX / 1000, 0)), 120)]
    {
        let lifetime = asked.map(|(seconds, nanos)| Duration { seconds, nanos });
        let request = v1::IssueTokenRequest { user_id: user.clone(), lifetime, ..Default::default() };
        let said = claims(&issue_with(&tenant.client, request).await.unwrap());
        let lives = said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap();
        // A second and a half ends in a second or in two.
        assert!(lives == expected || (asked == Some((1, 500_000_000)) && lives == 2), "{asked:?}: {said}");
        assert_eq!(said["iss"], "https://id.example");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_to_keep_keys_with_none_are_issued_and_all_else_works() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "member").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    let bare = World::on(world.database.clone(), &["--token-encryption-key="]).await;
    let client = bare.client(&tenant.key);
    for outcome in [issue(&client, &user).await, super::exchange(&client, &tenant.key).await] {
        let refusal = refused(outcome);
        assert!(refusal.is(Code::FailedPrecondition, "TOKENS_NOT_CONFIGURED"), "{refusal:?}");
    }
    // To verify takes no secret.
    assert_eq!(key_set(&bare).await, key_set(&world).await);
    crate::harness::keys::knock(&bare.anonymous().token(&token)).await.unwrap();
    let empty = World::start_with(&["--token-encryption-key="]).await;
    assert_eq!(key_set(&empty).await, Vec::<Value>::new());
}
