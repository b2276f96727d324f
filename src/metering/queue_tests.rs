//! Tests of the queue: its bounds, and whose turn it is.

use std::time::Duration;

use chrono::DateTime;
use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::*;
use crate::clock::Clock;
use crate::model::meter::Aggregation;
use crate::model::usage::{Event, EventId, Quantity};

type Waiter = oneshot::Receiver<Answer>;

const LIMITS: Limits = Limits {
    capacity: Load { events: 1000, bytes: 1 << 20 },
    batch_events: 100,
    batch_organizations: 4,
    turn_events: 20,
    pace: PACE,
};
const PACE: PaceOptions = PaceOptions {
    worth_events: 50,
    patience: Duration::from_millis(5),
    gather: Duration::from_millis(1),
    gather_events: 5,
};

fn queue_of(pace: PaceOptions) -> Queue {
    Queue::new(Limits { pace, ..LIMITS })
}

fn job(organization: u128, events: usize) -> (Job, Waiter) {
    let event = Event {
        event_id: EventId::read("event_id", "a").unwrap(),
        occurred_at: DateTime::UNIX_EPOCH,
        meter_id: Uuid::from_u128(1).into(),
        aggregation: Aggregation::Count,
        quantity: Quantity::ONE,
        value_id: None,
        series: None,
        properties: None,
    };
    let (reply, waiter) = Reply::new();
    let job = Job {
        organization_id: Uuid::from_u128(organization).into(),
        candidates: vec![Candidate { event, recordable: true }; events],
        reply,
        queued_at: Clock::system().instant(),
    };
    (job, waiter)
}

/// Pushes jobs until one is refused; returns their waiters.
fn flood(queue: &Queue, organization: u128, events: usize, most: usize) -> Vec<Waiter> {
    let mut waiters = Vec::new();
    while waiters.len() < most {
        let (job, waiter) = job(organization, events);
        if queue.push(job).is_err() {
            break;
        }
        waiters.push(waiter);
    }
    waiters
}

fn taken(batch: &Taken<'_>) -> Vec<(u128, usize)> {
    batch.jobs.iter().map(|job| (job.organization_id.uuid().as_u128(), job.candidates.len())).collect()
}

#[tokio::test]
async fn a_flood_delays_nobody_else() {
    let queue = Queue::new(LIMITS);
    let _flood = flood(&queue, 1, 10, 40);
    let (small, _small) = job(2, 1);
    queue.push(small).unwrap();
    let batch = taken(&queue.next().await.unwrap());
    assert!(batch.contains(&(2, 1)), "it came last and is in the first batch: {batch:?}");
    assert_eq!(batch.iter().map(|(_, events)| events).sum::<usize>(), 91);
    let rest = taken(&queue.next().await.unwrap());
    assert_eq!(rest.len(), 10, "alone, the flood fills a batch");
}

#[tokio::test]
async fn large_jobs_get_no_more_than_small_ones() {
    let queue = Queue::new(Limits { capacity: Load { events: 100_000, bytes: 1 << 30 }, ..LIMITS });
    let _large = flood(&queue, 1, 50, 40);
    let _small = flood(&queue, 2, 1, 2000);
    let mut events = HashMap::<u128, usize>::new();
    for _ in 0..20 {
        for (organization, count) in taken(&queue.next().await.unwrap()) {
            *events.entry(organization).or_default() += count;
        }
    }
    let (large, small) = (events[&1], events[&2]);
    assert!(large.abs_diff(small) <= 100, "{large} and {small}");
}

#[tokio::test]
async fn a_batch_has_few_organizations() {
    let queue = Queue::new(LIMITS);
    let mut waiters = Vec::new();
    for organization in 1..=6 {
        waiters.extend(flood(&queue, organization, 1, 2));
    }
    assert_eq!(taken(&queue.next().await.unwrap()), [1, 1, 2, 2, 3, 3, 4, 4].map(|organization| (organization, 1)));
    assert_eq!(taken(&queue.next().await.unwrap()), [5, 5, 6, 6].map(|organization| (organization, 1)));
}

#[tokio::test]
async fn a_job_larger_than_a_batch_or_a_turn_is_taken() {
    let queue = Queue::new(LIMITS);
    let (large, _large) = job(1, 300);
    queue.push(large).unwrap();
    let (other, _other) = job(2, 1);
    queue.push(other).unwrap();
    assert_eq!(taken(&queue.next().await.unwrap()), [(2, 1)], "it gathers credit meanwhile");
    assert_eq!(taken(&queue.next().await.unwrap()), [(1, 300)]);
    assert_eq!(queue.load(), Load::default());
}

