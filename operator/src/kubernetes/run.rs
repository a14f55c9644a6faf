//! How the parts on Kubernetes are put together.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use heddle_identity::{Ca, TrustDomain};
use heddle_policy_compiler::PodRef;
use heddle_xds_server::{Options as XdsOptions, Security, Server};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authorize::Authorizer;
use super::cache::Cache;
use super::http::{self, Shown};
use super::leader::Election;
use super::peers::{Peers, Word, speak};
use super::root::{SecretError, SecretRoot};
use super::statuses::{Count, Counter, Writer};
use super::tokens::Tokens;
use super::webhook::Injector;
use super::{Options, ca_bundle};
use crate::certs::{CertError, OwnCertificate};
use crate::issuing::Issuer;
use crate::learned::Learned;
use crate::listen::bind;
use crate::metrics::Metrics;
use crate::objects::ObjectSource;
use crate::picture::{self, Pictures};
use crate::serving::MeshSource;
use crate::tasks::{TaskError, Tasks, chain};

/// Between attempts to reach what the start needs.
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
    tasks.spawn("health", http::health(bind(SocketAddr::new(options.listen, 15021)).await?, ready.subscribe(), stop.clone()));
    let sockets = Sockets::bind(&options).await?;
    let (pictures, newest) = watch::channel(None);
    let pictures = Arc::new(pictures);
    let metrics = Arc::new(Metrics::default());
    let cache = Arc::new(Cache::new(Arc::clone(&metrics)));
    cache.start(&client, &mut tasks);
    let starting = Starting { client, options, sockets, newest, ready };
    if let Some(base) = tasks.during(starting.prepare(cache, metrics)).await? {
        let base = base?;
        let source: Arc<dyn ObjectSource> = Arc::<Cache>::clone(&base.cache);
        tasks.spawn("compiler", picture::run(source, Arc::clone(&base.learned), pictures, Arc::clone(&base.metrics), stop));
        starting.serve(base, &mut tasks)?;
    }
    Ok(tasks.run().await?)
}

/// The sockets, bound before anything else so that a taken port is the first thing said.
struct Sockets {
    ads: TcpListener,
    issuing: TcpListener,
    admin: TcpListener,
    webhook: TcpListener,
}

impl Sockets {
    async fn bind(options: &Options) -> std::io::Result<Self> {
        let at = |port| SocketAddr::new(options.listen, port);
        Ok(Self { ads: bind(at(15010)).await?, issuing: bind(at(15011)).await?, admin: bind(at(15014)).await?, webhook: bind(at(15017)).await? })
    }
}

struct Starting {
    client: Client,
    options: Options,
    sockets: Sockets,
    newest: Pictures,
    ready: watch::Sender<bool>,
}

/// What the parts share once the cluster is read and the root is there.
struct Base {
    trust_domain: TrustDomain,
    ca: Arc<Ca>,
    own: Arc<OwnCertificate>,
    cache: Arc<Cache>,
    learned: Arc<Learned>,
    metrics: Arc<Metrics>,
    mesh: Arc<MeshSource>,
    uid: String,
}

impl Starting {
    /// Waits for the cluster to be read, and for the root.
    async fn prepare(&self, cache: Arc<Cache>, metrics: Arc<Metrics>) -> Result<Base, Error> {
        let mut synced = cache.synced();
        // The sender lives in the cache, which is held here.
        let _ = synced.wait_for(|synced| *synced).await;
        let trust_domain: TrustDomain = cache.objects().mesh().trust_domain.parse()?;
        let ca = Arc::new(self.root(&trust_domain).await?);
        let own = Arc::new(OwnCertificate::issue(Arc::clone(&ca), trust_domain.clone(), self.options.ip.into_iter().collect())?);
        let uid = self.own_uid(&cache).await;
        tracing::info!(root = ca.fingerprint(), %trust_domain, "the cluster is read, the root is there");
        let mesh = Arc::new(MeshSource::new(self.newest.clone(), trust_domain.clone(), Arc::clone(&metrics)));
        Ok(Base { trust_domain, ca, own, cache, learned: Arc::default(), metrics, mesh, uid })
    }

