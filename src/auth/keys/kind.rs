//! What kinds of key there are, told by the prefix.

use std::{fmt, str::FromStr};

/// The kind of a key. It is part of what the secret's hash covers, so a key cannot be presented as one of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiKeyKind {
    /// `sk_live_`: a tenant's secret key.
    SecretLive,
    /// `sk_test_`: a tenant's secret key for test data.
    SecretTest,
    /// `pk_live_`: a tenant's publishable key: narrow scopes, allowed origins.
    PublishableLive,
    /// `pk_test_`: a tenant's publishable key for test data.
    PublishableTest,
    /// `pk_widget_`: a tenant's publishable key inside an embedded widget.
    PublishableWidget,
    /// `svc_`: a backend or sidecar of the platform.
    Service,
    /// `op_`: an operator of the platform.
    Operator,
}

/// Which of a tenant's two environments a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Environment {
    /// Production.
    Live,
    /// Test data.
    Test,
}

/// The name is not one of a kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such kind of API key")]
pub struct UnknownKind;

impl ApiKeyKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::SecretLive,
        Self::SecretTest,
        Self::PublishableLive,
        Self::PublishableTest,
        Self::PublishableWidget,
        Self::Service,
        Self::Operator,
    ];

    /// What a key of this kind begins with. No prefix begins another one.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::SecretLive => "sk_live_",
            Self::SecretTest => "sk_test_",
            Self::PublishableLive => "pk_live_",
            Self::PublishableTest => "pk_test_",
            Self::PublishableWidget => "pk_widget_",
            Self::Service => "svc_",
            Self::Operator => "op_",
        }
    }

    /// The kind's name in the database: the prefix without its last underscore.
    #[must_use]
    pub fn name(self) -> &'static str {
        let prefix = self.prefix();
        prefix.strip_suffix('_').unwrap_or(prefix)
    }

    /// The kind that `text` begins with, and the rest of it.
    #[must_use]
    pub fn strip(text: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|kind| text.strip_prefix(kind.prefix()).map(|rest| (kind, rest)))
    }

    /// The environment that the prefix names; none for widgets and for the platform's keys.
    #[must_use]
    pub const fn environment(self) -> Option<Environment> {
        match self {
            Self::SecretLive | Self::PublishableLive => Some(Environment::Live),
            Self::SecretTest | Self::PublishableTest => Some(Environment::Test),
            Self::PublishableWidget | Self::Service | Self::Operator => None,
        }
    }

    /// Whether the key is meant to be seen by end users: it may never act for a person, and is bound to origins.
    #[must_use]
    pub const fn is_publishable(self) -> bool {
        matches!(self, Self::PublishableLive | Self::PublishableTest | Self::PublishableWidget)
    }

    /// Whether the key is a tenant's secret key.
    #[must_use]
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::SecretLive | Self::SecretTest)
    }

    /// Whether the key belongs to an organization, rather than to the platform.
    #[must_use]
    pub const fn is_tenant(self) -> bool {
        !matches!(self, Self::Service | Self::Operator)
    }

    /// Whether the key is a platform's backend or sidecar.
    #[must_use]
    pub const fn is_service(self) -> bool {
        matches!(self, Self::Service)
    }

    /// Whether the key is an operator's.
    #[must_use]
    pub const fn is_operator(self) -> bool {
        matches!(self, Self::Operator)
    }
}

impl fmt::Display for ApiKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ApiKeyKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownKind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_database() {
        let names = ApiKeyKind::ALL.map(ApiKeyKind::name);
        assert_eq!(names, ["sk_live", "sk_test", "pk_live", "pk_test", "pk_widget", "svc", "op"]);
        for kind in ApiKeyKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("sk".parse::<ApiKeyKind>(), Err(UnknownKind));
        assert_eq!("sk_live_".parse::<ApiKeyKind>(), Err(UnknownKind));
    }

    #[test]
    fn no_prefix_begins_another() {
        for one in ApiKeyKind::ALL {
            for other in ApiKeyKind::ALL {
                assert_eq!(one == other, one.prefix().starts_with(other.prefix()));
            }
        }
    }

    #[test]
    fn each_kind_is_exactly_one_thing() {
        for kind in ApiKeyKind::ALL {
            let roles = [kind.is_publishable(), kind.is_secret(), kind.is_service(), kind.is_operator()];
            assert_eq!(roles.into_iter().filter(|role| *role).count(), 1, "{kind}");
            assert_eq!(kind.is_tenant(), kind.is_publishable() || kind.is_secret());
        }
    }
}
