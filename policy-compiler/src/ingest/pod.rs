//! Core `Pod`, and the pod templates of workloads.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::destinations;
use super::stand_ins::{StandIn, warnings};
use super::standalone::{is_standalone, standalone};
use super::{
    ADDRESS_FIX, INJECT_LABEL, PORT_FIX, PROXY_CONTAINER, WorkloadTemplate, annotations_too_large,
    named,
};
use crate::finding::{Finding, ObjectRef};
use crate::injection::{self, EXCLUDE_INBOUND_PORTS, names};
use crate::kind::ObjectKind;
use crate::probes::{applications, probes};
use crate::world::{
    Capture, ContainerPort, DESTINATIONS, DeclaredDestination, Interner, NamespacedName, OtherPort,
    OtherTransport, Pod, PodTemplate, Port, is_tcp,
};

/// Reads a pod.
pub(crate) fn pod(
    object: &core::Pod,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<Pod> {
    let (name, reference) = named(ObjectKind::Pod, &object.metadata, findings)?;
    let spec = object.spec.as_ref()?;
    let status = object.status.as_ref();
    let ips = pod_ips(status, &reference, findings);
    let standalone = standalone(&object.metadata, &reference, &ips, findings);
    // A pod in the node's network cannot be captured, independently of its containers.
    let meshed = standalone.is_some() || (has_proxy(spec) && !spec.host_network.unwrap_or(false));
    let phase = status.and_then(|s| s.phase.as_deref());
    // The kubelet sets a final phase once the containers have ended, also of a deleted pod.
    let alive = !matches!(phase, Some("Succeeded" | "Failed"));
    let ready = status.is_some_and(|s| {
        s.conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    });
    let (ports, other_ports) = ports(spec, &reference, interner, findings);
    let owner = owner(&object.metadata).unwrap_or(&name.name);
    // The labels and annotations are those of every pod of the workload.
    let workload = ObjectRef::new(ObjectKind::Workload, &name.namespace, owner);
    let misspelt = injection::spelling_warnings(&object.metadata);
    findings.extend(warnings(&workload, &misspelt));
    let template = PodTemplate {
        destinations: destinations(&object.metadata, &name.namespace, owner, interner, findings),
        namespace: interner.text(&name.namespace),
        owner: interner.text(owner),
        service_account: interner.text(service_account(spec)),
        meshed,
        labels: interner.labels(object.metadata.labels.iter().flatten()),
        capture: standalone.map_or(Capture::Redirect, Capture::Standalone),
        probes: probes(spec, &reference, interner, findings),
        uncaptured: uncaptured(spec),
        ports,
        other_ports,
    };
    let terminating = object.metadata.deletion_timestamp.is_some();
    let uid = object.metadata.uid.as_deref().filter(|_| terminating);
    Some(Pod {
        name: interner.name(&name.namespace, &name.name),
        ips: ips.into(),
        ready,
        alive,
        terminating,
        uid: uid.map(Arc::from),
        node: spec.node_name.as_deref().map(|node| interner.text(node)),
        template: interner.template(template),
    })
}

/// Reads the annotation that declares the destinations of the pod. It is the same on every pod of a workload, so findings name the
/// workload.
fn destinations(
    metadata: &ObjectMeta,
    namespace: &str,
    owner: &str,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<Vec<DeclaredDestination>> {
    let text = metadata.annotations.as_ref()?.get(DESTINATIONS)?;
    let (declared, wrong) = destinations::read(text, interner);
    let workload = ObjectRef::new(ObjectKind::Workload, namespace, owner);
    let field = || format!("metadata.annotations[{DESTINATIONS}]");
    findings.extend(wrong.into_iter().map(|entry| {
        let message = format!("{entry:?} cannot be read, and is not in the scope of the pods");
        Finding::error(&workload, field(), "Invalid", message)
            .fix("write <namespace>/<service>, <namespace>/<service>:<port> or <namespace>/*, separated by commas")
    }));
    Some(declared)
}

/// Reads a pod template as one pod without an address.
pub(crate) fn template(
    object: &WorkloadTemplate,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<StandIn> {
    let (name, reference) = named(ObjectKind::Workload, &object.metadata, findings)?;
    let no_metadata = ObjectMeta::default();
    let metadata = object.template.metadata.as_ref().unwrap_or(&no_metadata);
    let spec = object.template.spec.as_ref()?;
    findings.extend(annotations_too_large(
        metadata,
        &reference,
        "spec.template.metadata.annotations",
    ));
    let mut stand_in = announced(&name, reference, metadata, spec, interner, findings);
    let lost = injection::owner_warnings(&object.metadata, metadata);
    stand_in.injection.warnings.extend_from_slice(&lost);
    stand_in.spelling.extend(lost);
    Some(stand_in)
}

/// Reads a pod that no API server has seen and that has no sidecar yet.
pub(crate) fn manifest(
    object: &core::Pod,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<StandIn> {
    let spec = object.spec.as_ref()?;
    let exists = object.metadata.uid.is_some() || object.status.is_some();
    if exists || has_proxy(spec) || is_standalone(&object.metadata) {
        return None;
    }
    let (name, reference) = named(ObjectKind::Pod, &object.metadata, findings)?;
    let metadata = &object.metadata;
    Some(announced(
        &name, reference, metadata, spec, interner, findings,
    ))
}

fn announced(
    name: &NamespacedName,
    object: ObjectRef,
    metadata: &ObjectMeta,
    spec: &core::PodSpec,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> StandIn {
    let labels = metadata.labels.as_ref();
    let (ports, other_ports) = ports(spec, &object, interner, findings);
    let template = PodTemplate {
        destinations: destinations(metadata, &name.namespace, &name.name, interner, findings),
        namespace: interner.text(&name.namespace),
        owner: interner.text(&name.name),
        service_account: interner.text(service_account(spec)),
        meshed: has_proxy(spec) && !spec.host_network.unwrap_or(false),
        labels: interner.labels(labels.into_iter().flatten()),
        capture: Capture::Redirect,
        probes: probes(spec, &object, interner, findings),
        uncaptured: uncaptured(spec),
        ports,
        other_ports,
    };
    StandIn {
        pod: Pod {
            name: interner.name(&name.namespace, &name.name),
            ips: Box::default(),
            ready: true,
            alive: true,
            terminating: false,
            uid: None,
            node: None,
            template: interner.template(template),
        },
        object,
        label: labels.and_then(|l| l.get(INJECT_LABEL)).cloned(),
        injection: injection::decide(metadata, Some(spec)),
        spelling: injection::spelling_warnings(metadata),
    }
}

/// The inbound ports that the init container leaves out of capture.
fn uncaptured(spec: &core::PodSpec) -> Box<[Port]> {
    let init = containers(spec).filter(|container| container.name == names::INIT);
    let variables = init.flat_map(|container| container.env.iter().flatten());
    let list = variables.filter(|variable| variable.name == EXCLUDE_INBOUND_PORTS);
    let list = list.filter_map(|variable| variable.value.as_deref());
    let ports = list.flat_map(|list| list.split(','));
    let numbers = ports.filter_map(|port| port.parse::<i32>().ok());
    let ports: BTreeSet<Port> = numbers.filter_map(|n| Port::try_from(n).ok()).collect();
    ports.into_iter().collect()
}

fn has_proxy(spec: &core::PodSpec) -> bool {
    containers(spec).any(|c| c.name == PROXY_CONTAINER)
}

fn containers(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
}

/// The service account. `serviceAccount` is the old name of the field, which the API server reads where the new one is
/// empty (`Convert_v1_PodSpec_To_core_PodSpec` in `pkg/apis/core/v1/conversion.go`).
fn service_account(spec: &core::PodSpec) -> &str {
    [&spec.service_account_name, &spec.service_account]
        .into_iter()
        .filter_map(|name| name.as_deref())
        .find(|name| !name.is_empty())
        .unwrap_or("default")
}

fn pod_ips(
    status: Option<&core::PodStatus>,
    pod: &ObjectRef,
    findings: &mut Vec<Finding>,
) -> Vec<std::net::IpAddr> {
    let Some(status) = status else {
        return Vec::new();
    };
    let several: Vec<&String> = status.pod_ips.iter().flatten().map(|p| &p.ip).collect();
    let texts = if several.is_empty() {
        status.pod_ip.iter().collect()
    } else {
        several
    };
    let mut ips = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => {
                let message = format!("{text:?} is not an IP address");
                let finding = Finding::error(pod, "status.podIPs", "Invalid", message);
                findings.push(finding.fix(ADDRESS_FIX));
            }
        }
    }
    ips
}

/// Labels by which a controller names the deployed object, if the object's revisions have owners of their own: `OpenShift`'s deployment
/// configuration and Knative's configuration.
const DEPLOYED: [&str; 2] = ["deploymentconfig", "serving.knative.dev/configuration"];

/// Returns the name of the deployed workload. Its replica sets and the runs of a cron job come and go, and are not workloads of their
/// own. `None`: the pod has no owner, and is its own workload.
#[must_use]
pub fn owner(metadata: &ObjectMeta) -> Option<&str> {
    let owners = metadata.owner_references.iter().flatten();
    let mut controllers = owners.clone().filter(|o| o.controller == Some(true));
    let owner = controllers.next().or_else(|| owners.clone().next())?;
    let labels = || metadata.labels.iter().flatten();
    let revision = matches!(owner.kind.as_str(), "ReplicaSet" | "ReplicationController");
    let deployed = DEPLOYED
        .iter()
        .find_map(|key| metadata.labels.as_ref()?.get(*key));
    if let Some(deployed) = deployed.filter(|name| revision && !name.is_empty()) {
        return Some(deployed);
    }
    // Deployments write `pod-template-hash`, Argo Rollouts `rollouts-pod-template-hash`.
    let without_hash = labels()
        .filter(|(key, _)| key.ends_with("pod-template-hash"))
        .find_map(|(_, hash)| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
        .filter(|stem| !stem.is_empty());
    let stem = match owner.kind.as_str() {
        "ReplicaSet" => without_hash,
        "Job" => owner
            .name
            .rsplit_once('-')
            .filter(|(_, run)| run.len() >= 8 && run.bytes().all(|b| b.is_ascii_digit()))
            .map(|(stem, _)| stem),
        _ => None,
    };
    Some(stem.unwrap_or(&owner.name))
}

/// The declared ports of TCP, and those of other transports.
fn ports(
    spec: &core::PodSpec,
    pod: &ObjectRef,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> (Vec<ContainerPort>, Box<[OtherPort]>) {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for container in applications(spec) {
        for port in container.ports.iter().flatten() {
            let protocol = port.protocol.as_deref();
            let transport = protocol.and_then(OtherTransport::of);
            if transport.is_none() && !is_tcp(protocol) {
                continue;
            }
            let Ok(number) = Port::try_from(port.container_port) else {
                let field = format!("spec.containers[{}].ports", container.name);
                let message = format!("{} is not a port", port.container_port);
                let finding = Finding::error(pod, field, "Invalid", message);
                findings.push(finding.fix(PORT_FIX));
                continue;
            };
            let name = port.name.as_deref();
            if let Some(transport) = transport {
                others.push(OtherPort {
                    port: number,
                    transport,
                    name: name.map(|name| interner.text(name)),
                });
                continue;
            }
            // A name stands for the first port that has it.
            let free = |name: &&str| {
                let mut rest = found.iter().filter(|p: &&ContainerPort| p.port != number);
                !rest.any(|other| other.name.as_deref() == Some(*name))
            };
            let name = name.filter(free);
            found.push(ContainerPort {
                port: number,
                name: name.map(|name| interner.text(name)),
            });
        }
    }
    found.sort();
    found.dedup();
    others.sort();
    others.dedup();
    (found, others.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_old_name_of_the_service_account_counts_where_the_new_one_is_empty() {
        for (names, account) in [
            (json!({}), "default"),
            (json!({"serviceAccount": ""}), "default"),
            (json!({"serviceAccount": "old"}), "old"),
            (
                json!({"serviceAccount": "old", "serviceAccountName": ""}),
                "old",
            ),
            (
                json!({"serviceAccount": "old", "serviceAccountName": "new"}),
                "new",
            ),
            (json!({"serviceAccountName": "new"}), "new"),
        ] {
            let spec: core::PodSpec = serde_json::from_value(names.clone()).unwrap();
            assert_eq!(service_account(&spec), account, "{names}");
        }
    }

    #[test]
    fn annotations_that_the_api_server_refuses_for_their_size_are_reported() {
        let large = json!({"annotations": {"a": "x".repeat(256 << 10)}});
        let small = json!({"annotations": {"a": "x".repeat((256 << 10) - 1)}});
        let spec = json!({"containers": [{"name": "app"}]});
        for (of_owner, of_pods, field) in [
            (&small, &small, None),
            (&large, &small, Some("metadata.annotations")),
            (&small, &large, Some("spec.template.metadata.annotations")),
        ] {
            let mut metadata = of_owner.clone();
            metadata["name"] = json!("web");
            let workload = WorkloadTemplate {
                kind: "Deployment".to_owned(),
                metadata: serde_json::from_value(metadata).unwrap(),
                template: serde_json::from_value(json!({"metadata": of_pods, "spec": spec}))
                    .unwrap(),
            };
            let mut findings = Vec::new();
            template(&workload, &mut Interner::default(), &mut findings).unwrap();
            let fields: Vec<&str> = findings.iter().map(|f| &*f.field).collect();
            assert_eq!(fields, field.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_revisions_of_a_workload_are_one_workload() {
        for (kind, name, labels, workload) in [
            (
                "ReplicaSet",
                "web-5d4f",
                json!({"pod-template-hash": "5d4f"}),
                "web",
            ),
            (
                "ReplicaSet",
                "checkout-6b86f",
                json!({"rollouts-pod-template-hash": "6b86f"}),
                "checkout",
            ),
            (
                "ReplicaSet",
                "hello-00001-deployment-5c9f",
                json!({"serving.knative.dev/configuration": "hello", "pod-template-hash": "5c9f"}),
                "hello",
            ),
            (
                "ReplicationController",
                "shop-3",
                json!({"deploymentconfig": "shop"}),
                "shop",
            ),
            ("ReplicaSet", "bare", json!({}), "bare"),
            // The hash of another workload in the label is not the end of the name.
            (
                "ReplicaSet",
                "web-5d4f",
                json!({"pod-template-hash": "4f"}),
                "web-5d4f",
            ),
            (
                "CloneSet",
                "web",
                json!({"pod-template-hash": "5d4f"}),
                "web",
            ),
            ("StatefulSet", "db", json!({}), "db"),
            ("Job", "backup-29381920", json!({}), "backup"),
            ("Job", "migrate-x7k2p", json!({}), "migrate-x7k2p"),
        ] {
            let metadata: ObjectMeta = serde_json::from_value(json!({
                "name": "pod", "labels": labels,
                "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true}],
            }))
            .unwrap();
            assert_eq!(owner(&metadata), Some(workload), "{kind} {name}");
        }
    }
}
