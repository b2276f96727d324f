//! An Envoy, a Tenancy and an application that most tests share: each test has a tenant of its own.

use std::thread;

use tenancy::auth::permission::Permission;
use tokio::runtime::Builder;
use tokio::sync::OnceCell;

use crate::envoy::harness::{Bootstrap, Envoy, Upstream, program, with_routes};
use crate::harness::World;

/// What is shared.
#[derive(Debug)]
pub struct Stage {
    /// Tenancy.
    pub world: World,
    /// The Envoy.
    pub envoy: Envoy,
    /// The application.
    pub upstream: Upstream,
}

impl Stage {
    /// With changes of the bootstrap, and for one test: all that a test wants changed.
    pub async fn with(change: impl FnOnce(Bootstrap) -> Bootstrap) -> Self {
        let (world, upstream) = (World::start().await, Upstream::start().await);
        let envoy = front(&world, &upstream, change).await;
        Self { world, envoy, upstream }
    }
}

/// An Envoy before this Tenancy, with the routes of tests and changes of the bootstrap.
pub async fn front(world: &World, upstream: &Upstream, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Envoy {
    let bootstrap = with_routes(Bootstrap::shipped(world.running.grpc, upstream.address));
    Envoy::start(&change(bootstrap), &sidecar_key(world).await).await
}

/// The key of a sidecar for all organizations.
async fn sidecar_key(world: &World) -> String {
    world.service_key(&[Permission::Sidecar], &[]).await
}

/// The stage, or `None` without an Envoy, of which was told then.
pub async fn stage() -> Option<&'static Stage> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    program()?;
    Some(STAGE.get_or_init(build).await)
}

/// On a runtime that outlives the test that came first, for what runs in the background.
async fn build() -> Stage {
    let (done, built) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            done.send(Stage::with(|bootstrap| bootstrap).await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    built.await.unwrap()
}
