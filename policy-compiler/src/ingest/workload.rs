//! Pods and pod templates of manifests: only the fields that the compiler needs can make one unreadable.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::recognize::{JOB_TEMPLATE, TEMPLATE};
use super::unread::{Read, Unread, typed};
use super::{KubeObject, WorkloadTemplate};
use crate::finding::{Finding, ObjectRef};

/// The fields of a pod's spec that decide about traffic.
const POD_FIELDS: [&str; 9] = [
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "hostNetwork",
    "initContainers",
    "nodeSelector",
    "os",
    "serviceAccount",
    "serviceAccountName",
];
/// The fields of a container that decide about traffic.
const CONTAINER_FIELDS: [&str; 7] = [
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "restartPolicy",
    "startupProbe",
];

/// Reads a pod.
pub(super) fn pod(object: &ObjectRef, value: Value) -> Result<Read, Unread> {
    let (pod, findings) = lenient(object, value, "")?;
    Ok((Some(KubeObject::Pod(Arc::new(pod))), findings))
}

/// Reads the pod template of a workload of any kind. A workload that another one made has none of its own to give.
pub(super) fn template(object: &ObjectRef, kind: &str, mut value: Value) -> Result<Read, Unread> {
    let place = [JOB_TEMPLATE, TEMPLATE]
        .into_iter()
        .find(|place| value.pointer(place).is_some());
    let made = matches!(kind, "ReplicaSet" | "ReplicationController" | "Job")
        && value
            .pointer("/metadata/ownerReferences")
            .is_some_and(|owners| owners.as_array().is_some_and(|owners| !owners.is_empty()));
    let (Some(place), false) = (place, made) else {
        return Ok((None, Vec::new()));
    };
    let metadata: ObjectMeta = match typed(value.get("metadata").unwrap_or(&Value::Null)) {
        Ok(metadata) => metadata,
        Err(unread) => return Err(unread.below("metadata")),
    };
    let template = value
        .pointer_mut(place)
        .map(Value::take)
        .unwrap_or_default();
    let path = place.trim_start_matches('/').replace('/', ".");
    let (template, findings): (core::PodTemplateSpec, _) = lenient(object, template, &path)?;
    let template = WorkloadTemplate {
        kind: kind.to_owned(),
        metadata,
        template,
    };
    Ok((Some(KubeObject::Template(Arc::new(template))), findings))
}

/// Reads a value with a pod's spec at `spec`. A field that the compiler does not need is left out if it does not fit its type: the API server
/// will refuse the object for it, as the finding warns, but the rest is still compiled.
fn lenient<T: DeserializeOwned>(
    object: &ObjectRef,
    mut value: Value,
    prefix: &str,
) -> Result<(T, Vec<Finding>), Unread> {
    let mut findings = Vec::new();
    loop {
        let unread = match typed(&value) {
            Ok(read) => return Ok((read, findings)),
            Err(unread) => unread,
        };
        let dropped = droppable(&unread.path).and_then(|field| take_out(&mut value, &field));
        let unread = unread.below(prefix);
        // Each turn takes a field away, so the loop ends.
        if dropped.is_none() {
            return Err(unread);
        }
        let finding = Finding::error(object, unread.path, "Invalid", unread.reason);
        findings.push(finding.fix("correct it; until then the field is left out"));
    }
}

/// Returns the JSON pointer of the field to leave out so that the value at a path is not read, or `None` if the compiler needs that value.
fn droppable(path: &str) -> Option<String> {
    let mut steps = path
        .split(['.', '['])
        .map(|step| step.trim_end_matches(']'));
    if steps.next()? != "spec" {
        return None;
    }
    let field = steps.next()?;
    if !POD_FIELDS.contains(&field) {
        return Some(format!("/spec/{field}"));
    }
    if field != "containers" && field != "initContainers" {
        return None;
    }
    let (index, inner) = (steps.next()?, steps.next()?);
    (!CONTAINER_FIELDS.contains(&inner)).then(|| format!("/spec/{field}/{index}/{inner}"))
}

fn take_out(value: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, field) = pointer.rsplit_once('/')?;
    value.pointer_mut(parent)?.as_object_mut()?.remove(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use serde_json::json;

    fn read(spec: Value) -> Result<(core::Pod, Vec<Finding>), String> {
        let object = ObjectRef::new(ObjectKind::Pod, "shop", "cart");
        lenient(
            &object,
            json!({"metadata": {"name": "cart"}, "spec": spec}),
            "",
        )
        .map_err(|unread| unread.path)
    }

    #[test]
    fn a_field_that_the_mesh_does_not_need_is_left_out_and_reported() {
        for (spec, field) in [
            (
                json!({"containers": [{"name": "a"}], "securityContext": {"runAsUser": "x"}}),
                "spec.securityContext.runAsUser",
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": 3}}]}),
                "spec.containers[1].resources.limits",
            ),
            (
                json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "configMap": {"defaultMode": "rw"}}]}),
                "spec.volumes[0].configMap.defaultMode",
            ),
        ] {
            let (pod, findings) = read(spec).unwrap();
            assert!(!pod.spec.unwrap().containers.is_empty());
            let fields: Vec<&str> = findings.iter().map(|f| f.field.as_str()).collect();
            assert_eq!(fields, [field]);
        }
    }

    #[test]
    fn a_field_that_the_mesh_needs_makes_the_pod_unreadable() {
        for (spec, path) in [
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": "x"}]}]}),
                "spec.containers[0].ports[0].containerPort",
            ),
            (json!({"containers": "none"}), "spec.containers"),
            (
                json!({"containers": [], "serviceAccount": 7}),
                "spec.serviceAccount",
            ),
            (
                json!({"containers": [], "serviceAccountName": 7}),
                "spec.serviceAccountName",
            ),
            (
                json!({"containers": [], "hostNetwork": "yes"}),
                "spec.hostNetwork",
            ),
        ] {
            assert_eq!(read(spec).unwrap_err(), path);
        }
    }
}
