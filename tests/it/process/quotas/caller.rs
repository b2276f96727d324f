//! Callers: they ask, and note what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::Utc;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tenancy::proto::v1;
use tenancy::quota::slots::LedgerTime;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::check::Note;
use crate::harness::{Client, eventually};

/// How far all of them are.
#[derive(Default, Debug)]
pub struct Progress {
    /// Its number names the user whom they ask for, so that each round begins with a user of whom nothing is used.
    pub round: AtomicU64,
    answered: AtomicU64,
}

impl Progress {
    /// Waits for so many more answers.
    pub async fn more(&self, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        eventually("calls are answered", || async { self.answered.load(Ordering::Relaxed) >= goal }).await;
    }
}

/// What callers were told.
#[derive(Default, Debug)]
pub struct Said {
    pub notes: Vec<Note>,
    pub denied: i64,
    /// Of them, without the ledger.
    pub away: i64,
    /// Calls that failed, and charged nothing.
    pub refused: i64,
    /// Calls without an answer, and how much they may have been charged, by meter.
    pub unanswered: i64,
    pub unknown: BTreeMap<&'static str, i64>,
    /// What no kill explains.
    pub faults: Vec<String>,
}

impl Said {
    pub fn add(&mut self, other: Self) {
        self.notes.extend(other.notes);
        self.faults.extend(other.faults);
        self.denied += other.denied;
        self.away += other.away;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        for (meter, amount) in other.unknown {
            *self.unknown.entry(meter).or_default() += amount;
        }
    }

    /// Asks, and notes the answer; `false` when nothing was admitted.
    async fn ask(&mut self, client: &Client, asked: Asked, patience: Duration) -> bool {
        let Asked { meter, user, amount, best_effort } = asked;
        let mode = if best_effort { v1::ConsumeMode::BestEffort } else { v1::ConsumeMode::Normal };
        let subject = v1::QuotaSubject { user_id: user.to_string(), ..Default::default() };
        let request = v1::ConsumeQuotaRequest {
            meter: meter.into(),
            amount,
            mode: mode.into(),
            subject: Some(subject),
            ..Default::default()
        };
        let sent = now();
        let answer = tokio::time::timeout(patience, client.quotas().consume_quota(request)).await;
        let replied = now();
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the caller lost its patience"))) {
            Ok(reply) => {
                let decision = reply.into_inner().decision.unwrap();
                match decision.reason.as_str() {
                    "" if decision.allowed && !decision.degraded => {
                        self.notes.push(Note { meter, user, amount: decision.granted, sent, replied });
                        return true;
                    }
                    "LIMIT_EXCEEDED" => self.denied += 1,
                    "LEDGER_UNAVAILABLE" => (self.denied, self.away) = (self.denied + 1, self.away + 1),
                    _ => self.faults.push(format!("{decision:?}")),
                }
            }
            Err(status) => match (status.get_details_error_info(), status.code()) {
                // Without our details it is the client's own: the connection broke.
                (None, _) | (_, Code::DeadlineExceeded | Code::Cancelled) => {
                    self.unanswered += 1;
                    *self.unknown.entry(meter).or_default() += amount;
                }
                (Some(_), Code::Unavailable) => self.refused += 1,
                _ => self.faults.push(format!("{status:?}")),
            },
        }
        false
    }
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    meter: &'static str,
    user: Uuid,
    amount: i64,
    best_effort: bool,
}

fn now() -> LedgerTime {
    Utc::now().timestamp_micros()
}

pub struct Caller {
    pub clients: Vec<Client>,
    pub meters: Vec<&'static str>,
    pub random: StdRng,
    /// Waits for an answer however long a replica is stopped.
    pub patient: bool,
    pub progress: Arc<Progress>,
    pub said: Said,
}

impl Caller {
    pub async fn run(mut self, stop: CancellationToken) -> Said {
        let patience = Duration::from_millis(if self.patient { 20_000 } else { 600 });
        while !stop.is_cancelled() {
            let asked = Asked {
                meter: self.meters.choose(&mut self.random).unwrap(),
                user: Uuid::from_u128(1 + u128::from(self.progress.round.load(Ordering::Relaxed))),
                amount: self.random.random_range(1..=5),
                best_effort: self.random.random_range(0..8) == 0,
            };
            let client = self.clients.choose(&mut self.random).unwrap().clone();
            if !self.said.ask(&client, asked, patience).await {
                // A replica that is no more refuses at once.
                tokio::time::sleep(Duration::from_millis(self.random.random_range(1..10))).await;
            }
            self.progress.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.said
    }
}

/// Takes all that is left, from one replica after the other, until all of them refuse for a while.
pub async fn drain(clients: &[Client], meter: &'static str, said: &mut Said) {
    let mut refused = 0;
    for number in 1_u128.. {
        // Each for another user, so that only the organization's limit is in the way.
        let asked = Asked { meter, user: Uuid::from_u128(number << 64), amount: 100, best_effort: true };
        let client = &clients[usize::try_from(number).unwrap() % clients.len()];
        if said.ask(client, asked, Duration::from_secs(20)).await {
            refused = 0;
        } else {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        if refused == 2 * clients.len() {
            return;
        }
    }
}
