//! The rate limits of a pod's ports, by the policies of the services that lead to them.

use std::collections::{BTreeMap, BTreeSet};

use super::service_targets::PortReference;
use super::validated::OfKind;
use crate::finding::ObjectRef;
use crate::kinds::policies::traffic_policy::ServicePolicies;
use crate::traffic::RateLimit;
use crate::validation::inputs::Target;
use crate::world::{Port, Protocol};

/// The limits of a port of a pod.
#[derive(Debug, Default)]
pub(crate) struct PortLimits {
    /// Each limit once. A request must pass all of them.
    pub(crate) limits: Vec<RateLimit>,
    /// The policies that set them.
    pub(crate) origins: BTreeSet<ObjectRef>,
}

/// Returns the limits of the ports that services lead to. A sidecar does not know by which service a request came, so the limits of all
/// services of a port hold for each request.
pub(crate) fn rate_limits(
    targets: &BTreeMap<Port, Vec<PortReference<'_>>>,
    policies: &OfKind<ServicePolicies>,
) -> BTreeMap<Port, PortLimits> {
    let mut ports: BTreeMap<Port, PortLimits> = BTreeMap::new();
    for (port, references) in targets {
        for reference in references.iter().filter(|of| of.protocol == Protocol::Http) {
            let target = Target::Service(reference.service.name.clone());
            let mut policies = policies.attached(&target);
            let Some((object, limits)) = policies.find_map(|of| of.rate_limits(reference.port))
            else {
                continue;
            };
            let port = ports.entry(*port).or_default();
            if port.origins.insert(object.clone()) {
                port.limits.extend(limits.iter().cloned());
            }
        }
    }
    ports
}
