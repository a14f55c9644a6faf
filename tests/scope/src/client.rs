//! Calls as an application makes them: from within its pod, by address, captured like all it does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, TE};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::net::Netns;

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The report of an application about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The pod that answers.
    pub app: String,
    /// The path it saw.
    pub path: String,
    /// The host it saw.
    pub host: String,
    /// `x-forwarded-client-cert` as it received it: the caller's identity by its sidecar.
    pub peer: String,
    /// The version of HTTP it was asked in.
    pub version: String,
}

/// A response that is none of the application's.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its status.
    pub status: u16,
    /// Its words.
    pub body: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}: {}", self.status, self.body)
    }
}

impl std::error::Error for Refused {}

/// An application that calls.
#[derive(Clone, Debug)]
pub struct Client {
    netns: Arc<Netns>,
    from_node: bool,
}

impl Client {
    pub(crate) fn new(netns: Arc<Netns>) -> Self {
        Self {
            netns,
            from_node: false,
        }
    }

    /// Calls from the node's own address, as the kubelet does.
    pub(crate) fn from_node(netns: Arc<Netns>) -> Self {
        Self {
            netns,
            from_node: true,
        }
    }

    /// A connection.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        timeout(LIMIT, self.netns.connect(to, self.from_node))
            .await
            .context("no connection in time")?
    }

    /// A connection for HTTP/1.1.
    ///
    /// # Errors
    /// When there is none.
    pub async fn http(&self, to: SocketAddr) -> Result<Http> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect(to).await?)).await?;
        Ok(Http {
            sender,
            connection: tokio::spawn(async move {
                // The cause of the end shows in the next request.
                let _ = connection.await;
            }),
        })
    }

    /// A request of HTTP/1.1 on a connection of its own.
    ///
    /// # Errors
    /// When the application does not answer, but something else or nothing.
    pub async fn call(&self, to: SocketAddr) -> Result<Answer> {
        self.call_as(to, "app").await
    }

    /// The same, with a host of one's choice.
    ///
    /// # Errors
    /// When the application does not answer, but something else or nothing.
    pub async fn call_as(&self, to: SocketAddr, host: &str) -> Result<Answer> {
        self.http(to).await?.get("/", host).await
    }

    /// The status that a request gets.
    ///
    /// # Errors
    /// When there is no response.
    pub async fn status(&self, to: SocketAddr) -> Result<u16> {
        Ok(self
            .http(to)
            .await?
            .send("/", "app")
            .await?
            .status()
            .as_u16())
    }

    /// A call as gRPC makes it: HTTP/2 without TLS, the verdict in the trailers.
    ///
    /// # Errors
    /// When the application does not answer, or without the trailers.
    pub async fn grpc(&self, to: SocketAddr) -> Result<Answer> {
        let stream = TokioIo::new(self.connect(to).await?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        let connection = tokio::spawn(connection);
        let request = Request::post(format!("http://{to}/scope.Test/Call"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Empty::<Bytes>::new())?;
        let response = timeout(LIMIT, sender.send_request(request))
            .await
            .context("no response in time")??;
        ensure!(response.status() == 200, "status {}", response.status());
        let body = timeout(LIMIT, response.into_body().collect())
            .await
            .context("no end in time")??;
        let status = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"));
        ensure!(
            status.is_some_and(|status| status == "0"),
            "no good grpc-status: {status:?}"
        );
        connection.abort();
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }

    /// The greeting of a server, before the client sends a byte.
    ///
    /// # Errors
    /// The server does not greet in time.
    pub async fn banner(&self, to: SocketAddr) -> Result<String> {
        let mut stream = self.connect(to).await?;
        let mut name = String::new();
        loop {
            match timeout(LIMIT, stream.read_u8())
                .await
                .context("no greeting")??
            {
                b'\n' => break,
                byte => name.push(char::from(byte)),
            }
        }
        exchange(&mut stream, b"thanks").await?;
        Ok(name)
    }

    /// Sends some bytes and gets them back.
    ///
    /// # Errors
    /// When it does not.
    pub async fn echo(&self, to: SocketAddr) -> Result<()> {
        exchange(&mut self.connect(to).await?, b"is anybody there").await
    }

    /// Sends all, closes its half, and takes the answer to the end.
    ///
    /// # Errors
    /// When the connection does not last.
    pub async fn half_close(&self, to: SocketAddr, all: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.connect(to).await?;
        timeout(LIMIT, async {
            stream.write_all(all).await?;
            stream.shutdown().await?;
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await?;
            Ok(back)
        })
        .await
        .context("no end in time")?
    }
}

/// Sends something over a connection to an application that sends it back.
///
/// # Errors
/// When something else or nothing comes back.
pub async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    timeout(LIMIT, async {
        stream.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await?;
        ensure!(back == bytes, "something else came back");
        Ok(())
    })
    .await
    .context("nothing came back in time")?
}

/// A connection of HTTP/1.1 that may take many requests.
#[derive(Debug)]
pub struct Http {
    sender: http1::SendRequest<Empty<Bytes>>,
    connection: JoinHandle<()>,
}

impl Http {
    /// A request that the application must answer.
    ///
    /// # Errors
    /// [`Refused`] when something else answers; others when nothing does.
    pub async fn get(&mut self, path: &str, host: &str) -> Result<Answer> {
        let response = self.send(path, host).await?;
        let status = response.status().as_u16();
        let body = timeout(LIMIT, response.into_body().collect())
            .await
            .context("no end in time")??
            .to_bytes();
        if status != 200 {
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(Refused { status, body }.into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// A request; the response's body is left to the caller.
    ///
    /// # Errors
    /// When there is no response.
    pub async fn send(&mut self, path: &str, host: &str) -> Result<Response<Incoming>> {
        let request = Request::get(path).header(HOST, host).body(Empty::new())?;
        let sent = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        Ok(timeout(LIMIT, sent)
            .await
            .context("no response in time")??)
    }

    /// Whether the peer has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
