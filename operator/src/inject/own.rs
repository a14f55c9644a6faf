//! Containers and volumes under our names that are in the pod already: ours from an earlier call of the webhook, or somebody's.

use json_patch::PatchOperation;
use k8s_openapi::api::core::v1::{Container, PodSpec, Volume, VolumeProjection};
use serde_json::{Value, json};

use super::operations::{add, remove, replace};
use super::{containers, names};

/// Puts the two containers first, so that every other init container has the mesh, too. Containers of our names that differ from
/// ours, or that are in other places, are replaced.
pub(super) fn init_containers(
    spec: &PodSpec,
    init: Value,
    proxy: Value,
    operations: &mut Vec<PatchOperation>,
) {
    let present = spec.init_containers.as_deref().unwrap_or_default();
    let own: Vec<usize> = (0..)
        .zip(present)
        .filter(|(_, c)| c.name == names::INIT || c.name == names::PROXY)
        .map(|(at, _)| at)
        .collect();
    let in_place = match present {
        [first, second, ..] => first.name == names::INIT && second.name == names::PROXY,
        _ => false,
    };
    if in_place && own == [0, 1] {
        let volumes = spec.volumes.as_deref().unwrap_or_default();
        for ((at, present), ours) in (0..).zip(present).zip([init, proxy]) {
            if !is_same(present, volumes, &ours) {
                operations.push(replace(&["spec", "initContainers", &at.to_string()], ours));
            }
        }
        return;
    }
    if spec.init_containers.is_none() {
        operations.push(add(&["spec", "initContainers"], json!([])));
    }
    for at in own.iter().rev() {
        operations.push(remove(&["spec", "initContainers", &at.to_string()]));
    }
    operations.push(add(&["spec", "initContainers", "0"], init));
    operations.push(add(&["spec", "initContainers", "1"], proxy));
}

/// Adds the volumes, and replaces volumes of our names that differ.
pub(super) fn volumes(spec: &PodSpec, operations: &mut Vec<PatchOperation>) {
    let present = spec.volumes.as_deref().unwrap_or_default();
    if spec.volumes.is_none() {
        operations.push(add(&["spec", "volumes"], json!([])));
    }
    for ours in containers::volumes() {
        let name = ours.get("name").and_then(Value::as_str).unwrap_or_default();
        match (0..).zip(present).find(|(_, volume)| volume.name == name) {
            Some((_, volume)) if is_same_volume(volume, &ours) => {}
            Some((at, _)) => {
                let at: usize = at;
                operations.push(replace(&["spec", "volumes", &at.to_string()], ours));
            }
            None => operations.push(add(&["spec", "volumes", "-"], ours)),
        }
    }
}

/// Whether a container is the one that injection would make now, to the last field. Only additions of the API server and of its own
/// admission plugins are allowed, with the values that they write.
fn is_same(present: &Container, volumes: &[Volume], ours: &Value) -> bool {
    let Ok(Value::Object(mut present)) = serde_json::to_value(present) else {
        return false;
    };
    for (field, values) in ADDED {
        let is_added = |value: &Value| value.as_str().is_some_and(|v| values.contains(&v));
        if present.get(field).is_some_and(is_added) {
            present.remove(field);
        }
    }
    if let Some(Value::Array(mounts)) = present.get_mut("volumeMounts") {
        mounts.retain(|mount| !is_service_account(mount, volumes));
        if mounts.is_empty() {
            present.remove("volumeMounts");
        }
    }
    let filled = with_limit_ranges(ours, present.get("resources"));
    equal(&Value::Object(present), &filled)
}

/// Fields that the API server fills in (the policy by the image's tag), and the plugin AlwaysPullImages.
const ADDED: [(&str, &[&str]); 3] = [
    ("imagePullPolicy", &["Always", "IfNotPresent"]),
    ("terminationMessagePath", &["/dev/termination-log"]),
    ("terminationMessagePolicy", &["File"]),
];

/// Whether a mount is the one that the plugin ServiceAccount adds to every container, of the volume that it adds to every pod.
fn is_service_account(mount: &Value, volumes: &[Volume]) -> bool {
    let Some(name) = mount.get("name").and_then(Value::as_str) else {
        return false;
    };
    let added = json!({"name": name, "mountPath": SERVICE_ACCOUNT, "readOnly": true});
    let volume = volumes.iter().find(|volume| volume.name == name);
    let sources = volume
        .and_then(|volume| volume.projected.as_ref()?.sources.as_ref())
        .map_or(&[][..], Vec::as_slice);
    let of_plugin = |source: &VolumeProjection| {
        let token = source.service_account_token.as_ref();
        let root = source.config_map.as_ref();
        token.is_some_and(|token| token.audience.is_none())
            || root.is_some_and(|root| root.name == "kube-root-ca.crt")
            || source.downward_api.is_some()
    };
    *mount == added && !sources.is_empty() && sources.iter().all(of_plugin)
}

/// LimitRanger fills in requests and limits that are not there.
fn with_limit_ranges(ours: &Value, present: Option<&Value>) -> Value {
    let mut filled = ours.clone();
    for section in ["requests", "limits"] {
        let present = present.and_then(|resources| resources.get(section)?.as_object());
        let pointer = format!("/resources/{section}");
        if let Some(Value::Object(ours)) = filled.pointer_mut(&pointer) {
            for (name, quantity) in present.into_iter().flatten() {
                ours.entry(name.clone()).or_insert_with(|| quantity.clone());
            }
        }
    }
    filled
}

/// The mount path of service account tokens.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn is_same_volume(present: &Volume, ours: &Value) -> bool {
    serde_json::to_value(present).is_ok_and(|present| equal(&present, ours))
}

/// Whether two values are equal once the API server has filled in its defaults.
fn equal(present: &Value, ours: &Value) -> bool {
    match (present, ours) {
        (Value::Object(present), Value::Object(ours)) => {
            ours.iter().all(|(key, ours)| match present.get(key) {
                Some(present) => equal(present, ours),
                None => is_empty(ours),
            }) && present
                .iter()
                .all(|(key, value)| ours.contains_key(key) || is_default(key, value))
        }
        (Value::Array(present), Value::Array(ours)) => {
            present.len() == ours.len()
                && present
                    .iter()
                    .zip(ours)
                    .all(|(present, ours)| equal(present, ours))
        }
        (present, ours) => present == ours,
    }
}

/// Typed clients leave out empty values.
fn is_empty(value: &Value) -> bool {
    value.as_str() == Some("") || value == &json!(false) || value == &json!([])
}

/// The API server's defaults within the fields that injection writes.
fn is_default(key: &str, value: &Value) -> bool {
    let default = match key {
        "apiVersion" => json!("v1"),
        "scheme" => json!("HTTP"),
        "successThreshold" => json!(1),
        "defaultMode" => json!(420),
        _ => return value == &json!({}),
    };
    *value == default
}
