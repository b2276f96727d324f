//! What a token says: as it is written, and as it is understood.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::auth::keys::key::LookupId;
use crate::auth::permission::{Permission, Permissions};
use crate::error::Error;
use crate::ids::{ApiKeyId, OrganizationId, TokenId, TokenKeyId, UserId};
use crate::model::organization::Organization;
use crate::model::role::RoleKey;

/// The `aud` of every token: whoever takes Tenancy's word for who somebody is.
pub const AUDIENCE: &str = "tenancy";

/// What no token can have: who comes with one gets no further ones, and acts for nobody else.
const NEVER: [Permission; 3] = [Permission::UsersActAs, Permission::TokensIssue, Permission::TokensExchange];

/// What is to be said in a token.
#[derive(Debug)]
pub struct Grant<'a> {
    /// The organization.
    pub organization: &'a Organization,
    /// Whose it is.
    pub subject: Subject,
    /// The user's role; a key has none.
    pub role: Option<&'a RoleKey>,
    /// What it allows, what no token can have left aside.
    pub permissions: Permissions,
    /// After which revocation it is issued.
    pub generation: i64,
}

/// Whose a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A user's.
    User(UserId),
    /// A key's, which was exchanged for it.
    ApiKey {
        /// The key.
        api_key_id: ApiKeyId,
        /// What finds it.
        lookup: LookupId,
    },
}

/// A token that was found to be ours, and what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// The organization.
    pub organization_id: OrganizationId,
    /// Whose it is.
    pub subject: Subject,
    /// What it allows, at the most.
    pub permissions: Permissions,
    /// After which revocation it was issued.
    pub generation: i64,
    /// When it ends.
    pub expire_time: DateTime<Utc>,
    /// The key that has signed it.
    pub signed_by: TokenKeyId,
}

/// The claims, by their names.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct Claims {
    pub iss: String,
    pub aud: String,
    kind: Kind,
    sub: Uuid,
    tid: OrganizationId,
    org: String,
    plan: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    role: Option<String>,
    permissions: Vec<String>,
    iat: i64,
    pub nbf: i64,
    pub exp: i64,
    jti: TokenId,
    #[serde(rename = "gen")]
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    key: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
enum Kind {
    User,
    ApiKey,
}

impl Claims {
    /// Writes a grant; times are whole seconds.
    pub fn new(issuer: &str, grant: &Grant<'_>, now: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        let (kind, sub, key) = match grant.subject {
            Subject::User(user_id) => (Kind::User, user_id.uuid(), None),
            Subject::ApiKey { api_key_id, lookup } => (Kind::ApiKey, api_key_id.uuid(), Some(lookup.to_string())),
        };
        let allowed = grant.permissions.without(NEVER.into_iter().collect());
        Self {
            iss: issuer.to_owned(),
            aud: AUDIENCE.to_owned(),
            kind,
            sub,
            tid: grant.organization.organization_id,
            org: grant.organization.profile.slug.clone(),
            plan: grant.organization.profile.plan.clone(),
            role: grant.role.map(ToString::to_string),
            permissions: allowed.iter().map(|permission| permission.as_str().to_owned()).collect(),
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: end.timestamp(),
            jti: TokenId::new(now),
            generation: grant.generation,
            key,
        }
    }

    /// What they mean. Errors only for what we never wrote.
    pub fn understood(self, signed_by: TokenKeyId) -> Result<Token, Error> {
        let subject = match (self.kind, self.key) {
            (Kind::User, None) => Subject::User(self.sub.into()),
            (Kind::ApiKey, Some(key)) => {
                Subject::ApiKey { api_key_id: self.sub.into(), lookup: key.parse().map_err(Error::internal)? }
            }
            (Kind::User, Some(_)) | (Kind::ApiKey, None) => return Err(Error::internal("a token of no known kind")),
        };
        let expire_time = DateTime::from_timestamp_secs(self.exp);
        Ok(Token {
            id: self.jti,
            organization_id: self.tid,
            subject,
            // Names that this version does not know allow nothing.
            permissions: Permissions::of_scopes(&self.permissions).without(NEVER.into_iter().collect()),
            generation: self.generation,
            expire_time: expire_time.ok_or_else(|| Error::internal("a token without an end"))?,
            signed_by,
        })
    }
}
