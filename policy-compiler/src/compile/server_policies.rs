//! The traffic policies of a pod's ports that its own sidecar keeps, by the services that lead to the ports.

use std::collections::{BTreeMap, BTreeSet};

use super::service_targets::PortReference;
use super::validated::OfKind;
use crate::finding::ObjectRef;
use crate::kinds::policies::traffic_policy::ServicePolicies;
use crate::traffic::ServerPolicy;
use crate::validation::inputs::Target;
use crate::world::{Port, Protocol};

/// The policy of a port of a pod.
#[derive(Debug, Default)]
pub(crate) struct PortServerPolicy {
    /// Each limit and each protection once.
    pub(crate) policy: ServerPolicy,
    limiting: BTreeSet<ObjectRef>,
    protecting: BTreeSet<ObjectRef>,
}

impl PortServerPolicy {
    /// The policies that set it.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &ObjectRef> {
        self.limiting.union(&self.protecting)
    }
}

/// Returns the policies of the ports that services lead to. A sidecar does not know by which service a request came, so those of all
/// services of a port hold for each request.
pub(crate) fn server_policies(
    targets: &BTreeMap<Port, Vec<PortReference<'_>>>,
    policies: &OfKind<ServicePolicies>,
) -> BTreeMap<Port, PortServerPolicy> {
    let mut ports: BTreeMap<Port, PortServerPolicy> = BTreeMap::new();
    for (port, references) in targets {
        for reference in references.iter().filter(|of| of.protocol == Protocol::Http) {
            let target = Target::Service(reference.service.name.clone());
            let attached = || policies.attached(&target);
            if let Some((object, limits)) = attached().find_map(|of| of.rate_limits(reference.port))
            {
                let port = ports.entry(*port).or_default();
                if port.limiting.insert(object.clone()) {
                    port.policy.limits.extend(limits.iter().cloned());
                }
            }
            if let Some((object, overload)) = attached().find_map(|of| of.overload(reference.port))
            {
                let port = ports.entry(*port).or_default();
                if port.protecting.insert(object.clone()) {
                    port.policy.overload.push(overload.clone());
                }
            }
        }
    }
    ports
}
