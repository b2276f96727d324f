//! The rules of keys, without a database.

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn key() -> ApiKey {
    ApiKey {
        organization_id: OrganizationId::new(at(0)),
        api_key_id: ApiKeyId::new(at(0)),
        kind: ApiKeyKind::SecretLive,
        lookup_id: "4fT0xKq81LmZsV2c".parse().unwrap(),
        profile: Profile { scopes: vec!["keys.read".into()], ..Profile::default() },
        previous_secret_expire_time: None,
        last_used_time: None,
        revoke_time: None,
        revision: 1,
        create_time: at(0),
        update_time: at(0),
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn the_first_status_that_applies() {
    let mut key = key();
    assert_eq!(key.status(at(10)), Status::Active);
    key.profile.expire_time = Some(at(10));
    assert_eq!(key.status(at(9)), Status::Active);
    assert_eq!(key.status(at(10)), Status::Expired);
    key.profile.disabled = true;
    assert_eq!(key.status(at(10)), Status::Disabled);
    key.revoke_time = Some(at(5));
    assert_eq!(key.status(at(10)), Status::Revoked);
}

#[test]
fn a_grace_never_outlives_its_key() {
    let mut key = key();
    let hour = TimeDelta::hours(1);
    assert_eq!(key.rotated(hour, at(0)).previous_secret_expire_time, Some(at(3600)));
    assert_eq!(key.rotated(TimeDelta::zero(), at(0)).previous_secret_expire_time, None);
    key.profile.expire_time = Some(at(60));
    assert_eq!(key.rotated(hour, at(0)).previous_secret_expire_time, Some(at(60)));
    // Expired already: there is nothing to go on with.
    assert_eq!(key.rotated(hour, at(60)).previous_secret_expire_time, None);

    let rotated = key.rotated(hour, at(0));
    let sooner = Profile { expire_time: Some(at(30)), ..key.profile.clone() };
    assert_eq!(rotated.with_profile(sooner).previous_secret_expire_time, Some(at(30)));
    let never = Profile { expire_time: None, ..key.profile.clone() };
    assert_eq!(rotated.with_profile(never).previous_secret_expire_time, Some(at(60)));
}

#[test]
fn what_a_change_hands_out() {
    let before = Profile {
        scopes: texts(&["usage.read", "usage.write"]),
        allowed_origins: texts(&["https://a.example"]),
        allowed_ip_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        expire_time: Some(at(100)),
        ..Profile::default()
    };
    let with = |change: fn(&mut Profile)| {
        let mut after = before.clone();
        change(&mut after);
        before.handed_out(&after).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let none = texts(&[]);
    assert_eq!(with(|_| {}), none);
    assert_eq!(with(|p| p.display_name = "x".into()), none);
    assert_eq!(with(|p| p.disabled = true), none);
    assert_eq!(with(|p| p.expire_time = Some(at(99))), none);
    assert_eq!(with(|p| p.scopes.truncate(1)), none);
    assert_eq!(with(|p| p.scopes.push("keys.read".into())), ["keys.read"]);

    assert_eq!(with(|p| p.expire_time = Some(at(101))), before.scopes);
    assert_eq!(with(|p| p.expire_time = None), before.scopes);
    assert_eq!(with(|p| p.allowed_origins.clear()), before.scopes);
    assert_eq!(with(|p| p.allowed_origins.push("https://b.example".into())), before.scopes);

    assert_eq!(with(|p| p.allowed_ip_ranges.clear()), before.scopes);
    assert_eq!(with(|p| p.allowed_ip_ranges.push("192.0.2.0/24".parse().unwrap())), before.scopes);
    assert_eq!(with(|p| p.allowed_ip_ranges = vec!["10.1.0.0/16".parse().unwrap()]), none, "fewer");

    let off = Profile { disabled: true, ..before.clone() };
    assert_eq!(off.handed_out(&before), before.scopes);
    let endless = Profile { expire_time: None, ..before.clone() };
    assert!(endless.handed_out(&before).is_empty());
    let anywhere = Profile { allowed_origins: Vec::new(), ..before.clone() };
    assert!(anywhere.handed_out(&before).is_empty());
}

#[test]
fn scopes_by_kind() {
    use ApiKeyKind::{PublishableLive, SecretLive};
    let good = texts(&["usage.write", "organizations.read"]);
    assert_eq!(scopes("f", SecretLive, &good).unwrap(), good);
    assert_eq!(scopes("f", PublishableLive, &good).unwrap(), good);
    assert!(scopes("f", SecretLive, &texts(&["keys.create"])).is_ok());
    assert_eq!(scopes("f", PublishableLive, &texts(&["usage.write", "keys.read"])).unwrap_err().field, "f[1]");
    for bad in [&[] as &[&str], &["organizations.create"], &["nonsense"], &["keys.read", "keys.read"], &["usage.*"]] {
        assert!(scopes("f", SecretLive, &texts(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn origins_by_kind() {
    use ApiKeyKind::{PublishableLive, PublishableTest, PublishableWidget, SecretLive, SecretTest};
    let some = texts(&["https://a.example"]);
    for (kind, none_is_good, some_is_good) in [
        (SecretLive, true, false),
        (SecretTest, true, false),
        (PublishableLive, true, true),
        (PublishableTest, true, true),
        (PublishableWidget, false, true),
    ] {
        assert_eq!(allowed_origins("f", kind, &[]).is_ok(), none_is_good, "{kind}");
        assert_eq!(allowed_origins("f", kind, &some).is_ok(), some_is_good, "{kind}");
    }
}

#[test]
fn graces() {
    assert!(grace_period("f", TimeDelta::zero()).is_ok() && grace_period("f", LONGEST_GRACE).is_ok());
    assert!(grace_period("f", -TimeDelta::microseconds(1)).is_err());
    assert!(grace_period("f", LONGEST_GRACE + TimeDelta::microseconds(1)).is_err());
}

#[test]
fn the_audit_gets_texts() {
    let written = serde_json::to_value(key()).unwrap();
    assert_eq!((&written["kind"], &written["lookup_id"]), (&"sk_live".into(), &"4fT0xKq81LmZsV2c".into()));
    assert_eq!(written["scopes"], serde_json::json!(["keys.read"]));
    assert!(written.get("last_used_time").is_none());
}
