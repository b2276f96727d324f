//! Keys that tokens are signed with, and when there has to be another one.
//!
//! Those who verify tokens keep the set of public keys for a while. So a key is published before it signs, and stays
//! published until the last token that it signed has ended.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::ids::TokenKeyId;

/// How long verifiers may keep the set, in seconds.
pub const KEPT_SECONDS: u64 = 300;

/// How long before it signs a key is published: twice as long as the set is kept.
const PUBLISHED_BEFORE: TimeDelta = TimeDelta::minutes(10);

/// The longest that a token can be configured to live.
pub const LONGEST_LIFETIME: Duration = Duration::from_hours(1);

/// By how much the clocks of replicas and verifiers may differ.
pub const SKEW: TimeDelta = TimeDelta::minutes(1);

/// A key.
#[derive(Clone, Debug, Serialize)]
pub struct TokenKey {
    /// Its id, the `kid` of its tokens.
    pub token_key_id: TokenKeyId,
    /// What its signatures are verified with.
    #[serde(skip)]
    pub public_key: [u8; 32],
    /// What it signs with, sealed.
    #[serde(skip)]
    pub sealed_private_key: Vec<u8>,
    /// When it was made, and published.
    pub create_time: DateTime<Utc>,
    /// When it begins to sign.
    pub activate_time: DateTime<Utc>,
    /// When another one signs in its place; `None` while that is not known.
    pub retire_time: Option<DateTime<Utc>>,
    /// When the last of its tokens has ended.
    pub expire_time: Option<DateTime<Utc>>,
}

impl TokenKey {
    /// The same with an end, because another one signs from `at` on.
    #[must_use]
    pub fn retired(self, at: DateTime<Utc>) -> Self {
        // Who retires it late has it sign no token for longer.
        let at = at.max(self.activate_time);
        let longest = TimeDelta::from_std(LONGEST_LIFETIME).unwrap_or(TimeDelta::MAX);
        Self { retire_time: Some(at), expire_time: Some(at + longest + SKEW), ..self }
    }

    /// Whether none of its tokens counts any more.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expire_time.is_some_and(|expire_time| expire_time <= now)
    }
}

/// When a further key is to begin to sign, if one is due; `ours` are the keys that can be unsealed. The first one of all
/// signs at once: nobody has a set that it would be missing in.
#[must_use]
pub fn due<'a>(
    ours: impl Iterator<Item = &'a TokenKey>,
    rotation: TimeDelta,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let last = ours.filter(|key| key.retire_time.is_none()).map(|key| key.activate_time).max();
    let Some(last) = last else { return Some(now) };
    let planned = last + rotation;
    (planned - PUBLISHED_BEFORE <= now).then(|| planned.max(now + PUBLISHED_BEFORE))
}

/// Whether nobody can unseal a key any more: whoever could would have replaced it long ago.
#[must_use]
pub fn is_abandoned(key: &TokenKey, rotation: TimeDelta, now: DateTime<Utc>) -> bool {
    key.retire_time.is_none() && key.activate_time + rotation + PUBLISHED_BEFORE <= now
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: TimeDelta = TimeDelta::days(30);

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn key(activate_time: DateTime<Utc>) -> TokenKey {
        TokenKey {
            token_key_id: TokenKeyId::new(activate_time),
            public_key: [0; 32],
            sealed_private_key: Vec::new(),
            create_time: activate_time,
            activate_time,
            retire_time: None,
            expire_time: None,
        }
    }

    #[test]
    fn the_first_signs_at_once_and_the_next_is_published_before() {
        let due = |keys: &[&TokenKey], now| due(keys.iter().copied(), ROTATION, now);
        assert_eq!(due(&[], at(7)), Some(at(7)));
        let first = key(at(0));
        let month = ROTATION.num_minutes();
        assert_eq!(due(&[&first], at(month - 11)), None);
        assert_eq!(due(&[&first], at(month - 10)), Some(at(month)));
        // Late, as after a time without service: published for as long all the same.
        assert_eq!(due(&[&first], at(month + 60)), Some(at(month + 70)));
        let (former, next) = (first.retired(at(month)), key(at(month)));
        assert_eq!(due(&[&former, &next], at(month - 5)), None);
        assert_eq!(due(&[&former], at(month - 5)), Some(at(month - 5)), "no other can be unsealed");
    }

    #[test]
    fn a_key_stays_until_its_last_token_has_ended() {
        let retired = key(at(0)).retired(at(30));
        assert_eq!((retired.retire_time, retired.expire_time), (Some(at(30)), Some(at(30 + 60 + 1))));
        assert!(!retired.is_over(at(90)) && retired.is_over(at(91)) && !key(at(0)).is_over(at(91)));
        assert_eq!(key(at(40)).retired(at(30)).retire_time, Some(at(40)), "not before it began");
    }

    #[test]
    fn what_nobody_can_unseal_is_given_up() {
        let month = ROTATION.num_minutes();
        let is = |key: &TokenKey, now| is_abandoned(key, ROTATION, now);
        assert!(!is(&key(at(0)), at(month + 9)) && is(&key(at(0)), at(month + 10)));
        assert!(!is(&key(at(0)).retired(at(5)), at(month + 10)), "it has an end already");
    }
}
