//! Decides by `apiVersion` and `kind` which objects of a manifest the compiler reads.

use heddle_crds::GROUP as OURS;
use serde_json::Value;

use crate::kind::ObjectKind;
use crate::world::is_near;

/// A kind that the compiler reads, with the versions that it reads.
struct ReadKind {
    group: &'static str,
    version: &'static str,
    older: &'static [&'static str],
    kind: &'static str,
    /// The plural, as in URLs.
    plural: &'static str,
    object: ObjectKind,
}

impl ReadKind {
    /// The instruction to write the newest version of this kind in the place of another type.
    fn fix(&self, kind: &str) -> String {
        let and_kind = match kind == self.kind {
            true => String::new(),
            false => format!(" and kind: {}", self.kind),
        };
        format!(
            "write apiVersion: {}{and_kind}",
            self.api_version(self.version)
        )
    }

    /// The `apiVersion` with one of the versions.
    fn api_version(&self, version: &str) -> String {
        let separator = if self.group.is_empty() { "" } else { "/" };
        format!("{}{separator}{version}", self.group)
    }

    /// Whether a text is the kind in another case, or its plural.
    fn is_named(&self, text: &str) -> bool {
        text.eq_ignore_ascii_case(self.kind) || text.eq_ignore_ascii_case(self.plural)
    }

    /// Whether a text is the kind but for one slip.
    fn is_meant(&self, text: &str) -> bool {
        let near = |name: &str| is_near(&text.to_lowercase(), &name.to_lowercase());
        self.is_named(text) || near(self.kind) || near(self.plural)
    }
}

