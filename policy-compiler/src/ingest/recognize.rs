//! Decides by `apiVersion` and `kind` which objects of a manifest the compiler reads.

use heddle_crds::GROUP as OURS;
use serde_json::Value;

use crate::kind::ObjectKind;

/// A kind that the compiler reads, with the versions that it reads.
struct ReadKind {
    group: &'static str,
    version: &'static str,
    older: &'static [&'static str],
    kind: &'static str,
    object: ObjectKind,
}

/// The workloads of Kubernetes: group, version, kind.
const WORKLOADS: [(&str, &str, &str); 7] = [
    ("", "v1", "ReplicationController"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("apps", "v1", "DaemonSet"),
    ("apps", "v1", "ReplicaSet"),
    ("batch", "v1", "Job"),
    ("batch", "v1", "CronJob"),
];

/// The groups of Kubernetes that have workloads, or once had them.
const KUBERNETES: [&str; 4] = ["", "apps", "batch", "extensions"];

fn read_kinds() -> impl Iterator<Item = ReadKind> {
    let listed = ObjectKind::watched().map(|(object, resource)| ReadKind {
        group: resource.group,
        version: resource.version,
        older: resource.older,
        kind: object.api_kind(),
        object,
    });
    let workload = |(group, version, kind)| ReadKind {
        group,
        version,
        older: &[],
        kind,
        object: ObjectKind::Workload,
    };
    listed.chain(WORKLOADS.into_iter().map(workload))
}

/// The result for one object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recognized {
    /// The compiler reads the object.
    Read(ObjectKind),
    /// No API server serves this kind in this version.
    Refused {
        /// The kind that was probably meant.
        meant: Option<ObjectKind>,
        code: &'static str,
        message: String,
        fix: String,
    },
    /// The object looks like one of ours in the group of somebody else.
    Foreign { message: String, fix: String },
    /// The object has a pod template in a place that the compiler does not know.
    Template,
    /// The object has no meaning for a mesh.
    Other,
}

/// Recognizes an object by its type, and a workload of any other kind by its pod template.
pub(super) fn recognize(api_version: &str, kind: &str, value: &Value) -> Recognized {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let served = read_kinds().find(|r| r.group == group && r.kind == kind);
    match served {
        Some(served) if served.version == version || served.older.contains(&version) => {
            return Recognized::Read(served.object);
        }
        Some(served) => {
            let separator = if group.is_empty() { "" } else { "/" };
            return Recognized::Refused {
                meant: Some(served.object),
                code: "UnknownVersion",
                message: format!("{api_version:?} is not a version of {kind} that is served"),
                fix: format!("write apiVersion: {group}{separator}{}", served.version),
            };
        }
        None => {}
    }
    if group == OURS {
        return unknown_kind(kind);
    }
    let ours = read_kinds().find(|r| r.group == OURS && r.kind == kind);
    let lower = group.to_lowercase();
    if let Some(ours) = ours
        && (group.is_empty()
            || lower.contains("heddle")
            || strsim::normalized_levenshtein(&lower, OURS) >= 0.7)
    {
        let fault = match group {
            "" => format!("{api_version:?} has no group"),
            group => format!("{group:?} is not the group of {kind}"),
        };
        return Recognized::Foreign {
            message: format!("{fault}, so nobody reads this object"),
            fix: format!("write apiVersion: {OURS}/{}", ours.version),
        };
    }
    if let Some(refused) = other_group_of_kubernetes(api_version, group, kind) {
        return refused;
    }
    if value.pointer(TEMPLATE).is_some_and(has_containers) {
        return Recognized::Read(ObjectKind::Workload);
    }
    if deep_containers(value, 12) {
        return Recognized::Template;
    }
    Recognized::Other
}

/// Refuses a workload of Kubernetes in another of its groups, for example in one where a former version had it.
fn other_group_of_kubernetes(api_version: &str, group: &str, kind: &str) -> Option<Recognized> {
    if !KUBERNETES.contains(&group) {
        return None;
    }
    let (group, version, _) = WORKLOADS.into_iter().find(|(.., name)| *name == kind)?;
    let separator = if group.is_empty() { "" } else { "/" };
    Some(Recognized::Refused {
        meant: Some(ObjectKind::Workload),
        code: "UnknownVersion",
        message: format!("{api_version:?} is not a version of {kind} that is served"),
        fix: format!("write apiVersion: {group}{separator}{version}"),
    })
}

/// The place of the pod template in most kinds that have one.
pub(super) const TEMPLATE: &str = "/spec/template";
/// The place of the pod template in a `CronJob`.
pub(super) const JOB_TEMPLATE: &str = "/spec/jobTemplate/spec/template";

fn unknown_kind(kind: &str) -> Recognized {
    let ours = || read_kinds().filter(|r| r.group == OURS);
    let lower = kind.to_lowercase();
    let close = |name: &str| {
        let name = name.to_lowercase();
        strsim::jaro_winkler(&lower, &name)
            .max(strsim::jaro_winkler(lower.trim_end_matches('s'), &name))
    };
    let nearest = ours().max_by(|a, b| close(a.kind).total_cmp(&close(b.kind)));
    let nearest = nearest.filter(|nearest| close(nearest.kind) >= 0.6);
    let all: Vec<&str> = ours().map(|r| r.kind).collect();
    Recognized::Refused {
        meant: None,
        code: "UnknownKind",
        message: format!("{kind:?} is not a kind of {OURS}"),
        fix: nearest.map_or_else(
            || format!("the kinds are {}", all.join(", ")),
            |nearest| format!("did you mean {}? Case counts", nearest.kind),
        ),
    }
}

