//! The ports of workloads, with their rules: to judge callers at the servers, independently of the sidecars of the callers.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_crds::{MeshMode, MtlsMode};

use super::super::Compiled;
use super::super::inbound::InboundInput;
use super::super::mtls::{accepts_plain, mtls_modes, refusing};
use crate::authz::PortAuthz;
use crate::finding::ObjectRef;
use crate::kinds::policies::auth_policy::Policy;
use crate::traffic::ServerPolicy;
use crate::validation::inputs::Target;
use crate::world::{PodTemplate, Port, Protocol, SpiffeId};

/// A port of the meshed pods of a template.
#[derive(Clone, Copy, Debug)]
pub struct ServedPort<'a> {
    /// The template of the pods.
    pub template: &'a PodTemplate,
    /// The identity of the pods.
    pub identity: &'a SpiffeId,
    /// The port. `None`: every port that no pod, service or policy names.
    pub port: Option<Port>,
    /// How the sidecar treats connections; [`Protocol::Detect`]: as HTTP where a caller announces it or its first bytes show it.
    pub protocol: Protocol,
    /// Whether plain text is accepted beside mTLS.
    pub plain: bool,
    /// The rules.
    pub authz: &'a PortAuthz,
    /// The bounds on requests, and the protection from overload.
    pub traffic: &'a ServerPolicy,
    input: &'a InboundInput,
}

/// The policy of the port of the sidecar's metrics.
static NO_POLICY: ServerPolicy = ServerPolicy {
    limits: Vec::new(),
    overload: Vec::new(),
    questions: None,
    objects: BTreeSet::new(),
};

/// The objects that decide whether a port accepts plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MtlsSource {
    /// The mode of the mesh.
    pub mesh: MeshMode,
    /// The policy that decides in the place of the mesh, unless that observes. `None`: the mesh decides.
    pub policy: Option<(ObjectRef, MtlsMode)>,
    /// The port for which plain text is refused at all ports that nothing names, where policies name more ports than are told apart.
    pub for_port: Option<Port>,
    /// Whether the mesh bypasses the namespace, so that plain text is accepted also where the others refuse it.
    pub bypassed: bool,
}

impl Compiled {
    /// Returns the AuthPolicies in force that select the pods of a template, in the order in which they decide.
    pub(super) fn auth_policies(&self, template: &PodTemplate) -> Vec<&Policy> {
        let target = Target::Pods(Arc::clone(&template.namespace));
        let policies = self.validated.policies.attached(&target).flatten();
        policies.filter(|of| of.selects(template)).collect()
    }

    /// Returns the objects that decide whether a port accepts plain text.
    #[must_use]
    pub fn mtls_source(&self, port: &ServedPort<'_>) -> MtlsSource {
        let policies = self.auth_policies(port.template);
        let for_port = self.refusing(port, &policies);
        let first = mtls_modes(for_port.or(port.port), &policies).next();
        MtlsSource {
            mesh: self.settings.mode,
            policy: first.map(|(policy, mode)| (policy.object.clone(), mode)),
            for_port,
            bypassed: self.settings.bypasses(&port.template.namespace),
        }
    }

    /// Whether a port accepts plain text, or would if the mesh did not bypass its namespace.
    #[must_use]
    pub fn accepts_plain_unless_bypassed(&self, port: &ServedPort<'_>) -> bool {
        let policies = self.auth_policies(port.template);
        self.accepts_plain_alone(port, &policies) && self.refusing(port, &policies).is_none()
    }

    /// Whether a port accepts plain text by its own mode, without the bypass and without the ports that are judged with it.
    fn accepts_plain_alone(&self, port: &ServedPort<'_>, policies: &[&Policy]) -> bool {
        let first = mtls_modes(port.port, policies).next();
        accepts_plain(self.settings.mode, first.map(|(_, mode)| mode))
    }

    /// The port for which plain text is refused at the ports that nothing names, if these accept it by their own mode.
    fn refusing(&self, port: &ServedPort<'_>, policies: &[&Policy]) -> Option<Port> {
        let together = port.port.is_none() && self.accepts_plain_alone(port, policies);
        let ports = together.then(|| port.input.beyond(policies))?;
        refusing(&ports, policies, self.settings.mode)
    }

    /// The ports of all meshed workloads that are captured, and the port of the sidecar's metrics.
    pub fn served_ports(&self) -> impl Iterator<Item = ServedPort<'_>> {
        let templates = self.served.values().flat_map(|templates| templates.iter());
        templates.flat_map(|(template, compiled)| {
            let input = &compiled.config.input;
            let of = |port, protocol, plain, authz, traffic| ServedPort {
                template,
                identity: &compiled.identity,
                port,
                protocol,
                plain,
                authz,
                traffic,
                input,
            };
            let captured = input.ports.iter();
            let captured = captured.filter(|(port, _)| !template.uncaptured.contains(port));
            let ports = captured.map(|(port, inbound)| (Some(*port), inbound));
            let ports = ports.chain([(None, &input.rest)]);
            let ports = ports.map(move |(port, inbound)| {
                of(
                    port,
                    inbound.protocol,
                    inbound.plain,
                    &inbound.authz,
                    &inbound.traffic,
                )
            });
            let metrics = of(
                Some(Port::METRICS),
                Protocol::Http,
                false,
                &input.metrics,
                &NO_POLICY,
            );
            ports.chain([metrics])
        })
    }
}
