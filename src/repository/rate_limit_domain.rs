//! Rate limit domains. A platform scope makes and changes them, and reads them for the replicas.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::Error;
use crate::model::rate_limit_domain::{self as rules, RateLimitDomain, Rule};
use crate::page::{Cursor, Page};
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::scope::PlatformScope;

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "rate_limit_domain";

struct Row {
    domain: String,
    rules: Json<Vec<Rule>>,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<Row> for RateLimitDomain {
    fn from(row: Row) -> Self {
        Self {
            domain: row.domain,
            rule_count: rules::count(&row.rules.0),
            rules: row.rules.0,
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// Creates a domain. Error: `RATE_LIMIT_DOMAIN_TAKEN`.
pub async fn create(scope: &mut PlatformScope, created: &RateLimitDomain) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO tenancy.rate_limit_domains (domain, rules, revision, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5)",
        created.domain,
        Json(&created.rules) as _,
        created.revision,
        created.create_time,
        created.update_time
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("rate_limit_domains_pkey", || taken(&created.domain)))?;
    changed(scope, "rate_limit_domains.create", None, Some(created), created.create_time).await
}

/// A domain. Error: `RATE_LIMIT_DOMAIN_NOT_FOUND`.
pub async fn get(scope: &mut PlatformScope, domain: &str) -> Result<RateLimitDomain, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT domain, rules AS "rules: Json<Vec<Rule>>", revision, create_time, update_time
           FROM tenancy.rate_limit_domains WHERE domain = $1"#,
        known(domain)?
    )
    .fetch_optional(&mut *scope)
    .await?;
    found.map(Into::into).ok_or_else(|| Error::not_found(RESOURCE, domain))
}

/// The domain, locked until the scope ends: changes of one domain happen one after another. Error:
/// `RATE_LIMIT_DOMAIN_NOT_FOUND`.
pub async fn lock(scope: &mut PlatformScope, domain: &str) -> Result<RateLimitDomain, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT domain, rules AS "rules: Json<Vec<Rule>>", revision, create_time, update_time
           FROM tenancy.rate_limit_domains WHERE domain = $1 FOR UPDATE"#,
        known(domain)?
    )
    .fetch_optional(&mut *scope)
    .await?;
    found.map(Into::into).ok_or_else(|| Error::not_found(RESOURCE, domain))
}

/// One page of domains and one more, newest first, without their rules.
pub async fn list(scope: &mut PlatformScope, page: &Page) -> Result<Vec<RateLimitDomain>, Error> {
    let after = page.bound();
    let rows = sqlx::query!(
        r#"SELECT domain, revision, create_time, update_time,
               (SELECT count(*) FROM jsonb_path_query(rules, 'strict $.** ? (exists (@.key))')) AS "rule_count!"
           FROM tenancy.rate_limit_domains,
               LATERAL encode(substring(sha256(convert_to(domain, 'UTF8')) FOR 16), 'hex') AS hash
           WHERE (create_time, hash::uuid) < ($1, $2)
           ORDER BY create_time DESC, hash::uuid DESC LIMIT $3"#,
        after.time,
        after.id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    let domains = rows.into_iter().map(|row| RateLimitDomain {
        domain: row.domain,
        rules: Vec::new(),
        rule_count: usize::try_from(row.rule_count).unwrap_or_default(),
        revision: row.revision,
        create_time: row.create_time,
        update_time: row.update_time,
    });
    Ok(domains.collect())
}

/// Where a page ends that ends with this domain: as of plans, a hash of the name stands for an id.
#[must_use]
pub fn cursor(domain: &RateLimitDomain) -> Cursor {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(&domain.domain)[..16]);
    Cursor { time: domain.create_time, id: Uuid::from_bytes(id) }
}

/// Gives a locked domain other rules. Returns it as saved.
pub async fn save(
    scope: &mut PlatformScope,
    before: &RateLimitDomain,
    rules: Vec<Rule>,
    now: DateTime<Utc>,
) -> Result<RateLimitDomain, Error> {
    let saved = RateLimitDomain {
        rule_count: rules::count(&rules),
        rules,
        revision: before.revision + 1,
        update_time: now,
        ..before.clone()
    };
    sqlx::query!(
        "UPDATE tenancy.rate_limit_domains SET rules = $2, revision = $3, update_time = $4 WHERE domain = $1",
        saved.domain,
        Json(&saved.rules) as _,
        saved.revision,
        saved.update_time
    )
    .execute(&mut *scope)
    .await?;
    changed(scope, "rate_limit_domains.update", Some(before), Some(&saved), now).await?;
    Ok(saved)
}

/// Deletes a locked domain.
pub async fn delete(scope: &mut PlatformScope, before: &RateLimitDomain, now: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!("DELETE FROM tenancy.rate_limit_domains WHERE domain = $1", before.domain)
        .execute(&mut *scope)
        .await?;
    changed(scope, "rate_limit_domains.delete", Some(before), None, now).await
}

/// The rules of a domain, and when the transaction began: what was committed before is in them. `None`: there is no such
/// domain.
pub async fn rules(scope: &mut PlatformScope, domain: &str) -> Result<Option<(Vec<Rule>, DateTime<Utc>)>, Error> {
    let Ok(domain) = known(domain) else { return Ok(None) };
    let found = sqlx::query!(
        r#"SELECT rules AS "rules: Json<Vec<Rule>>", now() AS "now!" FROM tenancy.rate_limit_domains WHERE domain = $1"#,
        domain
    )
    .fetch_optional(&mut *scope)
    .await?;
    Ok(found.map(|row| (row.rules.0, row.now)))
}

/// A name that a domain can have: nothing else is asked for, as Postgres takes not every text.
fn known(domain: &str) -> Result<&str, Error> {
    rules::domain("domain", domain).map(|_| domain).map_err(|_| Error::not_found(RESOURCE, domain))
}

/// Writes down what became of a domain, and tells the caches.
async fn changed(
    scope: &mut PlatformScope,
    action: &'static str,
    before: Option<&RateLimitDomain>,
    after: Option<&RateLimitDomain>,
    at: DateTime<Utc>,
) -> Result<(), Error> {
    let domain = before.or(after).map(|domain| domain.domain.as_str()).unwrap_or_default();
    let happened = Happened { at, action, resource_type: RESOURCE, resource_id: domain };
    audit_event::record(scope, happened, before, after).await?;
    changes::announce(scope, &Change::RateLimits).await
}

fn taken(domain: &str) -> Error {
    Error::AlreadyExists {
        reason: "RATE_LIMIT_DOMAIN_TAKEN",
        resource: RESOURCE,
        field: "rate_limit_domain.domain",
        value: domain.to_owned(),
    }
}
