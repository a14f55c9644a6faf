//! The effect of a bypass on a namespace, by the control plane's own compiler.

use std::collections::BTreeSet;

use heddle_policy_compiler::Compiled;
use heddle_policy_compiler::world::Port;
use serde::Serialize;

/// The effect of a change.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Effect {
    /// The pods of the namespace that have one.
    pub(super) sidecars: usize,
    /// The objects of the namespace that its sidecars no longer apply, or apply again.
    pub(super) policies: Vec<String>,
    /// The ports that accept plain text while the namespace is bypassed, and not else.
    pub(super) plain_ports: Vec<String>,
}

impl Effect {
    /// The effect of a bypass, or of its end, on the present objects.
    pub(super) fn of(compiled: &Compiled, namespace: &str) -> Self {
        let own = compiled.statuses.keys();
        let own = own.filter(|object| *object.namespace == *namespace);
        let policies = own.filter(|object| object.kind.yields_to_bypass());
        let ports = compiled.served_ports();
        let own = ports.filter(|port| {
            *port.template.namespace == *namespace && port.port != Some(Port::METRICS)
        });
        let closed = own.filter(|port| !compiled.accepts_plain_unless_bypassed(port));
        let ports: BTreeSet<String> = closed
            .map(|port| {
                let workload = port.template.workload();
                match port.port {
                    Some(number) => format!("{workload}:{number}"),
                    None => format!("{workload} (other ports)"),
                }
            })
            .collect();
        Self {
            sidecars: compiled
                .proxies
                .keys()
                .filter(|pod| *pod.namespace == *namespace)
                .count(),
            policies: policies.map(ToString::to_string).collect(),
            plain_ports: ports.into_iter().collect(),
        }
    }
}
