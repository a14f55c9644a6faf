//! The weights in force of a `TrafficSplit`.

use std::collections::BTreeSet;

use heddle_crds::{Backend, ConditionType, TrafficSplitSpec, WeightInForce, reason};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::references::{References, target};
use crate::kinds::policy::Candidate;
use crate::settings::Settings;
use crate::status::ObjectStatus;
use crate::traffic;
use crate::validation::Recorder;
use crate::validation::endpoints::Readiness;
use crate::world::{History, NamespacedName, Port};

/// The weights in force: those of the spec if every backend that gets traffic can take it; else no weight moves to one that cannot.
pub(super) fn weigh<S>(
    policy: &Candidate<'_, S>,
    spec: &TrafficSplitSpec,
    (service, ports): (&NamespacedName, &BTreeSet<Port>),
    references: &References,
    status: &mut ObjectStatus,
) -> Vec<u32> {
    let (lookup, settings) = (policy.lookup, policy.settings);
    let wanted = wanted(spec, references);
    let used = spec.backends.iter().zip(&wanted);
    let mut used = used.filter(|(_, weight)| **weight > 0);
    // Manifests in a directory have no endpoints, and nothing to wait for.
    if lookup.offline() || used.all(|(of, _)| takes_traffic((lookup, settings), service, ports, of))
    {
        return wanted;
    }
    let ready: Vec<Readiness> = spec
        .backends
        .iter()
        .map(|backend| backend_readiness((lookup, settings), service, ports, backend))
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
    let present = in_force(spec, policy.history());
    let candidates = [
        present.clone(),
        Some(only_ready(&wanted)),
        present.map(|weights| only_ready(&weights)),
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
    // The objects that the spec names exist; this condition reports that they cannot take traffic yet, for readers look at it first.
    status.set(
        ConditionType::ResolvedRefs,
        false,
        reason::BACKEND_NOT_READY,
        format!("{waiting}: {consequence}"),
    );
    weights.unwrap_or(wanted)
}

/// The weights of the spec. A backend that is missing has none.
fn wanted(spec: &TrafficSplitSpec, references: &References) -> Vec<u32> {
    let weights = spec.backends.iter().enumerate();
    let wanted = weights.map(|(index, of)| match references.is_missing(index) {
        true => 0,
        false => of.weight,
    });
    wanted.collect()
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
    (lookup, settings): (&Recorder<'_>, &Settings),
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
    backend: &Backend,
) -> bool {
    let of_port = |port: &Port| match target(service, *port, backend.target()) {
        Some(traffic::Backend::Service(name, port)) => {
            lookup.takes_traffic(settings, &name, port, None)
        }
        Some(traffic::Backend::Subset(name, port, labels)) => {
            lookup.takes_traffic(settings, &name, port, Some(&labels))
        }
        Some(traffic::Backend::Invalid(_)) | None => false,
    };
    !ports.is_empty() && ports.iter().all(of_port)
}

fn backend_readiness(
    (lookup, settings): (&Recorder<'_>, &Settings),
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
    backend: &Backend,
) -> Readiness {
    let of_port = |port: &Port| match target(service, *port, backend.target()) {
        Some(traffic::Backend::Service(name, port)) => {
            lookup.readiness(settings, &name, port, None)
        }
        Some(traffic::Backend::Subset(name, port, labels)) => {
            lookup.readiness(settings, &name, port, Some(&labels))
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
pub(super) fn detail(spec: &TrafficSplitSpec, weights: &[u32]) -> Map<String, Value> {
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
