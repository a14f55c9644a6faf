//! What cannot work, and what is none of the mesh's business.

use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::names;

/// The user that Envoy runs as: capture tells its traffic from the application's by it.
pub(super) const PROXY_UID: i64 = 1337;

/// The ports that the sidecar listens on in the pod (ARCHITECTURE.md, names on the wire).
const PORTS: [i32; 6] = [15001, 15002, 15006, 15007, 15020, 15021];

pub(super) const EXCLUDE_INBOUND_PORTS: &str = "heddle.dev/exclude-inbound-ports";
pub(super) const EXCLUDE_OUTBOUND_PORTS: &str = "heddle.dev/exclude-outbound-ports";
pub(super) const EXCLUDE_OUTBOUND_CIDRS: &str = "heddle.dev/exclude-outbound-cidrs";

/// Why a pod is admitted without a sidecar.
pub(super) fn cannot_be_meshed(spec: &PodSpec) -> Option<String> {
    if spec.host_network == Some(true) {
        return Some(
            "the pod uses the network of its node (hostNetwork), whose traffic cannot be captured"
                .to_owned(),
        );
    }
    let windows = |name: &str| name.eq_ignore_ascii_case("windows");
    let by_os = spec.os.as_ref().is_some_and(|os| windows(&os.name));
    let by_node = spec
        .node_selector
        .as_ref()
        .and_then(|selector| selector.get("kubernetes.io/os"))
        .is_some_and(|os| windows(os));
    (by_os || by_node).then(|| "the pod runs on Windows, for which there is no sidecar".to_owned())
}

/// The containers that are not ours, with the field they stand in.
pub(super) fn others(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| ("spec.initContainers", container));
    let app = spec
        .containers
        .iter()
        .map(|container| ("spec.containers", container));
    init.chain(app)
        .filter(|(_, container)| container.name != names::INIT && container.name != names::PROXY)
}

/// Why a pod is refused.
pub(super) fn refusal(pod: &Pod, spec: &PodSpec) -> Result<(), String> {
    let pod_user = spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    for (field, container) in others(spec) {
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user);
        if own.or(pod_user) == Some(PROXY_UID) {
            return Err(format!(
                "{field}[{}] runs as user {PROXY_UID}, which is the sidecar's: its traffic would pass the mesh by. Set another securityContext.runAsUser",
                container.name
            ));
        }
        let tcp = |protocol: &Option<String>| {
            protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
        };
        let clash = container
            .ports
            .iter()
            .flatten()
            .find(|port| tcp(&port.protocol) && PORTS.contains(&port.container_port));
        if let Some(port) = clash {
            return Err(format!(
                "{field}[{}].ports: port {} is the sidecar's own. Let the application listen on another port, or label the pod {}: disabled",
                container.name,
                port.container_port,
                names::INJECT
            ));
        }
    }
    let annotations = pod.metadata.annotations.as_ref();
    let text = |key: &str| {
        annotations
            .and_then(|annotations| annotations.get(key))
            .map(String::as_str)
    };
    for key in [EXCLUDE_INBOUND_PORTS, EXCLUDE_OUTBOUND_PORTS] {
        list(
            key,
            text(key),
            |item| item.parse::<u16>().is_ok_and(|port| port > 0),
            "a port",
        )?;
    }
    list(
        EXCLUDE_OUTBOUND_CIDRS,
        text(EXCLUDE_OUTBOUND_CIDRS),
        is_cidr,
        "an address block such as 10.0.0.0/8",
    )
}

fn list(
    key: &str,
    text: Option<&str>,
    sound: impl Fn(&str) -> bool,
    what: &str,
) -> Result<(), String> {
    let items = text
        .into_iter()
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty());
    match items.into_iter().find(|item| !sound(item)) {
        Some(item) => Err(format!(
            "metadata.annotations[{key}]: {item:?} is not {what}"
        )),
        None => Ok(()),
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return IpAddr::from_str(text).is_ok();
    };
    match (IpAddr::from_str(address), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => length <= 128,
        (Err(_), _) | (_, Err(_)) => false,
    }
}
