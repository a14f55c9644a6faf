//! Core `Pod`, and the pod templates of workloads.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::standalone::standalone;
use super::{INJECT_LABEL, PROXY_CONTAINER, WorkloadTemplate, named};
use crate::finding::{Finding, ObjectKind, ObjectRef};
use crate::world::{
    Capture, ContainerPort, DESTINATIONS, DeclaredDestination, Interner, Port, Probe, ProbeKind,
    Shape, Workload, read_destinations,
};

/// Reads a pod.
pub(crate) fn pod(
    object: &core::Pod,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<Workload> {
    let (name, reference) = named(ObjectKind::Pod, &object.metadata, findings)?;
    let spec = object.spec.as_ref()?;
    let status = object.status.as_ref();
    let ips = pod_ips(status, &reference, findings);
    let standalone = standalone(&object.metadata, &reference, &ips, findings);
    let has_proxy = containers(spec).any(|c| c.name == PROXY_CONTAINER);
    // What shares the node's network cannot be captured, whatever containers it has.
    let meshed = standalone.is_some() || (has_proxy && !spec.host_network.unwrap_or(false));
    let phase = status.and_then(|s| s.phase.as_deref());
    let alive = !matches!(phase, Some("Succeeded" | "Failed"))
        && object.metadata.deletion_timestamp.is_none();
    let ready = status.is_some_and(|s| {
        s.conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    });
    let ports = ports(spec, &reference, interner, findings);
    let owner = owner(&object.metadata).unwrap_or(&name.name);
    let shape = Shape {
        destinations: destinations(&object.metadata, &name.namespace, owner, interner, findings),
        namespace: interner.text(&name.namespace),
        owner: interner.text(owner),
        service_account: interner.text(service_account(spec)),
        meshed,
        labels: interner.labels(object.metadata.labels.iter().flatten()),
        capture: standalone.map_or(Capture::Redirect, Capture::Standalone),
        probes: probes(spec, &reference, interner, findings),
        ports,
    };
    Some(Workload {
        name: interner.name(&name.namespace, &name.name),
        ips: ips.into(),
        ready,
        alive,
        shape: interner.shape(shape),
    })
}

/// The annotation that declares what the pod calls. It is the same on every pod of a workload, so that is what a finding names.
fn destinations(
    metadata: &ObjectMeta,
    namespace: &str,
    owner: &str,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<Vec<DeclaredDestination>> {
    let text = metadata.annotations.as_ref()?.get(DESTINATIONS)?;
    let (declared, wrong) = read_destinations(text, interner);
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
) -> Option<Workload> {
    let (name, reference) = named(ObjectKind::Workload, &object.metadata, findings)?;
    let spec = object.template.spec.as_ref()?;
    let no_metadata = ObjectMeta::default();
    let metadata = object.template.metadata.as_ref().unwrap_or(&no_metadata);
    let ports = ports(spec, &reference, interner, findings);
    let mut labels = interner.labels(metadata.labels.iter().flatten());
    let annotation = metadata.annotations.as_ref();
    if let Some(inject) = annotation.and_then(|a| a.get(INJECT_LABEL)) {
        let (key, value) = (interner.text(INJECT_LABEL), interner.text(inject));
        labels.entry(key).or_insert(value);
    }
    let shape = Shape {
        destinations: destinations(metadata, &name.namespace, &name.name, interner, findings),
        namespace: interner.text(&name.namespace),
        owner: interner.text(&name.name),
        service_account: interner.text(service_account(spec)),
        meshed: containers(spec).any(|c| c.name == PROXY_CONTAINER),
        labels,
        capture: Capture::Redirect,
        probes: probes(spec, &reference, interner, findings),
        ports,
    };
    Some(Workload {
        name: interner.name(&name.namespace, &name.name),
        ips: Box::default(),
        ready: true,
        alive: true,
        shape: interner.shape(shape),
    })
}

fn containers(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
}

/// The containers whose ports and probes are the application's, in the order in which Kubernetes looks for a named port (`FindPort` in
/// `pkg/api/v1/pod/util.go`): containers, then restartable init containers.
fn applications(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .filter(|c| c.name != PROXY_CONTAINER)
}

fn service_account(spec: &core::PodSpec) -> &str {
    spec.service_account_name
        .as_deref()
        .filter(|name| !name.is_empty())
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
            Err(_) => findings.push(Finding::error(
                pod,
                "status.podIPs",
                "Invalid",
                format!("{text:?} is no IP address"),
            )),
        }
    }
    ips
}

