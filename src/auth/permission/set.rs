//! Sets of permissions.

use crate::auth::permission::{Audience, Permission};
use crate::model::member::Role;

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

    /// What a custom role can have at the most.
    #[must_use]
    pub fn for_roles() -> Self {
        Permission::ALL.iter().copied().filter(|permission| permission.for_roles()).collect()
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

    /// What either holds.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What this one holds and the other does not.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each that it holds, in the order of the vocabulary.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |permission| self.contains(*permission))
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

    #[test]
    fn custom_roles_have_at_most_what_admins_have() {
        assert_eq!(Permissions::for_roles(), Permissions::of_role(Role::Admin));
        assert!(!Permission::UsersActAs.for_roles() && Permission::UsersActAs.for_tenants());
    }

    #[test]
    fn sets() {
        let of = |permissions: &[Permission]| permissions.iter().copied().collect::<Permissions>();
        let (a, b) = (Permission::UsersRead, Permission::AuditRead);
        assert_eq!(of(&[a]).or(of(&[b])), of(&[b, a]));
        assert_eq!((of(&[a, b]).without(of(&[b])), of(&[a, b]).and(of(&[b]))), (of(&[a]), of(&[b])));
        assert_eq!(of(&[b, a]).iter().collect::<Vec<_>>(), [a, b]);
        assert!(of(&[a]).without(Permissions::ALL).is_empty() && !of(&[a]).is_empty());
    }
}
