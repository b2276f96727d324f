//! One HTTP/2 connection and what really comes over it: no deadline of the client's own, no new connection behind the
//! caller's back. And the admin port.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// A connection.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

/// The connection broke; what became of the call is unknown.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The headers, and the trailers among them.
    pub headers: HeaderMap,
    /// The message or the refusal.
    pub outcome: Result<Bytes, Status>,
}

impl Wire {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    /// Connects to a service that may be gone.
    pub async fn try_connect(address: SocketAddr) -> Result<Self, Broken> {
        Self::over(TcpStream::connect(address).await?, address).await
    }

    /// The same over what is connected already.
    pub async fn over<S>(stream: S, address: SocketAddr) -> Result<Self, Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        Ok(Self { address, sender, connection: tokio::spawn(connection) })
    }

    /// Sends a message and waits for the end of the reply. Dropping the future resets the stream.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], message: impl prost::Message) -> Reply {
        self.try_call(path, headers, &message.encode_to_vec()).await.unwrap()
    }

    /// The same to a service that may be gone.
    pub async fn try_call(&self, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Result<Reply, Broken> {
        let mut framed = vec![0];
        framed.put_u32(message.len().try_into().unwrap());
        framed.extend_from_slice(message);
        let mut request = http::Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(framed.into())).unwrap()).await?;
        let mut headers = response.headers().clone();
        let body = response.into_body().collect().await?;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        let outcome = match Status::from_header_map(&headers) {
            Some(status) if status.code() == Code::Ok => Ok(body.to_bytes().slice(5..)),
            Some(status) => Err(status),
            None => panic!("no grpc-status: {headers:?}"),
        };
        Ok(Reply { headers, outcome })
    }

    /// Waits until the service has closed the connection.
    pub async fn closed(self) -> hyper::Result<()> {
        self.connection.await.unwrap()
    }

    /// Breaks the connection off, as a client that dies does.
    pub fn break_off(self) {
        self.connection.abort();
    }
}

impl Reply {
    /// The id of the request.
    pub fn request_id(&self) -> &str {
        self.headers["x-request-id"].to_str().unwrap()
    }
}

/// What the admin port says: the HTTP status and the body; 0 where nobody listens.
pub async fn admin(address: SocketAddr, path: &str) -> (u16, String) {
    let ask = async || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply)
    };
    let reply = ask().await.unwrap_or_default();
    let Some((head, body)) = reply.split_once("\r\n\r\n") else { return (0, reply) };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
