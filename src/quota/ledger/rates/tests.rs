//! What the ledger grants of shares.

use uuid::Uuid;

use super::{Rates, capacity};
use crate::model::limit::{Unit, Window};
use crate::quota::ledger::{Answer, Lifetime, Request, Terms};
use crate::quota::slots::SECOND;

const MINUTE: Window = Window::Rolling(Unit::Minute);
const LIFETIME: Lifetime = Lifetime(30 * SECOND);

fn request(replica: u128, sequence: u64, burst: u64) -> Request {
    Request {
        replica: Uuid::from_u128(replica),
        sequence,
        terms: Terms { amount: 100, burst, hard: true, as_of: 1, ..Terms::default() },
        ..Request::default()
    }
}

fn exchange(rates: &mut Rates, now: i64, request: &Request) -> Answer {
    rates.exchange(MINUTE, now, LIFETIME, request)
}

fn held(answer: &Answer) -> u64 {
    answer.lease.map_or(0, |lease| lease.held)
}

#[test]
fn a_share_is_no_more_than_is_fair() {
    let mut rates = Rates::default();
    let all = Request { wanted: 1000, need: 100, ..request(1, 1, 0) };
    assert_eq!(held(&exchange(&mut rates, 0, &all)), 100);
    let other = exchange(&mut rates, 0, &Request { wanted: 30, need: 1, ..request(2, 1, 0) });
    assert_eq!((held(&other), other.unspent), (0, 100));
    let again = exchange(&mut rates, 0, &Request { sequence: 2, held: 100, ..all });
    assert_eq!(again.lease.map(|lease| (lease.held, lease.fair)), Some((100, 70)));
}

#[test]
fn a_share_whose_time_is_over_rests_for_a_window() {
    let mut rates = Rates::default();
    exchange(&mut rates, 0, &Request { wanted: 100, need: 100, ..request(1, 1, 0) });
    let over = LIFETIME.0 + 60 * SECOND;
    assert_eq!(held(&exchange(&mut rates, over - 1, &Request { wanted: 100, ..request(2, 1, 0) })), 0);
    assert_eq!(held(&exchange(&mut rates, over, &Request { wanted: 100, ..request(2, 2, 0) })), 50);
}

#[test]
fn what_was_used_rests_when_its_user_leaves_and_is_counted_once() {
    let mut rates = Rates::default();
    exchange(&mut rates, 0, &Request { wanted: 40, need: 40, ..request(1, 1, 0) });
    let leaving = Request { held: 10, used: 10, leaving: true, ..request(1, 2, 0) };
    exchange(&mut rates, 0, &leaving);
    exchange(&mut rates, 0, &Request { sequence: 3, ..leaving });
    assert_eq!(rates.granted(), 10);
    assert!(exchange(&mut rates, 0, &Request { wanted: 40, ..request(1, 1, 0) }).stale);
}

#[test]
fn tokens_are_never_made_twice() {
    let mut rates = Rates::default();
    let first = exchange(&mut rates, 0, &Request { wanted: 100, need: 100, ..request(1, 1, 20) });
    let tokens = first.lease.map_or(0, |lease| lease.tokens);
    assert_eq!(tokens, 20 * 60_000_000, "a bucket that nobody used is full");
    let leaving = Request { held: 0, tokens: tokens / 2, leaving: true, ..request(1, 2, 20) };
    exchange(&mut rates, 0, &leaving);
    exchange(&mut rates, 0, &Request { sequence: 3, ..leaving });
    let second = exchange(&mut rates, 0, &Request { wanted: 100, need: 100, ..request(2, 1, 20) });
    assert_eq!(second.lease.map(|lease| lease.tokens), Some(tokens / 2));
}

#[test]
fn a_bucket_that_becomes_a_window_grants_nothing_until_one_is_past() {
    let mut rates = Rates::default();
    exchange(&mut rates, 0, &Request { wanted: 10, need: 10, ..request(1, 1, 20) });
    let mut window = Request { wanted: 100, ..request(2, 1, 0) };
    window.terms.as_of = 2;
    assert_eq!(held(&exchange(&mut rates, 0, &window)), 0);
    assert!(held(&exchange(&mut rates, 60 * SECOND, &Request { sequence: 2, ..window })) > 0);
}

#[test]
fn the_parts_of_a_bucket_are_no_more_than_the_whole() {
    assert_eq!(
        [(50, 100, 9), (100, 100, 9), (200, 100, 9), (0, 0, 9)].map(|(s, a, b)| capacity(s, a, b)),
        [4, 9, 9, 0]
    );
}
