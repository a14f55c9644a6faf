//! Collects objects in any order, for as long as it lives; the world that comes out does not know the order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use k8s_openapi::api::core::v1 as core;

use super::slices::Slices;
use super::templates::{NamespaceLabels, Template, warnings};
use super::{Declared, Interner, NamespacedName, PodRef, Refusal, Service, Workload, World};
use crate::finding::{Finding, ObjectKind, ObjectRef};
use crate::ingest::{self, INJECT_LABEL, KubeObject, Unreadable, namespaced_name};
use crate::injection::inject_value;

/// Takes objects as they come and go, and yields a [`World`] whenever it is asked.
///
/// # Guarantees
///
/// - An object that reads as before leaves the world as it was: the very same value, so that nothing differs.
/// - The cost of an object is its own, not the mesh's. Pod templates are the exception: with them, a world costs a look at every pod.
#[derive(Clone, Debug, Default)]
pub struct WorldBuilder {
    meshes: OrdMap<Arc<str>, Arc<Declared<heddle_crds::MeshSpec>>>,
    splits: OrdMap<NamespacedName, Arc<Declared<heddle_crds::TrafficSplitSpec>>>,
    policies: OrdMap<NamespacedName, Arc<Declared<heddle_crds::AuthPolicySpec>>>,
    namespaces: NamespaceLabels,
    services: OrdMap<NamespacedName, Arc<Service>>,
    external: OrdMap<NamespacedName, Arc<String>>,
    slices: Slices,
    pods: OrdMap<PodRef, Arc<Workload>>,
    templates: BTreeMap<NamespacedName, Template>,
    /// Manifests of pods, which no API server has seen.
    manifests: BTreeMap<NamespacedName, Template>,
    refusals: OrdMap<ObjectRef, Arc<Refusal>>,
    trust_domain: Option<Arc<str>>,
    interner: Interner,
}

impl WorldBuilder {
    /// Takes one object; the same name again replaces the earlier one. What is wrong with it is returned, what is right is kept.
    pub fn apply(&mut self, object: KubeObject) -> Vec<Finding> {
        let mut findings = Vec::new();
        match object {
            KubeObject::Namespace(namespace) => self.namespace(&namespace, &mut findings),
            KubeObject::Service(service) => self.service(&service, &mut findings),
            KubeObject::EndpointSlice(slice) => {
                let read = ingest::endpoint_slice(&slice, &mut self.interner, &mut findings);
                if let Some(name) = namespaced_name(&slice.metadata) {
                    self.slices.put(&name, read);
                }
            }
            KubeObject::Pod(pod) => self.pod(&pod, &mut findings),
            KubeObject::Template(template) => {
                let read = ingest::template(&template, &mut self.interner, &mut findings);
                match (namespaced_name(&template.metadata), read) {
                    (_, Some(read)) => {
                        self.templates.insert(read.pod.name.clone(), read);
                    }
                    (Some(name), None) => {
                        self.templates.remove(&name);
                    }
                    (None, None) => {}
                }
            }
            KubeObject::Mesh(mesh) => self.mesh(&mesh),
            KubeObject::TrafficSplit(split) => self.split(&split),
            KubeObject::AuthPolicy(policy) => {
                let last_good = policy.status.as_ref().and_then(|s| s.last_good.as_ref());
                let read = Declared::readable(
                    ObjectKind::AuthPolicy,
                    &policy.metadata,
                    &policy.spec,
                    last_good,
                );
                put(&mut self.policies, None, read.map(named));
            }
            KubeObject::Unreadable(object) => self.unreadable(&object),
        }
        findings
    }

    /// Takes an object away. One that is not there is none.
    pub fn remove(&mut self, object: &ObjectRef) {
        let name = name_of(object);
        match object.kind {
            ObjectKind::Namespace => {
                self.namespaces.remove(&object.name);
            }
            ObjectKind::Mesh => {
                take(&mut self.meshes, &object.name);
            }
            ObjectKind::Service => {
                take(&mut self.services, &name);
                take(&mut self.external, &name);
            }
            ObjectKind::EndpointSlice => self.slices.put(&name, None),
            ObjectKind::Pod => {
                self.manifests.remove(&name);
                take(&mut self.pods, &name);
            }
            ObjectKind::Workload => {
                self.templates.remove(&name);
            }
            ObjectKind::TrafficSplit => take(&mut self.splits, &name),
            ObjectKind::AuthPolicy => take(&mut self.policies, &name),
            ObjectKind::Document => {}
        }
    }

    /// All that Envoy refused, in place of what was said before; of several refusals of one object the highest generation counts.
    pub fn set_refusals(&mut self, refusals: impl IntoIterator<Item = Refusal>) {
        let mut highest: BTreeMap<ObjectRef, Refusal> = BTreeMap::new();
        for refusal in refusals {
            let known = highest.get(&refusal.object);
            if known.is_none_or(|known| *known < refusal) {
                highest.insert(refusal.object.clone(), refusal);
            }
        }
        let gone: Vec<ObjectRef> = self
            .refusals
            .keys()
            .filter(|object| !highest.contains_key(*object))
            .cloned()
            .collect();
        for object in gone {
            self.refusals.remove(&object);
        }
        for (object, refusal) in highest {
            put(&mut self.refusals, None, Some((object, refusal)));
        }
    }

    /// Sets the trust domain of the mesh's root. A `Mesh` that names another one does not change it.
    pub fn set_trust_domain(&mut self, trust_domain: &str) {
        self.trust_domain = Some(self.interner.text(trust_domain));
    }

