//! The naive way to be exact: every decision is an UPDATE of a row in Postgres, which its limit guards.

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tenancy::clock::Clock;

use crate::support::Failure;
use crate::support::load::{Outcome, Pace, Work, run};
use std::time::Duration;

/// How many decide at once, each on a connection.
const CONNECTIONS: u32 = 32;

/// Who decides, on one row after the other.
struct Decider {
    pool: PgPool,
    rows: i32,
    next: i32,
}

impl Work for Decider {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        // A step that is prime to their number comes past all of them.
        self.next = (self.next + 37) % self.rows;
        let statement = "UPDATE public.naive SET used = used + 1 WHERE id = $1 AND used + 1 <= amount";
        let done = sqlx::query(statement).bind(self.next).execute(&self.pool).await?.rows_affected();
        if done == 1 { Ok(Some(1)) } else { Err("it was not admitted".into()) }
    }
}

/// A pool, and the rows.
pub async fn prepare(superuser: PgConnectOptions) -> Result<PgPool, Failure> {
    let pool = PgPoolOptions::new().min_connections(CONNECTIONS).max_connections(CONNECTIONS);
    let pool = pool.connect_with(superuser).await?;
    sqlx::query("CREATE TABLE public.naive (id int PRIMARY KEY, used bigint NOT NULL, amount bigint NOT NULL)")
        .execute(&pool)
        .await?;
    sqlx::query("INSERT INTO public.naive SELECT id, 0, 1000000000000000 FROM generate_series(0, 999) AS id")
        .execute(&pool)
        .await?;
    Ok(pool)
}

/// Decides on so many rows for so long.
pub async fn measure(clock: &Clock, pool: &PgPool, rows: i32, most: Duration) -> Result<Outcome, Failure> {
    let decider = |number| Decider { pool: pool.clone(), rows, next: number };
    run(clock, (0..CONNECTIONS.cast_signed()).map(decider).collect(), Pace::Closed, most).await
}
