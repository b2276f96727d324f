//! A model of an Envoy and of the way to it, and what must hold whatever they do.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::limit::SubjectKind;
use crate::quota::slots::SECOND;

fn charge(slot: i64, amount: u64) -> Charge {
    let account = AccountKey {
        subject_kind: SubjectKind::Organization,
        subject_id: Uuid::from_u128(1),
        meter_id: Uuid::from_u128(2).into(),
        window: Window::Lifetime,
    };
    Charge { account, slot: slot * SECOND, amount }
}

fn taken(slot: i64, amount: u64, life: u64) -> Taken {
    Taken { amount, charges: vec![charge(slot, amount)], life }
}

/// Gives a slice and hears of its use; what comes back.
fn used(bucket: &mut Bucket, now: Time, allowed: u64) -> u64 {
    bucket.report(now, false, allowed, 0);
    bucket.give_back(now, true).iter().map(|part| part.amount).sum()
}

#[test]
fn what_is_not_used_comes_back_once_it_cannot_be_used_any_more() {
    let mut bucket = Bucket::new(0);
    bucket.give(0, &taken(0, 100, 20));
    assert_eq!(used(&mut bucket, 5_000, 30), 0, "it may still be used");
    assert_eq!(used(&mut bucket, 29_000, 10), 0, "the message may have been slow");
    assert_eq!(used(&mut bucket, 30_000, 0), 60);
    assert_eq!(used(&mut bucket, 90_000, 0), 0, "once");
}

#[test]
fn a_slice_that_was_replaced_is_over_no_sooner() {
    let mut bucket = Bucket::new(0);
    bucket.give(0, &taken(0, 100, 20));
    assert_eq!(used(&mut bucket, 5_000, 30), 0);
    bucket.give(5_000, &taken(0, 50, 20));
    // 20 more were admitted, of whichever of the two.
    assert_eq!(used(&mut bucket, 30_000, 20), 50, "150 taken, 50 used, 50 may be");
    assert_eq!(used(&mut bucket, 35_000, 0), 50);
}

#[test]
fn a_report_of_two_windows_counts_for_both() {
    let mut bucket = Bucket::new(0);
    bucket.give(0, &taken(0, 100, 20));
    bucket.give(10_000, &taken(60, 100, 20));
    bucket.report(15_000, false, 70, 0);
    bucket.report(60_000, false, 0, 0);
    let back: Vec<_> =
        bucket.give_back(60_000, true).into_iter().map(|part| (part.charges[0].slot, part.amount)).collect();
    assert_eq!(back, [(charge(0, 1).slot, 30), (charge(60, 1).slot, 30)], "who knows which of them it was");
}

#[test]
fn a_slice_is_asked_for_shortly_before_the_last_one_is_used_up_or_over() {
    let mut bucket = Bucket::new(0);
    bucket.report(0, true, 0, 1);
    assert_eq!(bucket.wants(0, None, Time::MAX), Some(FIRST * 4 + FIRST), "five intervals of what is assumed");
    bucket.give(0, &taken(0, 100, 30));
    assert_eq!(bucket.wants(0, None, Time::MAX), None);
    bucket.report(5_000, false, 50, 0);
    assert_eq!((bucket.left(5_000), bucket.left(6_000), bucket.left(60_000)), (50, 40, 0), "it goes on");
    assert_eq!(bucket.wants(8_000, None, Time::MAX), None, "20 are enough for 10 a second");
    assert_eq!(bucket.wants(9_000, None, Time::MAX), Some(250), "10 are not");
    bucket.give(9_000, &taken(0, 250, 30));
    bucket.report(10_000, false, 50, 100);
    assert_eq!(bucket.left(10_000), 240, "a fifth was admitted since it was given");
    assert_eq!(bucket.wants(10_000, None, Time::MAX), None);
    assert_eq!(bucket.wants(18_000, None, Time::MAX), Some(750), "30 a second are wanted");

    let mut slow = Bucket::new(0);
    slow.give(0, &taken(0, 100, 30));
    slow.report(5_000, false, 2, 0);
    assert_eq!(slow.wants(28_700, None, Time::MAX), None);
    assert_eq!(slow.wants(28_900, None, Time::MAX), Some(10), "it ends");
    assert_eq!(slow.wants(28_900, None, 30_500), None, "with its window, and no other would go further");
    let mut quiet = Bucket::new(0);
    quiet.report(5_000, false, 0, 0);
    assert_eq!(quiet.wants(5_000, None, Time::MAX), Some(0));
}

#[test]
fn what_no_slice_covers_is_counted() {
    let mut bucket = Bucket::new(0);
    assert_eq!(bucket.report(1, true, 3, 0), 3);
    bucket.give(1, &Taken { amount: 5, charges: Vec::new(), life: 1 });
    assert_eq!(bucket.report(5_000, false, 5, 0), 0);
    bucket.tell(5_000, false, 60);
    assert_eq!(bucket.report(10_000, false, 1, 0), 0, "the slice may have been late");
    assert_eq!(bucket.report(12_000, false, 1, 0), 1);
}