    /// The world as it is now. Pod templates stand in for workloads none of whose pods are known.
    #[must_use]
    pub fn world(&mut self) -> World {
        let (workloads, injection) = self.workloads();
        World {
            meshes: self.meshes.clone(),
            splits: self.splits.clone(),
            policies: self.policies.clone(),
            services: self.services.clone(),
            external: self.external.clone(),
            endpoints: self.slices.endpoints(),
            workloads,
            injection,
            offline: self.pods.is_empty() && self.slices.is_empty(),
            refusals: self.refusals.clone(),
            trust_domain: self.trust_domain.clone(),
        }
    }

    fn workloads(&mut self) -> (OrdMap<PodRef, Arc<Workload>>, Arc<[Finding]>) {
        let mut workloads = self.pods.clone();
        let mut findings = Vec::new();
        if self.templates.is_empty() && self.manifests.is_empty() {
            return (workloads, findings.into());
        }
        let with_pods: BTreeSet<NamespacedName> =
            workloads.values().map(|w| w.shape.workload()).collect();
        for template in self.templates.values().chain(self.manifests.values()) {
            let pod = &template.pod;
            if with_pods.contains(&pod.shape.workload()) || workloads.contains_key(&pod.name) {
                continue;
            }
            findings.extend(template.findings(&self.namespaces));
            let workload = Workload {
                shape: self.interner.shape(template.shape(&self.namespaces)),
                ..pod.clone()
            };
            workloads.insert(pod.name.clone(), Arc::new(workload));
        }
        (workloads, findings.into())
    }

    fn service(&mut self, service: &core::Service, findings: &mut Vec<Finding>) {
        let name = namespaced_name(&service.metadata);
        let host = ingest::external_host(service);
        let host = host.and_then(|host| Some((name.clone()?, host)));
        put(&mut self.external, name.clone(), host);
        let read = ingest::service(service, &mut self.interner, findings);
        let read = read.map(|read| (read.name.clone(), read));
        put(&mut self.services, name, read);
    }

    fn pod(&mut self, pod: &core::Pod, findings: &mut Vec<Finding>) {
        let name = namespaced_name(&pod.metadata);
        if let Some(name) = &name {
            self.manifests.remove(name);
        }
        if let Some(manifest) = ingest::manifest(pod, &mut self.interner, findings) {
            self.manifests.insert(manifest.pod.name.clone(), manifest);
            if let Some(name) = &name {
                take(&mut self.pods, name);
            }
            return;
        }
        let read = ingest::pod(pod, &mut self.interner, findings);
        put(
            &mut self.pods,
            name,
            read.map(|read| (read.name.clone(), read)),
        );
    }

    fn namespace(&mut self, namespace: &core::Namespace, findings: &mut Vec<Finding>) {
        let Some(name) = namespace.metadata.name.as_deref() else {
            return;
        };
        let labels = namespace.metadata.labels.as_ref();
        match labels.and_then(|labels| labels.get(INJECT_LABEL)) {
            Some(label) => {
                let object = ObjectRef::cluster(ObjectKind::Namespace, name);
                let warning = inject_value("metadata.labels", label);
                findings.extend(warnings(&object, warning.as_slice()));
                let (name, label) = (self.interner.text(name), self.interner.text(label));
                self.namespaces.insert(name, label);
            }
            None => _ = self.namespaces.remove(name),
        }
    }

    fn mesh(&mut self, mesh: &heddle_crds::Mesh) {
        let last = mesh.status.as_ref().and_then(|s| s.last_good.as_ref());
        let read = Declared::readable(ObjectKind::Mesh, &mesh.metadata, &mesh.spec, last);
        let read = read.map(|read| (Arc::clone(&read.object.name), read));
        put(&mut self.meshes, None, read);
    }

    fn split(&mut self, split: &heddle_crds::TrafficSplit) {
        let status = split.status.as_ref();
        let last_good = status.and_then(|s| s.last_good.as_ref());
        let read = Declared::readable(
            ObjectKind::TrafficSplit,
            &split.metadata,
            &split.spec,
            last_good,
        );
        let read = read.map(|mut declared| {
            declared.weights = status.map(|s| s.weights.clone()).unwrap_or_default();
            named(declared)
        });
        put(&mut self.splits, None, read);
    }

    fn unreadable(&mut self, object: &Unreadable) {
        match object.object.kind {
            ObjectKind::Mesh => {
                let name = Arc::clone(&object.object.name);
                put(
                    &mut self.meshes,
                    None,
                    Some((name, Declared::unreadable(object))),
                );
            }
            ObjectKind::TrafficSplit => {
                put(
                    &mut self.splits,
                    None,
                    Some(named(Declared::unreadable(object))),
                );
            }
            ObjectKind::AuthPolicy => {
                put(
                    &mut self.policies,
                    None,
                    Some(named(Declared::unreadable(object))),
                );
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
}

/// Puts what was read in its place, unless an equal value is there. An object of that name that reads as nothing takes its place away.
fn put<K: Ord + Clone, V: PartialEq>(
    map: &mut OrdMap<K, Arc<V>>,
    name: Option<K>,
    read: Option<(K, V)>,
) {
    match (read, name) {
        (Some((key, value)), _) => {
            if map.get(&key).is_none_or(|old| **old != value) {
                map.insert(key, Arc::new(value));
            }
        }
        (None, Some(key)) => take(map, &key),
        (None, None) => {}
    }
}

fn take<K: Ord + Clone, V>(map: &mut OrdMap<K, Arc<V>>, key: &K) {
    // A removal of nothing would still copy the way to where it is not.
    if map.contains_key(key) {
        map.remove(key);
    }
}

fn named<S>(declared: Declared<S>) -> (NamespacedName, Declared<S>) {
    (name_of(&declared.object), declared)
}

fn name_of(object: &ObjectRef) -> NamespacedName {
    NamespacedName {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
    }
}
