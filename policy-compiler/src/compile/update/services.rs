//! Services: their addresses, whom they admit, and their client's side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Update;
use crate::compile::Compiled;
use crate::compile::addresses::Claim;
use crate::compile::admissions::{Gates, gates};
use crate::compile::changes::Replaced;
use crate::compile::classes::Served;
use crate::compile::clusters::{ClientSides, client_sides};
use crate::compile::endpoints::EndpointInputs;
use crate::compile::named_by_address::addresses_without_pod;
use crate::compile::reports::Source;
use crate::compile::upstreams::{Scene, Wholes, rules_change_clusters, wholes};
use crate::dependency::Dependency;
use crate::traffic::{Backend, RouteEntry};
use crate::world::{NamespacedName, Port, Service, Shape, in_namespace};

impl Update<'_> {
    /// Notes which definitions differ, and the addresses.
    pub(super) fn services(&mut self) {
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
            }
            // Also where they stay: another port may be dialled there now.
            self.touch_addresses(old.iter().chain(&new));
            self.touch(Dependency::Service(change.key.clone()));
            self.touch(Dependency::Namespace(Arc::clone(&change.key.namespace)));
            // Outside addresses behind a headless service are destinations themselves.
            let endpoints = self.world.endpoints(change.key);
            self.touch_addresses(addresses_without_pod(endpoints).iter());
            self.definitions.insert(change.key.clone());
        }
        let external = std::mem::take(&mut self.differs.external);
        self.definitions.extend(external);
    }

    /// Sums up whom services admit, where pods, policies or definitions differ.
    pub(super) fn admissions(&mut self) {
        let mut services = std::mem::take(&mut self.admitted);
        services.extend(self.definitions.iter().chain(&self.divided).cloned());
        let namespaces: BTreeSet<&Arc<str>> = services.iter().map(|s| &s.namespace).collect();
        let served = &self.new.served;
        let mut pods: BTreeMap<&NamespacedName, Vec<(&Shape, &Served)>> = BTreeMap::new();
        for namespace in namespaces {
            for (shape, served) in in_namespace(served, namespace).flat_map(|(_, all)| &**all) {
                for service in served.services.iter().filter(|s| services.contains(*s)) {
                    pods.entry(service).or_default().push((shape, served));
                }
            }
        }
        let mut changed = Vec::new();
        for name in &services {
            self.recompiled.admissions += 1;
            let splits = self.new.splits.get(&name.namespace).map(|splits| &**splits);
            let pods = pods.get(name).map_or(&[][..], |pods| pods);
            let service = self.world.services.get(name);
            let new = service.map_or_else(Gates::default, |s| gates(s, splits, pods));
            let old = self.new.gates.get(name);
            if old.map_or(new.is_empty(), |old| **old == new) {
                continue;
            }
            changed.push((name.clone(), new));
        }
        for (name, gates) in changed {
            if gates.is_empty() {
                self.new.gates.remove(&name);
            } else {
                self.new.gates.insert(name.clone(), Arc::new(gates));
            }
            self.gated.insert(name);
        }
    }

    /// Compiles the client's side of services whose definition, endpoints or split differ, and of those whose split leads there.
    pub(super) fn clients(&mut self) {
        let mut changed = self.definitions.clone();
        changed.extend(self.endpoints.iter().cloned());
        if self.all {
            changed.extend(self.world.services.keys().cloned());
        }
        let mut services: BTreeSet<_> = changed.union(&self.divided).cloned().collect();
        services.extend(self.with_backend(&services));
        for name in &services {
            let there = self.world.services.get(name);
            if changed.contains(name) || there.is_some_and(|service| rules_change_clusters(service))
            {
                self.whole(name);
            }
        }
        // What they lead to may itself have been compiled only for the sake of its own backends.
        services.extend(self.with_backend(&services));
        for name in &services {
            self.recompiled.clients += 1;
            self.client(name);
        }
        if self.all {
            services.extend(self.world.external.keys().cloned());
        }
        for name in services {
            let findings = self.new.service_findings(&name);
            self.new.set_findings(Source::Service(name), &findings);
        }
        let gated = std::mem::take(&mut self.gated);
        for name in self.with_backend(&gated).into_iter().chain(gated) {
            self.touch(Dependency::Service(name));
        }
        for name in std::mem::take(&mut self.divided) {
            if self.led_elsewhere(&name) {
                self.touch(Dependency::Service(name));
            }
        }
    }

    /// Whether a split of the service leads elsewhere than before; weights alone let in nobody else.
    fn led_elsewhere(&self, service: &NamespacedName) -> bool {
        let targets = |compiled: &Compiled| {
            let splits = compiled.splits.get(&service.namespace);
            let in_force = splits.into_iter().flat_map(|splits| &splits.in_force);
            let own = in_force.filter(|((name, _), _)| name == service);
            let targets = |((_, port), rules): (&(NamespacedName, Port), &Vec<RouteEntry>)| {
                let backends = rules.iter().flat_map(|entry| entry.rule.backends());
                let whole = !rules.iter().any(|entry| entry.matcher.is_any());
                (*port, whole, backends.cloned().collect::<Vec<Backend>>())
            };
            own.map(targets).collect::<Vec<_>>()
        };
        targets(self.old) != targets(&self.new)
    }

    fn whole(&mut self, name: &NamespacedName) {
        let Some(service) = self.world.services.get(name) else {
            self.new.wholes.remove(name);
            return;
        };
        let old = self.old.wholes.get(name);
        let new = wholes(&self.scene(name), service, old.map(|old| &**old));
        let Some(old) = old.cloned() else {
            self.new.wholes.insert(name.clone(), Arc::new(new));
            return;
        };
        let unmeshed = |wholes: &Wholes| -> BTreeSet<Port> {
            let of = wholes.iter().filter(|(_, whole)| whole.unmeshed);
            of.map(|((port, _), _)| *port).collect()
        };
        if unmeshed(&old) != unmeshed(&new) {
            self.gated.insert(name.clone());
        }
        if *old != new {
            self.new.wholes.insert(name.clone(), Arc::new(new));
        }
    }

    fn client(&mut self, name: &NamespacedName) {
        let Some(service) = self.world.services.get(name) else {
            self.new.clients.remove(name);
            return;
        };
        let old = self.old.clients.get(name);
        let known = &self.new.wholes;
        let whole = |name: &NamespacedName| known.get(name);
        let new = client_sides(&self.scene(name), service, whole, old.map(|old| &**old));
        if old.is_some_and(|old| same(old, &new)) {
            return;
        }
        match old.and_then(|old| replaced(name, old, &new)) {
            Some(replaced) => self.replaced.extend(replaced),
            None => self.touch(Dependency::Service(name.clone())),
        }
        self.new.clients.insert(name.clone(), Arc::new(new));
    }

    fn scene(&self, service: &NamespacedName) -> Scene<'_> {
        let splits = self.new.splits.get(&service.namespace);
        Scene {
            endpoints: EndpointInputs {
                world: self.world,
                addresses: &self.new.addresses,
            },
            settings: &self.new.settings,
            splits: splits.map(|splits| &**splits),
        }
    }
}

/// Returns the parts that replace others. None: the views that depend on the service have to be made again.
///
/// # Guarantees
/// An old part stands for one new part, and no replaced part stays in force: callers that shared a side and diverge are not mixed up,
/// for their views have the same old part.
fn replaced(
    service: &NamespacedName,
    old: &ClientSides,
    new: &ClientSides,
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
        let (old, new) = new.replaces(old)?;
        replaced.push(Replaced {
            service: service.clone(),
            old,
            new,
        });
    }
    Some(replaced)
}

/// Whether every port's side was kept.
fn same(old: &ClientSides, new: &ClientSides) -> bool {
    let pairs = || old.iter().zip(new);
    old.len() == new.len() && pairs().all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
}
