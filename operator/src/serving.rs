//! Hands each proxy its view of the newest picture, as the discovery server asks for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use heddle_identity::TrustDomain;
use heddle_policy_compiler as policy;
use heddle_policy_compiler::{NamespacedName, PodRef};
use heddle_xds_server as xds;
use heddle_xds_server::{Name, NodeInfo, Peer, Refusal, ResourceSource, SubscriberId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::certs::identity_of;
use crate::metrics::{Metrics, Outcome};
use crate::picture::{Picture, Pictures};
use crate::tasks::Ended;

/// What one proxy should have, as the compiler says it (with origins) and as the server takes it.
#[derive(Debug)]
pub struct Seen {
    /// With the objects that each resource comes from.
    pub policy: policy::View,
    /// The same resources for the wire.
    pub wire: Arc<xds::View>,
}

struct Cached {
    revision: u64,
    wanted: BTreeSet<Name>,
    seen: Arc<Seen>,
}

type Version = (xds::ResourceKey, Arc<str>);

/// The source of the discovery server.
pub struct MeshSource {
    pictures: Pictures,
    ticks: watch::Sender<u64>,
    trust_domain: TrustDomain,
    metrics: Arc<Metrics>,
    views: Mutex<BTreeMap<PodRef, Cached>>,
    /// Equal resources are one in memory, whoever holds them.
    interned: Mutex<HashMap<Version, Weak<xds::Resource>>>,
}

impl MeshSource {
    /// Serves the pictures that come; proxies have to be of the trust domain.
    #[must_use]
    pub fn new(pictures: Pictures, trust_domain: TrustDomain, metrics: Arc<Metrics>) -> Self {
        Self {
            pictures,
            ticks: watch::Sender::new(0),
            trust_domain,
            metrics,
            views: Mutex::default(),
            interned: Mutex::default(),
        }
    }

    /// Tells the streams of each new picture, and drops what no proxy needs any more.
    ///
    /// # Errors
    /// When the compiling loop is gone.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let mut pictures = self.pictures.clone();
        let mut domain = self.trust_domain.to_string();
        loop {
            let newest = pictures.borrow_and_update().clone();
            if let Some(picture) = newest {
                lock(&self.views).retain(|pod, _| picture.compiled.proxies.contains_key(pod));
                lock(&self.interned).retain(|_, resource| resource.strong_count() > 0);
                self.ticks.send_replace(picture.revision);
                if picture.mesh.trust_domain != domain {
                    picture.mesh.trust_domain.clone_into(&mut domain);
                    tracing::error!(now = domain, at_start = %self.trust_domain, "Mesh default: spec.trustDomain is another than at the start: restart the control plane, then the workloads");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = pictures.changed() => changed.map_err(|_| "the compiling loop is gone")?,
            }
        }
    }

    /// What a proxy should have in the picture; `None` if it is no meshed pod there. The same `Arc` again where nothing changed.
    #[must_use]
    pub fn seen(
        &self,
        picture: &Picture,
        pod: &PodRef,
        wanted: &BTreeSet<Name>,
    ) -> Option<Arc<Seen>> {
        let before = {
            let views = lock(&self.views);
            let cached = views.get(pod).filter(|cached| cached.wanted == *wanted);
            if let Some(cached) = cached.filter(|cached| cached.revision == picture.revision) {
                return Some(Arc::clone(&cached.seen));
            }
            cached.map(|cached| Arc::clone(&cached.seen))
        };
        let view = picture.compiled.view(pod, wanted)?;
        let seen = match before {
            Some(before) if before.policy == view => before,
            Some(before) => {
                let wire = self.wire(&view);
                // Another origin alone is nothing to send.
                let wire = if *before.wire == wire {
                    Arc::clone(&before.wire)
                } else {
                    Arc::new(wire)
                };
                Arc::new(Seen { policy: view, wire })
            }
            None => Arc::new(Seen {
                wire: Arc::new(self.wire(&view)),
                policy: view,
            }),
        };
        let cached = Cached {
            revision: picture.revision,
            wanted: wanted.clone(),
            seen: Arc::clone(&seen),
        };
        lock(&self.views).insert(pod.clone(), cached);
        Some(seen)
    }

    fn wire(&self, view: &policy::View) -> xds::View {
        let mut interned = lock(&self.interned);
        let resources = view.resources.values().map(|resource| {
            let resource = intern(&mut interned, resource);
            (resource.key.clone(), resource)
        });
        xds::View {
            resources: resources.collect(),
            absent: view.absent.clone(),
        }
    }

    fn newest(&self) -> Option<Arc<Picture>> {
        self.pictures.borrow().clone()
    }

    fn decide(
        &self,
        peer: &Peer,
        node: &NodeInfo,
    ) -> Result<SubscriberId, (&'static str, Refusal)> {
        let id = identity_of(&peer.certificates, &self.trust_domain)
            .map_err(|error| ("certificate", Refusal::Unauthenticated(error.to_string())))?;
        let denied = |reason, why: String| Err((reason, Refusal::Denied(why)));
        let Some(pod) = pod_of(&node.id) else {
            return denied(
                "node_id",
                "the node id is not of the form <namespace>/<pod>".to_owned(),
            );
        };
        // Said before the pod is looked up, so that nobody learns which pods other namespaces have.
        if &*pod.namespace != id.namespace() {
            return denied(
                "namespace",
                format!("`{id}` may not speak for a pod of another namespace"),
            );
        }
        let unavailable = |why: &str| Err(("not_yet", Refusal::Unavailable(why.to_owned())));
        let Some(picture) = self.newest() else {
            return unavailable("the cluster has not been read yet");
        };
        let Some(account) = picture.service_account(&pod) else {
            return unavailable("the pod is not known yet");
        };
        if &*account != id.service_account() {
            return denied(
                "service_account",
                format!("`{id}` is not the identity of that pod"),
            );
        }
        if !picture.compiled.proxies.contains_key(&pod) {
            return unavailable("the pod is not one with a sidecar, or is over");
        }
        Ok(SubscriberId::from(node.id.as_str()))
    }
}

impl std::fmt::Debug for MeshSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshSource")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl ResourceSource for MeshSource {
    fn admit(&self, peer: &Peer, node: &NodeInfo) -> Result<SubscriberId, Refusal> {
        self.decide(peer, node).map_err(|(reason, refusal)| {
            self.metrics
                .admission_refused
                .get_or_create(&Outcome { reason })
                .inc();
            refusal
        })
    }

    fn view(&self, who: &SubscriberId, wanted: &BTreeSet<Name>) -> Option<Arc<xds::View>> {
        let picture = self.newest()?;
        let pod = pod_of(who.as_str())?;
        Some(Arc::clone(&self.seen(&picture, &pod, wanted)?.wire))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }
}

