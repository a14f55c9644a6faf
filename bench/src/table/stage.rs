//! Everything that a case needs: an API server with a mesh in it, the control plane, and its proxies.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use heddle_identity::{Ca, RootPem, SpiffeId};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::plan::SYNC;
use crate::cluster::api::{Written, core, slice};
use crate::cluster::{Api, ApiServer, Variant, install, snapshot};
use crate::mesh::{Backend, CHANGING, Mesh, Pod, this_hour};
use crate::objects::{self, Ready};
use crate::operator::{Launch, Operator, Scraper};
use crate::paths::ClusterParts;
use crate::sim::fleet::Synced;
use crate::sim::proxy::Proxy;
use crate::sim::{Credentials, Fleet, Member, Replicas, Retry, Watcher};

/// An API server with a mesh in it and Heddle's own objects.
#[derive(Debug)]
pub struct Ground {
    // The processes end before their directory goes.
    /// The API server.
    pub server: ApiServer,
    /// Calls to it.
    pub api: Api,
    /// The mesh.
    pub mesh: Mesh,
    /// How the control plane is started on it.
    pub launch: Launch,
    metrics_token: String,
    _work: TempDir,
}

impl Ground {
    /// Starts it.
    ///
    /// # Errors
    /// When the API server can't be started or filled.
    pub async fn prepare(
        parts: &ClusterParts,
        operator: &Path,
        services: usize,
        variant: &Variant,
    ) -> Result<Self> {
        let mesh = Mesh::new(services)?;
        let work = tempfile::tempdir()?;
        let data = snapshot::copy(parts, mesh, work.path()).await?;
        let server = ApiServer::start(parts, &data, work.path(), variant).await?;
        let api = Api::connect(&server.kubeconfig).await?;
        install::install(parts, &server, &api).await?;
        let kubeconfig = install::operator_kubeconfig(&server, &api, work.path()).await?;
        Ok(Self {
            launch: Launch::new(operator, &kubeconfig, work.path()),
            metrics_token: install::metrics_token(&api).await?,
            server,
            api,
            mesh,
            _work: work,
        })
    }

    /// A fresh control plane, from the objects as they are at the beginning.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn operator(&mut self) -> Result<(Operator, Ca)> {
        self.server.alive()?;
        self.set_ready(CHANGING, Ready::all()).await?;
        install::routed(&self.api).await?;
        let operator = Operator::start(&self.launch).await?;
        let root = self.root().await?;
        Ok((operator, root))
    }

    /// Makes these endpoints of a service ready, and the others not.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn set_ready(&self, service: usize, ready: Ready) -> Result<Written> {
        let (path, patch) = readiness(service, ready);
        self.api.patch(&path, &patch).await
    }

    /// Reads the metrics of the control plane that runs.
    pub fn scraper(&self, root: &Ca) -> Scraper {
        self.scraper_of(&self.launch, root)
    }

    /// Reads the metrics of a control plane.
    pub fn scraper_of(&self, launch: &Launch, root: &Ca) -> Scraper {
        Scraper::new(launch, root.trust_bundle(), self.metrics_token.clone())
    }

    /// The mesh's root, as the control plane keeps it.
    async fn root(&self) -> Result<Ca> {
        let path = format!("{}/heddle-ca", core(install::NAMESPACE, "secrets"));
        let secret = self.api.get(&path).await?;
        let text = |key: &str| -> Result<String> {
            let field = secret.get("data").and_then(|data| data.get(key));
            let encoded = field
                .and_then(Value::as_str)
                .with_context(|| format!("heddle-ca has no {key}"))?;
            Ok(String::from_utf8(BASE64_STANDARD.decode(encoded)?)?)
        };
        let root = RootPem {
            certificates: text("ca.crt")?,
            private_key: text("ca.key")?,
        };
        Ok(Ca::load(&root, SystemTime::now())?)
    }
}

/// The write that does so: its path and patch.
pub fn readiness(service: usize, ready: Ready) -> (String, Value) {
    let patch = json!({"endpoints": objects::endpoints(service, ready)});
    (slice(service), patch)
}

/// The SPIFFE id of a pod.
///
/// # Errors
/// When a name is none.
pub fn identity(pod: &Pod) -> Result<SpiffeId> {
    let domain = "cluster.local".parse()?;
    Ok(SpiffeId::new(domain, &pod.namespace, &pod.service_account)?)
}

/// So many proxies, each using so many services, with certificates by the root itself.
///
/// # Errors
/// When one can't be signed.
pub fn members(mesh: Mesh, root: &Ca, proxies: usize, uses: usize) -> Result<Vec<Member>> {
    let hour = this_hour();
    let member = |Backend { service, pod }| {
        let names = mesh.names(&mesh.used_by(service, uses), &hour);
        let node = format!("{}/{}", pod.namespace, pod.name);
        let id = identity(&pod)?;
        Ok(Member {
            proxy: Proxy::new(&node, &id.to_string(), names),
            credentials: Some(Credentials::sign(root, &id, &pod.name)?),
        })
    };
    mesh.pods().take(proxies).map(member).collect()
}

/// Connects a fleet at once and waits until it is in sync, and a little longer.
///
/// # Errors
/// When it does not come to that.
pub async fn connect(ground: &Ground, members: Vec<Member>) -> Result<(Fleet, Synced)> {
    let mut fleet = Fleet::start(&ground.launch.server(), members, Retry::AsEnvoy)?;
    let synced = fleet.synced(SYNC).await?;
    // Messages under way to the last proxies belong to the measurement.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok((fleet, synced))
}

/// The same with a watcher that sees everything from the first message on.
///
/// # Errors
/// As [`connect`].
pub async fn connect_watched(
    ground: &Ground,
    members: Vec<Member>,
    watcher: Arc<dyn Watcher>,
) -> Result<Fleet> {
    let replicas = Replicas::of(&ground.launch.server());
    let mut fleet = Fleet::start_watched(&replicas, members, Retry::AsEnvoy, Some(watcher))?;
    fleet.synced(SYNC).await?;
    Ok(fleet)
}

/// How many proxies use each service.
pub(super) fn users(ground: &Ground, proxies: usize, uses: usize) -> Vec<usize> {
    let mut users = vec![0; ground.mesh.services()];
    let fleet = ground.mesh.pods().take(proxies);
    for service in fleet.flat_map(|of| ground.mesh.used_by(of.service, uses)) {
        if let Some(count) = users.get_mut(service) {
            *count += 1;
        }
    }
    users
}
