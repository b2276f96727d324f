//! Connections: accepted, kept alive, sent away when they are old, and drained at the end.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::RngExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::clock::Clock;
use crate::deadline::Ending;
use crate::transport::body::ReadToEnd;
use crate::transport::io::Collecting;
use crate::transport::middleware::{Arrival, Next};
use crate::transport::peer::Peer;
use crate::transport::requests::Requests;
use crate::transport::tls::Tls;

/// How connections are treated.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// When requests come.
    pub clock: Clock,
    /// How often a silent connection is pinged, and how long the answer may take.
    pub keepalive: Duration,
    /// When a connection is asked to go away, so that load spreads over new replicas; a tenth more or less, so that
    /// they do not all go at once.
    pub max_age: Duration,
    /// How long requests in flight may take to end once their connection is going.
    pub grace: Duration,
    /// The most requests at once on one connection.
    pub max_streams: u32,
    /// `None`: in clear.
    pub tls: Option<Tls>,
}

/// The most connections that wait for the thread that they were handed to. Beyond, who accepted one serves it.
const HANDED: usize = 64;

/// The serving threads, as they share the connections among them.
///
/// The system wakes any thread that waits on the socket, and the first one awake takes all that wait there: measured, of
/// 64 connections opened at once one of two threads served nearly all. So whoever accepts a connection gives it to the
/// thread that has the fewest.
#[derive(Clone, Debug)]
pub struct Threads(Arc<[Seat]>);

#[derive(Debug)]
struct Seat {
    connections: AtomicUsize,
    handed: mpsc::Sender<(StdStream, Place)>,
}

/// One of the serving threads.
#[derive(Debug)]
pub struct Thread {
    threads: Threads,
    number: usize,
    handed: mpsc::Receiver<(StdStream, Place)>,
}

/// A connection's place on its thread, given back when it ends.
#[derive(Debug)]
struct Place {
    threads: Threads,
    number: usize,
}

impl Threads {
    /// So many threads, each to be given to one [`run`].
    #[must_use]
    pub fn seats(count: usize) -> Vec<Thread> {
        let channels = (0..count).map(|_| mpsc::channel(HANDED));
        let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let seat = |handed| Seat { connections: AtomicUsize::new(0), handed };
        let threads = Self(senders.into_iter().map(seat).collect());
        let thread = |(number, handed)| Thread { threads: threads.clone(), number, handed };
        receivers.into_iter().enumerate().map(thread).collect()
    }

    /// A place where the fewest connections are; of equals, with `own`, which need not hand it over.
    fn place(&self, own: usize) -> Place {
        let load = |number: &usize| (self.0[*number].connections.load(Ordering::Relaxed), *number != own);
        let number = (0..self.0.len()).min_by_key(load).unwrap_or(own);
        self.0[number].connections.fetch_add(1, Ordering::Relaxed);
        Place { threads: self.clone(), number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.threads.0[self.number].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Binds the address; each serving thread takes a clone of the socket.
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
    mut thread: Thread,
    service: impl Next,
    options: ConnectionOptions,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    let begin = |stream, place| match TcpStream::from_std(stream) {
        Ok(stream) => {
            connections.spawn(connection(stream, place, service.clone(), options.clone(), shutdown.clone()));
        }
        Err(error) => tracing::warn!(%error, "a connection was lost between two threads"),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            Some((stream, place)) = thread.handed.recv() => {
                begin(stream, place);
                continue;
            }
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok(stream) => {
                let place = thread.threads.place(thread.number);
                if place.number == thread.number {
                    connections.spawn(connection(stream, place, service.clone(), options.clone(), shutdown.clone()));
                } else if let Ok(stream) = stream.into_std() {
                    let handed = &thread.threads.0[place.number].handed;
                    // Closed is a thread that ends; then all do, and the caller connects elsewhere.
                    if let Err(TrySendError::Full((stream, place))) = handed.try_send((stream, place)) {
                        begin(stream, place);
                    }
                }
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

/// One connection, from its first byte on: whoever is slow to shake hands holds up nobody else.
async fn connection(
    stream: TcpStream,
    _place: Place,
    service: impl Next,
    options: ConnectionOptions,
    shutdown: CancellationToken,
) {
    // Replies are small and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let address = stream.peer_addr().ok().map(|address| address.ip());
    let Some(tls) = &options.tls else {
        return serve(stream, Peer { address, spiffe_id: None }, service, &options, shutdown).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = shutdown.cancelled() => return,
    };
    match accepted {
        // Boxed, as who serves in clear would carry it too.
        Ok((stream, spiffe_id)) => {
            Box::pin(serve(stream, Peer { address, spiffe_id }, service, &options, shutdown)).await;
        }
        Err(error) => tracing::debug!(%error, "a handshake failed"),
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    service: impl Next,
    options: &ConnectionOptions,
    shutdown: CancellationToken,
) {
    // Unary calls end by themselves; a stream has to be told.
    let ending = Ending::default();
    let told = ending.clone();
    // The connection's own: counting those of all threads would have them wait for each other, with every request.
    let (service, clock) = (Arc::new(service), options.clock.clone());
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let mut request =
            Arrival::new(request.map(|body| Body::new(ReadToEnd::new(body))), peer.clone(), clock.moment());
        if request.is_stream {
            request.http.extensions_mut().insert(told.clone());
        }
        let service = Arc::clone(&service);
        // Boxed: hyper moves what it is given several times, and this is some kilobytes. Measured, a tenth of a decision.
        Box::pin(async move { Ok::<_, Infallible>(service.run(request).await) })
    });
    let requests = Requests::default();
    let mut connection = std::pin::pin!(
        http2::Builder::new(requests.clone())
            .timer(TokioTimer::new())
            // Nobody reads it in gRPC.
            .auto_date_header(false)
            .keep_alive_interval(options.keepalive)
            .keep_alive_timeout(options.keepalive)
            .max_concurrent_streams(options.max_streams)
            .max_header_list_size(16 << 10)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .serve_connection(TokioIo::new(Collecting(stream)), service)
    );
    #[expect(clippy::disallowed_methods, reason = "spreads load and keeps no secret")]
    let jitter = rand::rng().random_range(0.9..1.1);
    let age = options.max_age.mul_f64(jitter);
    tokio::select! {
        outcome = requests.drive(connection.as_mut()) => return ended(outcome),
        () = tokio::time::sleep(age) => {}
        () = shutdown.cancelled() => {}
    }
    ending.0.cancel();
    connection.as_mut().graceful_shutdown();
    if let Ok(outcome) = tokio::time::timeout(options.grace, requests.drive(connection)).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_where_the_fewest_are() {
        let threads = Threads::seats(3).remove(0).threads;
        let mut places: Vec<Place> = (0..6).map(|_| threads.place(1)).collect();
        let numbers = |places: &[Place]| places.iter().map(|place| place.number).collect::<Vec<_>>();
        assert_eq!(numbers(&places), [1, 0, 2, 1, 0, 2]);
        places.retain(|place| place.number != 2);
        assert_eq!(numbers(&[threads.place(1)]), [2], "ended connections leave room");
    }
}