    fn serve(self, base: Base, tasks: &mut Tasks) -> Result<(), Error> {
        let stop = tasks.stop();
        let Sockets { ads, issuing, admin, webhook } = self.sockets;
        tasks.spawn("certificate rotation", Arc::clone(&base.own).rotate(stop.clone()));
        tasks.spawn("views", Arc::clone(&base.mesh).follow(stop.clone()));
        let server = Server::new(Arc::clone(&base.mesh), XdsOptions::default());
        let registry = server.registry();
        base.metrics.count_server(server.counters());
        let (mutual, until) = (base.own.mutual(&["h2"])?, stop.clone());
        tasks.spawn("discovery", async move {
            let security = Security::mtls(move || Arc::clone(&mutual));
            Ok(server.serve(ads, security, until.cancelled_owned()).await?)
        });
        let tokens = Arc::new(Tokens::new(&self.client, Arc::clone(&base.cache)));
        let issuer = Issuer::new(Arc::clone(&base.ca), base.trust_domain, tokens, self.newest.clone(), Arc::clone(&base.metrics));
        tasks.spawn("issuing", issuer.serve(issuing, base.own.server(&["h2"])?, stop.clone()));
        let injector = Injector {
            pictures: self.newest.clone(),
            image: self.options.sidecar_image.clone(),
            trust_bundle: base.ca.trust_bundle().to_owned(),
            metrics: Arc::clone(&base.metrics),
        };
        tasks.spawn("webhook", injector.serve(webhook, base.own.server(&["h2", "http/1.1"])?, stop.clone()));
        tasks.spawn("CA bundle", ca_bundle::keep(self.client.clone(), base.ca, Arc::clone(&base.metrics), stop.clone()));

        let proxies = Arc::new(Mutex::new(Vec::new()));
        let shown = Shown { metrics: Arc::clone(&base.metrics), proxies: Arc::clone(&proxies), authorizer: Authorizer::new(&self.client) };
        tasks.spawn("metrics", http::admin(admin, base.own.server(&["h2", "http/1.1"])?, Arc::new(shown), stop.clone()));

        let peers = Arc::new(Peers::new(self.options.pod.clone()));
        tasks.spawn("peers", Arc::clone(&peers).listen(self.client.clone(), Arc::clone(&base.learned), Arc::clone(&base.metrics), stop.clone()));
        let (words, spoken) = watch::channel(Word::default());
        tasks.spawn("report", speak(self.client.clone(), self.options.clone(), base.uid, spoken, Arc::clone(&base.metrics), stop.clone()));
        let election = Election::new(&self.client, self.options.pod.clone());
        let (counts, counted) = watch::channel(Arc::new(Count::default()));
        let writer = Writer {
            client: self.client,
            cache: Arc::clone(&base.cache),
            peers,
            leads: election.leads(),
            counts: counted,
            metrics: Arc::clone(&base.metrics),
            started: Instant::now(),
        };
        tasks.spawn("leader election", election.run(stop.clone()));
        tasks.spawn("statuses", writer.run(stop.clone()));
        let Base { learned, metrics, cache, mesh, .. } = base;
        let counter = Counter { pictures: self.newest.clone(), mesh, registry, learned, metrics, cache, counts, words, proxies };
        tasks.spawn("counting", counter.run(stop.clone()));
        tasks.spawn("readiness", readiness(self.newest, self.ready, stop));
        Ok(())
    }

    /// The root, as soon as the API server gives it. What is wrong with the root itself is no reason to wait.
    async fn root(&self, trust_domain: &TrustDomain) -> Result<Ca, Error> {
        let store = SecretRoot::new(&self.client);
        loop {
            match heddle_identity::open(&store, trust_domain, SystemTime::now()).await {
                Err(heddle_identity::OpenError::Store(SecretError::Call(error))) => {
                    tracing::error!(error = chain(&error), "the root cannot be read or stored; trying again");
                    tokio::time::sleep(RETRY).await;
                }
                result => return Ok(result?),
            }
        }
    }

    /// This pod's uid; the watch may learn of it a moment later than the pod runs.
    async fn own_uid(&self, cache: &Cache) -> String {
        let me = PodRef::new(&self.options.namespace, &self.options.pod);
        loop {
            if let Some((uid, _)) = cache.pod(&me) {
                return uid;
            }
            tracing::warn!(pod = %me, "this pod is not known to the API server; POD_NAME and POD_NAMESPACE have to name it");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Ready with the first picture; not ready any more as soon as the end begins, so that new proxies go elsewhere.
async fn readiness(mut pictures: Pictures, ready: watch::Sender<bool>, stop: CancellationToken) -> crate::tasks::Ended {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        first = pictures.wait_for(Option::is_some) => {
            first.map_err(|_| "the compiling loop is gone")?;
        }
    }
    ready.send_replace(true);
    tracing::info!("ready");
    stop.cancelled().await;
    ready.send_replace(false);
    Ok(())
}
