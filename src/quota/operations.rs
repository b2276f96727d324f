//! What calls with an operation id were answered, in the memory of this replica: a call that is repeated gets the reply
//! of the first, and of several at once one does the work.
//!
//! First in, first out, and no cache that guesses what will be asked again: such a one keeps what it was asked for twice,
//! and what makes a retry safe is that the last calls are all known.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::clock::Clock;
use crate::error::Error;
use crate::ids::OrganizationId;

/// How long a reply is known.
const LIFETIME: Duration = Duration::from_mins(10);

/// The most replies that are known.
const ENTRIES: usize = 100_000;

/// The most bytes that they take.
const BYTES: usize = 64 << 20;

/// What a reply takes besides its own bytes: its name twice, its slot, and the maps' own.
const OVERHEAD: usize = 256;

/// What is done once. Ids of one kind say nothing of another: who gives back an order's units names the order again.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Family {
    Consume,
    Reserve,
    Refund,
}

/// An operation of an organization, by the id that the caller gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Name([u8; 32]);

impl Name {
    /// The name of an operation.
    #[must_use]
    pub fn new(organization_id: OrganizationId, family: Family, operation_id: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(organization_id.uuid().as_bytes());
        hash.update([family as u8]);
        hash.update(operation_id.as_bytes());
        Self(hash.finalize().into())
    }

    /// The same as a UUIDv8, as the ledger knows it.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        uuid::Builder::from_custom_bytes(half).into_uuid()
    }
}

/// SHA-256 of what was asked.
pub type RequestHash = [u8; 32];

/// What became of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Once<R> {
    /// It was done now.
    Now(R),
    /// It was done before, with this reply.
    Before(Arc<[u8]>),
}

/// The replies.
#[derive(Debug)]
pub struct Operations {
    clock: Clock,
    memory: Mutex<Memory>,
    most: usize,
}

/// Held by who does the work; `None` while nobody has.
type Slot = tokio::sync::Mutex<Option<Answer>>;

#[derive(Debug)]
struct Answer {
    request: RequestHash,
    reply: Arc<[u8]>,
}

#[derive(Debug, Default)]
struct Memory {
    slots: HashMap<Name, Arc<Slot>>,
    /// Those with a reply, the oldest first, each with its bytes.
    answered: VecDeque<(Instant, Name, usize)>,
    bytes: usize,
}

impl Operations {
    /// None known.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, memory: Mutex::default(), most: ENTRIES }
    }

    /// Does the work, unless a call of that name did it: then its reply. The work says whether its reply is kept, and
    /// as which bytes. What failed, or is not kept, was not done, and the next call does it.
    ///
    /// Errors: `OPERATION_ID_REUSED` when another request has that name; the work's own.
    pub async fn once<R, F>(&self, name: Name, request: RequestHash, work: impl FnOnce() -> F) -> Result<Once<R>, Error>
    where
        F: Future<Output = Result<(R, Option<Vec<u8>>), Error>>,
    {
        let seat = self.seat(name);
        // Whoever waits here does the work itself when the one before it fails, or goes away.
        let mut answer = seat.slot.lock().await;
        if let Some(known) = &*answer {
            return if known.request == request { Ok(Once::Before(Arc::clone(&known.reply))) } else { Err(reused()) };
        }
        let (reply, kept) = work().await?;
        if let Some(bytes) = kept {
            self.lock().answered(self.clock.instant(), name, bytes.len() + OVERHEAD, self.most);
            *answer = Some(Answer { request, reply: bytes.into() });
        }
        Ok(Once::Now(reply))
    }

    fn seat(&self, name: Name) -> Seat<'_> {
        let now = self.clock.instant();
        let mut memory = self.lock();
        while let Some((since, ..)) = memory.answered.front()
            && now.saturating_duration_since(*since) >= LIFETIME
        {
            memory.forget_oldest();
        }
        let slot = Arc::clone(memory.slots.entry(name).or_default());
        drop(memory);
        Seat { operations: self, name, slot }
    }

    /// A poisoned lock is taken all the same: nothing that runs under it panics half way.
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn answered(&mut self, now: Instant, name: Name, bytes: usize, most: usize) {
        self.answered.push_back((now, name, bytes));
        self.bytes += bytes;
        while self.answered.len() > most || self.bytes > BYTES {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, name, bytes)) = self.answered.pop_front() {
            self.bytes -= bytes;
            self.slots.remove(&name);
        }
    }
}

