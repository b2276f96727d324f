//! The cases of roles and of what members may do by them, and what a tenant has of them.

use prost_types::FieldMask;
use tenancy::proto::v1;

use super::{Case, Furnished, case};
use crate::harness::Tenant;

/// The key of a tenant's own role: another tenant has no such role.
fn key(tenant: &Tenant) -> String {
    format!("{}-role", tenant.slug)
}

/// Makes the role.
pub async fn create(tenant: &Tenant) {
    let role = v1::Role {
        key: key(tenant),
        display_name: "A role".into(),
        permissions: vec!["usage.read".into()],
        ..v1::Role::default()
    };
    let request = v1::CreateRoleRequest { role: Some(role), ..Default::default() };
    tenant.client.roles().create_role(request).await.unwrap();
}

/// The cases, for a victim.
pub fn cases(victim: &Furnished) -> Vec<Case> {
    let organization_id = || victim.tenant.id.clone();
    let user_id = || victim.user_id.clone();
    let key = || key(&victim.tenant);
    let mask = |path: &str| Some(FieldMask { paths: vec![path.into()] });
    let role = |organization_id: String| v1::Role {
        organization_id,
        key: key(),
        display_name: "Taken".into(),
        ..v1::Role::default()
    };
    let member = |organization_id: String| v1::Member {
        organization_id,
        user_id: user_id(),
        role: key(),
        ..v1::Member::default()
    };
    let question = || v1::PermissionQuestion { user_id: user_id(), permission: "usage.read".into() };
    vec![
        // That it names no team and no address of another tenant has tests of its own in member/batch.rs.
        case("/tenancy.v1.MemberService/BatchAddMembers").organization(v1::BatchAddMembersRequest {
            organization_id: organization_id(),
            members: vec![v1::NewMember { user_id: user_id(), role: "viewer".into(), ..v1::NewMember::default() }],
            ..Default::default()
        }),
        case("/tenancy.v1.MemberService/UpdateMember")
            .organization(v1::UpdateMemberRequest {
                member: Some(member(organization_id())),
                update_mask: mask("role"),
            })
            .resource(
                v1::UpdateMemberRequest { member: Some(member(String::new())), update_mask: mask("role") },
                "MEMBER_NOT_FOUND",
            ),
        case("/tenancy.v1.MemberService/SuspendMember")
            .organization(v1::SuspendMemberRequest {
                organization_id: organization_id(),
                user_id: user_id(),
                ..Default::default()
            })
            .resource(v1::SuspendMemberRequest { user_id: user_id(), ..Default::default() }, "MEMBER_NOT_FOUND"),
        case("/tenancy.v1.MemberService/ReactivateMember")
            .organization(v1::ReactivateMemberRequest {
                organization_id: organization_id(),
                user_id: user_id(),
                ..Default::default()
            })
            .resource(v1::ReactivateMemberRequest { user_id: user_id(), ..Default::default() }, "MEMBER_NOT_FOUND"),
        // That it is an owner who asks comes before who it is asked for: member/transfer.rs has a test of its own.
        case("/tenancy.v1.MemberService/TransferOwnership").organization(v1::TransferOwnershipRequest {
            organization_id: organization_id(),
            user_id: user_id(),
            ..Default::default()
        }),
        // Answers about whoever is asked for that they are no member: permission.rs has a test of its own.
        case("/tenancy.v1.PermissionService/CheckPermission").organization(v1::CheckPermissionRequest {
            organization_id: organization_id(),
            questions: vec![question()],
        }),
        case("/tenancy.v1.PermissionService/ListPermissions")
            .organization(v1::ListPermissionsRequest { organization_id: organization_id(), user_id: user_id() })
            .resource(v1::ListPermissionsRequest { user_id: user_id(), ..Default::default() }, "MEMBER_NOT_FOUND"),
        case("/tenancy.v1.RoleService/CreateRole")
            .organization(v1::CreateRoleRequest { role: Some(role(organization_id())), ..Default::default() }),
        case("/tenancy.v1.RoleService/GetRole")
            .organization(v1::GetRoleRequest { organization_id: organization_id(), key: key() })
            .resource(v1::GetRoleRequest { key: key(), ..Default::default() }, "ROLE_NOT_FOUND"),
        case("/tenancy.v1.RoleService/ListRoles")
            .organization(v1::ListRolesRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.RoleService/UpdateRole")
            .organization(v1::UpdateRoleRequest {
                role: Some(role(organization_id())),
                update_mask: mask("display_name"),
            })
            .resource(
                v1::UpdateRoleRequest { role: Some(role(String::new())), update_mask: mask("display_name") },
                "ROLE_NOT_FOUND",
            ),
        case("/tenancy.v1.RoleService/DeleteRole")
            .organization(v1::DeleteRoleRequest {
                organization_id: organization_id(),
                key: key(),
                ..Default::default()
            })
            .resource(v1::DeleteRoleRequest { key: key(), ..Default::default() }, "ROLE_NOT_FOUND"),
    ]
}
