//! The writer itself: turns, bounds, faults, and its end. Beside the wire, because what is tested needs requests that
//! are queued in a known order, or a database that fails at a known moment.

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tenancy::error::Error;
use tenancy::ids::{MeterId, OrganizationId};
use tenancy::metering::writer::{Candidate, PaceOptions, Verdict, Writer, WriterOptions, WriterTask};
use tenancy::model::meter::Aggregation;
use tenancy::model::usage::{Event, EventId, Quantity, whole_milliseconds};
use tenancy::proto::v1;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, eventually, waiting};
use crate::usage::support::{create_meter, drift, stored};

const ONE_WRITER: WriterOptions = WriterOptions {
    writers: 1,
    queue_events: 10_000,
    queue_bytes: 64 << 20,
    batch_events: 200,
    turn_events: 50,
    pace: PaceOptions {
        worth_events: 250,
        patience: Duration::from_millis(5),
        gather: Duration::from_millis(1),
        gather_events: 40,
    },
    drain: Duration::from_secs(20),
};

type Outcome = Result<Vec<Verdict>, Error>;

/// An organization and a meter of its.
type Owner = (OrganizationId, MeterId);

async fn owner(world: &World, slug: &str) -> Owner {
    let tenant = world.tenant(slug).await;
    let meter = create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    (tenant.id.parse().unwrap(), meter.meter_id.parse().unwrap())
}

fn event(id: &str, (_, meter_id): Owner, occurred_at: DateTime<Utc>) -> Candidate {
    let event = Event {
        event_id: EventId::read("event_id", id).unwrap(),
        occurred_at: whole_milliseconds(occurred_at),
        meter_id,
        aggregation: Aggregation::Count,
        quantity: Quantity::ONE,
        value_id: None,
        series: None,
        properties: None,
    };
    Candidate { event, recordable: true }
}

