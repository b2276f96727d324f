//! Users between protobuf and the model.

use crate::error::{Error, Violations};
use crate::model::text;
use crate::model::user::{Profile, User, UserStatus};
use crate::proto::v1;
use crate::service::convert::timestamp;

/// The fields that an update mask can name.
pub const FIELDS: &[&str] = &["email", "display_name"];

/// For the wire.
#[must_use]
pub fn to_proto(user: User) -> v1::User {
    let status = match user.status {
        UserStatus::Active => v1::UserStatus::Active,
        UserStatus::Deactivated => v1::UserStatus::Deactivated,
    };
    v1::User {
        user_id: user.user_id.to_string(),
        email: user.profile.email,
        display_name: user.profile.display_name,
        status: status.into(),
        etag: crate::model::etag::of(user.revision),
        create_time: Some(timestamp(user.create_time)),
        update_time: Some(timestamp(user.update_time)),
    }
}

/// The profile of a new user, who must have every field.
pub fn new_profile(message: v1::User) -> Result<Profile, Error> {
    changed_profile(Profile::default(), message, FIELDS)
}

/// The profile with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_profile(current: Profile, message: v1::User, fields: &[&str]) -> Result<Profile, Error> {
    let mut profile = current;
    let mut wrong = Violations::default();
    for field in fields {
        let (current, checked) = match *field {
            "email" => (&mut profile.email, text::email(field, &message.email)),
            "display_name" => (&mut profile.display_name, text::display_name(field, &message.display_name)),
            unknown => return Err(Error::internal(format!("{unknown} is no field of a user"))),
        };
        if let Some(value) = wrong.take(checked) {
            *current = value;
        }
    }
    wrong.finish().map_err(|error| error.within("user"))?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_user_has_every_field() {
        let Err(Error::Invalid(violations)) = new_profile(v1::User::default()) else { panic!("accepted") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["user.email", "user.display_name"]);
    }

    #[test]
    fn only_the_named_fields_change() {
        let current = Profile { email: "Ida@example.com".into(), display_name: "Ida".into() };
        let message = v1::User { email: "not an address".into(), display_name: "Ida B.".into(), ..Default::default() };
        let changed = changed_profile(current.clone(), message.clone(), &["display_name"]).unwrap();
        assert_eq!(changed, Profile { display_name: "Ida B.".into(), ..current.clone() });
        assert!(changed_profile(current, message, FIELDS).is_err());
    }
}
