//! `TrafficPolicy`: the timeouts of requests to a service.

use std::collections::BTreeMap;
use std::time::Duration;

use heddle_crds::{ConditionType, HumanDuration, RequestTimeouts, TrafficPolicySpec, reason};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::{Problem, judge};
use crate::status::ObjectStatus;
use crate::traffic::{RoutePolicy, Timeouts};
use crate::validation::{Outcome, Recorder};
use crate::world::{NamespacedName, Port, Protocol, Service};

/// The longest timeout. Envoy rejects durations of more than 292 years.
const LONGEST: Duration = Duration::from_secs(8760 * 3600);

/// The policy of a service, and its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePolicy {
    pub(crate) object: ObjectRef,
    pub(crate) policy: RoutePolicy,
}

/// The policies in force by service.
pub(crate) type ServicePolicies = BTreeMap<NamespacedName, ServicePolicy>;

/// The traffic policies of a namespace, validated.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NamespaceTrafficPolicies {
    pub(crate) in_force: ServicePolicies,
    pub(crate) outcome: Outcome,
}

/// Validates every traffic policy of a namespace.
pub(crate) fn traffic_policies(lookup: &Recorder<'_>, namespace: &str) -> NamespaceTrafficPolicies {
    let mut outcome = Outcome::default();
    let mut in_force = ServicePolicies::new();
    // In the order of names, so that the smallest name wins.
    for declared in lookup.traffic_policies(namespace) {
        let object = &declared.object;
        let mut judged = judge(
            declared,
            lookup.refusal(object),
            |spec| check(lookup, namespace, spec),
            &mut outcome.findings,
        );
        judged.status.set(
            ConditionType::Conflicted,
            false,
            reason::NO_CONFLICT,
            "no other traffic policy has the same target",
        );
        if let Some(spec) = judged.spec.take() {
            let service = NamespacedName::new(namespace, &spec.target.service);
            outcome.findings.extend(
                claim(object, &service, &spec, &mut judged.status, &mut in_force)
                    .or_else(|| without_http(object, lookup.service(&service)?)),
            );
        }
        outcome.statuses.insert(object.clone(), judged.status);
    }
    NamespaceTrafficPolicies { in_force, outcome }
}

/// Puts a usable policy in force, unless another has the same target.
fn claim(
    object: &ObjectRef,
    service: &NamespacedName,
    spec: &TrafficPolicySpec,
    status: &mut ObjectStatus,
    in_force: &mut ServicePolicies,
) -> Option<Finding> {
    if let Some(winner) = in_force.get(service) {
        let winner = &winner.object;
        let message = format!("{winner} wins service {service}, for its name is smaller");
        let conflict = reason::CONFLICT;
        status.set(ConditionType::Conflicted, true, conflict, message.clone());
        status.in_force = None;
        let finding = Finding::error(object, "spec.target.service", conflict, message);
        return Some(finding.fix("remove one of the two"));
    }
    let get = |duration: &Option<HumanDuration>| duration.as_ref().map(HumanDuration::get);
    let timeouts = Timeouts {
        request: get(&spec.timeouts.request),
        per_try: get(&spec.timeouts.per_try),
        idle: get(&spec.timeouts.idle),
    };
    let policy = ServicePolicy {
        object: object.clone(),
        policy: RoutePolicy { timeouts },
    };
    in_force.insert(service.clone(), policy);
    None
}

/// The ports of a service to which its policy does not apply.
fn without_http(object: &ObjectRef, service: &Service) -> Option<Finding> {
    let ports: Vec<String> = not_http(service).map(|port| port.to_string()).collect();
    if ports.is_empty() {
        return None;
    }
    let message = format!(
        "port {} of service {} does not carry HTTP and has no timeouts",
        ports.join(", "),
        service.name
    );
    let finding = Finding::info(object, "spec.target.service", "NotHttp", message);
    Some(finding.fix("if it does, declare HTTP by appProtocol or the name of the port"))
}

fn not_http(service: &Service) -> impl Iterator<Item = Port> {
    let ports = service.ports.iter();
    ports
        .filter(|(_, port)| port.protocol != Protocol::Http)
        .map(|(number, _)| *number)
}

fn check(lookup: &Recorder<'_>, namespace: &str, spec: &TrafficPolicySpec) -> Vec<Problem> {
    let mut problems = check_timeouts(&spec.timeouts);
    problems.extend(check_target(lookup, namespace, spec));
    problems
}

fn check_target(
    lookup: &Recorder<'_>,
    namespace: &str,
    spec: &TrafficPolicySpec,
) -> Option<Problem> {
    let field = "spec.target.service";
    let name = NamespacedName::new(namespace, &spec.target.service);
    match lookup.service(&name) {
        None if lookup.is_external(&name) => Some(Problem::invalid(
            field,
            format!("service {name} is of type ExternalName: it has no endpoints"),
            "name a service with a selector or with EndpointSlices",
        )),
        None => Some(Problem::unresolved(
            reason::SERVICE_NOT_FOUND,
            field,
            format!("service {name} does not exist"),
            "create it, or correct the name",
        )),
        Some(service) if service.headless => Some(Problem::invalid(
            field,
            format!("service {name} is headless: its callers choose the pod themselves"),
            "name a service with a cluster IP",
        )),
        Some(service) if not_http(service).count() == service.ports.len() => {
            Some(Problem::invalid(
                field,
                format!("service {name} does not carry HTTP, and only requests have timeouts"),
                "declare HTTP by appProtocol or the name of a port",
            ))
        }
        Some(_) => None,
    }
}

fn check_timeouts(timeouts: &RequestTimeouts) -> Vec<Problem> {
    let RequestTimeouts {
        request,
        per_try,
        idle,
    } = timeouts;
    let mut problems = Vec::new();
    let all = [("request", request), ("perTry", per_try), ("idle", idle)];
    if all.iter().all(|(_, timeout)| timeout.is_none()) {
        let fix = "name request, perTry or idle";
        problems.push(Problem::invalid("spec.timeouts", "it is empty", fix));
    }
    for (name, timeout) in all {
        let Some(timeout) = timeout else { continue };
        if timeout.get().is_zero() || timeout.get() > LONGEST {
            let field = format!("spec.timeouts.{name}");
            let message = format!("{timeout} is not from 1s to 8760h");
            let fix = "correct it, or leave it out for none";
            problems.push(Problem::invalid(field, message, fix));
        }
    }
    if let (Some(request), Some(per_try)) = (request, per_try)
        && per_try.get() > request.get()
    {
        let message = format!("{per_try} is longer than request, {request}");
        let fix = "make it shorter, or leave it out";
        problems.push(Problem::invalid("spec.timeouts.perTry", message, fix));
    }
    problems
}
