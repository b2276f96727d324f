//! The names that accounts have in the ledger whose limits have no id: UUIDs (version 8) of what is counted, so that every replica comes
//! to the same ones, and a limit that changes its amount goes on counting where it was.
//!
//! BLAKE3, as it is short work for such short texts: keeping the names that were made would cost as much as making them.

use std::sync::Arc;

use uuid::Uuid;

use crate::ids::{LimitId, MeterId, OrganizationId};
use crate::model::limit::{Enforcement, SubjectKind, Terms, Window};
use crate::quota::decision::{AccountKey, Applied, Source};
use crate::quota::policy::Resolved;

/// Nobody's: the owner of what is counted for no tenant.
pub const NOBODY: Uuid = Uuid::nil();

/// The name of a sequence of texts.
#[must_use]
pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Uuid {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        // With its length, so that other texts cannot be put together to the same.
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(half).into_uuid()
}

/// So much in a window, hard, under a name for what is counted.
#[must_use]
pub fn applied(what: Uuid, name: &str, requests: u64, window: Window, shadow: bool) -> Arc<Applied> {
    let terms = Terms {
        amount: Some(requests),
        burst: 0,
        enforcement: Enforcement::Hard,
        shadow,
        fallback: None,
        alert_percents: Vec::new(),
    };
    Arc::new(Applied {
        limit_id: LimitId::from(what),
        source: Source::Rule,
        meter: Arc::from(name),
        meter_id: MeterId::from(what),
        // Of a kind that no account of a tenant with such an id is of: theirs have their own ids there.
        subject_kind: SubjectKind::Organization,
        window,
        terms,
    })
}

/// What a descriptor with these entries is counted in.
#[must_use]
pub fn resolved<'a>(applied: Arc<Applied>, entries: impl IntoIterator<Item = &'a str>) -> Resolved {
    let account = AccountKey {
        subject_kind: applied.subject_kind,
        subject_id: of(entries),
        meter_id: applied.meter_id,
        window: applied.window,
    };
    Resolved { account, applied }
}

/// The owner of what is counted for an organization, or for none.
#[must_use]
pub fn owner(organization: Option<OrganizationId>) -> OrganizationId {
    organization.unwrap_or_else(|| NOBODY.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_texts_apart() {
        assert_eq!(of(["a", "b"]), of(["a", "b"]));
        for others in [&["ab"][..], &["a", "", "b"], &["b", "a"], &["a", "b", ""], &["", "ab"]] {
            assert_ne!(of(["a", "b"]), of(others.iter().copied()), "{others:?}");
        }
        assert_eq!(of(["a"]).get_version_num(), 8);
    }
}
