//! Organizations and the directory of their slugs.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::organization::{self as rules, Deletion, Organization, Profile, Suspension};
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::plan;
use crate::repository::scope::{PlatformScope, TenantScope};

/// The name of the resource in errors and in the audit.
const RESOURCE: &str = "organization";

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub struct Narrow {
    /// Only these; `None` means all.
    pub organization_ids: Option<Vec<Uuid>>,
    /// `active` or `suspended`.
    pub status: Option<&'static str>,
    /// Only this plan.
    pub plan: Option<String>,
    /// Only this slug.
    pub slug: Option<String>,
    /// Labels that it must have, as a JSON object.
    pub labels: Option<Value>,
    /// Also the deleted ones.
    pub show_deleted: bool,
}

struct Row {
    organization_id: Uuid,
    slug: String,
    display_name: String,
    status: String,
    suspend_time: Option<DateTime<Utc>>,
    suspend_reason: String,
    plan: String,
    contact_email: String,
    billing_email: String,
    time_zone: String,
    billing_anchor_day: i16,
    currency: String,
    locale: String,
    date_format: String,
    logo_uri: String,
    primary_color: String,
    labels: Value,
    member_limit: Option<i32>,
    team_limit: Option<i32>,
    settings: Value,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    delete_time: Option<DateTime<Utc>>,
    purge_time: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Organization {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let broken = |violation: crate::error::Violation| Error::internal(format!("stored: {violation:?}"));
        Ok(Self {
            organization_id: row.organization_id.into(),
            suspension: row
                .suspend_time
                .filter(|_| row.status == "suspended")
                .map(|time| Suspension { time, reason: row.suspend_reason }),
            deletion: row.delete_time.zip(row.purge_time).map(|(time, purge_time)| Deletion { time, purge_time }),
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
            profile: Profile {
                slug: row.slug,
                display_name: row.display_name,
                plan: row.plan,
                contact_email: row.contact_email,
                billing_email: row.billing_email,
                time_zone: rules::time_zone("time_zone", &row.time_zone).map_err(broken)?,
                billing_anchor_day: rules::billing_anchor_day("billing_anchor_day", row.billing_anchor_day.into())
                    .map_err(broken)?,
                currency: row.currency,
                locale: row.locale,
                date_format: row.date_format,
                logo_uri: row.logo_uri,
                primary_color: row.primary_color,
                labels: serde_json::from_value(row.labels).map_err(Error::internal)?,
                member_limit: row.member_limit,
                team_limit: row.team_limit,
                settings: row.settings,
            },
        })
    }
}

/// Creates an organization. Errors: `PLAN_NOT_FOUND`, `PLAN_ARCHIVED`, `SLUG_TAKEN`.
pub async fn create(
    scope: &mut PlatformScope,
    organization_id: OrganizationId,
    profile: &Profile,
    now: DateTime<Utc>,
) -> Result<Organization, Error> {
    plan::require_open(scope, &profile.plan).await?;
    sqlx::query!(
        "INSERT INTO tenancy.organization_slugs (slug, organization_id) VALUES ($1, $2)",
        profile.slug,
        organization_id.uuid()
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("organization_slugs_pkey", || slug_taken(&profile.slug)))?;
    let row = sqlx::query_as!(
        Row,
        "INSERT INTO tenancy.organizations (organization_id, slug, display_name, plan, contact_email, billing_email,
             time_zone, currency, locale, date_format, logo_uri, primary_color, labels, member_limit, settings,
             create_time, update_time, billing_anchor_day, team_limit)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17, $18) RETURNING *",
        organization_id.uuid(),
        profile.slug,
        profile.display_name,
        profile.plan,
        profile.contact_email,
        profile.billing_email,
        profile.time_zone.name(),
        profile.currency,
        profile.locale,
        profile.date_format,
        profile.logo_uri,
        profile.primary_color,
        serde_json::to_value(&profile.labels).map_err(Error::internal)?,
        profile.member_limit,
        profile.settings,
        now,
        i16::from(profile.billing_anchor_day),
        profile.team_limit
    )
    .fetch_one(&mut *scope)
    .await?;
    let created = Organization::try_from(row)?;
    let id = organization_id.to_string();
    let happened = Happened { at: now, action: "organizations.create", resource_type: RESOURCE, resource_id: &id };
    audit_event::record_of(scope, organization_id, happened, None::<&Organization>, Some(&created)).await?;
    // That nobody has its slug may be known.
    changes::announce(scope, &Change::Organization(organization_id)).await?;
    Ok(created)
}

/// The scope's organization, deleted or not. Error: `ORGANIZATION_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope) -> Result<Organization, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(Row, "SELECT * FROM tenancy.organizations WHERE organization_id = $1", organization_id.uuid())
        .fetch_optional(&mut *scope)
        .await?
        .ok_or_else(|| Error::not_found(RESOURCE, organization_id))?
        .try_into()
}

