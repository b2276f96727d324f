//! Who may hand out what, and take it away: nobody more than they hold.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{PERMISSIONS, change, create, delete, role, update, with_permissions, with_role};
use crate::harness::keys::{self, secret_key};
use crate::harness::{Client, Tenant, World, refused};

/// What a lead of these tests holds.
const LEAD: &[&str] = &[
    "members.add",
    "members.read",
    "members.update",
    "members.suspend",
    "members.remove",
    "roles.read",
    "roles.manage",
    "keys.create",
    "usage.read",
];

async fn add(client: &Client, user_id: &str, role: &str) -> Result<(), Status> {
    let request = v1::AddMemberRequest { user_id: user_id.into(), role: role.into(), ..Default::default() };
    client.members().add_member(request).await.map(drop)
}

async fn suspend(client: &Client, user_id: &str) -> Result<(), Status> {
    let request = v1::SuspendMemberRequest { user_id: user_id.into(), ..Default::default() };
    client.members().suspend_member(request).await.map(drop)
}

async fn reactivate(client: &Client, user_id: &str) -> Result<(), Status> {
    let request = v1::ReactivateMemberRequest { user_id: user_id.into(), ..Default::default() };
    client.members().reactivate_member(request).await.map(drop)
}

async fn remove(client: &Client, user_id: &str) -> Result<(), Status> {
    let request = v1::RemoveMemberRequest { user_id: user_id.into(), ..Default::default() };
    client.members().remove_member(request).await.map(drop)
}

async fn user(world: &World, name: &str) -> String {
    let user = v1::User { email: format!("{name}@example.com"), display_name: name.into(), ..v1::User::default() };
    let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
    world.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap().user_id
}

/// A tenant with the roles `lead` and `clerk`, who have less than an admin and are not comparable with `member`; and the
/// id of somebody in the first.
async fn with_lead(world: &World) -> (Tenant, String) {
    let tenant = world.tenant("acme").await;
    create(&tenant.client, role("lead", LEAD)).await.unwrap();
    create(&tenant.client, role("clerk", &["usage.read"])).await.unwrap();
    create(&tenant.client, role("auditor", &["usage.read", "audit.read"])).await.unwrap();
    let lead = tenant.member(world, "lead", "lead").await;
    (tenant, lead)
}

