//! The ledger of quotas: accounts that are read under their lock, changed by `quota::ledger`, and written; in `operations`
//! what happens once.

pub mod operations;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgListener;
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::limit::{SubjectKind, Window};
use crate::quota::decision::AccountKey;
use crate::quota::ledger::{Account, Answer, Lifetime, Request, is_short, others_have};
use crate::quota::slots::{Calendar, LedgerTime, slot};
use crate::repository::database::Database;
use crate::repository::scope::{IngestScope, PlatformScope, TenantScope};

/// The channel on which replicas are asked to hand back what they do not use.
const CHANNEL: &str = "tenancy_quota";

/// An account of an organization. In this order rows are locked.
pub type Key = (OrganizationId, AccountKey);

/// What a replica says of an account.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Which.
    pub key: Key,
    /// In which its windows turn.
    pub calendar: Calendar,
    /// What.
    pub request: Request,
}

/// The accounts as arrays of their columns.
struct Columns {
    organization_ids: Vec<Uuid>,
    subject_kinds: Vec<&'static str>,
    subject_ids: Vec<Uuid>,
    meter_ids: Vec<Uuid>,
    window_kinds: Vec<&'static str>,
}

impl Columns {
    fn of<'a>(keys: impl Iterator<Item = &'a Key> + Clone) -> Self {
        Self {
            organization_ids: keys.clone().map(|(organization_id, _)| organization_id.uuid()).collect(),
            subject_kinds: keys.clone().map(|(_, account)| account.subject_kind.as_str()).collect(),
            subject_ids: keys.clone().map(|(_, account)| account.subject_id).collect(),
            meter_ids: keys.clone().map(|(_, account)| account.meter_id.uuid()).collect(),
            window_kinds: keys.map(|(_, account)| account.window.as_str()).collect(),
        }
    }
}

/// Accounts under their locks.
struct Locked {
    accounts: BTreeMap<Key, Account>,
    /// The database's time, from before the locks were had or later.
    now: LedgerTime,
}

/// Hears what a replica says of accounts, each of them at most once. `ahead` is how far the clock of a test is before the
/// database's. Returns the database's time, and the answers in the order of the exchanges.
///
/// Errors: `Conflict` when the whole transaction is to be tried again.
pub async fn exchange(
    scope: &mut IngestScope,
    ahead: Duration,
    lifetime: Lifetime,
    exchanges: &[Exchange],
) -> Result<(LedgerTime, Vec<Answer>), Error> {
    let mut locked = lock(scope, exchanges.iter().map(|exchange| &exchange.key), ahead).await?;
    let now = locked.now;
    let mut recalled = Vec::new();
    let mut answers = Vec::with_capacity(exchanges.len());
    for Exchange { key, calendar, request } in exchanges {
        let window = key.1.window;
        let account = locked.accounts.get_mut(key).ok_or_else(|| Error::internal("an account that was not locked"))?;
        let answer = account.exchange(window, now, slot(window, now, *calendar), lifetime, request);
        if is_short(request, &answer) && others_have(window, request, &answer) {
            recalled.push(name(key));
        }
        answers.push(answer);
    }
    save(scope, &locked, &recalled).await?;
    Ok((now, answers))
}

async fn lock<'a>(
    scope: &mut IngestScope,
    keys: impl Iterator<Item = &'a Key> + Clone,
    ahead: Duration,
) -> Result<Locked, Error> {
    let mut locked = select(scope, &Columns::of(keys.clone()), ahead).await?;
    let mut missing: Vec<&Key> = keys.filter(|key| !locked.accounts.contains_key(key)).collect();
    if !missing.is_empty() {
        missing.sort_unstable();
        missing.dedup();
        let columns = Columns::of(missing.iter().copied());
        let states: Vec<_> = missing.iter().map(|(_, account)| Account::new(account.window)).collect();
        let states: Result<Vec<_>, _> = states.iter().map(serde_json::to_value).collect();
        sqlx::query!(
            "INSERT INTO tenancy.quota_accounts (organization_id, subject_kind, subject_id, meter_id, window_kind, ceiling,
                 granted, state, expire_time)
             SELECT a.organization_id, a.subject_kind, a.subject_id, a.meter_id, a.window_kind, 0, 0, a.state, now()
             FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::jsonb[])
                 AS a (organization_id, subject_kind, subject_id, meter_id, window_kind, state)
             ON CONFLICT DO NOTHING",
            &columns.organization_ids,
            &columns.subject_kinds as &[&str],
            &columns.subject_ids,
            &columns.meter_ids,
            &columns.window_kinds as &[&str],
            &states.map_err(Error::internal)?
        )
        .execute(&mut *scope)
        .await?;
        let more = select(scope, &columns, ahead).await?;
        locked.accounts.extend(more.accounts);
        locked.now = more.now;
    }
    Ok(locked)
}

