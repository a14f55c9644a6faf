//! Configuration for a discovery server without a control plane behind it: the compiler's view of a small mesh, the
//! same for all clients.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use heddle_policy_compiler::{
    Compiled, Destination, Part, PodRef, Resource, Scope, World, WorldBuilder, compile, ingest,
};
use heddle_xds_server::{
    NodeInfo, OnDemandRequests, Peer, ResourceSource, StreamRefusal, SubscriberId, View,
};
use serde_json::Value;
use tokio::sync::watch;

use crate::mesh::{CHANGING, PODS, PORT, namespace_of, pod_name, service_name};
use crate::objects::{self, Ready};

/// Services of the small mesh: as many as each proxy uses.
const SERVICES: usize = 5;

/// A mesh that is compiled again when an endpoint changes.
pub(super) struct Small {
    builder: WorldBuilder,
    compiled: Compiled,
    /// The parts as the server takes them, by those of the compiler, so that an unchanged part is the same `Arc` again.
    parts: HashMap<*const Part, (Arc<Part>, Arc<heddle_xds_server::Part>)>,
}

impl Small {
    pub(super) fn new() -> Self {
        let mut builder = World::builder();
        for service in 0..SERVICES {
            apply(&mut builder, objects::service(service));
            apply(&mut builder, objects::slice(service, Ready::all()));
            for index in 0..PODS {
                let mut pod = objects::pod(service, index);
                if let (Some(pod), Value::Object(status)) =
                    (pod.as_object_mut(), objects::pod_status(service, index))
                {
                    pod.extend(status);
                }
                apply(&mut builder, pod);
            }
        }
        let compiled = compile(&builder.world());
        Self {
            builder,
            compiled,
            parts: HashMap::new(),
        }
    }

    /// The endpoints of the service that changes.
    pub(super) fn set_ready(&mut self, ready: Ready) {
        apply(&mut self.builder, objects::slice(CHANGING, ready));
        self.compiled = self.compiled.update(&self.builder.world());
    }

    /// The view of a pod that uses all services.
    pub(super) fn view(&mut self) -> Result<Arc<View>> {
        let held: BTreeSet<Destination> = (0..SERVICES)
            .filter_map(|service| {
                let (namespace, name) = (namespace_of(service), service_name(service));
                format!("service/{namespace}/{name}:{PORT}").parse().ok()
            })
            .collect();
        let (none, nothing) = (BTreeSet::new(), BTreeSet::new());
        let scope = Scope {
            active: &held,
            draining: &none,
            granted: &nothing,
            denied: &nothing,
            retired: &nothing,
            tapped: false,
        };
        let pod = PodRef::new(&namespace_of(CHANGING), &pod_name(CHANGING, 0));
        let view = self.compiled.view(&pod, &scope);
        let view = view.context("the pod has no view")?;
        let parts = view.parts.iter().map(|part| {
            let known = self.parts.entry(Arc::as_ptr(part));
            Arc::clone(&known.or_insert_with(|| (Arc::clone(part), wire(part))).1)
        });
        Ok(Arc::new(View {
            parts: parts.collect(),
            ..View::default()
        }))
    }
}

fn apply(builder: &mut WorldBuilder, object: Value) {
    for object in ingest::parse_json("bench", object).0 {
        builder.apply(object);
    }
}

fn wire(part: &Part) -> Arc<heddle_xds_server::Part> {
    let resource = |resource: &Arc<Resource>| {
        Arc::new(heddle_xds_server::Resource {
            key: resource.key.clone(),
            version: Arc::clone(&resource.version),
            body: resource.body.clone(),
            requires: resource.requires.clone(),
            empty: resource.empty,
        })
    };
    Arc::new(heddle_xds_server::Part {
        resources: part.resources.iter().map(resource).collect(),
    })
}

/// Gives everybody the same.
pub(super) struct Same {
    view: RwLock<Arc<View>>,
    tick: watch::Sender<u64>,
}

impl Same {
    pub(super) fn new(view: Arc<View>) -> Self {
        Self {
            view: RwLock::new(view),
            tick: watch::Sender::new(0),
        }
    }

    pub(super) fn show(&self, view: Arc<View>) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        self.tick.send_modify(|tick| *tick += 1);
    }
}

impl ResourceSource for Same {
    fn admit(&self, _: &Peer, node: &NodeInfo) -> Result<SubscriberId, StreamRefusal> {
        Ok(SubscriberId::from(node.id.as_str()))
    }

    fn view(&self, _: &SubscriberId, _: &OnDemandRequests) -> Option<Arc<View>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&view))
    }

    fn subscribe(&self, _: &SubscriberId) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }
}
