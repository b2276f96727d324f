//! Who came with a token, and what it is worth now: the user, the membership, the key and the organization as they are, not as
//! they were when it was issued. From memory, where they are known there.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::auth::authenticator::{Authenticator, KeyFacts, KnownKey, Outcome, judge, unverified};
use crate::auth::credential;
use crate::auth::gate::{active, deny_when_closed};
use crate::auth::keys::key::LookupId;
use crate::auth::principal::Principal;
use crate::auth::tokens::{Subject, Token, Tokens};
use crate::error::Error;
use crate::ids::{ApiKeyId, UserId};
use crate::model::organization::Organization;
use crate::model::role::{RoleKey, Standing};

/// How old what is known of a member may be where a token says otherwise: one that was issued a moment ago, after a
/// revocation that has not come here yet, is not refused.
const JUST_NOW: Duration = Duration::from_secs(1);

/// Who came with a token.
#[derive(Debug)]
pub struct Bearer {
    /// Whom it stands for. Its permissions are those of the token that the bearer still has.
    pub principal: Arc<Principal>,
    /// The organization, which is open.
    pub organization: Arc<Organization>,
    /// The user's role.
    pub role: Option<RoleKey>,
    /// The key that was exchanged.
    pub key: Option<KnownKey>,
}

impl Authenticator {
    /// What issues and verifies tokens.
    #[must_use]
    pub const fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// Who came with a token that was found to be ours.
    ///
    /// Errors: `ORGANIZATION_SUSPENDED`, `NOT_A_MEMBER`, `MEMBER_SUSPENDED`, `TOKEN_REVOKED`, what is wrong with the key that
    /// was exchanged; `TOKEN_INVALID` for one of an organization or a key that is no more.
    pub async fn bearer(&self, token: &Token) -> Result<Bearer, Error> {
        let found = self.organization(token.organization_id, self.clock.instant()).await?;
        let organization = found.ok_or_else(credential::token_invalid)?;
        match token.subject {
            Subject::User(user_id) => self.user(token, user_id, organization).await,
            Subject::ApiKey { api_key_id, lookup } => self.exchanged(token, (api_key_id, lookup), organization).await,
        }
    }

    async fn user(&self, token: &Token, user_id: UserId, organization: Arc<Organization>) -> Result<Bearer, Error> {
        deny_when_closed(&organization)?;
        let organization_id = token.organization_id;
        let mut standing = active(self.directory.standing(organization_id, user_id).await?, user_id)?;
        if standing.token_generation != token.generation {
            let since = self.clock.instant().checked_sub(JUST_NOW).unwrap_or_else(|| self.clock.instant());
            standing = active(self.directory.standing_since(organization_id, user_id, since).await?, user_id)?;
        }
        if standing.token_generation != token.generation {
            return Err(credential::token_revoked());
        }
        let Standing { role, held, .. } = &*standing;
        let permissions = token.permissions.and(*held);
        let principal = Arc::new(Principal::User { organization_id, user_id, permissions });
        Ok(Bearer { principal, organization, role: Some(role.clone()), key: None })
    }

    async fn exchanged(
        &self,
        token: &Token,
        (api_key_id, lookup): (ApiKeyId, LookupId),
        organization: Arc<Organization>,
    ) -> Result<Bearer, Error> {
        let record = self.keys.record(&lookup, self.clock.instant(), |lookup| self.load(lookup)).await;
        let record = record.map_err(unverified)?.ok_or_else(credential::token_invalid)?;
        let Principal::ApiKey { organization_id, api_key_id: found, permissions, publishable: false, .. } =
            *record.principal
        else {
            return Err(credential::token_invalid());
        };
        if (organization_id, found) != (token.organization_id, api_key_id) {
            return Err(credential::token_invalid());
        }
        let wall = self.clock.now();
        let is_of_a_secret = record.has_generation(token.generation, wall);
        let known = KnownKey { record, organization: Some(Arc::clone(&organization)) };
        let key = match judge(known, wall) {
            Outcome::Valid(key) if is_of_a_secret => key,
            Outcome::Valid(_) => return Err(credential::token_revoked()),
            outcome => return Err(credential::refusal(&outcome)),
        };
        let principal = Arc::new(Principal::ApiKey {
            organization_id,
            api_key_id,
            permissions: token.permissions.and(permissions),
            publishable: false,
            by_token: true,
        });
        Ok(Bearer { principal, organization, role: None, key: Some(key) })
    }
}

impl KeyFacts {
    /// Whether a secret of this generation works.
    fn has_generation(&self, generation: i64, wall: DateTime<Utc>) -> bool {
        let previous = self.previous_generation.filter(|(_, until)| wall < *until).map(|(previous, _)| previous);
        self.generation == generation || previous == Some(generation)
    }
}
