//! One transaction's events: which of them to insert, and what became of each. Pure.

use std::collections::HashMap;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::usage::Event;
use crate::repository::usage::ingest::{Entry, Inserted, Key, key};

/// An event on its way into the tables.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The event.
    pub event: Event,
    /// False for one of a time that is not accepted: it is only asked whether it was recorded before.
    pub recordable: bool,
}

/// What became of a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Recorded by this transaction.
    Recorded,
    /// The very same was recorded before.
    Duplicate,
    /// Another with this identity was recorded before.
    Conflict,
    /// Not recordable, and not recorded before.
    Absent,
}

/// The candidates of a transaction, in the order of their arrival.
#[derive(Debug)]
pub struct Batch<'a> {
    all: Vec<(Entry<'a>, bool)>,
    /// The first recordable one of each identity: the one to insert, whatever the statement finds in the table.
    leaders: HashMap<Key, usize>,
}

impl<'a> Batch<'a> {
    /// Collapses those of one identity into one.
    pub fn new(candidates: impl IntoIterator<Item = (OrganizationId, &'a Candidate)>) -> Self {
        let all: Vec<(Entry<'a>, bool)> = candidates
            .into_iter()
            .map(|(organization_id, candidate)| ((organization_id, &candidate.event), candidate.recordable))
            .collect();
        let mut leaders = HashMap::with_capacity(all.len());
        for (position, (entry, recordable)) in all.iter().enumerate() {
            if *recordable {
                leaders.entry(key(*entry)).or_insert(position);
            }
        }
        Self { all, leaders }
    }

    /// Those to insert: distinct and ascending by key.
    pub fn to_insert(&self) -> Vec<Entry<'a>> {
        let mut keyed: Vec<(Key, usize)> = self.leaders.iter().map(|(key, position)| (*key, *position)).collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, position)| self.all[position].0).collect()
    }

    /// Those to compare with what is stored, since nothing of their identity was inserted.
    pub fn to_compare(&self, inserted: &Inserted) -> Vec<Entry<'a>> {
        if self.is_plain(inserted) {
            return Vec::new();
        }
        self.all.iter().map(|(entry, _)| *entry).filter(|entry| !self.was_inserted(entry, inserted)).collect()
    }

    /// What became of each, in the order of arrival. `compared` is the answer for [`Self::to_compare`].
    ///
    /// Error: `Conflict` when an event was neither inserted nor found, as when it was dropped in between: try again.
    pub fn verdicts(&self, inserted: &Inserted, compared: Vec<Option<bool>>) -> Result<Vec<Verdict>, Error> {
        if self.is_plain(inserted) {
            return Ok(vec![Verdict::Recorded; self.all.len()]);
        }
        let mut compared = compared.into_iter();
        let verdict = |(position, (entry, _)): (usize, &(Entry<'a>, bool))| {
            let leader = self.leaders.get(&key(*entry)).copied();
            if !self.was_inserted(entry, inserted) {
                return match (compared.next().flatten(), leader) {
                    (Some(true), _) => Ok(Verdict::Duplicate),
                    (Some(false), _) => Ok(Verdict::Conflict),
                    (None, None) => Ok(Verdict::Absent),
                    (None, Some(_)) => Err(Error::Conflict),
                };
            }
            Ok(match leader {
                Some(leader) if leader == position => Verdict::Recorded,
                Some(leader) if self.all[leader].0.1 == entry.1 => Verdict::Duplicate,
                _ => Verdict::Conflict,
            })
        };
        self.all.iter().enumerate().map(verdict).collect()
    }

    /// Whether each is the only one of its identity and was inserted: as nearly always, and then nothing need be looked for.
    fn is_plain(&self, inserted: &Inserted) -> bool {
        matches!(inserted, Inserted::All) && self.leaders.len() == self.all.len()
    }

    fn was_inserted(&self, entry: &Entry<'a>, inserted: &Inserted) -> bool {
        let key = key(*entry);
        self.leaders.contains_key(&key) && inserted.contains(&key)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::model::meter::Aggregation;
    use crate::model::usage::{EventId, Quantity};

    fn candidate(id: &str, quantity: &str, recordable: bool) -> Candidate {
        let event = Event {
            event_id: EventId::read("event_id", id).unwrap(),
            occurred_at: DateTime::UNIX_EPOCH,
            meter_id: Uuid::from_u128(1).into(),
            aggregation: Aggregation::Sum,
            quantity: Quantity::parse("quantity", quantity).unwrap(),
            value_id: None,
            series: None,
            properties: None,
        };
        Candidate { event, recordable }
    }

    #[test]
    fn each_identity_is_inserted_once_and_every_candidate_has_its_verdict() {
        use Verdict::{Absent, Conflict, Duplicate, Recorded};
        let (one, other) = (OrganizationId::from(Uuid::from_u128(1)), OrganizationId::from(Uuid::from_u128(2)));
        let candidates = [
            (other, candidate("a", "1", true)),
            (one, candidate("a", "1", false)),
            (one, candidate("a", "1", true)),
            (one, candidate("a", "1.0", true)),
            (one, candidate("a", "2", true)),
            (one, candidate("b", "1", true)),
            (one, candidate("b", "2", true)),
            (one, candidate("c", "1", false)),
        ];
        let batch = Batch::new(candidates.iter().map(|(organization, candidate)| (*organization, candidate)));
        let to_insert = batch.to_insert();
        assert_eq!(to_insert.len(), 3);
        assert!(to_insert.is_sorted_by_key(|entry| key(*entry)));

        assert_eq!(batch.to_compare(&Inserted::All).len(), 1);
        let verdicts = batch.verdicts(&Inserted::All, vec![None]).unwrap();
        assert_eq!(
            verdicts,
            [Recorded, Duplicate, Recorded, Duplicate, Conflict, Recorded, Conflict, Absent],
            "an event that is too old finds the one of its identity that is not"
        );

        // "b" was there before, as its second candidate has it.
        let inserted = Inserted::Only(
            to_insert
                .iter()
                .map(|entry| key(*entry))
                .filter(|key| *key != super::key((one, &candidates[5].1.event)))
                .collect(),
        );
        assert_eq!(batch.to_compare(&inserted).len(), 3);
        let verdicts = batch.verdicts(&inserted, vec![Some(false), Some(true), None]).unwrap();
        assert_eq!(verdicts, [Recorded, Duplicate, Recorded, Duplicate, Conflict, Conflict, Duplicate, Absent]);
        assert!(batch.verdicts(&inserted, vec![None, Some(true), None]).is_err(), "inserted or stored, or try again");
    }

    #[test]
    fn where_each_has_an_identity_of_its_own_all_were_recorded_or_each_is_looked_at() {
        let of = OrganizationId::from(Uuid::from_u128(1));
        let candidates = [candidate("a", "1", true), candidate("b", "1", true)];
        let batch = Batch::new(candidates.iter().map(|candidate| (of, candidate)));
        assert!(batch.to_compare(&Inserted::All).is_empty());
        assert_eq!(batch.verdicts(&Inserted::All, Vec::new()).unwrap(), [Verdict::Recorded; 2]);
        let inserted = Inserted::Only([key((of, &candidates[1].event))].into());
        assert_eq!(batch.to_compare(&inserted).len(), 1);
        assert_eq!(batch.verdicts(&inserted, vec![Some(true)]).unwrap(), [Verdict::Duplicate, Verdict::Recorded]);
        // All of those that may be recorded is not all.
        let candidates = [candidate("a", "1", true), candidate("b", "1", false)];
        let batch = Batch::new(candidates.iter().map(|candidate| (of, candidate)));
        assert_eq!(batch.to_compare(&Inserted::All).len(), 1);
        assert_eq!(batch.verdicts(&Inserted::All, vec![None]).unwrap(), [Verdict::Recorded, Verdict::Absent]);
    }
}
