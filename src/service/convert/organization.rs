//! Organizations between protobuf and the model.

use crate::error::{Error, Violation, Violations};
use crate::ids::{UserId, parse_uuid};
use crate::model::organization::{self as rules, Organization, Profile};
use crate::model::{plan, text};
use crate::proto::v1;
use crate::service::convert::{from_struct, timestamp, to_struct};

/// The fields that an update mask can name.
pub const FIELDS: &[&str] = &[
    "slug",
    "display_name",
    "plan",
    "contact_email",
    "billing_email",
    "time_zone",
    "billing_anchor_day",
    "currency",
    "locale",
    "date_format",
    "branding.logo_uri",
    "branding.primary_color",
    "labels",
    "member_limit",
    "team_limit",
    "settings",
];

/// The fields among them that only a platform key may change.
pub const PLATFORM_FIELDS: &[&str] = &["slug", "plan", "member_limit", "team_limit"];

/// For the wire.
#[must_use]
pub fn to_proto(organization: Organization) -> v1::Organization {
    let profile = organization.profile;
    let status = match organization.suspension {
        Some(_) => v1::OrganizationStatus::Suspended,
        None => v1::OrganizationStatus::Active,
    };
    v1::Organization {
        organization_id: organization.organization_id.to_string(),
        slug: profile.slug,
        display_name: profile.display_name,
        status: status.into(),
        plan: profile.plan,
        contact_email: profile.contact_email,
        billing_email: profile.billing_email,
        time_zone: profile.time_zone.name().into(),
        billing_anchor_day: profile.billing_anchor_day.into(),
        currency: profile.currency,
        locale: profile.locale,
        date_format: profile.date_format,
        branding: Some(v1::Branding { logo_uri: profile.logo_uri, primary_color: profile.primary_color }),
        labels: profile.labels,
        member_limit: profile.member_limit,
        team_limit: profile.team_limit,
        settings: Some(to_struct(profile.settings)),
        etag: crate::model::etag::of(organization.revision),
        create_time: Some(timestamp(organization.create_time)),
        update_time: Some(timestamp(organization.update_time)),
        suspend_time: organization.suspension.as_ref().map(|suspension| timestamp(suspension.time)),
        suspend_reason: organization.suspension.map(|suspension| suspension.reason).unwrap_or_default(),
        delete_time: organization.deletion.map(|deletion| timestamp(deletion.time)),
        purge_time: organization.deletion.map(|deletion| timestamp(deletion.purge_time)),
    }
}

/// The profile of a new organization: what the message leaves empty gets its default.
pub fn new_profile(message: v1::Organization) -> Result<Profile, Error> {
    new_profile_in("organization", message)
}

/// The same where the message is in a field of another name.
pub fn new_profile_in(field: &str, message: v1::Organization) -> Result<Profile, Error> {
    let given = |text: &str| !text.is_empty();
    let fields: Vec<&str> = FIELDS
        .iter()
        .copied()
        .filter(|field| match *field {
            "plan" => given(&message.plan),
            "time_zone" => given(&message.time_zone),
            "billing_anchor_day" => message.billing_anchor_day != 0,
            "currency" => given(&message.currency),
            "locale" => given(&message.locale),
            "date_format" => given(&message.date_format),
            _ => true,
        })
        .collect();
    checked(Profile::default(), message, &fields).map_err(|error| error.within(field))
}

/// The profile of a new organization and the user who is to be its owner. Error: `INVALID_FIELD` with every violation.
pub fn founding(message: v1::Organization, owner_user_id: &str) -> Result<(Profile, Option<UserId>), Error> {
    let owner = parse_uuid(owner_user_id).map(UserId::from);
    let wrong = (owner.is_none() && !owner_user_id.is_empty())
        .then(|| Violation::new("owner_user_id", "must be a UUID or empty"));
    match (new_profile(message), wrong) {
        (Ok(profile), None) => Ok((profile, owner)),
        (Err(Error::Invalid(violations)), wrong) => Err(Error::Invalid(violations.into_iter().chain(wrong).collect())),
        (Err(error), _) => Err(error),
        (Ok(_), Some(wrong)) => Err(wrong.into()),
    }
}

/// The profile with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_profile(current: Profile, message: v1::Organization, fields: &[&str]) -> Result<Profile, Error> {
    checked(current, message, fields).map_err(|error| error.within("organization"))
}

fn checked(current: Profile, message: v1::Organization, fields: &[&str]) -> Result<Profile, Error> {
    let mut profile = current;
    let mut wrong = Violations::default();
    let branding = message.branding.unwrap_or_default();
    let settings = message.settings.unwrap_or_default();
    macro_rules! set {
        ($field:ident, $checked:expr) => {
            if let Some(value) = wrong.take($checked) {
                profile.$field = value;
            }
        };
    }
    for field in fields {
        match *field {
            "slug" => set!(slug, rules::slug(field, &message.slug)),
            "display_name" => set!(display_name, text::display_name(field, &message.display_name)),
            "plan" => set!(plan, plan::key(field, &message.plan)),
            "contact_email" => set!(contact_email, text::optional_email(field, &message.contact_email)),
            "billing_email" => set!(billing_email, text::optional_email(field, &message.billing_email)),
            "time_zone" => set!(time_zone, rules::time_zone(field, &message.time_zone)),
            "billing_anchor_day" => {
                set!(billing_anchor_day, rules::billing_anchor_day(field, message.billing_anchor_day));
            }
            "currency" => set!(currency, rules::currency(field, &message.currency)),
            "locale" => set!(locale, text::locale(field, &message.locale)),
            "date_format" => set!(date_format, rules::date_format(field, &message.date_format)),
            "branding.logo_uri" => set!(logo_uri, text::optional_uri(field, &branding.logo_uri)),
            "branding.primary_color" => set!(primary_color, rules::primary_color(field, &branding.primary_color)),
            "labels" => set!(labels, text::labels(field, message.labels.iter())),
            "member_limit" => set!(member_limit, rules::member_limit(field, message.member_limit)),
            "team_limit" => set!(team_limit, rules::team_limit(field, message.team_limit)),
            "settings" => set!(
                settings,
                from_struct(field, settings.clone()).and_then(|value| text::bounded_object(field, value, 16 << 10, 8))
            ),
            unknown => return Err(Error::internal(format!("{unknown} is no field of an organization"))),
        }
    }
    wrong.finish()?;
    Ok(profile)
}
