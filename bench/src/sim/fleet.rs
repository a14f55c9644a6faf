//! Many simulated proxies at once, each with a connection of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::proxy::Proxy;
use super::{Credentials, Observer};

/// Envoy's own defaults for its HTTP/2 connections.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;
/// Above what a whole mesh takes in one response.
const MAX_RESPONSE: usize = 256 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// More requests than a proxy ever has under way; beyond it, it waits, as Envoy does.
const REQUESTS_UNDER_WAY: usize = 256;

/// The ADS server.
#[derive(Debug, Clone)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// The name that its certificate has to bear.
    pub server_name: String,
}

/// One proxy to be.
#[derive(Debug)]
pub struct Member {
    /// Who it is on the stream.
    pub proxy: Proxy,
    /// Who it is by TLS; none for plain text.
    pub credentials: Option<Credentials>,
}

/// How far a fleet has come.
#[derive(Debug, Clone, Default)]
struct State {
    synced: usize,
    resources: usize,
    refused: usize,
    failure: Option<String>,
}

/// Running proxies; dropped, they all hang up.
#[derive(Debug)]
pub struct Fleet {
    size: usize,
    started: Instant,
    observer: Arc<Observer>,
    state: watch::Receiver<State>,
    _tasks: JoinSet<()>,
}

/// What the first synchronisation took.
#[derive(Debug, Clone, Copy)]
pub struct Synced {
    /// From the first connection until the last proxy held everything.
    pub took: Duration,
    /// Message bytes per proxy.
    pub bytes: u64,
    /// Resources per proxy.
    pub resources: usize,
    /// Names refused, of all proxies.
    pub refused: usize,
}

impl Fleet {
    /// Connects all of them at once.
    pub fn start(server: &Server, members: Vec<Member>) -> Self {
        let (sender, state) = watch::channel(State::default());
        let observer = Arc::new(Observer::default());
        let (size, started) = (members.len(), Instant::now());
        let mut tasks = JoinSet::new();
        let sender = Arc::new(sender);
        for (index, member) in members.into_iter().enumerate() {
            let (server, observer, sender) =
                (server.clone(), Arc::clone(&observer), Arc::clone(&sender));
            tasks.spawn(async move {
                if let Err(error) = run(index, &server, member, &observer, &sender).await {
                    sender.send_modify(|state| {
                        state
                            .failure
                            .get_or_insert_with(|| format!("proxy {index}: {error:#}"));
                    });
                }
            });
        }
        Self {
            size,
            started,
            observer,
            state,
            _tasks: tasks,
        }
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Who sees what they get.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Waits until each holds everything it asked for.
    ///
    /// # Errors
    /// When one fails, or it takes too long.
    pub async fn synced(&mut self, within: Duration) -> Result<Synced> {
        let size = self.size;
        let done = self
            .state
            .wait_for(|state| state.synced >= size || state.failure.is_some());
        let Ok(state) = tokio::time::timeout(within, done).await else {
            bail!(
                "{} of {size} proxies were synchronised in {within:?}",
                self.state.borrow().synced
            );
        };
        let state = state.context("the proxies have ended")?.clone();
        if let Some(failure) = state.failure {
            bail!(failure);
        }
        let each = self.size.max(1);
        Ok(Synced {
            took: self.started.elapsed(),
            bytes: self.observer.bytes() / each as u64,
            resources: state.resources / each,
            refused: state.refused,
        })
    }

    /// Whether all streams still stand.
    ///
    /// # Errors
    /// With the first failure.
    pub fn all_up(&self) -> Result<()> {
        match &self.state.borrow().failure {
            Some(failure) => bail!(failure.clone()),
            None => Ok(()),
        }
    }
}

async fn run(
    index: usize,
    server: &Server,
    member: Member,
    observer: &Observer,
    progress: &watch::Sender<State>,
) -> Result<()> {
    let Member {
        mut proxy,
        credentials,
    } = member;
    let mut client =
        AggregatedDiscoveryServiceClient::new(connect(server, credentials.as_ref()).await?)
            .max_decoding_message_size(MAX_RESPONSE);
    let (sender, requests) = mpsc::channel(REQUESTS_UNDER_WAY);
    for request in proxy.open() {
        sender.send(request).await.context("the stream has ended")?;
    }
    let mut stream = client
        .delta_aggregated_resources(ReceiverStream::new(requests))
        .await?
        .into_inner();
    let mut synced = false;
    while let Some(response) = stream.message().await? {
        let reached = observer.received(&response);
        for request in proxy.receive(&response)? {
            sender.send(request).await.context("the stream has ended")?;
        }
        if let Some(reached) = reached {
            reached.acknowledged(index);
        }
        if !synced && proxy.synced() {
            synced = true;
            progress.send_modify(|state| {
                state.synced += 1;
                state.resources += proxy.resources();
                state.refused += proxy.refused();
            });
        }
    }
    bail!("the server has closed the stream")
}

async fn connect(server: &Server, credentials: Option<&Credentials>) -> Result<Channel> {
    let scheme = if credentials.is_some() {
        "https"
    } else {
        "http"
    };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", server.address))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if let Some(credentials) = credentials {
        endpoint = endpoint.tls_config(
            credentials
                .tls(&server.server_name)
                .timeout(CONNECT_TIMEOUT),
        )?;
    }
    endpoint
        .connect()
        .await
        .with_context(|| format!("the ADS server at {}", server.address))
}
