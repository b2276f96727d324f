//! Calls that do not come in one frame, as nearly all do: to what is answered directly, and to what is not.

use bytes::{BufMut as _, Bytes};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tenancy::proto::v1;
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::World;

/// Sends the frames of a call; what came back, or why nothing did.
async fn call(world: &World, path: &str, key: &str, frames: &[&[u8]]) -> Result<Bytes, Status> {
    let stream = TcpStream::connect(world.running.grpc).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let frames: Vec<Result<_, std::io::Error>> =
        frames.iter().map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame)))).collect();
    let request = http::Request::post(format!("http://{}{path}", world.running.grpc))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-api-key", key)
        .body(StreamBody::new(stream::iter(frames)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let mut headers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    headers.extend(body.trailers().cloned().unwrap_or_default());
    let status = Status::from_header_map(&headers).unwrap();
    if status.code() == Code::Ok { Ok(body.to_bytes().slice(5..)) } else { Err(status) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_pieces_is_answered_like_one_in_one_piece() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let key = &tenant.key;
    let verify = v1::VerifyApiKeyRequest { api_key: key.clone(), ..Default::default() }.encode_to_vec();
    let get = v1::GetOrganizationRequest::default().encode_to_vec();
    for (path, message) in
        [("/tenancy.v1.ApiKeyService/VerifyApiKey", verify), ("/tenancy.v1.OrganizationService/GetOrganization", get)]
    {
        let mut whole = vec![0];
        whole.put_u32(message.len().try_into().unwrap());
        whole.extend_from_slice(&message);
        let answer = call(&world, path, key, &[&whole]).await.unwrap();
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        for frames in [&[&whole[..3], &whole[3..]][..], &[&whole[..], b""], &bytes] {
            assert_eq!(call(&world, path, key, frames).await.unwrap(), answer, "{path}: {} frames", frames.len());
        }
        let mut compressed = whole.clone();
        compressed[0] = 1;
        for wrong in [&whole[..whole.len() - 1], &whole[..4], &compressed, b""] {
            // What is no more than a prefix is whole where the message is empty.
            if wrong.len() < 5 || !message.is_empty() {
                let status = call(&world, path, key, &[wrong]).await.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{path}: {wrong:?}");
                assert_eq!(status.get_details_error_info().unwrap().reason, "MALFORMED_MESSAGE");
            }
        }
    }
}
