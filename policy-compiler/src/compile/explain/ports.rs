//! The ports of workloads, with their rules: to judge callers at the servers, independently of the sidecars of the callers.

use super::super::Compiled;
use crate::authz::PortAuthz;
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
}

impl Compiled {
    /// The ports of all meshed workloads that are captured, and the port of the sidecar's metrics.
    pub fn served_ports(&self) -> impl Iterator<Item = ServedPort<'_>> {
        let templates = self.served.values().flat_map(|templates| templates.iter());
        templates.flat_map(|(template, compiled)| {
            let input = &compiled.config.input;
            let of = |port, protocol, plain, authz| ServedPort {
                template,
                identity: &compiled.identity,
                port,
                protocol,
                plain,
                authz,
            };
            let captured = input.ports.iter();
            let captured = captured.filter(|(port, _)| !template.uncaptured.contains(port));
            let ports = captured.map(|(port, inbound)| (Some(*port), inbound));
            let ports = ports.chain([(None, &input.rest)]);
            let ports = ports.map(move |(port, inbound)| {
                of(port, inbound.protocol, inbound.plain, &inbound.authz)
            });
            let metrics = of(Some(Port::METRICS), Protocol::Http, false, &input.metrics);
            ports.chain([metrics])
        })
    }
}