/// A writer beside the service's own.
fn writer(world: &World, options: WriterOptions) -> (Writer, WriterTask) {
    Writer::new(world.running.database.clone(), world.clock.clone(), options)
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

fn run(task: WriterTask) -> Running {
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    Running { stop, task }
}

impl Running {
    async fn stopped(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Queues a request before it returns: the writer's first poll puts it there.
fn queue(writer: &Writer, (organization, _): Owner, candidates: Vec<Candidate>) -> JoinHandle<Outcome> {
    let writer = writer.clone();
    let mut request: Pin<Box<dyn Future<Output = Outcome> + Send>> =
        Box::pin(async move { writer.record(organization, candidates).await });
    match request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(outcome) => tokio::spawn(async move { outcome }),
        std::task::Poll::Pending => tokio::spawn(request),
    }
}

fn reason(outcome: Outcome) -> String {
    outcome.unwrap_err().reason()
}

/// Waits until a backend of the database waits for a lock; returns its process id.
async fn blocked(world: &World) -> i32 {
    let found = std::sync::Mutex::new(None);
    eventually("somebody waits for the lock", async || {
        let pid = sqlx::query_scalar::<_, i32>(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_optional(&world.database.superuser)
        .await
        .unwrap();
        *found.lock().unwrap() = pid;
        pid.is_some()
    })
    .await;
    found.into_inner().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_tenant_delays_no_other() {
    let world = World::start().await;
    let (loud, quiet) = (owner(&world, "loud").await, owner(&world, "quiet").await);
    let (writer, task) = writer(&world, ONE_WRITER);
    let now = world.clock.now();
    let mut waiters = Vec::new();
    for request in 0..81 {
        let owner = if request == 80 { quiet } else { loud };
        let events = (0..50).map(|n| event(&format!("{request}/{n}"), owner, now)).collect();
        waiters.push(queue(&writer, owner, events));
    }
    let running = run(task);
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    // All events of a transaction have one recorded_at.
    let batches_before: i64 = sqlx::query_scalar(
        "SELECT count(DISTINCT recorded_at) FROM tenancy.usage_events WHERE recorded_at <
             (SELECT min(recorded_at) FROM tenancy.usage_events WHERE organization_id = $1)",
    )
    .bind(quiet.0.uuid())
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!(batches_before, 0, "asked last, it was in the first batch");
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (81 * 50, 0));
    running.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_keeps_what_it_took() {
    let world = World::start().await;
    let (loud, quiet) = (owner(&world, "loud").await, owner(&world, "quiet").await);
    let (writer, task) = writer(&world, ONE_WRITER);
    let now = world.clock.now();
    let mut waiters = Vec::new();
    for request in 0..11 {
        let events = (0..500).map(|n| event(&format!("{request}/{n}"), loud, now)).collect();
        waiters.push(queue(&writer, loud, events));
    }
    let refused = waiters.pop().unwrap().await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::Overloaded { reason: "INGEST_OVERLOADED", .. }), "{refused:?}");
    waiters.push(queue(&writer, quiet, vec![event("there is room for others", quiet, now)]));
    let running = run(task);
    for waiter in waiters {
        assert!(waiter.await.unwrap().unwrap().iter().all(|verdict| *verdict == Verdict::Recorded));
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (5001, 0));
    running.stopped().await;
}

/// Where no event is expected to be there already, they are inserted without a look; one that is ends that transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_events_are_found_whether_they_are_expected_or_not() {
    use Verdict::{Conflict, Duplicate, Recorded};
    let world = World::start().await;
    let acme = owner(&world, "acme").await;
    let (writer, task) = writer(&world, ONE_WRITER);
    let now = world.clock.now();
    let running = run(task);
    let verdicts = async |names: &[&str]| {
        let events = names.iter().map(|name| event(name, acme, now)).collect();
        queue(&writer, acme, events).await.unwrap().unwrap()
    };
    assert_eq!(verdicts(&["a"]).await, [Recorded]);
    for round in 0..2 {
        let new = format!("{round}");
        assert_eq!(verdicts(&[&new, "a"]).await, [Recorded, Duplicate], "not expected");
        assert_eq!(verdicts(&["a", &new, "b"]).await, [Duplicate, Duplicate, [Recorded, Duplicate][round]], "expected");
        world.clock.advance(Duration::from_secs(11));
    }
    let mut other = event("a", acme, now);
    other.event.quantity = Quantity::parse("quantity", "2").unwrap();
    assert_eq!(queue(&writer, acme, vec![other]).await.unwrap().unwrap(), [Conflict]);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (4, 0));
    running.stopped().await;
}