/// The pod that a node id names.
#[must_use]
pub fn pod_of(node_id: &str) -> Option<PodRef> {
    let (namespace, name) = node_id.split_once('/')?;
    let plain = |part: &str| !part.is_empty() && part.len() <= 253 && !part.contains('/');
    (plain(namespace) && plain(name)).then(|| NamespacedName::new(namespace, name))
}

/// The kind as the server calls it.
#[must_use]
pub const fn wire_kind(kind: policy::ResourceKind) -> xds::ResourceKind {
    match kind {
        policy::ResourceKind::Cluster => xds::ResourceKind::Cluster,
        policy::ResourceKind::Endpoints => xds::ResourceKind::Endpoints,
        policy::ResourceKind::Listener => xds::ResourceKind::Listener,
        policy::ResourceKind::Route => xds::ResourceKind::Route,
    }
}

/// The key as the server calls it.
#[must_use]
pub fn wire_key(key: &policy::ResourceKey) -> xds::ResourceKey {
    xds::ResourceKey {
        kind: wire_kind(key.kind),
        name: Arc::clone(&key.name),
    }
}

fn intern(
    interned: &mut HashMap<Version, Weak<xds::Resource>>,
    resource: &policy::Resource,
) -> Arc<xds::Resource> {
    let key = wire_key(&resource.key);
    let requires: Vec<_> = resource.requires.iter().map(wire_key).collect();
    let version = (key.clone(), Arc::clone(&resource.version));
    let known = interned.get(&version).and_then(Weak::upgrade);
    // What a resource requires is no part of its bytes, and so not of its version.
    if let Some(known) = known.filter(|known| known.requires == requires) {
        return known;
    }
    let fresh = xds::Resource {
        key,
        version: Arc::clone(&resource.version),
        body: resource.body.clone(),
        requires,
    };
    let fresh = Arc::new(fresh);
    interned.insert(version, Arc::downgrade(&fresh));
    fresh
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_a_namespace_and_a_pod() {
        assert_eq!(
            pod_of("shop/cart-1"),
            Some(NamespacedName::new("shop", "cart-1"))
        );
        for text in ["", "/", "shop", "shop/", "/cart", "a/b/c"] {
            assert_eq!(pod_of(text), None, "{text}");
        }
    }
}
