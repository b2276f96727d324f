//! What nobody may do often: exact counts over a sliding hour, in the database, so that they hold over all replicas.
//!
//! What is taken is taken in the caller's transaction, and given back where that rolls back. Those who take for one subject
//! at the same time wait for each other.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::repository::scope::{PlatformScope, Scope};

/// In which time so many are allowed.
const WINDOW: TimeDelta = TimeDelta::hours(1);

/// How much of something one user or key may do in an hour.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    kind: &'static str,
    reason: &'static str,
    message: &'static str,
    /// 0: no limit.
    most: u32,
}

/// What was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// How many were taken.
    pub count: usize,
    /// After which time there is one more, where that was fewer than wanted.
    pub retry_after: Duration,
}

impl Allowance {
    /// To found organizations, as their owner.
    #[must_use]
    pub const fn organizations(per_hour: u32) -> Self {
        Self {
            kind: "organizations",
            reason: "ORGANIZATION_RATE_EXCEEDED",
            message: "the user founded as many organizations as one may in an hour",
            most: per_hour,
        }
    }

    /// To invite.
    #[must_use]
    pub const fn invitations(per_hour: u32) -> Self {
        Self {
            kind: "invitations",
            reason: "INVITATION_RATE_EXCEEDED",
            message: "the inviter sent as many invitations as one may in an hour",
            most: per_hour,
        }
    }

    /// Takes as many as are left of those that are wanted.
    pub async fn take<K: fmt::Debug + Send>(
        self,
        scope: &mut Scope<K>,
        subject: Uuid,
        wanted: usize,
        now: DateTime<Utc>,
    ) -> Result<Taken, Error> {
        if self.most == 0 || wanted == 0 {
            return Ok(Taken { count: wanted, retry_after: Duration::ZERO });
        }
        let row = sqlx::query!(
            r#"SELECT taken AS "taken!", retry_time FROM tenancy.take_allowance($1, $2, $3, $4, $5, $6)"#,
            self.kind,
            subject,
            i32::try_from(wanted).map_err(Error::internal)?,
            i32::try_from(self.most).map_err(Error::internal)?,
            now - WINDOW,
            now
        )
        .fetch_one(&mut *scope)
        .await?;
        let retry_after = row.retry_time.and_then(|time| (time - now).to_std().ok()).unwrap_or_default();
        Ok(Taken { count: usize::try_from(row.taken).map_err(Error::internal)?, retry_after })
    }

    /// Takes one. Error: `Overloaded` with the allowance's reason.
    pub async fn take_one<K: fmt::Debug + Send>(
        self,
        scope: &mut Scope<K>,
        subject: Uuid,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        match self.take(scope, subject, 1, now).await? {
            Taken { count: 0, retry_after } => Err(self.exceeded(retry_after)),
            Taken { .. } => Ok(()),
        }
    }

    /// The refusal of who wants more.
    #[must_use]
    pub const fn exceeded(self, retry_after: Duration) -> Error {
        Error::Overloaded { reason: self.reason, message: self.message, retry_after }
    }
}

/// Forgets what says nothing any more. Returns how many subjects.
pub async fn forget(scope: &mut PlatformScope, now: DateTime<Utc>) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(r#"SELECT tenancy.forget_allowances($1) AS "forgotten!""#, now)
        .fetch_one(&mut *scope)
        .await?)
}
