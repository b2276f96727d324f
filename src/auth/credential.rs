//! The one credential of a request, and what its bearer is told: the same at our own door and where we answer for another's.

use crate::auth::authenticator::Outcome;
use crate::error::Error;

/// Looks at the headers that may carry a credential, one value after the other, and finds the only one.
#[derive(Debug, Default)]
pub struct Search<'a>(Option<&'a str>);

impl<'a> Search<'a> {
    /// A value of the `authorization` header.
    ///
    /// Errors: `CREDENTIALS_MALFORMED` for another scheme than Bearer, `CREDENTIALS_AMBIGUOUS`.
    pub fn authorization(&mut self, value: &'a str) -> Result<(), Error> {
        let key = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, key) = key.ok_or(Error::Unauthenticated {
            reason: "CREDENTIALS_MALFORMED",
            message: "the authorization header must be of the form: Bearer <API key or token>",
        })?;
        self.bare(key)
    }

    /// A value of a header that holds nothing else.
    ///
    /// Error: `CREDENTIALS_AMBIGUOUS`: which of two was meant, and which of them others look at, is not known.
    pub fn bare(&mut self, value: &'a str) -> Result<(), Error> {
        if self.0.replace(value.trim()).is_some() {
            return Err(ambiguous());
        }
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub const fn found(self) -> Option<&'a str> {
        self.0
    }
}

/// More than one credential.
#[must_use]
pub const fn ambiguous() -> Error {
    Error::Unauthenticated {
        reason: "CREDENTIALS_AMBIGUOUS",
        message: "send one API key, once: in authorization or in x-api-key",
    }
}

/// No credential.
#[must_use]
pub const fn missing() -> Error {
    Error::Unauthenticated {
        reason: "CREDENTIALS_MISSING",
        message: "send an API key: authorization: Bearer <key>, or x-api-key: <key>",
    }
}

/// No key of anybody, as far as its bearer may know.
#[must_use]
pub const fn invalid() -> Error {
    Error::Unauthenticated { reason: "API_KEY_INVALID", message: "the API key is not valid" }
}

/// A text with a dot, which no key has, that is no token either.
#[must_use]
pub const fn token_malformed() -> Error {
    Error::Unauthenticated { reason: "TOKEN_MALFORMED", message: "this is not a token: check that it was copied whole" }
}

/// A token that is not ours, or says what we never say.
#[must_use]
pub const fn token_invalid() -> Error {
    Error::Unauthenticated { reason: "TOKEN_INVALID", message: "the token is not valid" }
}

/// A token past its end.
#[must_use]
pub const fn token_expired() -> Error {
    Error::Unauthenticated { reason: "TOKEN_EXPIRED", message: "the token has expired; get another one" }
}

/// A token that was revoked, or whose key has another secret by now.
#[must_use]
pub const fn token_revoked() -> Error {
    Error::Unauthenticated { reason: "TOKEN_REVOKED", message: "the token was revoked" }
}

/// A token where only a key will do.
#[must_use]
pub fn api_key_required() -> Error {
    Error::PermissionDenied {
        reason: "API_KEY_REQUIRED",
        message: "who comes with a token gets no further ones, and acts for nobody else: this takes an API key".into(),
    }
}

/// A key that is bound to origins, used from another.
#[must_use]
pub fn origin_not_allowed() -> Error {
    Error::PermissionDenied { reason: "ORIGIN_NOT_ALLOWED", message: "the key may not be used from this origin".into() }
}

/// A key that is bound to IP addresses, used from another.
#[must_use]
pub fn ip_not_allowed() -> Error {
    Error::PermissionDenied { reason: "IP_NOT_ALLOWED", message: "the key may not be used from this IP address".into() }
}

/// What the bearer of a key that is not good is told. Only who presented the right secret learns more than "invalid".
#[must_use]
pub fn refusal(outcome: &Outcome) -> Error {
    let (reason, message) = match outcome {
        Outcome::Malformed => ("API_KEY_MALFORMED", "this is not an API key: check that it was copied whole"),
        Outcome::NotFound | Outcome::Valid(_) => return invalid(),
        Outcome::Revoked(_) => ("API_KEY_REVOKED", "the API key was revoked"),
        Outcome::Disabled(_) => ("API_KEY_DISABLED", "the API key is disabled"),
        Outcome::Expired(_) => ("API_KEY_EXPIRED", "the API key has expired"),
        Outcome::OrganizationSuspended(_) => {
            return Error::PermissionDenied {
                reason: "ORGANIZATION_SUSPENDED",
                message: "the organization is suspended".into(),
            };
        }
    };
    Error::Unauthenticated { reason, message }
}
