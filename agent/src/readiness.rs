//! `GET /healthz/ready`: 200 or 503, and nothing else is told. And the kubelet's hook before the end of a container, which is
//! answered when the container may end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_acceptor::{
    Acceptor, BACKLOG, Bounds, Counters, Deadlines, Http, Link, Options, Protocol, Security,
};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use heddle_xds_types::rollout::HOOK_PATH;

use crate::admin::Admin;
use crate::release::Hook;

/// Anyone may ask: so Envoy is asked no more often than this.
const KEPT: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(5);
/// A hook waits for 15 s at most.
const HOOK_TIMEOUT: Duration = Duration::from_secs(20);

/// More hooks than a pod has containers. The kubelet calls all of them at once.
const MANY_HOOKS: usize = 32;

/// The state of readiness.
pub(crate) struct Readiness {
    admin: Admin,
    state: Mutex<State>,
}

struct State {
    /// The first configuration is in force. It stays so: a later listener that warms takes no pod out of service.
    configured: bool,
    draining: bool,
    last: Option<(Instant, bool)>,
}

impl Readiness {
    pub(crate) fn new(admin: Admin) -> Self {
        Self {
            admin,
            state: Mutex::new(State {
                configured: false,
                draining: false,
                last: None,
            }),
        }
    }

    /// From now on the answer is no.
    pub(crate) async fn drain(&self) {
        self.state.lock().await.draining = true;
    }

    /// Envoy has ended: the answer is `no` until the next one has its first configuration.
    pub(crate) async fn restart(&self) {
        let mut state = self.state.lock().await;
        (state.configured, state.last) = (false, None);
    }

    pub(crate) async fn ready(&self) -> bool {
        let mut state = self.state.lock().await;
        if state.draining {
            return false;
        }
        if let Some((at, ready)) = state.last
            && at.elapsed() < KEPT
        {
            return ready;
        }
        let ready = self.ask(&mut state.configured).await.unwrap_or(false);
        state.last = Some((Instant::now(), ready));
        ready
    }

    async fn ask(&self, configured: &mut bool) -> Result<bool> {
        if !self.admin.live().await? {
            return Ok(false);
        }
        if !*configured {
            let found = self.admin.configured().await?;
            *configured = found.clusters && found.listeners && found.warming == 0;
            if *configured {
                tracing::info!("the first configuration is in force");
            }
        }
        Ok(*configured)
    }
}

/// Listens on all that can be: where IPv6 is switched off, IPv4 alone will do.
pub(crate) fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut failure = None;
    for address in addresses {
        match bind(*address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if address.is_ipv6() => {
                tracing::debug!(%address, %error, "no readiness over IPv6");
                failure = Some(
                    anyhow::Error::new(error)
                        .context(format!("readiness can't be served on {address}")),
                );
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("readiness can't be served on {address}"));
            }
        }
    }
    match (listeners.is_empty(), failure) {
        (true, Some(error)) => Err(error),
        (true, None) | (false, _) => Ok(listeners),
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if address.is_ipv6() {
        // Else `[::]` would take the port of `0.0.0.0` too.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6V6Only, &true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Answers until the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    hook: Arc<Hook>,
    counters: Arc<Counters>,
) -> Result<()> {
    let handler = move |_: Arc<Link>| {
        let (readiness, hook) = (Arc::clone(&readiness), Arc::clone(&hook));
        service_fn(move |request| {
            let (readiness, hook) = (Arc::clone(&readiness), Arc::clone(&hook));
            async move { answer(request, &readiness, &hook).await }
        })
    };
    let acceptor = Acceptor::new(options(), counters);
    let never = CancellationToken::new();
    acceptor
        .serve(listener, Security::Plain, handler, never)
        .await
        .context("the readiness socket failed")
}

/// A kubelet has one connection for each probe and each hook; all others have no business here. Hooks wait for long, so they leave a
/// source as many connections for probes.
fn options() -> Options {
    Options {
        name: "readiness",
        bounds: Bounds {
            connections: 4 * MANY_HOOKS,
            per_source: 2 * MANY_HOOKS,
            reserved: MANY_HOOKS,
            displace_busy: true,
        },
        deadlines: Deadlines {
            first_request: TIMEOUT,
            request: Some(HOOK_TIMEOUT),
            ..Deadlines::default()
        },
        http: Http {
            protocol: Protocol::Http1,
            keep_alive: false,
            ..Http::default()
        },
    }
}

async fn answer(
    request: Request<Incoming>,
    readiness: &Readiness,
    hook: &Hook,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let status = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz/ready") if readiness.ready().await => {
            StatusCode::OK
        }
        (&Method::GET | &Method::HEAD, "/healthz/ready") => StatusCode::SERVICE_UNAVAILABLE,
        (&Method::GET, HOOK_PATH) => {
            hook.hold().await;
            StatusCode::OK
        }
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}
