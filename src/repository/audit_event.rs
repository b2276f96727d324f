//! The audit's records: written by whoever changes something, in the same scope; never changed. And their lists, of an
//! organization or of the platform.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{AuditEventId, OrganizationId, UserId};
use crate::model::audit_event::{ActorType, AuditEvent};
use crate::page::Page;
use crate::repository::scope::{Accountable, PlatformScope, Scope, TenantScope};

/// What happened, as the code that did it knows; who did it is known by the scope.
#[derive(Debug)]
pub struct Happened<'a> {
    /// When.
    pub at: DateTime<Utc>,
    /// `<resource>.<verb>`.
    pub action: &'static str,
    /// The type of the resource.
    pub resource_type: &'static str,
    /// Its id.
    pub resource_id: &'a str,
}

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub struct Narrow {
    /// Only this action.
    pub action: Option<String>,
    /// Only what was done to this type of resource.
    pub resource_type: Option<String>,
    /// Only what was done to the resource with this id.
    pub resource_id: Option<String>,
    /// Only what this key or program did.
    pub actor_id: Option<String>,
    /// Only what was done for this user.
    pub acting_user_id: Option<UserId>,
    /// Only what this request did.
    pub request_id: Option<String>,
}

/// Writes the record of a change into the audit of the scope: the organization's, or the platform's.
///
/// `before` and `after` are what serde makes of the model, which leaves secrets out.
pub async fn record<K: Accountable>(
    scope: &mut Scope<K>,
    happened: Happened<'_>,
    before: Option<&impl Serialize>,
    after: Option<&impl Serialize>,
) -> Result<(), Error> {
    match scope.kind().organization() {
        Some(organization_id) => record_of(scope, organization_id, happened, before, after).await,
        None => record_of_platform(scope, happened, before, after).await,
    }
}

/// The same for a named organization: the platform scope that creates one writes its first record.
pub async fn record_of<K: Accountable>(
    scope: &mut Scope<K>,
    organization_id: OrganizationId,
    happened: Happened<'_>,
    before: Option<&impl Serialize>,
    after: Option<&impl Serialize>,
) -> Result<(), Error> {
    let context = scope.kind().context().clone();
    sqlx::query!(
        "INSERT INTO tenancy.audit_events (organization_id, audit_event_id, occur_time, actor_type, actor_id,
             acting_user_id, action, resource_type, resource_id, before, after, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        organization_id.uuid(),
        AuditEventId::new(happened.at).uuid(),
        happened.at,
        context.actor.kind,
        context.actor.id.to_string(),
        context.acting_user.map(UserId::uuid),
        happened.action,
        happened.resource_type,
        happened.resource_id,
        json(before)?,
        json(after)?,
        &*context.request_id,
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}

/// The same for what belongs to no organization, in whatever scope it is changed.
pub async fn record_of_platform<K: Accountable>(
    scope: &mut Scope<K>,
    happened: Happened<'_>,
    before: Option<&impl Serialize>,
    after: Option<&impl Serialize>,
) -> Result<(), Error> {
    let context = scope.kind().context().clone();
    sqlx::query!(
        "INSERT INTO tenancy.platform_audit_events (audit_event_id, occur_time, actor_type, actor_id, acting_user_id,
             action, resource_type, resource_id, before, after, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        AuditEventId::new(happened.at).uuid(),
        happened.at,
        context.actor.kind,
        context.actor.id.to_string(),
        context.acting_user.map(UserId::uuid),
        happened.action,
        happened.resource_type,
        happened.resource_id,
        json(before)?,
        json(after)?,
        &*context.request_id,
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}

/// How many records are written in one statement.
const AT_ONCE: usize = 1_000;

/// What became of one of many resources.
#[derive(Debug)]
pub struct Changed {
    /// Its id.
    pub resource_id: String,
    /// What it was.
    pub before: Option<Value>,
    /// What it is.
    pub after: Option<Value>,
}

/// Writes the records of all that one change removed, each with the id of its resource and what it was.
pub async fn record_removals(
    scope: &mut TenantScope,
    action: &'static str,
    resource_type: &'static str,
    removed: &[(String, impl Serialize)],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    record_all(scope, action, resource_type, &each(removed, |before| (before, None))?, now).await
}

/// Writes the records of all that one request added, each with the id of its resource and what it is.
pub async fn record_additions(
    scope: &mut TenantScope,
    action: &'static str,
    resource_type: &'static str,
    added: &[(String, impl Serialize)],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    record_all(scope, action, resource_type, &each(added, |after| (None, after))?, now).await
}

/// What became of resources of which there was nothing before, or is nothing after.
fn each(
    resources: &[(String, impl Serialize)],
    sides: impl Fn(Option<Value>) -> (Option<Value>, Option<Value>),
) -> Result<Vec<Changed>, Error> {
    let changed = resources.iter().map(|(resource_id, resource)| {
        let (before, after) = sides(json(Some(resource))?);
        Ok(Changed { resource_id: resource_id.clone(), before, after })
    });
    changed.collect()
}

/// Writes the records of what one change did to many resources.
pub async fn record_all(
    scope: &mut TenantScope,
    action: &'static str,
    resource_type: &'static str,
    changes: &[Changed],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let organization_id = scope.organization_id();
    let context = scope.kind().context().clone();
    for changes in changes.chunks(AT_ONCE) {
        let ids: Vec<Uuid> = changes.iter().map(|_| AuditEventId::new(now).uuid()).collect();
        let resources: Vec<String> = changes.iter().map(|change| change.resource_id.clone()).collect();
        let before: Vec<Option<Value>> = changes.iter().map(|change| change.before.clone()).collect();
        let after: Vec<Option<Value>> = changes.iter().map(|change| change.after.clone()).collect();
        sqlx::query!(
            "INSERT INTO tenancy.audit_events (organization_id, audit_event_id, occur_time, actor_type, actor_id,
                 acting_user_id, action, resource_type, resource_id, before, after, request_id)
             SELECT $1, r.audit_event_id, $2, $3, $4, $5, $6, $7, r.resource_id, r.before, r.after, $8
             FROM UNNEST($9::uuid[], $10::text[], $11::jsonb[], $12::jsonb[])
                 AS r (audit_event_id, resource_id, before, after)",
            organization_id.uuid(),
            now,
            context.actor.kind,
            context.actor.id.to_string(),
            context.acting_user.map(UserId::uuid),
            action,
            resource_type,
            &*context.request_id,
            &ids,
            &resources,
            &before as &[Option<Value>],
            &after as &[Option<Value>]
        )
        .execute(&mut *scope)
        .await?;
    }
    Ok(())
}

/// Writes the records of all that one request added and that belongs to no organization.
pub async fn record_additions_of_platform(
    scope: &mut PlatformScope,
    action: &'static str,
    resource_type: &'static str,
    added: &[(String, impl Serialize)],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let context = scope.kind().context().clone();
    for added in added.chunks(AT_ONCE) {
        let ids: Vec<Uuid> = added.iter().map(|_| AuditEventId::new(now).uuid()).collect();
        let resources: Vec<String> = added.iter().map(|(resource_id, _)| resource_id.clone()).collect();
        let after = added.iter().map(|(_, after)| json(Some(after))).collect::<Result<Vec<_>, _>>()?;
        sqlx::query!(
            "INSERT INTO tenancy.platform_audit_events (audit_event_id, occur_time, actor_type, actor_id, acting_user_id,
                 action, resource_type, resource_id, after, request_id)
             SELECT r.audit_event_id, $1, $2, $3, $4, $5, $6, r.resource_id, r.after, $7
             FROM UNNEST($8::uuid[], $9::text[], $10::jsonb[]) AS r (audit_event_id, resource_id, after)",
            now,
            context.actor.kind,
            context.actor.id.to_string(),
            context.acting_user.map(UserId::uuid),
            action,
            resource_type,
            &*context.request_id,
            &ids,
            &resources,
            &after as &[Option<Value>]
        )
        .execute(&mut *scope)
        .await?;
    }
    Ok(())
}

