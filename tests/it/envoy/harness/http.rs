//! Requests over HTTP, as a browser or `curl` sends them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

/// How a request travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, from the first byte on.
    Http2,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The connection broke.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Far longer than anything takes: what hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

impl Ask {
    /// A GET.
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A request.
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new() }
    }

    /// The same with a header more.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a key.
    pub fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    /// Sends it on a connection of its own.
    pub async fn send(&self, to: SocketAddr, version: Version) -> Answer {
        self.try_send(to, version).await.unwrap()
    }

    /// The same to somebody who may be gone.
    pub async fn try_send(&self, to: SocketAddr, version: Version) -> Result<Answer, Broken> {
        tokio::time::timeout(PATIENCE, self.exchange(to, version)).await?
    }

    async fn exchange(&self, to: SocketAddr, version: Version) -> Result<Answer, Broken> {
        let stream = TokioIo::new(TcpStream::connect(to).await?);
        let response = match version {
            Version::Http1 => {
                let (mut sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                sender.send_request(self.request(&self.path, Some(to))?).await?
            }
            Version::Http2 => {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                sender.send_request(self.request(&format!("http://{to}{}", self.path), None)?).await?
            }
        };
        Answer::read(response).await
    }

    fn request(&self, uri: &str, host: Option<SocketAddr>) -> Result<Request<Full<Bytes>>, Broken> {
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        if let Some(host) = host {
            request = request.header("host", host.to_string());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::default())?)
    }
}

impl Answer {
    async fn read(response: Response<Incoming>) -> Result<Self, Broken> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Self { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// A header that is there at most once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert!(values.len() <= 1, "{name}: {values:?}");
        values.first().map(|value| value.to_str().unwrap())
    }

    /// The body.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body, read.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The reason of a denial.
    #[track_caller]
    pub fn reason(&self) -> String {
        self.json()["error"]["reason"].as_str().unwrap_or_else(|| panic!("no reason: {self:?}")).to_owned()
    }

    /// A header as it reached the application, which says so in its reply; several are joined by `" & "`.
    #[track_caller]
    pub fn upstream(&self, name: &str) -> Option<String> {
        assert_eq!(self.status, 200, "{self:?}");
        let reply = self.json();
        let headers = reply["headers"].as_array().unwrap();
        let values = headers.iter().filter(|header| header[0] == name).map(|header| header[1].as_str().unwrap());
        let values: Vec<_> = values.collect();
        (!values.is_empty()).then(|| values.join(" & "))
    }
}
