//! The parts of a control plane that do not depend on the source of objects: compile, serve views, issue certificates.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_identity::{Ca, TrustDomain};
use heddle_xds_server::{Options as XdsOptions, Registry, Security, Server};
use tokio::net::TcpListener;

use crate::certs::{CertError, OwnCertificate};
use crate::change_traces::{ChangeTraces, TraceEndpoint};
use crate::issuing::{Issuer, TokenAuthenticator};
use crate::listen::{Listeners, Port};
use crate::metrics::{Metrics, SidecarCounts};
use crate::rejections::RejectionStore;
use crate::scope::Scopes;
use crate::serving::MeshSource;
use crate::snapshot::{self, Reader, Snapshots};
use crate::status::Shown;
use crate::tasks::Tasks;
use crate::trials::Trials;

/// The parts that every control plane has.
#[derive(Debug)]
pub struct Plane {
    /// Of all identities.
    pub trust_domain: TrustDomain,
    /// Signs them.
    pub ca: Arc<Ca>,
    /// Of the listeners.
    pub own: Arc<OwnCertificate>,
    /// Rejections that an Envoy of the control plane's own has verified.
    pub rejections: Arc<RejectionStore>,
    /// Verifies them.
    pub trials: Arc<Trials>,
    /// Counts it all.
    pub metrics: Arc<Metrics>,
    /// The destinations of each workload.
    pub scopes: Arc<Scopes>,
    /// The view that each proxy must have.
    pub mesh: Arc<MeshSource>,
    /// The newest snapshot.
    pub snapshots: Snapshots,
    load_report_interval: Duration,
}

/// Where proxies and agents connect.
#[derive(Debug)]
pub struct Sockets {
    /// Discovery (mTLS).
    pub ads: TcpListener,
    /// Certificates (TLS and a token).
    pub issuing: TcpListener,
    /// The bounds of all listeners.
    pub listeners: Arc<Listeners>,
}

/// Handles of a plane that serves.
#[derive(Clone, Debug)]
pub struct PlaneHandles {
    /// The view that each proxy must have.
    pub mesh: Arc<MeshSource>,
    /// The progress of each proxy.
    pub registry: Arc<Registry>,
    /// The discovery server.
    pub server: Arc<Server<MeshSource>>,
}

impl Plane {
    /// A plane that does nothing yet; its listeners' certificate is also for the addresses.
    ///
    /// # Errors
    /// When the CA does not sign that certificate.
    pub fn new(
        ca: Arc<Ca>,
        trust_domain: TrustDomain,
        ips: Vec<IpAddr>,
        load_report_interval: Duration,
        trials: Trials,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CertError> {
        let own = OwnCertificate::issue(Arc::clone(&ca), trust_domain.clone(), ips)?;
        let scopes = Arc::new(Scopes::default());
        let mesh = MeshSource::new(
            trust_domain.clone(),
            Arc::clone(&scopes),
            load_report_interval,
            Arc::clone(&metrics),
        );
        Ok(Self {
            trust_domain,
            ca,
            own: Arc::new(own),
            rejections: Arc::default(),
            trials: Arc::new(trials),
            metrics,
            scopes,
            snapshots: mesh.snapshots(),
            mesh: Arc::new(mesh),
            load_report_interval,
        })
    }

    /// Starts the tasks.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn start(
        &self,
        mut reader: Reader,
        tokens: Arc<dyn TokenAuthenticator>,
        sockets: Sockets,
        tasks: &mut Tasks,
    ) -> Result<PlaneHandles, CertError> {
        reader.trace_changes(self.mesh.traces().cloned());
        let stop = tasks.stop();
        let rotation = Arc::clone(&self.own).rotate(stop.clone());
        tasks.spawn("certificate rotation", rotation);
        let (rejections, mesh) = (Arc::clone(&self.rejections), Arc::clone(&self.mesh));
        let compiler = snapshot::run(reader, rejections, mesh, self.metrics(), stop.clone());
        tasks.spawn("compiler", compiler);
        tasks.spawn("trials", Arc::clone(&self.trials).run(stop.clone()));

        let options = XdsOptions {
            load_report_interval: self.load_report_interval,
            bounds: sockets.listeners.bounds(Port::Discovery),
            deadlines: sockets.listeners.deadlines(),
            ..XdsOptions::default()
        };
        let server = Arc::new(Server::new(Arc::clone(&self.mesh), options));
        let registry = server.registry();
        let sweep = Arc::clone(&self.mesh).sweep(Arc::clone(&registry), stop.clone());
        tasks.spawn("scopes", sweep);
        tasks.spawn("taps", Arc::clone(&self.mesh).end_taps(tasks.stop()));
        self.metrics.count_server(server.counters());
        let listeners = Arc::clone(&sockets.listeners);
        self.metrics.count_listeners(Arc::clone(&listeners));
        let (mutual, until) = (self.own.mutual(&["h2"])?, stop.clone());
        let serving = Arc::clone(&server);
        tasks.spawn("discovery", async move {
            let security = Security::mtls(move || Arc::clone(&mutual));
            let until = until.cancelled_owned();
            Ok(serving.serve(sockets.ads, security, until).await?)
        });

        let (ca, snapshots) = (Arc::clone(&self.ca), self.snapshots.clone());
        let issuer = Issuer::new(
            ca,
            self.trust_domain.clone(),
            tokens,
            snapshots,
            self.metrics(),
            self.mesh.certificates(),
        );
        let tls = self.own.server(&["h2"])?;
        tasks.spawn("issuing", async move {
            let router = issuer.router();
            listeners
                .serve(Port::Issuing, sockets.issuing, tls.into(), router, stop)
                .await
        });
        Ok(PlaneHandles {
            mesh: Arc::clone(&self.mesh),
            registry,
            server,
        })
    }

    /// Traces every change from the start on, if there is a collector. `pod` is that of this replica.
    pub fn trace_changes(&self, to: Option<TraceEndpoint>, pod: Option<String>, tasks: &mut Tasks) {
        let Some(to) = to else { return };
        let (traces, task) = ChangeTraces::new(to, pod, self.metrics(), tasks.stop());
        tasks.spawn("traces of changes", task);
        self.mesh.trace_changes(traces);
    }

    /// Counts the sidecars that are connected here, and the objects that are set aside, for metrics. Returns the state of the sidecars,
    /// which the counter of acknowledgments sets.
    #[must_use]
    pub fn count_sidecars(&self) -> Arc<Shown> {
        let shown = Arc::<Shown>::default();
        let (counted, rejections) = (Arc::clone(&shown), Arc::clone(&self.rejections));
        self.metrics.count_sidecars(move || SidecarCounts {
            set_aside: rejections.objects().len(),
            ..counted.counts(SystemTime::now())
        });
        shown
    }

    /// Returns the metrics, for one more task that counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }
}