/// Labels by which a controller names what a person deployed, where its revisions have owners of their own: `OpenShift`'s deployment
/// configuration and Knative's configuration.
const DEPLOYED: [&str; 2] = ["deploymentconfig", "serving.knative.dev/configuration"];

/// Returns the name of the workload that a person deployed. Its replica sets and the runs of a cron job come and go, and are not workloads of
/// their own. `None`: the pod has no owner, and is its own workload.
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

fn ports(
    spec: &core::PodSpec,
    pod: &ObjectRef,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Vec<ContainerPort> {
    let mut found = Vec::new();
    for container in applications(spec) {
        for port in container.ports.iter().flatten().filter(|p| {
            p.protocol
                .as_deref()
                .is_none_or(|protocol| protocol == "TCP")
        }) {
            match Port::try_from(port.container_port) {
                Ok(number) => {
                    // A name stands for the first port that has it.
                    let free = |name: &&str| {
                        let mut others = found.iter().filter(|p: &&ContainerPort| p.port != number);
                        !others.any(|other| other.name.as_deref() == Some(*name))
                    };
                    let name = port.name.as_deref().filter(free);
                    found.push(ContainerPort {
                        port: number,
                        name: name.map(|name| interner.text(name)),
                    });
                }
                Err(n) => findings.push(Finding::error(
                    pod,
                    format!("spec.containers[{}].ports", container.name),
                    "Invalid",
                    format!("{n} is no port"),
                )),
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn probes(
    spec: &core::PodSpec,
    pod: &ObjectRef,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Vec<Probe> {
    let mut found = Vec::new();
    for container in applications(spec) {
        let all = [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ];
        for (field, probe) in all
            .into_iter()
            .filter_map(|(field, probe)| Some((field, probe.as_ref()?)))
        {
            match read_probe(probe, container, interner) {
                Ok(probe) => found.extend(probe),
                Err(reason) => {
                    let finding = Finding::warning(
                        pod,
                        format!("spec.containers[{}].{field}", container.name),
                        "ProbePortUnknown",
                        reason,
                    );
                    findings.push(finding.fix(
                        "under Strict this probe is refused: name a declared port, or a number",
                    ));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn read_probe(
    probe: &core::Probe,
    container: &core::Container,
    interner: &mut Interner,
) -> Result<Option<Probe>, String> {
    let port_of = |port: &IntOrString| match port {
        IntOrString::Int(number) => Port::try_from(*number).map_err(|n| format!("{n} is no port")),
        IntOrString::String(name) => {
            // The kubelet looks for the name in the probe's own container only.
            let ports = container.ports.iter().flatten();
            let named = ports
                .filter(|p| p.name.as_ref() == Some(name))
                .map(|p| p.container_port);
            named
                .filter_map(|number| Port::try_from(number).ok())
                .next()
                .or_else(|| Port::try_from(name.parse::<i32>().ok()?).ok())
                .ok_or_else(|| format!("no container port is named {name:?}"))
        }
    };
    if let Some(http) = &probe.http_get {
        let kind = if http.scheme.as_deref() == Some("HTTPS") {
            ProbeKind::Https
        } else {
            let path = http
                .path
                .as_deref()
                .filter(|p| !p.is_empty())
                .unwrap_or("/");
            let path = path.split(['?', '#']).next().unwrap_or(path);
            // The kubelet puts the slash in front itself.
            ProbeKind::Http {
                path: if path.starts_with('/') {
                    interner.text(path)
                } else {
                    interner.text(&format!("/{path}"))
                },
            }
        };
        return Ok(Some(Probe {
            port: port_of(&http.port)?,
            kind,
        }));
    }
    if let Some(grpc) = &probe.grpc {
        return Ok(Some(Probe {
            port: Port::try_from(grpc.port).map_err(|n| format!("{n} is no port"))?,
            kind: ProbeKind::Grpc,
        }));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Some(Probe {
            port: port_of(&tcp.port)?,
            kind: ProbeKind::Tcp,
        }));
    }
    // Exec probes never touch the network.
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
