//! What a reservation is to its caller: an opaque text that says all that settling it takes, signed, so that any replica
//! can settle it and nobody can make one up.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use prost::Message as _;
use uuid::Uuid;

use crate::ids::{MeterId, OrganizationId};
use crate::model::limit::{SubjectKind, Unit, Window};
use crate::quota::decision::{AccountKey, Change, Charge, Correction, Operation};

/// Changes with the layout.
const VERSION: u8 = 1;

/// The bytes of the signature, BLAKE3 with the key that all replicas share.
const MAC: usize = 32;

/// Every window there is, for each kind of subject.
const CHARGES: usize = 13 * 4;

/// The longest text that is looked at.
const TEXT: usize = 4 << 10;

/// What a reservation came to. It is kept as the message of the API that says so.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Settlement {
    /// How much was really used.
    #[prost(int64, tag = "1")]
    pub settled: i64,
    /// How much of it is more than was reserved.
    #[prost(int64, tag = "2")]
    pub overage: i64,
}

/// A reservation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Its id.
    pub id: Uuid,
    /// Until when it can be settled, in whole milliseconds.
    pub expire_time: DateTime<Utc>,
    /// How much was reserved.
    pub amount: u64,
    /// From where it was taken, as far as it can be given back.
    pub charges: Vec<Charge>,
}

impl Reservation {
    /// The text, signed. `None` when it has more charges than a decision can have.
    #[must_use]
    pub fn sign(&self, key: &[u8; 32]) -> Option<String> {
        if self.charges.len() > CHARGES {
            return None;
        }
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(self.organization_id.uuid().as_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.expire_time.timestamp_millis().to_be_bytes());
        bytes.extend_from_slice(&self.amount.to_be_bytes());
        for charge in &self.charges {
            let AccountKey { subject_kind, subject_id, meter_id, window } = charge.account;
            bytes.extend([kind_code(subject_kind), window_code(window)]);
            bytes.extend_from_slice(subject_id.as_bytes());
            bytes.extend_from_slice(meter_id.uuid().as_bytes());
            bytes.extend_from_slice(&charge.slot.to_be_bytes());
            bytes.extend_from_slice(&charge.amount.to_be_bytes());
        }
        bytes.extend_from_slice(blake3::keyed_hash(key, &bytes).as_bytes());
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The reservation that a text is; `None` when it was not signed with the key.
    #[must_use]
    pub fn verify(text: &str, key: &[u8; 32]) -> Option<Self> {
        if text.len() > TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, mac) = bytes.split_last_chunk::<MAC>()?;
        // Compared in constant time.
        if blake3::keyed_hash(key, signed) != *mac {
            return None;
        }
        let mut reader = Reader(signed);
        if reader.take::<1>()? != [VERSION] {
            return None;
        }
        let mut reservation = Self {
            organization_id: Uuid::from_bytes(reader.take()?).into(),
            id: Uuid::from_bytes(reader.take()?),
            expire_time: DateTime::from_timestamp_millis(i64::from_be_bytes(reader.take()?))?,
            amount: u64::from_be_bytes(reader.take()?),
            charges: Vec::new(),
        };
        while !reader.0.is_empty() {
            let [kind, window] = reader.take()?;
            let account = AccountKey {
                subject_kind: kind_of(kind)?,
                window: window_of(window)?,
                subject_id: Uuid::from_bytes(reader.take()?),
                meter_id: MeterId::from(Uuid::from_bytes(reader.take()?)),
            };
            let slot = i64::from_be_bytes(reader.take()?);
            reservation.charges.push(Charge { account, slot, amount: u64::from_be_bytes(reader.take()?) });
        }
        Some(reservation)
    }

    /// What it comes to when so much was really used, and what is to happen for it, once.
    #[must_use]
    pub fn settlement(&self, actual: u64) -> (Settlement, Operation) {
        let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let settlement = Settlement { settled: signed(actual), overage: signed(actual.saturating_sub(self.amount)) };
        let operation = Operation {
            id: self.id,
            // Whatever the amount: the first settlement holds.
            request_hash: Vec::new(),
            reply: settlement.encode_to_vec(),
            corrections: self.corrections(actual),
        };
        (settlement, operation)
    }

