//! Invitations: an address, and what whoever has it becomes.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::error::{Error, Violation};
use crate::ids::{InvitationId, OrganizationId, TeamId, UserId};
use crate::model::audit_event::ActorType;
use crate::model::role::RoleKey;
use crate::model::team::TeamRole;
use crate::model::user;

/// The most invitations of one batch.
pub const MOST_AT_ONCE: usize = 500;

/// The most teams of one invitation.
pub const MOST_TEAMS: usize = 50;

/// How long an invitation can be accepted, where nothing else is said.
pub const DEFAULT_TTL: TimeDelta = TimeDelta::days(7);

/// An address that may become a member. The address is in no audit, so that it can be forgotten.
#[derive(Clone, Debug, Serialize)]
pub struct Invitation {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its id.
    pub invitation_id: InvitationId,
    /// The address, as the inviter spells it.
    #[serde(skip)]
    pub email: String,
    /// What the person becomes.
    pub role: RoleKey,
    /// In which teams as well; those that still exist.
    pub teams: Vec<InvitedTeam>,
    /// What became of it, but for its end by time.
    pub status: InvitationStatus,
    /// Until when it can be accepted.
    pub expire_time: DateTime<Utc>,
    /// Who invited. The audit has it of itself.
    #[serde(skip)]
    pub inviter: Inviter,
    /// Who accepted.
    pub accept_user_id: Option<UserId>,
    /// Counts the changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// The last change.
    pub update_time: DateTime<Utc>,
}

/// A team that somebody is invited to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct InvitedTeam {
    /// The team.
    pub team_id: TeamId,
    /// What they become there.
    pub role: TeamRole,
    /// The team's name.
    #[serde(skip)]
    pub display_name: String,
}

/// Who invited.
#[derive(Clone, Debug)]
pub struct Inviter {
    /// What sort of actor.
    pub actor_type: ActorType,
    /// The id of the key, or the name of the program.
    pub actor_id: String,
    /// The user for whom that one acted.
    pub acting_user_id: Option<UserId>,
}

/// What became of an invitation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum InvitationStatus {
    /// Nothing yet.
    Pending,
    /// Somebody became a member by it.
    Accepted,
    /// They did not want.
    Declined,
    /// It was taken back.
    Revoked,
    /// Another one came after it.
    Replaced,
    /// Nobody answered in time. Not stored: time tells.
    Expired,
}

impl InvitationStatus {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Revoked => "revoked",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
        }
    }
}

impl Invitation {
    /// What became of it by now.
    #[must_use]
    pub fn status_at(&self, now: DateTime<Utc>) -> InvitationStatus {
        match self.status {
            InvitationStatus::Pending if self.expire_time <= now => InvitationStatus::Expired,
            status => status,
        }
    }

    /// Whether the address is the invited one.
    #[must_use]
    pub fn is_for(&self, email: &str) -> bool {
        user::email_key(&self.email) == user::email_key(email)
    }

    /// Fails unless it can be accepted. Errors: `INVITATION_EXPIRED`, and those of [`Self::require_unanswered`].
    pub fn require_open(&self, now: DateTime<Utc>) -> Result<(), Error> {
        match self.status_at(now) {
            InvitationStatus::Expired => Err(self.closed("INVITATION_EXPIRED", "the invitation has expired")),
            _ => self.require_unanswered(),
        }
    }

    /// Fails unless it is pending, expired or not. Errors: `INVITATION_ACCEPTED`, `INVITATION_DECLINED`,
    /// `INVITATION_REVOKED`, `INVITATION_REPLACED`.
    pub fn require_unanswered(&self) -> Result<(), Error> {
        let (reason, message) = match self.status {
            InvitationStatus::Pending | InvitationStatus::Expired => return Ok(()),
            InvitationStatus::Accepted => ("INVITATION_ACCEPTED", "the invitation was accepted before"),
            InvitationStatus::Declined => ("INVITATION_DECLINED", "the invitation was declined"),
            InvitationStatus::Revoked => ("INVITATION_REVOKED", "the invitation was taken back"),
            InvitationStatus::Replaced => ("INVITATION_REPLACED", "another invitation has taken its place"),
        };
        Err(self.closed(reason, message))
    }

    fn closed(&self, reason: &'static str, message: &str) -> Error {
        let subject = format!("invitations/{}", self.invitation_id);
        Error::FailedPrecondition { reason, subject, message: message.to_owned() }
    }
}

/// What is asked for of an invitation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewInvitation {
    /// The address.
    pub email: String,
    /// What the person becomes.
    pub role: RoleKey,
    /// In which teams as well, each once.
    pub teams: Vec<(TeamId, TeamRole)>,
    /// How long it can be accepted.
    pub ttl: TimeDelta,
}

/// 1 to 30 days.
pub fn ttl(field: &str, ttl: TimeDelta) -> Result<TimeDelta, Violation> {
    if (TimeDelta::days(1)..=TimeDelta::days(30)).contains(&ttl) {
        return Ok(ttl);
    }
    Err(Violation::new(field, "must be 1 to 30 days"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation(status: InvitationStatus) -> Invitation {
        let time = DateTime::from_timestamp_nanos(1_700_000_000_000_000_000);
        Invitation {
            organization_id: uuid::Uuid::nil().into(),
            invitation_id: uuid::Uuid::nil().into(),
            email: "Ida@Example.com".into(),
            role: "viewer".parse().unwrap(),
            teams: Vec::new(),
            status,
            expire_time: time,
            inviter: Inviter { actor_type: ActorType::System, actor_id: "test".into(), acting_user_id: None },
            accept_user_id: None,
            revision: 1,
            create_time: time - DEFAULT_TTL,
            update_time: time,
        }
    }

    #[test]
    fn only_an_unanswered_one_in_time_is_open() {
        let pending = invitation(InvitationStatus::Pending);
        let before = pending.expire_time - TimeDelta::microseconds(1);
        assert!(pending.require_open(before).is_ok() && pending.require_unanswered().is_ok());
        let expired = pending.require_open(pending.expire_time).unwrap_err();
        assert_eq!(expired.reason(), "INVITATION_EXPIRED");
        for status in [
            InvitationStatus::Accepted,
            InvitationStatus::Declined,
            InvitationStatus::Revoked,
            InvitationStatus::Replaced,
        ] {
            let reason = format!("INVITATION_{}", status.as_str().to_uppercase());
            let answered = invitation(status);
            assert_eq!(answered.status_at(answered.expire_time), status, "an answer stays what it is");
            assert_eq!(answered.require_open(answered.expire_time).unwrap_err().reason(), reason);
            assert_eq!(answered.require_unanswered().unwrap_err().reason(), reason);
        }
    }

    #[test]
    fn the_audit_has_no_address() {
        let written = serde_json::to_string(&invitation(InvitationStatus::Pending)).unwrap();
        assert!(written.contains("viewer") && !written.to_lowercase().contains("example"), "{written}");
    }

    #[test]
    fn an_address_is_the_same_in_any_case() {
        let invitation = invitation(InvitationStatus::Pending);
        assert!(invitation.is_for("ida@example.COM") && !invitation.is_for("ida@example.org"));
    }

    #[test]
    fn lifetimes() {
        for good in [TimeDelta::days(1), DEFAULT_TTL, TimeDelta::days(30)] {
            assert_eq!(ttl("f", good), Ok(good));
        }
        for bad in [TimeDelta::zero(), TimeDelta::days(1) - TimeDelta::microseconds(1), TimeDelta::MAX] {
            assert!(ttl("f", bad).is_err(), "{bad}");
        }
    }
}
