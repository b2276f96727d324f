//! Members between protobuf and the model.

use crate::error::Error;
use crate::ids::UserId;
use crate::model::member::{Member, Role};
use crate::proto::v1;
use crate::service::convert::timestamp;

/// For the wire.
#[must_use]
pub fn to_proto(member: Member) -> v1::Member {
    v1::Member {
        organization_id: member.organization_id.to_string(),
        user_id: member.user_id.to_string(),
        role: member.role.as_str().into(),
        email: member.email,
        display_name: member.display_name,
        etag: crate::model::etag::of(member.revision),
        create_time: Some(timestamp(member.create_time)),
        update_time: Some(timestamp(member.update_time)),
    }
}

/// The user and the role that a request names. Error: `INVALID_FIELD` with every violation.
pub fn user_and_role(user_id: &str, role: &str) -> Result<(UserId, Role), Error> {
    match (user_id.parse(), role.parse()) {
        (Ok(user_id), Ok(role)) => Ok((user_id, role)),
        (Err(Error::Invalid(mut violations)), Err(violation)) => {
            violations.push(violation);
            Err(Error::Invalid(violations))
        }
        (Err(error), _) => Err(error),
        (Ok(_), Err(violation)) => Err(violation.into()),
    }
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
        assert_eq!(user_and_role(user, "admin").unwrap(), (user.parse().unwrap(), Role::Admin));
        assert_eq!(wrong("", ""), ["user_id", "role"]);
        assert_eq!(wrong("x", "admin"), ["user_id"]);
        assert_eq!(wrong(user, "Admin"), ["role"]);
    }
}
