//! Plans, as they are now and in each of their versions. A platform scope makes and changes them; who is on one reads it.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::Error;
use crate::model::plan::{self as rules, Features, Plan, PlanLimit, Profile, Sizes};
use crate::page::{Cursor, Page};
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::scope::{Accountable, PlatformScope, Scope, TenantScope};

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "plan";

struct Row {
    key: String,
    display_name: String,
    description: String,
    limits: Json<Vec<PlanLimit>>,
    features: Json<Features>,
    member_limit: Option<i32>,
    team_limit: Option<i32>,
    version: i64,
    revision: i64,
    archive_time: Option<DateTime<Utc>>,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<Row> for Plan {
    fn from(row: Row) -> Self {
        Self {
            key: row.key,
            profile: Profile { display_name: row.display_name, description: row.description },
            limits: row.limits.0,
            features: row.features.0,
            sizes: Sizes { member_limit: row.member_limit, team_limit: row.team_limit },
            version: row.version,
            archive_time: row.archive_time,
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// Creates a plan. Error: `PLAN_KEY_TAKEN`.
pub async fn create(scope: &mut PlatformScope, created: &Plan) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO tenancy.plans (key, display_name, description, limits, features, version, revision, create_time,
             update_time, member_limit, team_limit)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        created.key,
        created.profile.display_name,
        created.profile.description,
        Json(&created.limits) as _,
        Json(&created.features) as _,
        created.version,
        created.revision,
        created.create_time,
        created.update_time,
        created.sizes.member_limit,
        created.sizes.team_limit
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("plans_pkey", || key_taken(&created.key)))?;
    keep_version(scope, created).await?;
    changed(scope, "plans.create", None, created).await
}

/// A plan, archived or not, as it is now. Error: `PLAN_NOT_FOUND`.
pub async fn get(scope: &mut PlatformScope, key: &str) -> Result<Plan, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT key, display_name, description, limits AS "limits: Json<Vec<PlanLimit>>",
               features AS "features: Json<Features>", member_limit, team_limit, version, revision, archive_time,
               create_time, update_time
           FROM tenancy.plans WHERE key = $1"#,
        known(key)?
    )
    .fetch_optional(&mut *scope)
    .await?;
    found.map(Into::into).ok_or_else(|| Error::not_found(RESOURCE, key))
}

/// A plan with the limits, features and sizes that it had in a version. Errors: `PLAN_NOT_FOUND`, `PLAN_VERSION_NOT_FOUND`.
pub async fn get_version(scope: &mut PlatformScope, key: &str, version: i64) -> Result<Plan, Error> {
    let plan = get(scope, key).await?;
    let then = sqlx::query!(
        r#"SELECT limits AS "limits: Json<Vec<PlanLimit>>", features AS "features: Json<Features>", member_limit, team_limit
           FROM tenancy.plan_versions WHERE key = $1 AND version = $2"#,
        plan.key,
        version
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found("plan_version", format!("{key} {version}")))?;
    let sizes = Sizes { member_limit: then.member_limit, team_limit: then.team_limit };
    Ok(Plan { limits: then.limits.0, features: then.features.0, sizes, version, ..plan })
}

/// The plan, locked until the scope ends: changes of one plan happen one after another. Error: `PLAN_NOT_FOUND`.
pub async fn lock(scope: &mut PlatformScope, key: &str) -> Result<Plan, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT key, display_name, description, limits AS "limits: Json<Vec<PlanLimit>>",
               features AS "features: Json<Features>", member_limit, team_limit, version, revision, archive_time,
               create_time, update_time
           FROM tenancy.plans WHERE key = $1 FOR NO KEY UPDATE"#,
        known(key)?
    )
    .fetch_optional(&mut *scope)
    .await?;
    found.map(Into::into).ok_or_else(|| Error::not_found(RESOURCE, key))
}

