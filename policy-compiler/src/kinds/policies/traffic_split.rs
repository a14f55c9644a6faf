//! `TrafficSplit`: the calls to one service, divided among backends.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_crds::{Backend, BackendTarget, ConditionType, TrafficSplitSpec, WeightInForce, reason};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::called_service::{called_service, without_endpoints};
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::{self, ServiceRules};
use crate::kinds::{ValidationError, matches};
use crate::status::ObjectStatus;
use crate::traffic::{
    self, Action, Edits, Forward, Otherwise, RouteEntry, RoutePolicy, RouteRule, RuleId,
    WeightedBackend,
};
use crate::validation::Recorder;
use crate::validation::endpoints::Readiness;
use crate::validation::inputs::{Target, UnitInput};
use crate::world::{History, NamespacedName, Port, Service, to_labels};

impl PolicyKind for TrafficSplitSpec {
    type Attachment = ServiceRules;

    const NO_CONFLICT: Option<&'static str> = Some("no other split claims the same");

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        check(policy, spec)
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        claim(policy, spec, attachments, report);
    }

    fn narrower_inputs(
        service: &NamespacedName,
        old: Option<&ServiceRules>,
        new: Option<&ServiceRules>,
    ) -> Vec<UnitInput> {
        service_rules::narrower_inputs(service, old, new, Otherwise::WholeService)
    }
}

/// Puts a usable split in force, unless another has the same service and port.
fn claim(
    policy: &Candidate<'_, TrafficSplitSpec>,
    spec: &TrafficSplitSpec,
    attachments: &mut Attachments<TrafficSplitSpec>,
    report: &mut ObjectReport<'_>,
) {
    let (lookup, object) = (policy.lookup, &policy.declared.object);
    let service = policy.service(&spec.service);
    let ports = unrouted(policy, spec, &service, report);
    if ports.is_empty() && report.status.in_force.is_none() {
        return;
    }
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
    let full = ports.iter().find_map(|port| {
        let reason = matches::beyond(attached?.get(port)?, &matchers)?;
        Some(format!("port {port} of service {service} {reason}"))
    });
    if let Some(message) = full {
        let fix = "remove splits of the service, or write them with exact and prefix";
        report.beyond(object, "spec.service", message, fix);
        return;
    }
    report
        .findings
        .extend(without_pods(lookup, object, spec, &service, &ports));
    let weights = weigh(policy, spec, &service, &ports, report.status);
    report.status.detail = detail(spec, &weights);
    for port in ports {
        let rule = Arc::new(rule(object, spec, &weights, (&service, port)));
        let alternatives = matchers.iter().cloned().enumerate();
        let entries = alternatives.map(|(alternative, matcher)| RouteEntry {
            matcher,
            alternative,
            rule: Arc::clone(&rule),
        });
        let rules = attachments.entry(target.clone()).or_default();
        let rules = rules.entry(port).or_default();
        entries.for_each(|entry| rules.push(entry));
    }
}

/// The ports that a split claims, without those that a route has. A split that is left without ports is not in force.
fn unrouted(
    policy: &Candidate<'_, TrafficSplitSpec>,
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
    let because = "routes of Gateway API come before a TrafficSplit";
    report.yields(object, route, "spec.service", &subject, because);
    ports.retain(|port| taken.iter().all(|(other, _)| other != port));
    if !ports.is_empty() {
        report.status.in_force = in_force;
    }
    ports
}

/// Backends by labels that no pod of the service has: not an error, for the pods may come later.
fn without_pods(
    lookup: &Recorder<'_>,
    object: &ObjectRef,
    spec: &TrafficSplitSpec,
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, backend) in spec.backends.iter().enumerate() {
        let labels = match backend.target() {
            // A backend without weight may be prepared before its pods.
            Some(BackendTarget::Labels(of)) if backend.weight > 0 => to_labels(of),
            Some(BackendTarget::Labels(_) | BackendTarget::Service(_)) | None => continue,
        };
        let there = |port: &Port| {
            lookup.takes_traffic(service, *port, Some(&labels))
                || lookup.readiness(service, *port, Some(&labels)).all > 0
        };
        let field = format!("spec.backends[{index}].labels");
        match lookup.has_pod(service, &labels) {
            Some(true) => continue,
            None => {
                findings.push(not_checked(object, field, service));
                continue;
            }
            Some(false) if ports.iter().any(there) => continue,
            Some(false) => {}
        }
        let message = format!(
            "no pod of service {service} has the labels {}",
            backend.display_name()
        );
        let finding = Finding::warning(object, field, "NoPods", message);
        findings.push(finding.fix("correct the labels, or create the pods"));
    }
    findings
}

/// Labels that cannot be compared with any pod.
fn not_checked(object: &ObjectRef, field: String, service: &NamespacedName) -> Finding {
    let message =
        format!("the files have no workload of service {service}, so the labels were not checked");
    Finding::info(object, field, reason::NOT_CHECKED, message)
        .fix("add the files of the workloads, or ask the cluster")
}

