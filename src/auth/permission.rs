//! The permission vocabulary, the sets of the built-in roles, and which permission each RPC takes: one table, which a
//! test compares with the descriptors.

use std::fmt;
use std::str::FromStr;

use crate::error::Violation;
use crate::model::member::Role;

macro_rules! permissions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $audience:ident;)*) => {
        /// What a caller may do, `<resource>.<verb>`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum Permission {
            $($(#[$doc])* $variant,)*
        }

        impl Permission {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As written in scopes.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            const fn audience(self) -> Audience {
                match self { $(Self::$variant => Audience::$audience,)* }
            }
        }
    };
}

/// The least role that holds a permission, or that no tenant does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Only keys of the platform.
    Platform,
    /// From the role on.
    Owner,
    Admin,
    Member,
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
    /// Act for users, with `x-acting-user`.
    UsersActAs = "users.act_as", Owner;
    /// Add members.
    MembersAdd = "members.add", Admin;
    /// Read members.
    MembersRead = "members.read", Viewer;
    /// Change roles.
    MembersUpdate = "members.update", Admin;
    /// Remove members.
    MembersRemove = "members.remove", Admin;
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
    ("/tenancy.v1.LimitService/CreateLimit", Permission::LimitsCreate),
    ("/tenancy.v1.LimitService/DeleteLimit", Permission::LimitsDelete),
    ("/tenancy.v1.LimitService/GetLimit", Permission::LimitsRead),
    ("/tenancy.v1.LimitService/ListLimits", Permission::LimitsRead),
    ("/tenancy.v1.LimitService/UpdateLimit", Permission::LimitsUpdate),
    ("/tenancy.v1.MemberService/AddMember", Permission::MembersAdd),
    ("/tenancy.v1.MemberService/GetMember", Permission::MembersRead),
    ("/tenancy.v1.MemberService/ListMembers", Permission::MembersRead),
    ("/tenancy.v1.MemberService/RemoveMember", Permission::MembersRemove),
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
    ("/tenancy.v1.UsageService/GetUsageSummary", Permission::UsageRead),
    ("/tenancy.v1.UsageService/ListUsageEvents", Permission::UsageRead),
    ("/tenancy.v1.UsageService/QueryUsage", Permission::UsageRead),
    ("/tenancy.v1.UsageService/RecordUsage", Permission::UsageWrite),
    ("/tenancy.v1.UsageService/StreamUsage", Permission::UsageWrite),
    ("/tenancy.v1.UsageService/VoidUsageEvent", Permission::UsageVoid),
    ("/tenancy.v1.UserService/CreateUser", Permission::UsersCreate),
    ("/tenancy.v1.UserService/DeactivateUser", Permission::UsersDeactivate),
    ("/tenancy.v1.UserService/GetUser", Permission::UsersRead),
    ("/tenancy.v1.UserService/ListUsers", Permission::UsersRead),
    ("/tenancy.v1.UserService/UpdateUser", Permission::UsersUpdate),
];

impl Permission {
    /// The permission that the RPC at `path` takes, with the path as known for ever; `None` for what is no RPC of ours.
    #[must_use]
    pub fn of_method(path: &str) -> Option<(&'static str, Self)> {
        METHODS.binary_search_by(|(known, _)| (*known).cmp(path)).ok().map(|found| METHODS[found])
    }

    /// Whether a tenant can hold it at all.
    #[must_use]
    pub fn for_tenants(self) -> bool {
        self.audience() != Audience::Platform
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

/// A set of permissions; a word, so that asking it costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Permissions(u64);

const _: () = assert!(Permission::ALL.len() <= 64, "Permissions holds one bit each");

impl Permissions {
    /// Every permission there is.
    pub const ALL: Self = Self(u64::MAX >> (64 - Permission::ALL.len()));

    /// What a built-in role may.
    #[must_use]
    pub fn of_role(role: Role) -> Self {
        Permission::ALL
            .iter()
            .copied()
            .filter(|permission| match permission.audience() {
                Audience::Platform => false,
                Audience::Owner => role >= Role::Owner,
                Audience::Admin => role >= Role::Admin,
                Audience::Member => role >= Role::Member,
                Audience::Viewer => true,
            })
            .collect()
    }

    /// Those named in stored scopes. A name that is no longer in the vocabulary grants nothing.
    #[must_use]
    pub fn of_scopes(scopes: &[String]) -> Self {
        scopes.iter().filter_map(|scope| scope.parse().ok()).collect()
    }

    /// This one, and no other.
    #[must_use]
    pub const fn only(permission: Permission) -> Self {
        Self(1 << permission as u8)
    }

    /// Whether it holds the permission.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// What both hold.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | 1 << permission as u8))
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

    #[test]
    fn every_role_holds_what_the_lesser_one_holds() {
        let roles = [Role::Viewer, Role::Member, Role::Admin, Role::Owner];
        for pair in roles.windows(2) {
            let (lesser, greater) = (Permissions::of_role(pair[0]), Permissions::of_role(pair[1]));
            assert_eq!(lesser.and(greater), lesser);
            assert_ne!(lesser, greater);
        }
        for permission in Permission::ALL {
            assert_eq!(permission.for_tenants(), Permissions::of_role(Role::Owner).contains(*permission));
            assert_eq!(permission.as_str().parse::<Permission>().unwrap(), *permission);
        }
    }
}
