//! The services that backends and mirrors of a `TrafficSplit` name, and the ports that they lack.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_crds::{BackendTarget, TrafficSplitSpec, reason};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::called_service::absent;
use crate::kinds::policy::Candidate;
use crate::kinds::{ValidationError, matches};
use crate::traffic;
use crate::world::{NamespacedName, Port, Protocol, Service, to_labels};

/// The target of a share or of copies at a port of the service that is split.
pub(super) fn target(
    service: &NamespacedName,
    port: Port,
    of: Option<BackendTarget<'_>>,
) -> Option<traffic::Backend> {
    Some(match of? {
        BackendTarget::Service(name) => {
            let name = NamespacedName {
                namespace: Arc::clone(&service.namespace),
                name: name.into(),
            };
            traffic::Backend::Service(name, port)
        }
        BackendTarget::Labels(of) => traffic::Backend::Subset(service.clone(), port, to_labels(of)),
    })
}

/// A service that a backend or a mirror names.
#[derive(Default)]
struct Reference {
    /// The ports of the split at which it cannot be reached.
    lacks: BTreeSet<Port>,
    error: Option<ValidationError>,
    /// Its ports of another protocol than those of the split.
    differs: BTreeMap<Port, ValidationError>,
}

/// The services that a split names, at the ports that it claims.
pub(super) struct References {
    claimed: BTreeSet<Port>,
    backends: Vec<Reference>,
    mirrors: Vec<Reference>,
}

impl References {
    /// Looks the services up.
    pub(super) fn of<S>(policy: &Candidate<'_, S>, spec: &TrafficSplitSpec) -> Self {
        let service = policy.service(&spec.service);
        let claimed = matches::claimed(policy.lookup, &service, spec);
        let declared = policy.lookup.service(&service);
        let carries_http = |port: &&Port| {
            let port = declared.and_then(|service| service.ports.get(port));
            port.is_some_and(|port| port.protocol == Protocol::Http)
        };
        // Other ports have no copies.
        let copied: BTreeSet<Port> = match &*spec.mirrors {
            [] => BTreeSet::new(),
            _ => claimed.iter().filter(carries_http).copied().collect(),
        };
        let backends = spec.backends.iter().enumerate();
        let backends = backends.map(|(index, of)| {
            reference(
                (policy, declared),
                &claimed,
                of.target(),
                ("backends", index),
            )
        });
        let mirrors = spec.mirrors.iter().enumerate();
        let mirrors = mirrors.map(|(index, of)| {
            reference((policy, declared), &copied, of.target(), ("mirrors", index))
        });
        Self {
            backends: backends.collect(),
            mirrors: mirrors.collect(),
            claimed,
        }
    }

    /// The faults.
    pub(super) fn errors(&self) -> Vec<ValidationError> {
        let all = self.backends.iter().chain(&self.mirrors);
        all.filter_map(|of| of.error.clone()).collect()
    }

    /// Warns of a port of another protocol than that of the split, for each service that is named. Calls reach it, but its servers treat
    /// them differently. `ports`: those that are split.
    pub(super) fn differing(&self, object: &ObjectRef, ports: &BTreeSet<Port>) -> Vec<Finding> {
        let all = self.backends.iter().chain(&self.mirrors);
        let differing = all.filter_map(|of| {
            let mut differs = of.differs.iter();
            Some(differs.find(|(port, _)| ports.contains(port))?.1)
        });
        let warning = |of: &ValidationError| {
            let finding =
                Finding::warning(object, of.field.as_str(), of.reason, of.message.as_str());
            finding.fix(of.fix)
        };
        differing.map(warning).collect()
    }

    /// Whether a backend can be reached at no port.
    pub(super) fn is_missing(&self, index: usize) -> bool {
        let backend = self.backends.get(index);
        backend.is_some_and(|of| of.error.is_some() && of.lacks == self.claimed)
    }

