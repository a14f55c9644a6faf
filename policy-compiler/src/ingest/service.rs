//! Core `Service`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ADDRESS_FIX, PORT_FIX, named};
use crate::finding::{Finding, ObjectRef};
use crate::kind::ObjectKind;
use crate::world::{
    ExternalAddresses, Family, Interner, Near, OtherServicePort, OtherTransport, Port, Protocol,
    Service, ServicePort, TargetPort, is_tcp,
};

/// The host that an `ExternalName` service stands for.
pub(crate) fn external_host(object: &core::Service) -> Option<String> {
    let spec = object.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName"))
        .then(|| spec.external_name.clone().unwrap_or_default())
}

/// Reads a service; None for `ExternalName`, which is DNS only and never seen by a proxy.
pub(crate) fn service(
    object: &core::Service,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<Service> {
    let (name, reference) = named(ObjectKind::Service, &object.metadata, findings)?;
    let spec = object.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let several: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
    let addresses = match several.is_empty() {
        true => spec.cluster_ip.iter().collect(),
        false => several,
    };
    let headless = addresses.iter().any(|ip| ip.as_str() == "None");
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    for ip in addresses
        .into_iter()
        .filter(|ip| !headless && !ip.is_empty())
    {
        match ip.parse() {
            Ok(ip) => cluster_ips.push(ip),
            Err(_) => {
                let message = format!("{ip:?} is not an IP address");
                let finding = Finding::error(&reference, "spec.clusterIPs", "Invalid", message);
                findings.push(finding.fix(ADDRESS_FIX));
            }
        }
    }
    let ports = spec.ports.iter().flatten().enumerate();
    let ports = ports
        .filter_map(|(index, port)| service_port(index, port, &reference, interner, findings))
        .map(|p| (p.port, p))
        .collect();
    findings.extend(affinity_time(spec, &reference));
    let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
    Some(Service {
        name: interner.name(&name.namespace, &name.name),
        families: families(spec, &cluster_ips),
        cluster_ips,
        headless,
        ports,
        other_ports: other_ports(spec, interner),
        selector: interner.labels(spec.selector.iter().flatten()),
        publish_not_ready,
        local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        near: near(object, spec),
        external: external(object, spec),
    })
}

/// The annotation that asks for hints, and its older name.
const TOPOLOGY: [(&str, &str); 2] = [
    (
        "service.kubernetes.io/topology-mode",
        "metadata.annotations[service.kubernetes.io/topology-mode]",
    ),
    (
        "service.kubernetes.io/topology-aware-hints",
        "metadata.annotations[service.kubernetes.io/topology-aware-hints]",
    ),
];

/// Whether an annotation asks for endpoints near the caller.
#[must_use]
pub fn is_topology_annotation(key: &str) -> bool {
    TOPOLOGY.iter().any(|(annotation, _)| *annotation == key)
}

fn near(object: &core::Service, spec: &core::ServiceSpec) -> Option<Near> {
    if let Some(preferred) = &spec.traffic_distribution {
        return Some(match preferred.as_str() {
            "PreferClose" | "PreferSameZone" => Near::Zone,
            "PreferSameNode" => Near::Node,
            _ => Near::Unread("spec.trafficDistribution"),
        });
    }
    let annotations = object.metadata.annotations.as_ref()?;
    let set = TOPOLOGY.into_iter().find(|(key, _)| {
        let mode = annotations.get(*key);
        mode.is_some_and(|mode| !mode.eq_ignore_ascii_case("disabled"))
    });
    set.map(|(_, field)| Near::Unread(field))
}

/// The time of Kubernetes' own default, in seconds.
const AFFINITY_TIME: i32 = 10_800;

/// Reports a time of affinity that was chosen: the mesh keeps a client by a hash of its address, which has no time.
fn affinity_time(spec: &core::ServiceSpec, service: &ObjectRef) -> Option<Finding> {
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let of_client = spec.session_affinity_config.as_ref()?.client_ip.as_ref()?;
    let chosen = of_client
        .timeout_seconds
        .filter(|seconds| sticky && *seconds != AFFINITY_TIME)?;
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let message = format!(
        "{chosen} has no effect for callers with a sidecar, which keep an endpoint by a hash of their address"
    );
    let finding = Finding::info(service, field, "AffinityWithoutTime", message);
    Some(finding.fix("leave it out"))
}

fn external(object: &core::Service, spec: &core::ServiceSpec) -> Option<ExternalAddresses> {
    if spec.external_ips.iter().flatten().next().is_some() {
        return Some(ExternalAddresses::ExternalIps);
    }
    let balancer = object.status.as_ref()?.load_balancer.as_ref()?;
    let mut ingress = balancer.ingress.iter().flatten();
    ingress
        .any(|ingress| ingress.ip.is_some())
        .then_some(ExternalAddresses::LoadBalancer)
}

/// The families of the addresses; of a service without addresses those that it declares.
fn families(spec: &core::ServiceSpec, cluster_ips: &[IpAddr]) -> Vec<Family> {
    let of_addresses = cluster_ips.iter().map(|ip| Family::of(ip.to_canonical()));
    let mut families: Vec<Family> = of_addresses.collect();
    if families.is_empty() {
        let declared = spec.ip_families.iter().flatten();
        families.extend(declared.filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }));
    }
    families.dedup();
    families
}

