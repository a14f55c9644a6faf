//! `TrafficPolicy`: the resilience of calls to a service.

mod attached;
mod hosts;
mod overridden;
mod port_policy;
mod routes;
mod rule_policies;
mod services;

use heddle_crds::{ConditionType, TrafficPolicySpec, TrafficTarget, reason};

use crate::kinds::ValidationError;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::Rules;
use crate::kinds::traffic_policy::{self as groups, PolicyGroups};
use crate::validation::ValidationReport;
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port};
use attached::Part;
pub(crate) use attached::TargetPolicies;
pub(crate) use overridden::{ConsumedPorts, lose, lost_to_consumers};
use port_policy::DeclaredPolicy;
pub use port_policy::{MetPolicy, PolicyTarget};
pub(crate) use port_policy::{PortPolicy, Resent};
pub(crate) use rule_policies::RulePolicies;

impl PolicyKind for TrafficPolicySpec {
    type Attachment = TargetPolicies;

    const RULES: Option<Rules<Self::Attachment>> = None;

    const IN_CLUSTERS: bool = true;

    const NO_CONFLICT: Option<&'static str> = Some("no other traffic policy has the same target");

    const FEEDBACK: bool = true;

    fn is_for_own_callers(policy: &Candidate<'_, Self>, spec: &Self) -> bool {
        let own = policy.namespace();
        match (target(policy, spec), &spec.target.route) {
            (Some(Target::Service(service)), _) => service.namespace != *own,
            (Some(Target::Route(_)), Some(route)) => {
                let services = routes::services(policy, route);
                !services.is_empty() && services.iter().all(|of| of.namespace != *own)
            }
            _ => false,
        }
    }

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        let mut problems = groups::check(spec);
        let route = spec.target.route.as_ref();
        match (target(policy, spec), route) {
            (Some(Target::External(name)), _) => problems.extend(hosts::check(policy, spec, &name)),
            (Some(Target::Service(service)), _) => {
                problems.extend(services::check(policy, spec, &service));
                let server = policy.settings.limiter.as_ref();
                problems.extend(groups::check_server(spec, &service, server));
            }
            (Some(Target::Route(_)), Some(route)) => {
                problems.extend(routes::check(policy, spec, route));
            }
            (Some(Target::Route(_) | Target::Pods(_) | Target::Callers(_)) | None, _) => {
                let message = "it does not name exactly one of service, externalService and route";
                let fix = "keep one of the three";
                problems.push(ValidationError::invalid("spec.target", message, fix));
            }
        }
        problems
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let object = &policy.declared.object;
        let Some(target) = target(policy, spec) else {
            return;
        };
        let part = part(&spec.target);
        let attached = attachments.entry(target.clone()).or_default();
        if let Some(winner) = attached.policies.get(&part) {
            let (field, subject) = subject(&target, &part);
            report.conflict(object, &winner.object, field, &subject);
            return;
        }
        let mut groups = PolicyGroups::of(object, spec);
        let server = policy.settings.limiter.as_ref();
        if let Some(fault) = groups.without_uncounted(spec, server) {
            report.unresolved(object, &[fault], "");
        }
        let port = spec.target.port.map(Port::from);
        if let Target::External(name) = &target {
            let findings = hosts::without_effect(policy, &groups, name, port);
            report.findings.extend(findings);
        }
        if let Target::Service(service) = &target
            && let Some(service) = policy.lookup.service(service)
        {
            let finding = services::without_http(object, &groups, service, port);
            report.findings.extend(finding);
            report
                .findings
                .extend(services::without_pods(object, &groups, service));
        }
        let route = spec.target.route.as_ref();
        let places = route.map(|route| routes::places(policy, route, report));
        let declared = DeclaredPolicy {
            object: object.clone(),
            target: policy_target(&target, &part),
            groups,
            places: places.unwrap_or_default(),
        };
        attached.policies.insert(part, declared);
    }

    fn differs_for_servers(old: Option<&TargetPolicies>, new: Option<&TargetPolicies>) -> bool {
        let none = TargetPolicies::default();
        let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
        old.server_side_differs(new)
    }

    fn compare(attachments: &Attachments<Self>, report: &mut ValidationReport) {
        for (object, message) in overridden::overridden(attachments.iter()) {
            if let Some(status) = report.statuses.get_mut(object) {
                status.set(
                    ConditionType::Conflicted,
                    false,
                    reason::OVERRIDDEN,
                    message,
                );
            }
        }
    }
}

/// The target of a policy. None: the spec names none or several, which the schema refuses.
fn target(policy: &Candidate<'_, TrafficPolicySpec>, spec: &TrafficPolicySpec) -> Option<Target> {
    let TrafficTarget {
        service,
        namespace,
        external_service,
        route,
        port: _,
    } = &spec.target;
    let namespace = namespace.as_deref().unwrap_or(policy.namespace());
    match (service, external_service, route) {
        (Some(name), None, None) => Some(Target::Service(NamespacedName::new(namespace, name))),
        (None, Some(name), None) => Some(Target::External(policy.service(name))),
        (None, None, Some(route)) => {
            let route = routes::reference(&policy.declared.object, route);
            Some(Target::Route(route))
        }
        _ => None,
    }
}

/// The part of its target that a policy names.
fn part(target: &TrafficTarget) -> Part {
    match target.route.as_ref().and_then(|route| route.rule.as_ref()) {
        Some(rule) => Part::Rule(rule.as_str().into()),
        None => Part::of_ports(target.port.map(Port::from)),
    }
}

const fn policy_target(target: &Target, part: &Part) -> PolicyTarget {
    match (target, part) {
        (_, Part::Rule(_)) => PolicyTarget::Rule,
        (Target::Route(_), _) => PolicyTarget::Route,
        (_, Part::Port(_)) => PolicyTarget::Port,
        (_, Part::Whole) => PolicyTarget::Service,
    }
}

/// The field that names a target, and the target in words.
fn subject(target: &Target, part: &Part) -> (&'static str, String) {
    let (field, subject) = match target {
        Target::External(name) => {
            let field = "spec.target.externalService";
            (field, format!("ExternalService {name}"))
        }
        Target::Service(name) => ("spec.target.service", format!("service {name}")),
        Target::Route(route) => ("spec.target.route", route.to_string()),
        Target::Pods(namespace) => ("spec.target", format!("pods of {namespace}")),
        Target::Callers(_) => ("spec.target", "callers".to_owned()),
    };
    match part {
        Part::Whole => (field, subject),
        Part::Port(port) => ("spec.target.port", format!("port {port} of {subject}")),
        Part::Rule(rule) => (
            "spec.target.route.rule",
            format!("rule {rule} of {subject}"),
        ),
    }
}
