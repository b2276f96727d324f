//! Who is erased leaves an id.

use sqlx::AssertSqlSafe;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{NOBODY, create, get, ids, recorded, update};
use crate::harness::{Client, World, eventually, refused};

async fn erase(client: &Client, user_id: &str, etag: &str) -> Result<v1::User, Status> {
    let request = v1::EraseUserRequest { user_id: user_id.into(), etag: etag.into() };
    Ok(client.users().erase_user(request).await?.into_inner().user.unwrap())
}

/// The tables that hold a text anywhere.
async fn holding(world: &World, text: &str) -> Vec<String> {
    let superuser = &world.database.superuser;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'tenancy'::regnamespace
             AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    let mut holding = Vec::new();
    for table in tables {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM tenancy.{table} t WHERE t::text ILIKE $1
                 OR t::text LIKE '%' || encode(convert_to($2, 'UTF8'), 'hex') || '%')"
        );
        let found: bool = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(format!("%{text}%"))
            .bind(text)
            .fetch_one(superuser)
            .await
            .unwrap();
        if found {
            holding.push(table);
        }
    }
    holding
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_known_any_more_of_who_was_erased() {
    let world = World::start().await;
    let operator = world.operator();
    let tenant = world.tenant("acme").await;
    let person = v1::User {
        email: "Wilhelmina@secret.example".into(),
        display_name: "Wilhelmina Secret".into(),
        avatar_uri: "https://cdn.example.com/wilhelmina.png".into(),
        identity: Some(v1::ExternalIdentity { provider: "idp".into(), subject: "wilhelmina-7".into() }),
        ..v1::User::default()
    };
    // With a request id, so that the reply is kept.
    let request = v1::CreateUserRequest {
        user: Some(person.clone()),
        request_id: super::REQUEST_ID.into(),
        ..Default::default()
    };
    let created = operator.users().create_user(request).await.unwrap().into_inner().user.unwrap();
    let user_id = created.user_id.clone();
    let request = v1::AddMemberRequest {
        organization_id: tenant.id.clone(),
        user_id: user_id.clone(),
        role: "owner".into(),
        ..Default::default()
    };
    operator.members().add_member(request).await.unwrap();
    // Invited elsewhere: once with an answer, once without.
    let invite = async |slug: &str| {
        let elsewhere = world.tenant(slug).await;
        let invitation = v1::NewInvitation {
            email: "WILHELMINA@secret.example".into(),
            role: "viewer".into(),
            ..v1::NewInvitation::default()
        };
        let request = v1::CreateInvitationRequest { invitation: Some(invitation), ..Default::default() };
        let created = elsewhere.client.invitations().create_invitation(request).await.unwrap().into_inner();
        (elsewhere, created.invitation.unwrap().invitation_id, created.delivery.unwrap().token)
    };
    let (joined, joined_id, token) = invite("joined").await;
    let request =
        v1::AcceptInvitationRequest { token, user_id: user_id.clone(), ..v1::AcceptInvitationRequest::default() };
    operator.invitations().accept_invitation(request).await.unwrap();
    let (waiting, waiting_id, open) = invite("waiting").await;
    let acting = tenant.client.clone().acting(&user_id);
    let message = v1::User { user_id: user_id.clone(), display_name: "Wilhelmina S.".into(), ..v1::User::default() };
    update(&acting, "", message.clone(), &["display_name"]).await.unwrap();
    assert!(!holding(&world, "wilhelmina").await.is_empty());

    let refusal = refused(erase(&operator, &user_id, &created.etag).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    let erased = erase(&operator, &user_id, "").await.unwrap();
    assert_eq!(erased.status(), v1::UserStatus::Erased);
    assert!(erased.erase_time.is_some() && erased.identity.is_none() && erased.avatar_uri.is_empty(), "{erased:?}");
    assert_eq!(holding(&world, "wilhelmina").await, [""; 0], "tables that still name the person");
    assert_eq!(holding(&world, "Wilhelmina").await, [""; 0], "also in replies");

    // Nobody accepts for who is not known, and what was accepted stays so.
    let invitation = async |client: &Client, id: &str| {
        let request = v1::GetInvitationRequest { invitation_id: id.into(), ..Default::default() };
        client.invitations().get_invitation(request).await.unwrap().into_inner().invitation.unwrap()
    };
    let revoked = invitation(&waiting.client, &waiting_id).await;
    assert_eq!(revoked.status(), v1::InvitationStatus::Revoked);
    assert_eq!(revoked.email, format!("{waiting_id}@erased.invalid"));
    assert_eq!(invitation(&joined.client, &joined_id).await.status(), v1::InvitationStatus::Accepted);
    let request = v1::AcceptInvitationRequest { token: open, user: Some(person.clone()), ..Default::default() };
    let refusal = refused(operator.invitations().accept_invitation(request).await);
    assert!(refusal.is(Code::FailedPrecondition, "INVITATION_REVOKED"), "{refusal:?}");
    let request = v1::ListAuditEventsRequest {
        filter: format!("action = \"invitations.erase\" AND resource_id = \"{waiting_id}\""),
        ..Default::default()
    };
    assert_eq!(waiting.client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events.len(), 1);

    // The id stays, in the membership and in the records, and so does what was done.
    assert_eq!(get(&tenant.client, "", &user_id).await.unwrap().email, format!("{user_id}@erased.invalid"));
    for action in ["users.create", "users.update", "users.erase"] {
        assert_eq!(recorded(&world, action, &user_id).await, 1, "{action}");
    }
    assert_eq!(ids(&operator, "", "status = \"ERASED\"").await, [&*user_id]);
    eventually("nobody acts for who was erased", async || {
        refused(get(&acting, "", &user_id).await).is(Code::PermissionDenied, "NOT_A_MEMBER")
    })
    .await;
    // Twice is once; and there is no way back.
    assert_eq!(erase(&operator, &user_id, "").await.unwrap(), erased);
    let refusal = refused(update(&operator, "", message, &["display_name"]).await);
    assert!(refusal.is(Code::FailedPrecondition, "USER_ERASED"), "{refusal:?}");
    let request = v1::DeactivateUserRequest { user_id: user_id.clone(), etag: String::new() };
    let still = operator.users().deactivate_user(request).await.unwrap().into_inner().user.unwrap();
    assert_eq!(still.status(), v1::UserStatus::Erased);
    let other = world.tenant("other").await;
    let request = v1::AddMemberRequest {
        organization_id: other.id,
        user_id: user_id.clone(),
        role: "viewer".into(),
        ..Default::default()
    };
    let refusal = refused(operator.members().add_member(request).await);
    assert!(refusal.is(Code::FailedPrecondition, "USER_DEACTIVATED"), "{refusal:?}");
    // The address and the identity are free for somebody else.
    assert_ne!(create(&operator, person).await.unwrap().user_id, user_id);
    let refusal = refused(erase(&operator, NOBODY, "").await);
    assert!(refusal.is(Code::NotFound, "USER_NOT_FOUND"), "{refusal:?}");
}
