//! Collects objects in any order, for as long as it lives; the world that comes out does not know the order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_crds::{MESH_NAME, ProxySettings};
use imbl::{OrdMap, OrdSet};
use k8s_openapi::api::core::v1 as core;

use super::slices::Slices;
use super::stand_ins::{NamespaceLabels, StandIn, warnings};
use crate::finding::{Finding, ObjectRef};
use crate::ingest::{self, DeclaredObject, INJECT_LABEL, KubeObject, namespaced_name};
use crate::injection::namespace_warnings;
use crate::kind::{InputKind, ObjectKind, Role, with_kinds};
use crate::world::{
    DeclaredObjects, Interner, NamespacedName, ObjectRejection, Pod, PodRef, Remembered, Service,
    World,
};

/// Takes objects as they come and go, and yields a [`World`] whenever it is asked.
///
/// # Guarantees
///
/// - An object that reads as before leaves the world as it was: the very same value, so that nothing differs.
/// - The cost of an object is its own, not the mesh's. Pod templates are the exception: with them, a world costs a look at every pod.
#[derive(Clone, Debug, Default)]
pub struct WorldBuilder {
    declared: Arc<DeclaredObjects>,
    /// The injection labels of namespaces.
    namespaces: NamespaceLabels,
    /// The names of all namespaces.
    namespace_names: OrdSet<Arc<str>>,
    services: OrdMap<NamespacedName, Arc<Service>>,
    external: OrdMap<NamespacedName, Arc<String>>,
    slices: Slices,
    pods: OrdMap<PodRef, Arc<Pod>>,
    templates: BTreeMap<NamespacedName, StandIn>,
    /// Manifests of pods, which no API server has seen.
    manifests: BTreeMap<NamespacedName, StandIn>,
    rejections: OrdMap<ObjectRef, Arc<ObjectRejection>>,
    remembered: OrdMap<ObjectRef, Arc<Remembered>>,
    trust_domain: Option<Arc<str>>,
    interner: Interner,
}

impl World {
    /// Starts an empty world.
    #[must_use]
    pub fn builder() -> WorldBuilder {
        WorldBuilder::default()
    }
}

