//! The identity of an event: 16 bytes in the key, whatever its producer sent.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::error::Violation;
use crate::ids::v7;
use crate::model::text;
use crate::model::usage::hashed;

/// The most characters of an event's identity.
const CHARACTERS: usize = 128;

/// An event's identity: a UUID as it is, any other text by its hash.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EventId {
    uuid: Uuid,
    name: Option<String>,
}

impl EventId {
    /// What a producer chose: 1 to 128 characters, none of them a control character.
    pub fn read(field: &str, text: &str) -> Result<Self, Violation> {
        if text.is_empty() {
            return Err(Violation::new(field, "must not be empty"));
        }
        // Only the one text that the UUID is written as: `Display` gives back exactly what was sent.
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text => {
                Ok(Self { uuid, name: None })
            }
            _ => Ok(Self { name: Some(text::free(field, text, CHARACTERS)?), uuid: hashed(text) }),
        }
    }

    /// As stored.
    #[must_use]
    pub const fn stored(uuid: Uuid, name: Option<String>) -> Self {
        Self { uuid, name }
    }

    /// One that the server chooses.
    #[must_use]
    pub fn chosen(now: DateTime<Utc>) -> Self {
        Self { uuid: v7(now), name: None }
    }

    /// What is in the key.
    #[must_use]
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The text as sent, where it is no UUID.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// As sent, or as chosen.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => self.uuid.fmt(f),
        }
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_canonical_form_is_a_uuid() {
        let canonical = "018f3c2e-9a70-7abc-8def-0123456789ab";
        let id = EventId::read("event_id", canonical).unwrap();
        assert_eq!((id.uuid().to_string().as_str(), id.name()), (canonical, None));
        let uuid = id.uuid();
        for other in
            [canonical.to_uppercase(), uuid.simple().to_string(), uuid.urn().to_string(), format!("{{{uuid}}}")]
        {
            let id = EventId::read("event_id", &other).unwrap();
            assert_eq!((id.name(), id.uuid().get_version_num()), (Some(other.as_str()), 8));
            assert_ne!(id.uuid(), uuid);
        }
        for bad in ["", "a\0b", "a\nb", &"a".repeat(129)] {
            assert!(EventId::read("event_id", bad).is_err(), "{bad}");
        }
        assert!(EventId::read("event_id", &"ä".repeat(128)).is_ok());
    }

    proptest! {
        #[test]
        fn an_identity_is_its_text(a in "[a-f0-9-]{1,3}|[^\\p{Cc}]{1,128}", b in "[a-f0-9-]{1,3}|[^\\p{Cc}]{1,128}") {
            let (first, second) = (EventId::read("f", &a).unwrap(), EventId::read("f", &b).unwrap());
            prop_assert_eq!(first.to_string(), a.clone());
            prop_assert_eq!(first.uuid() == second.uuid(), a == b);
        }

        #[test]
        fn every_uuid_is_itself(bits: u128) {
            let uuid = Uuid::from_u128(bits);
            prop_assert_eq!(EventId::read("f", &uuid.to_string()).unwrap(), EventId { uuid, name: None });
        }
    }
}
