//! What is measured: each a [`Work`] for the load.

use std::fmt::Write as _;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use prost::Message;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, Postgres};
use tenancy::proto::v1;

use crate::grpc::{Duplex, Method, frame};
use crate::support::Failure;
use crate::support::load::Work;

/// The ids and times of a round's rows: ids scattered as those of producers, none twice; times ascending.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Each round has ids and an hour of its own.
    pub round: u64,
    /// When the first round's hour begins.
    pub base: DateTime<Utc>,
}

impl Rows {
    /// The id and time of a row.
    pub fn row(self, number: u64) -> (uuid::Uuid, DateTime<Utc>) {
        let seed = (self.round << 40) + number;
        let high = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let id =
            uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(seed)).to_be_bytes()).into_uuid();
        let hours = TimeDelta::hours(i64::try_from(self.round).unwrap_or_default());
        (id, self.base + hours + TimeDelta::milliseconds(i64::try_from(number).unwrap_or_default()))
    }

    /// A row as a line for COPY.
    pub fn copied(self, number: u64, tenant: TenantIds, lines: &mut String) {
        let (id, at) = self.row(number);
        let (TenantIds { organization, meter }, at) = (tenant, at.to_rfc3339());
        // Into a string it does not fail.
        let _ = writeln!(lines, "{organization}\t{at}\t{id}\t{meter}\t1.5\t{at}\t\t\\N\t\\N");
    }
}

/// The events of one producer after the other, so many at a time.
pub struct Batches {
    rows: Rows,
    /// The next row, and how many rows further the one after this batch is: producers take turns.
    next: u64,
    step: u64,
    /// Written over for each batch, so that making one costs little.
    events: Vec<v1::UsageEvent>,
}

impl Batches {
    /// Those of the producer in this place among so many.
    pub fn new(rows: Rows, (place, producers): (u64, u64), events: u64) -> Self {
        let event = || v1::UsageEvent {
            event_id: uuid::Uuid::nil().to_string(),
            meter: "calls".into(),
            quantity: "1.5".into(),
            ..v1::UsageEvent::default()
        };
        let batch = (0..events).map(|_| event()).collect();
        Self { rows, next: place * events, step: producers * events, events: batch }
    }

    /// A message of the next batch: made by `message` of the events, and giving them back by `events`.
    fn framed<M: Message>(
        &mut self,
        message: impl FnOnce(Vec<v1::UsageEvent>) -> M,
        events: impl FnOnce(M) -> Vec<v1::UsageEvent>,
    ) -> Result<Bytes, Failure> {
        for (number, event) in (self.next..).zip(&mut self.events) {
            let (id, at) = self.rows.row(number);
            event.event_id.clear();
            event.event_id.push_str(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
            let nanos = i32::try_from(at.timestamp_subsec_nanos())?;
            event.occurred_at = Some(prost_types::Timestamp { seconds: at.timestamp(), nanos });
        }
        self.next += self.step;
        let message = message(std::mem::take(&mut self.events));
        let framed = frame(&message)?;
        self.events = events(message);
        Ok(framed)
    }
}

/// `RecordUsage`, a request at a time.
pub struct Producer {
    /// The method.
    pub method: Method,
    /// Whom it names; empty where the key says so.
    pub organization_id: String,
    /// What is sent.
    pub batches: Batches,
}

impl Work for Producer {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        let organization_id = self.organization_id.clone();
        let message = |events| v1::RecordUsageRequest { organization_id, events };
        let request = self.batches.framed(message, |message| message.events)?;
        all_recorded(&self.method.call::<v1::RecordUsageResponse>(&request).await?.results)
    }
}

/// `StreamUsage`, with so many messages not acknowledged.
pub struct Streamer {
    /// The open stream.
    pub stream: Duplex,
    /// What is sent.
    pub batches: Batches,
    /// How many messages may wait for their acknowledgement.
    pub window: u64,
    /// The sequence of the last message.
    pub sent: i64,
    /// The sequence of the last acknowledgement.
    pub acknowledged: i64,
}

impl Work for Streamer {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        while self.sent - self.acknowledged < i64::try_from(self.window)? {
            self.sent += 1;
            let sequence = self.sent;
            let message = |events| v1::StreamUsageRequest { sequence, events, ..Default::default() };
            let request = self.batches.framed(message, |message| message.events)?;
            self.stream.send(&request).await?;
        }
        let reply: v1::StreamUsageResponse = self.stream.receive().await?;
        self.acknowledged += 1;
        if reply.sequence != self.acknowledged {
            return Err(format!("{} is acknowledged, not {}", reply.sequence, self.acknowledged).into());
        }
        all_recorded(&reply.results)
    }

    /// What is under way counts for the tables too: waits for it.
    async fn finish(&mut self) -> Result<u64, Failure> {
        let mut events = 0;
        while self.acknowledged < self.sent {
            let reply: v1::StreamUsageResponse = self.stream.receive().await?;
            self.acknowledged += 1;
            events += all_recorded(&reply.results)?.unwrap_or_default();
        }
        Ok(events)
    }
}

fn all_recorded(results: &[v1::UsageEventResult]) -> Result<Option<u64>, Failure> {
    match results.iter().find(|result| result.status() != v1::UsageEventStatus::Recorded) {
        Some(result) => Err(format!("not recorded: {result:?}").into()),
        None => Ok(Some(u64::try_from(results.len())?)),
    }
}

/// How rows come to Postgres.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// A batch a transaction.
    Copy,
    /// A row a transaction, which is prepared.
    Insert,
}

/// One who writes to Postgres without a service, over a connection that is its own: rows of one tenant, so many at a time.
pub struct Alone {
    /// The connection.
    pub connection: PoolConnection<Postgres>,
    /// How.
    pub by: By,
    /// The rows.
    pub rows: Rows,
    /// Their tenant.
    pub tenant: TenantIds,
    /// The next of them.
    pub next: std::ops::Range<u64>,
    /// So many further are those after them: connections take turns.
    pub step: u64,
}

/// An organization and its meter.
#[derive(Clone, Copy, Debug)]
pub struct TenantIds {
    /// The organization.
    pub organization: uuid::Uuid,
    /// The meter.
    pub meter: uuid::Uuid,
}

impl Work for Alone {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        let numbers = self.next.clone();
        self.next = numbers.start + self.step..numbers.end + self.step;
        match self.by {
            By::Copy => {
                let mut lines = String::new();
                numbers.for_each(|number| self.rows.copied(number, self.tenant, &mut lines));
                Ok(Some(copy(&mut self.connection, &lines).await?))
            }
            By::Insert => {
                for number in numbers.clone() {
                    let (event_id, occurred_at) = self.rows.row(number);
                    sqlx::query("INSERT INTO tenancy.usage_events VALUES ($1, $2, $3, $4, 1.5, $2)")
                        .bind(self.tenant.organization)
                        .bind(occurred_at)
                        .bind(event_id)
                        .bind(self.tenant.meter)
                        .execute(&mut *self.connection)
                        .await?;
                }
                Ok(Some(numbers.end - numbers.start))
            }
        }
    }
}

/// Copies lines of [`Rows::copied`].
pub async fn copy(connection: &mut PgConnection, lines: &str) -> Result<u64, Failure> {
    /// Into the columns that an event without series fills.
    const COPY: &str =
        "COPY tenancy.usage_events (organization_id, occurred_at, event_id, meter_id, quantity, recorded_at,
        subject, event_name, properties) FROM STDIN";
    let mut copy = connection.copy_in_raw(COPY).await?;
    copy.send(lines.as_bytes()).await?;
    Ok(copy.finish().await?)
}
