//! Refusals of calls that are not read: their callers are still sending when the answer leaves.

use futures_util::stream::{self, StreamExt as _};
use tonic::Code;

use super::{GET, organization};
use crate::harness::{World, raw, refused};

/// More than the frames that h2 forgives on one connection, when they come for a call that it has ended already.
const CALLS: usize = 3000;

/// A connection is shared by many: those that are refused must not cost the others theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_any_number_of_refusals() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (path, what) in [
        ("/tenancy.v1.OrganizationService/SuspendOrganization", (Code::PermissionDenied, "PERMISSION_MISSING")),
        ("/tenancy.v1.Nonsense/GetOrganization", (Code::Unimplemented, "METHOD_NOT_FOUND")),
    ] {
        for size in [1, 40, 20_000] {
            let client = world.client(&tenant.key);
            let calls = (0..CALLS).map(|_| raw(&client, path, vec![0; size]));
            let mut replies = stream::iter(calls).buffer_unordered(32);
            while let Some(reply) = replies.next().await {
                let refusal = refused(reply);
                assert!(refusal.is(what.0, what.1), "{path} of {size} bytes: {refusal:?}");
            }
            assert_eq!(organization(&client).await.organization_id, tenant.id);
        }
    }
    raw(&tenant.client, GET, Vec::new()).await.unwrap();
}
