//! A TLS listener with bounds: so many connections, so long for a handshake.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed `accept`, as when file descriptors have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A connection whose handshake is done. Its place among the open ones is given back when it is dropped.
#[derive(Debug)]
pub struct Connection {
    tls: Box<TlsStream<TcpStream>>,
    address: SocketAddr,
    _place: OwnedSemaphorePermit,
}

/// Binds an address; the error names it. Where there is no IPv6 at all, `[::]` means `0.0.0.0`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let any_v6 = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let bound = match TcpListener::bind(address).await {
        Err(_) if any_v6 => TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await,
        bound => bound,
    };
    bound.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Accepts at most `max` connections at a time; their handshakes run side by side. Ends when the receiver is dropped.
pub async fn accept_all(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    max: usize,
    accepted: mpsc::Sender<Connection>,
) {
    let (places, acceptor) = (Arc::new(Semaphore::new(max)), TlsAcceptor::from(config));
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            tcp = listener.accept() => match tcp {
                Ok((tcp, address)) => {
                    // Beyond the bound a connection is closed at once: its owner tries again, ours is never exhausted.
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                    let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
                    handshakes.spawn(async move {
                        if let Some(connection) = handshake(&acceptor, tcp, address, place).await {
                            // The receiver is gone only at shutdown.
                            let _ = accepted.send(connection).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            Some(done) = handshakes.join_next() => if let Err(error) = done {
                tracing::error!(%error, "a handshake task died");
            },
            () = accepted.closed() => return,
        }
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    let _ = tcp.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => Some(Connection {
            tls: Box::new(tls),
            address,
            _place: place,
        }),
        Ok(Err(error)) => {
            tracing::info!(%address, %error, "handshake failed");
            None
        }
        Err(_) => {
            tracing::info!(%address, "handshake took too long");
            None
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = SocketAddr;

    fn connect_info(&self) -> SocketAddr {
        self.address
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.tls.as_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.tls.as_mut()).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.tls.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.tls.as_mut()).poll_shutdown(cx)
    }
}

/// Accepted connections for axum.
#[derive(Debug)]
pub struct Accepted {
    connections: mpsc::Receiver<Connection>,
    address: SocketAddr,
}

impl Accepted {
    /// Accepts in a task of its own, which ends with this.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(
        listener: TcpListener,
        config: Arc<ServerConfig>,
        max: usize,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send)> {
        let (accepted, connections) = mpsc::channel(1);
        let address = listener.local_addr()?;
        Ok((
            Self {
                connections,
                address,
            },
            accept_all(listener, config, max, accepted),
        ))
    }
}

impl axum::serve::Listener for Accepted {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => {
                let address = connection.address;
                (connection, address)
            }
            // The accepting half runs beside the server and ends with it.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
