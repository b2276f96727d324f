//! Whose turn it is on the argon2 threads: a bounded queue, fair between lookup ids.
//!
//! Each lookup id has a lane of its own, and the lanes take turns. A flood for one id fills one
//! lane, and costs anyone else one job of waiting a turn. A flood over many ids could still fill
//! the whole queue; then a job for a shorter lane displaces the newest job of the longest one, so
//! whoever asks for little gets in as long as anybody asks for more.
//!
//! No threads and no time in here, so fairness is tested by order and not by duration.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use super::key::LookupId;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueBounds {
    /// Jobs of all lookup ids together.
    pub total: usize,
    /// Jobs of one lookup id.
    pub per_lookup: usize,
}

/// What became of a job that wanted to wait.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "whoever waits for a displaced or refused job has to be told"]
pub enum Admission<J> {
    /// It waits.
    Queued,
    /// It waits, in the place of this job of the longest lane.
    Displaced(J),
    /// It does not wait: its lane is full, or all is and no lane is longer than its own.
    Refused(J),
}

/// The queue.
#[derive(Debug)]
pub struct FairQueue<J> {
    bounds: QueueBounds,
    /// Whether nobody waits for the job's answer any more; such jobs are dropped, not run.
    abandoned: fn(&J) -> bool,
    /// The waiting jobs of each lookup id. Has a lane exactly for the ids in `turns`.
    lanes: HashMap<LookupId, VecDeque<J>>,
    /// The order of the lanes; each is in here once.
    turns: VecDeque<LookupId>,
    len: usize,
}

