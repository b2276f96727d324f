//! What a dry run would have created so far, so that rows which refer to it are not called wrong: as hashes, 8 bytes each.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::model::team;

/// The most that is remembered, some 64 MB; what comes later is told as if it were not in the file.
const MOST: usize = 4_000_000;

/// What would be there.
#[derive(Debug, Default)]
pub struct Foreseen {
    hasher: RandomState,
    hashes: Mutex<HashSet<u64>>,
}

/// Something that a row would create, by what it is known by.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Thing<'a> {
    /// An organization, by its slug.
    Organization(&'a str),
    /// A user, by the key of their address.
    User(&'a str),
    /// A team, by its organization and its names.
    Team(&'a str, &'a [String]),
    /// A member, by the organization and the key of their address or their id.
    Member(&'a str, &'a str),
    /// The same with the role.
    Role(&'a str, &'a str, &'a str),
}

impl Foreseen {
    /// Remembers it.
    pub fn add(&self, thing: Thing<'_>) {
        let hash = self.hasher.hash_one(thing);
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if hashes.len() < MOST {
            hashes.insert(hash);
        }
    }

    /// Whether it would be there.
    pub fn has(&self, thing: Thing<'_>) -> bool {
        let hash = self.hasher.hash_one(thing);
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    /// The same of a team as a row of a member names it.
    pub fn has_team(&self, organization: &str, path: &str) -> bool {
        keys(path).is_some_and(|keys| self.has(Thing::Team(organization, &keys)))
    }
}

/// What is unique of the names in a path; `None` where it is none.
pub fn keys(path: &str) -> Option<Vec<String>> {
    let names = team::names("path", path).ok()?;
    Some(names.iter().map(|name| team::name_key(name)).collect())
}
