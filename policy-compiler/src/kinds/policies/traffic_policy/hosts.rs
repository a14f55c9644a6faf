//! The hosts of an `ExternalService` as the target of a `TrafficPolicy`.

use heddle_crds::{ExternalPort, ExternalProtocol, ExternalServiceSpec, TrafficPolicySpec, reason};

use super::attached::Part;
use super::subject;
use crate::finding::Finding;
use crate::kinds::ValidationError;
use crate::kinds::policy::Candidate;
use crate::kinds::traffic_policy::PolicyGroups;
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port};

/// The most endpoints that are ejected at once, in percent, where a spec leaves it out.
const HALF: u32 = 50;

/// The reasons why a policy for an `ExternalService` cannot be in force.
pub(super) fn check(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &TrafficPolicySpec,
    name: &NamespacedName,
) -> Vec<ValidationError> {
    let Some(declared) = policy.lookup.external_service(name) else {
        return vec![ValidationError::unresolved(
            reason::SERVICE_NOT_FOUND,
            "spec.target.externalService",
            format!("ExternalService {name} does not exist"),
            "create it, or correct the name",
        )];
    };
    let Ok(service) = &declared.spec else {
        // Its own status reports it.
        return Vec::new();
    };
    let target = check_ports(policy, spec, name, service);
    unsupported(spec, service).chain(target).collect()
}

/// The fields that cannot apply to a host outside.
fn unsupported(
    spec: &TrafficPolicySpec,
    service: &ExternalServiceSpec,
) -> impl Iterator<Item = ValidationError> {
    let no_sidecar = "there is no sidecar at a host outside that could keep it";
    let limits = "use limits, which the sidecars of the callers keep";
    let ejection = spec.outlier_ejection.as_ref();
    let wildcard = service.hosts.iter().any(|host| host.starts_with('*'));
    let percent = ejection.is_some_and(|of| of.max_percent != HALF);
    let all = [
        (
            !spec.rate_limits.is_empty(),
            "spec.rateLimits",
            no_sidecar,
            limits,
        ),
        (spec.overload.is_some(), "spec.overload", no_sidecar, limits),
        (
            spec.load_balancing.is_some(),
            "spec.loadBalancing",
            "a host outside is one endpoint, so there is no choice",
            "remove it",
        ),
        (
            ejection.is_some() && wildcard,
            "spec.outlierEjection",
            "names below a wildcard are not ejected",
            "name the hosts in full in an ExternalService of their own, or remove it",
        ),
        (
            percent,
            "spec.outlierEjection.maxPercent",
            "a host outside is one endpoint, which is ejected or not",
            "remove it",
        ),
    ];
    let found = all.into_iter().filter(|(is_set, ..)| *is_set);
    found.map(|(_, field, message, fix)| ValidationError::unsupported(field, message, fix))
}

fn check_ports(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &TrafficPolicySpec,
    name: &NamespacedName,
    service: &ExternalServiceSpec,
) -> Option<ValidationError> {
    let port = spec.target.port.map(Port::from);
    let (field, subject) = subject(&Target::External(name.clone()), &Part::of_ports(port));
    let mut targeted = targeted(service, port).peekable();
    if targeted.peek().is_none() {
        return Some(ValidationError::unresolved(
            reason::PORT_NOT_FOUND,
            field,
            format!("{subject} does not exist"),
            "name one of its ports",
        ));
    }
    let (mut named, mut http) = (false, false);
    for port in targeted {
        named |= port.protocol != ExternalProtocol::Tcp;
        http |= port.protocol == ExternalProtocol::Http;
    }
    if !named {
        let message = format!(
            "{subject} is of protocol TCP: connections pass to the address that was called, and no policy applies"
        );
        let fix = "target a port of protocol HTTP or TLS";
        return Some(ValidationError::invalid(field, message, fix));
    }
    let bytes = || PolicyGroups::of(&policy.declared.object, spec).concerns_bytes();
    (!http && !bytes()).then(|| {
        let message =
            format!("{subject} does not carry HTTP, and the policy has only fields of requests");
        ValidationError::invalid(field, message, "target a port of protocol HTTP")
    })
}

fn targeted(
    service: &ExternalServiceSpec,
    port: Option<Port>,
) -> impl Iterator<Item = &ExternalPort> {
    let ports = service.ports.iter();
    ports.filter(move |of| port.is_none_or(|port| port == Port::from(of.port)))
}

/// The ports where a policy, or a part of it, has no effect.
pub(super) fn without_effect(
    policy: &Candidate<'_, TrafficPolicySpec>,
    groups: &PolicyGroups,
    name: &NamespacedName,
    port: Option<Port>,
) -> Vec<Finding> {
    let declared = policy.lookup.external_service(name);
    let Some(service) = declared.and_then(|of| of.spec.as_ref().ok()) else {
        return Vec::new();
    };
    let of = |protocol: ExternalProtocol| {
        let ports = targeted(service, port).filter(|of| of.protocol == protocol);
        let ports: Vec<String> = ports.map(|of| of.port.to_string()).collect();
        ports.join(", ")
    };
    let (tls, tcp) = (of(ExternalProtocol::Tls), of(ExternalProtocol::Tcp));
    let fields = groups.of_requests();
    let object = &policy.declared.object;
    let info = |message: String, fix: &'static str| {
        Finding::info(object, "spec.target.externalService", "NotHttp", message).fix(fix)
    };
    let mut findings = Vec::new();
    if !tls.is_empty() && !fields.is_empty() {
        let fields = fields.join(", ");
        findings.push(info(
            format!("port {tls} of ExternalService {name} carries TLS of the application and has no {fields}"),
            "let the sidecar begin TLS: protocol HTTP with tls",
        ));
    }
    if !tcp.is_empty() {
        findings.push(info(
            format!(
                "port {tcp} of ExternalService {name} is of protocol TCP, where no policy applies"
            ),
            "name the port in the target",
        ));
    }
    findings
}
