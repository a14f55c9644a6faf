//! Many simulated proxies at once, each with a connection of its own, all on one thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::credentials::Credentials;
use super::observer::{Observer, Watcher};
use super::proxy::Proxy;
use super::response::Response;
use super::retry::{Backoff, Retry};
use super::server::{Replicas, Server};
use super::stream::{Speaker, speak};
use crate::random::Random;

/// One proxy to be.
#[derive(Debug)]
pub struct Member {
    /// The proxy's identity on the stream.
    pub proxy: Proxy,
    /// The proxy's identity by TLS; none for plain text.
    pub credentials: Option<Credentials>,
}

/// How far a fleet has come.
#[derive(Debug, Clone, Default)]
struct State {
    /// When each that holds everything came to hold it, since the start.
    synced: Vec<Duration>,
    resources: usize,
    refused: usize,
    /// Streams that broke.
    broken: u64,
    /// When each stream was begun, since the start.
    begun: Vec<Duration>,
    failure: Option<String>,
}

/// Running proxies; dropped, they all hang up.
#[derive(Debug)]
pub struct Fleet {
    size: usize,
    started: Instant,
    /// `<process>/task/<thread>` of the only thread.
    task: PathBuf,
    observer: Arc<Observer>,
    state: watch::Receiver<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The result of the first synchronization.
#[derive(Debug, Clone)]
pub struct Synced {
    /// For each proxy, from the first connection until it held everything.
    pub times: Vec<Duration>,
    /// Message bytes per proxy.
    pub bytes: u64,
    /// Resources per proxy.
    pub resources: usize,
    /// Names refused, of all proxies.
    pub refused: usize,
}

impl Synced {
    /// Until the last of them held everything.
    pub fn took(&self) -> Duration {
        self.times.iter().copied().max().unwrap_or_default()
    }
}

impl Fleet {
    /// Connects all of them at once.
    ///
    /// # Errors
    /// When TLS can't be set up, or there is no thread to be had.
    pub fn start(server: &Server, members: Vec<Member>, retry: Retry) -> Result<Self> {
        Self::start_watched(&Replicas::of(server), members, retry, None)
    }

    /// The same with replicas, which may become more, and with a watcher that sees everything from the first message on.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_watched(
        replicas: &Replicas,
        members: Vec<Member>,
        retry: Retry,
        watcher: Option<Arc<dyn Watcher>>,
    ) -> Result<Self> {
        let mut prepared = Vec::new();
        for Member { proxy, credentials } in members {
            let tls = credentials.map(|c| c.client_config()).transpose()?;
            prepared.push((proxy, tls));
        }
        let (progress, state) = watch::channel(State::default());
        let (stop, stopped) = oneshot::channel();
        let observer = Arc::new(Observer::default());
        if let Some(watcher) = watcher {
            observer.watch(watcher);
        }
        let size = prepared.len();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let started = Instant::now();
        let common = Arc::new(Common {
            replicas: replicas.clone(),
            retry,
            started,
            observer: Arc::clone(&observer),
            progress,
        });
        let thread = std::thread::Builder::new().name("fleet".to_owned());
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread.spawn(move || {
            // The receiver is dropped only where the fleet is gone already.
            let _ = tell.send(std::fs::read_link("/proc/thread-self"));
            runtime.block_on(all(&common, prepared, stopped));
        })?;
        Ok(Self {
            task: told.recv()??,
            size,
            started,
            observer,
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The observer of all responses to the proxies.
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// CPU seconds that its thread has used so far.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = Path::new("/proc").join(&self.task).join("schedstat");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let nanoseconds = text.split(' ').next().unwrap_or_default();
        Ok(nanoseconds.parse::<f64>()? / 1e9)
    }

    /// Streams that have broken so far.
    pub fn broken(&self) -> u64 {
        self.state.borrow().broken
    }

    /// When streams were begun after a moment: connections are made by then, or tried.
    pub fn begun_since(&self, since: Instant) -> Vec<Instant> {
        let state = self.state.borrow();
        let begun = state.begun.iter().map(|after| self.started + *after);
        begun.filter(|at| *at > since).collect()
    }

    /// Waits until each holds everything it asked for.
    ///
    /// # Errors
    /// When one fails for good, or it takes too long.
    pub async fn synced(&mut self, within: Duration) -> Result<Synced> {
        let size = self.size;
        let done = self
            .state
            .wait_for(|state| state.synced.len() >= size || state.failure.is_some());
        let Ok(state) = tokio::time::timeout(within, done).await else {
            let state = self.state.borrow();
            bail!(
                "{} of {size} proxies were synchronized in {within:?}; {} streams broke",
                state.synced.len(),
                state.broken
            );
        };
        let state = state.context("the proxies have ended")?.clone();
        if let Some(failure) = state.failure {
            bail!(failure);
        }
        let each = self.size.max(1);
        Ok(Synced {
            times: state.synced,
            bytes: self.observer.total().bytes / each as u64,
            resources: state.resources / each,
            refused: state.refused,
        })
    }

    /// Whether none has failed for good.
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

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it.
            let _ = thread.join();
        }
    }
}

