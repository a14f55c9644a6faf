//! Pods that cannot work with a sidecar.

use k8s_openapi::api::core::v1::{Container, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use super::INJECT_LABEL;
use super::names;
use crate::probes::refused_probe;
use crate::world::is_tcp;

/// The user that Envoy runs as: by it, capture distinguishes the traffic of Envoy and of the application.
pub const PROXY_UID: i64 = 1337;

/// The name under which a sidecar looks the control plane up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsLookup {
    /// The short name: the pod has the cluster's search domains.
    #[default]
    SearchDomains,
    /// The full name with a dot at its end: the pod may have no search domains.
    FullName,
}

/// Returns the reason for which a pod is admitted without a sidecar.
pub(super) fn cannot_be_meshed(spec: &PodSpec) -> Option<String> {
    if spec.host_network == Some(true) {
        return Some(
            "the pod uses the network of its node (hostNetwork), whose traffic cannot be captured"
                .to_owned(),
        );
    }
    is_for_windows(spec)
        .then(|| "the pod runs on Windows, for which there is no sidecar".to_owned())
}

/// Labels of nodes with their operating system; the second one is the old name.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

fn is_for_windows(spec: &PodSpec) -> bool {
    let selector = spec.node_selector.as_ref();
    let selected = |label: &str| selector?.get(label).map(String::as_str);
    let by_node = OS_LABELS.into_iter().filter_map(selected).any(is_windows);
    spec.os.as_ref().is_some_and(|os| is_windows(&os.name)) || by_node || by_affinity(spec)
}

fn is_windows(name: &str) -> bool {
    name.eq_ignore_ascii_case("windows")
}

/// Whether every node that the affinity allows runs Windows. One of the terms must hold, and each of its expressions; an empty term allows
/// no node.
fn by_affinity(spec: &PodSpec) -> bool {
    let affinity = spec.affinity.as_ref();
    let affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        let required = &affinity.required_during_scheduling_ignored_during_execution;
        required.as_ref()
    });
    let terms = required.map_or(&[][..], |required| &required.node_selector_terms);
    let is_empty = |term: &&NodeSelectorTerm| {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        term.match_expressions.iter().flatten().next().is_none() && fields.is_empty()
    };
    let mut allowing = terms.iter().filter(|term| !is_empty(term)).peekable();
    let windows_only = |term: &NodeSelectorTerm| {
        let mut expressions = term.match_expressions.iter().flatten();
        expressions.any(demands_windows)
    };
    allowing.peek().is_some() && allowing.all(windows_only)
}

fn demands_windows(expression: &NodeSelectorRequirement) -> bool {
    let values = expression.values.as_deref().unwrap_or_default();
    OS_LABELS.contains(&expression.key.as_str())
        && match expression.operator.as_str() {
            "In" => !values.is_empty() && values.iter().all(|value| is_windows(value)),
            "NotIn" => values.iter().any(|value| value == "linux"),
            _ => false,
        }
}

/// Refuses a pod with the reason.
pub(super) fn rejection(spec: &PodSpec) -> Result<(), String> {
    let pod_user = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    for (field, container) in containers(spec) {
        let place = format!("{field}[{}]", container.name);
        if is_own_name(&container.name) {
            if field == INIT_CONTAINERS {
                // Injection replaces these.
                continue;
            }
            return Err(format!(
                "{place}: the name is the sidecar's own; rename the container"
            ));
        }
        let context = container.security_context.as_ref();
        if context.and_then(|c| c.run_as_user).or(pod_user) == Some(PROXY_UID) {
            return Err(format!(
                "{place}: it runs as user {PROXY_UID}, which is the sidecar's: its traffic would pass the mesh by; set another securityContext.runAsUser"
            ));
        }
        own_port(&place, container)?;
        own_volume(&place, container)?;
    }
    match refused_probe(spec) {
        Some((field, port)) => Err(format!(
            "{field}: port {port} is the sidecar's own, and refuses the kubelet; let the probe or hook name a port of the application"
        )),
        None => Ok(()),
    }
}

const INIT_CONTAINERS: &str = "spec.initContainers";

fn is_own_name(name: &str) -> bool {
    name == names::INIT || name == names::PROXY
}

/// The containers, with the field that lists them.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|container| (INIT_CONTAINERS, container));
    let app = spec.containers.iter();
    init.chain(app.map(|container| ("spec.containers", container)))
}

fn own_port(place: &str, container: &Container) -> Result<(), String> {
    let clash = container.ports.iter().flatten().find(|port| {
        is_tcp(port.protocol.as_deref())
            && u16::try_from(port.container_port).is_ok_and(heddle_ports::is_reserved)
    });
    match clash {
        Some(port) => Err(format!(
            "{place}.ports: port {} is the sidecar's own; let the application listen on another port, or label the pod {INJECT_LABEL}: disabled",
            port.container_port,
        )),
        None => Ok(()),
    }
}

/// The sidecar's volumes hold its token and its sockets.
fn own_volume(place: &str, container: &Container) -> Result<(), String> {
    let mounts = container.volume_mounts.iter().flatten();
    let own = [names::TOKEN_VOLUME, names::RUNTIME_VOLUME];
    match mounts
        .map(|m| &m.name)
        .find(|name| own.contains(&name.as_str()))
    {
        Some(name) => Err(format!(
            "{place}.volumeMounts: the volume {name} is the sidecar's own; rename the volume"
        )),
        None => Ok(()),
    }
}

/// Chooses the control plane's name for the pod's DNS policy, with a warning where the pod's resolver may not find it.
pub(super) fn dns_lookup(spec: &PodSpec) -> (DnsLookup, Option<String>) {
    match spec.dns_policy.as_deref() {
        Some("Default") => (
            DnsLookup::FullName,
            Some(
                "spec.dnsPolicy: with Default the resolver of the node must find the Services of the cluster, else the sidecar gets no \
                 certificate and the application does not start; use ClusterFirst"
                    .to_owned(),
            ),
        ),
        Some("None") => (
            DnsLookup::FullName,
            Some(
                "spec.dnsPolicy: with None the servers of spec.dnsConfig must find the Services of the cluster, else the sidecar gets no \
                 certificate and the application does not start; name such servers"
                    .to_owned(),
            ),
        ),
        Some(_) | None => (DnsLookup::SearchDomains, None),
    }
}
