//! The permission vocabulary, which of it the built-in roles have, and which permission each RPC takes: one table, which a
//! test compares with the descriptors.

mod set;

use std::fmt;
use std::str::FromStr;

use crate::error::Violation;

pub use self::set::Permissions;

macro_rules! permissions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $audience:ident;)*) => {
        /// What a caller may do, `<resource>.<verb>`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum Permission {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Permission {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As written in scopes.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// For people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)* }
            }

            /// Who can have it.
            #[must_use]
            pub const fn audience(self) -> Audience {
                match self { $(Self::$variant => Audience::$audience,)* }
            }
        }
    };
}

/// The least built-in role that holds a permission, or that no tenant does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Only keys of the platform.
    Platform,
    /// Owners, and keys.
    Owner,
    /// From the role on.
    Admin,
    /// From the role on.
    Member,
    /// All.
    Viewer,
}

permissions! {
    /// Create organizations.
    OrganizationsCreate = "organizations.create", Platform;
    /// List organizations.
    OrganizationsList = "organizations.list", Platform;
    /// Read the organization.
    OrganizationsRead = "organizations.read", Viewer;
    /// Change the organization.
    OrganizationsUpdate = "organizations.update", Admin;
    /// Suspend and resume organizations.
    OrganizationsSuspend = "organizations.suspend", Platform;
    /// Delete and undelete organizations.
    OrganizationsDelete = "organizations.delete", Platform;
    /// Create users.
    UsersCreate = "users.create", Platform;
    /// Read users.
    UsersRead = "users.read", Viewer;
    /// Change users; a tenant only the one for whom it acts.
    UsersUpdate = "users.update", Viewer;
    /// Deactivate users.
    UsersDeactivate = "users.deactivate", Platform;
    /// Erase users.
    UsersErase = "users.erase", Platform;
    /// List the organizations of users.
    UsersListOrganizations = "users.list_organizations", Platform;
    /// Act for users, with `x-acting-user`.
    UsersActAs = "users.act_as", Owner;
    /// Add members.
    MembersAdd = "members.add", Admin;
    /// Read members.
    MembersRead = "members.read", Viewer;
    /// Change what members may do.
    MembersUpdate = "members.update", Admin;
    /// Suspend and reactivate members.
    MembersSuspend = "members.suspend", Admin;
    /// Remove members.
    MembersRemove = "members.remove", Admin;
    /// Invite people, and take invitations back.
    MembersInvite = "members.invite", Admin;
    /// Read invitations.
    InvitationsRead = "invitations.read", Admin;
    /// Accept and decline invitations for the people whom the platform authenticated.
    InvitationsAccept = "invitations.accept", Platform;
    /// Read roles.
    RolesRead = "roles.read", Viewer;
    /// Create, change and delete roles.
    RolesManage = "roles.manage", Admin;
    /// Ask what users may do.
    PermissionsRead = "permissions.read", Viewer;
    /// Create teams.
    TeamsCreate = "teams.create", Admin;
    /// Read teams and who is in them.
    TeamsRead = "teams.read", Viewer;
    /// Change and move teams.
    TeamsUpdate = "teams.update", Admin;
    /// Delete teams.
    TeamsDelete = "teams.delete", Admin;
    /// Change who is in a team.
    TeamsMembers = "teams.members", Admin;
    /// Create keys.
    KeysCreate = "keys.create", Admin;
    /// Read keys.
    KeysRead = "keys.read", Member;
    /// Change keys.
    KeysUpdate = "keys.update", Admin;
    /// Rotate keys.
    KeysRotate = "keys.rotate", Admin;
    /// Revoke keys.
    KeysRevoke = "keys.revoke", Admin;
    /// Verify keys.
    KeysVerify = "keys.verify", Admin;
    /// Issue tokens of users.
    TokensIssue = "tokens.issue", Owner;
    /// Exchange keys for tokens.
    TokensExchange = "tokens.exchange", Admin;
    /// Revoke the tokens of users.
    TokensRevoke = "tokens.revoke", Admin;
    /// Read the public keys that tokens are verified with.
    TokensReadKeys = "tokens.read_keys", Viewer;
    /// Create meters.
    MetersCreate = "meters.create", Admin;
    /// Read meters.
    MetersRead = "meters.read", Viewer;
    /// Change what people read of meters.
    MetersUpdate = "meters.update", Admin;
    /// Archive meters.
    MetersArchive = "meters.archive", Admin;
    /// Record usage.
    UsageWrite = "usage.write", Member;
    /// Query usage.
    UsageRead = "usage.read", Viewer;
    /// Take recorded events out of the figures.
    UsageVoid = "usage.void", Admin;
    /// Create plans.
    PlansCreate = "plans.create", Platform;
    /// Read plans.
    PlansRead = "plans.read", Platform;
    /// Change plans.
    PlansUpdate = "plans.update", Platform;
    /// Archive plans.
    PlansArchive = "plans.archive", Platform;
    /// Read what the plan entitles to.
    EntitlementsRead = "entitlements.read", Viewer;
    /// Create limits.
    LimitsCreate = "limits.create", Admin;
    /// Read limits.
    LimitsRead = "limits.read", Viewer;
    /// Change limits.
    LimitsUpdate = "limits.update", Admin;
    /// Delete limits.
    LimitsDelete = "limits.delete", Admin;
    /// Ask for decisions, consume and give back.
    QuotaConsume = "quota.consume", Member;
    /// Read how much is used.
    QuotaRead = "quota.read", Viewer;
    /// Read the audit.
    AuditRead = "audit.read", Admin;
    /// Read the rules of the rate limit service.
    RateLimitsRead = "rate_limits.read", Platform;
    /// Make, change and delete the rules of the rate limit service.
    RateLimitsWrite = "rate_limits.write", Platform;
    /// Ask for the requests of all tenants, as an Envoy does.
    Sidecar = "sidecar", Platform;
}

