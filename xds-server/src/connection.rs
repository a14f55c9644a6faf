//! Accepted connections, plain or mTLS.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::source::Peer;

/// Gives the TLS configuration for the next connection, so that certificates and trust can rotate.
pub type TlsProvider = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// How connections are protected.
#[derive(Clone)]
pub enum Security {
    /// Not at all: for tests on loopback.
    Plain,
    /// TLS as the provider says. Whether a client certificate is required is the configuration's to say.
    Mtls(TlsProvider),
}

impl Security {
    /// TLS by a closure that is asked for each new connection.
    pub fn mtls(provider: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static) -> Self {
        Self::Mtls(Arc::new(provider))
    }

    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<(Connection, Peer)> {
        let mut peer = Peer {
            address: tcp.peer_addr().ok(),
            ..Peer::default()
        };
        let io = match self {
            Self::Plain => Connection::Plain(tcp),
            Self::Mtls(provider) => {
                let tls = TlsAcceptor::from(speaking_h2(provider()))
                    .accept(tcp)
                    .await?;
                peer.certificates = tls
                    .get_ref()
                    .1
                    .peer_certificates()
                    .unwrap_or_default()
                    .into();
                Connection::Tls(Box::new(tls))
            }
        };
        Ok((io, peer))
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Mtls(_) => "Mtls",
        })
    }
}

/// gRPC clients insist on ALPN `h2`. A configuration that has it is used as it is; another is copied for each connection.
fn speaking_h2(config: Arc<ServerConfig>) -> Arc<ServerConfig> {
    const H2: &[u8] = b"h2";
    if config.alpn_protocols.iter().any(|protocol| protocol == H2) {
        return config;
    }
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![H2.to_vec()];
    Arc::new(config)
}

/// One connection, after its handshake.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
