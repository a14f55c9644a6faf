//! `spec.parentRefs` of a route: the ports of services to which it is attached.

use heddle_crds::{ForeignSpec, reason};

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
pub(super) fn resolve<S: DeclaredSpec>(
    policy: &Candidate<'_, S>,
    index: usize,
    parent: &ParentRef,
) -> Result<Place, ValidationError> {
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
    let (http, others): (Vec<_>, Vec<_>) = named
        .into_iter()
        .partition(|port| port.protocol == Protocol::Http);
    let mut notes = Vec::new();
    if !others.is_empty() {
        let ports = list(&others);
        let message = format!("port {ports} of service {name} does not carry HTTP");
        if http.is_empty() {
            return Err(ValidationError::unsupported(field, message, DECLARE_HTTP));
        }
        let message = format!("{message} and is not routed");
        let finding = Finding::info(object, &*field, reason::NOT_HTTP, message);
        notes.push(finding.fix(DECLARE_HTTP));
    }
    let winner = |port: &ServicePort| policy.route(name, port.port);
    let (taken, free): (Vec<_>, Vec<_>) = http.into_iter().partition(|port| winner(port).is_some());
    if let Some(winner) = taken.first().and_then(|port| winner(port)) {
        let error = taken_by(winner, name, &taken, &field);
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

/// The fault of ports that routes of an earlier kind have.
fn taken_by(
    winner: &ObjectRef,
    service: &NamespacedName,
    ports: &[&ServicePort],
    field: &str,
) -> ValidationError {
    let ports = list(ports);
    let message = format!(
        "{winner} has port {ports} of service {service}: a port takes the routes of one kind"
    );
    ValidationError::parent(reason::CONFLICTED, field, message, "remove one of the two")
}

fn list(ports: &[&ServicePort]) -> String {
    let ports: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
    ports.join(", ")
}

/// The service of a parent.
fn service<'a, S>(
    policy: &Candidate<'a, S>,
    field: &str,
    parent: &ParentRef,
) -> Result<&'a Service, ValidationError> {
    let namespace = parent.namespace.as_deref().unwrap_or(policy.namespace());
    let name = NamespacedName::new(namespace, &parent.name);
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
