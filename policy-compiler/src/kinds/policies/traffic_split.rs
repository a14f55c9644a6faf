//! `TrafficSplit`: the calls to one service, split among backends.

mod backends;
mod references;
mod requests;
mod sticky;
mod weights;

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_crds::{TrafficSplitSpec, reason};

use self::references::References;
use crate::finding::ObjectRef;
use crate::kinds::called_service::called_service;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::{PortRules, RuleKind, Rules, ServiceRules};
use crate::kinds::{ValidationError, matches};
use crate::traffic::{
    Action, Forward, HeaderPolicy, RequestMatcher, RouteEntry, RoutePolicy, RouteRule, RuleId,
    Weight, WeightedBackend,
};
use crate::validation::inputs::Target;
use crate::world::{DeclaredSpec, NamespacedName, Port, Protocol};

impl PolicyKind for TrafficSplitSpec {
    type Attachment = ServiceRules;

    const RULES: Option<Rules<ServiceRules>> = Some(Rules::of(RuleKind::Split));

    const IN_CLUSTERS: bool = false;

    const NO_CONFLICT: Option<&'static str> = Some("no other split claims the same");

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        check(policy, spec, replaces(policy, spec))
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        claim(policy, spec, attachments, report);
    }
}

/// Whether a spec is the declared one, and would replace an earlier one that is in force.
pub(super) fn replaces<S: PartialEq>(policy: &Candidate<'_, S>, spec: &S) -> bool {
    let declared = policy.declared;
    let last = policy.history().last_good();
    let earlier = last.is_some_and(|last| last.generation != declared.generation);
    earlier
        && declared
            .spec
            .as_ref()
            .is_ok_and(|declared| declared == spec)
}

/// Puts a usable split in force, unless another has the same service and port.
pub(super) fn claim<S: DeclaredSpec + PolicyKind<Attachment = ServiceRules>>(
    policy: &Candidate<'_, S>,
    spec: &TrafficSplitSpec,
    attachments: &mut Attachments<S>,
    report: &mut ObjectReport<'_>,
) {
    let (lookup, object) = (policy.lookup, &policy.declared.object);
    let service = policy.service(&spec.service);
    let references = References::of(policy, spec);
    let mut ports = unrouted(policy, spec, &service, report);
    if ports.is_empty() && report.status.in_force.is_none() {
        return;
    }
    let split = references.ports(spec);
    ports.retain(|port| split.contains(port));
    let matchers = matches::matchers(spec);
    let target = Target::Service(service.clone());
    let attached = attachments.get(&target);
    let taken = ports
        .iter()
        .find_map(|port| Some((*port, attached?.get(port)?.first_of(&matchers)?)));
    if let Some((port, winner)) = taken {
        let which = if winner.matcher.is_any() {
            ""
        } else {
            " for a match that both have"
        };
        let winner = winner.rule.origins.first().unwrap_or(object);
        let subject = format!("service {service} port {port}{which}");
        report.conflict(object, winner, "spec.service", &subject);
        return;
    }
    if let Some(message) = full(spec, (&service, &ports), &matchers, attached) {
        let fix = "remove splits of the service, or write them with exact and prefix";
        report.beyond(object, "spec.service", message, fix);
        return;
    }
    let findings =
        backends::without_pods((lookup, policy.settings), object, spec, &service, &ports);
    report.findings.extend(findings);
    let finding = requests::finding(object, spec, lookup.service(&service));
    report.findings.extend(finding);
    report.findings.extend(references.differing(object, &ports));
    let weights = weights::weigh(policy, spec, (&service, &ports), &references, report.status);
    report.status.detail = weights::detail(spec, &weights);
    report.unresolved(
        object,
        &references.errors(),
        " (the rest of the spec is in force)",
    );
    for port in ports {
        let rule = rule(policy, (spec, &references), &weights, (&service, port));
        let rules = attachments.entry(target.clone()).or_default();
        let rules = rules.entry(port).or_default();
        entries(&matchers, rule).for_each(|entry| rules.push(entry));
    }
}

/// The reason why a port takes no split with these alternatives.
fn full(
    spec: &TrafficSplitSpec,
    (service, ports): (&NamespacedName, &BTreeSet<Port>),
    matchers: &[RequestMatcher],
    attached: Option<&ServiceRules>,
) -> Option<String> {
    let sticky = sticky::sticky(spec);
    let each = sticky.map_or(1, |sticky| sticky.alternatives_each());
    ports.iter().find_map(|port| {
        let none = PortRules::default();
        let present = attached.and_then(|attached| attached.get(port));
        let reason = matches::beyond(present.unwrap_or(&none), matchers, each)?;
        let weighed = if each > 1 {
            format!("; with sticky.cookie each counts for {each}, and with sticky.header for one")
        } else {
            String::new()
        };
        Some(format!(
            "port {port} of service {service} {reason}{weighed}"
        ))
    })
}

