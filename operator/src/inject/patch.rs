//! The patch: each addition at its place.

use heddle_policy_compiler::injection::SidecarSettings;
use heddle_xds_types::rollout::HOOK_PATH;
use json_patch::{Patch, PatchOperation};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::json;

use super::operations::add;
use super::{Sidecar, containers, names, own};

/// A shorter grace period needs all its time for the application. The hook takes a third of it at most.
const LEAST_GRACE: i64 = 3;

/// The prefix of the annotations of pods that are scraped: the example configuration of Prometheus for Kubernetes.
const SCRAPE_PREFIX: &str = "prometheus.io/";

/// The path of the sidecar's metrics.
const METRICS_PATH: &str = "/stats/prometheus";

/// Adds the sidecar, and replaces an own container that other webhooks' additions have made out of date.
pub(super) fn patch(
    pod: &Pod,
    spec: &PodSpec,
    sidecar: &Sidecar,
    settings: &SidecarSettings,
) -> Patch {
    let mut operations = Vec::new();
    own::init_containers(
        spec,
        containers::init(sidecar, settings),
        containers::proxy(pod, sidecar, settings),
        &mut operations,
    );
    own::volumes(spec, &mut operations);
    pre_stop(spec, &mut operations);
    entry(
        pod.metadata.labels.as_ref(),
        "labels",
        names::MESHED,
        "true",
        &mut operations,
    );
    if !sidecar.mesh.telemetry.metrics_readers.is_empty() {
        scrape(pod.metadata.annotations.as_ref(), &mut operations);
    }
    Patch(operations)
}

/// Names the metrics of the sidecar in the annotations by which many installations of Prometheus find their targets. A pod with any of
/// them keeps its own: they lead to its application, or say that nothing is to be scraped.
fn scrape(
    present: Option<&std::collections::BTreeMap<String, String>>,
    operations: &mut Vec<PatchOperation>,
) {
    let mut keys = present.into_iter().flat_map(|present| present.keys());
    if keys.any(|key| key.starts_with(SCRAPE_PREFIX)) {
        return;
    }
    let port = heddle_ports::METRICS.to_string();
    let all = [("scrape", "true"), ("port", &*port), ("path", METRICS_PATH)];
    let all = all.map(|(name, value)| (format!("{SCRAPE_PREFIX}{name}"), value));
    if present.is_some() {
        let add =
            |(key, value): &(String, &str)| add(&["metadata", "annotations", key], json!(value));
        operations.extend(all.iter().map(add));
    } else {
        let map = all
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>();
        operations.push(add(&["metadata", "annotations"], json!(map)));
    }
}

/// Notes on the pod why it has no sidecar.
pub(super) fn not_injected(pod: &Pod, reason: &str) -> Patch {
    let mut operations = Vec::new();
    entry(
        pod.metadata.annotations.as_ref(),
        "annotations",
        names::NOT_INJECTED,
        reason,
        &mut operations,
    );
    Patch(operations)
}

/// A container that is told to stop stops at once, while callers still send. So the kubelet asks the agent before, which answers
/// when no caller has the pod any more.
fn pre_stop(spec: &PodSpec, operations: &mut Vec<PatchOperation>) {
    if containers::grace(spec) < LEAST_GRACE {
        return;
    }
    let hook = json!({"httpGet": {"path": HOOK_PATH, "port": heddle_ports::READINESS}});
    for (index, container) in spec.containers.iter().enumerate() {
        let at = index.to_string();
        match &container.lifecycle {
            None => operations.push(add(
                &["spec", "containers", &at, "lifecycle"],
                json!({"preStop": hook}),
            )),
            Some(lifecycle) if lifecycle.pre_stop.is_none() => {
                operations.push(add(
                    &["spec", "containers", &at, "lifecycle", "preStop"],
                    hook.clone(),
                ));
            }
            Some(_) => {}
        }
    }
}

fn entry(
    present: Option<&std::collections::BTreeMap<String, String>>,
    map: &str,
    key: &str,
    value: &str,
    operations: &mut Vec<PatchOperation>,
) {
    match present {
        Some(present) if present.get(key).is_some_and(|present| present == value) => {}
        Some(_) => operations.push(add(&["metadata", map, key], json!(value))),
        None => operations.push(add(&["metadata", map], json!({key: value}))),
    }
}
