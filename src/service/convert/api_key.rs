//! Keys between protobuf and the model.

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::Duration;

use crate::auth::authenticator::{KeyFacts, KnownKey};
use crate::auth::keys::kind::ApiKeyKind;
use crate::auth::principal::Principal;
use crate::error::{Error, Violation, Violations};
use crate::model::api_key::{self as rules, ApiKey, Profile, Status};
use crate::model::{ip_range, text};
use crate::proto::v1;
use crate::service::convert::{time, timestamp};

/// The fields that an update mask can name.
pub const FIELDS: &[&str] =
    &["display_name", "labels", "scopes", "allowed_origins", "allowed_ip_ranges", "disabled", "expire_time"];

/// For the wire, as it is at `now`.
#[must_use]
pub fn to_proto(key: ApiKey, now: DateTime<Utc>) -> v1::ApiKey {
    let status = match key.status(now) {
        Status::Active => v1::ApiKeyStatus::Active,
        Status::Disabled => v1::ApiKeyStatus::Disabled,
        Status::Expired => v1::ApiKeyStatus::Expired,
        Status::Revoked => v1::ApiKeyStatus::Revoked,
    };
    let in_grace = key.previous_secret_expire_time.filter(|until| *until > now && key.revoke_time.is_none());
    let redacted_key = key.redacted().to_string();
    v1::ApiKey {
        organization_id: key.organization_id.to_string(),
        api_key_id: key.api_key_id.to_string(),
        kind: kind_to_proto(key.kind).into(),
        redacted_key,
        display_name: key.profile.display_name,
        labels: key.profile.labels,
        scopes: key.profile.scopes,
        allowed_origins: key.profile.allowed_origins,
        allowed_ip_ranges: ip_range::texts(&key.profile.allowed_ip_ranges),
        disabled: key.profile.disabled,
        expire_time: key.profile.expire_time.map(timestamp),
        status: status.into(),
        last_used_time: key.last_used_time.map(timestamp),
        previous_secret_expire_time: in_grace.map(timestamp),
        etag: crate::model::etag::of(key.revision),
        create_time: Some(timestamp(key.create_time)),
        update_time: Some(timestamp(key.update_time)),
        revoke_time: key.revoke_time.map(timestamp),
    }
}

/// Kind and profile of a new key. Whether its end is still to come depends on the clock and is asked apart.
pub fn new_key(message: v1::ApiKey) -> Result<(ApiKeyKind, Profile), Error> {
    // What else is right depends on the kind.
    let kind = kind_from_proto("api_key.kind", message.kind)?;
    Ok((kind, changed_profile(kind, Profile::default(), message, FIELDS)?))
}

/// The profile with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_profile(
    kind: ApiKeyKind,
    current: Profile,
    message: v1::ApiKey,
    fields: &[&str],
) -> Result<Profile, Error> {
    let mut profile = current;
    let mut wrong = Violations::default();
    macro_rules! set {
        ($field:ident, $checked:expr) => {
            if let Some(value) = wrong.take($checked) {
                profile.$field = value;
            }
        };
    }
    for field in fields {
        match *field {
            "display_name" => set!(display_name, text::display_name(field, &message.display_name)),
            "labels" => set!(labels, text::labels(field, message.labels.iter())),
            "scopes" => set!(scopes, rules::scopes(field, kind, &message.scopes)),
            "allowed_origins" => set!(allowed_origins, rules::allowed_origins(field, kind, &message.allowed_origins)),
            "allowed_ip_ranges" => set!(allowed_ip_ranges, ip_range::ranges(field, &message.allowed_ip_ranges)),
            "disabled" => profile.disabled = message.disabled,
            "expire_time" => set!(expire_time, message.expire_time.map(|at| time(field, at)).transpose()),
            unknown => return Err(Error::internal(format!("{unknown} is no field of a key"))),
        }
    }
    wrong.finish().map_err(|error| error.within("api_key"))?;
    Ok(profile)
}

/// The grace period of a rotation, in whole microseconds; absent means the default.
pub fn grace_period(field: &str, duration: Option<Duration>) -> Result<TimeDelta, Violation> {
    let Some(Duration { seconds, nanos }) = duration else { return Ok(rules::DEFAULT_GRACE) };
    let grace = u32::try_from(nanos).ok().and_then(|nanos| TimeDelta::new(seconds, nanos / 1000 * 1000));
    rules::grace_period(field, grace.unwrap_or(TimeDelta::MAX))
}

