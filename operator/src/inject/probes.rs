//! Which ports the kubelet probes by a mere connection. Those bypass capture from the node's addresses, for the sidecar
//! would accept any connection and the probe would tell nothing.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::checks::others;

/// The ports, and what could not be resolved.
pub(super) fn tcp_probe_ports(spec: &PodSpec) -> (BTreeSet<u16>, Vec<String>) {
    let (mut ports, mut unresolved) = (BTreeSet::new(), Vec::new());
    for (field, container) in others(spec) {
        let probes = [
            &container.liveness_probe,
            &container.readiness_probe,
            &container.startup_probe,
        ];
        for socket in probes
            .into_iter()
            .flatten()
            .filter_map(|probe| probe.tcp_socket.as_ref())
        {
            match port(container, &socket.port) {
                Some(port) => _ = ports.insert(port),
                None => unresolved.push(format!(
                    "{field}[{}]: the TCP probe names the port {}, which the container does not have; under mTLS it will succeed whatever the application does",
                    container.name,
                    shown(&socket.port)
                )),
            }
        }
    }
    (ports, unresolved)
}

fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name));
            named.map_or_else(
                || name.parse().ok(),
                |port| u16::try_from(port.container_port).ok(),
            )
        }
    }
}

fn shown(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => format!("`{name}`"),
    }
}
