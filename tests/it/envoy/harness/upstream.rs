//! The application behind the Envoy, which knows nothing of Tenancy. It answers with what it was sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;

/// A running application. It ends with the runtime that it was started on.
///
/// In the query of a request: `status=` is that of the reply, `tokens=` its header x-tokens, `trailer=` its trailer
/// x-tokens, `bytes=` the size of its body, `delay=` after how many milliseconds it comes. To a gRPC request it replies with a message, which is the same text.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where it is.
    pub address: SocketAddr,
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Upstream {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let serving = upstream.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| serving.clone().serve(request));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        upstream
    }

    /// How many requests for a path reached it, whatever their query.
    pub fn seen(&self, path: &str) -> u64 {
        self.seen.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
        *self.seen.lock().unwrap().entry(head.uri.path().to_owned()).or_default() += 1;
        let headers: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let wanted = |name: &str| -> Option<&str> {
            let pairs = head.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
        };
        if let Some(delay) = wanted("delay") {
            tokio::time::sleep(Duration::from_millis(delay.parse().unwrap())).await;
        }
        let reply = json!({
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "headers": headers,
            "bytes": body.len(),
            "version": format!("{:?}", head.version),
        });
        let mut text = reply.to_string().into_bytes();
        if let Some(bytes) = wanted("bytes") {
            text = vec![b'.'; bytes.parse().unwrap()];
        }
        let mut response = Response::builder().status(wanted("status").map_or(200, |status| status.parse().unwrap()));
        if let Some(tokens) = wanted("tokens") {
            response = response.header("x-tokens", tokens);
        }
        let mut trailers = HeaderMap::new();
        if let Some(tokens) = wanted("trailer") {
            trailers.insert("x-tokens", tokens.parse().unwrap());
        }
        if head.headers.get("content-type").is_some_and(|sort| sort.as_bytes().starts_with(b"application/grpc")) {
            let mut message = BytesMut::from(&[0][..]);
            message.put_u32(text.len().try_into().unwrap());
            message.extend_from_slice(&text);
            text = message.to_vec();
            response = response.header("content-type", "application/grpc");
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        let trailers = async move { (!trailers.is_empty()).then_some(Ok(trailers)) };
        let body: Reply = Full::new(Bytes::from(text)).with_trailers(Box::pin(trailers));
        Ok(response.body(body).unwrap())
    }
}

type Trailers = std::pin::Pin<Box<dyn Future<Output = Option<Result<HeaderMap, Infallible>>> + Send>>;
type Reply = http_body_util::combinators::WithTrailers<Full<Bytes>, Trailers>;
