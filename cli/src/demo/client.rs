//! A small HTTP client: pooled for applications, over a Unix socket for Envoy's admin interface.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Keeps its connections, as applications do.
pub type HttpClient = Client<HttpConnector, Empty<Bytes>>;

/// The answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON of a type.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// A client with a pool of connections of its own.
pub fn pooled() -> HttpClient {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

/// A client that opens a connection for each request: a change for new connections shows at once.
pub fn fresh() -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(HttpConnector::new())
}

/// `GET url` with the given Host header.
///
/// # Errors
/// The URL or the header is not valid, there is no connection, the body ends early, or there is no answer in time.
pub async fn get(client: &HttpClient, url: &str, host: &str, timeout: Duration) -> Result<Reply> {
    let request = Request::get(url)
        .header(http::header::HOST, host)
        .body(Empty::new())?;
    let call = async {
        let response = client.request(request).await.map_err(root_cause)?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .context("the body broke off")?
            .to_bytes();
        Ok(Reply { status, body })
    };
    tokio::time::timeout(timeout, call)
        .await
        .with_context(|| format!("no answer in {timeout:?}"))?
}

/// `GET path` over a Unix socket.
///
/// # Errors
/// Nothing listens on the socket, the connection ends early, or there is no answer in time.
pub async fn get_unix(socket: &Path, path: &str, timeout: Duration) -> Result<Reply> {
    let call = async {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("{}", socket.display()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::get(path)
            .header(http::header::HOST, "admin")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok(Reply { status, body })
    };
    tokio::time::timeout(timeout, call)
        .await
        .with_context(|| format!("no answer in {timeout:?}"))?
}

/// The innermost cause names the fault that "client error (SendRequest)" hides.
fn root_cause(error: hyper_util::client::legacy::Error) -> anyhow::Error {
    anyhow::Error::msg(anyhow::Error::new(error).root_cause().to_string())
}
