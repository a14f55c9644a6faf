//! Services: their addresses, their caller filters, and their client's side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Update;
use crate::compile::addresses::Claim;
use crate::compile::caller_filters::{CallerFilters, caller_filters};
use crate::compile::changes::Replaced;
use crate::compile::cluster_inputs::ClusterInputs;
use crate::compile::clusters::{OutboundService, client_sides};
use crate::compile::named_by_address::addresses_without_pod;
use crate::compile::reports::Source;
use crate::compile::templates::CompiledTemplate;
use crate::compile::units::UnitId;
use crate::compile::upstreams::{ServiceClusters, wholes};
use crate::dependency::Dependency;
use crate::traffic::Backend;
use crate::validation::inputs::UnitInput;
use crate::world::{NamespacedName, PodTemplate, Port, Service, in_namespace};

impl Update<'_> {
    /// Notes which definitions differ, and the addresses.
    pub(super) fn services(&mut self) {
        let mut changed = BTreeSet::new();
        for change in std::mem::take(&mut self.differs.services) {
            let ips = |service: Option<&Arc<Service>>| {
                service.map(|s| s.cluster_ips.clone()).unwrap_or_default()
            };
            let (old, new) = (ips(change.old), ips(change.new));
            if old != new {
                let claim = Claim::Service(change.key.clone());
                for ip in &old {
                    self.new.addresses.remove(ip.to_canonical(), &claim);
                }
                for ip in &new {
                    self.new.addresses.add(ip.to_canonical(), claim.clone());
                }
                for ip in old.iter().chain(&new) {
                    self.changed(&UnitInput::ServiceAt(ip.to_canonical()));
                }
            }
            self.port_addresses(change.key, change.old, change.new);
            // Also where they stay: another port may be dialled there now.
            self.touch_addresses(old.iter().chain(&new));
            self.touch(Dependency::Service(change.key.clone()));
            self.touch(Dependency::Namespace(Arc::clone(&change.key.namespace)));
            // Outside addresses behind a headless service are destinations themselves.
            let endpoints = self.world.endpoints(change.key);
            self.touch_addresses(addresses_without_pod(endpoints).iter());
            changed.insert(change.key.clone());
        }
        changed.append(&mut self.differs.external);
        self.select(&changed);
        for service in changed {
            self.changed(&UnitInput::Service(service));
        }
    }

    /// Notes the addresses of a service at its ports.
    fn port_addresses(
        &mut self,
        name: &NamespacedName,
        old: Option<&Arc<Service>>,
        new: Option<&Arc<Service>>,
    ) {
        let all = |service: Option<&Arc<Service>>| -> BTreeSet<(Port, IpAddr)> {
            let service = service.into_iter();
            let of = service.flat_map(|s| s.ports.keys().map(|port| (*port, &s.cluster_ips)));
            let all = of.flat_map(|(port, ips)| ips.iter().map(move |ip| (port, *ip)));
            all.map(|(port, ip)| (port, ip.to_canonical())).collect()
        };
        let (old, new) = (all(old), all(new));
        for (port, ip) in old.symmetric_difference(&new) {
            let mut at = self
                .new
                .service_addresses
                .get(port)
                .cloned()
                .unwrap_or_default();
            let entry = (*ip, name.clone());
            if new.contains(&(*port, *ip)) {
                at.insert(entry);
            } else {
                at.remove(&entry);
            }
            if at.is_empty() {
                self.new.service_addresses.remove(port);
            } else {
                self.new.service_addresses.insert(*port, at);
            }
            self.changed(&UnitInput::PortAddresses(*port));
        }
    }

    /// Sums up the callers that services of one namespace admit.
    pub(super) fn caller_filters(&mut self, services: &BTreeSet<NamespacedName>) {
        let Some(namespace) = services.first().map(|service| &service.namespace) else {
            return;
        };
        let served = &self.new.served;
        let mut pods: BTreeMap<&NamespacedName, Vec<(&PodTemplate, &CompiledTemplate)>> =
            BTreeMap::new();
        for (template, served) in in_namespace(served, namespace).flat_map(|(_, all)| &**all) {
            for service in served.services.iter().filter(|s| services.contains(*s)) {
                pods.entry(service).or_default().push((template, served));
            }
        }
        let mut changed = Vec::new();
        for name in services {
            self.recompiled.caller_filters += 1;
            let pods = pods.get(name).map_or(&[][..], |pods| pods);
            let service = self.world.services.get(name);
            let new = service.map_or_else(CallerFilters::default, |s| {
                caller_filters(s, &self.new.validated, pods)
            });
            let old = self.new.caller_filters.get(name);
            if old.map_or(new.is_empty(), |old| **old == new) {
                continue;
            }
            changed.push((name.clone(), new));
        }
        for (name, caller_filters) in changed {
            if caller_filters.is_empty() {
                self.new.caller_filters.remove(&name);
            } else {
                self.new
                    .caller_filters
                    .insert(name.clone(), Arc::new(caller_filters));
            }
            self.changed(&UnitInput::Admission(name));
        }
    }

    /// Compiles the clusters of a service as a whole.
    pub(super) fn clusters(&mut self, name: &NamespacedName) {
        let old = self.old.wholes.get(name);
        let unit = UnitId::Clusters(name.clone());
        let new = self.recorded(&unit, |recorder, compiled| {
            let service = recorder.service(name)?;
            let scene = ClusterInputs::new(recorder, compiled);
            Some(wholes(&scene, service, old.map(|old| &**old)))
        });
        let unmeshed = |wholes: Option<&ServiceClusters>| -> BTreeSet<Port> {
            let all = wholes.into_iter().flatten();
            let of = all.filter(|(_, whole)| whole.unmeshed);
            of.map(|((port, _), _)| *port).collect()
        };
        if unmeshed(old.map(|old| &**old)) != unmeshed(new.as_ref()) {
            self.changed(&UnitInput::Unmeshed(name.clone()));
        }
        if old.map(|old| &**old) == new.as_ref() {
            return;
        }
        match new {
            Some(new) => _ = self.new.wholes.insert(name.clone(), Arc::new(new)),
            None => _ = self.new.wholes.remove(name),
        }
        self.changed(&UnitInput::Clusters(name.clone()));
    }

    /// Compiles the client side of a service, and its findings.
    pub(super) fn client(&mut self, name: &NamespacedName) {
        self.recompiled.clients += 1;
        let old = self.old.clients.get(name);
        let unit = UnitId::Client(name.clone());
        let new = self.recorded(&unit, |recorder, compiled| {
            let service = recorder.service(name)?;
            let scene = ClusterInputs::new(recorder, compiled);
            Some(client_sides(&scene, service, old.map(|old| &**old)))
        });
        match (old, new) {
            (_, None) => _ = self.new.clients.remove(name),
            (Some(old), Some(new)) if same(old, &new) => {}
            (old, Some(new)) => {
                match old.and_then(|old| replaced(name, old, &new)) {
                    Some(replaced) => self.replaced.extend(replaced),
                    None => self.touch(Dependency::Service(name.clone())),
                }
                self.new.clients.insert(name.clone(), Arc::new(new));
            }
        }
        let findings = self.new.service_findings(name);
        self.new
            .set_findings(Source::Service(name.clone()), &findings);
    }

    /// Touches the views that contain a service, for its backends deny other callers than before.
    pub(super) fn callers(&mut self, name: &NamespacedName) {
        let service = self.world.services.get(name);
        self.recorded(&UnitId::Callers(name.clone()), |recorder, compiled| {
            let scene = ClusterInputs::new(recorder, compiled);
            let ports = service.into_iter().flat_map(|service| service.ports.keys());
            let rules = ports.flat_map(|port| scene.rules_by_callers(name, *port));
            let rules = rules.flat_map(|(_, rules)| rules);
            for backend in rules.flat_map(|entry| entry.rule.backends()) {
                match backend {
                    Backend::Service(name, _) | Backend::Subset(name, _, _) => {
                        recorder.denied_by(name);
                    }
                    Backend::Invalid(_) => {}
                }
            }
        });
        self.touch(Dependency::Service(name.clone()));
    }
}

