//! The listeners of the control plane: one acceptor for each port, with bounds that the open files of the process allow.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use heddle_acceptor::{
    Acceptor, BACKLOG, Bounds, ConnectionHandler, Counters, Counts, Deadlines, Http, Link, Options,
    Protocol, Security,
};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::tasks::Ended;

/// Open files that are not counted connections of our listeners: displaced connections that are closing, connections to the
/// API server, files, sockets.
const OTHER_FILES: u64 = 256;

/// The servers of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 15010: discovery, by mTLS.
    Discovery,
    /// 15011: certificates, by TLS and a token.
    Issuing,
    /// 15014: metrics and proxy states, by TLS and a token.
    Metrics,
    /// 15017: the webhook, by TLS.
    Webhook,
    /// 15021: bare health answers.
    Health,
}

impl Port {
    const ALL: [Self; 5] = [
        Self::Discovery,
        Self::Issuing,
        Self::Metrics,
        Self::Webhook,
        Self::Health,
    ];

    /// The name in metrics and log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Issuing => "certificates",
            Self::Metrics => "metrics",
            Self::Webhook => "webhook",
            Self::Health => "health",
        }
    }

    /// The bounds with enough open files. A share is far above the need of one honest address: agents behind one node's
    /// address, the replicas of an API server, a kubelet.
    const fn bounds(self) -> Bounds {
        let (connections, per_source, reserved, displace_busy) = match self {
            // Two for each proxy: of its Envoy, and of its agent while it reports traffic.
            Self::Discovery => (40_000, 1024, 1000, false),
            Self::Issuing => (4096, 256, 512, true),
            Self::Metrics => (128, 32, 32, true),
            Self::Webhook => (512, 64, 128, true),
            Self::Health => (256, 32, 64, true),
        };
        Bounds {
            connections,
            per_source,
            reserved,
            displace_busy,
        }
    }

    /// The bounds where no more than `files` connections can be open on all ports together.
    fn fitted(self, files: u64) -> Bounds {
        let wanted: usize = Self::ALL.iter().map(|port| port.bounds().connections).sum();
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let bounds = self.bounds();
        if files >= wanted {
            return bounds;
        }
        // The small servers keep 16 places each; without them nothing else works.
        let small = |bounds: Bounds| (bounds.connections * files / wanted).max(16);
        let connections = match self {
            Self::Discovery => {
                let others = Self::ALL.iter().filter(|port| **port != Self::Discovery);
                let others: usize = others.map(|port| small(port.bounds())).sum();
                files.saturating_sub(others).max(16)
            }
            _ => small(bounds),
        };
        Bounds {
            connections,
            per_source: bounds.per_source.min(connections / 2),
            reserved: bounds.reserved.min(connections / 4),
            ..bounds
        }
    }
}

/// The state that all listeners of the process share.
#[derive(Debug)]
pub struct Listeners {
    /// Connections that can be open on all ports together.
    files: u64,
    deadlines: Deadlines,
    shared_address: bool,
    counters: [Arc<Counters>; Port::ALL.len()],
}

impl Default for Listeners {
    fn default() -> Self {
        Self::new(u64::MAX, Deadlines::default())
    }
}

impl Listeners {
    /// Listeners of a process with so many open files.
    #[must_use]
    pub fn new(open_files: u64, deadlines: Deadlines) -> Self {
        let files = open_files.saturating_sub(OTHER_FILES);
        let serves = Port::Discovery.fitted(files).connections;
        if serves < Port::Discovery.bounds().connections {
            tracing::warn!(
                open_files,
                proxies = serves / 2,
                "the limit of open files is low: it bounds the connections; raise it (ulimit -n) to serve more proxies"
            );
        }
        Self {
            files,
            deadlines,
            shared_address: false,
            counters: Default::default(),
        }
    }

    /// Callers share one address, as without Kubernetes or behind a proxy: no source has a share.
    #[must_use]
    pub fn with_shared_address(self) -> Self {
        Self {
            shared_address: true,
            ..self
        }
    }

