//! The patch: additions only, each at its place.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Value, json};

use super::{Sidecar, containers, names, probes};

/// Endpoints of a pod that stops reach all its callers well within this time; until then it goes on serving.
const PRE_STOP_SECONDS: i64 = 5;
/// A shorter grace period needs all its time for the application.
const LEAST_GRACE: i64 = 15;
const DEFAULT_GRACE: i64 = 30;

/// A changed pod.
#[derive(Clone, Debug)]
pub struct Patched {
    /// The changes.
    pub patch: Patch,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Adds the sidecar, and replaces an own container that other webhooks' additions have made out of date.
pub(super) fn patch(pod: &Pod, spec: &PodSpec, sidecar: &Sidecar) -> Patched {
    let (probe_ports, warnings) = probes::tcp_probe_ports(spec);
    let mut operations = Vec::new();
    init_containers(
        spec,
        containers::init(pod, sidecar, &probe_ports),
        containers::proxy(pod, sidecar),
        &mut operations,
    );
    volumes(spec, &mut operations);
    pre_stop(spec, &mut operations);
    entry(
        pod.metadata.labels.as_ref(),
        "labels",
        names::MESHED,
        "true",
        &mut operations,
    );
    Patched {
        patch: Patch(operations),
        warnings,
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

fn init_containers(
    spec: &PodSpec,
    init: Value,
    proxy: Value,
    operations: &mut Vec<PatchOperation>,
) {
    let present = spec.init_containers.as_deref().unwrap_or_default();
    let place = |name: &str| present.iter().position(|container| container.name == name);
    let (init_at, proxy_at) = (place(names::INIT), place(names::PROXY));
    if let (Some(init_at), Some(proxy_at)) = (init_at, proxy_at) {
        for (at, ours) in [(init_at, &init), (proxy_at, &proxy)] {
            if present
                .get(at)
                .is_some_and(|container| !is_same(container, ours))
            {
                operations.push(replace(
                    &["spec", "initContainers", &at.to_string()],
                    ours.clone(),
                ));
            }
        }
        return;
    }
    if spec.init_containers.is_none() {
        operations.push(add(&["spec", "initContainers"], json!([])));
    }
    // First of all, so that other init containers have the mesh too. A lone one of ours is somebody's copy: it is replaced below
    // by being preceded, and the API server refuses the second of the same name with a clear message.
    operations.push(add(&["spec", "initContainers", "0"], init));
    operations.push(add(&["spec", "initContainers", "1"], proxy));
}

/// Whether a container is ours as we would write it now, whatever was added to it by defaults or by others (a token volume,
/// an image pull policy).
fn is_same(present: &Container, ours: &Value) -> bool {
    serde_json::to_value(present).is_ok_and(|present| holds(&present, ours))
}

fn holds(present: &Value, ours: &Value) -> bool {
    match (present, ours) {
        (Value::Object(present), Value::Object(ours)) => ours.iter().all(|(key, ours)| {
            present.get(key).is_some_and(|present| holds(present, ours)) || is_empty(ours)
        }),
        (Value::Array(present), Value::Array(ours)) => ours
            .iter()
            .all(|ours| present.iter().any(|present| holds(present, ours))),
        (present, ours) => present == ours,
    }
}

/// An empty value of an environment variable is not kept by typed clients.
fn is_empty(value: &Value) -> bool {
    value.as_str() == Some("") || value == &json!(false)
}

fn volumes(spec: &PodSpec, operations: &mut Vec<PatchOperation>) {
    let present = spec.volumes.as_deref().unwrap_or_default();
    if spec.volumes.is_none() {
        operations.push(add(&["spec", "volumes"], json!([])));
    }
    for volume in containers::volumes() {
        let name = volume
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !present.iter().any(|present| present.name == name) {
            operations.push(add(&["spec", "volumes", "-"], volume));
        }
    }
}

/// A container that is told to stop stops at once, while callers still send: so it is told a little later.
fn pre_stop(spec: &PodSpec, operations: &mut Vec<PatchOperation>) {
    if spec
        .termination_grace_period_seconds
        .unwrap_or(DEFAULT_GRACE)
        < LEAST_GRACE
    {
        return;
    }
    let sleep = json!({"sleep": {"seconds": PRE_STOP_SECONDS}});
    for (index, container) in spec
        .containers
        .iter()
        .enumerate()
        .filter(|(_, container)| container.name != names::PROXY)
    {
        let at = index.to_string();
        match &container.lifecycle {
            None => operations.push(add(
                &["spec", "containers", &at, "lifecycle"],
                json!({"preStop": sleep}),
            )),
            Some(lifecycle) if lifecycle.pre_stop.is_none() => {
                operations.push(add(
                    &["spec", "containers", &at, "lifecycle", "preStop"],
                    sleep.clone(),
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

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(path.iter().copied()),
        value,
    })
}

fn replace(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation {
        path: PointerBuf::from_tokens(path.iter().copied()),
        value,
    })
}
