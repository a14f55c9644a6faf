//! The reach of policies: computed again where policies, pods or services of a namespace differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Update;
use crate::compile::callers_reach::{report_addresses, report_namespaces, report_without_sidecar};
use crate::compile::reach::Reach;
use crate::compile::report::PolicyFeedback;
use crate::compile::reports::Source;
use crate::compile::server_policy_reach::observed;
use crate::compile::transport_reach::OtherTransports;
use crate::compile::units::UnitId;
use crate::finding::ObjectRef;
use crate::validation::Recorder;
use crate::validation::inputs::{Target, UnitInput};
use crate::world::{NamespacedName, Pod, PodTemplate, Port, Service, in_namespace};

impl Update<'_> {
    /// Notes the pods without a sidecar.
    pub(super) fn pod_without_sidecar(
        &mut self,
        old: Option<&Arc<Pod>>,
        new: Option<&Arc<Pod>>,
        pod: &Arc<str>,
    ) {
        let without_sidecar = |pod: Option<&Arc<Pod>>| -> Option<Arc<PodTemplate>> {
            let without_sidecar = pod.filter(|pod| pod.alive && !pod.template.meshed)?;
            Some(Arc::clone(&without_sidecar.template))
        };
        let (old, new) = (without_sidecar(old), without_sidecar(new));
        if old == new {
            return;
        }
        if let Some(template) = old {
            let workload = template.workload();
            let pods = self
                .new
                .without_sidecar
                .entry(workload.clone())
                .or_default();
            let by_template = Arc::make_mut(pods);
            let mut gone = false;
            if let Some(names) = by_template.get_mut(&template) {
                names.remove(pod);
                gone = names.is_empty();
            }
            if gone {
                by_template.remove(&template);
            }
            if by_template.is_empty() {
                self.new.without_sidecar.remove(&workload);
            }
            if gone {
                self.changed(&UnitInput::Pods(workload.namespace));
            }
        }
        if let Some(template) = new {
            let workload = template.workload();
            let pods = self
                .new
                .without_sidecar
                .entry(workload.clone())
                .or_default();
            let names = Arc::make_mut(pods).entry(template).or_default();
            let first = names.is_empty();
            names.insert(Arc::clone(pod));
            if first {
                self.changed(&UnitInput::Pods(workload.namespace));
            }
        }
    }

    /// Queues the readers of the service accounts of the namespaces where they differ: most changes of pods leave them as they are.
    pub(super) fn service_accounts(&mut self) {
        let living = |pod: Option<&Arc<Pod>>| {
            let pod = pod.filter(|pod| pod.alive);
            pod.map(|pod| Arc::clone(&pod.template))
        };
        let pods = self.differs.pods.iter();
        let pods = pods.filter(|pod| living(pod.old) != living(pod.new));
        let namespaces: BTreeSet<&Arc<str>> = pods.map(|pod| &pod.key.namespace).collect();
        let inputs = namespaces
            .into_iter()
            .map(|name| (name, UnitInput::ServiceAccounts(Arc::clone(name))))
            .filter(|(_, input)| self.new.readers.reads(input));
        let inputs = inputs.filter(|(namespace, _)| {
            self.old.service_accounts(namespace) != self.new.service_accounts(namespace)
        });
        let inputs: Vec<UnitInput> = inputs.map(|(_, input)| input).collect();
        for input in inputs {
            self.changed(&input);
        }
    }

    /// Compares the policies of a namespace with its pods.
    pub(super) fn reach(&mut self, namespace: &Arc<str>) {
        let recorder = Recorder::new(self.world, &self.new.addresses);
        let new = self.reach_of(&recorder, namespace);
        let reads = recorder.into_reads();
        let unit = UnitId::Reach(Arc::clone(namespace));
        self.new.readers.set(&unit, reads);
        let old = self.old.reached.get(namespace);
        if old.map_or(new.is_empty(), |old| **old == new) {
            return;
        }
        let source = Source::Reach(Arc::clone(namespace));
        self.new.set_findings(source, &new.findings);
        self.changed(&UnitInput::Feedback(Arc::clone(namespace)));
        if new.is_empty() {
            self.new.reached.remove(namespace);
        } else {
            self.new
                .reached
                .insert(Arc::clone(namespace), Arc::new(new));
        }
    }

    fn reach_of(&self, recorder: &Recorder<'_>, namespace: &Arc<str>) -> PolicyFeedback {
        let target = Target::Pods(Arc::clone(namespace));
        let policies = || self.new.validated.policies.attached(&target).flatten();
        let telemetry = self.new.validated.telemetries.attached(&target).flatten();
        let mut telemetry = telemetry.peekable();
        let limits = self.limits(namespace);
        if policies().next().is_none() && telemetry.peek().is_none() && limits.is_empty() {
            return PolicyFeedback::default();
        }
        let meshed = in_namespace(&self.new.served, namespace);
        let meshed = meshed.flat_map(|(_, templates)| templates.iter());
        let without_sidecar = in_namespace(&self.new.without_sidecar, namespace);
        let services = in_namespace(&self.world.services, namespace);
        let services: BTreeMap<&NamespacedName, &Service> =
            services.map(|(name, service)| (name, &**service)).collect();
        let reach = Reach {
            meshed: meshed
                .map(|(template, served)| (&**template, &**served))
                .collect(),
            without_sidecar: without_sidecar
                .flat_map(|(_, templates)| templates.keys())
                .map(|template| &**template)
                .collect(),
            other_transports: OtherTransports::of(services.values().copied()),
            services,
            offline: self.world.offline,
        };
        // Where nothing is enforced, a policy has no reach that could be wrong.
        let bypassed = self.new.settings.bypasses(namespace);
        let mut feedback = match bypassed {
            true => PolicyFeedback::default(),
            false => reach.of(policies()),
        };
        reach.report_callers(policies(), &mut feedback);
        let trust_domain = &self.new.settings.trust_domain;
        report_namespaces(recorder, trust_domain, policies(), &mut feedback);
        report_without_sidecar(recorder, &self.new, policies(), &mut feedback);
        report_addresses(recorder, policies(), &mut feedback);
        reach.report_telemetry(telemetry, &mut feedback);
        for (field, service, port) in limits {
            let findings = match self.new.settings.observes() {
                true => vec![observed(field)],
                false => reach.report_limits(field, service, port),
            };
            feedback.findings.extend(findings);
        }
        feedback
    }

    /// The objects with fields that the pods of services of a namespace keep, each with its first such field.
    fn limits<'a>(
        &'a self,
        namespace: &'a Arc<str>,
    ) -> Vec<((&'a ObjectRef, &'static str), &'a Service, Option<Port>)> {
        let policies = self.new.validated.traffic_policies.of_services(namespace);
        let limits = policies.flat_map(|(name, policies)| {
            let service = self.world.services.get(name);
            let limiting = policies.at_servers();
            limiting
                .filter_map(move |(port, object, field)| Some(((object, field), &**service?, port)))
        });
        limits.collect()
    }
}