/// The ports that no sidecar captures.
fn other_ports(spec: &core::ServiceSpec, interner: &mut Interner) -> Vec<OtherServicePort> {
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|port| {
        let transport = port.protocol.as_deref().and_then(OtherTransport::of)?;
        let number = Port::try_from(port.port).ok()?;
        let target = target(port, number, interner).ok()?;
        Some(OtherServicePort {
            port: number,
            transport,
            target,
        })
    });
    ports.collect()
}

/// Reads `targetPort` of the port with this number. Fails with a number that is not a port.
fn target(
    port: &core::ServicePort,
    number: Port,
    interner: &mut Interner,
) -> Result<TargetPort, i32> {
    let by_number = |target: i32| Ok(TargetPort::Number(Port::try_from(target)?));
    match &port.target_port {
        // The zero values of the two types are how some clients write "unset".
        None | Some(IntOrString::Int(0)) => Ok(TargetPort::Number(number)),
        Some(IntOrString::String(name)) if name.is_empty() => Ok(TargetPort::Number(number)),
        Some(IntOrString::Int(target)) => by_number(*target),
        Some(IntOrString::String(name)) => match name.parse() {
            Ok(target) => by_number(target),
            Err(_) => Ok(TargetPort::Name(interner.text(name))),
        },
    }
}

/// Reads a port of TCP.
fn service_port(
    index: usize,
    port: &core::ServicePort,
    service: &ObjectRef,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<ServicePort> {
    if !is_tcp(port.protocol.as_deref()) {
        return None;
    }
    let invalid = |field: &str, n: i32| {
        let (field, message) = (
            format!("spec.ports[{index}].{field}"),
            format!("{n} is not a port"),
        );
        Finding::error(service, field, "Invalid", message).fix(PORT_FIX)
    };
    let number = Port::try_from(port.port).map_err(|n| findings.push(invalid("port", n)));
    let number = number.ok()?;
    let target = target(port, number, interner);
    let target = target.map_err(|n| findings.push(invalid("targetPort", n)));
    let target = target.ok()?;
    let declared = port.app_protocol.as_deref().filter(|of| !of.is_empty());
    let protocol = Protocol::of(declared, port.name.as_deref());
    let unknown = declared.filter(|declared| Protocol::word(declared).is_none());
    if let Some(unknown) = unknown
        && protocol != Protocol::Detect
    {
        findings.push(taken_from_name(index, unknown, protocol, service));
    }
    Some(ServicePort {
        port: number,
        name: interner.text(port.name.as_deref().unwrap_or_default()),
        protocol,
        target,
    })
}

/// Reports a port that has its protocol from its name, because that of `appProtocol` is unknown.
fn taken_from_name(index: usize, unknown: &str, taken: Protocol, service: &ObjectRef) -> Finding {
    let field = format!("spec.ports[{index}].appProtocol");
    let taken = match taken {
        Protocol::Http => "HTTP",
        Protocol::Tcp | Protocol::Detect => "TCP",
    };
    let message = format!(
        "{unknown:?} is not a protocol that the mesh knows, so the name of the port decides: {taken}"
    );
    let fix = "write http, grpc or tcp, or leave appProtocol out";
    Finding::warning(service, field, "UnknownProtocol", message).fix(fix)
}