#[track_caller]
fn escalates<T: std::fmt::Debug>(outcome: Result<T, Status>, missing: &str) {
    let refusal = refused(outcome);
    assert!(refusal.is(Code::PermissionDenied, "PRIVILEGE_ESCALATION"), "{refusal:?}");
    assert!(refusal.message.contains(missing), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hands_out_what_they_do_not_hold() {
    let world = World::start().await;
    let (tenant, lead_id) = with_lead(&world).await;
    let lead = tenant.client.clone().acting(&lead_id);
    let (clerk, new) = (tenant.member(&world, "clerk", "clerk").await, user(&world, "new").await);

    // Roles: made, and changed.
    escalates(create(&lead, role("mighty", &["usage.read", "audit.read"])).await, "audit.read");
    escalates(update(&lead, role("clerk", &["usage.read", "audit.read"]), "permissions").await, "audit.read");
    escalates(update(&lead, role("lead", &[LEAD, &["keys.rotate"]].concat()), "permissions").await, "keys.rotate");
    create(&lead, role("lesser", &["usage.read", "roles.read"])).await.unwrap();
    update(&lead, role("lesser", &["members.read"]), "permissions").await.unwrap();
    // Given.
    // Of so many that they do not fit into a message, the first.
    escalates(add(&lead, &new, "admin").await, "organizations.update");
    escalates(add(&lead, &new, "auditor").await, "audit.read");
    for id in [&clerk, &lead_id] {
        escalates(change(&lead, with_role(id, "admin"), &["role"]).await, "organizations.update");
        escalates(change(&lead, with_permissions(id, &["audit.read"], &[]), PERMISSIONS).await, "audit.read");
        let refusal = refused(change(&lead, with_role(id, "owner"), &["role"]).await);
        assert!(refusal.is(Code::PermissionDenied, "OWNER_REQUIRED"), "{refusal:?}");
    }
    add(&lead, &new, "clerk").await.unwrap();
    change(&lead, with_permissions(&new, &["roles.read"], &[]), PERMISSIONS).await.unwrap();
    change(&lead, with_role(&new, "lesser"), &["role"]).await.unwrap();
    // Keys, whose scopes are whole from the start.
    let refusal = refused(keys::create(&lead, secret_key(&["usage.read", "audit.read"])).await);
    assert!(refusal.is(Code::PermissionDenied, "SCOPE_NOT_HELD"), "{refusal:?}");
    keys::create(&lead, secret_key(&["usage.read", "members.read"])).await.unwrap();

    // What is denied cannot be given by the denied, nor got back.
    change(&tenant.client, with_permissions(&lead_id, &[], &["usage.read"]), PERMISSIONS).await.unwrap();
    escalates(create(&lead, role("another", &["usage.read"])).await, "usage.read");
    escalates(change(&lead, with_permissions(&lead_id, &[], &[]), PERMISSIONS).await, "usage.read");
    escalates(change(&lead, with_role(&clerk, "lesser"), &["role"]).await, "usage.read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_what_they_do_not_hold() {
    let world = World::start().await;
    let (tenant, lead_id) = with_lead(&world).await;
    let lead = tenant.client.clone().acting(&lead_id);
    let admin = tenant.member(&world, "admin", "admin").await;
    let auditor = tenant.member(&world, "auditor", "auditor").await;
    let extra = tenant.member(&world, "extra", "clerk").await;
    change(&tenant.client, with_permissions(&extra, &["audit.read"], &[]), PERMISSIONS).await.unwrap();
    for (id, missing) in [(&admin, "organizations.update"), (&auditor, "audit.read"), (&extra, "audit.read")] {
        escalates(change(&lead, with_role(id, "clerk"), &["role"]).await, missing);
        escalates(change(&lead, with_permissions(id, &[], &["audit.read"]), PERMISSIONS).await, missing);
        escalates(suspend(&lead, id).await, missing);
        escalates(remove(&lead, id).await, missing);
        suspend(&tenant.client, id).await.unwrap();
        escalates(reactivate(&lead, id).await, missing);
    }
    escalates(update(&lead, role("auditor", &["usage.read"]), "permissions").await, "audit.read");
    escalates(delete(&lead, "auditor", "").await, "audit.read");

    // From whom holds no more they do, and from themselves whatever they like.
    let equal = tenant.member(&world, "equal", "lead").await;
    suspend(&lead, &equal).await.unwrap();
    reactivate(&lead, &equal).await.unwrap();
    change(&lead, with_role(&equal, "clerk"), &["role"]).await.unwrap();
    remove(&lead, &equal).await.unwrap();
    change(&lead, with_permissions(&lead_id, &[], &["keys.create"]), PERMISSIONS).await.unwrap();
    remove(&lead, &lead_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_and_the_platform_hold_everything() {
    let world = World::start().await;
    let (tenant, _) = with_lead(&world).await;
    let owner = tenant.member(&world, "owner", "owner").await;
    let narrow = [Permission::UsersActAs, Permission::MembersAdd, Permission::MembersUpdate, Permission::MembersRemove];
    let acting = tenant.with_scopes(&world, &narrow).await;
    let clerk = tenant.member(&world, "clerk", "clerk").await;
    // The same key for nobody holds what it says.
    escalates(change(&acting, with_role(&clerk, "auditor"), &["role"]).await, "audit.read");
    change(&acting.acting(&owner), with_role(&clerk, "auditor"), &["role"]).await.unwrap();
    let mut of_platform = with_role(&clerk, "admin");
    of_platform.organization_id.clone_from(&tenant.id);
    change(&world.service(&narrow, &[]).await, of_platform, &["role"]).await.unwrap();

    // An owner has all there is; nothing is added to that or taken from it.
    for member in [with_permissions(&owner, &["audit.read"], &[]), with_permissions(&owner, &[], &["audit.read"])] {
        let refusal = refused(change(&tenant.client.clone().acting(&owner), member, PERMISSIONS).await);
        assert!(refusal.is(Code::FailedPrecondition, "OWNER_HAS_ALL"), "{refusal:?}");
    }
    let client = tenant.client.clone().acting(&owner);
    change(&client, with_permissions(&clerk, &[], &["audit.read"]), PERMISSIONS).await.unwrap();
    let promoted = change(&client, with_role(&clerk, "owner"), &["role"]).await.unwrap();
    assert_eq!((promoted.extra_permissions.len(), promoted.denied_permissions.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_change_is_named() {
    let world = World::start().await;
    let (tenant, lead) = with_lead(&world).await;
    let wrong = v1::Member {
        user_id: lead.clone(),
        role: "No".into(),
        extra_permissions: vec!["users.act_as".into()],
        denied_permissions: vec!["root".into()],
        ..v1::Member::default()
    };
    let refusal = refused(change(&tenant.client, wrong.clone(), &["*"]).await);
    let fields = ["member.denied_permissions[0]", "member.extra_permissions[0]", "member.role"];
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == fields, "{refusal:?}");
    for mask in [&[][..], &["status"], &["email"]] {
        assert_eq!(refused(change(&tenant.client, wrong.clone(), mask).await).fields, ["update_mask"]);
    }
    let stale = v1::Member { etag: "r99".into(), ..with_role(&lead, "viewer") };
    assert!(refused(change(&tenant.client, stale, &["role"]).await).is(Code::Aborted, "ETAG_MISMATCH"));
    // What is so already changes nothing.
    let same = change(&tenant.client, with_role(&lead, "lead"), &["role"]).await.unwrap();
    assert_eq!(same.create_time, same.update_time);
}
