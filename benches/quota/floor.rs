//! The floor: a call that does nothing, of tonic's own server without a layer, on as many threads with a runtime each as the
//! service has. And the same call on connections that are taken, read and written as the service's are.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::Empty;
use tenancy::clock::Clock;
use tenancy::transport::serve::{ConnectionOptions, Threads, bind, run};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::Failure;

/// How its threads are named, with their number.
pub const NAME: &str = "floor-";
/// The same of those that have the service's connections.
pub const BARE: &str = "bare-";

/// Says that all is well, and looks nothing up.
#[derive(Debug)]
struct Nothing;

#[tonic::async_trait]
impl Health for Nothing {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("only Check"))
    }
}

/// Serves on connections like the service's, until the process ends.
pub fn serve_bare(threads: usize) -> Result<SocketAddr, Failure> {
    let listener = bind("127.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    let minute = Duration::from_mins(1);
    let options = ConnectionOptions {
        clock: Clock::system(),
        keepalive: minute,
        max_age: Duration::from_hours(1),
        grace: minute,
        max_streams: 1000,
        tls: None,
    };
    for (number, thread) in Threads::seats(threads).into_iter().enumerate() {
        let listener = listener.try_clone()?;
        let routes = Routes::new(HealthServer::new(Nothing)).prepare();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = run(listener, thread, routes, options.clone(), CancellationToken::new());
        std::thread::Builder::new().name(format!("{BARE}{number}")).spawn(move || runtime.block_on(serving))?;
    }
    Ok(address)
}

/// Serves with tonic's own server, until the process ends.
pub fn serve(threads: usize) -> Result<SocketAddr, Failure> {
    let listener = bind("127.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    for number in 0..threads {
        let listener = listener.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = async {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener)?).with_nodelay(Some(true));
            Server::builder().add_service(HealthServer::new(Nothing)).serve_with_incoming(incoming).await?;
            Ok::<_, Failure>(())
        };
        std::thread::Builder::new().name(format!("{NAME}{number}")).spawn(move || runtime.block_on(serving))?;
    }
    Ok(address)
}