    /// The ports that are split: those at which all backends with weight can be reached that can be reached at all.
    pub(super) fn ports(&self, spec: &TrafficSplitSpec) -> BTreeSet<Port> {
        let backends = spec.backends.iter().zip(&self.backends).enumerate();
        let there = backends.filter(|(index, (of, _))| of.weight > 0 && !self.is_missing(*index));
        let lacked = there.flat_map(|(_, (_, reference))| &reference.lacks);
        let lacked: BTreeSet<&Port> = lacked.collect();
        let split = self.claimed.iter().filter(|port| !lacked.contains(port));
        split.copied().collect()
    }

    /// Whether the split divides the traffic of a port, in spite of its faults.
    pub(super) fn are_usable(&self, spec: &TrafficSplitSpec) -> bool {
        let mut weighted = spec.backends.iter().enumerate();
        let there = weighted.any(|(index, of)| of.weight > 0 && !self.is_missing(index));
        there && !self.ports(spec).is_empty()
    }

    /// The target of a backend at a port; an invalid one where it cannot be reached.
    pub(super) fn backend(
        &self,
        (index, of): (usize, Option<BackendTarget<'_>>),
        (service, port): (&NamespacedName, Port),
    ) -> Option<traffic::Backend> {
        let lacking = self.backends.get(index);
        let lacking = lacking.filter(|reference| reference.lacks.contains(&port));
        match lacking {
            None => target(service, port, of),
            Some(reference) => {
                let error = reference.error.as_ref();
                let reason = error.map(|error| error.message.as_str().into());
                Some(traffic::Backend::Invalid(reason))
            }
        }
    }

    /// Whether a mirror takes the copies of the requests to a port.
    pub(super) fn takes_copies(&self, index: usize, port: Port) -> bool {
        let mirror = self.mirrors.get(index);
        mirror.is_some_and(|of| !of.lacks.contains(&port))
    }
}

fn reference<S>(
    (policy, declared): (&Candidate<'_, S>, Option<&Service>),
    ports: &BTreeSet<Port>,
    target: Option<BackendTarget<'_>>,
    (list, index): (&str, usize),
) -> Reference {
    // Labels that no pod has yet are a backend without endpoints, not a mistake.
    let Some(BackendTarget::Service(name)) = target else {
        return Reference::default();
    };
    let name = policy.service(name);
    let error = |reason, message: String, fix| {
        let field = format!("spec.{list}[{index}].service");
        Some(ValidationError::unresolved(reason, field, message, fix))
    };
    let Some(target) = policy.lookup.service(&name) else {
        let (message, fix) = absent(policy.lookup, &name);
        return Reference {
            lacks: ports.clone(),
            error: error(reason::BACKEND_NOT_FOUND, message, fix),
            differs: BTreeMap::new(),
        };
    };
    let lacks = ports.iter().filter(|port| !target.ports.contains_key(port));
    let lacks: BTreeSet<Port> = lacks.copied().collect();
    let missing = lacks.first().and_then(|missing| {
        error(
            reason::PORT_NOT_FOUND,
            target.not_a_port(*missing),
            "give it the ports of the service that is split",
        )
    });
    let differs = ports.iter().filter_map(|port| {
        let (split, carries) = differing(*port, declared?, target)?;
        let error = error(
            reason::UNSUPPORTED_PROTOCOL,
            format!("port {port} of service {name} {carries} HTTP, unlike that of service {split}"),
            "declare the same protocol for both ports",
        );
        Some((*port, error?))
    });
    let differs = differs.collect();
    Reference {
        lacks,
        error: missing,
        differs,
    }
}

/// The service that is split, if one of the two declares HTTP at the port and the other one bytes, and the verb for the second one.
fn differing<'a>(
    port: Port,
    split: &'a Service,
    backend: &Service,
) -> Option<(&'a NamespacedName, &'static str)> {
    let protocol = |of: &Service| Some(of.ports.get(&port)?.protocol);
    match (protocol(split)?, protocol(backend)?) {
        (Protocol::Http, Protocol::Tcp) => Some((&split.name, "does not carry")),
        (Protocol::Tcp, Protocol::Http) => Some((&split.name, "carries")),
        _ => None,
    }
}
