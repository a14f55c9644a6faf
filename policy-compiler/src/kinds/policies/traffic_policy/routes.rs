//! A route as the target of a `TrafficPolicy`.

use std::collections::BTreeSet;

use heddle_crds::{
    ForeignSpec, GrpcRouteSpec, HttpRouteSpec, RouteKind, RouteTarget, TrafficPolicySpec,
    TrafficSplitSpec, reason,
};
use serde::Deserialize;

use super::services::not_http;
use crate::finding::{Finding, ObjectRef};
use crate::kind::ObjectKind;
use crate::kinds::policy::{Candidate, ObjectReport};
use crate::kinds::routes::parent_services;
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::world::{Declared, DeclaredSpec, NamespacedName, Port, Protocol};

/// So many names of rules are in a message.
const NAMED: usize = 8;

/// A route as it is declared.
#[derive(Default)]
struct DeclaredRoute {
    /// The services that it routes calls of, with the one port that it names.
    services: BTreeSet<(NamespacedName, Option<Port>)>,
    /// The names of its rules. None: the route cannot be read, and its own status has the reason.
    rules: Option<Vec<String>>,
}

/// A rule of a route of Gateway API.
#[derive(Deserialize)]
struct NamedRule {
    name: Option<String>,
}

/// The reference to the route of a target.
pub(super) fn reference(policy: &ObjectRef, target: &RouteTarget) -> ObjectRef {
    let kind = match target.kind {
        RouteKind::HttpRoute => ObjectKind::HTTPRoute,
        RouteKind::GrpcRoute => ObjectKind::GRPCRoute,
        RouteKind::TrafficSplit => ObjectKind::TrafficSplit,
    };
    ObjectRef::new(kind, &policy.namespace, &target.name)
}

/// The reasons why a policy for a route cannot be in force.
pub(super) fn check(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &TrafficPolicySpec,
    target: &RouteTarget,
) -> Vec<ValidationError> {
    let mut problems: Vec<ValidationError> = unsupported(spec).collect();
    if spec.target.port.is_some() {
        let message = "a route has its own ports";
        let fix = "remove it, or target the service";
        problems.push(ValidationError::invalid("spec.target.port", message, fix));
    }
    let object = reference(&policy.declared.object, target);
    let Some(route) = declared(policy, target) else {
        problems.push(ValidationError::unresolved(
            reason::ROUTE_NOT_FOUND,
            "spec.target.route.name",
            format!("{object} does not exist"),
            "create it, or correct kind and name",
        ));
        return problems;
    };
    problems.extend(check_rule(target, &object, &route));
    problems.extend(check_ports(policy, target, &object, &route));
    problems
}

/// The fields of services and of their pods.
fn unsupported(spec: &TrafficPolicySpec) -> impl Iterator<Item = ValidationError> {
    let at_servers =
        "the sidecars of the pods keep it, and they do not see by which route a request came";
    let of_service = "it is of the connections and endpoints of a service, which requests of other routes use too";
    let budget = spec.retries.as_ref().and_then(|of| of.budget.as_ref());
    let all = [
        (!spec.rate_limits.is_empty(), "spec.rateLimits", at_servers),
        (spec.overload.is_some(), "spec.overload", at_servers),
        (
            spec.outlier_ejection.is_some(),
            "spec.outlierEjection",
            of_service,
        ),
        (spec.limits.is_some(), "spec.limits", of_service),
        (spec.connections.is_some(), "spec.connections", of_service),
        (
            spec.load_balancing.is_some(),
            "spec.loadBalancing",
            of_service,
        ),
        (budget.is_some(), "spec.retries.budget", of_service),
    ];
    let fix = "set it in a TrafficPolicy with target.service";
    let found = all.into_iter().filter(|(is_set, ..)| *is_set);
    found.map(move |(_, field, message)| ValidationError::unsupported(field, message, fix))
}

fn check_rule(
    target: &RouteTarget,
    object: &ObjectRef,
    route: &DeclaredRoute,
) -> Option<ValidationError> {
    let (name, field) = (target.rule.as_ref()?, "spec.target.route.rule");
    if target.kind == RouteKind::TrafficSplit {
        let message = "a TrafficSplit has one rule, which has no name";
        return Some(ValidationError::invalid(field, message, "remove it"));
    }
    let rules = route.rules.as_ref()?;
    if rules.contains(name) {
        return None;
    }
    let others: Vec<&str> = rules.iter().take(NAMED).map(String::as_str).collect();
    let others = match others.is_empty() {
        true => "no rule of it has a name".to_owned(),
        false => format!("its rules have the names {}", others.join(", ")),
    };
    Some(ValidationError::unresolved(
        reason::RULE_NOT_FOUND,
        field,
        format!("{name:?} is not the name of a rule of {object}: {others}"),
        "correct it, or give the rule that name",
    ))
}

