//! The control plane without Kubernetes: it reads a directory of YAML, and writes a runtime directory.
//!
//! `<runtime>/ca/root.pem` (the root and its key), `<runtime>/trust-bundle.pem`, `<runtime>/tokens/<namespace>_<pod>`,
//! `<runtime>/status.yaml` (a `List` of our objects with their statuses), `<runtime>/proxies.json`, `<runtime>/edges.json`
//! (the traffic of the last minute), `<runtime>/receipts.json` (the ends of pods), `<runtime>/tap.sock` (the API of taps),
//! `<runtime>/metrics.sock` (`/metrics` for Prometheus), `<runtime>/scopes` (the learned destinations of each workload).

mod content;
mod directory;
mod edges;
mod files;
mod root;
mod scopes;
mod sockets;
mod statuses;
mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_identity::TrustDomain;
use tokio_util::sync::CancellationToken;

pub use directory::Directory;
pub use files::{read_private, write_atomically, write_private};
pub use root::FileRoot;
pub use statuses::{Files, Statuses, publish};
pub use tokens::TokenFiles;

use crate::certs::CertError;
use crate::change_traces::TraceEndpoint;
use crate::listen::{Listeners, bind};
use crate::metrics_api;
use crate::objects::ObjectSource;
use crate::plane::{Plane, Sockets};
use crate::snapshot::Reader;
use crate::tap_api;
use crate::tasks::{TaskError, Tasks};
use crate::trials::Trials;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of YAML.
    pub directory: PathBuf,
    /// The runtime directory; made if it is not there.
    pub runtime: PathBuf,
    /// Where proxies connect (mTLS).
    pub ads: SocketAddr,
    /// Where agents get certificates (TLS).
    pub ca: SocketAddr,
    /// The bounds of the listeners.
    pub listeners: Arc<Listeners>,
    /// The Envoy that verifies rejections; none: that of the image.
    pub envoy: Option<PathBuf>,
    /// How often proxies report their loads.
    pub load_report_interval: Duration,
    /// The collector of traces of changes; none: no traces.
    pub trace_endpoint: Option<TraceEndpoint>,
}

/// Why the standalone control plane does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or an address.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The root.
    #[error(transparent)]
    Root(#[from] heddle_identity::OpenError<root::FileRootError>),
    /// TLS.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The Mesh names no usable trust domain.
    #[error("Mesh default: spec.trustDomain: {0}")]
    TrustDomain(#[from] heddle_identity::SpiffeError),
    /// The directory is gone.
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
    files::private_directory(&options.runtime)?;
    let statuses = Arc::new(Statuses::read(&options.runtime.join("status.yaml")));
    let directory = Directory::open(options.directory.clone(), Arc::clone(&statuses))?;
    let directory = Arc::new(directory);
    let source: Arc<dyn ObjectSource> = Arc::<Directory>::clone(&directory);
    let mut reader = Reader::new(source);
    reader.complete().await?;
    let trust_domain: TrustDomain = reader.mesh().trust_domain.parse()?;
    let root = FileRoot::new(&options.runtime)?;
    let opened = heddle_identity::open(&root, &trust_domain, SystemTime::now()).await?;
    let ca = opened.ca;
    let trust_domain = ca.trust_domain().cloned().unwrap_or(trust_domain);
    reader.set_trust_domain(&trust_domain);
    let sockets = Sockets {
        ads: bind(options.ads)?,
        issuing: bind(options.ca)?,
        listeners: options.listeners,
    };
    tracing::info!(
        ads = %sockets.ads.local_addr()?,
        ca = %sockets.issuing.local_addr()?,
        root = ca.fingerprint(),
        %trust_domain,
        "listening"
    );
    let ips = vec![options.ads.ip(), options.ca.ip()];
    let plane = Plane::new(
        ca,
        trust_domain,
        ips,
        options.load_report_interval,
        Trials::new(options.envoy.clone(), &options.runtime),
        Arc::default(),
    )?;
    plane.metrics.root_ends(plane.ca.not_after());

    let mut tasks = Tasks::new(stop.clone());
    plane.trace_changes(options.trace_endpoint, None, &mut tasks);
    tasks.spawn("directory", Arc::clone(&directory).watch(stop.clone()));
    let tokens = Arc::new(TokenFiles::open(options.runtime.join("tokens"))?);
    let token_files = Arc::clone(&tokens).follow(plane.snapshots.clone(), stop.clone());
    tasks.spawn("tokens", token_files);
    let store = options.runtime.join("scopes");
    scopes::load(&store, &plane.scopes)?;
    tasks.spawn(
        "scope store",
        scopes::keep(store, Arc::clone(&plane.scopes), stop.clone()),
    );
    let handles = plane.start(reader, tokens, sockets, &mut tasks)?;
    serve_readers(&plane, &options.runtime, &mut tasks);
    let files = Files {
        statuses,
        shown: plane.count_sidecars(),
        runtime: options.runtime,
    };
    let statuses = publish(plane, handles, files, stop);
    tasks.spawn("statuses", statuses);
    Ok(tasks.run().await?)
}

/// Writes the traffic of edges, and serves taps and metrics.
fn serve_readers(plane: &Plane, runtime: &Path, tasks: &mut Tasks) {
    let mesh = || Arc::clone(&plane.mesh);
    let traffic = edges::publish(mesh(), runtime.to_owned(), tasks.stop());
    tasks.spawn("edges", traffic);
    let taps = tap_api::router(mesh());
    let socket = runtime.join("tap.sock");
    let taps = sockets::serve(socket, "taps", taps, tasks.stop());
    tasks.spawn("tap socket", taps);
    let metrics = metrics_api::router(plane.metrics());
    let socket = runtime.join("metrics.sock");
    let metrics = sockets::serve(socket, "metrics", metrics, tasks.stop());
    tasks.spawn("metrics socket", metrics);
}
