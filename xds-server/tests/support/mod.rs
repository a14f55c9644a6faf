//! Shared parts of the tests: a source to edit, a server to start, certificates, waiting with a bound.
// Each test binary uses its own part of this.
#![allow(dead_code)]

pub mod client;
pub mod pki;
pub mod resources;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heddle_xds_server::*;
use heddle_xds_types::rollout::EndReport;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// No wait of a test is longer.
pub const BOUND: Duration = Duration::from_secs(30);

/// A source with a view that the test edits. Each resource is a part of its own.
pub struct Fixture {
    resources: Mutex<BTreeMap<ResourceKey, Arc<Part>>>,
    on_demand: Mutex<BTreeMap<Name, Arc<Part>>>,
    changed: watch::Sender<u64>,
    since: Mutex<Option<Instant>>,
    /// All that was ever asked for, in order.
    pub asked: Mutex<Vec<OnDemandRequests>>,
    pub loads: Mutex<Vec<(SubscriberId, Vec<Load>)>>,
    pub edges: Mutex<Vec<(SubscriberId, Vec<EdgeTraffic>, u64)>>,
    pub ends: Mutex<Vec<(SubscriberId, EndReport)>>,
    /// Of every subscriber.
    pub withdrawal: watch::Sender<Withdrawal>,
}

fn part(resource: Resource) -> Arc<Part> {
    let resources = Box::new([Arc::new(resource)]);
    Arc::new(Part { resources })
}

impl Fixture {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            resources: Mutex::default(),
            on_demand: Mutex::default(),
            changed: watch::Sender::new(0),
            since: Mutex::default(),
            asked: Mutex::default(),
            loads: Mutex::default(),
            edges: Mutex::default(),
            ends: Mutex::default(),
            withdrawal: watch::Sender::default(),
        })
    }

    pub fn put(&self, resources: impl IntoIterator<Item = Resource>) {
        let new = resources.into_iter().map(|r| (r.key.clone(), part(r)));
        self.resources.lock().unwrap().extend(new);
        self.tick();
    }

    pub fn put_on_demand(&self, resource: Resource) {
        let name = Name::clone(&resource.key.name);
        self.on_demand.lock().unwrap().insert(name, part(resource));
        self.tick();
    }

    pub fn remove(&self, key: &ResourceKey) {
        self.resources.lock().unwrap().remove(key);
        self.tick();
    }

    fn tick(&self) {
        *self.since.lock().unwrap() = Some(Instant::now());
        self.changed.send_modify(|n| *n += 1);
    }
}

impl ResourceSource for Fixture {
    /// Admits every client with a node id, except `denied`; the id is the subscriber.
    fn admit(&self, _peer: &Peer, node: &NodeInfo) -> Result<SubscriberId, StreamRefusal> {
        match node.id.as_str() {
            "" => Err(StreamRefusal::Unauthenticated("no node id".to_owned())),
            "denied" => Err(StreamRefusal::Denied("not you".to_owned())),
            id => Ok(id.into()),
        }
    }

    fn view(&self, _who: &SubscriberId, asked: &OnDemandRequests) -> Option<Arc<View>> {
        self.asked.lock().unwrap().push(asked.clone());
        let on_demand = self.on_demand.lock().unwrap();
        let known = asked.clusters.iter().filter_map(|name| on_demand.get(name));
        let base = self.resources.lock().unwrap();
        let absent = asked.clusters.iter();
        let absent = absent.filter(|name| !on_demand.contains_key(*name));
        Some(Arc::new(View {
            parts: base.values().chain(known).cloned().collect(),
            absent: absent.cloned().collect(),
            since: *self.since.lock().unwrap(),
        }))
    }

    fn subscribe(&self, _who: &SubscriberId) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn loads(&self, who: &SubscriberId, loads: &[Load]) {
        let mut all = self.loads.lock().unwrap();
        all.push((who.clone(), loads.to_vec()));
    }

    fn edges(&self, who: &SubscriberId, traffic: &[EdgeTraffic], lost: u64) {
        let mut all = self.edges.lock().unwrap();
        all.push((who.clone(), traffic.to_vec(), lost));
    }

    fn ends(&self, who: &SubscriberId, report: &EndReport) -> watch::Receiver<Withdrawal> {
        self.ends
            .lock()
            .unwrap()
            .push((who.clone(), report.clone()));
        self.withdrawal.subscribe()
    }
}

/// A server that runs until it is stopped or dropped.
pub struct Running {
    pub address: SocketAddr,
    pub registry: Arc<Registry>,
    pub counters: Arc<Counters>,
    pub server: Arc<Server<Fixture>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    pub async fn start(source: &Arc<Fixture>, security: Security, at: &str) -> Self {
        Self::with(source, security, at, Options::default()).await
    }

    pub async fn with(
        source: &Arc<Fixture>,
        security: Security,
        at: &str,
        options: Options,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server::new(Arc::clone(source), options));
        let (registry, counters) = (server.registry(), server.counters());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = Arc::clone(&server);
        let task = tokio::spawn(async move {
            running
                .serve(listener, security, async move { drop(stopped.await) })
                .await
        });
        Self {
            address,
            registry,
            counters,
            server,
            stop: Some(stop),
            task,
        }
    }

    /// Ends the server as an operator would, and waits for it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(BOUND, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    /// Waits until the progress of a subscriber is as wanted.
    pub async fn until(
        &self,
        who: &str,
        what: &str,
        is: impl Fn(&Progress) -> bool,
    ) -> Arc<Progress> {
        let mut changes = self.registry.changes();
        let waiting = async {
            loop {
                match self.registry.get(&who.into()) {
                    Some(progress) if is(&progress) => return progress,
                    _ => changes.changed().await.unwrap(),
                }
            }
        };
        match tokio::time::timeout(BOUND, waiting).await {
            Ok(progress) => progress,
            Err(_) => panic!("{who}: never {what}: {:#?}", self.registry.get(&who.into())),
        }
    }
}

/// Whether the resource of this key is in the subscriber's view and acknowledged.
pub fn runs(progress: &Progress, key: &ResourceKey) -> bool {
    let view = progress.view.as_ref();
    view.is_some_and(|view| view.iter().any(|resource| resource.key == *key))
        && !progress.unacknowledged.contains_key(key)
}

/// A process that ends with the test, by its own id.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A tool given by an environment variable, or where `make` puts it.
pub fn tool(variable: &str, place: &str, make: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned();
    let path = std::env::var_os(variable).map_or_else(|| root.join(place), PathBuf::from);
    assert!(
        path.exists(),
        "{} is not there: run `make {make}`, or set {variable}",
        path.display()
    );
    path
}

/// A port for a process of the test to bind. It is below the ports that the kernel gives to outgoing connections
/// (`ip_local_port_range`), so no connection takes it in the meantime.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = std::process::id().wrapping_mul(31) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + u16::try_from(nth % 12_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