/// The workloads of Kubernetes: group, version, kind, plural.
const WORKLOADS: [(&str, &str, &str, &str); 7] = [
    ("", "v1", "ReplicationController", "replicationcontrollers"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
];

/// Whether Kubernetes alone may define kinds in a group. Definitions of others need a domain of their own.
fn is_built_in(group: &str) -> bool {
    !group.contains('.')
}

/// Whether a group is of Kubernetes and its projects.
fn is_of_kubernetes(group: &str) -> bool {
    is_built_in(group) || group.ends_with("k8s.io")
}

fn read_kinds() -> impl Iterator<Item = ReadKind> {
    let listed = ObjectKind::watched().map(|(object, resource)| ReadKind {
        group: resource.group,
        version: resource.version,
        older: resource.older,
        kind: object.api_kind(),
        plural: resource.plural,
        object,
    });
    let workload = |(group, version, kind, plural)| ReadKind {
        group,
        version,
        older: &[],
        kind,
        plural,
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
        Some(served) => return not_served(api_version, kind, &served, Some(served.object)),
        None => {}
    }
    if group == OURS {
        return unknown_kind(kind);
    }
    if let Some(near) = other_kind(api_version, group, kind) {
        return near;
    }
    if let Some(near) = other_group(api_version, group, kind) {
        return near;
    }
    if value.pointer(TEMPLATE).is_some_and(has_containers) {
        return match is_built_in(group) {
            true => not_a_workload(api_version, kind),
            false => Recognized::Read(ObjectKind::Workload),
        };
    }
    if deep_containers(value, 12) {
        return Recognized::Template;
    }
    Recognized::Other
}

/// Refuses a version of a kind. `meant` is the kind for which the object stays in the world unread.
fn not_served(
    api_version: &str,
    kind: &str,
    served: &ReadKind,
    meant: Option<ObjectKind>,
) -> Recognized {
    let name = served.kind;
    Recognized::Refused {
        meant,
        code: "UnknownVersion",
        message: format!("{api_version:?} is not a version of {name} that is served"),
        fix: served.fix(kind),
    }
}

/// Refuses a kind that is one of its group but for its case, its number or a slip.
fn other_kind(api_version: &str, group: &str, kind: &str) -> Option<Recognized> {
    let meant = read_kinds().find(|r| r.group == group && r.is_meant(kind))?;
    Some(Recognized::Refused {
        meant: None,
        code: "UnknownKind",
        message: format!("{kind:?} is not a kind of {api_version}"),
        fix: format!("did you mean {}? Case counts", meant.kind),
    })
}

/// Finds a kind that belongs to another group: to one that is nearly written so, or of the same project, which has one kind of that name.
fn other_group(api_version: &str, group: &str, kind: &str) -> Option<Recognized> {
    let lower = group.to_lowercase();
    let alike = |own: &str, least: f64| strsim::normalized_levenshtein(&lower, own) >= least;
    let is_ours = is_built_in(group) || lower.contains("heddle") || alike(OURS, 0.7);
    if let Some(ours) = read_kinds().find(|r| is_ours && r.group == OURS && r.is_named(kind)) {
        let fault = match group {
            "" => format!("{api_version:?} has no group"),
            group => format!("{group:?} is not the group of {}", ours.kind),
        };
        return Some(Recognized::Foreign {
            message: format!("{fault}, so nobody reads this object"),
            fix: ours.fix(kind),
        });
    }
    let belongs = |r: &ReadKind| {
        let same_project = is_of_kubernetes(&lower) && is_of_kubernetes(r.group);
        same_project || alike(r.group, 0.8)
    };
    let mut others = read_kinds().filter(|r| r.group != OURS && r.is_named(kind));
    let served = others.find(belongs)?;
    // A declared one would stay in the world unread, in the place of the object of that name in the right group.
    let meant = Some(served.object).filter(|object| !object.is_declared());
    Some(not_served(api_version, kind, &served, meant))
}

/// Refuses a pod template in a kind that Kubernetes does not have.
fn not_a_workload(api_version: &str, kind: &str) -> Recognized {
    let workloads = WORKLOADS.map(|(.., kind, _)| kind).join(", ");
    Recognized::Refused {
        meant: None,
        code: "UnknownKind",
        message: format!("{kind:?} is not a kind of {api_version} with a pod template"),
        fix: format!("use one of {workloads}"),
    }
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
            for version in r.older.iter().chain([&r.version]) {
                let api_version = format!("{}{separator}{version}", r.group);
                assert_eq!(of(&api_version, r.kind), Recognized::Read(r.object));
            }
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

    /// The group of every kind in a form that is not its own, and every kind in a form that is not its own.
    #[test]
    fn no_near_miss_of_a_read_kind_is_read_or_left_out_in_silence() {
        let template = json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}});
        let told = |api_version: &str, kind: &str| {
            let found = recognize(api_version, kind, &template);
            let told = matches!(
                found,
                Recognized::Refused { .. } | Recognized::Foreign { .. }
            );
            assert!(told, "{api_version} {kind}: {found:?}");
        };
        for r in read_kinds() {
            let separator = if r.group.is_empty() { "" } else { "/" };
            let api_version = format!("{}{separator}{}", r.group, r.version);
            let (front, back) = r.kind.split_at(r.kind.len() - 2);
            let swapped: String = back.chars().rev().collect();
            for kind in [
                r.kind.to_lowercase(),
                r.kind.to_uppercase(),
                r.plural.to_owned(),
                format!("{}s", r.kind),
                format!("{front}{swapped}"),
            ] {
                told(&api_version, &kind);
            }
            let domain = r.group.split('.').next().unwrap_or_default();
            let mut groups = vec![r.group.to_uppercase(), format!("{}m", r.group)];
            groups.extend([
                "core".to_owned(),
                "extensions".to_owned(),
                domain.to_owned(),
            ]);
            for group in groups.iter().filter(|group| **group != r.group) {
                told(&format!("{group}/v1"), r.kind);
            }
        }
        told("networking.k8s.io/v1", "HTTPRoute");
        told("networking.k8s.io/v1", "httproutes");
        told("apps/v1", "Deploy");
        told("v1", "Deployment");
    }

    #[test]
    fn an_object_of_a_declared_kind_in_a_wrong_group_does_not_stay_in_the_world() {
        for (api_version, kind) in [
            ("networking.k8s.io/v1", "HTTPRoute"),
            ("gateway.networking.k8s.io/v1", "HttpRoute"),
            (
                "gateway.networking.k8s.io/v1alpha1",
                "XBackendTrafficPolicy",
            ),
        ] {
            let found = of(api_version, kind);
            assert!(
                matches!(found, Recognized::Refused { meant: None, .. }),
                "{found:?}"
            );
        }
    }

    #[test]
    fn other_kinds_of_kubernetes_and_of_its_projects_are_left_alone() {
        for (api_version, kinds) in [
            (
                "v1",
                "Binding ComponentStatus ConfigMap Event LimitRange Node PersistentVolume PersistentVolumeClaim ResourceQuota Secret \
                 ServiceAccount PodTemplate Endpoints",
            ),
            ("apps/v1", "ControllerRevision"),
            ("autoscaling/v2", "HorizontalPodAutoscaler"),
            ("policy/v1", "PodDisruptionBudget"),
            (
                "networking.k8s.io/v1",
                "Ingress IngressClass NetworkPolicy IPAddress ServiceCIDR",
            ),
            ("events.k8s.io/v1", "Event"),
            ("metrics.k8s.io/v1beta1", "NodeMetrics PodMetrics"),
            ("node.k8s.io/v1", "RuntimeClass"),
            ("coordination.k8s.io/v1", "Lease"),
            (
                "resource.k8s.io/v1",
                "DeviceClass ResourceClaim ResourceSlice",
            ),
            (
                "gateway.networking.k8s.io/v1",
                "Gateway GatewayClass UDPRoute ReferenceGrant BackendTLSPolicy ListenerSet",
            ),
            (
                "gateway.networking.x-k8s.io/v1alpha1",
                "XMesh XBackend XListenerSet XHTTPRoute XTCPRoute XGateway",
            ),
            (
                "multicluster.x-k8s.io/v1alpha1",
                "ServiceImport ServiceExport",
            ),
            ("jobset.x-k8s.io/v1alpha2", "JobSet"),
            ("serving.knative.dev/v1", "Service"),
            ("batch.volcano.sh/v1alpha1", "Job"),
            ("policy.linkerd.io/v1beta1", "HTTPRoute"),
            ("apps.openshift.io/v1", "DeploymentConfig"),
        ] {
            for kind in kinds.split_whitespace() {
                assert_eq!(
                    of(api_version, kind),
                    Recognized::Other,
                    "{api_version} {kind}"
                );
            }
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
