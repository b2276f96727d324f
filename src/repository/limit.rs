//! Limits of organizations, and all that is in force for one.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::{Error, Violation};
use crate::ids::{LimitId, MeterId};
use crate::model::limit::{Limit, MOST_LIMITS, Maker, Rule, SubjectKind, Terms, Window};
use crate::model::organization as rules;
use crate::model::plan::{Features, PlanLimit, PolicyRows};
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::organization;
use crate::repository::scope::TenantScope;
use crate::repository::team;

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "limit";

struct Row {
    organization_id: Uuid,
    limit_id: Uuid,
    maker: Maker,
    subject_id: Option<Uuid>,
    meter_id: Uuid,
    subject_kind: SubjectKind,
    window_kind: String,
    rule: Json<Terms>,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl TryFrom<Row> for Limit {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            organization_id: row.organization_id.into(),
            limit_id: row.limit_id.into(),
            maker: row.maker,
            subject_id: row.subject_id,
            rule: Rule {
                meter_id: row.meter_id.into(),
                subject_kind: row.subject_kind,
                window: Window::try_from(row.window_kind).map_err(Error::internal)?,
                terms: row.rule.0,
            },
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        })
    }
}

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub struct Narrow {
    /// Only those of this meter.
    pub meter_id: Option<MeterId>,
    /// Only those for exactly this subject.
    pub subject_id: Option<Uuid>,
}

/// Creates a limit of the scope's organization. Errors: `TEAM_NOT_FOUND`, `LIMIT_TAKEN`, `LIMITS_EXHAUSTED`.
pub async fn create(scope: &mut TenantScope, created: &Limit) -> Result<(), Error> {
    // Two that count at once would both find room for the last one.
    organization::lock(scope).await?;
    if let (SubjectKind::Team, Some(team_id)) = (created.rule.subject_kind, created.subject_id) {
        team::get(scope, team_id.into()).await?;
    }
    let organization_id = created.organization_id.uuid();
    let known = sqlx::query_scalar!(
        r#"SELECT count(*) AS "known!" FROM tenancy.limits WHERE organization_id = $1"#,
        organization_id
    )
    .fetch_one(&mut *scope)
    .await?;
    if known >= MOST_LIMITS {
        return Err(Error::FailedPrecondition {
            reason: "LIMITS_EXHAUSTED",
            subject: format!("organizations/{organization_id}"),
            message: format!("an organization has at most {MOST_LIMITS} limits: delete one first"),
        });
    }
    let rule = &created.rule;
    sqlx::query!(
        "INSERT INTO tenancy.limits (organization_id, limit_id, maker, subject_id, meter_id, subject_kind, window_kind,
             rule, revision, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        organization_id,
        created.limit_id.uuid(),
        created.maker.as_str(),
        created.subject_id,
        rule.meter_id.uuid(),
        rule.subject_kind.as_str(),
        rule.window.as_str(),
        Json(&rule.terms) as _,
        created.revision,
        created.create_time,
        created.update_time
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("limits_taken", || taken(created)))?;
    changed(scope, "limits.create", created.limit_id, None, Some(created), created.create_time).await
}

/// One limit. Error: `LIMIT_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, id: LimitId) -> Result<Limit, Error> {
    let organization_id = scope.organization_id().uuid();
    sqlx::query_as!(
        Row,
        r#"SELECT organization_id, limit_id, maker AS "maker: Maker", subject_id, meter_id,
               subject_kind AS "subject_kind: SubjectKind", window_kind, rule AS "rule: Json<Terms>", revision,
               create_time, update_time
           FROM tenancy.limits WHERE organization_id = $1 AND limit_id = $2"#,
        organization_id,
        id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, id))?
    .try_into()
}

/// The same, locked until the scope ends: changes of one limit happen one after another.
pub async fn lock(scope: &mut TenantScope, id: LimitId) -> Result<Limit, Error> {
    let organization_id = scope.organization_id().uuid();
    sqlx::query_as!(
        Row,
        r#"SELECT organization_id, limit_id, maker AS "maker: Maker", subject_id, meter_id,
               subject_kind AS "subject_kind: SubjectKind", window_kind, rule AS "rule: Json<Terms>", revision,
               create_time, update_time
           FROM tenancy.limits WHERE organization_id = $1 AND limit_id = $2 FOR NO KEY UPDATE"#,
        organization_id,
        id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, id))?
    .try_into()
}