/// What a verification tells of a key of a tenant; nothing of a key of the platform.
#[must_use]
pub fn verified(code: v1::VerificationCode, key: &KnownKey) -> Option<v1::VerifyApiKeyResponse> {
    let organization = key.organization.as_ref()?;
    let KeyFacts { kind, principal, scopes, labels, expire_time, .. } = key.facts();
    let Principal::ApiKey { api_key_id, .. } = &**principal else { return None };
    Some(v1::VerifyApiKeyResponse {
        code: code.into(),
        api_key_id: api_key_id.to_string(),
        organization_id: organization.organization_id.to_string(),
        organization_slug: organization.profile.slug.clone(),
        plan: organization.profile.plan.clone(),
        kind: kind_to_proto(*kind).into(),
        scopes: scopes.clone(),
        labels: labels.clone(),
        expire_time: expire_time.map(timestamp),
    })
}

const fn kind_to_proto(kind: ApiKeyKind) -> v1::ApiKeyKind {
    match kind {
        ApiKeyKind::SecretLive => v1::ApiKeyKind::SecretLive,
        ApiKeyKind::SecretTest => v1::ApiKeyKind::SecretTest,
        ApiKeyKind::PublishableLive => v1::ApiKeyKind::PublishableLive,
        ApiKeyKind::PublishableTest => v1::ApiKeyKind::PublishableTest,
        ApiKeyKind::PublishableWidget => v1::ApiKeyKind::PublishableWidget,
        // No tenant has one, and the database refuses it.
        ApiKeyKind::Service | ApiKeyKind::Operator => v1::ApiKeyKind::Unspecified,
    }
}

fn kind_from_proto(field: &str, kind: i32) -> Result<ApiKeyKind, Violation> {
    match v1::ApiKeyKind::try_from(kind) {
        Ok(v1::ApiKeyKind::SecretLive) => Ok(ApiKeyKind::SecretLive),
        Ok(v1::ApiKeyKind::SecretTest) => Ok(ApiKeyKind::SecretTest),
        Ok(v1::ApiKeyKind::PublishableLive) => Ok(ApiKeyKind::PublishableLive),
        Ok(v1::ApiKeyKind::PublishableTest) => Ok(ApiKeyKind::PublishableTest),
        Ok(v1::ApiKeyKind::PublishableWidget) => Ok(ApiKeyKind::PublishableWidget),
        Ok(v1::ApiKeyKind::Unspecified) | Err(_) => Err(Violation::new(field, "must be a kind of key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_named() {
        let message = v1::ApiKey {
            kind: v1::ApiKeyKind::PublishableWidget.into(),
            scopes: vec!["keys.create".into()],
            ..Default::default()
        };
        let Err(Error::Invalid(violations)) = new_key(message) else { panic!("taken") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["api_key.display_name", "api_key.scopes[0]", "api_key.allowed_origins"]);
        for kind in [0, 6, -1] {
            assert!(new_key(v1::ApiKey { kind, ..Default::default() }).is_err(), "{kind}");
        }
    }

    #[test]
    fn only_named_fields_change() {
        let current = Profile { display_name: "a".into(), disabled: true, ..Profile::default() };
        let message = v1::ApiKey { display_name: "b".into(), ..Default::default() };
        let changed =
            changed_profile(ApiKeyKind::SecretLive, current.clone(), message.clone(), &["display_name"]).unwrap();
        assert_eq!(changed, Profile { display_name: "b".into(), ..current.clone() });
        let changed = changed_profile(ApiKeyKind::SecretLive, current.clone(), message, &["disabled"]).unwrap();
        assert_eq!(changed, Profile { disabled: false, ..current });
    }

    #[test]
    fn graces_from_the_wire() {
        let of = |seconds, nanos| grace_period("f", Some(Duration { seconds, nanos }));
        assert_eq!(grace_period("f", None).unwrap(), TimeDelta::hours(24));
        assert_eq!(of(0, 0).unwrap(), TimeDelta::zero());
        assert_eq!(of(1, 1_999).unwrap(), TimeDelta::microseconds(1_000_001));
        assert!(of(30 * 86_400, 0).is_ok());
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (30 * 86_400, 1_000), (0, 1_000_000_000), (1, -1), (i64::MAX, 0), (i64::MIN, 0)]
        {
            assert!(of(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }
}
