//! The control plane without Kubernetes: a directory of YAML in, a runtime directory out.
//!
//! `<runtime>/ca/root.pem` (the root and its key), `<runtime>/trust-bundle.pem`, `<runtime>/tokens/<namespace>_<pod>`,
//! `<runtime>/status.yaml` (a `List` of our objects with their statuses), `<runtime>/proxies.json`.

mod directory;
mod files;
mod root;
mod statuses;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use heddle_identity::{Ca, TrustDomain};
use heddle_xds_server::{Options as XdsOptions, Registry, Security, Server};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use directory::Directory;
pub use files::{read_private, write_atomically, write_private};
pub use root::FileRoot;
pub use statuses::{Statuses, publish};
pub use tokens::TokenFiles;

use crate::certs::{CertError, OwnCertificate};
use crate::issuing::Issuer;
use crate::learned::Learned;
use crate::listen::bind;
use crate::metrics::Metrics;
use crate::objects::ObjectSource;
use crate::picture::{self, Pictures};
use crate::serving::MeshSource;
use crate::tasks::{TaskError, Tasks};

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
    let statuses = Arc::new(Statuses::default());
    let directory = Arc::new(Directory::open(options.directory.clone(), Arc::clone(&statuses))?);
    let trust_domain: TrustDomain = directory.objects().mesh().trust_domain.parse()?;
    let root = FileRoot::new(options.runtime.join("ca"))?;
    let ca = Arc::new(heddle_identity::open(&root, &trust_domain, SystemTime::now()).await?);
    write_atomically(&options.runtime.join("trust-bundle.pem"), ca.trust_bundle().as_bytes())?;
    let own = Arc::new(OwnCertificate::issue(Arc::clone(&ca), trust_domain.clone(), vec![options.ads.ip(), options.ca.ip()])?);
    let (ads, issuing) = (bind(options.ads).await?, bind(options.ca).await?);
    tracing::info!(ads = %ads.local_addr()?, ca = %issuing.local_addr()?, root = ca.fingerprint(), %trust_domain, "listening");

    let learned = Arc::new(Learned::default());
    let (pictures, newest) = watch::channel(None);
    let mut tasks = Tasks::new(stop);
    let parts = Parts { trust_domain, ca, own, newest, learned, statuses, directory, options };
    parts.start(&mut tasks, Arc::new(pictures), ads, issuing)?;
    Ok(tasks.run().await?)
}

/// What the tasks share.
struct Parts {
    trust_domain: TrustDomain,
    ca: Arc<Ca>,
    own: Arc<OwnCertificate>,
    newest: Pictures,
    learned: Arc<Learned>,
    statuses: Arc<Statuses>,
    directory: Arc<Directory>,
    options: Options,
}

impl Parts {
    fn start(
        self,
        tasks: &mut Tasks,
        pictures: Arc<watch::Sender<Option<Arc<picture::Picture>>>>,
        ads: TcpListener,
        issuing: TcpListener,
    ) -> Result<(), Error> {
        let metrics = Arc::new(Metrics::default());
        let stop = tasks.stop();
        tasks.spawn("certificate rotation", Arc::clone(&self.own).rotate(stop.clone()));
        tasks.spawn("directory", Arc::clone(&self.directory).watch(stop.clone()));
        let source: Arc<dyn ObjectSource> = Arc::<Directory>::clone(&self.directory);
        tasks.spawn("compiler", picture::run(source, Arc::clone(&self.learned), pictures, Arc::clone(&metrics), stop.clone()));

        let mesh = Arc::new(MeshSource::new(self.newest.clone(), self.trust_domain.clone(), Arc::clone(&metrics)));
        tasks.spawn("views", Arc::clone(&mesh).follow(stop.clone()));
        let server = Server::new(Arc::clone(&mesh), XdsOptions::default());
        let registry: Arc<Registry> = server.registry();
        let mutual = self.own.mutual(&["h2"])?;
        let until = stop.clone();
        tasks.spawn("discovery", async move {
            let security = Security::mtls(move || Arc::clone(&mutual));
            Ok(server.serve(ads, security, until.cancelled_owned()).await?)
        });

        let tokens = Arc::new(TokenFiles::open(self.options.runtime.join("tokens"))?);
        tasks.spawn("tokens", Arc::clone(&tokens).follow(self.newest.clone(), stop.clone()));
        let issuer = Issuer::new(self.ca, self.trust_domain, tokens, self.newest.clone(), Arc::clone(&metrics));
        tasks.spawn("issuing", issuer.serve(issuing, self.own.server(&["h2"])?, stop.clone()));

        let watched = statuses::Watched { pictures: self.newest, mesh, registry, learned: self.learned, metrics };
        tasks.spawn("statuses", publish(watched, self.statuses, self.options.runtime, stop));
        Ok(())
    }
}
