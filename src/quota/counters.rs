//! The counters of one organization by account: a short list where they are few, as of most organizations, else a table.

use std::ops::Range;

use indexmap::IndexMap;

use crate::quota::counter::Counter;
use crate::quota::decision::AccountKey;

/// The most in a list: as many are compared in the time that one key takes to be hashed.
const FEW: usize = 8;

/// Counters by account.
#[derive(Clone, Debug)]
pub struct Counters(Shape);

#[derive(Clone, Debug)]
enum Shape {
    /// With room for no more than there are: a table for one has room for three, and a million organizations have one each.
    List(Vec<(AccountKey, Counter)>),
    /// With places, so that a sweep can take it part by part.
    Table(Box<IndexMap<AccountKey, Counter>>),
}

impl Default for Counters {
    fn default() -> Self {
        Self(Shape::List(Vec::new()))
    }
}

impl Counters {
    /// The counter of an account.
    #[must_use]
    pub fn get(&self, account: &AccountKey) -> Option<&Counter> {
        match &self.0 {
            Shape::List(list) => list.iter().find(|(key, _)| key == account).map(|(_, counter)| counter),
            Shape::Table(table) => table.get(account),
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, account: &AccountKey) -> Option<&mut Counter> {
        match &mut self.0 {
            Shape::List(list) => list.iter_mut().find(|(key, _)| key == account).map(|(_, counter)| counter),
            Shape::Table(table) => table.get_mut(account),
        }
    }

    /// The counter of an account, made where there is none.
    pub fn get_or_insert_with(&mut self, account: AccountKey, make: impl FnOnce() -> Counter) -> &mut Counter {
        if let Shape::List(list) = &mut self.0
            && list.len() >= FEW
            && list.iter().all(|(key, _)| *key != account)
        {
            self.0 = Shape::Table(Box::new(std::mem::take(list).into_iter().collect()));
        }
        match &mut self.0 {
            Shape::List(list) => {
                let place = list.iter().position(|(key, _)| *key == account).unwrap_or_else(|| {
                    list.reserve_exact(1);
                    list.push((account, make()));
                    list.len() - 1
                });
                &mut list[place].1
            }
            Shape::Table(table) => table.entry(account).or_insert_with(make),
        }
    }

    /// Forgets the counter of an account; the last one takes its place.
    pub fn remove(&mut self, account: &AccountKey) {
        match &mut self.0 {
            Shape::List(list) => {
                if let Some(place) = list.iter().position(|(key, _)| key == account) {
                    list.swap_remove(place);
                    list.shrink_to_fit();
                }
            }
            Shape::Table(table) => {
                table.swap_remove(account);
                // Not at once: who goes up and down between the two would move all each time.
                if table.len() <= FEW / 2 {
                    let mut list: Vec<_> = std::mem::take(&mut **table).into_iter().collect();
                    // Made where the entries of the table are, of which there may have been many.
                    list.shrink_to_fit();
                    self.0 = Shape::List(list);
                }
            }
        }
    }

    /// Those in a range of places.
    pub fn part(&self, places: Range<usize>) -> impl Iterator<Item = (&AccountKey, &Counter)> {
        let (list, table) = match &self.0 {
            Shape::List(list) => (list.get(places), None),
            Shape::Table(table) => (None, table.get_range(places)),
        };
        let list = list.into_iter().flatten().map(|(account, counter)| (account, counter));
        list.chain(table.into_iter().flatten())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Shape::List(list) => list.len(),
            Shape::Table(table) => table.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::model::limit::{Unit, Window};
    use crate::quota::rules::names;

    fn account(number: usize) -> AccountKey {
        let applied = names::applied(Uuid::nil(), "", 1, Window::Calendar(Unit::Day), false);
        names::resolved(applied, [number.to_string().as_str()]).account
    }

    /// That can be told from others by what is reserved.
    fn counter(mark: u64) -> Counter {
        let mut counter = Counter::new(names::applied(Uuid::nil(), "", 1, Window::Calendar(Unit::Day), false), 0, 0);
        counter.reserve(mark, true);
        counter
    }

    fn mark(counter: &Counter) -> u64 {
        counter.used().1
    }

    proptest! {
        #[test]
        fn it_is_a_map_however_many_there_are(steps in prop::collection::vec((any::<bool>(), 0..2 * FEW), 0..200)) {
            let (mut counters, mut model) = (Counters::default(), BTreeMap::new());
            for (step, (put, number)) in (1_u64..).zip(steps) {
                let key = account(number);
                if put {
                    let known = *model.entry(key).or_insert(step);
                    prop_assert_eq!(mark(counters.get_or_insert_with(key, || counter(step))), known);
                } else {
                    model.remove(&key);
                    counters.remove(&key);
                }
                prop_assert_eq!((counters.len(), counters.is_empty()), (model.len(), model.is_empty()));
                for key in (0..2 * FEW).map(account) {
                    let known = model.get(&key).copied();
                    prop_assert_eq!(counters.get(&key).map(mark), known);
                    prop_assert_eq!(counters.get_mut(&key).map(|counter| mark(counter)), known);
                }
                let cut = counters.len() / 3;
                let parts = counters.part(0..cut).chain(counters.part(cut..counters.len()));
                let all: BTreeMap<_, _> = parts.map(|(key, counter)| (*key, mark(counter))).collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }

    #[test]
    fn a_list_has_room_for_what_is_in_it() {
        let mut counters = Counters::default();
        let room = |counters: &Counters| match &counters.0 {
            Shape::List(list) => Some(list.capacity()),
            Shape::Table(_) => None,
        };
        for number in 0..=FEW {
            counters.get_or_insert_with(account(number), || counter(1));
            assert_eq!(room(&counters), (number < FEW).then_some(number + 1));
        }
        for number in (0..=FEW).rev() {
            counters.remove(&account(number));
            assert_eq!(room(&counters), (number <= FEW / 2).then_some(number));
        }
    }

    #[test]
    fn a_million_of_them_are_small() {
        // With what malloc adds to a piece, 256 bytes.
        assert!(size_of::<(AccountKey, Counter)>() <= 248, "{}", size_of::<(AccountKey, Counter)>());
    }
}
