//! A kept connection to a replica, for questions one after the other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::admin::NAME;
use super::token::Token;

/// The time for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Each answer has 500 rows of some kB at most.
const MAX_ANSWER: usize = 16 << 20;

/// Why a question has no good answer.
#[derive(Debug)]
pub enum Failure {
    /// The replica refuses it.
    Refused(StatusCode, String),
    /// The connection is of no use any more.
    Broken(anyhow::Error),
}

/// A connection that ends with its value.
pub struct Session {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
    forwarder: Option<Portforwarder>,
    token: Option<Token>,
}

impl Session {
    /// Begins HTTP/1.1 on a stream.
    ///
    /// # Errors
    /// The connection ends before it can be used.
    pub(super) async fn new<S>(
        stream: S,
        token: Option<Token>,
        forwarder: Option<Portforwarder>,
    ) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move {
            // Its end shows at the next question.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            connection,
            forwarder,
            token,
        })
    }

    /// Connects to a socket of a standalone control plane.
    ///
    /// # Errors
    /// The socket is not there, or nothing listens on it.
    pub async fn local(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.with_context(|| format!("cannot connect to {}", socket.display()))?;
        Self::new(stream, None, None).await
    }

    /// Posts JSON to a path, and returns the answer.
    ///
    /// # Errors
    /// The replica answers with another status than 200, or the connection ended, is too slow, or its answer is too large.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let exchange = self.exchange(path, body);
        let answer = tokio::time::timeout(TIMEOUT, exchange).await;
        let answer = answer.unwrap_or_else(|_| {
            let text = format!("no answer in {} s", TIMEOUT.as_secs());
            Err(anyhow::Error::msg(text))
        });
        match answer.map_err(Failure::Broken)? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => {
                let text = String::from_utf8_lossy(&body).trim().to_owned();
                Err(Failure::Refused(status, text))
            }
        }
    }

    async fn exchange(&mut self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::post(path)
            .header(header::HOST, NAME)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        let request = request.body(Full::new(body))?;
        self.sender.ready().await.context("the connection ended")?;
        let response = self.sender.send_request(request).await;
        let response = response.context("no answer from it")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!("its answer broke off: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
        if let Some(forwarder) = &mut self.forwarder {
            forwarder.abort();
        }
    }
}