/// One page and one more of the limits made for the scope's organization, newest first.
pub async fn list(scope: &mut TenantScope, narrow: &Narrow, page: &Page) -> Result<Vec<Limit>, Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT organization_id, limit_id, maker AS "maker: Maker", subject_id, meter_id,
               subject_kind AS "subject_kind: SubjectKind", window_kind, rule AS "rule: Json<Terms>", revision,
               create_time, update_time
           FROM tenancy.limits
           WHERE organization_id = $1 AND limit_id < $2 AND ($3::uuid IS NULL OR meter_id = $3)
             AND ($4::uuid IS NULL OR subject_id = $4)
           ORDER BY limit_id DESC LIMIT $5"#,
        scope.organization_id().uuid(),
        page.bound().id,
        narrow.meter_id.map(MeterId::uuid),
        narrow.subject_id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// Gives a locked limit other terms. Returns it as saved.
pub async fn save(scope: &mut TenantScope, before: &Limit, terms: Terms, now: DateTime<Utc>) -> Result<Limit, Error> {
    let rule = Rule { terms, ..before.rule.clone() };
    let saved = Limit { rule, revision: before.revision + 1, update_time: now, ..before.clone() };
    sqlx::query!(
        "UPDATE tenancy.limits SET rule = $3, revision = $4, update_time = $5
         WHERE organization_id = $1 AND limit_id = $2",
        saved.organization_id.uuid(),
        saved.limit_id.uuid(),
        Json(&saved.rule.terms) as _,
        saved.revision,
        saved.update_time
    )
    .execute(&mut *scope)
    .await?;
    changed(scope, "limits.update", saved.limit_id, Some(before), Some(&saved), now).await?;
    Ok(saved)
}

/// Deletes a locked limit.
pub async fn delete(scope: &mut TenantScope, before: &Limit, now: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM tenancy.limits WHERE organization_id = $1 AND limit_id = $2",
        before.organization_id.uuid(),
        before.limit_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    changed(scope, "limits.delete", before.limit_id, Some(before), None, now).await
}

/// Writes down what became of a limit, and tells the caches.
async fn changed(
    scope: &mut TenantScope,
    action: &'static str,
    id: LimitId,
    before: Option<&Limit>,
    after: Option<&Limit>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, before, after).await?;
    let change = Change::Limits(scope.organization_id());
    changes::announce(scope, &change).await
}

fn taken(limit: &Limit) -> Error {
    let rule = &limit.rule;
    let subject = limit.subject_id.map_or_else(|| "each".to_owned(), |id| id.to_string());
    Error::AlreadyExists {
        reason: "LIMIT_TAKEN",
        resource: RESOURCE,
        field: "limit.rule",
        value: format!("{} {subject}, {}, {}", rule.subject_kind.as_str(), rule.meter_id, rule.window),
    }
}

/// All that decides what the scope's organization may consume. Error: `ORGANIZATION_NOT_FOUND`.
///
/// The two statements may see two states. Each state is one that somebody committed, and a commit between them is
/// announced to whoever keeps the answer.
pub async fn policy(scope: &mut TenantScope) -> Result<PolicyRows, Error> {
    let organization_id = scope.organization_id();
    let found = sqlx::query!(
        r#"SELECT o.plan, p.version, p.limits AS "limits: Json<Vec<PlanLimit>>",
               p.features AS "features: Json<Features>", o.time_zone, o.billing_anchor_day, now() AS "as_of!"
           FROM tenancy.organizations o JOIN tenancy.plans p ON p.key = o.plan WHERE o.organization_id = $1"#,
        organization_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found("organization", organization_id))?;
    let limits = sqlx::query_as!(
        Row,
        r#"SELECT organization_id, limit_id, maker AS "maker: Maker", subject_id, meter_id,
               subject_kind AS "subject_kind: SubjectKind", window_kind, rule AS "rule: Json<Terms>", revision,
               create_time, update_time
           FROM tenancy.limits WHERE organization_id = $1"#,
        organization_id.uuid()
    )
    .fetch_all(&mut *scope)
    .await?;
    let broken = |violation: Violation| Error::internal(format!("stored: {violation:?}"));
    Ok(PolicyRows {
        plan: found.plan,
        plan_version: found.version,
        plan_limits: found.limits.0,
        features: found.features.0,
        limits: limits.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        time_zone: rules::time_zone("time_zone", &found.time_zone).map_err(broken)?,
        billing_anchor_day: rules::billing_anchor_day("billing_anchor_day", found.billing_anchor_day.into())
            .map_err(broken)?,
        as_of: found.as_of,
    })
}
