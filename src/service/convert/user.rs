//! Users between protobuf and the model.

use crate::error::{Error, Violations};
use crate::ids::{OrganizationId, UserId, parse_uuid};
use crate::model::text;
use crate::model::user::{Belonging, Identity, Private, Profile, User, UserStatus};
use crate::proto::v1;
use crate::service::convert::member::status as member_status;
use crate::service::convert::{from_struct, timestamp, to_struct, told};

/// The fields that an update mask can name, and that a tenant sees.
pub const FIELDS: &[&str] = &["email", "display_name", "avatar_uri", "locale"];

/// The same that only the platform sees.
pub const PRIVATE_FIELDS: &[&str] = &["identity", "settings", "default_organization_id"];

/// For the wire, as a tenant sees it.
#[must_use]
pub fn to_proto(user: User) -> v1::User {
    let status = match user.status {
        UserStatus::Active => v1::UserStatus::Active,
        UserStatus::Deactivated => v1::UserStatus::Deactivated,
        UserStatus::Erased => v1::UserStatus::Erased,
    };
    v1::User {
        user_id: user.user_id.to_string(),
        email: user.profile.email,
        display_name: user.profile.display_name,
        avatar_uri: user.profile.avatar_uri,
        locale: user.profile.locale,
        status: status.into(),
        etag: crate::model::etag::of(user.revision),
        create_time: Some(timestamp(user.create_time)),
        update_time: Some(timestamp(user.update_time)),
        ..v1::User::default()
    }
}

/// The same, as the platform sees it.
#[must_use]
pub fn whole_to_proto(user: User, private: Private) -> v1::User {
    let external = |identity: Identity| v1::ExternalIdentity { provider: identity.provider, subject: identity.subject };
    v1::User {
        identity: private.identity.map(external),
        settings: Some(to_struct(private.settings)),
        default_organization_id: private.default_organization_id.map(|id| id.to_string()).unwrap_or_default(),
        last_activity_time: private.last_activity_time.map(timestamp),
        erase_time: private.erase_time.map(timestamp),
        ..to_proto(user)
    }
}

/// An organization of a user.
#[must_use]
pub fn belonging(belonging: Belonging) -> v1::UserOrganization {
    let status =
        if belonging.is_suspended { v1::OrganizationStatus::Suspended } else { v1::OrganizationStatus::Active };
    v1::UserOrganization {
        organization_id: belonging.organization_id.to_string(),
        slug: belonging.slug,
        display_name: belonging.display_name,
        status: status.into(),
        role: belonging.role.to_string(),
        member_status: member_status(belonging.member_status).into(),
        join_time: Some(timestamp(belonging.join_time)),
        is_default: belonging.is_default,
    }
}

/// A new user, who must have an address and a name.
pub fn new_user(message: v1::User) -> Result<(Profile, Private), Error> {
    let mut wrong = Violations::default();
    let profile = profile(&mut wrong, Profile::default(), &message, FIELDS)?;
    let private = private(&mut wrong, Private::default(), &message, PRIVATE_FIELDS)?;
    wrong.finish().map_err(|error| error.within("user"))?;
    Ok((profile, private))
}

/// What became of a row of a batch that was not refused: whom it made, or who was there before.
#[must_use]
pub fn new_user_result(user: Result<v1::User, UserId>) -> v1::NewUserResult {
    let (status, user) = match user {
        Ok(created) => (v1::NewUserStatus::Created, created),
        Err(known) => (v1::NewUserStatus::Exists, v1::User { user_id: known.to_string(), ..v1::User::default() }),
    };
    v1::NewUserResult { status: status.into(), user: Some(user), ..v1::NewUserResult::default() }
}

/// What became of a row that was refused.
#[must_use]
pub fn refused(error: &Error) -> v1::NewUserResult {
    v1::NewUserResult {
        status: v1::NewUserStatus::Refused.into(),
        reason: error.reason(),
        message: told(error),
        ..v1::NewUserResult::default()
    }
}

/// The profile with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_profile(current: Profile, message: &v1::User, fields: &[&str]) -> Result<Profile, Error> {
    let mut wrong = Violations::default();
    let profile = profile(&mut wrong, current, message, fields)?;
    wrong.finish().map_err(|error| error.within("user"))?;
    Ok(profile)
}

/// The user with the named fields, of both sorts, taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_user(
    (current, current_private): (Profile, Private),
    message: &v1::User,
    fields: &[&str],
) -> Result<(Profile, Private), Error> {
    let (private_fields, fields): (Vec<&str>, Vec<&str>) =
        fields.iter().copied().partition(|field| PRIVATE_FIELDS.contains(field));
    let mut wrong = Violations::default();
    let profile = profile(&mut wrong, current, message, &fields)?;
    let private = private(&mut wrong, current_private, message, &private_fields)?;
    wrong.finish().map_err(|error| error.within("user"))?;
    Ok((profile, private))
}

fn profile(wrong: &mut Violations, current: Profile, message: &v1::User, fields: &[&str]) -> Result<Profile, Error> {
    let mut profile = current;
    for field in fields {
        let (current, checked) = match *field {
            "email" => (&mut profile.email, text::email(field, &message.email)),
            "display_name" => (&mut profile.display_name, text::display_name(field, &message.display_name)),
            "avatar_uri" => (&mut profile.avatar_uri, text::optional_uri(field, &message.avatar_uri)),
            "locale" if message.locale.is_empty() => (&mut profile.locale, Ok(Profile::default().locale)),
            "locale" => (&mut profile.locale, text::locale(field, &message.locale)),
            unknown => return Err(Error::internal(format!("{unknown} is no field of a user"))),
        };
        if let Some(value) = wrong.take(checked) {
            *current = value;
        }
    }
    Ok(profile)
}

fn private(wrong: &mut Violations, current: Private, message: &v1::User, fields: &[&str]) -> Result<Private, Error> {
    let mut private = current;
    for field in fields {
        match *field {
            "identity" => {
                let identity = message.identity.as_ref();
                let checked = identity.map(|identity| Identity::new(field, &identity.provider, &identity.subject));
                if let Some(identity) = wrong.take(checked.transpose()) {
                    private.identity = identity;
                }
            }
            "settings" => {
                let settings = from_struct(field, message.settings.clone().unwrap_or_default());
                let checked = settings.and_then(|settings| text::bounded_object(field, settings, 16 << 10, 8));
                if let Some(settings) = wrong.take(checked) {
                    private.settings = settings;
                }
            }
            "default_organization_id" => {
                let id = parse_uuid(&message.default_organization_id).map(OrganizationId::from);
                if id.is_none() && !message.default_organization_id.is_empty() {
                    wrong.add(*field, "must be a UUID or empty");
                }
                private.default_organization_id = id;
            }
            unknown => return Err(Error::internal(format!("{unknown} is no field of a user"))),
        }
    }
    Ok(private)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_user_has_every_field() {
        let Err(Error::Invalid(violations)) = new_user(v1::User::default()) else { panic!("accepted") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["user.email", "user.display_name"]);
    }

    #[test]
    fn only_the_named_fields_change() {
        let current = Profile { email: "Ida@example.com".into(), display_name: "Ida".into(), ..Profile::default() };
        let message = v1::User { email: "not an address".into(), display_name: "Ida B.".into(), ..Default::default() };
        let changed = changed_profile(current.clone(), &message, &["display_name"]).unwrap();
        assert_eq!(changed, Profile { display_name: "Ida B.".into(), ..current.clone() });
        assert!(changed_profile(current, &message, FIELDS).is_err());
    }
}
