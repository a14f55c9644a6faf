//! `TrafficPolicy`: the timeouts of requests to a service.

use std::time::Duration;

use heddle_crds::{HumanDuration, RequestTimeouts, TrafficPolicySpec};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::ValidationError;
use crate::kinds::called_service::called_service;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::traffic::{RoutePolicy, Timeouts};
use crate::validation::inputs::Target;
use crate::world::{Port, Protocol, Service};

/// The longest timeout. Envoy rejects durations of more than 292 years.
const LONGEST: Duration = Duration::from_secs(8760 * 3600);

/// The policy of a service, and its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePolicy {
    pub(crate) object: ObjectRef,
    pub(crate) policy: RoutePolicy,
}

impl PolicyKind for TrafficPolicySpec {
    type Attachment = ServicePolicy;

    const NO_CONFLICT: Option<&'static str> = Some("no other traffic policy has the same target");

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        let mut problems = check_timeouts(&spec.timeouts);
        problems.extend(check_target(policy, spec));
        problems
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let object = &policy.declared.object;
        let service = policy.service(&spec.target.service);
        let target = Target::Service(service.clone());
        if let Some(winner) = attachments.get(&target) {
            let subject = format!("service {service}");
            report.conflict(object, &winner.object, "spec.target.service", &subject);
            return;
        }
        let attached = ServicePolicy {
            object: object.clone(),
            policy: RoutePolicy {
                timeouts: timeouts(&spec.timeouts),
            },
        };
        attachments.insert(target, attached);
        let service = policy.lookup.service(&service);
        let finding = service.and_then(|service| without_http(object, service));
        report.findings.extend(finding);
    }
}

fn timeouts(of: &RequestTimeouts) -> Timeouts {
    let get = |duration: &Option<HumanDuration>| duration.as_ref().map(HumanDuration::get);
    Timeouts {
        request: get(&of.request),
        per_try: get(&of.per_try),
        idle: get(&of.idle),
    }
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

fn check_target(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &TrafficPolicySpec,
) -> Option<ValidationError> {
    let field = "spec.target.service";
    match called_service(policy, field, &spec.target.service) {
        Err(problem) => Some(problem),
        Ok(service) if not_http(service).count() == service.ports.len() => {
            let name = &service.name;
            Some(ValidationError::invalid(
                field,
                format!("service {name} does not carry HTTP, and only requests have timeouts"),
                "declare HTTP by appProtocol or the name of a port",
            ))
        }
        Ok(_) => None,
    }
}

fn check_timeouts(timeouts: &RequestTimeouts) -> Vec<ValidationError> {
    let RequestTimeouts {
        request,
        per_try,
        idle,
    } = timeouts;
    let mut problems = Vec::new();
    let all = [("request", request), ("perTry", per_try), ("idle", idle)];
    if all.iter().all(|(_, timeout)| timeout.is_none()) {
        let fix = "name request, perTry or idle";
        problems.push(ValidationError::invalid(
            "spec.timeouts",
            "it is empty",
            fix,
        ));
    }
    for (name, timeout) in all {
        let Some(timeout) = timeout else { continue };
        if timeout.get().is_zero() || timeout.get() > LONGEST {
            let field = format!("spec.timeouts.{name}");
            let message = format!("{timeout} is not from 1s to 8760h");
            let fix = "correct it, or leave it out for none";
            problems.push(ValidationError::invalid(field, message, fix));
        }
    }
    if let (Some(request), Some(per_try)) = (request, per_try)
        && per_try.get() > request.get()
    {
        let message = format!("{per_try} is longer than request, {request}");
        let fix = "make it shorter, or leave it out";
        problems.push(ValidationError::invalid(
            "spec.timeouts.perTry",
            message,
            fix,
        ));
    }
    problems
}