async fn select(scope: &mut IngestScope, keys: &Columns, ahead: Duration) -> Result<Locked, Error> {
    let rows = sqlx::query!(
        r#"SELECT a.organization_id, a.subject_kind AS "subject_kind: SubjectKind", a.subject_id, a.meter_id, a.window_kind,
               a.state AS "state: Json<Account>", clock_timestamp() AS "now!"
           FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[])
               AS k (organization_id, subject_kind, subject_id, meter_id, window_kind)
           JOIN tenancy.quota_accounts a ON a.organization_id = k.organization_id AND a.subject_kind = k.subject_kind
               AND a.subject_id = k.subject_id AND a.meter_id = k.meter_id AND a.window_kind = k.window_kind
           -- Replicas lock rows in one order.
           ORDER BY a.organization_id, a.subject_kind, a.subject_id, a.meter_id, a.window_kind
           FOR UPDATE OF a"#,
        &keys.organization_ids,
        &keys.subject_kinds as &[&str],
        &keys.subject_ids,
        &keys.meter_ids,
        &keys.window_kinds as &[&str],
    )
    .fetch_all(&mut *scope)
    .await?;
    // The earliest: nothing that is granted lasts longer than was meant.
    let now = rows.iter().map(|row| row.now).min().unwrap_or_default() + ahead;
    let accounts = rows.into_iter().map(|row| {
        let account = AccountKey {
            subject_kind: row.subject_kind,
            subject_id: row.subject_id,
            meter_id: row.meter_id.into(),
            window: Window::try_from(row.window_kind).map_err(Error::internal)?,
        };
        Ok(((row.organization_id.into(), account), row.state.0))
    });
    Ok(Locked { accounts: accounts.collect::<Result<_, Error>>()?, now: now.timestamp_micros() })
}

/// Writes the accounts, and asks for those named to be handed back once that is committed.
async fn save(scope: &mut IngestScope, locked: &Locked, recalled: &[String]) -> Result<(), Error> {
    let columns = Columns::of(locked.accounts.keys());
    let count = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
    let limits: Vec<Option<i64>> = locked.accounts.values().map(|account| account.limit().map(count)).collect();
    let granted: Vec<i64> =
        locked.accounts.iter().map(|((_, key), account)| count(account.granted(key.window, locked.now))).collect();
    let states: Result<Vec<_>, _> = locked.accounts.values().map(serde_json::to_value).collect();
    let expire_times: Vec<DateTime<Utc>> = locked
        .accounts
        .iter()
        .map(|((_, key), account)| {
            DateTime::from_timestamp_micros(account.expires(key.window)).unwrap_or(DateTime::<Utc>::MAX_UTC)
        })
        .collect();
    sqlx::query!(
        "WITH saved AS (
             UPDATE tenancy.quota_accounts a
             -- A limit lowered below what was granted grants no more, so what was granted stays below the ceiling. One that was
             -- soft until now may have had more by the time.
             SET ceiling = CASE
                     WHEN s.amount IS NULL THEN NULL
                     WHEN a.ceiling IS NULL THEN greatest(s.amount, s.granted)
                     ELSE greatest(s.amount, a.granted) END,
                 granted = s.granted, state = s.state, expire_time = s.expire_time
             FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::bigint[], $8::jsonb[],
                 $9::timestamptz[])
                 AS s (organization_id, subject_kind, subject_id, meter_id, window_kind, amount, granted, state, expire_time)
             WHERE a.organization_id = s.organization_id AND a.subject_kind = s.subject_kind
                 AND a.subject_id = s.subject_id AND a.meter_id = s.meter_id AND a.window_kind = s.window_kind
         )
         SELECT pg_notify($10, r.name) FROM UNNEST($11::text[]) AS r (name)",
        &columns.organization_ids,
        &columns.subject_kinds as &[&str],
        &columns.subject_ids,
        &columns.meter_ids,
        &columns.window_kinds as &[&str],
        &limits as &[Option<i64>],
        &granted,
        &states.map_err(Error::internal)?,
        &expire_times,
        CHANNEL,
        recalled
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(())
}

