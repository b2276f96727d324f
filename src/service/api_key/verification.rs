//! What a caller is told of a key that somebody presented.

use std::net::IpAddr;

use crate::auth::authenticator::{KnownKey, Outcome};
use crate::auth::gate::Sight;
use crate::auth::permission::Permission;
use crate::error::Violation;
use crate::model::{ip_range, origin};
use crate::proto::v1::{VerificationCode, VerifyApiKeyResponse};
use crate::service::convert::api_key as convert;

/// The most characters that are looked at.
const LONGEST: usize = 256;

/// What the key must allow.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    permission: Option<Permission>,
    origin: Option<&'a str>,
    client_ip: Option<IpAddr>,
}

impl<'a> Wanted<'a> {
    /// Reads what a request says; empty means nothing in particular. Errors: `INVALID_FIELD` on `permission`,
    /// on `client_ip`.
    pub fn read(permission: &str, origin: &'a str, client_ip: &str) -> Result<Self, Violation> {
        let permission = if permission.is_empty() { None } else { Some(permission.parse()?) };
        let client_ip = match client_ip {
            "" => None,
            text => Some(text.parse().map_err(|_| Violation::new("client_ip", "must be an IP address"))?),
        };
        Ok(Self { permission, origin: Some(origin).filter(|origin| !origin.is_empty()), client_ip })
    }

    fn allowed_by(self, key: &KnownKey) -> bool {
        let facts = key.facts();
        self.permission.is_none_or(|permission| facts.principal.permissions().contains(permission))
            && origin::allowed(&facts.allowed_origins, self.origin)
    }
}

/// Refuses what is too long to have been a key.
pub fn presented(field: &str, text: &str) -> Result<(), Violation> {
    if text.chars().count() <= LONGEST {
        return Ok(());
    }
    Err(Violation::new(field, format!("must be at most {LONGEST} characters")))
}

/// The reply. A key of the platform, or of an organization that the caller does not see, is like none at all.
#[must_use]
pub fn reply(outcome: &Outcome, wanted: Wanted<'_>, sight: Sight<'_>) -> VerifyApiKeyResponse {
    let (code, key) = match outcome {
        Outcome::Malformed => return bare(VerificationCode::Malformed),
        Outcome::NotFound => return bare(VerificationCode::NotFound),
        Outcome::Revoked(key) => (VerificationCode::Revoked, key),
        Outcome::Disabled(key) => (VerificationCode::Disabled, key),
        Outcome::Expired(key) => (VerificationCode::Expired, key),
        Outcome::OrganizationSuspended(key) => (VerificationCode::OrganizationSuspended, key),
        Outcome::Valid(key) if !ip_range::allowed(&key.facts().allowed_ip_ranges, wanted.client_ip) => {
            (VerificationCode::IpNotAllowed, key)
        }
        Outcome::Valid(key) if wanted.allowed_by(key) => (VerificationCode::Valid, key),
        Outcome::Valid(key) => (VerificationCode::InsufficientPermission, key),
    };
    let seen = key.organization.as_ref().is_some_and(|organization| sight.sees(organization.organization_id));
    seen.then(|| convert::verified(code, key)).flatten().unwrap_or_else(|| bare(VerificationCode::NotFound))
}

fn bare(code: VerificationCode) -> VerifyApiKeyResponse {
    VerifyApiKeyResponse { code: code.into(), ..VerifyApiKeyResponse::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked() {
        assert!(Wanted::read("", "", "").is_ok_and(|wanted| wanted.permission.is_none() && wanted.origin.is_none()));
        let wanted = Wanted::read("usage.write", "https://a.example", "").unwrap();
        assert_eq!((wanted.permission, wanted.origin), (Some(Permission::UsageWrite), Some("https://a.example")));
        assert_eq!(Wanted::read("usage.destroy", "", "").unwrap_err().field, "permission");
        assert_eq!(Wanted::read("", "", "10.0.0.0/8").unwrap_err().field, "client_ip");
        assert!(presented("api_key", &"ä".repeat(256)).is_ok());
        assert!(presented("api_key", &"a".repeat(257)).is_err());
    }

    #[test]
    fn nothing_is_told_of_what_is_not_a_key() {
        let wanted = Wanted::read("", "", "").unwrap();
        for (outcome, code) in
            [(Outcome::Malformed, VerificationCode::Malformed), (Outcome::NotFound, VerificationCode::NotFound)]
        {
            assert_eq!(reply(&outcome, wanted, Sight::All), bare(code));
        }
    }
}
