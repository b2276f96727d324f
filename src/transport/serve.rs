//! Connections: accepted, kept alive, sent away when they are old, and drained at the end.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::RngExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::transport::middleware::Next;

/// How connections are treated.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// How often a silent connection is pinged, and how long the answer may take.
    pub keepalive: Duration,
    /// When a connection is asked to go away, so that load spreads over new replicas; a tenth more or less, so that
    /// they do not all go at once.
    pub max_age: Duration,
    /// How long requests in flight may take to end once their connection is going.
    pub grace: Duration,
    /// The most requests at once on one connection.
    pub max_streams: u32,
}

/// Binds the address; each serving thread takes a clone of the socket, and the system hands connections to whichever is
/// free.
pub fn bind(address: SocketAddr) -> std::io::Result<StdListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // A restart must not wait for connections of the last life in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves until `shutdown`, then drains: connections get `grace` to finish.
pub async fn run(
    listener: StdListener,
    service: impl Next,
    options: ConnectionOptions,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, service.clone(), options, shutdown.clone()));
            }
            // A connection that broke before it was accepted, or no more file descriptors: the next one may do better,
            // but not at once.
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn connection(stream: TcpStream, service: impl Next, options: ConnectionOptions, shutdown: CancellationToken) {
    // Replies are small and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        service.clone().call(request.map(Body::new))
    });
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(options.keepalive)
            .keep_alive_timeout(options.keepalive)
            .max_concurrent_streams(options.max_streams)
            .max_header_list_size(16 << 10)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .serve_connection(TokioIo::new(stream), service)
    );
    #[expect(clippy::disallowed_methods, reason = "spreads load and keeps no secret")]
    let jitter = rand::rng().random_range(0.9..1.1);
    let age = options.max_age.mul_f64(jitter);
    tokio::select! {
        outcome = connection.as_mut() => return ended(outcome),
        () = tokio::time::sleep(age) => {}
        () = shutdown.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(outcome) = tokio::time::timeout(options.grace, connection).await {
        ended(outcome);
    } else {
        tracing::warn!("a connection was cut off: its requests did not end in time");
    }
}

fn ended(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection broke");
    }
}
