//! Roles between protobuf and the model.

use crate::error::{Error, Violation, Violations};
use crate::ids::OrganizationId;
use crate::model::member::Role;
use crate::model::role::{self as rules, CustomRole, Profile, RoleKey};
use crate::model::{etag, text};
use crate::proto::v1;
use crate::service::convert::timestamp;

/// The fields that an update mask can name.
pub const FIELDS: &[&str] = &["display_name", "description", "permissions"];

/// A role of an organization's own, for the wire.
#[must_use]
pub fn to_proto(role: CustomRole) -> v1::Role {
    v1::Role {
        etag: etag::of(role.revision),
        create_time: Some(timestamp(role.create_time)),
        update_time: Some(timestamp(role.update_time)),
        built_in: false,
        ..described(role.organization_id, &role.key, role.profile)
    }
}

/// A role that the organization has like every other, for the wire.
#[must_use]
pub fn built_in(organization_id: OrganizationId, role: Role) -> v1::Role {
    v1::Role { built_in: true, ..described(organization_id, &role.into(), Profile::built_in(role)) }
}

fn described(organization_id: OrganizationId, key: &RoleKey, profile: Profile) -> v1::Role {
    v1::Role {
        organization_id: organization_id.to_string(),
        key: key.to_string(),
        display_name: profile.display_name,
        description: profile.description,
        permissions: profile.permissions,
        ..v1::Role::default()
    }
}

/// A new role. Error: `INVALID_FIELD` with every violation.
pub fn new_role(message: &v1::Role) -> Result<(RoleKey, Profile), Error> {
    let mut wrong = Violations::default();
    let key = wrong.take(rules::new_key("key", &message.key));
    let profile = profile(&mut wrong, Profile::default(), message, FIELDS)?;
    wrong.finish().map_err(|error| error.within("role"))?;
    let key = key.ok_or_else(|| Error::internal("a role lacks its key without a violation"))?;
    Ok((key, profile))
}

/// The key that a request names. Error: `INVALID_FIELD` on the field.
pub fn key(field: &str, key: &str) -> Result<RoleKey, Error> {
    key.parse().map_err(|wrong: Violation| Violation::new(field, wrong.description).into())
}

/// The profile with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_profile(current: Profile, message: &v1::Role, fields: &[&str]) -> Result<Profile, Error> {
    let mut wrong = Violations::default();
    let profile = profile(&mut wrong, current, message, fields)?;
    wrong.finish().map_err(|error| error.within("role"))?;
    Ok(profile)
}

fn profile(wrong: &mut Violations, current: Profile, message: &v1::Role, fields: &[&str]) -> Result<Profile, Error> {
    let mut profile = current;
    for field in fields {
        match *field {
            "display_name" => {
                profile.display_name = wrong.take(text::display_name(field, &message.display_name)).unwrap_or_default();
            }
            "description" => {
                profile.description = wrong.take(text::free(field, &message.description, 1000)).unwrap_or_default();
            }
            "permissions" => {
                profile.permissions = wrong.take(rules::permissions(field, &message.permissions)).unwrap_or_default();
            }
            unknown => return Err(Error::internal(format!("{unknown} is no field of a role"))),
        }
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Vec<String> {
        match outcome {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_violation_is_named() {
        let wrong = v1::Role {
            key: "admin".into(),
            description: "x".repeat(1001),
            permissions: vec!["root".into()],
            ..v1::Role::default()
        };
        let all = ["role.key", "role.display_name", "role.description", "role.permissions[0]"];
        assert_eq!(fields(new_role(&wrong)), all);
        assert_eq!(fields(key("key", "")), ["key"]);
    }

    #[test]
    fn only_named_fields_change() {
        let current =
            Profile { display_name: "A".into(), description: "B".into(), permissions: vec!["usage.read".into()] };
        let message = v1::Role { display_name: "C".into(), ..v1::Role::default() };
        let changed = changed_profile(current.clone(), &message, &["display_name"]).unwrap();
        assert_eq!(changed, Profile { display_name: "C".into(), ..current.clone() });
        let emptied = changed_profile(current.clone(), &message, &["permissions"]).unwrap();
        assert_eq!(emptied, Profile { permissions: Vec::new(), ..current });
    }
}