/// Which permission each RPC takes, by its path. Health and reflection are served to anybody and are not here.
pub const METHODS: &[(&str, Permission)] = &[
    ("/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs", Permission::Sidecar),
    ("/envoy.service.auth.v3.Authorization/Check", Permission::Sidecar),
    ("/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/StreamRateLimitQuotas", Permission::Sidecar),
    ("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", Permission::Sidecar),
    ("/tenancy.v1.ApiKeyService/CreateApiKey", Permission::KeysCreate),
    ("/tenancy.v1.ApiKeyService/GetApiKey", Permission::KeysRead),
    ("/tenancy.v1.ApiKeyService/ListApiKeys", Permission::KeysRead),
    ("/tenancy.v1.ApiKeyService/RevokeApiKey", Permission::KeysRevoke),
    ("/tenancy.v1.ApiKeyService/RotateApiKey", Permission::KeysRotate),
    ("/tenancy.v1.ApiKeyService/UpdateApiKey", Permission::KeysUpdate),
    ("/tenancy.v1.ApiKeyService/VerifyApiKey", Permission::KeysVerify),
    ("/tenancy.v1.AuditService/ListAuditEvents", Permission::AuditRead),
    ("/tenancy.v1.InvitationService/AcceptInvitation", Permission::InvitationsAccept),
    ("/tenancy.v1.InvitationService/BatchCreateInvitations", Permission::MembersInvite),
    ("/tenancy.v1.InvitationService/CreateInvitation", Permission::MembersInvite),
    ("/tenancy.v1.InvitationService/DeclineInvitation", Permission::InvitationsAccept),
    ("/tenancy.v1.InvitationService/GetInvitation", Permission::InvitationsRead),
    ("/tenancy.v1.InvitationService/GetInvitationByToken", Permission::InvitationsAccept),
    ("/tenancy.v1.InvitationService/ListInvitations", Permission::InvitationsRead),
    ("/tenancy.v1.InvitationService/ResendInvitation", Permission::MembersInvite),
    ("/tenancy.v1.InvitationService/RevokeInvitation", Permission::MembersInvite),
    ("/tenancy.v1.LimitService/CreateLimit", Permission::LimitsCreate),
    ("/tenancy.v1.LimitService/DeleteLimit", Permission::LimitsDelete),
    ("/tenancy.v1.LimitService/GetLimit", Permission::LimitsRead),
    ("/tenancy.v1.LimitService/ListLimits", Permission::LimitsRead),
    ("/tenancy.v1.LimitService/UpdateLimit", Permission::LimitsUpdate),
    ("/tenancy.v1.MemberService/AddMember", Permission::MembersAdd),
    ("/tenancy.v1.MemberService/BatchAddMembers", Permission::MembersAdd),
    ("/tenancy.v1.MemberService/GetMember", Permission::MembersRead),
    ("/tenancy.v1.MemberService/ListMembers", Permission::MembersRead),
    ("/tenancy.v1.MemberService/ReactivateMember", Permission::MembersSuspend),
    ("/tenancy.v1.MemberService/RemoveMember", Permission::MembersRemove),
    ("/tenancy.v1.MemberService/SuspendMember", Permission::MembersSuspend),
    ("/tenancy.v1.MemberService/TransferOwnership", Permission::MembersUpdate),
    ("/tenancy.v1.MemberService/UpdateMember", Permission::MembersUpdate),
    ("/tenancy.v1.MemberService/UpdateMemberRole", Permission::MembersUpdate),
    ("/tenancy.v1.MeterService/ArchiveMeter", Permission::MetersArchive),
    ("/tenancy.v1.MeterService/CreateMeter", Permission::MetersCreate),
    ("/tenancy.v1.MeterService/GetMeter", Permission::MetersRead),
    ("/tenancy.v1.MeterService/ListMeters", Permission::MetersRead),
    ("/tenancy.v1.MeterService/UpdateMeter", Permission::MetersUpdate),
    ("/tenancy.v1.OrganizationService/CreateOrganization", Permission::OrganizationsCreate),
    ("/tenancy.v1.OrganizationService/DeleteOrganization", Permission::OrganizationsDelete),
    ("/tenancy.v1.OrganizationService/GetOrganization", Permission::OrganizationsRead),
    ("/tenancy.v1.OrganizationService/ListOrganizations", Permission::OrganizationsList),
    ("/tenancy.v1.OrganizationService/ResumeOrganization", Permission::OrganizationsSuspend),
    ("/tenancy.v1.OrganizationService/SuspendOrganization", Permission::OrganizationsSuspend),
    ("/tenancy.v1.OrganizationService/UndeleteOrganization", Permission::OrganizationsDelete),
    ("/tenancy.v1.OrganizationService/UpdateOrganization", Permission::OrganizationsUpdate),
    ("/tenancy.v1.PermissionService/CheckPermission", Permission::PermissionsRead),
    ("/tenancy.v1.PermissionService/ListPermissions", Permission::PermissionsRead),
    ("/tenancy.v1.PlanService/ArchivePlan", Permission::PlansArchive),
    ("/tenancy.v1.PlanService/CreatePlan", Permission::PlansCreate),
    ("/tenancy.v1.PlanService/GetEntitlements", Permission::EntitlementsRead),
    ("/tenancy.v1.PlanService/GetPlan", Permission::PlansRead),
    ("/tenancy.v1.PlanService/ListPlans", Permission::PlansRead),
    ("/tenancy.v1.PlanService/UpdatePlan", Permission::PlansUpdate),
    ("/tenancy.v1.QuotaService/BatchCheckQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/BatchCommitQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/BatchConsumeQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/BatchReserveQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/CheckQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/CommitQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/ConsumeQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/GetQuota", Permission::QuotaRead),
    ("/tenancy.v1.QuotaService/ListQuotas", Permission::QuotaRead),
    ("/tenancy.v1.QuotaService/RefundQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/ReleaseQuota", Permission::QuotaConsume),
    ("/tenancy.v1.QuotaService/ReserveQuota", Permission::QuotaConsume),
    ("/tenancy.v1.RateLimitDomainService/CreateRateLimitDomain", Permission::RateLimitsWrite),
    ("/tenancy.v1.RateLimitDomainService/DeleteRateLimitDomain", Permission::RateLimitsWrite),
    ("/tenancy.v1.RateLimitDomainService/GetRateLimitDomain", Permission::RateLimitsRead),
    ("/tenancy.v1.RateLimitDomainService/ListRateLimitDomains", Permission::RateLimitsRead),
    ("/tenancy.v1.RateLimitDomainService/UpdateRateLimitDomain", Permission::RateLimitsWrite),
    ("/tenancy.v1.RoleService/CreateRole", Permission::RolesManage),
    ("/tenancy.v1.RoleService/DeleteRole", Permission::RolesManage),
    ("/tenancy.v1.RoleService/GetRole", Permission::RolesRead),
    ("/tenancy.v1.RoleService/ListRoles", Permission::RolesRead),
    ("/tenancy.v1.RoleService/UpdateRole", Permission::RolesManage),
    ("/tenancy.v1.TeamService/AddTeamMember", Permission::TeamsMembers),
    ("/tenancy.v1.TeamService/CreateTeam", Permission::TeamsCreate),
    ("/tenancy.v1.TeamService/DeleteTeam", Permission::TeamsDelete),
    ("/tenancy.v1.TeamService/GetTeam", Permission::TeamsRead),
    ("/tenancy.v1.TeamService/ListTeamMembers", Permission::TeamsRead),
    ("/tenancy.v1.TeamService/ListTeams", Permission::TeamsRead),
    ("/tenancy.v1.TeamService/ListUserTeams", Permission::TeamsRead),
    ("/tenancy.v1.TeamService/MoveTeam", Permission::TeamsUpdate),
    ("/tenancy.v1.TeamService/RemoveTeamMember", Permission::TeamsMembers),
    ("/tenancy.v1.TeamService/UpdateTeam", Permission::TeamsUpdate),
    ("/tenancy.v1.TeamService/UpdateTeamMember", Permission::TeamsMembers),
    ("/tenancy.v1.TokenService/ExchangeApiKey", Permission::TokensExchange),
    ("/tenancy.v1.TokenService/GetJsonWebKeySet", Permission::TokensReadKeys),
    ("/tenancy.v1.TokenService/IssueToken", Permission::TokensIssue),
    ("/tenancy.v1.TokenService/RevokeTokens", Permission::TokensRevoke),
    ("/tenancy.v1.UsageService/GetUsageSummary", Permission::UsageRead),
    ("/tenancy.v1.UsageService/ListUsageEvents", Permission::UsageRead),
    ("/tenancy.v1.UsageService/QueryUsage", Permission::UsageRead),
    ("/tenancy.v1.UsageService/RecordUsage", Permission::UsageWrite),
    ("/tenancy.v1.UsageService/StreamUsage", Permission::UsageWrite),
    ("/tenancy.v1.UsageService/VoidUsageEvent", Permission::UsageVoid),
    ("/tenancy.v1.UserService/BatchCreateUsers", Permission::UsersCreate),
    ("/tenancy.v1.UserService/CreateUser", Permission::UsersCreate),
    ("/tenancy.v1.UserService/DeactivateUser", Permission::UsersDeactivate),
    ("/tenancy.v1.UserService/EraseUser", Permission::UsersErase),
    ("/tenancy.v1.UserService/GetUser", Permission::UsersRead),
    ("/tenancy.v1.UserService/ListUserOrganizations", Permission::UsersListOrganizations),
    ("/tenancy.v1.UserService/ListUsers", Permission::UsersRead),
    ("/tenancy.v1.UserService/UpdateUser", Permission::UsersUpdate),
];