/// One page of plans and one more, newest first; the archived ones if asked.
pub async fn list(scope: &mut PlatformScope, show_archived: bool, page: &Page) -> Result<Vec<Plan>, Error> {
    let after = page.bound();
    let found = sqlx::query_as!(
        Row,
        r#"SELECT key, display_name, description, limits AS "limits: Json<Vec<PlanLimit>>",
               features AS "features: Json<Features>", member_limit, team_limit, version, revision, archive_time,
               create_time, update_time
           FROM tenancy.plans,
               LATERAL encode(substring(sha256(convert_to(key, 'UTF8')) FOR 16), 'hex') AS hash
           WHERE (create_time, hash::uuid) < ($1, $2) AND ($3 OR archive_time IS NULL)
           ORDER BY create_time DESC, hash::uuid DESC LIMIT $4"#,
        after.time,
        after.id,
        show_archived,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// Where a page ends that ends with this plan. Plans have no UUID; of several of one time, a hash of the key says which is
/// first, in the list's statement as here.
#[must_use]
pub fn cursor(plan: &Plan) -> Cursor {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(&plan.key)[..16]);
    Cursor { time: plan.create_time, id: Uuid::from_bytes(id) }
}

/// Writes a locked plan back as `after`, under `action` in the audit, and tells the caches. A change of limits, features
/// or sizes makes a new version. Returns it as saved.
pub async fn save(
    scope: &mut PlatformScope,
    action: &'static str,
    before: &Plan,
    after: Plan,
    now: DateTime<Utc>,
) -> Result<Plan, Error> {
    let is_new_version =
        before.limits != after.limits || before.features != after.features || before.sizes != after.sizes;
    let saved = Plan {
        version: before.version + i64::from(is_new_version),
        revision: before.revision + 1,
        update_time: now,
        ..after
    };
    sqlx::query!(
        "UPDATE tenancy.plans SET display_name = $2, description = $3, limits = $4, features = $5, version = $6,
             revision = $7, archive_time = $8, update_time = $9, member_limit = $10, team_limit = $11
         WHERE key = $1",
        saved.key,
        saved.profile.display_name,
        saved.profile.description,
        Json(&saved.limits) as _,
        Json(&saved.features) as _,
        saved.version,
        saved.revision,
        saved.archive_time,
        saved.update_time,
        saved.sizes.member_limit,
        saved.sizes.team_limit
    )
    .execute(&mut *scope)
    .await?;
    if is_new_version {
        keep_version(scope, &saved).await?;
    }
    changed(scope, action, Some(before), &saved).await?;
    Ok(saved)
}

/// Fails unless organizations can be put on the plan. Errors: `PLAN_NOT_FOUND`, `PLAN_ARCHIVED`.
///
/// No lock: an archival that commits meanwhile was not acknowledged when this was asked.
pub async fn require_open<K: Accountable>(scope: &mut Scope<K>, key: &str) -> Result<(), Error> {
    let archive_time = sqlx::query_scalar!("SELECT archive_time FROM tenancy.plans WHERE key = $1", known(key)?)
        .fetch_optional(&mut *scope)
        .await?
        .ok_or_else(|| Error::not_found(RESOURCE, key))?;
    if archive_time.is_none() {
        return Ok(());
    }
    Err(Error::FailedPrecondition {
        reason: "PLAN_ARCHIVED",
        subject: format!("plans/{key}"),
        message: format!("the plan {key:?} is archived: no organization can be put on it"),
    })
}

/// What the scope's organization is entitled to.
#[derive(Debug)]
pub struct Entitlements {
    /// The key of its plan.
    pub plan: String,
    /// The version of the plan.
    pub version: i64,
    /// The plan's features.
    pub features: Features,
    /// How large it may become: by itself, or else by its plan.
    pub sizes: Sizes,
}

/// What the scope's organization is entitled to, by its plan and by itself. Error: `ORGANIZATION_NOT_FOUND`.
pub async fn entitlements(scope: &mut TenantScope) -> Result<Entitlements, Error> {
    let organization_id = scope.organization_id();
    let found = sqlx::query!(
        r#"SELECT p.key, p.version, p.features AS "features: Json<Features>",
               COALESCE(o.member_limit, p.member_limit) AS member_limit, COALESCE(o.team_limit, p.team_limit) AS team_limit
           FROM tenancy.organizations o JOIN tenancy.plans p ON p.key = o.plan WHERE o.organization_id = $1"#,
        organization_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found("organization", organization_id))?;
    let sizes = Sizes { member_limit: found.member_limit, team_limit: found.team_limit };
    Ok(Entitlements { plan: found.key, version: found.version, features: found.features.0, sizes })
}

/// A key that a plan can have: nothing else is asked for, as Postgres takes not every text.
fn known(key: &str) -> Result<&str, Error> {
    rules::key("plan", key).map(|_| key).map_err(|_| Error::not_found(RESOURCE, key))
}

/// Keeps the limits, features and sizes of a version.
async fn keep_version(scope: &mut PlatformScope, plan: &Plan) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO tenancy.plan_versions (key, version, limits, features, create_time, member_limit, team_limit)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        plan.key,
        plan.version,
        Json(&plan.limits) as _,
        Json(&plan.features) as _,
        plan.update_time,
        plan.sizes.member_limit,
        plan.sizes.team_limit
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}

/// Writes down what became of a plan, and tells the caches.
async fn changed(
    scope: &mut PlatformScope,
    action: &'static str,
    before: Option<&Plan>,
    after: &Plan,
) -> Result<(), Error> {
    let happened = Happened { at: after.update_time, action, resource_type: RESOURCE, resource_id: &after.key };
    audit_event::record(scope, happened, before, Some(after)).await?;
    changes::announce(scope, &Change::Plans).await
}

fn key_taken(key: &str) -> Error {
    Error::AlreadyExists { reason: "PLAN_KEY_TAKEN", resource: RESOURCE, field: "plan.key", value: key.to_owned() }
}
