//! The declared kinds: the settings, and the policies of each kind in a namespace.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::Update;
use crate::compile::differences::namespaces;
use crate::compile::reports::Source;
use crate::compile::units::UnitId;
use crate::compile::validated::{Difference, Stored};
use crate::kind::{ObjectKind, with_policies};
use crate::kinds::mesh;
use crate::kinds::policy::{self, PolicyKind, Selector};
use crate::validation::ValidationReport;
use crate::validation::inputs::{Target, UnitInput};
use crate::world::in_namespace;

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
        let (settings, spec, report) = mesh::settings(self.world);
        self.all |= settings != *self.old.settings;
        let old = &self.old.settings;
        if (settings.origin.as_ref(), settings.bucket()) != (old.origin.as_ref(), old.bucket()) {
            self.new.captured = Arc::new(OnceLock::new());
        }
        self.new.set_report(Source::Mesh, &self.old.mesh, &report);
        self.new.settings = Arc::new(settings);
        if spec != *self.old.mesh_spec {
            self.new.mesh_spec = Arc::new(spec);
        }
        self.new.mesh = Arc::new(report);
    }

    /// Queues the policies that differ; every unit, if the settings differ.
    pub(super) fn declared(&mut self) {
        let mut changed = self.differs.take_rest();
        if self.all {
            changed.extend(namespaces(&self.old.world.declared));
            changed.extend(namespaces(&self.world.declared));
        }
        for (kind, namespace) in changed.into_iter().filter(|(kind, _)| kind.is_policy()) {
            self.changed(&UnitInput::Declared(kind, Arc::clone(&namespace)));
            self.queue.add(UnitId::Policies(kind, namespace));
        }
        if !self.all {
            return;
        }
        for template in self
            .new
            .pods
            .values()
            .flat_map(|templates| templates.keys())
        {
            self.queue.add(UnitId::Template(Arc::clone(template)));
        }
        for service in self.world.services.keys() {
            self.queue.add(UnitId::Clusters(service.clone()));
            self.queue.add(UnitId::Client(service.clone()));
        }
        for service in self.world.external.keys() {
            self.queue.add(UnitId::Client(service.clone()));
        }
        for namespace in self.old.egress.keys() {
            self.queue.add(UnitId::Egress(namespace.clone()));
        }
        for namespace in &self.new.settings.bypassed {
            self.queue.add(UnitId::Egress(Some(Arc::clone(namespace))));
        }
    }

    fn validate<S: Stored>(&mut self, namespace: &Arc<str>) {
        self.recompiled.add_policies(S::KIND);
        let unit = UnitId::Policies(S::KIND, Arc::clone(namespace));
        let (attachments, report) = self.recorded(&unit, |recorder, compiled| {
            let (settings, earlier) = (&compiled.settings, &*compiled.validated);
            policy::validate::<S>(recorder, settings, earlier, namespace)
        });
        let source = Source::Policies(S::KIND, Arc::clone(namespace));
        if S::FEEDBACK {
            self.new.set_findings(source, &report.findings);
            // Also where no attachment differs: after a change of the settings, or of a status.
            self.queue.add(UnitId::Reach(Arc::clone(namespace)));
            self.queue.add(UnitId::Statuses(Arc::clone(namespace)));
        } else {
            let none = ValidationReport::default();
            let old = S::of(&self.old.validated).report(namespace);
            self.new.set_report(source, old.unwrap_or(&none), &report);
        }
        let store = S::of_mut(Arc::make_mut(&mut self.new.validated));
        for difference in store.set(namespace, attachments, report) {
            self.attachment::<S>(difference);
        }
    }

    /// Queues the readers of an attachment that differs.
    fn attachment<S: PolicyKind>(&mut self, difference: Difference<S::Attachment>) {
        let (old, new) = (difference.old.as_deref(), difference.new.as_deref());
        match &difference.target {
            Target::Service(service) => {
                let rules = S::RULES.into_iter();
                for input in rules.flat_map(|rules| rules.narrower_inputs(service, old, new)) {
                    self.changed(&input);
                }
                if S::differs_for_servers(old, new) {
                    self.select(&BTreeSet::from([service.clone()]));
                    let namespace = Arc::clone(&service.namespace);
                    self.queue.add(UnitId::Reach(namespace));
                }
            }
            Target::Callers(_) | Target::External(_) | Target::Route(_) => {}
            Target::Pods(namespace) => self.select_pods(namespace, &S::differing_pods(old, new)),
        }
        self.changed(&UnitInput::Attached(S::KIND, difference.target));
    }

    /// Queues the templates of the pods that are selected.
    fn select_pods(&mut self, namespace: &Arc<str>, selectors: &[Selector]) {
        for (_, templates) in in_namespace(&self.new.pods, namespace) {
            for template in templates.keys() {
                if selectors
                    .iter()
                    .any(|selector| selector.selects(&template.labels))
                {
                    self.queue.add(UnitId::Template(Arc::clone(template)));
                }
            }
        }
    }
}

macro_rules! policies {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            => $field:ident: $spec:ty, [$($input:literal),*];
    )*) => {
        impl Update<'_> {
            /// Validates the policies of a kind in a namespace.
            pub(super) fn policies(&mut self, kind: ObjectKind, namespace: &Arc<str>) {
                $(if kind == ObjectKind::$kind {
                    self.validate::<$spec>(namespace);
                })*
            }
        }
    };
}
with_policies!(policies);
