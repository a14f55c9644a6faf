//! A service as the target of a `TrafficPolicy`.

use heddle_crds::{TrafficPolicySpec, reason};

use super::attached::Part;
use super::subject;
use crate::finding::{Finding, ObjectRef};
use crate::kinds::called_service::called_service;
use crate::kinds::policy::Candidate;
use crate::kinds::traffic_policy::PolicyGroups;
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port, Protocol, Service};

/// The ports of a service to which its policy does not apply.
pub(super) fn without_http(
    object: &ObjectRef,
    groups: &PolicyGroups,
    service: &Service,
    port: Option<Port>,
) -> Option<Finding> {
    let ports: Vec<String> = not_http(service, port)
        .map(|port| port.to_string())
        .collect();
    let fields = match *service.name.namespace == *object.namespace {
        true => groups.of_requests(),
        false => groups.names(),
    };
    if ports.is_empty() || fields.is_empty() {
        return None;
    }
    let message = format!(
        "port {} of service {} does not carry HTTP and has no {}",
        ports.join(", "),
        service.name,
        fields.join(", ")
    );
    let finding = Finding::info(object, "spec.target.service", "NotHttp", message);
    Some(finding.fix(DECLARE_HTTP))
}

/// Sidecars keep the limits of the services that select their pods.
pub(super) fn without_pods(
    object: &ObjectRef,
    groups: &PolicyGroups,
    service: &Service,
) -> Option<Finding> {
    let field = groups.at_servers();
    let field = field.filter(|_| service.selector.is_empty())?;
    let message = format!(
        "service {} has no selector, so no sidecar keeps the limits",
        service.name
    );
    let finding = Finding::warning(object, field, "NoPods", message);
    Some(finding.fix("give the service a selector, or limit another service of the pods"))
}

/// The targeted ports that do not carry HTTP.
pub(super) fn not_http(service: &Service, target: Option<Port>) -> impl Iterator<Item = Port> {
    let ports = service.ports.iter();
    let targeted = ports.filter(move |(number, _)| target.is_none_or(|port| port == **number));
    targeted
        .filter(|(_, port)| port.protocol != Protocol::Http)
        .map(|(number, _)| *number)
}

/// The reasons why a policy for a service cannot be in force.
pub(super) fn check(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &TrafficPolicySpec,
    service: &NamespacedName,
) -> Vec<ValidationError> {
    let of_callers = service.namespace != *policy.namespace();
    let at_servers =
        "the pods of the service keep it, and the policy is for the callers of its own namespace";
    let fix = "set it in a policy of the namespace of the service, or use limits";
    let all = [
        (!spec.rate_limits.is_empty(), "spec.rateLimits"),
        (spec.overload.is_some(), "spec.overload"),
    ];
    let unsupported = all.into_iter().filter(|(is_set, _)| of_callers && *is_set);
    let unsupported =
        unsupported.map(|(_, field)| ValidationError::unsupported(field, at_servers, fix));
    unsupported
        .chain(check_ports(policy, spec, service, of_callers))
        .collect()
}

fn check_ports(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &TrafficPolicySpec,
    service: &NamespacedName,
    of_callers: bool,
) -> Option<ValidationError> {
    let field = "spec.target.service";
    let service = match called_service(policy, field, service) {
        Err(problem) => return Some(problem),
        Ok(service) => service,
    };
    let name = &service.name;
    let port = spec.target.port.map(Port::from);
    if let Some(port) = port.filter(|port| !service.ports.contains_key(port)) {
        return Some(ValidationError::unresolved(
            reason::PORT_NOT_FOUND,
            "spec.target.port",
            service.not_a_port(port),
            "name a port of the service, not of its pods",
        ));
    }
    let targeted = port.map_or(service.ports.len(), |_| 1);
    let concerns_bytes =
        || !of_callers && PolicyGroups::of(&policy.declared.object, spec).concerns_bytes();
    if not_http(service, port).count() < targeted || concerns_bytes() {
        return None;
    }
    let (field, subject) = subject(&Target::Service(name.clone()), &Part::of_ports(port));
    let because = match of_callers {
        true => "a policy of another namespace is for requests",
        false => "the policy has only fields of requests",
    };
    Some(ValidationError::invalid(
        field,
        format!("{subject} does not carry HTTP, and {because}"),
        "declare HTTP by appProtocol or the name of a port",
    ))
}