/// As two replicas do that have the same event from a producer who tries again: neither expects it to be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_another_transaction_is_about_to_commit_is_a_repeated_one() {
    let world = World::start().await;
    let acme = owner(&world, "acme").await;
    let ((first, first_task), (second, second_task)) = (writer(&world, ONE_WRITER), writer(&world, ONE_WRITER));
    let running = [run(first_task), run(second_task)];
    let now = world.clock.now();
    queue(&first, acme, vec![event("before", acme, now)]).await.unwrap().unwrap();
    let superuser = &world.database.superuser;
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM tenancy.usage_aggregates FOR UPDATE").execute(&mut *lock).await.unwrap();
    let earlier = queue(&first, acme, vec![event("a", acme, now)]);
    waiting(superuser, 1).await;
    // It waits for the transaction of the first, which has inserted the event and waits for the quarter.
    let later = queue(&second, acme, vec![event("a", acme, now), event("b", acme, now)]);
    waiting(superuser, 2).await;
    lock.rollback().await.unwrap();
    assert_eq!(earlier.await.unwrap().unwrap(), [Verdict::Recorded]);
    assert_eq!(later.await.unwrap().unwrap(), [Verdict::Duplicate, Verdict::Recorded]);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (3, 0));
    for running in running {
        running.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_fail_sink_nobody_else() {
    let world = World::start().await;
    let now = world.clock.now();
    let mut owners = Vec::new();
    for slug in ["one", "two", "three", "four", "five"] {
        owners.push(owner(&world, slug).await);
    }
    // The count of the second organization cannot grow; the fourth sends an event of a week without a partition.
    sqlx::query(
        "INSERT INTO tenancy.usage_aggregates VALUES ($1, $2, '00000000-0000-0000-0000-000000000000',
             date_bin('15 minutes', $3, 'epoch'), 9223372036854775807, 0)",
    )
    .bind(owners[1].0.uuid())
    .bind(owners[1].1.uuid())
    .bind(now)
    .execute(&world.database.superuser)
    .await
    .unwrap();
    let (writer, task) = writer(&world, ONE_WRITER);
    let mut waiters = Vec::new();
    for owner in &owners {
        waiters.push(queue(&writer, *owner, vec![event("a", *owner, now)]));
    }
    let fourth = owners[3];
    let no_partition = event("b", fourth, now - TimeDelta::days(300));
    waiters.push(queue(&writer, fourth, vec![event("c", fourth, now), no_partition]));
    let running = run(task);
    let mut outcomes = Vec::new();
    for waiter in waiters {
        outcomes.push(waiter.await.unwrap());
    }
    let bad = outcomes.pop().unwrap();
    assert_eq!(reason(bad), "USAGE_PARTITION_MISSING");
    assert_eq!(reason(outcomes.remove(1)), "INTERNAL");
    for outcome in outcomes {
        assert_eq!(outcome.unwrap(), [Verdict::Recorded], "also the other request of the fourth");
    }
    assert_eq!(stored(&world.database).await, 4);
    running.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_commits_what_waits() {
    let world = World::start().await;
    let owner = owner(&world, "one").await;
    let (writer, task) = writer(&world, ONE_WRITER);
    let now = world.clock.now();
    let mut waiters = Vec::new();
    for request in 0..20 {
        let events = (0..100).map(|n| event(&format!("{request}/{n}"), owner, now)).collect();
        waiters.push(queue(&writer, owner, events));
    }
    run(task).stopped().await;
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap().len(), 100);
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (2000, 0));
    let late = writer.record(owner.0, vec![event("late", owner, now)]).await;
    assert_eq!(reason(late), "SHUTTING_DOWN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_though_the_database_hangs_and_acknowledges_nothing() {
    let world = World::start().await;
    let owner = owner(&world, "one").await;
    let options = WriterOptions { drain: Duration::from_millis(300), batch_events: 1, ..ONE_WRITER };
    let (writer, task) = writer(&world, options);
    let running = run(task);
    let now = world.clock.now();
    let mut lock = world.database.superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    let under_way = queue(&writer, owner, vec![event("a", owner, now)]);
    blocked(&world).await;
    let waiting = queue(&writer, owner, vec![event("b", owner, now)]);
    running.stopped().await;
    assert_eq!(reason(under_way.await.unwrap()), "COMMIT_OUTCOME_UNKNOWN");
    assert_eq!(reason(waiting.await.unwrap()), "SHUTTING_DOWN");
    lock.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_no_acknowledgement() {
    let world = World::start().await;
    let owner = owner(&world, "one").await;
    let (writer, task) = writer(&world, ONE_WRITER);
    let running = run(task);
    let now = world.clock.now();
    let mut lock = world.database.superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    let waiter = queue(&writer, owner, vec![event("a", owner, now)]);
    let pid = blocked(&world).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&world.database.superuser).await.unwrap();
    assert_eq!(reason(waiter.await.unwrap()), "DATABASE_UNAVAILABLE");
    lock.rollback().await.unwrap();
    let again = writer.record(owner.0, vec![event("a", owner, now)]).await;
    assert_eq!(again.unwrap(), [Verdict::Recorded], "the retry finds a writer that goes on");
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (1, 0));

    // A task that is dropped leaves nobody waiting.
    running.task.abort();
    let _ = running.task.await;
    assert_eq!(reason(writer.record(owner.0, vec![event("b", owner, now)]).await), "SHUTTING_DOWN");
}
