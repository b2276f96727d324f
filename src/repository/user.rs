//! Users. They belong to no organization, so their changes are in the platform's audit, whoever made them; what a tenant
//! sees and changes of them is decided by row level security, and by the columns that it is granted: the rest is in
//! [`private`].

pub mod batch;
pub mod erasure;
pub mod invited;
pub mod private;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::Error;
use crate::ids::UserId;
use crate::model::user::{Private, Profile, User, UserStatus, email_key};
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::scope::{Accountable, PlatformScope, Scope, TenantScope};

/// The name of the resource in errors and in the audit.
const RESOURCE: &str = "user";

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub struct Narrow {
    /// Only these.
    pub status: Option<UserStatus>,
    /// Only the user with this address, whatever its case.
    pub email: Option<String>,
}

struct Row {
    user_id: UserId,
    email: String,
    display_name: String,
    avatar_uri: String,
    locale: String,
    status: UserStatus,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        Self {
            user_id: row.user_id,
            profile: Profile {
                email: row.email,
                display_name: row.display_name,
                avatar_uri: row.avatar_uri,
                locale: row.locale,
            },
            status: row.status,
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// Creates a user. Errors: `EMAIL_TAKEN`, `IDENTITY_TAKEN`.
pub async fn create(
    scope: &mut PlatformScope,
    user_id: UserId,
    profile: &Profile,
    private: &Private,
    now: DateTime<Utc>,
) -> Result<User, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"INSERT INTO tenancy.users (user_id, email, display_name, avatar_uri, locale, create_time, update_time)
           VALUES ($1, $2, $3, $4, $5, $6, $6)
           RETURNING user_id AS "user_id: UserId", email, display_name, avatar_uri, locale, status AS "status: UserStatus",
               revision, create_time, update_time"#,
        user_id.uuid(),
        profile.email,
        profile.display_name,
        profile.avatar_uri,
        profile.locale,
        now
    )
    .fetch_one(&mut *scope)
    .await
    .map_err(on_constraint("users_email_key", || email_taken(&profile.email)))?;
    let created = User::from(row);
    private::save(scope, user_id, private).await?;
    let id = user_id.to_string();
    let happened = Happened { at: now, action: "users.create", resource_type: RESOURCE, resource_id: &id };
    audit_event::record_of_platform(scope, happened, None::<&Whole>, Some(&Whole { user: &created, private })).await?;
    Ok(created)
}

/// A user with what only the platform knows of them, for its audit.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    user: &'a User,
    #[serde(flatten)]
    private: &'a Private,
}

/// A user that the scope sees: any on the platform, the members of an organization. Error: `USER_NOT_FOUND`.
pub async fn get<K: Accountable>(scope: &mut Scope<K>, user_id: UserId) -> Result<User, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT user_id AS "user_id: UserId", email, display_name, avatar_uri, locale, status AS "status: UserStatus",
               revision, create_time, update_time
           FROM tenancy.users WHERE user_id = $1"#,
        user_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?;
    found.map(User::from).ok_or_else(|| Error::not_found(RESOURCE, user_id))
}

/// A user that the scope may change, locked until the scope ends: any on the platform, in an organization the one for
/// whom the caller acts. Error: `USER_NOT_FOUND`.
pub async fn lock<K: Accountable>(scope: &mut Scope<K>, user_id: UserId) -> Result<User, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT user_id AS "user_id: UserId", email, display_name, avatar_uri, locale, status AS "status: UserStatus",
               revision, create_time, update_time
           FROM tenancy.users WHERE user_id = $1 FOR NO KEY UPDATE"#,
        user_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?;
    found.map(User::from).ok_or_else(|| Error::not_found(RESOURCE, user_id))
}

/// Gives a locked user another profile, and tells the caches. Error: `EMAIL_TAKEN`.
pub async fn save<K: Accountable>(
    scope: &mut Scope<K>,
    before: &User,
    profile: &Profile,
    now: DateTime<Utc>,
) -> Result<User, Error> {
    let after = write(scope, before, profile, now).await?;
    changed(scope, "users.update", after.user_id, (before, &after), now).await?;
    Ok(after)
}

/// The same with what only the platform knows. Errors: `EMAIL_TAKEN`, `IDENTITY_TAKEN`.
pub async fn save_whole(
    scope: &mut PlatformScope,
    before: (&User, &Private),
    after: (&Profile, &Private),
    now: DateTime<Utc>,
) -> Result<User, Error> {
    let user = write(scope, before.0, after.0, now).await?;
    private::save(scope, user.user_id, after.1).await?;
    let before = Whole { user: before.0, private: before.1 };
    changed(scope, "users.update", user.user_id, (&before, &Whole { user: &user, private: after.1 }), now).await?;
    Ok(user)
}

