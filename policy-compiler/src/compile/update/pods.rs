//! Pods: their presence, their addresses, and their server's side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Update;
use crate::compile::Proxy;
use crate::compile::addresses::Claim;
use crate::compile::differences::Change;
use crate::compile::reports::Source;
use crate::compile::templates::{BySelector, CompiledTemplate, CompiledTemplates, Policies};
use crate::compile::units::UnitId;
use crate::dependency::Dependency;
use crate::validation::Addresses;
use crate::validation::endpoints::{EndpointInputs, ready_ports};
use crate::validation::inputs::{Reads, Target, UnitInput};
use crate::world::{
    NamespacedName, Pod, PodTemplate, SpiffeId, WorkloadRef, World, in_namespace, selects,
};

type PodChange<'a> = Change<'a, NamespacedName, Arc<Pod>>;

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
                if let Some(template) = old {
                    self.leave(template, &pod.key.name);
                }
                if let Some(template) = new {
                    self.join(template, &pod.key.name);
                }
            }
            self.pod_without_sidecar(pod.old, pod.new, &pod.key.name);
            self.touch(Dependency::Pod(pod.key.clone()));
        }
        self.differs.pods = pods;
        self.service_accounts();
        for (namespace, pods) in behind {
            for (service, by_port) in in_namespace(&self.world.endpoints, &namespace) {
                let mut there = by_port.values().flatten().filter_map(|e| e.pod.as_ref());
                if there.any(|pod| pods.contains(pod)) {
                    endpoints.insert(service.clone());
                }
            }
        }
        for service in endpoints {
            let ready = UnitInput::Ready(service.clone());
            if self.new.readers.reads(&ready) && self.differs_in_readiness(&service) {
                self.changed(&ready);
            }
            self.changed(&UnitInput::Endpoints(service));
        }
    }

    /// Whether other ports of a service have a ready endpoint than before, or for callers of other families.
    fn differs_in_readiness(&self, service: &NamespacedName) -> bool {
        let ready = |world: &World, addresses: &Addresses| {
            let reads = Reads::default();
            let inputs = EndpointInputs::new(&reads, world, addresses);
            let definition = world.services.get(service);
            definition.map(|of| ready_ports(inputs, &self.new.settings, of))
        };
        let old = ready(&self.old.world, &self.old.addresses);
        old != ready(self.world, &self.new.addresses)
    }

    /// Adds the services that depend on more of a pod than [`same_backend`] compares: its addresses where a slice names no pod, and its
    /// conditions where a slice has several copies.
    fn behind_addresses(&self, pod: &PodChange<'_>, endpoints: &mut BTreeSet<NamespacedName>) {
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
    fn beside(&self, pod: &PodChange<'_>) -> Vec<NamespacedName> {
        let proxied = |pod: Option<&Arc<Pod>>| {
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

    fn pod_addresses(&mut self, pod: &PodChange<'_>) {
        let claim = |pod: &Pod| {
            let name = pod.name.clone();
            if pod.terminating {
                Claim::TerminatingPod(name)
            } else {
                Claim::Pod(name)
            }
        };
        let living = |pod: Option<&Arc<Pod>>| pod.filter(|pod| pod.alive).cloned();
        let (old, new) = (living(pod.old), living(pod.new));
        let claims = |pod: &Option<Arc<Pod>>| {
            let pod = pod.as_ref();
            pod.map(|pod| (pod.ips.clone(), claim(pod)))
        };
        let template = |pod: &Option<Arc<Pod>>| pod.as_ref().map(|pod| Arc::clone(&pod.template));
        let (old_claims, new_claims) = (claims(&old), claims(&new));
        if old_claims == new_claims && template(&old) == template(&new) {
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

    fn leave(&mut self, template: &Arc<PodTemplate>, pod: &Arc<str>) {
        let workload = template.workload();
        self.moved(&workload, template);
        let Some(pods) = self.new.pods.get_mut(&workload) else {
            return;
        };
        let by_template = Arc::make_mut(pods);
        let mut gone = false;
        if let Some(names) = by_template.get_mut(template) {
            names.remove(pod);
            gone = names.is_empty();
        }
        if gone {
            by_template.remove(template);
        }
        if by_template.is_empty() {
            self.new.pods.remove(&workload);
        }
        if gone {
            self.queue.add(UnitId::Template(Arc::clone(template)));
            self.changed(&UnitInput::Pods(Arc::clone(&template.namespace)));
        }
    }

    fn join(&mut self, template: &Arc<PodTemplate>, pod: &Arc<str>) {
        let workload = template.workload();
        self.moved(&workload, template);
        let pods = self.new.pods.entry(workload).or_default();
        let names = Arc::make_mut(pods).entry(Arc::clone(template)).or_default();
        let first = names.is_empty();
        names.insert(Arc::clone(pod));
        // A template that has pods is compiled, or queued by the first of them.
        if first {
            self.changed(&UnitInput::Pods(Arc::clone(&template.namespace)));
            if self.old.compiled_template(template).is_none() {
                self.queue.add(UnitId::Template(Arc::clone(template)));
            }
        }
    }

    /// The first pod of each template decides the order in which the feedback of templates is applied.
    fn moved(&mut self, workload: &WorkloadRef, template: &Arc<PodTemplate>) {
        let served = self.old.served.get(workload);
        let served = served.and_then(|templates| templates.get(template));
        if served.is_some_and(|served| !served.feedback.is_empty()) {
            self.changed(&UnitInput::Feedback(Arc::clone(&template.namespace)));
        }
    }

    /// Compiles the server side of templates of one namespace.
    pub(super) fn templates(
        &mut self,
        templates: &BTreeMap<WorkloadRef, BTreeSet<Arc<PodTemplate>>>,
    ) {
        let Some((first, _)) = templates.first_key_value() else {
            return;
        };
        let world = self.world;
        let services = in_namespace(&world.services, &first.namespace).map(|(_, service)| service);
        let count: usize = templates.values().map(BTreeSet::len).sum();
        let services = BySelector::new(services, count);
        for (workload, templates) in templates {
            self.workload(workload, templates, &services);
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
            for (_, templates) in in_namespace(&self.new.pods, namespace) {
                let selects = |template: &PodTemplate| {
                    let before = self.old.compiled_template(template);
                    services.iter().any(|name| {
                        let now = self.world.services.get(*name);
                        before.is_some_and(|served| served.services.contains(*name))
                            || now.is_some_and(|now| selects(&now.selector, &template.labels))
                    })
                };
                for template in templates.keys().filter(|template| selects(template)) {
                    self.queue.add(UnitId::Template(Arc::clone(template)));
                }
            }
        }
    }

    fn workload(
        &mut self,
        workload: &WorkloadRef,
        scheduled: &BTreeSet<Arc<PodTemplate>>,
        services: &BySelector<'_>,
    ) {
        let none = Arc::default();
        let old: Arc<CompiledTemplates> = self.old.served.get(workload).unwrap_or(&none).clone();
        let pods = self.new.pods.get(workload).cloned().unwrap_or_default();
        let mut new = CompiledTemplates::clone(&old);
        new.retain(|template, _| pods.contains_key(template));
        let gone = old
            .iter()
            .filter(|(template, _)| !pods.contains_key(*template));
        let mut selecting: BTreeSet<NamespacedName> = gone
            .flat_map(|(_, gone)| gone.services.iter().cloned())
            .collect();
        let mut differs = new.len() != old.len();
        let validated = Arc::clone(&self.new.validated);
        let target = Target::Pods(Arc::clone(&workload.namespace));
        let policies = Policies {
            auth: validated.policies.attached(&target).flatten().collect(),
            telemetry: validated.telemetries.attached(&target).flatten().collect(),
            traffic: &validated.traffic_policies,
        };
        let scheduled = pods
            .iter()
            .filter(|(template, _)| scheduled.contains(*template));
        for (template, names) in scheduled {
            self.recompiled.inbound += 1;
            let before = old.get(template);
            let compiled = CompiledTemplate::new(
                template,
                &services.selecting(&template.labels),
                &policies,
                &self.new.settings,
                &self.new.shared.inbound_configs,
            );
            if before.is_some_and(|before| before.same(&compiled)) {
                continue;
            }
            if before.is_none_or(|before| !before.same_config(&compiled)) {
                self.touch_pods(&workload.namespace, names);
            }
            let before = before.into_iter().flat_map(|before| &before.services);
            selecting.extend(before.chain(&compiled.services).cloned());
            new.insert(Arc::clone(template), Arc::new(compiled));
            differs = true;
        }
        if differs {
            self.replace_templates(workload, &old, new, selecting);
        }
    }

    /// Touches pods: their views contain another server side.
    fn touch_pods<'n>(
        &mut self,
        namespace: &Arc<str>,
        names: impl IntoIterator<Item = &'n Arc<str>>,
    ) {
        for name in names {
            self.touch(Dependency::Pod(NamespacedName {
                namespace: Arc::clone(namespace),
                name: Arc::clone(name),
            }));
        }
    }

    /// Stores the compiled templates of a workload. `selecting` are the services that select or selected one of them.
    fn replace_templates(
        &mut self,
        workload: &WorkloadRef,
        old: &CompiledTemplates,
        new: CompiledTemplates,
        selecting: BTreeSet<NamespacedName>,
    ) {
        for service in selecting {
            self.changed(&UnitInput::Selected(service));
        }
        self.feed_back(workload, old, &new);
        if new.is_empty() {
            self.new.served.remove(workload);
        } else {
            self.new.served.insert(workload.clone(), Arc::new(new));
        }
    }

    /// Replaces the feedback of a workload's templates on the policies that select them.
    fn feed_back(
        &mut self,
        workload: &WorkloadRef,
        old: &CompiledTemplates,
        new: &CompiledTemplates,
    ) {
        let silent = |templates: &CompiledTemplates| {
            templates.values().all(|served| served.feedback.is_empty())
        };
        if silent(old) && silent(new) {
            return;
        }
        self.changed(&UnitInput::Feedback(Arc::clone(&workload.namespace)));
        let findings = new.values().flat_map(|served| &served.feedback.findings);
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
            if let Some(pod) = pod.new.filter(|_| !self.all) {
                self.proxy(pod, self.identity(&pod.template));
            }
        }
        if self.all {
            // Most pods have the template of the pod before.
            let mut last = None;
            for pod in world.pods.values() {
                let (template, identity) = last
                    .take()
                    .filter(|(template, _)| Arc::ptr_eq(template, &pod.template))
                    .unwrap_or_else(|| (Arc::clone(&pod.template), self.identity(&pod.template)));
                self.proxy(pod, identity.clone());
                last = Some((template, identity));
            }
        }
    }

    /// Describes the proxy of a pod, with the identity of its template.
    fn proxy(&mut self, pod: &Pod, identity: Option<SpiffeId>) {
        let Some(identity) = identity.filter(|_| pod.proxied()) else {
            return;
        };
        let proxy = Proxy {
            pod: pod.name.clone(),
            identity,
            ready: pod.ready,
            terminating: pod.terminating,
            node: pod.node.clone(),
            template: Arc::clone(&pod.template),
        };
        if self.new.proxies.get(&pod.name) != Some(&proxy) {
            self.recompiled.proxies += 1;
            self.new.proxies.insert(pod.name.clone(), proxy);
        }
    }

    fn identity(&self, template: &PodTemplate) -> Option<SpiffeId> {
        let served = self.new.compiled_template(template)?;
        Some(served.identity.clone())
    }
}

/// The template of a pod that has a proxy.
fn proxied(pod: Option<&Arc<Pod>>) -> Option<&Arc<PodTemplate>> {
    pod.filter(|pod| pod.proxied()).map(|pod| &pod.template)
}

/// Whether callers see the same pod behind an endpoint.
fn same_backend(pod: &PodChange<'_>) -> bool {
    let (Some(old), Some(new)) = (pod.old, pod.new) else {
        return false;
    };
    if old.alive != new.alive || old.ips != new.ips {
        return false;
    }
    let (old, new) = (&old.template, &new.template);
    Arc::ptr_eq(old, new)
        || (old.meshed == new.meshed
            && old.service_account == new.service_account
            && old.labels == new.labels)
}