#[test]
fn a_bucket_that_nobody_uses_is_forgotten() {
    let mut bucket = Bucket::new(0);
    bucket.report(0, true, 1, 0);
    bucket.give(0, &taken(0, 4, 20));
    bucket.report(IDLE, false, 0, 0);
    assert!(!bucket.is_idle(IDLE), "something of it is outstanding");
    assert_eq!(bucket.give_back(IDLE, false).len(), 1);
    assert!(bucket.is_idle(IDLE));
    bucket.report(IDLE, false, 1, 0);
    assert!(!bucket.is_idle(IDLE));
}

/// What is done in a tenth of a second.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many requests come.
    Requests(u8),
    /// A report is sent, and takes so long.
    Report(u16),
    /// A slice of the window is given, its message taking so long.
    Give { slot: u8, amount: u8, life: u8, delay: u16 },
    /// Nothing, for so many seconds.
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..20_u8).prop_map(Step::Requests),
        4 => (0..4_000_u16).prop_map(Step::Report),
        2 => (0..3_u8, 1..60_u8, 1..30_u8, 0..4_000_u16)
            .prop_map(|(slot, amount, life, delay)| Step::Give { slot, amount, life, delay }),
        1 => (0..20_u8).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..300)
}

/// An Envoy, and what is on its way to it and from it: in order, each at its time.
#[derive(Default)]
struct Envoy {
    slot: i64,
    tokens: u64,
    until: Time,
    unreported: u64,
    admitted: BTreeMap<i64, u64>,
    messages: VecDeque<(Time, i64, u64, u64)>,
    reports: VecDeque<(Time, u64)>,
}

impl Envoy {
    fn receive(&mut self, now: Time) {
        while let Some((_, slot, amount, life)) = self.messages.pop_front_if(|(at, ..)| *at <= now) {
            (self.slot, self.tokens, self.until) = (slot, amount, now + life * 1000);
        }
    }

    fn request(&mut self, now: Time) {
        if now < self.until && self.tokens > 0 {
            self.tokens -= 1;
            self.unreported += 1;
            *self.admitted.entry(self.slot).or_default() += 1;
        }
    }

    /// In each window: what was admitted of its slices, and what still can be.
    fn spendable(&self, now: Time) -> BTreeMap<i64, u64> {
        let mut spendable = self.admitted.clone();
        if now < self.until {
            *spendable.entry(self.slot).or_default() += self.tokens;
        }
        for (_, slot, amount, _) in &self.messages {
            *spendable.entry(*slot).or_default() += amount;
        }
        spendable
    }
}

/// Runs the steps; fails when somewhere more can be admitted than is taken. Returns what was taken and what was admitted,
/// when all has come back.
fn run(steps: &[Step]) -> (u64, u64) {
    let (mut bucket, mut envoy, mut now) = (Bucket::new(0), Envoy::default(), 0);
    let mut held: BTreeMap<i64, u64> = BTreeMap::new();
    let mut slot = 0;
    let rest = [Step::Wait(20), Step::Wait(20), Step::Wait(20), Step::Report(0), Step::Wait(5)];
    for step in steps.iter().chain(&rest) {
        let mut wait = 1;
        match *step {
            Step::Requests(count) => (0..count).for_each(|_| envoy.request(now)),
            Step::Report(delay) => {
                let last = envoy.reports.back().map_or(0, |(at, _)| *at);
                envoy.reports.push_back((last.max(now + Time::from(delay)), std::mem::take(&mut envoy.unreported)));
            }
            Step::Give { slot: turned, amount, life, delay } => {
                // Now and then a window turns, never back.
                slot += i64::from(turned / 2) * 60;
                let (amount, life) = (u64::from(amount), u64::from(life));
                bucket.give(now, &taken(slot, amount, life));
                *held.entry(slot).or_default() += amount;
                let last = envoy.messages.back().map_or(0, |(at, ..)| *at);
                envoy.messages.push_back((last.max(now + Time::from(delay)), slot, amount, life));
            }
            Step::Wait(seconds) => wait = u64::from(seconds) * 10,
        }
        for _ in 0..wait {
            now += 100;
            envoy.receive(now);
            while let Some((_, allowed)) = envoy.reports.pop_front_if(|(at, _)| *at <= now) {
                bucket.report(now, false, allowed, 0);
                for part in bucket.give_back(now, true) {
                    *held.get_mut(&part.charges[0].slot.div_euclid(SECOND)).unwrap() -= part.amount;
                }
            }
            for (slot, spendable) in envoy.spendable(now) {
                assert!(spendable <= held[&slot], "in {slot} at {now}: {spendable} of {}", held[&slot]);
            }
        }
    }
    (held.values().sum(), envoy.admitted.values().sum())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn what_may_still_be_used_never_comes_back(steps in steps()) {
        run(&steps);
    }

    #[test]
    fn of_one_window_all_comes_back(steps in steps()) {
        let one: Vec<_> = steps.into_iter().map(|step| match step {
            Step::Give { amount, life, delay, .. } => Step::Give { slot: 0, amount, life, delay },
            step => step,
        }).collect();
        let (held, admitted) = run(&one);
        prop_assert_eq!(held, admitted);
    }
}
