//! Operations: each happens once, whoever repeats it on whichever replica. Many share a transaction.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::quota::decision::{Operation, Recorded};
use crate::repository::quota::{Columns, Key, save, select};
use crate::repository::scope::IngestScope;

/// Which operation of which organization.
pub type OperationKey = (OrganizationId, Uuid);

/// Does operations, each once: what was done under its id before is told instead. They are distinct and ascending by their
/// keys, the order in which all replicas lock them; their accounts come after them all, in the order of [`Key`].
///
/// Errors: `Conflict` when the whole transaction is to be tried again.
pub async fn operate(
    scope: &mut IngestScope,
    ahead: Duration,
    operations: &[&(OrganizationId, Operation)],
    now: DateTime<Utc>,
) -> Result<Vec<Recorded>, Error> {
    let ids: Vec<OperationKey> =
        operations.iter().map(|(organization_id, operation)| (*organization_id, operation.id)).collect();
    let (organization_ids, operation_ids) = columns(&ids);
    let hashes: Vec<&[u8]> = operations.iter().map(|(_, operation)| operation.request_hash.as_slice()).collect();
    let replies: Vec<&[u8]> = operations.iter().map(|(_, operation)| operation.reply.as_slice()).collect();
    let inserted = sqlx::query!(
        "INSERT INTO tenancy.quota_operations (organization_id, operation_id, request_hash, reply, create_time)
         SELECT o.organization_id, o.operation_id, o.request_hash, o.reply, $5
         FROM UNNEST($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[])
             WITH ORDINALITY AS o (organization_id, operation_id, request_hash, reply, place)
         ORDER BY o.place
         ON CONFLICT DO NOTHING
         RETURNING organization_id, operation_id",
        &organization_ids,
        &operation_ids,
        &hashes as &[&[u8]],
        &replies as &[&[u8]],
        now
    )
    .fetch_all(&mut *scope)
    .await?;
    let inserted: HashSet<OperationKey> =
        inserted.into_iter().map(|row| (row.organization_id.into(), row.operation_id)).collect();
    let (new, old): (Vec<_>, Vec<_>) = operations
        .iter()
        .copied()
        .partition(|(organization_id, operation)| inserted.contains(&(*organization_id, operation.id)));
    let old: Vec<OperationKey> =
        old.iter().map(|(organization_id, operation)| (*organization_id, operation.id)).collect();
    let mut before = recall(scope, &old).await?;
    correct(scope, ahead, &new).await?;
    let outcome = |id: &OperationKey| {
        if inserted.contains(id) {
            return Ok(Recorded::Now);
        }
        // Gone again: it is so old that it was forgotten between the two statements.
        before.remove(id).ok_or(Error::Conflict)
    };
    ids.iter().map(outcome).collect()
}

/// Makes the corrections of operations, in one go for all of their accounts.
async fn correct(
    scope: &mut IngestScope,
    ahead: Duration,
    operations: &[&(OrganizationId, Operation)],
) -> Result<(), Error> {
    let corrections: Vec<_> = operations
        .iter()
        .flat_map(|(organization_id, operation)| {
            operation.corrections.iter().map(move |correction| ((*organization_id, correction.account), correction))
        })
        .collect();
    if corrections.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<Key> = corrections.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut locked = select(scope, &Columns::of(keys.iter()), ahead).await?;
    for (key, correction) in corrections {
        // An account that the ledger does not know has nothing to be corrected.
        if let Some(account) = locked.accounts.get_mut(&key) {
            account.correct(locked.now, correction.slot, correction.change);
        }
    }
    if !locked.accounts.is_empty() {
        save(scope, &locked, &[]).await?;
    }
    Ok(())
}

/// What became of operations; those that are missing did not happen, or so long ago that they were forgotten.
pub async fn recall(scope: &mut IngestScope, ids: &[OperationKey]) -> Result<HashMap<OperationKey, Recorded>, Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let (organization_ids, operation_ids) = columns(ids);
    let before = sqlx::query!(
        "SELECT q.organization_id, q.operation_id, q.request_hash, q.reply
         FROM UNNEST($1::uuid[], $2::uuid[]) AS o (organization_id, operation_id)
         JOIN tenancy.quota_operations q ON q.organization_id = o.organization_id AND q.operation_id = o.operation_id",
        &organization_ids,
        &operation_ids
    )
    .fetch_all(&mut *scope)
    .await?;
    let before = before.into_iter().map(|row| {
        let recorded = Recorded::Before { request_hash: row.request_hash, reply: row.reply };
        ((row.organization_id.into(), row.operation_id), recorded)
    });
    Ok(before.collect())
}

fn columns(ids: &[OperationKey]) -> (Vec<Uuid>, Vec<Uuid>) {
    ids.iter().map(|(organization_id, operation_id)| (organization_id.uuid(), *operation_id)).unzip()
}