impl WorldBuilder {
    /// Takes one object; the same name again replaces the earlier one. Returns the problems; the valid parts of the object are kept.
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
            KubeObject::Declared(object) => {
                let past = Some(&object.remembered).filter(|past| !past.is_empty());
                let past = past.map(|past| (object.object.clone(), past.clone()));
                put(&mut self.remembered, Some(object.object.clone()), past);
                findings.extend(Arc::make_mut(&mut self.declared).put(&object));
            }
        }
        findings
    }

    /// Takes an object away. One that is not there is none.
    pub fn remove(&mut self, object: &ObjectRef) {
        let name = name_of(object);
        match object.kind.role() {
            Role::Settings | Role::Policy => {
                Arc::make_mut(&mut self.declared).remove(object.kind, &name);
                take(&mut self.remembered, object);
            }
            Role::Input(InputKind::Document) => {}
            Role::Input(InputKind::Namespace) => {
                self.namespaces.remove(&object.name);
                if self.namespace_names.contains(&object.name) {
                    self.namespace_names.remove(&object.name);
                }
            }
            Role::Input(InputKind::Service) => {
                take(&mut self.services, &name);
                take(&mut self.external, &name);
            }
            Role::Input(InputKind::EndpointSlice) => self.slices.put(&name, None),
            Role::Input(InputKind::Pod) => {
                self.manifests.remove(&name);
                take(&mut self.pods, &name);
            }
            Role::Input(InputKind::Workload) => {
                self.templates.remove(&name);
            }
        }
    }

    /// Replaces all rejections by Envoy. Of several rejections of one object, the highest generation counts.
    pub fn set_rejections(&mut self, rejections: impl IntoIterator<Item = ObjectRejection>) {
        let mut highest: BTreeMap<ObjectRef, ObjectRejection> = BTreeMap::new();
        for rejection in rejections {
            let known = highest.get(&rejection.object);
            if known.is_none_or(|known| *known < rejection) {
                highest.insert(rejection.object.clone(), rejection);
            }
        }
        let gone: Vec<ObjectRef> = self
            .rejections
            .keys()
            .filter(|object| !highest.contains_key(*object))
            .cloned()
            .collect();
        for object in gone {
            self.rejections.remove(&object);
        }
        for (object, rejection) in highest {
            put(&mut self.rejections, None, Some((object, rejection)));
        }
    }

    /// Sets the trust domain of the mesh's root. A `Mesh` that names another one does not change it.
    pub fn set_trust_domain(&mut self, trust_domain: &str) {
        self.trust_domain = Some(self.interner.text(trust_domain));
    }

    /// Returns the present world. If no pod of a workload is known, its pod template stands in.
    #[must_use]
    pub fn world(&mut self) -> World {
        let (pods, injection) = self.meshed_pods();
        World {
            declared: Arc::clone(&self.declared),
            namespaces: self.namespace_names.clone(),
            services: self.services.clone(),
            external: self.external.clone(),
            endpoints: self.slices.endpoints(),
            pods,
            injection,
            offline: self.pods.is_empty() && self.slices.is_empty(),
            rejections: self.rejections.clone(),
            remembered: self.remembered.clone(),
            trust_domain: self.trust_domain.clone(),
        }
    }

    /// Whether two objects of one name read alike: the second in the place of the first changes neither the world nor the findings.
    #[must_use]
    pub fn reads_alike(first: &KubeObject, second: &KubeObject) -> bool {
        let mut builder = Self::default();
        let mut read = |object: &KubeObject| {
            let findings = builder.apply(object.clone());
            (findings, builder.clone())
        };
        let ((findings, one), (others, other)) = (read(first), read(second));
        findings == others && one.is_same(&other)
    }

    /// Whether both have read the same. Each world has stand-ins of its own, so worlds cannot tell.
    fn is_same(&self, other: &Self) -> bool {
        self.declared.is_same(&other.declared)
            && self.namespaces == other.namespaces
            && self.namespace_names == other.namespace_names
            && self.services.ptr_eq(&other.services)
            && self.external.ptr_eq(&other.external)
            && self.slices.endpoints().ptr_eq(&other.slices.endpoints())
            && self.pods.ptr_eq(&other.pods)
            && self.templates == other.templates
            && self.manifests == other.manifests
    }

    fn meshed_pods(&mut self) -> (OrdMap<PodRef, Arc<Pod>>, Arc<[Finding]>) {
        let mut pods = self.pods.clone();
        let mut findings = Vec::new();
        if self.templates.is_empty() && self.manifests.is_empty() {
            return (pods, findings.into());
        }
        let mesh = self.mesh_proxy();
        let with_pods: BTreeSet<NamespacedName> =
            pods.values().map(|w| w.template.workload()).collect();
        for template in self.templates.values().chain(self.manifests.values()) {
            let pod = &template.pod;
            if with_pods.contains(&pod.template.workload()) || pods.contains_key(&pod.name) {
                continue;
            }
            let misfit = template.misfit(&mesh);
            findings.extend(template.findings(&self.namespaces, misfit.as_deref()));
            let admitted = template.pod_template(&self.namespaces, misfit.is_none());
            let stand_in = Pod {
                template: self.interner.template(admitted),
                ..pod.clone()
            };
            pods.insert(pod.name.clone(), Arc::new(stand_in));
        }
        (pods, findings.into())
    }

    /// The settings of sidecars as the Mesh declares them. Files have no last good spec.
    fn mesh_proxy(&self) -> ProxySettings {
        let mut meshes = self.declared.meshes.iter();
        let mesh = meshes.find(|(name, _)| *name.name == *MESH_NAME);
        let spec = mesh.and_then(|(_, declared)| declared.spec.as_ref().ok());
        spec.map(|spec| spec.proxy.clone()).unwrap_or_default()
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
        let object = ObjectRef::cluster(ObjectKind::Namespace, name);
        findings.extend(warnings(&object, &namespace_warnings(&namespace.metadata)));
        if !self.namespace_names.contains(name) {
            self.namespace_names.insert(self.interner.text(name));
        }
        let labels = namespace.metadata.labels.as_ref();
        match labels.and_then(|labels| labels.get(INJECT_LABEL)) {
            Some(label) => {
                let (name, label) = (self.interner.text(name), self.interner.text(label));
                self.namespaces.insert(name, label);
            }
            None => _ = self.namespaces.remove(name),
        }
    }
}

macro_rules! changes_of_declared_objects {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            $(=> $field:ident: $spec:ty, [$($input:literal),*])?;
    )*) => {
        impl DeclaredObjects {
            /// Reads an object through the type of its kind, and puts it in its place. Returns the findings about it.
            fn put(&mut self, object: &DeclaredObject) -> Vec<Finding> {
                $($(if object.object.kind == ObjectKind::$kind {
                    let (declared, findings) = object.read::<$spec>();
                    put(&mut self.$field, None, Some((name_of(&object.object), declared)));
                    return findings;
                })?)*
                Vec::new()
            }

            fn remove(&mut self, kind: ObjectKind, name: &NamespacedName) {
                $($(if kind == ObjectKind::$kind {
                    take(&mut self.$field, name);
                })?)*
            }
        }
    };
}
with_kinds!(changes_of_declared_objects);

/// Inserts the parsed object, unless an equal value is there. If the object has no valid value, removes the entry of that name.
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

fn name_of(object: &ObjectRef) -> NamespacedName {
    NamespacedName {
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
    }
}
