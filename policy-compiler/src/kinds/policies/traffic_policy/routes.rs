//! A route as the target of a `TrafficPolicy`.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_crds::{
    ForeignSpec, GrpcRouteSpec, HttpRouteSpec, RouteKind, RouteTarget, TrafficPolicySpec,
    TrafficSplitSpec, reason,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::services::not_http;
use crate::finding::{Finding, ObjectRef};
use crate::kind::ObjectKind;
use crate::kinds::policy::{Candidate, ObjectReport};
use crate::kinds::routes::parent_services;
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::world::{DeclaredSpec, NamespacedName, Port, Protocol};

/// So many names of rules are in a message.
const NAMED: usize = 8;

/// A route as it is declared, with the parts of its last good spec that are in force in place of an invalid one.
#[derive(Default)]
struct NamedRoute {
    /// The services that it routes calls of, with the one port that it names: as declared, then by the last good spec. At each of them the
    /// rules in force are asked for.
    services: BTreeSet<(NamespacedName, Option<Port>)>,
    /// The names of its rules, as declared and in force. None: the route cannot be read, and its own status has the reason.
    rules: Option<BTreeSet<Arc<str>>>,
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

/// The services that the route of a target routes calls of.
pub(super) fn services(
    policy: &Candidate<'_, TrafficPolicySpec>,
    target: &RouteTarget,
) -> BTreeSet<NamespacedName> {
    let object = reference(&policy.declared.object, target);
    let route = named(policy, target, &object).unwrap_or_default();
    route.services.into_iter().map(|(name, _)| name).collect()
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
    let Some(route) = named(policy, target, &object) else {
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
    route: &NamedRoute,
) -> Option<ValidationError> {
    let (name, field) = (target.rule.as_ref()?, "spec.target.route.rule");
    if target.kind == RouteKind::TrafficSplit {
        let message = "a TrafficSplit has one rule, which has no name";
        return Some(ValidationError::invalid(field, message, "remove it"));
    }
    let rules = route.rules.as_ref()?;
    if rules.contains(name.as_str()) {
        return None;
    }
    let others: Vec<&str> = rules.iter().take(NAMED).map(|name| &**name).collect();
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
    route: &NamedRoute,
) -> Option<ValidationError> {
    if target.kind != RouteKind::TrafficSplit {
        return None;
    }
    let mut known = route.services.iter();
    let takes_none = |(name, port): &(NamespacedName, Option<Port>)| {
        let service = policy.lookup.service(name)?;
        let targeted = port.map_or(service.ports.len(), |_| 1);
        Some(not_http(service, *port).count() == targeted)
    };
    if route.services.is_empty() || !known.all(|at| takes_none(at) == Some(true)) {
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
    let route = named(policy, target, &object).unwrap_or_default();
    let rule = target.rule.as_deref();
    let mut places = BTreeSet::new();
    for (service, _) in route.services {
        let ports = policy.ports_of_route(&object, &service, rule).into_iter();
        places.extend(ports.map(|port| (service.clone(), port)));
    }
    let is_http = |(name, port): &(NamespacedName, Port)| {
        let service = policy.lookup.service(name);
        let port = service.and_then(|service| service.ports.get(port));
        port.is_some_and(|port| port.protocol == Protocol::Http)
    };
    let (http, bytes): (BTreeSet<_>, BTreeSet<_>) = places.into_iter().partition(is_http);
    if http.is_empty() {
        let subject = rule.map_or_else(
            || object.to_string(),
            |rule| format!("rule {rule} of {object}"),
        );
        report.warn(
            own,
            "spec.target.route".to_owned(),
            reason::NO_EFFECT,
            format!("{subject} has no port with requests, so the policy has no effect"),
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

/// The route of a target. None: there is no such object.
fn named(
    policy: &Candidate<'_, TrafficPolicySpec>,
    target: &RouteTarget,
    object: &ObjectRef,
) -> Option<NamedRoute> {
    let mut route = match target.kind {
        RouteKind::HttpRoute => read::<HttpRouteSpec>(policy, object, of_gateway_api),
        RouteKind::GrpcRoute => read::<GrpcRouteSpec>(policy, object, of_gateway_api),
        RouteKind::TrafficSplit => read::<TrafficSplitSpec>(policy, object, of_split),
    }?;
    let in_force = route.services.iter();
    let in_force = in_force.flat_map(|(service, _)| policy.rule_names_of_route(object, service));
    let in_force: Vec<_> = in_force.collect();
    if let Some(rules) = &mut route.rules {
        rules.extend(in_force);
    }
    Some(route)
}

/// Reads a route and its last good spec.
fn read<S: DeclaredSpec + DeserializeOwned>(
    policy: &Candidate<'_, TrafficPolicySpec>,
    object: &ObjectRef,
    of: impl Fn(&Candidate<'_, TrafficPolicySpec>, &S) -> NamedRoute,
) -> Option<NamedRoute> {
    let declared = policy.lookup.other::<S>(&NamespacedName::of(object))?;
    let last_good = policy.lookup.history(object).last_good();
    let last_good = last_good.and_then(|last| last.read::<S>().ok());
    let mut route = declared
        .spec
        .as_ref()
        .map(|spec| of(policy, spec))
        .unwrap_or_default();
    let last_good = last_good.map(|spec| of(policy, &spec).services);
    route.services.extend(last_good.into_iter().flatten());
    Some(route)
}

fn of_split(policy: &Candidate<'_, TrafficPolicySpec>, split: &TrafficSplitSpec) -> NamedRoute {
    let place = (policy.service(&split.service), split.port.map(Port::from));
    NamedRoute {
        services: BTreeSet::from([place]),
        rules: None,
    }
}

fn of_gateway_api<T>(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &ForeignSpec<T>,
) -> NamedRoute {
    let services = parent_services(policy, spec).into_iter();
    let rules = spec.elements::<NamedRule>("rules").into_iter();
    NamedRoute {
        services: services.map(|service| (service, None)).collect(),
        rules: Some(
            rules
                .filter_map(|(_, rule)| Some(rule.name?.into()))
                .collect(),
        ),
    }
}
