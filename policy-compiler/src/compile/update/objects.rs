//! The declared kinds: settings, splits, traffic policies, policies.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use imbl::OrdMap;

use super::Update;
use crate::compile::differences::namespaces;
use crate::compile::reports::Source;
use crate::compile::units::UnitId;
use crate::kind::ObjectKind;
use crate::kinds::auth_policy::{self, NamespacePolicies, Policy};
use crate::kinds::mesh;
use crate::kinds::traffic_policy::{self, NamespaceTrafficPolicies};
use crate::kinds::traffic_split::{self, NamespaceSplits, Splits};
use crate::traffic::{Backend, RouteEntry};
use crate::validation::inputs::UnitInput;
use crate::world::{NamespacedName, Port, in_namespace};

impl Update<'_> {
    pub(super) fn settings(&mut self) {
        let first = !self.old.is_compiled();
        self.all = first || self.old.world.offline != self.world.offline;
        let same_root = self.old.world.trust_domain == self.world.trust_domain;
        let differs = !self.differs.take(ObjectKind::Mesh).is_empty();
        if !first && !differs && same_root {
            return;
        }
        self.recompiled.settings += 1;
        let (settings, spec, outcome) = mesh::settings(self.world);
        self.all |= settings != *self.old.settings;
        let old = &self.old.settings;
        if (settings.origin.as_ref(), settings.bucket()) != (old.origin.as_ref(), old.bucket()) {
            self.new.captured = Arc::new(OnceLock::new());
        }
        self.new.set_outcome(Source::Mesh, &self.old.mesh, &outcome);
        self.new.settings = Arc::new(settings);
        if spec != *self.old.mesh_spec {
            self.new.mesh_spec = Arc::new(spec);
        }
        self.new.mesh = Arc::new(outcome);
    }

    /// Queues the readers of declared objects that differ; every reader, if the settings differ.
    pub(super) fn declared(&mut self) {
        let mut changed = self.differs.take_rest();
        if self.all {
            changed.extend(namespaces(&self.old.world.declared));
            changed.extend(namespaces(&self.world.declared));
        }
        for (kind, namespace) in changed {
            self.changed(&UnitInput::Declared(kind, namespace));
        }
        if !self.all {
            return;
        }
        for shape in self.new.pods.values().flat_map(|shapes| shapes.keys()) {
            self.queue.add(UnitId::Template(Arc::clone(shape)));
        }
        for service in self.world.services.keys() {
            self.queue.add(UnitId::Clusters(service.clone()));
            self.queue.add(UnitId::Client(service.clone()));
        }
        for service in self.world.external.keys() {
            self.queue.add(UnitId::Client(service.clone()));
        }
    }

    /// Validates the splits of a namespace.
    pub(super) fn splits(&mut self, namespace: &Arc<str>) {
        self.recompiled.splits += 1;
        let none = NamespaceSplits::default();
        let old = self.old.splits.get(namespace).map_or(&none, |old| &**old);
        let unit = UnitId::Splits(Arc::clone(namespace));
        let new = self.recorded(&unit, |recorder, _| {
            traffic_split::splits(recorder, namespace)
        });
        for service in differing(&old.in_force, &new.in_force) {
            if backends(&old.in_force, &service) != backends(&new.in_force, &service) {
                self.changed(&UnitInput::Backends(service.clone()));
            }
            self.changed(&UnitInput::Rules(service));
        }
        let source = Source::Splits(Arc::clone(namespace));
        self.new.set_outcome(source, &old.outcome, &new.outcome);
        keep(&mut self.new.splits, namespace, new);
    }

    /// Validates the traffic policies of a namespace.
    pub(super) fn traffic_policies(&mut self, namespace: &Arc<str>) {
        self.recompiled.traffic_policies += 1;
        let none = NamespaceTrafficPolicies::default();
        let old = self.old.traffic_policies.get(namespace);
        let old = old.map_or(&none, |old| &**old);
        let unit = UnitId::TrafficPolicies(Arc::clone(namespace));
        let new = self.recorded(&unit, |recorder, _| {
            traffic_policy::traffic_policies(recorder, namespace)
        });
        let services: BTreeSet<_> = old.in_force.keys().chain(new.in_force.keys()).collect();
        for service in services {
            if old.in_force.get(service) != new.in_force.get(service) {
                self.changed(&UnitInput::TrafficPolicy(service.clone()));
            }
        }
        let source = Source::TrafficPolicies(Arc::clone(namespace));
        self.new.set_outcome(source, &old.outcome, &new.outcome);
        keep(&mut self.new.traffic_policies, namespace, new);
    }

    /// Validates the policies of a namespace.
    pub(super) fn policies(&mut self, namespace: &Arc<str>) {
        self.recompiled.policies += 1;
        let none = NamespacePolicies::default();
        let old = self.old.policies.get(namespace).map_or(&none, |old| &**old);
        let unit = UnitId::Policies(Arc::clone(namespace));
        let new = self.recorded(&unit, |recorder, compiled| {
            auth_policy::policies(recorder, namespace, &compiled.settings)
        });
        let source = Source::Policies(Arc::clone(namespace));
        self.new.set_findings(source, &new.outcome.findings);
        let other = |a: &[Policy], b: &[Policy]| -> Vec<Policy> {
            let differing = a.iter().filter(|policy| !b.contains(policy));
            differing.cloned().collect()
        };
        let mut changed = other(&old.policies, &new.policies);
        changed.extend(other(&new.policies, &old.policies));
        for (_, shapes) in in_namespace(&self.new.pods, namespace) {
            for shape in shapes.keys() {
                if changed.iter().any(|policy| policy.selects(shape)) {
                    self.queue.add(UnitId::Template(Arc::clone(shape)));
                }
            }
        }
        self.changed(&UnitInput::Policies(Arc::clone(namespace)));
        keep(&mut self.new.policies, namespace, new);
    }
}

/// Puts the output of a namespace in the place of the old one, if it differs. A namespace with the default output has no entry.
fn keep<T: Default + PartialEq>(
    outputs: &mut OrdMap<Arc<str>, Arc<T>>,
    namespace: &Arc<str>,
    new: T,
) {
    if new == T::default() {
        outputs.remove(namespace);
    } else if outputs.get(namespace).is_none_or(|old| **old != new) {
        outputs.insert(Arc::clone(namespace), Arc::new(new));
    }
}

/// The backends of a service's rules by port, and whether the service as a whole is one. Weights alone change no caller's access.
fn backends<'a>(
    rules: &'a Splits,
    service: &NamespacedName,
) -> Vec<(Port, bool, Vec<&'a Backend>)> {
    let own = rules.iter().filter(|((name, _), _)| name == service);
    let backends = |((_, port), rules): (&(NamespacedName, Port), &'a Vec<RouteEntry>)| {
        let backends = rules.iter().flat_map(|entry| entry.rule.backends());
        let whole = !rules.iter().any(|entry| entry.matcher.is_any());
        (*port, whole, backends.collect())
    };
    own.map(backends).collect()
}

/// Returns the services with another split in force.
fn differing(old: &Splits, new: &Splits) -> BTreeSet<NamespacedName> {
    let other = |a: &Splits, b: &Splits| -> Vec<NamespacedName> {
        let split = a.iter().filter(|(key, split)| b.get(*key) != Some(*split));
        split.map(|((service, _), _)| service.clone()).collect()
    };
    other(old, new).into_iter().chain(other(new, old)).collect()
}
