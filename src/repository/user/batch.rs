//! Many users at once: the same statements, over all rows of a batch.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{RESOURCE, Whole, email_taken};
use crate::error::Error;
use crate::ids::UserId;
use crate::model::user::{Identity, Private, Profile, User, UserStatus, email_key};
use crate::repository::audit_event;
use crate::repository::scope::PlatformScope;
use crate::repository::user::private::identity_taken;

/// A user to be created.
#[derive(Clone, Debug)]
pub struct New {
    /// Their id.
    pub user_id: UserId,
    /// What a tenant sees of them.
    pub profile: Profile,
    /// What only the platform sees.
    pub private: Private,
}

/// What became of one.
#[derive(Debug)]
pub enum Created {
    /// They are a user now.
    New(User),
    /// Somebody was there before who has the address, and the identity where one is asked for.
    Exists(UserId),
}

/// Creates users. Each for itself fails with `EMAIL_TAKEN`, `IDENTITY_TAKEN`, or `Conflict` where what was in the way is gone
/// a moment later.
pub async fn create(
    scope: &mut PlatformScope,
    rows: &[New],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Created, Error>>, Error> {
    let inserted = insert(scope, rows, now).await?;
    let user = |new: &New| User {
        user_id: new.user_id,
        profile: new.profile.clone(),
        status: UserStatus::Active,
        revision: 1,
        create_time: now,
        update_time: now,
    };
    let created: Vec<(&New, User)> =
        rows.iter().filter(|new| inserted.contains(&new.user_id)).map(|new| (new, user(new))).collect();
    let records: Vec<(String, Whole<'_>)> =
        created.iter().map(|(new, user)| (user.user_id.to_string(), Whole { user, private: &new.private })).collect();
    audit_event::record_additions_of_platform(scope, "users.create", RESOURCE, &records, now).await?;
    let others: Vec<&New> = rows.iter().filter(|new| !inserted.contains(&new.user_id)).collect();
    let taken = taken(scope, &others).await?;
    let fate = |new: &New| if inserted.contains(&new.user_id) { Ok(Created::New(user(new))) } else { taken.by(new) };
    Ok(rows.iter().map(fate).collect())
}

/// Inserts the rows whose address and identity nobody has, and returns which.
async fn insert(scope: &mut PlatformScope, rows: &[New], now: DateTime<Utc>) -> Result<HashSet<UserId>, Error> {
    let mut rows: Vec<&New> = rows.iter().collect();
    // In the same order everywhere, so that batches with the same addresses wait for each other one way only. Of the rows of
    // this batch with one address the first comes first.
    rows.sort_by_cached_key(|new| email_key(&new.profile.email));
    let column = |of: fn(&New) -> &str| -> Vec<String> { rows.iter().map(|new| of(new).to_owned()).collect() };
    let ids: Vec<Uuid> = rows.iter().map(|new| new.user_id.uuid()).collect();
    let settings: Vec<Value> = rows.iter().map(|new| new.private.settings.clone()).collect();
    let inserted = sqlx::query_scalar!(
        r#"INSERT INTO tenancy.users (user_id, email, display_name, avatar_uri, locale, identity_provider, external_id,
               settings, create_time, update_time)
           SELECT r.user_id, r.email, r.display_name, r.avatar_uri, r.locale, r.identity_provider, r.external_id,
               r.settings, $1, $1
           FROM UNNEST($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::jsonb[])
               AS r (user_id, email, display_name, avatar_uri, locale, identity_provider, external_id, settings)
           ON CONFLICT DO NOTHING RETURNING user_id AS "user_id: UserId""#,
        now,
        &ids,
        &column(|new| &new.profile.email),
        &column(|new| &new.profile.display_name),
        &column(|new| &new.profile.avatar_uri),
        &column(|new| &new.profile.locale),
        &column(|new| new.private.identity.as_ref().map_or("", |identity| &identity.provider)),
        &column(|new| new.private.identity.as_ref().map_or("", |identity| &identity.subject)),
        &settings
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(inserted.into_iter().collect())
}

/// Who has addresses and identities.
struct Taken {
    by_email: HashMap<String, (UserId, Identity)>,
    identities: HashSet<(String, String)>,
}

impl Taken {
    /// Why a row was not inserted.
    fn by(&self, new: &New) -> Result<Created, Error> {
        let identity = new.private.identity.as_ref();
        if let Some((user_id, theirs)) = self.by_email.get(&email_key(&new.profile.email)) {
            if identity.is_none_or(|asked| asked == theirs) {
                return Ok(Created::Exists(*user_id));
            }
            return Err(email_taken(&new.profile.email));
        }
        if identity.is_some_and(|asked| self.identities.contains(&(asked.provider.clone(), asked.subject.clone()))) {
            return Err(identity_taken(identity));
        }
        Err(Error::Conflict)
    }
}

async fn taken(scope: &mut PlatformScope, rows: &[&New]) -> Result<Taken, Error> {
    let mut taken = Taken { by_email: HashMap::new(), identities: HashSet::new() };
    if rows.is_empty() {
        return Ok(taken);
    }
    let emails: Vec<String> = rows.iter().map(|new| email_key(&new.profile.email)).collect();
    let identities = || rows.iter().filter_map(|new| new.private.identity.as_ref());
    let providers: Vec<String> = identities().map(|identity| identity.provider.clone()).collect();
    let subjects: Vec<String> = identities().map(|identity| identity.subject.clone()).collect();
    let found = sqlx::query!(
        r#"SELECT user_id AS "user_id!: UserId", email_key AS "email_key!", identity_provider AS "identity_provider!",
               external_id AS "external_id!"
           FROM tenancy.users WHERE email_key = ANY ($1)
           UNION ALL
           SELECT u.user_id, u.email_key, u.identity_provider, u.external_id
           FROM UNNEST($2::text[], $3::text[]) AS r (provider, subject)
           JOIN tenancy.users u ON u.identity_provider = r.provider AND u.external_id = r.subject AND u.external_id <> ''"#,
        &emails,
        &providers,
        &subjects
    )
    .fetch_all(&mut *scope)
    .await?;
    for row in found {
        taken.identities.insert((row.identity_provider.clone(), row.external_id.clone()));
        let identity = Identity { provider: row.identity_provider, subject: row.external_id };
        taken.by_email.insert(row.email_key, (row.user_id, identity));
    }
    Ok(taken)
}

/// What who adds a user to an organization must know of them.
#[derive(Clone, Debug)]
pub struct Known {
    /// Their id.
    pub user_id: UserId,
    /// Their address.
    pub email: String,
    /// Their name.
    pub display_name: String,
    /// Whether anybody can act for them.
    pub status: UserStatus,
}

/// The users with one of these ids or addresses, those that there are.
pub async fn find(scope: &mut PlatformScope, ids: &[UserId], emails: &[String]) -> Result<Vec<Known>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let emails: Vec<String> = emails.iter().map(|email| email_key(email)).collect();
    Ok(sqlx::query_as!(
        Known,
        r#"SELECT u.user_id AS "user_id!: UserId", u.email AS "email!", u.display_name AS "display_name!",
               u.status AS "status!: UserStatus"
           FROM UNNEST($1::uuid[]) AS asked (user_id) JOIN tenancy.users u ON u.user_id = asked.user_id
           UNION ALL
           SELECT u.user_id, u.email, u.display_name, u.status
           FROM UNNEST($2::text[]) AS asked (email_key) JOIN tenancy.users u ON u.email_key = asked.email_key"#,
        &ids,
        &emails
    )
    .fetch_all(&mut *scope)
    .await?)
}
