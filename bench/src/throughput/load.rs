//! The load: connections that send the next request when the answer to the last has come (closed loop).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Protocol;
use super::application::{GRPC, SIZE, message};
use crate::stats::Sample;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends for a time over these connections, and returns the time of each request in microseconds. Any answer but the right one is an error.
/// On a thread and runtime of its own.
pub(super) async fn run(
    protocol: Protocol,
    at: SocketAddr,
    connections: usize,
    lasts: Duration,
) -> Result<Sample> {
    let thread = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let all = (0..connections).map(|_| connection(protocol, at, lasts));
            let times = try_join_all(all).await?;
            anyhow::Ok(Sample::new(times.into_iter().flatten()))
        })
    };
    tokio::task::spawn_blocking(thread)
        .await?
        .with_context(|| format!("{} on {at}", protocol.name()))
}

async fn connection(protocol: Protocol, at: SocketAddr, lasts: Duration) -> Result<Vec<f64>> {
    let mut caller = Caller::open(protocol, at).await?;
    let mut times = Vec::new();
    let end = Instant::now() + lasts;
    loop {
        let begin = Instant::now();
        if begin >= end {
            return Ok(times);
        }
        tokio::time::timeout(TIMEOUT, caller.call())
            .await
            .context("no answer in time")??;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
}

enum Caller {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
    Bytes(TcpStream),
}

impl Caller {
    async fn open(protocol: Protocol, at: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        match protocol {
            Protocol::Bytes => Ok(Self::Bytes(stream)),
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(Self::Http1(sender))
            }
            Protocol::Http2 | Protocol::Grpc => {
                let io = TokioIo::new(stream);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Ok(match protocol {
                    Protocol::Grpc => Self::Grpc(sender),
                    _ => Self::Http2(sender),
                })
            }
        }
    }

    async fn call(&mut self) -> Result<()> {
        match self {
            Self::Http1(sender) => {
                let mut request = request("/work")?;
                request.headers_mut().insert("host", "echo".parse()?);
                sender.ready().await?;
                answered(sender.send_request(request).await?).await
            }
            Self::Http2(sender) => {
                let request = request("http://echo/work")?;
                sender.ready().await?;
                answered(sender.send_request(request).await?).await
            }
            Self::Grpc(sender) => {
                let request = Request::builder()
                    .method(Method::POST)
                    .version(Version::HTTP_2)
                    .uri("http://echo/bench.Echo/Call")
                    .header("content-type", GRPC)
                    .header("te", "trailers")
                    .body(Full::new(message()))?;
                sender.ready().await?;
                let answer = sender.send_request(request).await?.into_body();
                let answer = answer.collect().await?;
                let status = answer
                    .trailers()
                    .and_then(|t| t.get("grpc-status"))
                    .cloned();
                let length = answer.to_bytes().len();
                ensure!(
                    status.as_ref().is_some_and(|status| status == "0") && length == SIZE + 5,
                    "{status:?}, {length} bytes"
                );
                Ok(())
            }
            Self::Bytes(stream) => {
                stream.write_all(&[b'x'; SIZE]).await?;
                let mut back = [0; SIZE];
                stream.read_exact(&mut back).await?;
                Ok(())
            }
        }
    }
}

fn request(uri: &str) -> Result<Request<Full<Bytes>>> {
    Ok(Request::get(uri).body(Full::default())?)
}

async fn answered(response: http::Response<hyper::body::Incoming>) -> Result<()> {
    let status = response.status();
    let length = response.into_body().collect().await?.to_bytes().len();
    ensure!(status == 200 && length == SIZE, "{status}, {length} bytes");
    Ok(())
}
