//! The application: answers of 1 kB over HTTP/1.1, HTTP/2 and gRPC, and an echo of bytes.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::pair::Ports;

/// The bytes of each answer, and of each request that has a body.
pub(super) const SIZE: usize = 1024;
pub(super) const GRPC: &str = "application/grpc";

/// Serves until the process ends, on a thread and runtime of its own.
pub(super) fn start(at: Ports) -> Result<()> {
    let (requests, bytes) = (bind(at.requests)?, bind(at.bytes)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let serve = move || {
        runtime.block_on(async {
            let ended = tokio::try_join!(accept(requests, serve_requests), accept(bytes, echo),);
            eprintln!("the application ended: {ended:?}");
        });
    };
    std::thread::Builder::new()
        .name("application".to_owned())
        .spawn(serve)?;
    Ok(())
}

fn bind(at: SocketAddr) -> Result<std::net::TcpListener> {
    let listener =
        std::net::TcpListener::bind(at).with_context(|| format!("the application at {at}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept<F>(listener: std::net::TcpListener, serve: fn(TcpStream) -> F) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

async fn serve_requests(stream: TcpStream) {
    // A caller that hangs up is not an event here.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn echo(mut stream: TcpStream) {
    let mut bytes = vec![0; SIZE];
    while stream.read_exact(&mut bytes).await.is_ok() && stream.write_all(&bytes).await.is_ok() {}
}

/// A message of gRPC: not compressed, with its length.
pub(super) fn message() -> Bytes {
    let length = u32::try_from(SIZE).unwrap_or_default();
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.extend([b'x'; SIZE]);
    message.into()
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == GRPC);
    request.into_body().collect().await?;
    if !grpc {
        let body = Full::new(Bytes::from_static(&[b'x'; SIZE]));
        return Ok(Response::new(body.boxed()));
    }
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let frames = [Frame::data(message()), Frame::trailers(trailers)];
    let body = StreamBody::new(stream::iter(frames.map(Ok)));
    let mut response = Response::new(BodyExt::boxed(body));
    let kind = HeaderValue::from_static(GRPC);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
