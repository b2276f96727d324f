//! Requests that come to an Envoy with a token.

use tenancy::proto::v1;

use crate::envoy::harness::{Ask, Guest, Version, stage};
use crate::token::issue;

#[tokio::test]
async fn a_token_becomes_the_user_and_what_was_spoofed_is_gone() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "bearers").await;
    let user = guest.tenant.member(&stage.world, "ida", "member").await;
    let token = issue(&guest.tenant.client, &user).await.unwrap();
    for version in [Version::Http1, Version::Http2] {
        let ask = Ask::get("/known/deep").header("authorization", &format!("Bearer {token}"));
        let ask = ["x-user-id", "x-tenant-role", "x-api-key-id", "x-tenant-id", "x-acting-user"]
            .iter()
            .fold(ask, |ask, name| ask.header(name, "spoofed"));
        let answer = ask.send(stage.envoy.address, version).await;
        let upstream = |name| answer.upstream(name);
        assert_eq!(upstream("x-user-id"), Some(user.clone()), "{version:?}: {answer:?}");
        assert_eq!(upstream("x-tenant-role").as_deref(), Some("member"));
        assert_eq!(upstream("x-tenant-id"), Some(guest.tenant.id.clone()));
        assert!(upstream("x-tenant-permissions").unwrap().contains("usage.write"));
        assert_eq!((upstream("x-api-key-id"), upstream("authorization")), (None, None));
        assert!(!answer.text().contains("spoofed") && !answer.text().contains(&token), "{answer:?}");
    }
    let request = v1::SuspendMemberRequest { user_id: user.clone(), ..Default::default() };
    guest.tenant.client.members().suspend_member(request).await.unwrap();
    let ask = Ask::get("/known").header("authorization", &format!("Bearer {token}"));
    let answer = ask.send(stage.envoy.address, Version::Http1).await;
    assert_eq!((answer.status, answer.reason().as_str()), (403, "MEMBER_SUSPENDED"));
    let ask = Ask::get("/known").header("authorization", &format!("Bearer {}x", &token[..token.len() - 1]));
    let answer = ask.send(stage.envoy.address, Version::Http1).await;
    assert_eq!((answer.status, answer.reason().as_str()), (401, "TOKEN_INVALID"));
}