fn entries(matchers: &[RequestMatcher], rule: RouteRule) -> impl Iterator<Item = RouteEntry> {
    let (alternatives, rule) = (matchers.iter().cloned().enumerate(), Arc::new(rule));
    alternatives.map(move |(alternative, matcher)| RouteEntry {
        matcher,
        alternative,
        rule: Arc::clone(&rule),
    })
}

/// The ports that a split claims, without those that a route or a split of an earlier kind has. A split that is left without ports is not in force.
fn unrouted<S: DeclaredSpec>(
    policy: &Candidate<'_, S>,
    spec: &TrafficSplitSpec,
    service: &NamespacedName,
    report: &mut ObjectReport<'_>,
) -> BTreeSet<Port> {
    let mut ports = matches::claimed(policy.lookup, service, spec);
    let routed = |port: &Port| Some((*port, policy.route(service, *port)?));
    let taken: Vec<(Port, &ObjectRef)> = ports.iter().filter_map(routed).collect();
    let Some((port, route)) = taken.first() else {
        return ports;
    };
    let in_force = report.status.in_force.clone();
    let (object, subject) = (
        &policy.declared.object,
        format!("service {service} port {port}"),
    );
    let because = match route.kind.rules() {
        Some(RuleKind::Split) => "a TrafficSplit of heddle.dev comes before one of SMI",
        Some(RuleKind::Route) | None => "routes of Gateway API come before a TrafficSplit",
    };
    report.yields(object, route, "spec.service", &subject, because);
    ports.retain(|port| taken.iter().all(|(other, _)| other != port));
    if !ports.is_empty() {
        report.status.in_force = in_force;
    }
    ports
}

/// The faults of a spec. A missing service is none where other backends have its share. `replaces`: a last good spec of before stays in force
/// in place of a new one that names a missing service.
pub(super) fn check<S>(
    policy: &Candidate<'_, S>,
    spec: &TrafficSplitSpec,
    replaces: bool,
) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    let called = called_service(policy, "spec.service", &policy.service(&spec.service));
    let port = spec.port.map(Port::from);
    match &called {
        Err(problem) => problems.push(problem.clone()),
        Ok(service) => {
            if let Some(port) = port.filter(|port| !service.ports.contains_key(port)) {
                problems.push(ValidationError::unresolved(
                    reason::PORT_NOT_FOUND,
                    "spec.port",
                    service.not_a_port(port),
                    "name one of its ports",
                ));
            }
        }
    }
    let service = policy.lookup.service(&policy.service(&spec.service));
    problems.extend(matches::check(spec, service));
    backends::check_backends(spec, &mut problems);
    backends::check_mirrors(spec, &mut problems);
    let references = References::of(policy, spec);
    if called.is_ok() && (replaces || !references.are_usable(spec)) {
        problems.extend(references.errors());
    }
    problems.extend(sticky::check(spec));
    problems.extend(requests::check(spec, service));
    problems
}

fn rule<S>(
    policy: &Candidate<'_, S>,
    (spec, references): (&TrafficSplitSpec, &References),
    weights: &[u32],
    (service, port): (&NamespacedName, Port),
) -> RouteRule {
    let object = &policy.declared.object;
    let weighted = spec.backends.iter().zip(weights).enumerate();
    let backends = weighted.filter_map(|(index, (backend, weight))| {
        let declared = backend.weight;
        let backend = references.backend((index, backend.target()), (service, port))?;
        let weight = Weight {
            declared,
            in_force: *weight,
        };
        Some(WeightedBackend {
            weight,
            ..WeightedBackend::new(backend, declared)
        })
    });
    let mut forward = Forward::to(backends.collect());
    let declared = policy.lookup.service(service);
    let port_of = declared.and_then(|service| service.ports.get(&port));
    if port_of.is_some_and(|port| port.protocol == Protocol::Http) {
        forward.mirrors = backends::mirrors(spec, references, (service, port));
        forward.sticky = sticky::sticky(spec);
    }
    RouteRule {
        id: RuleId::Declared(object.clone(), 0),
        action: Action::Forward(forward),
        headers: HeaderPolicy::default(),
        policy: RoutePolicy::default(),
        origins: BTreeSet::from([object.clone()]),
    }
}