/// A call's part in an operation. Leaves nothing behind where nothing is known.
struct Seat<'a> {
    operations: &'a Operations,
    name: Name,
    slot: Arc<Slot>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut memory = self.operations.lock();
        let is_this = memory.slots.get(&self.name).is_some_and(|slot| Arc::ptr_eq(slot, &self.slot));
        // A seat is taken under the lock, so the count cannot grow now; the map holds one of two.
        let is_last = Arc::strong_count(&self.slot) <= 2;
        if is_this && is_last && self.slot.try_lock().is_ok_and(|answer| answer.is_none()) {
            memory.slots.remove(&self.name);
        }
    }
}

/// The id was given to another request before.
#[must_use]
pub fn reused() -> Error {
    Error::InvalidRequest {
        reason: "OPERATION_ID_REUSED",
        message: "this operation_id was used for another request before".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    fn name(operation_id: &str) -> Name {
        Name::new(Uuid::from_u128(1).into(), Family::Consume, operation_id)
    }

    async fn ask(operations: &Operations, id: &str, request: u8, kept: bool) -> Result<Once<u8>, Error> {
        let work = || async { Ok((request, kept.then(|| vec![request]))) };
        operations.once(name(id), [request; 32], work).await
    }

    fn before(reply: u8) -> Once<u8> {
        Once::Before([reply].into())
    }

    #[tokio::test]
    async fn a_repetition_gets_the_reply_of_the_first_for_ten_minutes() {
        let clock = Clock::adjustable();
        let operations = Operations::new(clock.clone());
        assert_eq!(ask(&operations, "a", 1, true).await.unwrap(), Once::Now(1));
        assert_eq!(ask(&operations, "a", 1, true).await.unwrap(), before(1));
        assert_eq!(ask(&operations, "a", 2, true).await.unwrap_err().reason(), "OPERATION_ID_REUSED");
        assert_eq!(ask(&operations, "b", 2, true).await.unwrap(), Once::Now(2));
        clock.advance(LIFETIME);
        assert_eq!(ask(&operations, "a", 3, true).await.unwrap(), Once::Now(3));
    }

    #[tokio::test]
    async fn what_failed_or_is_not_kept_was_not_done() {
        let operations = Operations::new(Clock::system());
        let failing = || async { Err::<(u8, _), _>(Error::Conflict) };
        assert!(operations.once(name("a"), [1; 32], failing).await.is_err());
        assert_eq!(ask(&operations, "a", 2, false).await.unwrap(), Once::Now(2));
        assert!(operations.lock().slots.is_empty(), "nothing is left behind");
        assert_eq!(ask(&operations, "a", 3, true).await.unwrap(), Once::Now(3));
    }

    #[tokio::test]
    async fn of_fifty_at_once_one_does_the_work_also_when_the_first_goes_away() {
        let operations = Arc::new(Operations::new(Clock::system()));
        let (works, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let leader = tokio::spawn({
            let (operations, begun) = (Arc::clone(&operations), Arc::clone(&begun));
            async move {
                let work = || async {
                    begun.notify_one();
                    std::future::pending().await
                };
                operations.once::<u8, _>(name("a"), [1; 32], work).await
            }
        });
        begun.notified().await;
        let mut callers = JoinSet::new();
        for _ in 0..50 {
            let (operations, works) = (Arc::clone(&operations), Arc::clone(&works));
            callers.spawn(async move {
                let work = || async {
                    tokio::task::yield_now().await;
                    works.fetch_add(1, Ordering::SeqCst);
                    Ok(((), Some(vec![7])))
                };
                operations.once(name("a"), [1; 32], work).await.unwrap() == Once::Now(())
            });
        }
        tokio::task::yield_now().await;
        leader.abort();
        let now = callers.join_all().await.into_iter().filter(|now| *now).count();
        assert_eq!((now, works.load(Ordering::SeqCst)), (1, 1));
        assert_eq!(operations.lock().slots.len(), 1);
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten_where_there_are_too_many() {
        let operations = Operations { most: 3, ..Operations::new(Clock::system()) };
        for id in 0..5 {
            ask(&operations, &id.to_string(), id, true).await.unwrap();
        }
        assert_eq!(operations.lock().slots.len(), 3);
        assert_eq!(ask(&operations, "2", 2, true).await.unwrap(), before(2));
        assert_eq!(ask(&operations, "1", 9, true).await.unwrap(), Once::Now(9));
        let bytes = operations.lock().bytes;
        assert_eq!(bytes, 3 * (1 + OVERHEAD));
    }

    #[test]
    fn names_differ_by_organization_and_family() {
        let other = Name::new(Uuid::from_u128(2).into(), Family::Consume, "a");
        let refund = Name::new(Uuid::from_u128(1).into(), Family::Refund, "a");
        assert!(name("a") != other && name("a") != refund && name("a") != name("b"));
        assert_eq!(name("a").uuid().get_version_num(), 8);
    }
}
