//! When keys were last used, and when somebody last acted for a member: noted here by whoever lets them in, written by a
//! worker in batches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

use crate::auth::authenticator::KeyFacts;
use crate::auth::principal::Principal;
use crate::ids::{ApiKeyId, OrganizationId, PlatformKeyId, UserId};

/// The notes that are not written yet.
#[derive(Debug, Default)]
pub struct LastUsed(Mutex<Notes>);

/// Uses by key.
#[derive(Debug, Default)]
pub struct Notes {
    /// Of keys of tenants.
    pub tenants: HashMap<(OrganizationId, ApiKeyId), DateTime<Utc>>,
    /// Of keys of the platform.
    pub platform: HashMap<PlatformKeyId, DateTime<Utc>>,
    /// Of members, for whom somebody acted.
    pub members: HashMap<(OrganizationId, UserId), DateTime<Utc>>,
}

/// The second in which a use of a key was last noted, beside what is known of the key.
#[derive(Debug, Default)]
pub struct Noted(AtomicI64);

impl Noted {
    /// Whether no use was noted in the second of `at`; from then on one was.
    fn is_due(&self, at: DateTime<Utc>) -> bool {
        // Two threads may both think so, and both note it.
        let second = at.timestamp();
        self.0.load(Ordering::Relaxed) != second && self.0.swap(second, Ordering::Relaxed) != second
    }
}

impl LastUsed {
    /// Notes the use of a key, once a second: of a busy one a number is looked at, and no lock is taken.
    pub fn note_key(&self, facts: &KeyFacts, at: DateTime<Utc>) {
        if facts.noted.is_due(at) {
            self.note(&facts.principal, at);
        }
    }

    /// Notes a use. A few dozen nanoseconds; never waits for the database.
    pub fn note(&self, principal: &Principal, at: DateTime<Utc>) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match principal {
            Principal::ApiKey { organization_id, api_key_id, .. } => {
                notes.tenants.insert((*organization_id, *api_key_id), at);
            }
            // By a token of their own, as good as somebody who acts for them.
            Principal::User { organization_id, user_id, .. } => {
                notes.members.insert((*organization_id, *user_id), at);
            }
            Principal::Service { key_id, .. } | Principal::Operator { key_id } => {
                notes.platform.insert(*key_id, at);
            }
            // A certificate is kept elsewhere.
            Principal::Workload { .. } => {}
        }
    }

    /// Notes that somebody acts for a member.
    pub fn note_member(&self, organization_id: OrganizationId, user_id: UserId, at: DateTime<Utc>) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.members.insert((organization_id, user_id), at);
    }

    /// Takes what was noted, to write it.
    #[must_use]
    pub fn take(&self) -> Notes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes again what could not be written, unless a later use was noted meanwhile.
    pub fn put_back(&self, unwritten: Notes) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, at) in unwritten.tenants {
            notes.tenants.entry(key).or_insert(at);
        }
        for (key, at) in unwritten.platform {
            notes.platform.entry(key).or_insert(at);
        }
        for (member, at) in unwritten.members {
            notes.members.entry(member).or_insert(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_noted_once_a_second() {
        let at = |milliseconds| DateTime::from_timestamp_millis(milliseconds).unwrap();
        let noted = Noted::default();
        let due: Vec<bool> = [5_000, 5_001, 5_999, 6_000, 5_999, 7_000].map(|time| noted.is_due(at(time))).into();
        assert_eq!(due, [true, false, false, true, true, true]);
    }
}
