//! The ports of pods that services lead to.

use std::collections::BTreeMap;

use crate::world::{PodTemplate, Port, Protocol, Service, TargetPort};

/// A port of a service that leads to a port of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortReference<'a> {
    pub(crate) service: &'a Service,
    pub(crate) port: Port,
    pub(crate) protocol: Protocol,
}

/// Where a port of a service leads in pods of a template.
pub(crate) fn target(target: &TargetPort, template: &PodTemplate) -> Option<Port> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => template.port_named(name),
    }
}

/// Returns the ports that services lead to, each with the protocols that the services declare for it.
pub(crate) fn service_targets<'a>(
    services: &[&'a Service],
    template: &PodTemplate,
) -> BTreeMap<Port, Vec<PortReference<'a>>> {
    let mut targets: BTreeMap<Port, Vec<PortReference<'_>>> = BTreeMap::new();
    for service in services {
        for port in service.ports.values() {
            if let Some(target) = target(&port.target, template) {
                targets.entry(target).or_default().push(PortReference {
                    service,
                    port: port.port,
                    protocol: port.protocol,
                });
            }
        }
    }
    targets
}