#[tokio::test]
async fn an_organization_leaves_room_for_others() {
    let queue = Queue::new(LIMITS);
    let first = flood(&queue, 1, 10, usize::MAX);
    assert_eq!(first.len(), 50, "alone, half of the queue");
    let second = flood(&queue, 2, 10, usize::MAX);
    assert_eq!(second.len(), 25, "half of the rest");
    assert_eq!(flood(&queue, 3, 100, 1).len(), 1);
    assert_eq!(flood(&queue, 4, 200, 1).len(), 0, "there is an end of it");

    let bytes = Queue::new(Limits { capacity: Load { events: 1000, bytes: 100 }, ..LIMITS });
    assert_eq!(bytes.push(job(1, 1).0), Err(Refused::Full));
}

#[tokio::test]
async fn who_has_gone_is_left_out() {
    let queue = Queue::new(LIMITS);
    drop(flood(&queue, 1, 10, 5));
    let _here = flood(&queue, 1, 7, 1);
    assert_eq!(taken(&queue.next().await.unwrap()), [(1, 7)]);
    assert_eq!(queue.load(), Load::default());
}

#[tokio::test]
async fn a_closed_queue_is_emptied() {
    let queue = Queue::new(LIMITS);
    let _waiters = flood(&queue, 1, 100, 3);
    queue.close();
    assert_eq!(queue.push(job(2, 1).0), Err(Refused::Closed));
    assert_eq!(queue.next().await.unwrap().jobs.len(), 1);
    assert_eq!(queue.close_and_empty().len(), 2);
    assert!(queue.next().await.is_none());
    assert_eq!(queue.load(), Load::default());
}

/// Whoever waits for this does not come back.
const EVER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn an_organization_is_with_one_writer_at_a_time() {
    let queue = Queue::new(LIMITS);
    let _first = flood(&queue, 1, 1, 1);
    let first = queue.next().await.unwrap();
    let _again = flood(&queue, 1, 100, 1);
    let _other = flood(&queue, 2, 50, 1);
    assert_eq!(taken(&queue.next().await.unwrap()), [(2, 50)], "worth a transaction, and of another organization");
    let wait = tokio::time::timeout(PACE.patience * 4, queue.next()).await;
    assert!(wait.is_err(), "its events wait for the writer that has it, however many they are");
    drop(first);
    assert_eq!(taken(&queue.next().await.unwrap()), [(1, 100)]);
}

#[tokio::test]
async fn few_events_wait_for_the_transaction_under_way_but_not_for_long() {
    let (queue, clock) = (Queue::new(LIMITS), Clock::system());
    let _first = flood(&queue, 1, 1, 1);
    let _under_way = queue.next().await.unwrap();
    let began = clock.instant();
    let _few = flood(&queue, 2, 1, 1);
    assert_eq!(taken(&queue.next().await.unwrap()), [(2, 1)]);
    assert!(clock.instant() - began >= PACE.patience);
}

#[tokio::test]
async fn enough_events_do_not_wait_for_the_transaction_under_way() {
    let queue = queue_of(PaceOptions { patience: EVER, ..PACE });
    let _first = flood(&queue, 1, 1, 1);
    let _under_way = queue.next().await.unwrap();
    let _few = flood(&queue, 3, 1, 1);
    let (batch, _many) = tokio::join!(queue.next(), async { flood(&queue, 4, 49, 1) });
    assert_eq!(taken(&batch.unwrap()), [(3, 1), (4, 49)]);
}

#[tokio::test]
async fn callers_that_were_answered_together_are_waited_for_a_moment() {
    let queue = queue_of(PaceOptions { gather: EVER, patience: EVER, ..PACE });
    let _together = flood(&queue, 1, 1, 10);
    drop(queue.next().await);
    let _one = flood(&queue, 1, 1, 1);
    let (batch, _more) = tokio::join!(queue.next(), async { flood(&queue, 2, 1, 9) });
    assert_eq!(taken(&batch.unwrap()).len(), 10, "as many as last time");
}