impl<J> FairQueue<J> {
    /// An empty queue.
    #[must_use]
    pub fn new(bounds: QueueBounds, abandoned: fn(&J) -> bool) -> Self {
        Self { bounds, abandoned, lanes: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }

    /// How many jobs wait, abandoned ones included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a job at the end of its lane.
    pub fn push(&mut self, lookup: LookupId, job: J) -> Admission<J> {
        let own = self.sweep(lookup);
        if own >= self.bounds.per_lookup {
            return Admission::Refused(job);
        }
        let mut displaced = None;
        if self.len >= self.bounds.total {
            displaced = self.displace(own + 1);
            if displaced.is_none() {
                return Admission::Refused(job);
            }
        }
        match self.lanes.entry(lookup) {
            Entry::Occupied(lane) => lane.into_mut().push_back(job),
            Entry::Vacant(lane) => {
                lane.insert(VecDeque::from([job]));
                self.turns.push_back(lookup);
            }
        }
        self.len += 1;
        displaced.map_or(Admission::Queued, Admission::Displaced)
    }

    /// Takes the next job that somebody still waits for: the oldest of the lane whose turn it is.
    /// That lane's next turn comes after all others'.
    pub fn pop(&mut self) -> Option<J> {
        while let Some(lookup) = self.turns.pop_front() {
            let Entry::Occupied(mut lane) = self.lanes.entry(lookup) else {
                continue;
            };
            let mut next = None;
            while let Some(job) = lane.get_mut().pop_front() {
                self.len -= 1;
                // Dropping an abandoned job takes no turn from those who wait behind it.
                if !(self.abandoned)(&job) {
                    next = Some(job);
                    break;
                }
            }
            if lane.get().is_empty() {
                lane.remove();
            } else {
                self.turns.push_back(lookup);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// Drops all that waits.
    pub fn clear(&mut self) {
        self.lanes.clear();
        self.turns.clear();
        self.len = 0;
    }

    /// Drops the abandoned jobs of a full lane, so that impatient callers cannot block their own
    /// lane. Returns what is left in it; an empty lane stays until its turn.
    fn sweep(&mut self, lookup: LookupId) -> usize {
        let Some(lane) = self.lanes.get_mut(&lookup) else {
            return 0;
        };
        let before = lane.len();
        if before >= self.bounds.per_lookup {
            lane.retain(|job| !(self.abandoned)(job));
            self.len -= before - lane.len();
        }
        lane.len()
    }

    /// Takes the newest job of the longest lane, if that has more than `than`. Looks at every lane,
    /// which only a full queue costs: a few µs at a thousand.
    fn displace(&mut self, than: usize) -> Option<J> {
        let longest = self.lanes.values_mut().max_by_key(|lane| lane.len())?;
        if longest.len() <= than {
            return None;
        }
        let job = longest.pop_back()?;
        self.len -= 1;
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    const BOUNDS: QueueBounds = QueueBounds { total: 64, per_lookup: 4 };

    fn lookup(number: usize) -> LookupId {
        format!("{number:016}").parse().unwrap()
    }

    fn queue() -> FairQueue<(usize, usize)> {
        FairQueue::new(BOUNDS, |_| false)
    }

    #[test]
    fn a_flood_for_one_key_delays_another_by_one_job() {
        let mut queue = queue();
        let refused = (0..10_000).filter(|n| matches!(queue.push(lookup(0), (0, *n)), Admission::Refused(_))).count();
        assert_eq!(refused, 9_996);
        assert_eq!(queue.push(lookup(1), (1, 0)), Admission::Queued);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(0, 0), (1, 0), (0, 1), (0, 2), (0, 3)]);
    }

    #[test]
    fn a_flood_that_goes_on_still_gives_everyone_else_every_second_turn() {
        let mut queue = queue();
        let mut order = Vec::new();
        for good in 0..50 {
            for n in 0..100 {
                let _ = queue.push(lookup(0), (0, n));
            }
            assert_eq!(queue.push(lookup(1), (1, good)), Admission::Queued);
            order.extend([queue.pop(), queue.pop()].into_iter().flatten().map(|job| job.0));
        }
        assert_eq!(order.iter().filter(|lane| **lane == 1).count(), 50);
    }

    #[test]
    fn a_flood_over_many_keys_delays_a_good_one_by_a_round_and_does_not_keep_it_out() {
        let mut queue = queue();
        for n in 0..10_000 {
            let _ = queue.push(lookup(n % 30), (n % 30, n));
        }
        assert_eq!(queue.len(), BOUNDS.total);
        let Admission::Displaced((flooder, newest)) = queue.push(lookup(99), (99, 0)) else {
            panic!("the good job was not let in");
        };
        assert!(flooder < 30 && newest >= 30, "not the newest of a longest lane");
        assert_eq!(queue.len(), BOUNDS.total);
        let before = std::iter::from_fn(|| queue.pop()).position(|job| job.0 == 99);
        assert_eq!(before, Some(30));
    }

    #[test]
    fn nobody_displaces_a_lane_no_longer_than_his_own() {
        let mut queue = queue();
        for n in 0..BOUNDS.total {
            assert_eq!(queue.push(lookup(n), (n, 0)), Admission::Queued);
        }
        assert_eq!(queue.push(lookup(99), (99, 0)), Admission::Refused((99, 0)));
        assert_eq!(queue.push(lookup(5), (5, 1)), Admission::Refused((5, 1)));
    }

    #[test]
    fn jobs_that_nobody_waits_for_are_dropped_and_take_no_turn() {
        let mut queue = FairQueue::new(BOUNDS, |job: &(usize, Rc<Cell<bool>>)| job.1.get());
        let job = |n| (n, Rc::new(Cell::new(false)));
        let gone: Vec<_> = (0..4).map(job).collect();
        for gone in &gone {
            assert_eq!(queue.push(lookup(0), gone.clone()), Admission::Queued);
        }
        assert!(matches!(queue.push(lookup(0), job(9)), Admission::Refused(_)));
        for gone in &gone {
            gone.1.set(true);
        }
        // The lane is full of abandoned jobs, which keep no new one out.
        assert_eq!(queue.push(lookup(0), job(4)), Admission::Queued);
        assert_eq!(queue.len(), 1);
        let (late, other) = (job(5), job(6));
        assert_eq!(queue.push(lookup(0), late.clone()), Admission::Queued);
        assert_eq!(queue.push(lookup(1), other), Admission::Queued);
        assert_eq!(queue.pop().unwrap().0, 4);
        late.1.set(true);
        assert_eq!(queue.pop().unwrap().0, 6);
        assert!(queue.pop().is_none());
        assert!(queue.is_empty() && queue.lanes.is_empty() && queue.turns.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn the_bounds_and_the_bookkeeping_hold_whatever_happens(
            steps in proptest::collection::vec((0_usize..12, proptest::bool::ANY), 0..400),
        ) {
            let mut queue =
                FairQueue::new(QueueBounds { total: 8, per_lookup: 3 }, |job: &usize| job.is_multiple_of(5));
            for (n, (lane, pop)) in steps.into_iter().enumerate() {
                if pop {
                    assert!(queue.pop().is_none_or(|job| !job.is_multiple_of(5)));
                } else {
                    let _ = queue.push(lookup(lane), n);
                }
                assert!(queue.len <= 8);
                assert_eq!(queue.lanes.values().map(VecDeque::len).sum::<usize>(), queue.len);
                assert!(queue.lanes.values().all(|lane| lane.len() <= 3));
                assert_eq!(queue.lanes.len(), queue.turns.len());
                assert!(queue.turns.iter().all(|turn| queue.lanes.contains_key(turn)));
            }
        }
    }
}
