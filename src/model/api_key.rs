//! Keys of tenants: what a key is, what its fields may be, and what a change of it hands out.
//!
//! The secret is not here, nor its hash: a key can be shown, audited and compared without either.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::auth::keys::key::{LookupId, Redacted};
use crate::auth::keys::kind::ApiKeyKind;
use crate::auth::permission::Permission;
use crate::error::Violation;
use crate::ids::{ApiKeyId, OrganizationId};
use crate::model::text::Labels;
use crate::model::{ip_range, origin};

/// The most scopes of one key.
const SCOPES: usize = 64;
/// How long the old secret works after a rotation, unless the request says otherwise.
pub const DEFAULT_GRACE: TimeDelta = TimeDelta::hours(24);
/// The longest it can.
pub const LONGEST_GRACE: TimeDelta = TimeDelta::days(30);

/// A key of a tenant.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKey {
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Its id.
    pub api_key_id: ApiKeyId,
    /// What sort of key; never changes, since it is part of the key's text.
    #[serde(serialize_with = "as_text")]
    pub kind: ApiKeyKind,
    /// The part of the key that finds it; never changes, also when the secret does.
    #[serde(serialize_with = "as_text")]
    pub lookup_id: LookupId,
    /// What can be changed with a mask.
    #[serde(flatten)]
    pub profile: Profile,
    /// Until when the secret before the last rotation works, or did.
    pub previous_secret_expire_time: Option<DateTime<Utc>>,
    /// The last successful use. Not in the audit, which tells of changes.
    #[serde(skip)]
    pub last_used_time: Option<DateTime<Utc>>,
    /// When it was revoked, for good.
    pub revoke_time: Option<DateTime<Utc>>,
    /// Counts the changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// The last change.
    pub update_time: DateTime<Utc>,
}

/// The fields of a key that are given at creation and changed with a mask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// The name for people.
    pub display_name: String,
    /// Free labels.
    pub labels: Labels,
    /// Its permissions as they were written. Checked when written; a name that a later version dropped grants nothing.
    pub scopes: Vec<String>,
    /// Where a publishable key may be used from; empty means anywhere.
    pub allowed_origins: Vec<String>,
    /// The addresses that it may be used from; empty means any.
    pub allowed_ip_ranges: Vec<IpNet>,
    /// Switched off for a while.
    pub disabled: bool,
    /// When it stops working.
    pub expire_time: Option<DateTime<Utc>>,
}

/// The state of a key: of what applies, the first in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Gone for good.
    Revoked,
    /// Switched off for a while.
    Disabled,
    /// Past its expire time.
    Expired,
    /// Works.
    Active,
}

impl ApiKey {
    /// Its state at `now`.
    #[must_use]
    pub fn status(&self, now: DateTime<Utc>) -> Status {
        if self.revoke_time.is_some() {
            Status::Revoked
        } else if self.profile.disabled {
            Status::Disabled
        } else if self.profile.expire_time.is_some_and(|expire_time| expire_time <= now) {
            Status::Expired
        } else {
            Status::Active
        }
    }

    /// As people may see it: the prefix and the first four characters.
    #[must_use]
    pub const fn redacted(&self) -> Redacted {
        Redacted::new(self.kind, self.lookup_id)
    }

    /// The same key with another profile. A grace that is running ends with the key at the latest.
    #[must_use]
    pub fn with_profile(&self, profile: Profile) -> Self {
        let previous_secret_expire_time = self
            .previous_secret_expire_time
            .map(|until| profile.expire_time.map_or(until, |expire_time| expire_time.min(until)));
        Self { profile, previous_secret_expire_time, ..self.clone() }
    }

    /// The same key rotated at `now`: until when the secret in force so far goes on working, never past the key's own
    /// end; `None` when it stops at once.
    #[must_use]
    pub fn rotated(&self, grace: TimeDelta, now: DateTime<Utc>) -> Self {
        let until = now + grace;
        let until = self.profile.expire_time.map_or(until, |expire_time| expire_time.min(until));
        Self { previous_secret_expire_time: (until > now).then_some(until), ..self.clone() }
    }
}

impl Profile {
    /// Fails unless the key is to end later than `now`.
    pub fn check_expire_time(&self, field: &str, now: DateTime<Utc>) -> Result<(), Violation> {
        match self.expire_time {
            Some(expire_time) if expire_time <= now => Err(Violation::new(field, "must be in the future")),
            _ => Ok(()),
        }
    }

    /// The scopes that a change from `self` to `after` hands out, and that whoever makes the change must hold.
    ///
    /// Added scopes are handed out to whoever has the secret. So is everything the key can do when the change makes it
    /// good for more than it was: enabled again, for longer, or from more origins or addresses. The bearer of a key that an owner
    /// switched off must not get it back from somebody who could not have created it.
    #[must_use]
    pub fn handed_out<'a>(&self, after: &'a Self) -> Vec<&'a str> {
        let enabled = self.disabled && !after.disabled;
        let longer = match (self.expire_time, after.expire_time) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(after)) => after > before,
        };
        let wider = !self.allowed_origins.is_empty()
            && (after.allowed_origins.is_empty()
                || after.allowed_origins.iter().any(|origin| !self.allowed_origins.contains(origin)));
        let further = ip_range::reaches_further(&self.allowed_ip_ranges, &after.allowed_ip_ranges);
        let all = enabled || longer || wider || further;
        after.scopes.iter().filter(|scope| all || !self.scopes.contains(scope)).map(String::as_str).collect()
    }
}

/// 1 to 64 permissions that a key of this kind may have, each once.
pub fn scopes(field: &str, kind: ApiKeyKind, scopes: &[String]) -> Result<Vec<String>, Violation> {
    if !(1..=SCOPES).contains(&scopes.len()) {
        return Err(Violation::new(field, format!("must be 1 to {SCOPES} permissions")));
    }
    for (position, scope) in scopes.iter().enumerate() {
        let wrong = |rule: String| Err(Violation::new(format!("{field}[{position}]"), rule));
        match scope.parse::<Permission>() {
            Ok(permission) if !permission.for_tenants() => {
                return wrong(format!("is {permission}, which only keys of the platform can have"));
            }
            Ok(permission) if kind.is_publishable() && !permission.for_publishable_keys() => {
                return wrong(format!(
                    "is {permission}, which no publishable key can have: anybody can read such a key"
                ));
            }
            Ok(_) => {}
            Err(unknown) => return wrong(unknown.description),
        }
        if scopes[..position].contains(scope) {
            return Err(Violation::new(field, format!("must name {scope} once")));
        }
    }
    Ok(scopes.to_vec())
}

/// The origins that a key of this kind may have: none for secret keys, at least one for widgets.
pub fn allowed_origins(field: &str, kind: ApiKeyKind, origins: &[String]) -> Result<Vec<String>, Violation> {
    if !kind.is_publishable() && !origins.is_empty() {
        return Err(Violation::new(field, "must be empty for a secret key, which no browser may hold"));
    }
    if kind == ApiKeyKind::PublishableWidget && origins.is_empty() {
        return Err(Violation::new(field, "must not be empty for a widget's key"));
    }
    origin::origins(field, origins)
}

/// How long the old secret goes on working: 0 to 30 days.
pub fn grace_period(field: &str, grace: TimeDelta) -> Result<TimeDelta, Violation> {
    if (TimeDelta::zero()..=LONGEST_GRACE).contains(&grace) {
        return Ok(grace);
    }
    Err(Violation::new(field, "must be 0 to 30 days"))
}

pub(super) fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests;
