//! Our own kinds: settings, splits, policies.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::Update;
use crate::compile::reports::Source;
use crate::kind::ObjectKind;
use crate::kinds::auth_policy::{self, NamespacePolicies, Policy};
use crate::kinds::mesh;
use crate::kinds::traffic_split::{self, NamespaceSplits, Splits};
use crate::world::{NamespacedName, in_namespace};

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
        let (settings, spec, outcome) = mesh::settings(self.world, &self.new.addresses);
        self.all |= settings != *self.old.settings;
        let old = &self.old.settings;
        if (settings.origin.as_ref(), settings.bucket()) != (old.origin.as_ref(), old.bucket()) {
            self.new.captured = Arc::new(OnceLock::new());
        }
        let old = self.old.mesh.statuses.keys();
        self.new.set_statuses(old, outcome.statuses.clone());
        self.new.set_findings(Source::Mesh, &outcome.findings);
        self.new.settings = Arc::new(settings);
        if spec != *self.old.mesh_spec {
            self.new.mesh_spec = Arc::new(spec);
        }
        self.new.mesh = Arc::new(outcome);
    }

    /// Judges the splits of every namespace where one differs, or a service that one of them looked at.
    pub(super) fn splits(&mut self) {
        let mut namespaces = self.differs.take(ObjectKind::TrafficSplit);
        if self.world.offline {
            // There are no endpoints, so the labels of backends are compared with pod templates.
            let pods = self.differs.pods.iter();
            namespaces.extend(pods.map(|pod| Arc::clone(&pod.key.namespace)));
        }
        for service in self.definitions.iter().chain(&self.endpoints) {
            let judged = self.old.splits.get(&service.namespace);
            if judged.is_some_and(|judged| judged.services.contains(service)) {
                namespaces.insert(Arc::clone(&service.namespace));
            }
        }
        if self.all {
            let all = self
                .world
                .declared
                .splits
                .keys()
                .map(|name| &name.namespace);
            namespaces.extend(all.chain(self.old.splits.keys()).cloned());
        }
        for namespace in namespaces {
            self.recompiled.splits += 1;
            self.splits_of(&namespace);
        }
    }

    fn splits_of(&mut self, namespace: &Arc<str>) {
        let none = NamespaceSplits::default();
        let old = self.old.splits.get(namespace).map_or(&none, |old| &**old);
        let new = traffic_split::splits(self.world, &self.new.addresses, namespace);
        self.divided.extend(differing(&old.in_force, &new.in_force));
        let source = Source::Splits(Arc::clone(namespace));
        self.new.set_findings(source, &new.outcome.findings);
        let statuses = new.outcome.statuses.clone();
        self.new.set_statuses(old.outcome.statuses.keys(), statuses);
        if new == none {
            self.new.splits.remove(namespace);
        } else if new != *old {
            self.new.splits.insert(Arc::clone(namespace), Arc::new(new));
        }
    }

    /// Judges the policies of every namespace where one differs, or a service that one of them looked at.
    pub(super) fn policies(&mut self) {
        let mut namespaces = self.differs.take(ObjectKind::AuthPolicy);
        for service in &self.definitions {
            let judged = self.old.policies.get(&service.namespace);
            if judged.is_some_and(|judged| judged.services.contains(service)) {
                namespaces.insert(Arc::clone(&service.namespace));
            }
        }
        if self.all {
            let all = self
                .world
                .declared
                .policies
                .keys()
                .map(|name| &name.namespace);
            namespaces.extend(all.chain(self.old.policies.keys()).cloned());
        }
        for namespace in namespaces {
            self.recompiled.policies += 1;
            self.policies_of(&namespace);
        }
    }

    fn policies_of(&mut self, namespace: &Arc<str>) {
        let none = NamespacePolicies::default();
        let old = self.old.policies.get(namespace).map_or(&none, |old| &**old);
        let new = auth_policy::policies(
            self.world,
            &self.new.addresses,
            namespace,
            &self.new.settings,
        );
        let source = Source::Policies(Arc::clone(namespace));
        self.new.set_findings(source, &new.outcome.findings);
        let other = |a: &[Policy], b: &[Policy]| -> Vec<Policy> {
            a.iter()
                .filter(|policy| !b.contains(policy))
                .cloned()
                .collect()
        };
        let mut changed = other(&old.policies, &new.policies);
        changed.extend(other(&new.policies, &old.policies));
        let mut selected = Vec::new();
        for (workload, shapes) in in_namespace(&self.new.pods, namespace) {
            for shape in shapes.keys() {
                if changed.iter().any(|policy| policy.selects(shape)) {
                    selected.push((workload.clone(), Arc::clone(shape)));
                }
            }
        }
        for (workload, shape) in selected {
            self.shapes.entry(workload).or_default().insert(shape);
        }
        self.remarked.insert(Arc::clone(namespace));
        self.reach.insert(Arc::clone(namespace));
        if new == none {
            self.new.policies.remove(namespace);
        } else if new != *old {
            let new = Arc::new(new);
            self.new.policies.insert(Arc::clone(namespace), new);
        }
    }
}

/// The services whose split in force differs.
fn differing(old: &Splits, new: &Splits) -> BTreeSet<NamespacedName> {
    let other = |a: &Splits, b: &Splits| -> Vec<NamespacedName> {
        let split = a.iter().filter(|(key, split)| b.get(*key) != Some(*split));
        split.map(|((service, _), _)| service.clone()).collect()
    };
    other(old, new).into_iter().chain(other(new, old)).collect()
}
