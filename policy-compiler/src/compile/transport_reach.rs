//! The ports of UDP and SCTP that policies are about: no sidecar captures them, so that no policy decides there.

use std::collections::BTreeSet;

use heddle_crds::{ConditionType, reason};

use super::lists::{named, workload};
use super::report::PolicyFeedback;
use super::templates::CompiledTemplate;
use crate::finding::Finding;
use crate::kinds::policies::auth_policy::Policy;
use crate::world::{OtherPort, OtherTransport, PodTemplate, Port, Service, TargetPort};

const FIX: &str = "restrict the port by a NetworkPolicy, or serve it by TCP";

/// A template of pods with sidecars, and its server side.
type Meshed<'a> = (&'a PodTemplate, &'a CompiledTemplate);

/// The services of a namespace with ports of UDP or SCTP.
pub(crate) struct OtherTransports<'a>(Vec<&'a Service>);

impl<'a> OtherTransports<'a> {
    /// Takes these services out of all.
    pub(crate) fn of(services: impl Iterator<Item = &'a Service>) -> Self {
        Self(services.filter(|of| !of.other_ports.is_empty()).collect())
    }

    /// The ports of pods that no sidecar captures: declared ones, and those that services lead to.
    fn ports(&self, (template, served): Meshed<'_>) -> BTreeSet<(Port, OtherTransport)> {
        let declared = template.other_ports.iter();
        let declared = declared.map(|of| (of.port, of.transport));
        let services = self.0.iter();
        let services = services.filter(|service| served.services.contains(&service.name));
        let led = services
            .flat_map(|service| &service.other_ports)
            .filter_map(|of| {
                let target = match &of.target {
                    TargetPort::Number(number) => *number,
                    TargetPort::Name(name) => {
                        let mut own = template.other_ports.iter();
                        let same = |own: &&OtherPort| {
                            own.transport == of.transport && own.name.as_ref() == Some(name)
                        };
                        own.find(same)?.port
                    }
                };
                Some((target, of.transport))
            });
        declared.chain(led).collect()
    }

    /// The reason for which no sidecar decides at a port that a policy names: no pod serves it by TCP, and it is of another transport in
    /// some, or that of a service which leads to such a port. `known` are the ports of TCP of each pod.
    pub(super) fn not_captured(
        &self,
        port: Port,
        meshed: &[Meshed<'_>],
        known: &[BTreeSet<Port>],
    ) -> Option<(String, String)> {
        if known.iter().any(|known| known.contains(&port)) {
            return None;
        }
        let pods = meshed.iter().filter_map(|pod| {
            let others = self.ports(*pod).into_iter();
            let mut same = others.filter(|(other, _)| *other == port);
            Some(is_of(port, workload(pod.0), same.next()?.1))
        });
        let pods: BTreeSet<String> = pods.collect();
        if !pods.is_empty() {
            return Some((past_the_sidecar(pods), FIX.to_owned()));
        }
        let service = self.0.iter().find_map(|service| {
            let mut templates = meshed.iter();
            templates.find(|(_, served)| served.services.contains(&service.name))?;
            let mut ports = service.other_ports.iter();
            let other = ports.find(|of| of.port == port)?;
            let name = format!("service {}", service.name);
            Some(is_of(port, name, other.transport))
        })?;
        Some((past_the_sidecar([service].into()), FIX.to_owned()))
    }

    /// Reports the ports of pods that a policy covers and does not name. Where a pod may serve TCP, as far as `known` and its declared ports
    /// show, the policy decides there, and this is a note.
    pub(super) fn report(
        &self,
        policy: &Policy,
        meshed: &[Meshed<'_>],
        known: impl Fn(&PodTemplate, &CompiledTemplate) -> BTreeSet<Port>,
        feedback: &mut PolicyFeedback,
    ) {
        let covered = |port: Port| {
            let mut rules = policy.rules.iter();
            policy.mtls.is_some() || rules.any(|rule| rule.to.covers(Some(port)))
        };
        let names = |port: Port| policy.ports(true).any(|named| named == port);
        let others = meshed.iter().map(|pod| {
            let ports = self.ports(*pod).into_iter();
            ports.filter(|(port, _)| covered(*port)).collect()
        });
        let others: Vec<Vec<(Port, OtherTransport)>> = others.collect();
        if others.iter().all(Vec::is_empty) {
            return;
        }
        let (mut ports, mut some_of_tcp) = (BTreeSet::new(), false);
        for ((template, served), others) in meshed.iter().zip(others) {
            let tcp = known(template, served);
            some_of_tcp |= !tcp.is_empty() || template.other_ports.is_empty();
            // One that the policy names is reported at the rule.
            let unnamed = others
                .iter()
                .filter(|(port, _)| !names(*port) || tcp.contains(port));
            ports.extend(unnamed.map(|(port, of)| is_of(*port, workload(template), *of)));
        }
        let (object, code) = (&policy.object, reason::NOT_CAPTURED);
        if ports.is_empty() {
            return;
        }
        let message = past_the_sidecar(ports);
        if some_of_tcp {
            let finding = Finding::info(object, "spec", code, message);
            return feedback.findings.push(finding.fix(FIX));
        }
        feedback.condition(object, ConditionType::Enforced, false, code, &message);
        let finding = Finding::warning(object, "spec", code, message);
        feedback.findings.push(finding.fix(FIX));
    }
}

fn is_of(port: Port, owner: String, transport: OtherTransport) -> String {
    format!("port {port} of {owner} is {transport}")
}

fn past_the_sidecar(ports: BTreeSet<String>) -> String {
    format!(
        "{}, which no sidecar captures: the policy decides nothing there, and every caller passes",
        named(ports.into_iter())
    )
}