fn check(
    policy: &Candidate<'_, TrafficSplitSpec>,
    spec: &TrafficSplitSpec,
) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    let called = called_service(policy, "spec.service", &spec.service);
    let port = spec.port.map(Port::from);
    match &called {
        Err(problem) => problems.push(problem.clone()),
        Ok(service) => {
            if let Some(port) = port.filter(|port| !service.ports.contains_key(port)) {
                problems.push(ValidationError::unresolved(
                    reason::PORT_NOT_FOUND,
                    "spec.port",
                    format!("{port} is not a port of service {}", service.name),
                    "name one of its ports",
                ));
            }
        }
    }
    let service = policy.lookup.service(&policy.service(&spec.service));
    problems.extend(matches::check(spec, service));
    check_backends(policy, spec, service, &mut problems);
    problems
}

fn check_backends(
    policy: &Candidate<'_, TrafficSplitSpec>,
    spec: &TrafficSplitSpec,
    service: Option<&Service>,
    problems: &mut Vec<ValidationError>,
) {
    if spec.backends.is_empty() || spec.backends.len() > 32 {
        problems.push(ValidationError::invalid(
            "spec.backends",
            format!("{} backends", spec.backends.len()),
            "name 1 to 32",
        ));
    }
    if spec.backends.iter().all(|b| b.weight == 0) {
        problems.push(ValidationError::invalid(
            "spec.backends",
            "all weights are zero",
            "give at least one backend a weight",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, backend) in spec.backends.iter().enumerate() {
        let field = format!("spec.backends[{index}]");
        if backend.weight > Backend::MAX_WEIGHT {
            problems.push(ValidationError::invalid(
                format!("{field}.weight"),
                format!("{} is too large", backend.weight),
                "use 0 to 1000000",
            ));
        }
        if !seen.insert(backend.display_name()) {
            problems.push(ValidationError::invalid(
                field.clone(),
                format!("{} is named twice", backend.display_name()),
                "add the weights up in one",
            ));
        }
        problems.extend(check_target(policy, spec, service, backend, &field));
    }
}

fn check_target(
    policy: &Candidate<'_, TrafficSplitSpec>,
    spec: &TrafficSplitSpec,
    service: Option<&Service>,
    backend: &Backend,
    field: &str,
) -> Option<ValidationError> {
    let backend_name = match backend.target() {
        None => {
            return Some(ValidationError::invalid(
                field,
                "a backend takes exactly one of service and labels",
                "remove one, or add the missing one",
            ));
        }
        // Labels that no pod has yet are a backend without endpoints, not a mistake.
        Some(BackendTarget::Labels(_)) => return None,
        Some(BackendTarget::Service(name)) => name,
    };
    let name = policy.service(backend_name);
    let field = format!("{field}.service");
    let Some(target) = policy.lookup.service(&name) else {
        if policy.lookup.is_external(&name) {
            return Some(without_endpoints(policy, &field, backend_name));
        }
        return Some(ValidationError::unresolved(
            reason::BACKEND_NOT_FOUND,
            field,
            format!("service {name} does not exist"),
            "create it, or correct the name",
        ));
    };
    let ports: Vec<Port> = spec.port.map_or_else(
        || {
            service
                .map(|s| s.ports.keys().copied().collect())
                .unwrap_or_default()
        },
        |port| vec![port.into()],
    );
    let missing = ports.iter().find(|port| !target.ports.contains_key(port))?;
    Some(ValidationError::unresolved(
        reason::PORT_NOT_FOUND,
        field,
        format!("{missing} is not a port of service {name}"),
        "give the backend the ports of the service that is split",
    ))
}

fn rule(
    object: &ObjectRef,
    spec: &TrafficSplitSpec,
    weights: &[u32],
    (service, port): (&NamespacedName, Port),
) -> RouteRule {
    let weighted = spec.backends.iter().zip(weights);
    let backends = weighted.filter_map(|(backend, weight)| {
        let backend = target(service, port, backend)?;
        Some(WeightedBackend::new(backend, *weight))
    });
    RouteRule {
        id: RuleId::Declared(object.clone(), 0),
        action: Action::Forward(Forward::to(backends.collect())),
        edits: Edits::default(),
        policy: RoutePolicy::default(),
        origins: BTreeSet::from([object.clone()]),
    }
}

fn target(service: &NamespacedName, port: Port, backend: &Backend) -> Option<traffic::Backend> {
    Some(match backend.target()? {
        BackendTarget::Service(name) => {
            let name = NamespacedName {
                namespace: Arc::clone(&service.namespace),
                name: name.into(),
            };
            traffic::Backend::Service(name, port)
        }
        BackendTarget::Labels(of) => traffic::Backend::Subset(service.clone(), port, to_labels(of)),
    })
}

/// The weights in force: those of the spec if every backend that gets traffic can take it; else no weight moves to one that cannot.
fn weigh(
    policy: &Candidate<'_, TrafficSplitSpec>,
    spec: &TrafficSplitSpec,
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
    status: &mut ObjectStatus,
) -> Vec<u32> {
    let lookup = policy.lookup;
    let wanted: Vec<u32> = spec.backends.iter().map(|b| b.weight).collect();
    let mut used = spec.backends.iter().filter(|backend| backend.weight > 0);
    // Manifests in a directory have no endpoints, and nothing to wait for.
    if lookup.offline() || used.all(|b| takes_traffic(lookup, service, ports, b)) {
        return wanted;
    }
    let ready: Vec<Readiness> = spec
        .backends
        .iter()
        .map(|backend| backend_readiness(lookup, service, ports, backend))
        .collect();
    let takes = |weights: &[u32]| {
        weights.iter().any(|w| *w > 0)
            && weights
                .iter()
                .zip(&ready)
                .all(|(weight, r)| *weight == 0 || r.ready > 0)
    };
    let only_ready = |weights: &[u32]| -> Vec<u32> {
        weights
            .iter()
            .zip(&ready)
            .map(|(weight, r)| if r.ready > 0 { *weight } else { 0 })
            .collect()
    };
    let held = in_force(spec, policy.history());
    let candidates = [
        held.clone(),
        Some(only_ready(&wanted)),
        held.map(|weights| only_ready(&weights)),
    ];
    let weights = candidates
        .into_iter()
        .flatten()
        .find(|weights| takes(weights));
    let waiting = waiting(spec, &ready);
    let consequence = if weights.is_some() {
        "no weight moves there"
    } else {
        "no backend can take the traffic"
    };
    // The objects that the spec names exist; that they cannot take traffic yet is said here, where a reader looks first.
    status.set(
        ConditionType::ResolvedRefs,
        false,
        "BackendNotReady",
        format!("{waiting}: {consequence}"),
    );
    weights.unwrap_or(wanted)
}

/// The backends that should get traffic and cannot take it.
fn waiting(spec: &TrafficSplitSpec, ready: &[Readiness]) -> String {
    let pairs = spec.backends.iter().zip(ready);
    let waiting = pairs.filter(|(backend, r)| backend.weight > 0 && r.ready == 0);
    let names = waiting
        .map(|(backend, r)| format!("{} 0/{} endpoints ready", backend.display_name(), r.all));
    names.collect::<Vec<_>>().join(", ")
}

/// Whether a backend has a ready endpoint for each port.
fn takes_traffic(
    lookup: &Recorder<'_>,
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
    backend: &Backend,
) -> bool {
    let of_port = |port: &Port| match target(service, *port, backend) {
        Some(traffic::Backend::Service(name, port)) => lookup.takes_traffic(&name, port, None),
        Some(traffic::Backend::Subset(name, port, labels)) => {
            lookup.takes_traffic(&name, port, Some(&labels))
        }
        Some(traffic::Backend::Invalid(_)) | None => false,
    };
    !ports.is_empty() && ports.iter().all(of_port)
}

fn backend_readiness(
    lookup: &Recorder<'_>,
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
    backend: &Backend,
) -> Readiness {
    let of_port = |port: &Port| match target(service, *port, backend) {
        Some(traffic::Backend::Service(name, port)) => lookup.readiness(&name, port, None),
        Some(traffic::Backend::Subset(name, port, labels)) => {
            lookup.readiness(&name, port, Some(&labels))
        }
        Some(traffic::Backend::Invalid(_)) | None => Readiness::default(),
    };
    // A backend is as ready as its worst port.
    ports
        .iter()
        .map(of_port)
        .min_by_key(|r| r.ready)
        .unwrap_or_default()
}

/// The field of `status` with the weights in force.
const WEIGHTS: &str = "weights";

/// The weights of the last status in the order of the backends; `None` if it contains none of them.
fn in_force(spec: &TrafficSplitSpec, history: History<'_>) -> Option<Vec<u32>> {
    let weights = Vec::<WeightInForce>::deserialize(history.in_force(WEIGHTS)?).ok()?;
    let of = |backend: &Backend| {
        weights
            .iter()
            .find(|w| w.backend == backend.display_name())
            .map_or(0, |w| w.weight)
    };
    let found: Vec<u32> = spec.backends.iter().map(of).collect();
    found.iter().any(|w| *w > 0).then_some(found)
}

/// The weights in force as fields of `status`: by backend, and on one line.
fn detail(spec: &TrafficSplitSpec, weights: &[u32]) -> Map<String, Value> {
    let pairs = spec.backends.iter().zip(weights);
    let named: Vec<Value> = pairs
        .map(|(backend, weight)| json!({"backend": backend.display_name(), "weight": weight}))
        .collect();
    let line: Vec<String> = weights.iter().map(u32::to_string).collect();
    Map::from_iter([
        (WEIGHTS.to_owned(), named.into()),
        ("weightsInForce".to_owned(), line.join("/").into()),
    ])
}