    /// What is to be corrected when so much was really used.
    #[must_use]
    pub fn corrections(&self, actual: u64) -> Vec<Correction> {
        let (less, more) = (self.amount.saturating_sub(actual), actual.saturating_sub(self.amount));
        let correct = |charge: &Charge| {
            let change = match (less.min(charge.amount), more) {
                (0, 0) => return None,
                (0, more) => Change::Overage(more),
                (less, _) => Change::Refund(less),
            };
            Some(Correction { account: charge.account, slot: Some(charge.slot), change })
        };
        self.charges.iter().filter_map(correct).collect()
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

const KINDS: [SubjectKind; 4] = [SubjectKind::Organization, SubjectKind::Team, SubjectKind::User, SubjectKind::ApiKey];

const fn kind_code(kind: SubjectKind) -> u8 {
    match kind {
        SubjectKind::Organization => 0,
        SubjectKind::Team => 1,
        SubjectKind::User => 2,
        SubjectKind::ApiKey => 3,
    }
}

fn kind_of(code: u8) -> Option<SubjectKind> {
    KINDS.into_iter().find(|kind| kind_code(*kind) == code)
}

const UNITS: [Unit; 6] = [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Month];

const fn unit_code(unit: Unit) -> u8 {
    match unit {
        Unit::Second => 0,
        Unit::Minute => 1,
        Unit::Hour => 2,
        Unit::Day => 3,
        Unit::Week => 4,
        Unit::Month => 5,
    }
}

const fn window_code(window: Window) -> u8 {
    match window {
        Window::Calendar(unit) => unit_code(unit),
        Window::Rolling(unit) => 0x10 | unit_code(unit),
        Window::Lifetime => 0x20,
    }
}

fn window_of(code: u8) -> Option<Window> {
    let windows = UNITS.into_iter().flat_map(|unit| [Window::Calendar(unit), Window::Rolling(unit)]);
    windows.chain([Window::Lifetime]).find(|window| window_code(*window) == code)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn charges() -> impl Strategy<Value = Charge> {
        let windows: Vec<Window> = (0..=0x20).filter_map(window_of).collect();
        let account = (select(KINDS.to_vec()), any::<u128>(), any::<u128>(), select(windows));
        (account, 0..4_000_000_000_000_000_i64, any::<u64>()).prop_map(
            |((kind, subject, meter, window), slot, amount)| {
                let account = AccountKey {
                    subject_kind: kind,
                    subject_id: Uuid::from_u128(subject),
                    meter_id: Uuid::from_u128(meter).into(),
                    window,
                };
                Charge { account, slot, amount }
            },
        )
    }

    fn reservations() -> impl Strategy<Value = Reservation> {
        let whose = (any::<u128>(), any::<u128>());
        (whose, 0..4_000_000_000_000_i64, any::<u64>(), vec(charges(), 0..=CHARGES)).prop_map(
            |((organization, id), expiry, amount, charges)| Reservation {
                organization_id: Uuid::from_u128(organization).into(),
                id: Uuid::from_u128(id),
                expire_time: DateTime::from_timestamp_millis(expiry).unwrap(),
                amount,
                charges,
            },
        )
    }

    #[test]
    fn every_window_has_a_code_of_its_own() {
        assert_eq!((0..=u8::MAX).filter_map(window_of).count(), 13);
        assert_eq!((0..=u8::MAX).filter_map(kind_of).count(), 4);
    }

    proptest! {
        #[test]
        fn what_was_signed_is_read_as_it_was(reservation in reservations()) {
            let text = reservation.sign(&KEY).unwrap();
            prop_assert!(text.len() <= TEXT, "{} bytes", text.len());
            prop_assert_eq!(Reservation::verify(&text, &[8; 32]), None);
            prop_assert_eq!(Reservation::verify(&text, &KEY), Some(reservation));
        }

        #[test]
        fn whatever_is_not_signed_is_refused(text in "[A-Za-z0-9_-]{0,400}") {
            prop_assert_eq!(Reservation::verify(&text, &KEY), None);
        }

        #[test]
        fn corrections_make_up_for_the_difference(reservation in reservations(), actual in 0..1_000_000_u64) {
            let reservation = Reservation { amount: 1000, ..reservation };
            for correction in reservation.corrections(actual) {
                match correction.change {
                    Change::Refund(less) => prop_assert!(less + actual <= 1000 && less > 0),
                    Change::Overage(more) => prop_assert_eq!(more, actual - 1000),
                }
            }
            prop_assert!(reservation.corrections(1000).is_empty());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn every_flipped_bit_is_refused(reservation in reservations()) {
            let reservation = Reservation { charges: reservation.charges.into_iter().take(3).collect(), ..reservation };
            let text = reservation.sign(&KEY).unwrap();
            let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(Reservation::verify(&URL_SAFE_NO_PAD.encode(flipped), &KEY), None);
            }
            for bit in 0..text.len() * 8 {
                let mut flipped = text.clone().into_bytes();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(flipped) = String::from_utf8(flipped) {
                    prop_assert_eq!(Reservation::verify(&flipped, &KEY), None);
                }
            }
        }
    }
}
