//! The decision about a sidecar for a pod: one function for the admission webhook and for the offline commands.
//!
//! # Guarantees
//! - Pure and total: metadata and spec of a pod or a pod template in, a decision out.
//! - A pod that cannot work with a sidecar is refused or skipped, and the reason names the field.
//! - Every value that reaches the agent has the agent's own type: the agent reads each admitted annotation.

mod annotations;
mod checks;
mod pod_requests;
mod resources;
mod spelling;

use std::collections::BTreeSet;

use heddle_crds::ProxySettings;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use annotations::{Exclusions, MAX_EXCLUSIONS, Resources, is_more, nanos};
pub use checks::{DnsLookup, PROXY_UID};
pub use pod_requests::PodRequests;
pub use resources::Quantities;
pub use spelling::{misspelt_annotations, possibly_ours, warnings as spelling_warnings};
pub(crate) use spelling::{namespace_warnings, owner_warnings};

use crate::probes::{PROXY_CONTAINER, tcp_probe_ports};

/// The label on namespaces or pods that asks for a sidecar.
pub const INJECT_LABEL: &str = "heddle.dev/inject";

/// Names of the containers, volumes, labels and annotations that injection uses.
pub mod names {
    /// The init container that sets up capture.
    pub const INIT: &str = "heddle-init";
    /// The sidecar.
    pub const PROXY: &str = super::PROXY_CONTAINER;
    /// The volume of the projected token.
    pub const TOKEN_VOLUME: &str = "heddle-token";
    /// The volume of the sidecar's sockets.
    pub const RUNTIME_VOLUME: &str = "heddle-runtime";
    /// The label of pods with a sidecar.
    pub const MESHED: &str = "heddle.dev/meshed";
    /// The annotation of pods that were left alone, with the reason.
    pub const NOT_INJECTED: &str = "heddle.dev/not-injected";
    /// The annotation that keeps inbound ports out of capture.
    pub const EXCLUDE_INBOUND_PORTS: &str = "heddle.dev/exclude-inbound-ports";
    /// The annotation that keeps outbound ports out of capture.
    pub const EXCLUDE_OUTBOUND_PORTS: &str = "heddle.dev/exclude-outbound-ports";
    /// The annotation that keeps outbound destinations out of capture.
    pub const EXCLUDE_OUTBOUND_CIDRS: &str = "heddle.dev/exclude-outbound-cidrs";
    /// The annotation with compute resources of the sidecar.
    pub const PROXY_RESOURCES: &str = "heddle.dev/proxy-resources";
    /// The annotation with compute resources of the init container.
    pub const INIT_RESOURCES: &str = "heddle.dev/init-resources";
}

/// The variable of the init container with the inbound ports that are not captured.
pub const EXCLUDE_INBOUND_PORTS: &str = "HEDDLE_EXCLUDE_INBOUND_PORTS";

/// The variable of the sidecar with the roots that it trusts, in PEM.
pub const TRUST_BUNDLE: &str = "HEDDLE_TRUST_BUNDLE";

/// Namespaces that the webhooks of `config/default/webhook.yaml` leave out.
pub const SYSTEM_NAMESPACES: [&str; 2] = ["kube-system", "heddle-system"];

/// Returns the trust bundle in PEM with which the sidecar of a pod was injected. `None`: the pod has no sidecar, or has ended.
#[must_use]
pub fn trust_bundle(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    let mut containers = init.chain(&spec.containers);
    let proxy = containers.find(|container| container.name == names::PROXY)?;
    let mut variables = proxy.env.iter().flatten();
    let bundle = variables.find(|variable| variable.name == TRUST_BUNDLE)?;
    bundle.value.as_deref()
}

/// The decision about one pod, with warnings for its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The decision.
    pub decision: InjectionDecision,
    /// Messages about fields that probably do not have the effect that their author expects.
    pub warnings: Vec<String>,
}

