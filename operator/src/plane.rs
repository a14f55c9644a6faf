//! What a control plane has wherever its objects come from: compile, serve views, issue certificates.

use std::net::IpAddr;
use std::sync::Arc;

use heddle_identity::{Ca, TrustDomain};
use heddle_xds_server::{Options as XdsOptions, Registry, Security, Server};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::certs::{CertError, OwnCertificate};
use crate::issuing::{Issuer, TokenAuthenticator};
use crate::learned::Learned;
use crate::metrics::Metrics;
use crate::objects::ObjectSource;
use crate::picture::{self, Picture, Pictures};
use crate::serving::MeshSource;
use crate::tasks::Tasks;

/// The parts that every control plane has.
#[derive(Debug)]
pub struct Plane {
    /// Of all identities.
    pub trust_domain: TrustDomain,
    /// Signs them.
    pub ca: Arc<Ca>,
    /// Of the listeners.
    pub own: Arc<OwnCertificate>,
    /// Refusals by proxies.
    pub learned: Arc<Learned>,
    /// Counts it all.
    pub metrics: Arc<Metrics>,
    /// The newest picture.
    pub pictures: Pictures,
    painted: Arc<watch::Sender<Option<Arc<Picture>>>>,
}

/// Where proxies and agents connect.
#[derive(Debug)]
pub struct Sockets {
    /// Discovery (mTLS).
    pub ads: TcpListener,
    /// Certificates (TLS and a token).
    pub issuing: TcpListener,
}

/// What is there once the plane serves.
#[derive(Clone, Debug)]
pub struct Served {
    /// What each proxy should have.
    pub mesh: Arc<MeshSource>,
    /// What each proxy has.
    pub registry: Arc<Registry>,
}

impl Plane {
    /// A plane that does nothing yet; its listeners' certificate is also for the addresses.
    ///
    /// # Errors
    /// When the CA does not sign that certificate.
    pub fn new(
        ca: Ca,
        trust_domain: TrustDomain,
        ips: Vec<IpAddr>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CertError> {
        let ca = Arc::new(ca);
        let own = OwnCertificate::issue(Arc::clone(&ca), trust_domain.clone(), ips)?;
        let (painted, pictures) = watch::channel(None);
        Ok(Self {
            trust_domain,
            ca,
            own: Arc::new(own),
            learned: Arc::default(),
            metrics,
            pictures,
            painted: Arc::new(painted),
        })
    }

    /// Starts the tasks.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn start(
        &self,
        source: Arc<dyn ObjectSource>,
        tokens: Arc<dyn TokenAuthenticator>,
        sockets: Sockets,
        tasks: &mut Tasks,
    ) -> Result<Served, CertError> {
        let stop = tasks.stop();
        let rotation = Arc::clone(&self.own).rotate(stop.clone());
        tasks.spawn("certificate rotation", rotation);
        let (learned, painted) = (Arc::clone(&self.learned), Arc::clone(&self.painted));
        let compiler = picture::run(source, learned, painted, self.metrics(), stop.clone());
        tasks.spawn("compiler", compiler);

        let domain = self.trust_domain.clone();
        let mesh = MeshSource::new(self.pictures.clone(), domain.clone(), self.metrics());
        let mesh = Arc::new(mesh);
        tasks.spawn("views", Arc::clone(&mesh).follow(stop.clone()));
        let server = Server::new(Arc::clone(&mesh), XdsOptions::default());
        let registry = server.registry();
        self.metrics.count_server(server.counters());
        let (mutual, until) = (self.own.mutual(&["h2"])?, stop.clone());
        tasks.spawn("discovery", async move {
            let security = Security::mtls(move || Arc::clone(&mutual));
            let until = until.cancelled_owned();
            Ok(server.serve(sockets.ads, security, until).await?)
        });

        let (ca, pictures) = (Arc::clone(&self.ca), self.pictures.clone());
        let issuer = Issuer::new(ca, domain, tokens, pictures, self.metrics());
        let tls = self.own.server(&["h2"])?;
        tasks.spawn("issuing", issuer.serve(sockets.issuing, tls, stop));
        Ok(Served { mesh, registry })
    }

    /// The metrics, for one more who counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }
}
