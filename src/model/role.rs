//! Roles of organizations' own, and what members may do by their role, beside it and in spite of it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::auth::permission::{Permission, Permissions};
use crate::error::Violation;
use crate::ids::OrganizationId;
use crate::model::member::{MemberStatus, Role};

/// The most roles of one organization beside the built-in ones.
pub const MOST_ROLES: i64 = 200;

/// The name of a role for programs: of a built-in one, or one of the organization's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct RoleKey(String);

impl RoleKey {
    /// As in the API and the database.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The built-in role of this name; `None` for one of the organization's own.
    #[must_use]
    pub fn built_in(&self) -> Option<Role> {
        self.0.parse().ok()
    }

    /// Whether it is that of owners.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.0 == Role::Owner.as_str()
    }
}

impl From<Role> for RoleKey {
    fn from(role: Role) -> Self {
        Self(role.as_str().to_owned())
    }
}

impl fmt::Display for RoleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RoleKey {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let good = (2..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
        if good {
            return Ok(Self(text.to_owned()));
        }
        let rule = "must be the key of a role: 2 to 63 characters of a-z, 0-9, _ and -, starting with a letter";
        Err(Violation::new("role", rule))
    }
}

/// A role that an organization made.
#[derive(Clone, Debug, Serialize)]
pub struct CustomRole {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its name for programs; never changes.
    pub key: RoleKey,
    /// What can be changed with a mask.
    #[serde(flatten)]
    pub profile: Profile,
    /// Counts the changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// The last change.
    pub update_time: DateTime<Utc>,
}

/// The fields of a role that are given at creation and changed with a mask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// The name for people.
    pub display_name: String,
    /// What it is for.
    pub description: String,
    /// What its members may do, as it was written. Checked then; a name that a later version dropped grants nothing.
    pub permissions: Vec<String>,
}

impl Profile {
    /// What a role of the organization's own grants.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        granted(&self.permissions)
    }

    /// What people read of a built-in role.
    #[must_use]
    pub fn built_in(role: Role) -> Self {
        let (display_name, description) = match role {
            Role::Owner => ("Owner", "Has everything, and makes, changes and removes owners."),
            Role::Admin => ("Admin", "Manages everything but owners."),
            Role::Member => ("Member", "Works: reads, records usage, consumes quotas."),
            Role::Viewer => ("Viewer", "Reads."),
        };
        Self {
            display_name: display_name.to_owned(),
            description: description.to_owned(),
            permissions: names(Permissions::of_role(role)),
        }
    }
}

/// A key for a new role.
pub fn new_key(field: &str, text: &str) -> Result<RoleKey, Violation> {
    let key: RoleKey = text.parse().map_err(|wrong: Violation| Violation::new(field, wrong.description))?;
    match key.built_in() {
        None => Ok(key),
        Some(role) => Err(Violation::new(field, format!("is {role}, which every organization has"))),
    }
}

/// Permissions that a custom role, or a member beyond their role, can have; each once. In the order of the vocabulary.
pub fn permissions(field: &str, named: &[String]) -> Result<Vec<String>, Violation> {
    if named.len() > Permission::ALL.len() {
        return Err(Violation::new(field, "must name each permission at most once"));
    }
    let mut found = Permissions::default();
    for (position, name) in named.iter().enumerate() {
        let wrong = |rule: String| Err(Violation::new(format!("{field}[{position}]"), rule));
        match name.parse::<Permission>() {
            Ok(permission) if !permission.for_tenants() => {
                return wrong(format!("is {permission}, which only keys of the platform can have"));
            }
            Ok(permission) if !permission.for_roles() => {
                return wrong(format!("is {permission}, which only owners and keys can have"));
            }
            Ok(permission) if found.contains(permission) => {
                return wrong(format!("is {permission}, which must be named once"));
            }
            Ok(permission) => found = found.or(Permissions::from_iter([permission])),
            Err(unknown) => return wrong(unknown.description),
        }
    }
    Ok(names(found))
}

fn names(permissions: Permissions) -> Vec<String> {
    permissions.iter().map(|permission| permission.as_str().to_owned()).collect()
}

/// What stored names grant where they are a role's or beside one: never what is the owners' alone, whoever wrote it.
fn granted(stored: &[String]) -> Permissions {
    Permissions::of_scopes(stored).and(Permissions::for_roles())
}

/// What a member may do: what their role has and what they have beside it, but what is denied to them; an owner
/// everything.
#[must_use]
pub fn held(role: &RoleKey, of_role: Permissions, extra: &[String], denied: &[String]) -> Permissions {
    if role.is_owner() {
        return Permissions::of_role(Role::Owner);
    }
    of_role.or(granted(extra)).without(self::denied(denied))
}

/// What is denied to a member, by its stored names.
#[must_use]
pub fn denied(stored: &[String]) -> Permissions {
    Permissions::of_scopes(stored)
}