/// The decision about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectionDecision {
    /// The pod gets a sidecar.
    Inject(Box<SidecarSettings>),
    /// The pod has no sidecar, by its own label.
    Leave,
    /// The pod is admitted without a sidecar, for this reason.
    Skip(String),
    /// The pod is refused, for this reason.
    Refuse(String),
}

/// The settings of a sidecar that come from its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SidecarSettings {
    /// Connections that are not captured.
    pub exclusions: Exclusions,
    /// Ports with a `tcpSocket` probe or hook.
    pub tcp_probe_ports: BTreeSet<u16>,
    /// Compute resources of the sidecar, in place of the mesh's.
    pub proxy: Resources,
    /// Compute resources of the init container, in place of the mesh's.
    pub init: Resources,
    /// The requests of the pod as a whole.
    pub pod: PodRequests,
    /// The name under which the sidecar looks the control plane up.
    pub dns: DnsLookup,
}

impl SidecarSettings {
    /// Returns the reason for which the API server would refuse the pod with the sidecar's containers. Their resources are in part those of
    /// the mesh.
    #[must_use]
    pub fn misfit(&self, mesh: &ProxySettings) -> Option<String> {
        let proxy = Quantities::of_proxy(mesh).replaced_by(&self.proxy);
        let init = Quantities::of_init(mesh).replaced_by(&self.init);
        self.pod.misfit(proxy, init)
    }
}

/// Returns whether a webhook of `config/default/webhook.yaml` selects a pod, by the value of the injection label of its namespace
/// and its own.
#[must_use]
pub fn is_selected(namespace: &str, of_namespace: Option<&str>, of_pod: Option<&str>) -> bool {
    !SYSTEM_NAMESPACES.contains(&namespace)
        && match of_namespace {
            Some("enabled") => of_pod != Some("disabled"),
            Some(_) | None => of_pod == Some("enabled"),
        }
}

/// Decides about a pod that a webhook selects.
#[must_use]
pub fn decide(metadata: &ObjectMeta, spec: Option<&PodSpec>) -> Injection {
    let mut warnings = spelling::warnings(metadata);
    let decision = decision(metadata, spec, &mut warnings);
    Injection { decision, warnings }
}

fn decision(
    metadata: &ObjectMeta,
    spec: Option<&PodSpec>,
    warnings: &mut Vec<String>,
) -> InjectionDecision {
    let label = metadata.labels.as_ref().and_then(|l| l.get(INJECT_LABEL));
    if label.is_some_and(|value| value == "disabled") {
        return InjectionDecision::Leave;
    }
    let Some(spec) = spec else {
        return InjectionDecision::Refuse("spec: the pod has none; add it".to_owned());
    };
    if let Some(reason) = checks::cannot_be_meshed(spec) {
        return InjectionDecision::Skip(reason);
    }
    match settings(metadata, spec, warnings) {
        Ok(settings) => InjectionDecision::Inject(Box::new(settings)),
        Err(reason) => InjectionDecision::Refuse(reason),
    }
}

fn settings(
    metadata: &ObjectMeta,
    spec: &PodSpec,
    warnings: &mut Vec<String>,
) -> Result<SidecarSettings, String> {
    checks::rejection(spec)?;
    let none = std::collections::BTreeMap::new();
    let annotations = metadata.annotations.as_ref().unwrap_or(&none);
    let (tcp_probe_ports, unresolved) = tcp_probe_ports(spec);
    warnings.extend(unresolved);
    let (dns, warning) = checks::dns_lookup(spec);
    warnings.extend(warning);
    let exclusions = Exclusions::read(annotations)?;
    warnings.extend(exclusions.warnings());
    Ok(SidecarSettings {
        exclusions,
        tcp_probe_ports,
        proxy: Resources::read(annotations, names::PROXY_RESOURCES, warnings)?,
        init: Resources::read(annotations, names::INIT_RESOURCES, warnings)?,
        pod: PodRequests::read(spec),
        dns,
    })
}

#[cfg(test)]
mod tests;
