//! Series: what figures are kept of beside the meter as a whole.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A series of aggregates within a meter: the id of a [`Series`], or of the whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SeriesId(Uuid);

impl SeriesId {
    /// The meter as a whole.
    pub const WHOLE: Self = Self(Uuid::nil());

    /// As stored.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

/// What the id of a series stands for: a subject, values of the properties that the meter groups by, or both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Series {
    /// Of whom; empty: of all.
    pub subject: String,
    /// In the order of the meter's `group_by`; empty: of all.
    pub group_values: Vec<String>,
}

impl Series {
    /// Its id: 16 bytes, whatever the length of its names.
    #[must_use]
    pub fn id(&self) -> SeriesId {
        // The length before each text, so that no two series are one text.
        let mut hash = Sha256::new();
        for text in std::iter::once(&self.subject).chain(&self.group_values) {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        SeriesId(first_bytes(hash))
    }
}

/// A series with its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedSeries {
    /// What it is.
    pub series: Series,
    /// Its id.
    pub id: SeriesId,
    /// Of a series of a subject with values: the one of the same values and all subjects.
    pub parent: Option<SeriesId>,
}

impl NamedSeries {
    /// The series of a subject, which may be empty, and of the values that the meter groups by, which may be none; `None`
    /// for neither.
    #[must_use]
    pub fn of(subject: &str, group_values: Vec<String>) -> Option<Self> {
        if subject.is_empty() && group_values.is_empty() {
            return None;
        }
        let named = Self::orphan(subject, group_values);
        let parent = named.parent_series().map(|parent| parent.id);
        Some(Self { parent, ..named })
    }

    /// The parent, named.
    #[must_use]
    pub fn parent_series(&self) -> Option<Self> {
        let Series { subject, group_values } = &self.series;
        (!subject.is_empty() && !group_values.is_empty()).then(|| Self::orphan("", group_values.clone()))
    }

    fn orphan(subject: &str, group_values: Vec<String>) -> Self {
        let series = Series { subject: subject.to_owned(), group_values };
        Self { id: series.id(), series, parent: None }
    }
}

/// A UUIDv8 of the SHA-256 of a text: 16 bytes whatever its length.
pub(super) fn hashed(text: &str) -> Uuid {
    first_bytes(Sha256::new().chain_update(text))
}

fn first_bytes(hash: Sha256) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(subject: &str, group_values: &[&str]) -> Option<NamedSeries> {
        NamedSeries::of(subject, group_values.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn only_a_subject_with_values_has_a_parent() {
        let parent = |subject, values: &[&str]| named(subject, values).unwrap().parent;
        assert_eq!(parent("ada", &["x", ""]), named("", &["x", ""]).map(|group| group.id));
        assert_eq!((parent("ada", &[]), parent("", &["x"])), (None, None));
        assert_eq!(named("", &[]), None, "that is the whole");
        assert_ne!(named("", &["", ""]).unwrap().id, SeriesId::WHOLE);
        assert_eq!(named("ada", &[]).unwrap().id.uuid().get_version_num(), 8);
    }

    proptest! {
        #[test]
        fn different_series_have_different_ids(
            one in ("[ab]{0,2}", prop::collection::vec("[ab]{0,2}", 0..3)),
            other in ("[ab]{0,2}", prop::collection::vec("[ab]{0,2}", 0..3)),
        ) {
            let of = |(subject, group_values): &(String, Vec<String>)|
                Series { subject: subject.clone(), group_values: group_values.clone() }.id();
            prop_assert_eq!(of(&one) == of(&other), one == other);
        }
    }
}
