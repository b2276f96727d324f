//! What the ledger grants of units.

use uuid::Uuid;

use super::Slices;
use crate::model::limit::{Unit, Window};
use crate::quota::decision::Change;
use crate::quota::ledger::{Answer, Lifetime, Request, Terms};
use crate::quota::slots::{Calendar, SECOND, slot};

const DAY: Window = Window::Calendar(Unit::Day);
const HOUR: Window = Window::Rolling(Unit::Hour);
const LIFETIME: Lifetime = Lifetime(30 * SECOND);

fn request(replica: u128, sequence: u64, amount: u64) -> Request {
    Request {
        replica: Uuid::from_u128(replica),
        sequence,
        terms: Terms { amount, hard: true, as_of: 1, ..Terms::default() },
        ..Request::default()
    }
}

fn exchange(slices: &mut Slices, window: Window, now: i64, request: &Request) -> Answer {
    slices.exchange(window, now, slot(window, now, Calendar::default()), LIFETIME, request)
}

fn held(answer: &Answer) -> u64 {
    answer.lease.map_or(0, |lease| lease.held)
}

#[test]
fn slices_shrink_as_the_limit_nears_and_need_is_granted_in_full() {
    let mut slices = Slices::default();
    let first = exchange(&mut slices, DAY, 0, &Request { wanted: 1000, ..request(1, 1, 100) });
    assert_eq!(held(&first), 50);
    let second = exchange(&mut slices, DAY, 0, &Request { wanted: 1000, ..request(2, 1, 100) });
    assert_eq!((held(&second), second.unspent), (13, 50));
    let third = exchange(&mut slices, DAY, 0, &Request { need: 30, wanted: 30, ..request(3, 1, 100) });
    assert_eq!((held(&third), slices.granted(DAY, 0)), (30, 93));
    let refused = exchange(&mut slices, DAY, 0, &Request { need: 8, wanted: 8, ..request(4, 1, 100) });
    assert_eq!((held(&refused), slices.granted(DAY, 0)), (0, 93), "less than is needed is of no use");
}

#[test]
fn what_a_reply_brought_to_nobody_comes_back_with_the_next_message() {
    let mut slices = Slices::default();
    exchange(&mut slices, DAY, 0, &Request { need: 10, ..request(1, 1, 10) });
    let again = exchange(&mut slices, DAY, 0, &Request { need: 10, ..request(1, 2, 10) });
    assert_eq!((held(&again), slices.granted(DAY, 0)), (10, 10));
}

#[test]
fn an_older_message_is_not_heard_even_after_its_replica_left() {
    let mut slices = Slices::default();
    exchange(&mut slices, DAY, 0, &Request { need: 5, ..request(1, 1, 10) });
    let leaving = Request { slot: Some(0), held: 3, used: 3, leaving: true, ..request(1, 3, 10) };
    assert_eq!(exchange(&mut slices, DAY, 0, &leaving).lease, None);
    assert!(exchange(&mut slices, DAY, 0, &Request { need: 5, ..request(1, 2, 10) }).stale);
    let repeated = Request { sequence: 4, ..leaving };
    exchange(&mut slices, DAY, 0, &repeated);
    assert_eq!(slices.granted(DAY, 0), 3, "said twice, counted once");
}

#[test]
fn what_a_silent_replica_holds_counts_as_spent_until_its_slot_is_past() {
    let mut slices = Slices::default();
    exchange(&mut slices, HOUR, 0, &Request { need: 10, ..request(1, 1, 10) });
    let hour = 3600 * SECOND;
    let late = Request { need: 1, ..request(2, 1, 10) };
    assert_eq!(
        held(&exchange(&mut slices, HOUR, hour + 59 * SECOND, &late)),
        0,
        "a part of its minute is in the window"
    );
    let later = Request { sequence: 2, ..late };
    assert_eq!(held(&exchange(&mut slices, HOUR, hour + 60 * SECOND, &later)), 1);
}

#[test]
fn a_limit_that_is_lowered_asks_back_what_is_too_much() {
    let mut slices = Slices::default();
    exchange(&mut slices, DAY, 0, &Request { need: 80, ..request(1, 1, 100) });
    let mut lowered = Request { slot: Some(0), held: 80, used: 20, ..request(1, 2, 50) };
    lowered.terms.as_of = 2;
    let answer = exchange(&mut slices, DAY, 0, &lowered);
    assert_eq!(answer.lease.map(|lease| (lease.held, lease.fair)), Some((80, 50)));
    // Who has not heard of it does not raise it again.
    let old = exchange(&mut slices, DAY, 0, &Request { need: 10, ..request(2, 1, 100) });
    assert_eq!((held(&old), slices.granted(DAY, 0)), (0, 80));
}

#[test]
fn refunds_take_from_overage_first_and_never_more_than_was_granted() {
    let mut slices = Slices::default();
    exchange(&mut slices, DAY, 0, &Request { need: 10, ..request(1, 1, 10) });
    assert!(slices.correct(1, None, Change::Overage(4)));
    assert!(slices.correct(1, Some(0), Change::Refund(6)));
    assert_eq!(slices.granted(DAY, 0), 8);
    assert!(slices.correct(1, Some(0), Change::Refund(100)));
    assert_eq!(slices.granted(DAY, 0), 0);
    assert!(!slices.correct(1, Some(1), Change::Refund(1)), "no such slot");
}

#[test]
fn alerts_are_raised_once() {
    let mut slices = Slices::default();
    let mut asked = Request { need: 10, ..request(1, 1, 10) };
    asked.terms.alert_percents = vec![50, 100];
    assert!(exchange(&mut slices, DAY, 0, &asked).raised.is_empty());
    let told = Request { sequence: 2, slot: Some(0), held: 10, used: 5, need: 0, ..asked };
    assert_eq!(exchange(&mut slices, DAY, 0, &told).raised, [50]);
    let again = exchange(&mut slices, DAY, 0, &Request { sequence: 3, used: 10, ..told });
    assert_eq!((again.raised, again.alerts), (vec![100], vec![50, 100]));
}
