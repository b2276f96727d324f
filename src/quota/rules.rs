//! The rules of the rate limit service, kept in memory and true to the change log.

pub mod names;
mod tree;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::principal::PermittedPlatform;
use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::repository::changes::Change;
use crate::repository::database::Database;
use crate::repository::rate_limit_domain;
use crate::repository::scope::Purpose;

pub use tree::{Matched, RuleSet, Says};

/// Domains kept, those that have no rules among them.
const CAPACITY: usize = 1_000;

/// Rules by domain.
#[derive(Debug)]
pub struct Rules {
    database: Database,
    clock: Clock,
    facts: Facts<String, Option<Arc<RuleSet>>>,
}

impl Rules {
    /// `lifetime` bounds how long rules are believed while the change log cannot be read.
    #[must_use]
    pub fn new(database: Database, clock: Clock, lifetime: Duration) -> Self {
        Self { database, clock, facts: Facts::new(CAPACITY, lifetime) }
    }

    /// The rules of a domain if they are here; `Some(None)` when there are none. Never waits.
    #[must_use]
    pub fn peek(&self, domain: &String, now: Instant) -> Option<Option<Arc<RuleSet>>> {
        self.facts.peek(domain, now)
    }

    /// The rules of a domain, from here or from the database; `None`: there are none.
    pub async fn get(&self, domain: &String) -> Result<Option<Arc<RuleSet>>, Error> {
        let load = || async {
            let permitted = PermittedPlatform::system("rate limits");
            let mut scope = self.database.platform(&permitted, Purpose::RateLimits).await?;
            let found = rate_limit_domain::rules(&mut scope, domain).await?;
            Ok(found.map(|(rules, as_of)| Arc::new(RuleSet::new(domain, &rules, as_of.timestamp_micros()))))
        };
        self.facts.get(domain, self.clock.instant(), load).await
    }

    /// Forgets what a change made untrue.
    pub fn apply(&self, change: &Change) {
        if *change == Change::RateLimits {
            self.facts.invalidate_all();
        }
    }

    /// Forgets everything, as when the change log could not be followed.
    pub fn forget_all(&self) {
        self.facts.invalidate_all();
    }
}