async fn write<K: Accountable>(
    scope: &mut Scope<K>,
    before: &User,
    profile: &Profile,
    now: DateTime<Utc>,
) -> Result<User, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"UPDATE tenancy.users
           SET email = $2, display_name = $3, avatar_uri = $4, locale = $5, update_time = $6, revision = revision + 1
           WHERE user_id = $1
           RETURNING user_id AS "user_id: UserId", email, display_name, avatar_uri, locale, status AS "status: UserStatus",
               revision, create_time, update_time"#,
        before.user_id.uuid(),
        profile.email,
        profile.display_name,
        profile.avatar_uri,
        profile.locale,
        now
    )
    .fetch_one(&mut *scope)
    .await
    .map_err(on_constraint("users_email_key", || email_taken(&profile.email)))?;
    let after = User::from(row);
    changes::announce(scope, &Change::User(after.user_id)).await?;
    Ok(after)
}

/// Deactivates a locked user, and tells the caches. A statement of its own: a tenant's scope is not granted the column.
pub async fn deactivate(scope: &mut PlatformScope, before: &User, now: DateTime<Utc>) -> Result<User, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"UPDATE tenancy.users SET status = 'deactivated', update_time = $2, revision = revision + 1
           WHERE user_id = $1
           RETURNING user_id AS "user_id: UserId", email, display_name, avatar_uri, locale, status AS "status: UserStatus",
               revision, create_time, update_time"#,
        before.user_id.uuid(),
        now
    )
    .fetch_one(&mut *scope)
    .await?;
    let after = User::from(row);
    changes::announce(scope, &Change::User(after.user_id)).await?;
    changed(scope, "users.deactivate", after.user_id, (before, &after), now).await?;
    Ok(after)
}

/// Has the tokens of a user that were issued so far count no more, in any organization, and tells the caches. Error:
/// `USER_NOT_FOUND`.
pub async fn revoke_tokens(scope: &mut PlatformScope, user_id: UserId, now: DateTime<Utc>) -> Result<(), Error> {
    let revoked = sqlx::query!(
        "UPDATE tenancy.users SET token_generation = token_generation + 1 WHERE user_id = $1",
        user_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    if revoked.rows_affected() == 0 {
        return Err(Error::not_found(RESOURCE, user_id));
    }
    changes::announce(scope, &Change::User(user_id)).await?;
    let id = user_id.to_string();
    let happened = Happened { at: now, action: "tokens.revoke", resource_type: RESOURCE, resource_id: &id };
    audit_event::record_of_platform(scope, happened, None::<&User>, None::<&User>).await
}

/// One page of all users and one more, newest first.
pub async fn list(scope: &mut PlatformScope, narrow: &Narrow, page: &Page) -> Result<Vec<User>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT user_id AS "user_id: UserId", email, display_name, avatar_uri, locale, status AS "status: UserStatus",
               revision, create_time, update_time
           FROM tenancy.users
           WHERE user_id < $1
             AND ($2::text IS NULL OR status = $2)
             AND ($3::text IS NULL OR email_key = $3)
           ORDER BY user_id DESC LIMIT $4"#,
        page.bound().id,
        narrow.status.map(UserStatus::as_str),
        narrow.email.as_deref().map(email_key),
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(rows.into_iter().map(User::from).collect())
}

/// One page of the members of the scope's organization and one more, newest user first.
pub async fn list_members(scope: &mut TenantScope, narrow: &Narrow, page: &Page) -> Result<Vec<User>, Error> {
    let organization_id = scope.organization_id();
    // Row level security would leave the same users; the join lets Postgres begin with the members, who are few.
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT u.user_id AS "user_id: UserId", u.email, u.display_name, u.avatar_uri, u.locale,
               u.status AS "status: UserStatus", u.revision, u.create_time, u.update_time
           FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
           WHERE m.organization_id = $1
             AND m.user_id < $2
             AND ($3::text IS NULL OR u.status = $3)
             AND ($4::text IS NULL OR u.email_key = $4)
           ORDER BY m.user_id DESC LIMIT $5"#,
        organization_id.uuid(),
        page.bound().id,
        narrow.status.map(UserStatus::as_str),
        narrow.email.as_deref().map(email_key),
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(rows.into_iter().map(User::from).collect())
}

/// Writes down what became of a user.
async fn changed<K: Accountable>(
    scope: &mut Scope<K>,
    action: &'static str,
    user_id: UserId,
    (before, after): (&impl Serialize, &impl Serialize),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = user_id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record_of_platform(scope, happened, Some(before), Some(after)).await
}

fn email_taken(email: &str) -> Error {
    Error::AlreadyExists { reason: "EMAIL_TAKEN", resource: RESOURCE, field: "user.email", value: email.to_owned() }
}