impl Permission {
    /// The permission that the RPC at `path` takes, with the path as known for ever; `None` for what is no RPC of ours.
    #[must_use]
    pub fn of_method(path: &str) -> Option<(&'static str, Self)> {
        Self::position(path).map(|found| METHODS[found])
    }

    /// Where in [`METHODS`] the RPC at `path` is.
    #[must_use]
    pub fn position(path: &str) -> Option<usize> {
        METHODS.binary_search_by(|(known, _)| (*known).cmp(path)).ok()
    }

    /// Whether a tenant can hold it at all.
    #[must_use]
    pub fn for_tenants(self) -> bool {
        self.audience() != Audience::Platform
    }

    /// Whether a custom role, or one member beyond their role, can have it: what is the owners' alone is not handed out.
    /// `users.act_as` is: whoever made a key with it could do in an owner's name what they may not in their own.
    #[must_use]
    pub fn for_roles(self) -> bool {
        !matches!(self.audience(), Audience::Platform | Audience::Owner)
    }

    /// Whether a publishable key, which anybody can read in a page, may hold it.
    #[must_use]
    pub const fn for_publishable_keys(self) -> bool {
        matches!(self, Self::OrganizationsRead | Self::UsageWrite)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Permission {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        Self::ALL
            .iter()
            .copied()
            .find(|permission| permission.as_str() == text)
            .ok_or_else(|| Violation::new("permission", format!("{text:?} is not a permission")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_sorted_for_the_binary_search() {
        assert!(METHODS.is_sorted_by(|a, b| a.0 < b.0));
        for (path, permission) in METHODS {
            assert_eq!(Permission::of_method(path), Some((*path, *permission)));
        }
    }
}