/// One page of the records of the scope's organization and one more, newest first.
pub async fn list(scope: &mut TenantScope, narrow: &Narrow, page: &Page) -> Result<Vec<AuditEvent>, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_as!(
        AuditEvent,
        r#"SELECT audit_event_id AS "audit_event_id: AuditEventId",
               organization_id AS "organization_id?: OrganizationId", occur_time, actor_type AS "actor_type: ActorType",
               actor_id, acting_user_id AS "acting_user_id: UserId", action, resource_type, resource_id, before, after,
               request_id
           FROM tenancy.audit_events
           WHERE organization_id = $1
             AND audit_event_id < $2
             AND ($3::text IS NULL OR action = $3)
             AND ($4::text IS NULL OR resource_type = $4)
             AND ($5::text IS NULL OR resource_id = $5)
             AND ($6::text IS NULL OR actor_id = $6)
             AND ($7::uuid IS NULL OR acting_user_id = $7)
             AND ($8::text IS NULL OR request_id = $8)
           ORDER BY audit_event_id DESC LIMIT $9"#,
        organization_id.uuid(),
        page.bound().id,
        narrow.action,
        narrow.resource_type,
        narrow.resource_id,
        narrow.actor_id,
        narrow.acting_user_id.map(UserId::uuid),
        narrow.request_id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// One page of the records of the platform and one more, newest first.
pub async fn list_of_platform(
    scope: &mut PlatformScope,
    narrow: &Narrow,
    page: &Page,
) -> Result<Vec<AuditEvent>, Error> {
    Ok(sqlx::query_as!(
        AuditEvent,
        r#"SELECT audit_event_id AS "audit_event_id: AuditEventId", NULL::uuid AS "organization_id: OrganizationId",
               occur_time, actor_type AS "actor_type: ActorType", actor_id, acting_user_id AS "acting_user_id: UserId",
               action, resource_type, resource_id, before, after, request_id
           FROM tenancy.platform_audit_events
           WHERE audit_event_id < $1
             AND ($2::text IS NULL OR action = $2)
             AND ($3::text IS NULL OR resource_type = $3)
             AND ($4::text IS NULL OR resource_id = $4)
             AND ($5::text IS NULL OR actor_id = $5)
             AND ($6::uuid IS NULL OR acting_user_id = $6)
             AND ($7::text IS NULL OR request_id = $7)
           ORDER BY audit_event_id DESC LIMIT $8"#,
        page.bound().id,
        narrow.action,
        narrow.resource_type,
        narrow.resource_id,
        narrow.actor_id,
        narrow.acting_user_id.map(UserId::uuid),
        narrow.request_id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?)
}

fn json(value: Option<&impl Serialize>) -> Result<Option<Value>, Error> {
    value.map(serde_json::to_value).transpose().map_err(Error::internal)
}