/// What a role has; `own` is what its organization says of it, where it is none of the built-in ones.
#[must_use]
pub fn of_role(role: &RoleKey, own: Option<&[String]>) -> Permissions {
    match role.built_in() {
        Some(role) => Permissions::of_role(role),
        None => own.map(granted).unwrap_or_default(),
    }
}

/// Where a user stands in an organization: what authorization knows of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Their role.
    pub role: RoleKey,
    /// Whether anybody can act for them there.
    pub status: MemberStatus,
    /// Whether anybody can act for them anywhere.
    pub user_is_active: bool,
    /// What they may do while both hold.
    pub held: Permissions,
    /// What is denied to them.
    pub denied: Permissions,
    /// Which tokens of theirs count: those that have this number.
    pub token_generation: i64,
}

/// Whether something may be done, or the first reason why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// The user is no member.
    NotAMember,
    /// The organization is suspended.
    OrganizationSuspended,
    /// The user is deactivated or erased.
    UserDeactivated,
    /// The member is suspended.
    MemberSuspended,
    /// Neither the role nor what is beside it has the permission.
    NotGranted,
    /// It is denied to the member.
    Denied,
    /// The caller's key does not have it.
    NotInScopes,
}

impl Standing {
    /// Whether they may do something in an organization that is not suspended.
    #[must_use]
    pub fn verdict(&self, permission: Permission) -> Verdict {
        if !self.user_is_active {
            Verdict::UserDeactivated
        } else if self.status == MemberStatus::Suspended {
            Verdict::MemberSuspended
        } else if self.held.contains(permission) {
            Verdict::Allowed
        } else if self.denied.contains(permission) {
            Verdict::Denied
        } else {
            Verdict::NotGranted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys() {
        for good in ["ab", "billing", "on-call_2", &"a".repeat(63)] {
            assert_eq!(new_key("role.key", good).unwrap().as_str(), good);
        }
        for bad in ["", "a", "Admin", "1st", "-a", "a b", "a.b", "é1", &"a".repeat(64), "owner", "viewer"] {
            assert_eq!(new_key("role.key", bad).unwrap_err().field, "role.key", "{bad}");
        }
        assert_eq!("admin".parse::<RoleKey>().unwrap().built_in(), Some(Role::Admin));
        assert!(RoleKey::from(Role::Owner).is_owner() && !RoleKey::from(Role::Admin).is_owner());
    }

    #[test]
    fn permissions_are_those_of_roles_each_once() {
        let read = permissions("p", &strings(&["usage.read", "members.read"])).unwrap();
        assert_eq!(read, ["members.read", "usage.read"]);
        for bad in [
            &["members.read", "root"][..],
            &["members.read", "organizations.create"],
            &["members.read", "users.act_as"],
            &["usage.read", "usage.read"],
        ] {
            assert_eq!(permissions("p", &strings(bad)).unwrap_err().field, "p[1]", "{bad:?}");
        }
        assert_eq!(permissions("p", &vec!["usage.read".into(); 100]).unwrap_err().field, "p");
    }

    #[test]
    fn denials_win_but_over_owners() {
        let of = |role: &str, extra: &[&str], denied: &[&str]| {
            let role: RoleKey = role.parse().unwrap();
            let own = strings(&["usage.read", "users.act_as", "organizations.create", "dropped"]);
            let of_role = of_role(&role, Some(&own));
            names(held(&role, of_role, &strings(extra), &strings(denied)))
        };
        assert_eq!(of("own", &[], &[]), ["usage.read"], "what is the owners' or the platform's counts for nothing");
        assert_eq!(of("own", &["audit.read", "users.act_as"], &[]), ["usage.read", "audit.read"]);
        assert_eq!(of("own", &["audit.read"], &["audit.read", "usage.read"]), Vec::<String>::new());
        assert!(!of("admin", &[], &["audit.read"]).contains(&"audit.read".to_owned()));
        assert_eq!(of("owner", &[], &["audit.read"]), names(Permissions::of_role(Role::Owner)));
        assert_eq!(of_role(&"gone".parse().unwrap(), None), Permissions::default());
    }

    #[test]
    fn verdicts_tell_the_first_reason() {
        let held: Permissions = [Permission::UsageRead].into_iter().collect();
        let mut standing = Standing {
            role: Role::Viewer.into(),
            status: MemberStatus::Active,
            user_is_active: true,
            held,
            denied: [Permission::AuditRead].into_iter().collect(),
            token_generation: 0,
        };
        let of = |standing: &Standing| {
            [Permission::UsageRead, Permission::AuditRead, Permission::KeysRead].map(|asked| standing.verdict(asked))
        };
        assert_eq!(of(&standing), [Verdict::Allowed, Verdict::Denied, Verdict::NotGranted]);
        standing.status = MemberStatus::Suspended;
        assert_eq!(of(&standing), [Verdict::MemberSuspended; 3]);
        standing.user_is_active = false;
        assert_eq!(of(&standing), [Verdict::UserDeactivated; 3]);
    }
}