/// A split of connections has no requests.
fn check_ports(
    policy: &Candidate<'_, TrafficPolicySpec>,
    target: &RouteTarget,
    object: &ObjectRef,
    route: &DeclaredRoute,
) -> Option<ValidationError> {
    if target.kind != RouteKind::TrafficSplit {
        return None;
    }
    let (name, port) = route.services.first()?;
    let service = policy.lookup.service(name)?;
    let targeted = port.map_or(service.ports.len(), |_| 1);
    if not_http(service, *port).count() < targeted {
        return None;
    }
    let message = format!("no port of {object} carries HTTP, and the policy is for requests");
    let fix = "declare HTTP by appProtocol or the name of a port, or target the service";
    Some(ValidationError::invalid("spec.target.route", message, fix))
}

/// Returns the ports of services at which the rules of the route are in force, and reports if there are none.
pub(super) fn places(
    policy: &Candidate<'_, TrafficPolicySpec>,
    target: &RouteTarget,
    report: &mut ObjectReport<'_>,
) -> BTreeSet<(NamespacedName, Port)> {
    let (own, object) = (
        &policy.declared.object,
        reference(&policy.declared.object, target),
    );
    let route = declared(policy, target).unwrap_or_default();
    let mut places = BTreeSet::new();
    for (service, _) in route.services {
        let ports = policy.ports_of_route(&object, &service).into_iter();
        places.extend(ports.map(|port| (service.clone(), port)));
    }
    let is_http = |(name, port): &(NamespacedName, Port)| {
        let service = policy.lookup.service(name);
        let port = service.and_then(|service| service.ports.get(port));
        port.is_some_and(|port| port.protocol == Protocol::Http)
    };
    let (http, bytes): (BTreeSet<_>, BTreeSet<_>) = places.into_iter().partition(is_http);
    if http.is_empty() {
        report.warn(
            own,
            "spec.target.route".to_owned(),
            reason::NO_EFFECT,
            format!("{object} has no port with requests, so the policy has no effect"),
            "see the status of the route".to_owned(),
        );
    }
    for (service, port) in bytes {
        let message = format!(
            "port {port} of service {service} does not carry HTTP: requests there are not seen"
        );
        let finding = Finding::info(own, "spec.target.route", reason::NOT_HTTP, message);
        report.findings.push(finding.fix(DECLARE_HTTP));
    }
    http
}

fn declared(
    policy: &Candidate<'_, TrafficPolicySpec>,
    target: &RouteTarget,
) -> Option<DeclaredRoute> {
    let name = policy.service(&target.name);
    match target.kind {
        RouteKind::HttpRoute => {
            let declared = policy.lookup.other::<HttpRouteSpec>(&name)?;
            Some(of_gateway_api(policy, declared))
        }
        RouteKind::GrpcRoute => {
            let declared = policy.lookup.other::<GrpcRouteSpec>(&name)?;
            Some(of_gateway_api(policy, declared))
        }
        RouteKind::TrafficSplit => {
            let declared = policy.lookup.other::<TrafficSplitSpec>(&name)?;
            let split = declared.spec.as_ref().ok();
            let place =
                split.map(|split| (policy.service(&split.service), split.port.map(Port::from)));
            Some(DeclaredRoute {
                services: place.into_iter().collect(),
                rules: None,
            })
        }
    }
}

fn of_gateway_api<T>(
    policy: &Candidate<'_, TrafficPolicySpec>,
    declared: &Declared<ForeignSpec<T>>,
) -> DeclaredRoute
where
    ForeignSpec<T>: DeclaredSpec,
{
    let Ok(spec) = &declared.spec else {
        return DeclaredRoute::default();
    };
    let services = parent_services(policy, spec).into_iter();
    let rules = spec.elements::<NamedRule>("rules").into_iter();
    DeclaredRoute {
        services: services.map(|service| (service, None)).collect(),
        rules: Some(rules.filter_map(|(_, rule)| rule.name).collect()),
    }
}