#[tokio::test]
async fn the_first_who_comes_back_waits_for_the_others_however_late_it_is() {
    let pace = PaceOptions { gather: Duration::from_millis(50), patience: EVER, ..PACE };
    let queue = queue_of(pace);
    let _together = flood(&queue, 1, 1, 10);
    drop(queue.next().await);
    // The answers were long under way.
    tokio::time::sleep(pace.gather * 2).await;
    let _one = flood(&queue, 1, 1, 1);
    let (batch, _more) = tokio::join!(queue.next(), async { flood(&queue, 2, 1, 9) });
    assert_eq!(taken(&batch.unwrap()).len(), 10, "none of them has a transaction to itself");
}

#[tokio::test]
async fn who_waited_while_all_writers_were_at_work_waits_for_nobody_who_comes_back() {
    let queue = queue_of(PaceOptions { gather: EVER, ..PACE });
    let _together = flood(&queue, 1, 1, 10);
    let under_way = queue.next().await.unwrap();
    let _meanwhile = flood(&queue, 2, 1, 1);
    tokio::time::sleep(PACE.patience * 2).await;
    drop(under_way);
    let batch = queue.next().now_or_never().flatten().expect("its patience is over");
    assert_eq!(taken(&batch), [(2, 1)]);
}

#[tokio::test]
async fn few_who_came_meanwhile_are_not_taken_for_them() {
    let queue = queue_of(PaceOptions { gather: EVER, patience: EVER, ..PACE });
    let _together = flood(&queue, 1, 1, 3);
    let under_way = queue.next().await.unwrap();
    let _meanwhile = flood(&queue, 2, 1, 3);
    drop(under_way);
    assert!(queue.next().now_or_never().is_none(), "as many as last time, and none of them back");
    let _back = flood(&queue, 1, 1, 2);
    let batch = queue.next().now_or_never().flatten().expect("not all of them, which are six, are waited for");
    assert_eq!(taken(&batch).len(), PACE.gather_events);
}

#[tokio::test]
async fn who_waits_for_a_transaction_under_way_holds_up_nobody_after_it() {
    let queue = queue_of(PaceOptions { patience: EVER, ..PACE });
    let _first = flood(&queue, 1, 1, 1);
    let under_way = queue.next().await.unwrap();
    let _few = flood(&queue, 2, 1, 1);
    let next_of_the_first = async {
        tokio::task::yield_now().await;
        drop(under_way);
        taken(&queue.next().await.unwrap())
    };
    tokio::select! {
        biased;
        _ = queue.next() => panic!("it waits for the transaction under way"),
        batch = next_of_the_first => assert_eq!(batch, [(2, 1)]),
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("nobody looks after it any more"),
    }
}

#[tokio::test]
async fn who_is_alone_does_not_wait() {
    let (queue, clock) = (Queue::new(LIMITS), Clock::system());
    let _together = flood(&queue, 1, 1, 10);
    let (batch, began) = (queue.next().await, clock.instant());
    drop(batch);
    let _one = flood(&queue, 1, 1, 1);
    assert_eq!(taken(&queue.next().await.unwrap()).len(), 1);
    assert!(clock.instant() - began >= PACE.gather, "others might have come");

    let _together = flood(&queue, 1, 1, 10);
    drop(queue.next().await);
    tokio::time::sleep(PACE.patience * 2).await;
    let _one = flood(&queue, 1, 1, 1);
    assert!(queue.next().now_or_never().is_some(), "nobody comes back so long after");

    let queue = queue_of(PaceOptions { gather: EVER, patience: EVER, ..PACE });
    for _ in 0..3 {
        let _one = flood(&queue, 1, 1, 1);
        assert_eq!(taken(&queue.next().await.unwrap()).len(), 1);
    }
}

#[tokio::test]
async fn several_writers_take_everything_and_end() {
    let queue = Queue::new(LIMITS);
    let mut waiters = Vec::new();
    let writer = || async {
        let mut jobs = 0;
        while let Some(batch) = queue.next().await {
            tokio::task::yield_now().await;
            jobs += batch.jobs.len();
        }
        jobs
    };
    let producer = async {
        for round in 0..200 {
            waiters.extend(flood(&queue, round % 7, 3, 1));
            tokio::task::yield_now().await;
        }
        queue.close();
    };
    let (one, other, third, ()) = tokio::join!(writer(), writer(), writer(), producer);
    assert_eq!(one + other + third, 200);
    assert_eq!(queue.load(), Load::default());
}
