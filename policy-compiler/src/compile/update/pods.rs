//! Pods: their presence, their addresses, and their server's side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Update;
use crate::compile::Proxy;
use crate::compile::addresses::Claim;
use crate::compile::classes::{BySelector, Served, Shapes};
use crate::compile::differences::Change;
use crate::compile::reports::Source;
use crate::compile::units::UnitId;
use crate::dependency::Dependency;
use crate::kinds::policies::auth_policy::Policy;
use crate::validation::inputs::{Target, UnitInput};
use crate::world::{NamespacedName, Shape, SpiffeId, Workload, WorkloadRef, in_namespace, selects};

type Pod<'a> = Change<'a, NamespacedName, Arc<Workload>>;

impl Update<'_> {
    /// Records which pods came and went, at which addresses, behind which services.
    pub(super) fn pods(&mut self) {
        let mut endpoints = std::mem::take(&mut self.differs.endpoints);
        let mut addresses = BTreeSet::new();
        for service in &endpoints {
            let old = self.old.world.endpoints(service);
            let new = self.world.endpoints(service);
            addresses.extend(self.new.named_by_address.update(service, old, new));
        }
        // Behind a headless service they are destinations themselves.
        self.touch_addresses(addresses.iter());
        let mut behind: BTreeMap<Arc<str>, BTreeSet<NamespacedName>> = BTreeMap::new();
        let pods = std::mem::take(&mut self.differs.pods);
        for pod in &pods {
            self.pod_addresses(pod);
            if !self.all {
                if !same_backend(pod) {
                    let pods = behind.entry(Arc::clone(&pod.key.namespace)).or_default();
                    pods.insert(pod.key.clone());
                }
                self.behind_addresses(pod, &mut endpoints);
                for name in self.beside(pod) {
                    let pods = behind.entry(Arc::clone(&name.namespace)).or_default();
                    pods.insert(name);
                }
            }
            let (old, new) = (proxied(pod.old), proxied(pod.new));
            if old != new {
                if let Some(shape) = old {
                    self.leave(shape, &pod.key.name);
                }
                if let Some(shape) = new {
                    self.join(shape, &pod.key.name);
                }
            }
            self.bystander(pod.old, pod.new, &pod.key.name);
            self.touch(Dependency::Pod(pod.key.clone()));
        }
        self.differs.pods = pods;
        for (namespace, pods) in behind {
            for (service, by_port) in in_namespace(&self.world.endpoints, &namespace) {
                let mut there = by_port.values().flatten().filter_map(|e| e.pod.as_ref());
                if there.any(|pod| pods.contains(pod)) {
                    endpoints.insert(service.clone());
                }
            }
        }
        for service in endpoints {
            self.changed(&UnitInput::Endpoints(service));
        }
    }

    /// Adds the services that depend on more of a pod than [`same_backend`] compares: its addresses where a slice names no pod, and its
    /// conditions where a slice has several copies.
    fn behind_addresses(&self, pod: &Pod<'_>, endpoints: &mut BTreeSet<NamespacedName>) {
        let both = pod.old.into_iter().chain(pod.new);
        for ip in both.flat_map(|pod| &pod.ips) {
            let services = self.new.named_by_address.at(ip.to_canonical());
            endpoints.extend(services.cloned());
        }
        for service in self.new.named_by_address.with_copies() {
            if service.namespace == pod.key.namespace {
                endpoints.insert(service.clone());
            }
        }
    }

    /// The other pods at the addresses of a pod with a sidecar: whether that pod is there decides about an endpoint that names one of them.
    fn beside(&self, pod: &Pod<'_>) -> Vec<NamespacedName> {
        let proxied = |pod: Option<&Arc<Workload>>| {
            let pod = pod.filter(|pod| pod.proxied());
            pod.map(|pod| pod.ips.clone()).unwrap_or_default()
        };
        let (old, new) = (proxied(pod.old), proxied(pod.new));
        if old == new {
            return Vec::new();
        }
        let ips = old.iter().chain(&new);
        let there = ips.flat_map(|ip| self.new.addresses.all_pods(ip.to_canonical()));
        there.filter(|name| *name != pod.key).cloned().collect()
    }

    fn pod_addresses(&mut self, pod: &Pod<'_>) {
        let claim = |pod: &Workload| {
            let name = pod.name.clone();
            if pod.terminating {
                Claim::TerminatingPod(name)
            } else {
                Claim::Pod(name)
            }
        };
        let living = |pod: Option<&Arc<Workload>>| pod.filter(|pod| pod.alive).cloned();
        let (old, new) = (living(pod.old), living(pod.new));
        let claims = |pod: &Option<Arc<Workload>>| {
            let pod = pod.as_ref();
            pod.map(|pod| (pod.ips.clone(), claim(pod)))
        };
        let shape = |pod: &Option<Arc<Workload>>| pod.as_ref().map(|pod| Arc::clone(&pod.shape));
        let (old_claims, new_claims) = (claims(&old), claims(&new));
        if old_claims == new_claims && shape(&old) == shape(&new) {
            return;
        }
        if old_claims != new_claims {
            if let Some((ips, claim)) = &old_claims {
                for ip in ips {
                    self.new.addresses.remove(ip.to_canonical(), claim);
                }
            }
            if let Some((ips, claim)) = &new_claims {
                for ip in ips {
                    self.new.addresses.add(ip.to_canonical(), claim.clone());
                }
            }
        }
        let claims = old_claims.iter().chain(&new_claims);
        self.touch_addresses(claims.flat_map(|(ips, _)| ips));
    }

    fn leave(&mut self, shape: &Arc<Shape>, pod: &Arc<str>) {
        let workload = shape.workload();
        self.moved(shape);
        let Some(pods) = self.new.pods.get_mut(&workload) else {
            return;
        };
        let by_shape = Arc::make_mut(pods);
        let mut gone = false;
        if let Some(names) = by_shape.get_mut(shape) {
            names.remove(pod);
            gone = names.is_empty();
        }
        if gone {
            by_shape.remove(shape);
        }
        if by_shape.is_empty() {
            self.new.pods.remove(&workload);
        }
        if gone {
            self.queue.add(UnitId::Template(Arc::clone(shape)));
            self.changed(&UnitInput::Pods(Arc::clone(&shape.namespace)));
        }
    }

    fn join(&mut self, shape: &Arc<Shape>, pod: &Arc<str>) {
        let workload = shape.workload();
        self.moved(shape);
        let pods = self.new.pods.entry(workload).or_default();
        let names = Arc::make_mut(pods).entry(Arc::clone(shape)).or_default();
        let first = names.is_empty();
        names.insert(Arc::clone(pod));
        if first {
            self.changed(&UnitInput::Pods(Arc::clone(&shape.namespace)));
        }
        if self.old.served(shape).is_none() {
            self.queue.add(UnitId::Template(Arc::clone(shape)));
        }
    }

    /// The first pod of each shape decides the order in which the feedback of shapes is applied.
    fn moved(&mut self, shape: &Arc<Shape>) {
        let served = self.old.served(shape);
        if served.is_some_and(|served| !served.remarks.is_empty()) {
            self.changed(&UnitInput::Feedback(Arc::clone(&shape.namespace)));
        }
    }

    /// Compiles the server side of templates of one namespace.
    pub(super) fn templates(&mut self, templates: &BTreeMap<WorkloadRef, BTreeSet<Arc<Shape>>>) {
        let Some((first, _)) = templates.first_key_value() else {
            return;
        };
        let world = self.world;
        let services = in_namespace(&world.services, &first.namespace).map(|(_, service)| service);
        let shapes: usize = templates.values().map(BTreeSet::len).sum();
        let services = BySelector::new(services, shapes);
        for (workload, shapes) in templates {
            self.workload(workload, shapes, &services);
        }
    }

    /// Queues the templates that a changed service selects or selected.
    pub(super) fn select(&mut self, changed: &BTreeSet<NamespacedName>) {
        let namespaces: BTreeSet<&Arc<str>> = changed.iter().map(|s| &s.namespace).collect();
        for namespace in namespaces {
            let services: Vec<&NamespacedName> = changed
                .iter()
                .filter(|service| service.namespace == *namespace)
                .collect();
            for (_, shapes) in in_namespace(&self.new.pods, namespace) {
                let selects = |shape: &Shape| {
                    let before = self.old.served(shape);
                    services.iter().any(|name| {
                        let now = self.world.services.get(*name);
                        before.is_some_and(|served| served.services.contains(*name))
                            || now.is_some_and(|now| selects(&now.selector, &shape.labels))
                    })
                };
                for shape in shapes.keys().filter(|shape| selects(shape)) {
                    self.queue.add(UnitId::Template(Arc::clone(shape)));
                }
            }
        }
    }

    fn workload(
        &mut self,
        workload: &WorkloadRef,
        scheduled: &BTreeSet<Arc<Shape>>,
        services: &BySelector<'_>,
    ) {
        let none = Arc::default();
        let old: Arc<Shapes> = self.old.served.get(workload).unwrap_or(&none).clone();
        let pods = self.new.pods.get(workload).cloned().unwrap_or_default();
        let mut new = Shapes::clone(&old);
        new.retain(|shape, _| pods.contains_key(shape));
        let mut selecting = BTreeSet::new();
        for (_, gone) in old.iter().filter(|(shape, _)| !pods.contains_key(*shape)) {
            selecting.extend(gone.services.iter().cloned());
        }
        let mut differs = new.len() != old.len();
        let validated = self.new.validated.policies.clone();
        let target = Target::Pods(Arc::clone(&workload.namespace));
        let policies: Vec<&Policy> = validated.attached(&target).flatten().collect();
        for (shape, names) in pods.iter().filter(|(shape, _)| scheduled.contains(*shape)) {
            self.recompiled.inbound += 1;
            let services = services.selecting(&shape.labels);
            let before = old.get(shape);
            let served = Served::new(
                shape,
                &services,
                &policies,
                &self.new.settings,
                &self.new.shared.classes,
            );
            if before.is_some_and(|before| before.same(&served)) {
                continue;
            }
            if before.is_none_or(|before| !before.serves_alike(&served)) {
                for name in names {
                    self.touch(Dependency::Pod(NamespacedName {
                        namespace: Arc::clone(&workload.namespace),
                        name: Arc::clone(name),
                    }));
                }
            }
            let before = before.into_iter().flat_map(|before| &before.services);
            selecting.extend(before.chain(&served.services).cloned());
            new.insert(Arc::clone(shape), Arc::new(served));
            differs = true;
        }
        if !differs {
            return;
        }
        for service in selecting {
            self.changed(&UnitInput::Selected(service));
        }
        self.remark(workload, &old, &new);
        if new.is_empty() {
            self.new.served.remove(workload);
        } else {
            self.new.served.insert(workload.clone(), Arc::new(new));
        }
    }

    fn remark(&mut self, workload: &WorkloadRef, old: &Shapes, new: &Shapes) {
        let silent = |shapes: &Shapes| shapes.values().all(|served| served.remarks.is_empty());
        if silent(old) && silent(new) {
            return;
        }
        self.changed(&UnitInput::Feedback(Arc::clone(&workload.namespace)));
        let findings = new.values().flat_map(|served| &served.remarks.findings);
        let findings: Vec<_> = findings.cloned().collect();
        self.new
            .set_findings(Source::Workload(workload.clone()), &findings);
    }

    /// Describes the proxies that came or are others.
    pub(super) fn proxies(&mut self) {
        let (world, pods) = (self.world, std::mem::take(&mut self.differs.pods));
        for pod in pods {
            if proxied(pod.old).is_some() && proxied(pod.new).is_none() {
                self.recompiled.proxies += 1;
                self.new.proxies.remove(pod.key);
            }
            if !self.all {
                self.proxy(pod.new);
            }
        }
        if self.all {
            for pod in world.workloads.values() {
                self.proxy(Some(pod));
            }
        }
    }

    fn proxy(&mut self, pod: Option<&Arc<Workload>>) {
        let Some(pod) = pod.filter(|pod| pod.proxied()) else {
            return;
        };
        let Some(identity) = self.identity(&pod.shape) else {
            return;
        };
        let proxy = Proxy {
            pod: pod.name.clone(),
            identity,
            ready: pod.ready,
            terminating: pod.terminating,
            node: pod.node.clone(),
            shape: Arc::clone(&pod.shape),
        };
        if self.new.proxies.get(&pod.name) != Some(&proxy) {
            self.recompiled.proxies += 1;
            self.new.proxies.insert(pod.name.clone(), proxy);
        }
    }

    fn identity(&self, shape: &Shape) -> Option<SpiffeId> {
        let served = self.new.served(shape)?;
        Some(served.identity.clone())
    }
}

/// The shape of a pod that has a proxy.
fn proxied(pod: Option<&Arc<Workload>>) -> Option<&Arc<Shape>> {
    pod.filter(|pod| pod.proxied()).map(|pod| &pod.shape)
}

/// Whether callers see the same pod behind an endpoint.
fn same_backend(pod: &Pod<'_>) -> bool {
    let (Some(old), Some(new)) = (pod.old, pod.new) else {
        return false;
    };
    if old.alive != new.alive || old.ips != new.ips {
        return false;
    }
    let (old, new) = (&old.shape, &new.shape);
    Arc::ptr_eq(old, new)
        || (old.meshed == new.meshed
            && old.service_account == new.service_account
            && old.labels == new.labels)
}