/// The same, locked until the scope ends: changes of one organization, and of who its members are, happen one after
/// another.
pub async fn lock(scope: &mut TenantScope) -> Result<Organization, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        Row,
        "SELECT * FROM tenancy.organizations WHERE organization_id = $1 FOR NO KEY UPDATE",
        organization_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, organization_id))?
    .try_into()
}

/// Writes a locked organization back as `after`, under `action` in the audit, and tells the caches. Errors: `SLUG_TAKEN`;
/// `PLAN_NOT_FOUND` and `PLAN_ARCHIVED` for another plan than before.
pub async fn save(
    scope: &mut TenantScope,
    action: &'static str,
    before: &Organization,
    after: &Organization,
    now: DateTime<Utc>,
) -> Result<Organization, Error> {
    let (id, profile) = (after.organization_id, &after.profile);
    if profile.plan != before.profile.plan {
        plan::require_open(scope, &profile.plan).await?;
    }
    if profile.slug != before.profile.slug {
        sqlx::query!(
            "INSERT INTO tenancy.organization_slugs (slug, organization_id) VALUES ($1, $2)",
            profile.slug,
            id.uuid()
        )
        .execute(&mut *scope)
        .await
        .map_err(on_constraint("organization_slugs_pkey", || slug_taken(&profile.slug)))?;
    }
    let row = sqlx::query_as!(
        Row,
        "UPDATE tenancy.organizations SET slug = $2, display_name = $3, plan = $4, contact_email = $5,
             billing_email = $6, time_zone = $7, currency = $8, locale = $9, date_format = $10, logo_uri = $11,
             primary_color = $12, labels = $13, member_limit = $14, settings = $15, status = $16, suspend_time = $17,
             suspend_reason = $18, delete_time = $19, purge_time = $20, update_time = $21, billing_anchor_day = $22,
             team_limit = $23, revision = revision + 1
         WHERE organization_id = $1 RETURNING *",
        id.uuid(),
        profile.slug,
        profile.display_name,
        profile.plan,
        profile.contact_email,
        profile.billing_email,
        profile.time_zone.name(),
        profile.currency,
        profile.locale,
        profile.date_format,
        profile.logo_uri,
        profile.primary_color,
        serde_json::to_value(&profile.labels).map_err(Error::internal)?,
        profile.member_limit,
        profile.settings,
        if after.suspension.is_some() { "suspended" } else { "active" },
        after.suspension.as_ref().map(|suspension| suspension.time),
        after.suspension.as_ref().map_or("", |suspension| suspension.reason.as_str()),
        after.deletion.map(|deletion| deletion.time),
        after.deletion.map(|deletion| deletion.purge_time),
        now,
        i16::from(profile.billing_anchor_day),
        profile.team_limit
    )
    .fetch_one(&mut *scope)
    .await?;
    if profile.slug != before.profile.slug {
        sqlx::query!(
            "DELETE FROM tenancy.organization_slugs WHERE slug = $1 AND organization_id = $2",
            before.profile.slug,
            id.uuid()
        )
        .execute(&mut *scope)
        .await?;
    }
    let saved = Organization::try_from(row)?;
    let name = id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &name };
    audit_event::record(scope, happened, Some(before), Some(&saved)).await?;
    changes::announce(scope, &Change::Organization(id)).await?;
    Ok(saved)
}

/// The organization that has the slug.
pub async fn find_by_slug(scope: &mut PlatformScope, slug: &str) -> Result<Option<OrganizationId>, Error> {
    let found = sqlx::query_scalar!("SELECT organization_id FROM tenancy.organization_slugs WHERE slug = $1", slug)
        .fetch_optional(&mut *scope)
        .await?;
    Ok(found.map(OrganizationId::from))
}

/// One page of organizations and one more, newest first.
pub async fn list(scope: &mut PlatformScope, narrow: &Narrow, page: &Page) -> Result<Vec<Organization>, Error> {
    sqlx::query_as!(
        Row,
        "SELECT * FROM tenancy.organizations
         WHERE organization_id < $1
           AND ($2::uuid[] IS NULL OR organization_id = ANY ($2))
           AND ($3::text IS NULL OR status = $3)
           AND ($4::text IS NULL OR plan = $4)
           AND ($5::text IS NULL OR slug = $5)
           AND ($6::jsonb IS NULL OR labels @> $6)
           AND ($7 OR delete_time IS NULL)
         ORDER BY organization_id DESC LIMIT $8",
        page.bound().id,
        narrow.organization_ids.as_deref(),
        narrow.status,
        narrow.plan,
        narrow.slug,
        narrow.labels,
        narrow.show_deleted,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

fn slug_taken(slug: &str) -> Error {
    Error::AlreadyExists {
        reason: "SLUG_TAKEN",
        resource: RESOURCE,
        field: "organization.slug",
        value: slug.to_owned(),
    }
}
