//! `TrafficSplit`: the calls to one service, divided among backends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_crds::{Backend, BackendTarget, ConditionType, TrafficSplitSpec, WeightInForce, reason};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::{Problem, judge, matches};
use crate::status::ObjectStatus;
use crate::traffic::{
    self, Action, Forward, RouteEntry, RoutePolicy, RouteRule, RuleId, WeightedBackend,
};
use crate::validation::endpoints::Readiness;
use crate::validation::{Outcome, Recorder};
use crate::world::{Declared, NamespacedName, Port, Service, to_labels};

/// The rules in force by service and port, in the order of the names of their objects.
pub(crate) type Splits = BTreeMap<(NamespacedName, Port), Vec<RouteEntry>>;

/// The splits of a namespace, judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NamespaceSplits {
    pub(crate) in_force: Splits,
    pub(crate) outcome: Outcome,
}

/// Judges every split of a namespace.
pub(crate) fn splits(lookup: &Recorder<'_>, namespace: &str) -> NamespaceSplits {
    let mut outcome = Outcome::default();
    let mut splits = Splits::new();
    // In the order of names, so that the smallest name wins, in any order of arrival.
    for declared in lookup.splits(namespace) {
        let mut judged = judge(
            declared,
            lookup.refusal(&declared.object),
            |spec| check(lookup, namespace, spec),
            &mut outcome.findings,
        );
        judged.status.set(
            ConditionType::Conflicted,
            false,
            reason::NO_CONFLICT,
            "no other split claims the same",
        );
        if let Some(spec) = judged.spec.take() {
            let status = &mut judged.status;
            let findings = &mut outcome.findings;
            claim(lookup, declared, &spec, status, &mut splits, findings);
        }
        outcome
            .statuses
            .insert(declared.object.clone(), judged.status);
    }
    NamespaceSplits {
        in_force: splits,
        outcome,
    }
}

/// Puts a usable split in force, unless another has the same service and port.
fn claim(
    lookup: &Recorder<'_>,
    declared: &Declared<TrafficSplitSpec>,
    spec: &TrafficSplitSpec,
    status: &mut ObjectStatus,
    splits: &mut Splits,
    findings: &mut Vec<Finding>,
) {
    let object = &declared.object;
    let service = NamespacedName {
        namespace: Arc::clone(&object.namespace),
        name: spec.service.as_str().into(),
    };
    let ports = matches::claimed(lookup, &service, spec);
    let matchers = matches::matchers(spec);
    let taken = ports.iter().find_map(|port| {
        let mut others = splits.get(&(service.clone(), *port))?.iter();
        Some((
            *port,
            others.find(|other| matchers.contains(&other.matcher))?,
        ))
    });
    if let Some((port, winner)) = taken {
        let which = if winner.matcher.is_any() {
            ""
        } else {
            " for a match that both have"
        };
        let winner = winner.rule.origins.first().unwrap_or(object);
        let message =
            format!("{winner} wins service {service} port {port}{which}, for its name is smaller");
        status.set(
            ConditionType::Conflicted,
            true,
            reason::CONFLICT,
            message.clone(),
        );
        status.in_force = None;
        let finding = Finding::error(object, "spec.service", reason::CONFLICT, message);
        findings.push(finding.fix("remove one of the two"));
        return;
    }
    findings.extend(without_pods(lookup, object, spec, &service, &ports));
    let weights = weigh(lookup, declared, spec, &service, &ports, status);
    status.weights = named(spec, &weights);
    for port in ports {
        let rule = Arc::new(rule(object, spec, &weights, (&service, port)));
        let alternatives = matchers.iter().cloned().enumerate();
        let entries = alternatives.map(|(alternative, matcher)| RouteEntry {
            matcher,
            alternative,
            rule: Arc::clone(&rule),
        });
        let attached = splits.entry((service.clone(), port)).or_default();
        attached.extend(entries);
    }
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
        if lookup.has_pod(service, &labels) || ports.iter().any(there) {
            continue;
        }
        let field = format!("spec.backends[{index}].labels");
        let message = format!(
            "no pod of service {service} has the labels {}",
            backend.display_name()
        );
        let finding = Finding::warning(object, field, "NoPods", message);
        findings.push(finding.fix("correct the labels, or create the pods"));
    }
    findings
}

