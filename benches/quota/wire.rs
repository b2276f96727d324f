//! Calls that cost little: one request, made beforehand, over and over on one connection, straight over HTTP/2. What the
//! load takes of the cores that it shares the service does not have.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderValue, Request};
use prost::Message;
use tokio::net::TcpStream;

use crate::support::Failure;
use crate::support::load::Work;

/// Says whether a reply is as it should be.
pub type Check = fn(&[u8]) -> bool;

/// What is called.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// The key of the caller; may be empty.
    pub key: String,
    /// The requests, of which the streams have one each in turn; framed.
    pub request: Bytes,
    /// What a reply must be.
    pub check: Check,
}

/// One stream of calls: the next is sent when the last is answered.
#[derive(Debug)]
pub struct Stream {
    connection: SendRequest<Bytes>,
    head: Request<()>,
    target: Arc<Target>,
}

/// Connects; the driver of the connection is on the runtime of who calls.
pub async fn connect(address: SocketAddr) -> Result<SendRequest<Bytes>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(4 << 20);
    let (connection, driver) = builder.handshake(stream).await?;
    tokio::spawn(driver);
    Ok(connection.ready().await?)
}

impl Stream {
    /// One more on the connection.
    pub fn new(connection: SendRequest<Bytes>, target: &Arc<Target>) -> Result<Self, Failure> {
        let mut head = Request::post(format!("http://{}{}", target.address, target.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if !target.key.is_empty() {
            head = head.header("x-api-key", HeaderValue::from_str(&target.key)?);
        }
        Ok(Self { connection, head: head.body(())?, target: Arc::clone(target) })
    }
}

impl Work for Stream {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        let (response, mut body) = self.connection.send_request(self.head.clone(), false)?;
        body.send_data(self.target.request.clone(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut message = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            if !message.is_empty() {
                return Err("a reply in pieces".into());
            }
            message = chunk;
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        let is_good = trailers.get("grpc-status").is_some_and(|status| status == "0");
        match message.get(5..) {
            Some(message) if is_good && (self.target.check)(message) => Ok(Some(1)),
            _ => Err(format!("{}: {:?} {trailers:?} {message:?}", self.target.path, head.headers).into()),
        }
    }
}

/// A message as it goes over the wire: not compressed, its length, itself.
pub fn frame(message: &impl Message) -> Result<Bytes, Failure> {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length)?);
    message.encode(&mut framed)?;
    Ok(framed.freeze())
}
