//! Discovery `EndpointSlice`.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;

use super::{ADDRESS_FIX, PORT_FIX, named};
use crate::finding::Finding;
use crate::kind::ObjectKind;
use crate::world::{Endpoint, EndpointsByPort, Interner, NamespacedName, Port, is_tcp};

/// The endpoints that one slice adds to a service; sorted, without equal copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoints {
    pub(crate) service: NamespacedName,
    pub(crate) by_port: Arc<EndpointsByPort>,
    /// When the slice was written last: `metadata.resourceVersion`, which grows over all objects of a kind. A file has none.
    pub(crate) version: Option<u64>,
}

/// Reads a slice; None for slices of no service and for those of host names.
pub(crate) fn endpoint_slice(
    object: &discovery::EndpointSlice,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<SliceEndpoints> {
    let (name, reference) = named(ObjectKind::EndpointSlice, &object.metadata, findings)?;
    let service = object
        .metadata
        .labels
        .as_ref()?
        .get("kubernetes.io/service-name")?;
    if object.address_type == "FQDN" {
        return None;
    }
    let service = interner.name(&name.namespace, service);
    let mut by_port = EndpointsByPort::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        if !is_tcp(port.protocol.as_deref()) {
            continue;
        }
        // No number means "all ports", which only slices of other controllers use.
        let Some(number) = port.port else { continue };
        let Ok(number) = Port::try_from(number) else {
            let field = format!("ports[{index}].port");
            let message = format!("{number} is not a port");
            let finding = Finding::error(&reference, field, "Invalid", message);
            findings.push(finding.fix(PORT_FIX));
            continue;
        };
        let list = by_port
            .entry(interner.text(port.name.as_deref().unwrap_or_default()))
            .or_default();
        for (index, endpoint) in object.endpoints.iter().enumerate() {
            list.extend(addresses(
                endpoint, number, index, &reference, interner, findings,
            ));
        }
    }
    tidy(&mut by_port);
    Some(SliceEndpoints {
        service,
        by_port: Arc::new(by_port),
        version: object
            .metadata
            .resource_version
            .as_deref()
            .and_then(|version| version.parse().ok()),
    })
}

fn addresses(
    endpoint: &discovery::Endpoint,
    port: Port,
    index: usize,
    reference: &crate::finding::ObjectRef,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    // Unset means ready: the API demands this of consumers.
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let slice = &reference.namespace;
    // A service's pods are of its own namespace; a slice has no say over others.
    let target = endpoint.target_ref.as_ref().filter(|r| {
        r.kind.as_deref() == Some("Pod") && r.namespace.as_deref().is_none_or(|ns| *ns == **slice)
    });
    let pod = target.and_then(|r| Some(interner.name(slice, r.name.as_deref()?)));
    // All addresses of one endpoint are the same backend; by the API, consumers use the first.
    let text = endpoint.addresses.first()?;
    match text.parse() {
        Ok(ip) => Some(Endpoint {
            ip,
            port,
            pod,
            node: endpoint.node_name.as_deref().map(|n| interner.text(n)),
            zone: endpoint.zone.as_deref().map(|zone| interner.text(zone)),
            ready,
            serving,
            terminating,
        }),
        Err(_) => {
            let field = format!("endpoints[{index}].addresses[0]");
            let message = format!("{text:?} is not an IP address");
            let finding = Finding::error(reference, field, "Invalid", message);
            findings.push(finding.fix(ADDRESS_FIX));
            None
        }
    }
}

/// Sorts, and removes equal copies.
pub(super) fn tidy(endpoints: &mut EndpointsByPort) {
    for list in endpoints.values_mut() {
        list.sort();
        list.dedup();
        list.shrink_to_fit();
    }
}