/// The accounts of the scope's organization that there are, and the database's time.
pub async fn read(
    scope: &mut TenantScope,
    ahead: Duration,
    accounts: &[AccountKey],
) -> Result<(LedgerTime, BTreeMap<AccountKey, Account>), Error> {
    let organization_id = scope.organization_id();
    let keys: Vec<Key> = accounts.iter().map(|account| (organization_id, *account)).collect();
    let columns = Columns::of(keys.iter());
    let rows = sqlx::query!(
        r#"SELECT a.subject_kind AS "subject_kind: SubjectKind", a.subject_id, a.meter_id, a.window_kind,
               a.state AS "state: Json<Account>"
           FROM UNNEST($1::text[], $2::uuid[], $3::uuid[], $4::text[]) AS k (subject_kind, subject_id, meter_id, window_kind)
           JOIN tenancy.quota_accounts a ON a.organization_id = $5 AND a.subject_kind = k.subject_kind
               AND a.subject_id = k.subject_id AND a.meter_id = k.meter_id AND a.window_kind = k.window_kind"#,
        &columns.subject_kinds as &[&str],
        &columns.subject_ids,
        &columns.meter_ids,
        &columns.window_kinds as &[&str],
        organization_id.uuid()
    )
    .fetch_all(&mut *scope)
    .await?;
    let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(&mut *scope).await? + ahead;
    let accounts = rows.into_iter().map(|row| {
        let account = AccountKey {
            subject_kind: row.subject_kind,
            subject_id: row.subject_id,
            meter_id: row.meter_id.into(),
            window: Window::try_from(row.window_kind).map_err(Error::internal)?,
        };
        Ok((account, row.state.0))
    });
    Ok((now.timestamp_micros(), accounts.collect::<Result<_, Error>>()?))
}

/// What the replicas sign reservations with.
pub async fn signing_key(scope: &mut PlatformScope) -> Result<[u8; 32], Error> {
    let key = sqlx::query_scalar!("SELECT key FROM tenancy.signing_keys WHERE purpose = 'quota_reservation'")
        .fetch_one(&mut *scope)
        .await?;
    key.try_into().map_err(|_| Error::internal("the signing key has not 32 bytes"))
}

/// Forgets accounts that say nothing any more, and operations older than the given time.
pub async fn forget(scope: &mut PlatformScope, now: DateTime<Utc>, operations: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!("DELETE FROM tenancy.quota_accounts WHERE expire_time < $1", now).execute(&mut *scope).await?;
    sqlx::query!("DELETE FROM tenancy.quota_operations WHERE create_time < $1", operations)
        .execute(&mut *scope)
        .await?;
    Ok(())
}

/// A connection on which [`recalled`] hears which accounts are wanted back.
#[derive(Debug)]
pub struct Listener(PgListener);

/// Begins to listen.
pub async fn listen(database: &Database) -> Result<Listener, Error> {
    let mut listener = database.listener().await?;
    listener.listen(CHANNEL).await?;
    Ok(Listener(listener))
}

/// Waits until an account is wanted back. Error: the connection broke, and some may have been missed.
pub async fn recalled(listener: &mut Listener) -> Result<Key, Error> {
    match listener.0.try_recv().await? {
        Some(notification) => named(notification.payload()),
        None => Err(crate::repository::error::unreachable()),
    }
}

/// An account in a notification.
fn name((organization_id, account): &Key) -> String {
    let AccountKey { subject_kind, subject_id, meter_id, window } = account;
    format!("{organization_id} {} {subject_id} {meter_id} {window}", subject_kind.as_str())
}

fn named(text: &str) -> Result<Key, Error> {
    let unknown = || Error::internal(format!("unknown account {text:?}"));
    let mut parts = text.split(' ');
    let mut next = || parts.next().ok_or_else(unknown);
    let organization_id = next()?.parse()?;
    let subject_kind = SubjectKind::parse(next()?).ok_or_else(unknown)?;
    let subject_id = next()?.parse().map_err(|_| unknown())?;
    let meter_id = next()?.parse()?;
    let window = Window::try_from(next()?.to_owned()).map_err(Error::internal)?;
    Ok((organization_id, AccountKey { subject_kind, subject_id, meter_id, window }))
}
