//! What has to happen once over all replicas: operations, committed alone or many in one transaction.

use std::collections::HashMap;

use uuid::Uuid;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::quota::decision::{Operation, Recorded};
use crate::quota::engine::{Common, Engine};
use crate::repository::quota::operations::{self, OperationKey};

/// The most operations of a transaction.
const BATCH: usize = 256;
/// The most organizations of a transaction: the policies look for each row's organization in lists of them.
const ORGANIZATIONS: usize = 64;
/// How often a transaction that lost against others is tried, in all.
const ATTEMPTS: u32 = 3;

/// An operation of an organization.
pub type Named = (OrganizationId, Operation);

impl Engine {
    /// Commits an operation: once, whoever repeats it on whichever replica.
    pub async fn record(&self, organization_id: OrganizationId, operation: Operation) -> Result<Recorded, Error> {
        let recorded = commit(&self.0.shared, &[&(organization_id, operation)]).await?.pop();
        recorded.ok_or_else(|| Error::internal("an operation without an outcome"))
    }

    /// Commits operations of whichever organizations as if one by one in their order, in few transactions; what became of
    /// each, in that order. Where one is at fault, it alone has the error.
    pub async fn record_all(&self, operations: &[Named]) -> Vec<Result<Recorded, Error>> {
        // Of those of one id the first holds: the sort is stable.
        let mut distinct: Vec<&Named> = operations.iter().collect();
        distinct.sort_by_key(|named| key(named));
        distinct.dedup_by_key(|named| key(named));
        let mut outcomes = HashMap::with_capacity(distinct.len());
        for mut part in parts(&distinct) {
            let mut parts = Vec::new();
            loop {
                match commit(&self.0.shared, part).await {
                    Ok(recorded) => {
                        outcomes.extend(part.iter().map(|named| key(named)).zip(recorded.into_iter().map(Ok)));
                    }
                    Err(error) if part.len() > 1 && lies_in_the_rows(&error) => {
                        tracing::warn!(%error, operations = part.len(), "a batch of operations failed; halving it");
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                    Err(error) => outcomes.extend(part.iter().map(|named| (key(named), Err(error.clone())))),
                }
                match parts.pop() {
                    Some(next) => part = next,
                    None => break,
                }
            }
        }
        let outcome = |named: &Named| match outcomes.get_mut(&key(named)) {
            Some(now @ Ok(Recorded::Now)) => {
                // For those who repeat it in the same batch.
                let Operation { request_hash, reply, .. } = named.1.clone();
                std::mem::replace(now, Ok(Recorded::Before { request_hash, reply }))
            }
            Some(known) => known.clone(),
            None => Err(Error::internal("an operation without an outcome")),
        };
        operations.iter().map(outcome).collect()
    }

    /// What became of operations that may have happened, on whichever replica; those that did not are missing.
    pub async fn recall_all(&self, ids: &[OperationKey]) -> Result<HashMap<OperationKey, Recorded>, Error> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut all = HashMap::new();
        for part in within(&ids, |id| id.0) {
            let mut scope = self.0.shared.database.ingest(organizations(part, |id| id.0)).await?;
            all.extend(operations::recall(&mut scope, part).await?);
        }
        Ok(all)
    }

    /// The same of one; `None`: it did not happen.
    pub async fn recall(&self, organization_id: OrganizationId, id: Uuid) -> Result<Option<Recorded>, Error> {
        let key = (organization_id, id);
        Ok(self.recall_all(&[key]).await?.remove(&key))
    }
}

/// Commits distinct operations, ascending by their keys, in one transaction; again when it lost against another one.
async fn commit(shared: &Common, operations: &[&Named]) -> Result<Vec<Recorded>, Error> {
    let mut attempt = 1;
    loop {
        let outcome = async {
            let mut scope = shared.database.ingest(organizations(operations, |named| named.0)).await?;
            let now = shared.clock.now();
            let recorded = operations::operate(&mut scope, shared.clock.ahead(), operations, now).await?;
            // What did nothing need not be waited for.
            if recorded.contains(&Recorded::Now) {
                scope.commit().await?;
            }
            Ok(recorded)
        };
        let recorded = match outcome.await {
            Err(Error::Conflict) if attempt < ATTEMPTS => {
                attempt += 1;
                continue;
            }
            outcome => outcome?,
        };
        let new = operations.iter().zip(&recorded).filter(|(_, recorded)| **recorded == Recorded::Now);
        for ((organization_id, operation), _) in new {
            if let Some(desk) = shared.desks.find(*organization_id) {
                desk.lock().book.corrected(&operation.corrections);
            }
        }
        return Ok(recorded);
    }
}

const fn key((organization_id, operation): &Named) -> OperationKey {
    (*organization_id, operation.id)
}

/// Whether leaving out some rows may help; otherwise it is everybody's fate.
const fn lies_in_the_rows(error: &Error) -> bool {
    !matches!(error, Error::Unavailable { .. } | Error::DeadlineExceeded)
}

fn parts<'a, 'n>(operations: &'a [&'n Named]) -> impl Iterator<Item = &'a [&'n Named]> {
    within(operations, |named| named.0)
}

/// Cuts what is sorted by organization into what one transaction may have.
fn within<T>(mut rest: &[T], organization: impl Fn(&T) -> OrganizationId) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let most = &rest[..rest.len().min(BATCH)];
        let mut changes = (1..most.len()).filter(|at| organization(&most[at - 1]) != organization(&most[*at]));
        let end = changes.nth(ORGANIZATIONS - 1).unwrap_or(most.len());
        let (part, others) = rest.split_at(end);
        rest = others;
        (!part.is_empty()).then_some(part)
    })
}

fn organizations<T>(of: &[T], organization: impl Fn(&T) -> OrganizationId) -> Vec<OrganizationId> {
    let mut organizations: Vec<_> = of.iter().map(organization).collect();
    organizations.dedup();
    organizations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_so_many_operations_of_so_many_organizations() {
        let sizes = |organizations: &[u128]| -> Vec<usize> {
            within(organizations, |number| Uuid::from_u128(*number).into()).map(<[u128]>::len).collect()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[7; 600]), [256, 256, 88]);
        assert_eq!(sizes(&(0..150).collect::<Vec<_>>()), [64, 64, 22]);
        let pairs: Vec<u128> = (0..150).map(|number| number / 2).collect();
        assert_eq!(sizes(&pairs), [128, 22]);
    }
}