fn check(lookup: &Recorder<'_>, namespace: &str, spec: &TrafficSplitSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let name = NamespacedName::new(namespace, &spec.service);
    let service = lookup.service(&name);
    match service {
        None if lookup.is_external(&name) => {
            problems.push(without_endpoints("spec.service", &name));
        }
        None => problems.push(Problem::unresolved(
            reason::SERVICE_NOT_FOUND,
            "spec.service",
            format!("service {name} does not exist"),
            "create it, or correct the name",
        )),
        Some(service) if service.headless => {
            problems.push(Problem::invalid(
                "spec.service",
                format!("service {name} is headless: its callers choose the pod themselves"),
                "split a service with a cluster IP",
            ));
        }
        Some(service) => {
            if let Some(port) = spec
                .port
                .map(Port::from)
                .filter(|port| !service.ports.contains_key(port))
            {
                problems.push(Problem::unresolved(
                    reason::PORT_NOT_FOUND,
                    "spec.port",
                    format!("{port} is not a port of service {name}"),
                    "name one of its ports",
                ));
            }
        }
    }
    problems.extend(matches::check(spec, service));
    check_backends(lookup, namespace, spec, service, &mut problems);
    problems
}

fn check_backends(
    lookup: &Recorder<'_>,
    namespace: &str,
    spec: &TrafficSplitSpec,
    service: Option<&Service>,
    problems: &mut Vec<Problem>,
) {
    if spec.backends.is_empty() || spec.backends.len() > 32 {
        problems.push(Problem::invalid(
            "spec.backends",
            format!("{} backends", spec.backends.len()),
            "name 1 to 32",
        ));
    }
    if spec.backends.iter().all(|b| b.weight == 0) {
        problems.push(Problem::invalid(
            "spec.backends",
            "all weights are zero",
            "give at least one backend a weight",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, backend) in spec.backends.iter().enumerate() {
        let field = format!("spec.backends[{index}]");
        if backend.weight > Backend::MAX_WEIGHT {
            problems.push(Problem::invalid(
                format!("{field}.weight"),
                format!("{} is too large", backend.weight),
                "use 0 to 1000000",
            ));
        }
        if !seen.insert(backend.display_name()) {
            problems.push(Problem::invalid(
                field.clone(),
                format!("{} is named twice", backend.display_name()),
                "add the weights up in one",
            ));
        }
        problems.extend(check_target(
            lookup, namespace, spec, service, backend, &field,
        ));
    }
}

fn check_target(
    lookup: &Recorder<'_>,
    namespace: &str,
    spec: &TrafficSplitSpec,
    service: Option<&Service>,
    backend: &Backend,
    field: &str,
) -> Option<Problem> {
    let backend_name = match backend.target() {
        None => {
            return Some(Problem::invalid(
                field,
                "a backend takes exactly one of service and labels",
                "remove one, or add the missing one",
            ));
        }
        // Labels that no pod has yet are a backend without endpoints, not a mistake.
        Some(BackendTarget::Labels(_)) => return None,
        Some(BackendTarget::Service(name)) => name,
    };
    let name = NamespacedName::new(namespace, backend_name);
    let field = format!("{field}.service");
    let Some(target) = lookup.service(&name) else {
        if lookup.is_external(&name) {
            return Some(without_endpoints(&field, &name));
        }
        return Some(Problem::unresolved(
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
    Some(Problem::unresolved(
        reason::PORT_NOT_FOUND,
        field,
        format!("{missing} is not a port of service {name}"),
        "give the backend the ports of the service that is split",
    ))
}

fn without_endpoints(field: &str, service: &NamespacedName) -> Problem {
    Problem::invalid(
        field,
        format!("service {service} is of type ExternalName; a split needs services with endpoints"),
        "name a service with a selector or with EndpointSlices",
    )
}

fn rule(
    object: &ObjectRef,
    spec: &TrafficSplitSpec,
    weights: &[u32],
    (service, port): (&NamespacedName, Port),
) -> RouteRule {
    let weighted = spec.backends.iter().zip(weights);
    let backends = weighted.filter_map(|(backend, weight)| {
        Some(WeightedBackend {
            backend: target(service, port, backend)?,
            weight: *weight,
        })
    });
    RouteRule {
        id: RuleId::Declared(object.clone(), 0),
        action: Action::Forward(Forward {
            backends: backends.collect(),
        }),
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
    lookup: &Recorder<'_>,
    declared: &Declared<TrafficSplitSpec>,
    spec: &TrafficSplitSpec,
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
    status: &mut ObjectStatus,
) -> Vec<u32> {
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
    let held = in_force(spec, &declared.weights);
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

/// `status.weights` in the order of the backends; None if it speaks of none of them.
fn in_force(spec: &TrafficSplitSpec, weights: &[WeightInForce]) -> Option<Vec<u32>> {
    let of = |backend: &Backend| {
        weights
            .iter()
            .find(|w| w.backend == backend.display_name())
            .map_or(0, |w| w.weight)
    };
    let found: Vec<u32> = spec.backends.iter().map(of).collect();
    found.iter().any(|w| *w > 0).then_some(found)
}

fn named(spec: &TrafficSplitSpec, weights: &[u32]) -> Vec<WeightInForce> {
    spec.backends
        .iter()
        .zip(weights)
        .map(|(backend, weight)| WeightInForce {
            backend: backend.display_name(),
            weight: *weight,
        })
        .collect()
}
