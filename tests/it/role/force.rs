//! When a change is in force: on every replica, whatever its caches hold (I8).

use tenancy::proto::v1;

use super::{PERMISSIONS, change, create, role, update, with_permissions, with_role};
use crate::harness::{Client, World, eventually, refused};

const NEVER_STALE: &[&str] = &["--cache-lifetime", "1h"];

/// Why the audit cannot be read; empty when it can.
async fn audit(client: &Client) -> String {
    match client.audit().list_audit_events(v1::ListAuditEventsRequest::default()).await {
        Ok(_) => String::new(),
        Err(status) => refused::<()>(Err(status)).reason,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_in_force_on_every_replica() {
    let world = World::start_with(NEVER_STALE).await;
    let replica = World::on(world.database.clone(), NEVER_STALE).await;
    let tenant = world.tenant("acme").await;
    create(&tenant.client, role("auditor", &["audit.read"])).await.unwrap();
    let ida = tenant.member(&world, "ida", "auditor").await;
    let clients = [tenant.client.clone().acting(&ida), replica.client(&tenant.key).acting(&ida)];
    let expect = async |what: &str, expected: &str| {
        // The replica that changed it knows at once.
        assert_eq!(audit(&clients[0]).await, expected, "{what}");
        eventually(what, async || audit(&clients[1]).await == expected).await;
    };
    expect("the role", "").await;
    update(&tenant.client, role("auditor", &["usage.read"]), "permissions").await.unwrap();
    expect("the role without the permission", "PERMISSION_MISSING").await;
    change(&tenant.client, with_permissions(&ida, &["audit.read"], &[]), PERMISSIONS).await.unwrap();
    expect("an extra permission", "").await;
    change(&tenant.client, with_permissions(&ida, &["audit.read"], &["audit.read"]), PERMISSIONS).await.unwrap();
    expect("a denied permission", "PERMISSION_MISSING").await;
    change(&tenant.client, with_role(&ida, "admin"), &["role"]).await.unwrap();
    expect("a denied permission in another role", "PERMISSION_MISSING").await;
    change(&tenant.client, with_permissions(&ida, &[], &[]), PERMISSIONS).await.unwrap();
    expect("the other role", "").await;

    let suspend = v1::SuspendMemberRequest { user_id: ida.clone(), ..Default::default() };
    tenant.client.members().suspend_member(suspend).await.unwrap();
    expect("a suspension", "MEMBER_SUSPENDED").await;
    let reactivate = v1::ReactivateMemberRequest { user_id: ida.clone(), ..Default::default() };
    tenant.client.members().reactivate_member(reactivate).await.unwrap();
    expect("its end", "").await;
}
