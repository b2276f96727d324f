//! Members between protobuf and the model.

use crate::error::{Error, Violations};
use crate::ids::UserId;
use crate::model::invitation::Invitation;
use crate::model::member::{Changes, Member, MemberStatus, Role};
use crate::model::role::{self, RoleKey};
use crate::model::text;
use crate::proto::v1;
use crate::service::convert::timestamp;

/// The fields that an update mask can name.
pub const FIELDS: &[&str] = &["role", "extra_permissions", "denied_permissions"];

/// For the wire.
#[must_use]
pub fn to_proto(member: Member) -> v1::Member {
    v1::Member {
        organization_id: member.organization_id.to_string(),
        user_id: member.user_id.to_string(),
        role: member.role.to_string(),
        email: member.email,
        display_name: member.display_name,
        etag: crate::model::etag::of(member.revision),
        create_time: Some(timestamp(member.create_time)),
        update_time: Some(timestamp(member.update_time)),
        status: status(member.status).into(),
        extra_permissions: member.extra_permissions,
        denied_permissions: member.denied_permissions,
        suspend_time: member.suspend_time.map(timestamp),
        suspend_reason: member.suspend_reason,
        last_activity_time: member.last_activity_time.map(timestamp),
        invitation_id: String::new(),
    }
}

/// Who is invited, as a member who is none yet.
#[must_use]
pub fn invited(invitation: Invitation) -> v1::Member {
    v1::Member {
        organization_id: invitation.organization_id.to_string(),
        role: invitation.role.to_string(),
        email: invitation.email,
        etag: crate::model::etag::of(invitation.revision),
        create_time: Some(timestamp(invitation.create_time)),
        update_time: Some(timestamp(invitation.update_time)),
        status: v1::MemberStatus::Invited.into(),
        invitation_id: invitation.invitation_id.to_string(),
        ..v1::Member::default()
    }
}

/// A state for the wire.
#[must_use]
pub const fn status(status: MemberStatus) -> v1::MemberStatus {
    match status {
        MemberStatus::Active => v1::MemberStatus::Active,
        MemberStatus::Suspended => v1::MemberStatus::Suspended,
    }
}

/// The user and the role that a request names. Error: `INVALID_FIELD` with every violation.
pub fn user_and_role(user_id: &str, role: &str) -> Result<(UserId, RoleKey), Error> {
    user_and(user_id, |wrong| wrong.take(role.parse()))
}

/// The user and the reason that a request names. Error: `INVALID_FIELD` with every violation.
pub fn user_and_reason(user_id: &str, reason: &str) -> Result<(UserId, String), Error> {
    user_and(user_id, |wrong| wrong.take(text::free("reason", reason, 500)))
}

fn user_and<T>(user_id: &str, read: impl FnOnce(&mut Violations) -> Option<T>) -> Result<(UserId, T), Error> {
    let mut wrong = Violations::default();
    let user_id = take(&mut wrong, "user_id", user_id);
    let other = read(&mut wrong);
    wrong.finish()?;
    user_id.zip(other).ok_or_else(|| Error::internal("a request lacks a field without a violation"))
}

fn take(wrong: &mut Violations, field: &str, id: &str) -> Option<UserId> {
    let read = id.parse::<UserId>().ok();
    if read.is_none() {
        wrong.add(field, "must be a UUID");
    }
    read
}

/// What a mask names of a member. Error: `INVALID_FIELD` with every violation.
pub fn changes(message: &v1::Member, fields: &[&str]) -> Result<Changes, Error> {
    let mut wrong = Violations::default();
    let mut changes = Changes::default();
    for field in fields {
        match *field {
            "role" => changes.role = wrong.take(message.role.parse()),
            "extra_permissions" => {
                changes.extra_permissions = wrong.take(role::permissions(field, &message.extra_permissions));
            }
            "denied_permissions" => {
                changes.denied_permissions = wrong.take(role::permissions(field, &message.denied_permissions));
            }
            unknown => return Err(Error::internal(format!("{unknown} is no field of a member"))),
        }
    }
    wrong.finish().map_err(|error| error.within("member"))?;
    Ok(changes)
}

/// Who hands over to whom, and what they become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Who becomes an owner.
    pub to: UserId,
    /// Who hands over, where the request names them.
    pub from: Option<UserId>,
    /// What that one becomes.
    pub former_role: RoleKey,
}

/// What a request hands over. Error: `INVALID_FIELD` with every violation.
pub fn transfer(request: &v1::TransferOwnershipRequest) -> Result<Transfer, Error> {
    let mut wrong = Violations::default();
    let to = take(&mut wrong, "user_id", &request.user_id);
    let from = match request.former_owner_id.as_str() {
        "" => None,
        id => take(&mut wrong, "former_owner_id", id),
    };
    let former_role = match request.former_owner_role.as_str() {
        "" => Some(Role::Admin.into()),
        key => match key.parse::<RoleKey>() {
            Ok(role) if !role.is_owner() => Some(role),
            Ok(_) => {
                wrong.add("former_owner_role", "must not be owner");
                None
            }
            Err(violation) => {
                wrong.add("former_owner_role", violation.description);
                None
            }
        },
    };
    wrong.finish()?;
    let (to, former_role) =
        to.zip(former_role).ok_or_else(|| Error::internal("a transfer lacks a field without a violation"))?;
    Ok(Transfer { to, from, former_role })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_named() {
        let user = "0190b0c5-7c2e-7000-8000-000000000001";
        let wrong = |user: &str, role: &str| match user_and_role(user, role) {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            _ => Vec::new(),
        };
        assert_eq!(user_and_role(user, "admin").unwrap(), (user.parse().unwrap(), Role::Admin.into()));
        assert_eq!(wrong("", ""), ["user_id", "role"]);
        assert_eq!(wrong("x", "admin"), ["user_id"]);
        assert_eq!(wrong(user, "Admin"), ["role"]);
    }

    #[test]
    fn transfers() {
        let user = "0190b0c5-7c2e-7000-8000-000000000001";
        let of = |user_id: &str, from: &str, role: &str| {
            let request = v1::TransferOwnershipRequest {
                user_id: user_id.into(),
                former_owner_id: from.into(),
                former_owner_role: role.into(),
                ..Default::default()
            };
            transfer(&request).map_err(|error| match error {
                Error::Invalid(violations) => violations.into_iter().map(|violation| violation.field).collect(),
                other => vec![other.to_string()],
            })
        };
        let to = user.parse().unwrap();
        assert_eq!(of(user, "", ""), Ok(Transfer { to, from: None, former_role: Role::Admin.into() }));
        let billing = "billing".parse().unwrap();
        assert_eq!(of(user, user, "billing"), Ok(Transfer { to, from: Some(to), former_role: billing }));
        let fields = ["user_id", "former_owner_id", "former_owner_role"].map(str::to_owned);
        assert_eq!(of("", "x", "owner"), Err(fields.to_vec()));
        assert_eq!(of(user, "", "B"), Err(fields[2..].to_vec()));
    }
}