    /// The bounds of a port.
    #[must_use]
    pub fn bounds(&self, port: Port) -> Bounds {
        let bounds = port.fitted(self.files);
        Bounds {
            per_source: match self.shared_address {
                true => bounds.connections,
                false => bounds.per_source,
            },
            ..bounds
        }
    }

    /// The deadlines of all ports.
    #[must_use]
    pub const fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// The counters of each server but discovery, which has its own.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, Counts)> {
        let all = Port::ALL.iter().zip(&self.counters);
        let others = all.filter(|(port, _)| **port != Port::Discovery);
        others.map(|(port, counters)| (port.name(), counters.snapshot()))
    }

    /// The acceptor of a port.
    #[must_use]
    pub fn acceptor(&self, port: Port) -> Acceptor {
        let options = Options {
            name: port.name(),
            bounds: self.bounds(port),
            deadlines: self.deadlines,
            http: Http {
                protocol: match port {
                    Port::Discovery | Port::Issuing => Protocol::Http2,
                    Port::Metrics | Port::Webhook => Protocol::Any,
                    Port::Health => Protocol::Http1,
                },
                // A kubelet opens a connection for each probe.
                keep_alive: port != Port::Health,
                ..Http::default()
            },
        };
        Acceptor::new(options, self.counters(port))
    }

    fn counters(&self, port: Port) -> Arc<Counters> {
        let all = Port::ALL.iter().zip(&self.counters);
        let found = all.into_iter().find(|(of, _)| **of == port);
        found
            .map(|(_, counters)| Arc::clone(counters))
            .unwrap_or_default()
    }

    /// Serves a router on a port until told to stop.
    ///
    /// # Errors
    /// When the listening socket fails for good.
    pub async fn serve(
        &self,
        port: Port,
        listener: TcpListener,
        security: Security,
        router: Router,
        stop: CancellationToken,
    ) -> Ended {
        let acceptor = self.acceptor(port);
        Ok(acceptor
            .serve(listener, security, routed(router), stop)
            .await?)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// Answers every connection by the router. Handlers find the connection's [`Link`] among a request's extensions.
pub(crate) fn routed(router: Router) -> impl ConnectionHandler {
    move |link: Arc<Link>| {
        let router = TowerToHyperService::new(router.clone());
        service_fn(move |mut request: Request<Incoming>| -> Answer {
            request.extensions_mut().insert(Arc::clone(&link));
            Box::pin(hyper::service::Service::call(&router, request))
        })
    }
}

/// Deadlines that are all `limit`, where tests want short ones.
#[must_use]
pub fn deadlines(limit: Option<Duration>) -> Deadlines {
    limit.map_or_else(Deadlines::default, |limit| Deadlines {
        handshake: limit,
        first_request: limit,
        idle: limit,
        request: Some(limit),
        ..Deadlines::default()
    })
}

/// Binds an address; the error names it. Where there is no IPv6 at all, `[::]` means `0.0.0.0`.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let any_v6 = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let bound = match listen(address) {
        Err(_) if any_v6 => listen((Ipv4Addr::UNSPECIFIED, address.port()).into()),
        bound => bound,
    };
    bound.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_all_ports_together_fit_the_open_files() {
        for files in [512, 768, 1024, 4096, 20_000, 65_536] {
            let listeners = Listeners::new(files, Deadlines::default());
            let all = Port::ALL.map(|port| listeners.bounds(port));
            let sum: usize = all.iter().map(|bounds| bounds.connections).sum();
            assert!(sum as u64 + OTHER_FILES <= files, "{files}: {all:?}");
            for bounds in all {
                assert!(
                    bounds.connections >= 16 && bounds.per_source >= 8,
                    "{files}: {all:?}"
                );
                assert!(bounds.reserved < bounds.connections, "{files}: {all:?}");
            }
        }
        let listeners = Listeners::new(1024, Deadlines::default()).with_shared_address();
        let bounds = listeners.bounds(Port::Discovery);
        assert_eq!(bounds.per_source, bounds.connections);
        assert!(bounds.connections > 500, "{bounds:?}");
    }
}
