//! `spec.parentRefs` of a route: the ports of services to which it is attached.

use std::collections::BTreeMap;

use heddle_crds::{ForeignSpec, reason};

use super::{RouteSpec, Routed};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::policy::Candidate;
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::status::ParentRef;
use crate::world::{DeclaredSpec, NamespacedName, Port, Protocol, Service, ServicePort};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The ports of a service that take a route.
pub(super) struct Place {
    pub(super) service: NamespacedName,
    pub(super) ports: Vec<Port>,
    /// About the ports that do not.
    pub(super) notes: Vec<Finding>,
}

/// The ports that older routes of the same kind have, where a port takes one route.
pub(super) type Taken = BTreeMap<(NamespacedName, Port), ObjectRef>;

/// The parents that are services, with their indexes. Other parents belong to other controllers.
pub(super) fn of<T>(spec: &ForeignSpec<T>) -> Vec<(usize, ParentRef)> {
    let mut all = spec.elements::<ParentRef>("parentRefs");
    all.retain(|(_, parent)| {
        let core = matches!(parent.group.as_deref(), Some("" | "core"));
        core && parent.kind.as_deref() == Some("Service")
    });
    all
}

/// Returns warnings about parents that are probably meant to be services: the group that is inferred is that of Gateway API.
pub(super) fn misspelt<T>(object: &ObjectRef, spec: &ForeignSpec<T>) -> Vec<Finding> {
    let mut all = spec.elements::<ParentRef>("parentRefs");
    all.retain(|(_, parent)| {
        let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
        group == GATEWAY_GROUP && parent.kind.as_deref() == Some("Service")
    });
    let warning = |index: usize| {
        let field = format!("spec.parentRefs[{index}].group");
        let message =
            format!("{GATEWAY_GROUP} has no kind Service, so no controller reads this parent");
        Finding::warning(object, field, reason::NO_MATCHING_PARENT, message)
            .fix("write group: \"\"")
    };
    all.iter().map(|(index, _)| warning(*index)).collect()
}

/// Finds the ports of a parent.
///
/// # Errors
/// The parent does not take the route.
pub(super) fn resolve<T: RouteSpec>(
    policy: &Candidate<'_, ForeignSpec<T>>,
    taken: &Taken,
    index: usize,
    parent: &ParentRef,
) -> Result<Place, ValidationError>
where
    ForeignSpec<T>: DeclaredSpec,
{
    let field = format!("spec.parentRefs[{index}]");
    let service = service(policy, &field, parent)?;
    let name = &service.name;
    let named = named(service, parent);
    if named.is_empty() {
        return Err(ValidationError::parent(
            reason::NO_MATCHING_PARENT,
            field,
            format!("service {name} has no such port"),
            "name one of its ports",
        ));
    }
    let object = &policy.declared.object;
    let winner = |port: &ServicePort| {
        let earlier = policy.route(name, port.port);
        earlier.or_else(|| taken.get(&(name.clone(), port.port)))
    };
    // Others compete for nothing: the routes that they have are of the traffic that they take.
    let (takers, others): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|port| takes(port, T::ROUTED));
    let (taken, free): (Vec<_>, Vec<_>) =
        takers.into_iter().partition(|port| winner(port).is_some());
    let mut notes = Vec::new();
    if !others.is_empty() {
        let (message, code, fix) = not_taken(name, &list(&others), T::ROUTED);
        if free.is_empty() && taken.is_empty() {
            return Err(ValidationError::unsupported(field, message, fix));
        }
        let message = format!("{message} and is not routed");
        let finding = Finding::info(object, &*field, code, message);
        notes.push(finding.fix(fix));
    }
    if let Some(winner) = taken.first().and_then(|port| winner(port)) {
        let error = taken_by::<ForeignSpec<T>>(winner, name, &taken, &field);
        if free.is_empty() {
            return Err(error);
        }
        let finding = Finding::warning(object, &*field, error.reason, error.message);
        notes.push(finding.fix(error.fix));
    }
    Ok(Place {
        service: name.clone(),
        ports: free.iter().map(|port| port.port).collect(),
        notes,
    })
}

/// The ports of a service that a parent names.
fn named<'a>(service: &'a Service, parent: &ParentRef) -> Vec<&'a ServicePort> {
    let is_named = |port: &&ServicePort| {
        let number = parent
            .port
            .is_none_or(|own| own == i32::from(port.port.get()));
        let section = parent.section_name.as_deref();
        number && section.is_none_or(|section| section == &*port.name)
    };
    service.ports.values().filter(is_named).collect()
}

/// Whether a port takes routes for some traffic.
fn takes(port: &ServicePort, routed: Routed) -> bool {
    let http = port.protocol == Protocol::Http;
    http == matches!(routed, Routed::Requests(_))
}

/// The fault of ports that take no routes for some traffic: message, reason and fix.
fn not_taken(
    service: &NamespacedName,
    ports: &str,
    routed: Routed,
) -> (String, &'static str, &'static str) {
    let port = format!("port {ports} of service {service}");
    match routed {
        Routed::Requests(_) => (
            format!("{port} does not carry HTTP"),
            reason::NOT_HTTP,
            DECLARE_HTTP,
        ),
        Routed::Tls | Routed::Bytes => (
            format!("{port} declares HTTP"),
            reason::NO_EFFECT,
            "route its requests by an HTTPRoute or a GRPCRoute",
        ),
    }
}

/// The fault of ports that other routes have: those of an earlier kind, or one that is older.
fn taken_by<S: DeclaredSpec>(
    winner: &ObjectRef,
    service: &NamespacedName,
    ports: &[&ServicePort],
    field: &str,
) -> ValidationError {
    let ports = list(ports);
    let rule = match winner.kind == S::KIND {
        false => "a port takes the routes of one kind",
        true => "a port that does not declare HTTP takes one route, the oldest",
    };
    let message = format!("{winner} has port {ports} of service {service}: {rule}");
    ValidationError::parent(reason::CONFLICTED, field, message, "remove one of the two")
}

fn list(ports: &[&ServicePort]) -> String {
    let ports: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
    ports.join(", ")
}

/// The name of the service of a parent.
pub(super) fn service_name<S>(policy: &Candidate<'_, S>, parent: &ParentRef) -> NamespacedName {
    let namespace = parent.namespace.as_deref().unwrap_or(policy.namespace());
    NamespacedName::new(namespace, &parent.name)
}

/// The service of a parent.
fn service<'a, S>(
    policy: &Candidate<'a, S>,
    field: &str,
    parent: &ParentRef,
) -> Result<&'a Service, ValidationError> {
    let name = service_name(policy, parent);
    match policy.lookup.service(&name) {
        None if policy.lookup.is_external(&name) => Err(ValidationError::unsupported(
            field,
            format!("service {name} is of type ExternalName, which has no address of its own"),
            "name a service with a cluster IP",
        )),
        None => Err(ValidationError::parent(
            reason::NO_MATCHING_PARENT,
            field,
            format!("service {name} does not exist"),
            "create it, or correct the name",
        )),
        Some(service) if service.headless => Err(ValidationError::unsupported(
            field,
            format!("service {name} is headless: its callers choose the pod themselves"),
            "name a service with a cluster IP",
        )),
        Some(service) => Ok(service),
    }
}
