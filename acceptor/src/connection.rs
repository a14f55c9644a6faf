//! Sockets, and the connections that come from them: plain or TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::slots::Source;

/// Gives the TLS configuration for the next connection, so that certificates and trust can rotate.
pub type TlsProvider = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address, if the socket has one.
    pub address: Option<SocketAddr>,
    /// The client's certificates, leaf first, as the TLS handshake verified them. Empty on plain TCP.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// A connection, as its requests see it.
#[derive(Debug, Default)]
pub struct Link {
    /// The other end.
    pub peer: Peer,
    /// Once cancelled, the connection takes no further requests, and ends with its last one.
    pub closing: CancellationToken,
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP. A source is an address.
    Tcp(TcpListener),
    /// A Unix socket, for one user alone. A source is a user.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// The user.
        user: u32,
    },
}

impl Listener {
    /// A Unix socket that only processes of one user may connect to.
    #[must_use]
    pub const fn of_user(listener: UnixListener, user: u32) -> Self {
        Self::Unix { listener, user }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// A connection of any kind.
pub(crate) type Connection = Box<dyn Io>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An accepted connection, before its TLS handshake.
pub(crate) struct Raw {
    pub io: Connection,
    pub source: Source,
    pub address: Option<SocketAddr>,
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Raw> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, address) = listener.accept().await?;
                // A socket that is gone already shows at the first read.
                let _ = tcp.set_nodelay(true);
                Ok(Raw {
                    io: Box::new(tcp),
                    source: Source::Address(address.ip().to_canonical()),
                    address: Some(address),
                })
            }
            Self::Unix { listener, user } => loop {
                let (unix, _) = listener.accept().await?;
                if unix.peer_cred().is_ok_and(|peer| peer.uid() == *user) {
                    return Ok(Raw {
                        io: Box::new(unix),
                        source: Source::User(*user),
                        address: None,
                    });
                }
            },
        }
    }
}

/// How connections are protected.
#[derive(Clone)]
pub enum Security {
    /// Not at all: for bare health answers, Unix sockets, and tests on loopback.
    Plain,
    /// TLS by the provider's configuration, which also decides whether a client certificate is required.
    Mtls(TlsProvider),
}

impl Security {
    /// TLS by a closure that is called for each new connection.
    pub fn mtls(provider: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static) -> Self {
        Self::Mtls(Arc::new(provider))
    }

    pub(crate) async fn handshake(
        &self,
        io: Connection,
    ) -> io::Result<(Connection, Arc<[CertificateDer<'static>]>)> {
        match self {
            Self::Plain => Ok((io, Arc::default())),
            Self::Mtls(provider) => {
                let tls = TlsAcceptor::from(with_http(provider())).accept(io).await?;
                let certificates = tls.get_ref().1.peer_certificates();
                let certificates = certificates.unwrap_or_default().into();
                Ok((Box::new(tls), certificates))
            }
        }
    }
}

impl From<Arc<ServerConfig>> for Security {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::mtls(move || Arc::clone(&config))
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

/// gRPC clients require ALPN `h2`. A configuration without any protocol is copied, with `h2`, for each connection.
fn with_http(config: Arc<ServerConfig>) -> Arc<ServerConfig> {
    if !config.alpn_protocols.is_empty() {
        return config;
    }
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