/// Returns the parts that replace others. None: the views that depend on the service have to be made again.
///
/// # Guarantees
/// An old part stands for one new part, and no replaced part stays in force: callers that shared a side and diverge are not mixed up,
/// for their views have the same old part.
fn replaced(
    service: &NamespacedName,
    old: &OutboundService,
    new: &OutboundService,
) -> Option<Vec<Replaced>> {
    if !old.keys().eq(new.keys()) {
        return None;
    }
    let in_force: BTreeSet<_> = new.values().map(Arc::as_ptr).collect();
    let mut successors = BTreeMap::new();
    let mut replaced = Vec::new();
    let pairs = old.values().zip(new.values());
    for (old, new) in pairs.filter(|(old, new)| !Arc::ptr_eq(old, new)) {
        if in_force.contains(&Arc::as_ptr(old)) {
            return None;
        }
        match successors.insert(Arc::as_ptr(old), Arc::as_ptr(new)) {
            Some(other) if other != Arc::as_ptr(new) => return None,
            Some(_) => continue,
            None => {}
        }
        let parts = new.replaces(old)?.into_iter();
        replaced.extend(parts.map(|(old, new)| Replaced {
            service: service.clone(),
            old,
            new,
        }));
    }
    Some(replaced)
}

/// Whether every port's side was kept.
fn same(old: &OutboundService, new: &OutboundService) -> bool {
    let pairs = || old.iter().zip(new);
    old.len() == new.len() && pairs().all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
}