/// The state that all proxies of a fleet share.
struct Common {
    replicas: Replicas,
    retry: Retry,
    started: Instant,
    observer: Arc<Observer>,
    progress: watch::Sender<State>,
}

async fn all(
    common: &Arc<Common>,
    members: Vec<(Proxy, Option<Arc<rustls::ClientConfig>>)>,
    stopped: oneshot::Receiver<()>,
) {
    let mut tasks = JoinSet::new();
    for (index, (proxy, tls)) in members.into_iter().enumerate() {
        let common = Arc::clone(common);
        tasks.spawn(async move {
            if let Err(error) = live(index, &common, proxy, tls).await {
                common.progress.send_modify(|state| {
                    state
                        .failure
                        .get_or_insert_with(|| format!("proxy {index}: {error:#}"));
                });
            }
        });
    }
    // It ends by the sender's being dropped, which is an error of no interest.
    let _ = stopped.await;
}

/// One proxy, stream after stream.
async fn live(
    index: usize,
    common: &Common,
    proxy: Proxy,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Result<()> {
    let mut backoff = Backoff::new(index as u64);
    // Not in step with the waits, which have the number itself for a seed.
    let mut random = Random::new(!(index as u64));
    let mut one = One {
        index,
        common,
        proxy,
        synced: false,
        heard: false,
    };
    loop {
        one.heard = false;
        let server = common.replicas.choose(&mut random);
        let server = server.context("there is no replica")?;
        let begun = common.started.elapsed();
        common.progress.send_modify(|state| state.begun.push(begun));
        let ended = speak(&server, tls.as_ref(), &mut one).await;
        common.progress.send_modify(|state| state.broken += 1);
        if common.retry == Retry::Never {
            return ended;
        }
        if one.heard {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

struct One<'a> {
    index: usize,
    common: &'a Common,
    proxy: Proxy,
    synced: bool,
    /// Whether something came on this stream.
    heard: bool,
}

impl Speaker for One<'_> {
    fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.proxy.open()
    }

    fn receive(
        &mut self,
        at: Instant,
        response: &Response<'_>,
        out: &mut Vec<DeltaDiscoveryRequest>,
    ) -> Result<()> {
        let before = self.proxy.tally();
        self.proxy.receive(response, out)?;
        self.heard = true;
        let observer = &self.common.observer;
        observer.received(self.index, at, response, (before, self.proxy.tally()));
        observer.holds(self.index, &self.proxy);
        if !self.synced && self.proxy.synced() {
            self.synced = true;
            self.common.progress.send_modify(|state| {
                state.synced.push(at - self.common.started);
                state.resources += self.proxy.resources();
                state.refused += self.proxy.refused();
            });
        }
        Ok(())
    }
}