fn has_containers(template: &Value) -> bool {
    template
        .pointer("/spec/containers")
        .is_some_and(Value::is_array)
}

/// Whether containers with an image stand anywhere in a value.
fn deep_containers(value: &Value, depth: usize) -> bool {
    let image = |container: &Value| container.get("image").is_some_and(Value::is_string);
    match value {
        Value::Object(fields) if depth > 0 => fields.iter().any(|(key, field)| {
            let containers = key == "containers" || key == "container";
            let items = field.as_array().map_or(std::slice::from_ref(field), |a| a);
            (containers && items.iter().any(image)) || deep_containers(field, depth - 1)
        }),
        Value::Array(items) if depth > 0 => {
            items.iter().any(|item| deep_containers(item, depth - 1))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(api_version: &str, kind: &str) -> Recognized {
        recognize(api_version, kind, &Value::Null)
    }

    #[test]
    fn only_the_served_version_of_a_kind_is_read() {
        for r in read_kinds() {
            let separator = if r.group.is_empty() { "" } else { "/" };
            let api_version = format!("{}{separator}{}", r.group, r.version);
            assert_eq!(of(&api_version, r.kind), Recognized::Read(r.object));
            let later = format!("{}{separator}v9", r.group);
            assert!(
                matches!(of(&later, r.kind), Recognized::Refused { meant, .. } if meant == Some(r.object)),
                "{later} {}",
                r.kind
            );
        }
    }

    #[test]
    fn a_misspelt_kind_of_ours_is_refused_with_the_probable_one() {
        for (kind, meant) in [
            ("AuthorizationPolicy", "AuthPolicy"),
            ("authpolicy", "AuthPolicy"),
            ("authpolicies", "AuthPolicy"),
            ("AuthPolicies", "AuthPolicy"),
            ("Trafficsplit", "TrafficSplit"),
            ("TrafficSplitt", "TrafficSplit"),
            ("mesh", "Mesh"),
            ("Meshes", "Mesh"),
        ] {
            let Recognized::Refused { code, fix, .. } = of("heddle.dev/v1alpha1", kind) else {
                panic!("{kind} is not refused");
            };
            assert_eq!(code, "UnknownKind");
            assert!(fix.contains(meant), "{kind}: {fix}");
        }
    }

    #[test]
    fn a_misspelt_group_is_told_from_the_group_of_another_project() {
        for group in [
            "heddle.io",
            "heddle.dec",
            "hedle.dev",
            "networking.heddle.dev",
            "HEDDLE.dev",
            "Heddle.io",
            "",
        ] {
            let found = of(&format!("{group}/v1alpha1"), "AuthPolicy");
            assert!(
                matches!(found, Recognized::Foreign { .. }),
                "{group}: {found:?}"
            );
        }
        for (api_version, kind) in [
            ("kuadrant.io/v1", "AuthPolicy"),
            ("split.example.com/v1alpha4", "TrafficSplit"),
            ("v1", "ConfigMap"),
        ] {
            assert_eq!(of(api_version, kind), Recognized::Other, "{api_version}");
        }
    }

    #[test]
    fn a_kind_without_its_group_is_not_read_in_silence() {
        let bare = of("v1alpha1", "AuthPolicy");
        assert!(matches!(&bare, Recognized::Foreign { .. }), "{bare:?}");
        let template = json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}});
        for (api_version, kind, served) in [
            ("extensions/v1beta1", "Deployment", "apps/v1"),
            ("v1", "Deployment", "apps/v1"),
            ("apps/v1", "CronJob", "batch/v1"),
            ("apps/v1", "ReplicationController", "v1"),
        ] {
            let Recognized::Refused { meant, fix, .. } = recognize(api_version, kind, &template)
            else {
                panic!("{api_version} {kind} is not refused");
            };
            assert_eq!(meant, Some(ObjectKind::Workload));
            assert_eq!(fix, format!("write apiVersion: {served}"));
        }
    }

    #[test]
    fn a_workload_of_any_kind_is_recognized_by_its_pod_template() {
        let template = json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}});
        for api_version in [
            "argoproj.io/v1alpha1",
            "serving.knative.dev/v1",
            "apps.kruise.io/v1",
        ] {
            assert_eq!(
                recognize(api_version, "Any", &template),
                Recognized::Read(ObjectKind::Workload)
            );
        }
        for elsewhere in [
            json!({"spec": {"templates": [{"name": "a", "container": {"image": "x"}}]}}),
            json!({"spec": {"pods": {"spec": {"containers": [{"image": "x"}]}}}}),
        ] {
            assert_eq!(
                recognize("argoproj.io/v1alpha1", "Workflow", &elsewhere),
                Recognized::Template
            );
        }
    }
}
