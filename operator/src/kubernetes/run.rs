//! How the parts on Kubernetes are put together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use heddle_acceptor::{LogLimit, Security};
use heddle_identity::TrustDomain;
use heddle_policy_compiler::{ObjectKind, PodRef};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::audit::Auditor;
use super::authorize::Authorizer;
use super::cache::Cache;
use super::default_mesh::DefaultMesh;
use super::http::{self, Admin};
use super::leader::Election;
use super::peers::{Peers, ReplicaReport, publish};
use super::root::{RootKeeper, SecretError, SecretRoot};
use super::scopes::StoredScopes;
use super::sharded::Store;
use super::statuses::{Count, Counter, Writer};
use super::tokens::Tokens;
use super::webhook::Injector;
use super::{Options, ca_bundle, definitions, rebalance};
use crate::certs::CertError;
use crate::listen::{Port, bind};
use crate::metrics::Metrics;
use crate::objects::ObjectSource;
use crate::plane::{Plane, PlaneHandles, Sockets};
use crate::snapshot::{Reader, Snapshots};
use crate::status::Shown;
use crate::tasks::{TaskError, Tasks};
use crate::trials::Trials;

/// The wait between two attempts to read the inputs of the start.
const RETRY: Duration = Duration::from_secs(2);

/// Why the control plane does not run on Kubernetes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no configuration to reach the API server by.
    #[error("the API server cannot be reached: {0}")]
    Client(#[source] kube::Error),
    /// The same, earlier.
    #[error("no kubeconfig and no service account: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// An address.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The root.
    #[error(transparent)]
    Root(#[from] heddle_identity::OpenError<SecretError>),
    /// TLS.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The Mesh names no usable trust domain.
    #[error("Mesh default: spec.trustDomain: {0}")]
    TrustDomain(#[from] heddle_identity::SpiffeError),
    /// The watches are gone.
    #[error("{0}")]
    Source(#[from] crate::tasks::Failure),
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs until told to stop.
///
/// # Errors
/// When it cannot start, or a part of it ends.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let mut config = kube::Config::infer().await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(config).map_err(Error::Client)?;
    let mut tasks = Tasks::new(stop.clone());
    let ready = watch::Sender::new(false);
    // Answered from the first moment on: a control plane that waits for its CRDs is alive and not ready.
    let health = bind(SocketAddr::new(options.listen, 15021))?;
    let listeners = Arc::clone(&options.listeners);
    let router = http::health(ready.subscribe());
    tasks.spawn("health", async move {
        listeners
            .serve(Port::Health, health, Security::Plain, router, stop)
            .await
    });
    // Bound before anything else, so that a taken port is the first thing said.
    let at = |port| bind(SocketAddr::new(options.listen, port));
    let sockets = Sockets {
        ads: at(15010)?,
        issuing: at(15011)?,
        listeners: Arc::clone(&options.listeners),
    };
    let (admin, webhook) = (at(15014)?, at(15017)?);
    let metrics = Arc::new(Metrics::default());
    let cache = Arc::new(Cache::new(Arc::clone(&metrics)));
    cache.start(&client, ObjectKind::watched(), &mut tasks);
    definitions::start(&client, &cache, &mut tasks);
    let past = Store::new(client.clone(), Arc::clone(&cache), Arc::clone(&metrics));
    let past = Arc::new(past);
    tasks.spawn("last good specs", Arc::clone(&past).listen(tasks.stop()));
    tasks.spawn("last good store", past.keep(tasks.stop()));
    let starting = Starting {
        client,
        options,
        cache,
    };
    if let Some(base) = tasks.during(starting.prepare(metrics)).await? {
        let Prepared {
            plane,
            reader,
            uid,
            root,
        } = base?;
        tasks.spawn("root", root.run(plane.metrics(), tasks.stop()));
        let tokens = Arc::new(Tokens::new(&starting.client, Arc::clone(&starting.cache)));
        let Options {
            trace_endpoint,
            pod,
            ..
        } = &starting.options;
        plane.trace_changes(trace_endpoint.clone(), Some(pod.clone()), &mut tasks);
        let handles = plane.start(reader, tokens, sockets, &mut tasks)?;
        let shown = plane.count_sidecars();
        starting.doors(&plane, admin, webhook, &shown, &mut tasks)?;
        starting.statuses(&plane, handles, uid, shown, &mut tasks);
        tasks.spawn("readiness", readiness(plane.snapshots, ready, tasks.stop()));
    }
    Ok(tasks.run().await?)
}

/// The parts that the start waits for.
struct Prepared {
    plane: Plane,
    reader: Reader,
    /// The uid of this pod.
    uid: String,
    root: RootKeeper,
}

struct Starting {
    client: Client,
    options: Options,
    cache: Arc<Cache>,
}

impl Starting {
    /// Waits for the cluster to be read, for the root, and for this pod's uid.
    async fn prepare(&self, metrics: Arc<Metrics>) -> Result<Prepared, Error> {
        let source: Arc<dyn ObjectSource> = Arc::<Cache>::clone(&self.cache);
        let mut reader = Reader::new(source);
        reader.complete().await?;
        let trust_domain: TrustDomain = reader.mesh().trust_domain.parse()?;
        let store = SecretRoot::new(&self.client, &self.options.pod);
        let root = store.open(&trust_domain, &metrics).await?;
        let ca = root.ca();
        // The root is older than the Mesh object may be: its domain is the one in which certificates were issued.
        let trust_domain = ca.trust_domain().cloned().unwrap_or(trust_domain);
        reader.set_trust_domain(&trust_domain);
        let uid = self.own_uid().await;
        tracing::info!(root = ca.fingerprint(), %trust_domain, "initial list complete; root CA loaded");
        let ips = self.options.ip.into_iter().collect();
        let interval = self.options.load_report_interval;
        let trials = Trials::new(self.options.envoy.clone(), &std::env::temp_dir());
        let plane = Plane::new(ca, trust_domain, ips, interval, trials, metrics)?;
        Ok(Prepared {
            plane,
            reader,
            uid,
            root,
        })
    }

    /// Starts the webhook, and the listener for metrics and the states of proxies.
    fn doors(
        &self,
        plane: &Plane,
        admin: TcpListener,
        webhook: TcpListener,
        shown: &Arc<Shown>,
        tasks: &mut Tasks,
    ) -> Result<(), CertError> {
        let (stop, alpn) = (tasks.stop(), ["h2", "http/1.1"]);
        let injector = Injector {
            snapshots: plane.snapshots.clone(),
            image: self.options.sidecar_image.clone(),
            trust_bundle: plane.ca.trust_bundle().to_owned(),
            metrics: plane.metrics(),
            lines: LogLimit::default(),
        };
        let (tls, until) = (plane.own.server(&alpn)?, stop.clone());
        let listeners = Arc::clone(&self.options.listeners);
        tasks.spawn("webhook", async move {
            let router = injector.router();
            listeners
                .serve(Port::Webhook, webhook, tls.into(), router, until)
                .await
        });
        let (ca, client) = (Arc::clone(&plane.ca), self.client.clone());
        let bundle = ca_bundle::keep(client, ca, plane.metrics(), stop.clone());
        tasks.spawn("CA bundle", bundle);
        let answers = Admin {
            metrics: plane.metrics(),
            shown: Arc::clone(shown),
            edges: plane.mesh.edge_store(),
            certificates: plane.mesh.certificates(),
            withdrawals: plane.mesh.withdrawals(),
            mesh: Arc::clone(&plane.mesh),
            authorizer: Authorizer::new(&self.client),
        };
        let tls = plane.own.server(&alpn)?;
        let listeners = Arc::clone(&self.options.listeners);
        tasks.spawn("metrics", async move {
            let router = http::admin(Arc::new(answers));
            listeners
                .serve(Port::Metrics, admin, tls.into(), router, stop)
                .await
        });
        Ok(())
    }

    /// Counting, telling the other replicas, and writing statuses while this one leads.
    fn statuses(
        &self,
        plane: &Plane,
        handles: PlaneHandles,
        uid: String,
        shown: Arc<Shown>,
        tasks: &mut Tasks,
    ) {
        let (stop, client) = (tasks.stop(), || self.client.clone());
        let peers = Arc::new(Peers::new(self.options.pod.clone()));
        let rejections = Arc::clone(&plane.rejections);
        let listening =
            Arc::clone(&peers).listen(client(), rejections, plane.metrics(), stop.clone());
        tasks.spawn("peers", listening);
        let (others, cache) = (Arc::clone(&peers), Arc::clone(&self.cache));
        let telling = others.tell(cache, plane.mesh.withdrawals(), stop.clone());
        tasks.spawn("withdrawals at peers", telling);
        let (reports, newest) = watch::channel(ReplicaReport::default());
        let options = self.options.clone();
        let publishing = publish(
            client(),
            options,
            uid,
            newest,
            plane.metrics(),
            stop.clone(),
        );
        tasks.spawn("report", publishing);
        let scopes = self.tend(plane, &handles, &peers, tasks);
        let election = Election::new(&self.client, self.options.pod.clone());
        let (counts, counted) = watch::channel(Arc::new(Count::default()));
        let writer = Writer {
            client: client(),
            pod: self.options.pod.clone(),
            cache: Arc::clone(&self.cache),
            peers,
            leads: election.leads(),
            counts: counted,
            trials: Arc::clone(&plane.trials),
            mesh: Arc::clone(&plane.mesh),
            scopes,
            metrics: plane.metrics(),
        };
        self.default_mesh(plane, election.leads(), tasks);
        tasks.spawn("leader election", election.run(stop.clone()));
        tasks.spawn("statuses", writer.run(stop.clone()));
        let counter = Counter {
            snapshots: plane.snapshots.clone(),
            handles,
            rejections: Arc::clone(&plane.rejections),
            trials: Arc::clone(&plane.trials),
            cache: Arc::clone(&self.cache),
            counts,
            reports,
            shown,
        };
        tasks.spawn("counting", counter.run(stop));
    }

    fn default_mesh(&self, plane: &Plane, leads: watch::Receiver<bool>, tasks: &mut Tasks) {
        let mesh = DefaultMesh {
            client: self.client.clone(),
            cache: Arc::clone(&self.cache),
            leads,
            trust_domain: plane.trust_domain.clone(),
        };
        tasks.spawn("default Mesh", mesh.keep(tasks.stop()));
    }

    /// Scopes that outlive this replica, an even spread over the replicas, and the audit. Returns whether the scopes are read.
    fn tend(
        &self,
        plane: &Plane,
        handles: &PlaneHandles,
        peers: &Arc<Peers>,
        tasks: &mut Tasks,
    ) -> watch::Receiver<bool> {
        let (stop, client) = (tasks.stop(), || self.client.clone());
        let content = StoredScopes {
            scopes: Arc::clone(&plane.scopes),
            mesh: Arc::clone(&plane.mesh),
        };
        let store = Store::new(client(), Arc::new(content), plane.metrics());
        let store = Arc::new(store);
        let read = store.is_read();
        tasks.spawn("scopes of others", Arc::clone(&store).listen(stop.clone()));
        tasks.spawn("scope store", store.keep(stop.clone()));
        let server = Arc::clone(&handles.server);
        let rebalancing = rebalance::run(
            server,
            Arc::clone(peers),
            Arc::clone(&self.cache),
            stop.clone(),
        );
        tasks.spawn("rebalance", rebalancing);
        let auditor = Auditor {
            client: client(),
            cache: Arc::clone(&self.cache),
            mesh: Arc::clone(&plane.mesh),
            registry: Arc::clone(&handles.registry),
            rejections: Arc::clone(&plane.rejections),
            metrics: plane.metrics(),
            plan: self.options.audit,
        };
        tasks.spawn("audit", auditor.run(stop.clone()));
        read
    }

    /// This pod's uid; the watch may learn of it a moment later than the pod runs.
    async fn own_uid(&self) -> String {
        let me = PodRef::new(&self.options.namespace, &self.options.pod);
        loop {
            if let Some((uid, _)) = self.cache.pod(&me) {
                return uid;
            }
            tracing::warn!(pod = %me, "this pod is not known to the API server; POD_NAME and POD_NAMESPACE have to name it");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Ready with the first snapshot; not ready any more as soon as the end begins, so that new proxies go elsewhere.
async fn readiness(
    mut snapshots: Snapshots,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) -> crate::tasks::Ended {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        first = snapshots.wait_for(Option::is_some) => {
            first.map_err(|_| "the compile loop is gone")?;
        }
    }
    ready.send_replace(true);
    tracing::info!("ready");
    stop.cancelled().await;
    ready.send_replace(false);
    Ok(())
}
