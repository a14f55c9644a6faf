//! Collects objects in any order; the world that comes out does not know the order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{Declared, Endpoint, NamespacedName, Refusal, Service, Workload, World};
use crate::finding::{Finding, ObjectKind, ObjectRef};
use crate::ingest::{self, INJECT_LABEL, KubeObject, SliceEndpoints, Unreadable};

/// Takes objects one by one, then becomes a [`World`].
#[derive(Clone, Debug, Default)]
pub struct WorldBuilder {
    meshes: BTreeMap<Arc<str>, Declared<heddle_crds::MeshSpec>>,
    splits: BTreeMap<NamespacedName, Declared<heddle_crds::TrafficSplitSpec>>,
    policies: BTreeMap<NamespacedName, Declared<heddle_crds::AuthPolicySpec>>,
    /// Namespaces whose pods get a sidecar.
    injecting: BTreeSet<Arc<str>>,
    services: BTreeMap<NamespacedName, Service>,
    /// By the slice's own name: several slices make one service's endpoints.
    slices: BTreeMap<NamespacedName, SliceEndpoints>,
    pods: BTreeMap<NamespacedName, Workload>,
    templates: BTreeMap<NamespacedName, Workload>,
    refusals: BTreeMap<ObjectRef, Refusal>,
}

impl WorldBuilder {
    /// Takes one object; the same name again replaces the earlier one. What is wrong with it is returned, what is right is kept.
    pub fn apply(&mut self, object: KubeObject) -> Vec<Finding> {
        let mut findings = Vec::new();
        match object {
            KubeObject::Namespace(namespace) => self.namespace(&namespace),
            KubeObject::Service(service) => {
                if let Some(service) = ingest::service(&service, &mut findings) {
                    self.services.insert(service.name.clone(), service);
                }
            }
            KubeObject::EndpointSlice(slice) => {
                if let Some((name, endpoints)) = ingest::endpoint_slice(&slice, &mut findings) {
                    self.slices.insert(name, endpoints);
                }
            }
            KubeObject::Pod(pod) => {
                if let Some(pod) = ingest::pod(&pod, &mut findings) {
                    self.pods.insert(pod.name.clone(), pod);
                }
            }
            KubeObject::Template(template) => {
                if let Some(workload) = ingest::template(&template, &mut findings) {
                    self.templates.insert(workload.name.clone(), workload);
                }
            }
            KubeObject::Mesh(mesh) => {
                if let Some(mesh) =
                    Declared::readable(ObjectKind::Mesh, &mesh.metadata, &mesh.spec, None)
                {
                    self.meshes.insert(Arc::clone(&mesh.object.name), mesh);
                }
            }
            KubeObject::TrafficSplit(split) => self.split(&split),
            KubeObject::AuthPolicy(policy) => {
                let last_good = policy.status.as_ref().and_then(|s| s.last_good.as_ref());
                if let Some(policy) = Declared::readable(
                    ObjectKind::AuthPolicy,
                    &policy.metadata,
                    &policy.spec,
                    last_good,
                ) {
                    self.policies.insert(name_of(&policy.object), policy);
                }
            }
            KubeObject::Unreadable(object) => self.unreadable(&object),
        }
        findings
    }

    fn namespace(&mut self, namespace: &core::Namespace) {
        let Some(name) = namespace.metadata.name.as_deref() else {
            return;
        };
        let label = namespace
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(INJECT_LABEL));
        if label.map(String::as_str) == Some("enabled") {
            self.injecting.insert(name.into());
        } else {
            self.injecting.remove(name);
        }
    }

    fn split(&mut self, split: &heddle_crds::TrafficSplit) {
        let status = split.status.as_ref();
        let last_good = status.and_then(|s| s.last_good.as_ref());
        if let Some(mut declared) = Declared::readable(
            ObjectKind::TrafficSplit,
            &split.metadata,
            &split.spec,
            last_good,
        ) {
            declared.weights = status.map(|s| s.weights.clone()).unwrap_or_default();
            self.splits.insert(name_of(&declared.object), declared);
        }
    }

    fn unreadable(&mut self, object: &Unreadable) {
        match object.object.kind {
            ObjectKind::Mesh => {
                self.meshes.insert(
                    Arc::clone(&object.object.name),
                    Declared::unreadable(object),
                );
            }
            ObjectKind::TrafficSplit => {
                self.splits
                    .insert(name_of(&object.object), Declared::unreadable(object));
            }
            ObjectKind::AuthPolicy => {
                self.policies
                    .insert(name_of(&object.object), Declared::unreadable(object));
            }
            // Only our own kinds have a say while they cannot be read.
            ObjectKind::Document
            | ObjectKind::Namespace
            | ObjectKind::Service
            | ObjectKind::EndpointSlice
            | ObjectKind::Pod
            | ObjectKind::Workload => {}
        }
    }

    /// Adds what Envoy refused; of several refusals of one object the highest generation counts.
    pub fn refuse(&mut self, refusal: Refusal) {
        let known = self.refusals.get(&refusal.object);
        if known.is_none_or(|known| known < &refusal) {
            self.refusals.insert(refusal.object.clone(), refusal);
        }
    }

    /// The world. Pod templates stand in for workloads none of whose pods are known.
    #[must_use]
    pub fn build(self) -> World {
        let offline = self.pods.is_empty() && self.slices.is_empty();
        let mut workloads = self.pods;
        for (name, mut template) in self.templates {
            let has_pods = workloads
                .values()
                .any(|w| w.name.namespace == name.namespace && w.owner == template.owner);
            if !has_pods {
                // What the webhook would do: the pod's own label first, else the namespace's.
                let label = template
                    .labels
                    .get(INJECT_LABEL)
                    .map(|label| &**label == "enabled");
                template.meshed |=
                    label.unwrap_or_else(|| self.injecting.contains(&name.namespace));
                workloads.entry(name).or_insert(template);
            }
        }
        let mut endpoints: BTreeMap<NamespacedName, BTreeMap<Arc<str>, Vec<Endpoint>>> =
            BTreeMap::new();
        for slice in self.slices.into_values() {
            let service = endpoints.entry(slice.service).or_default();
            for (port, list) in slice.by_port {
                service.entry(port).or_default().extend(list);
            }
        }
        for list in endpoints.values_mut().flat_map(BTreeMap::values_mut) {
            list.sort();
            // While a slice is being split, an endpoint may be in two of them for a moment.
            list.dedup_by(|a, b| a.ip == b.ip && a.port == b.port);
        }
        World {
            meshes: self.meshes,
            splits: self.splits,
            policies: self.policies,
            services: self.services,
            endpoints,
            workloads,
            offline,
            refusals: self.refusals,
        }
    }
}

fn name_of(object: &ObjectRef) -> NamespacedName {
    NamespacedName {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
    }
}
