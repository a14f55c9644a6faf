//! Discovery `EndpointSlice`.

use k8s_openapi::api::discovery::v1 as discovery;

use super::named;
use crate::finding::{Finding, ObjectKind};
use crate::world::{Endpoint, EndpointsByPort, NamespacedName, Port};

/// What one slice adds to a service.
#[derive(Clone, Debug)]
pub(crate) struct SliceEndpoints {
    pub(crate) service: NamespacedName,
    pub(crate) by_port: EndpointsByPort,
}

/// Reads a slice; None for slices of no service and for those of host names.
pub(crate) fn endpoint_slice(
    object: &discovery::EndpointSlice,
    findings: &mut Vec<Finding>,
) -> Option<(NamespacedName, SliceEndpoints)> {
    let (name, reference) = named(ObjectKind::EndpointSlice, &object.metadata, findings)?;
    let service = object
        .metadata
        .labels
        .as_ref()?
        .get("kubernetes.io/service-name")?;
    if object.address_type == "FQDN" {
        return None;
    }
    let service = NamespacedName::new(&name.namespace, service);
    let mut by_port = EndpointsByPort::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        if port
            .protocol
            .as_deref()
            .is_some_and(|protocol| protocol != "TCP")
        {
            continue;
        }
        // No number means "all ports", which only slices of other controllers use.
        let Some(number) = port.port else { continue };
        let Ok(number) = Port::try_from(number) else {
            findings.push(Finding::error(
                &reference,
                format!("ports[{index}].port"),
                "Invalid",
                format!("{number} is no port"),
            ));
            continue;
        };
        let list = by_port
            .entry(port.name.as_deref().unwrap_or_default().into())
            .or_default();
        for (index, endpoint) in object.endpoints.iter().enumerate() {
            list.extend(addresses(
                endpoint, number, &name, index, &reference, findings,
            ));
        }
    }
    Some((name, SliceEndpoints { service, by_port }))
}

fn addresses(
    endpoint: &discovery::Endpoint,
    port: Port,
    slice: &NamespacedName,
    index: usize,
    reference: &crate::finding::ObjectRef,
    findings: &mut Vec<Finding>,
) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    // Unset means ready: the API says so for consumers.
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let target = endpoint
        .target_ref
        .as_ref()
        .filter(|r| r.kind.as_deref() == Some("Pod"));
    let pod = target.and_then(|r| {
        Some(NamespacedName::new(
            r.namespace.as_deref().unwrap_or(&slice.namespace),
            r.name.as_deref()?,
        ))
    });
    // All addresses of one endpoint are the same backend; the API tells consumers to use the first.
    let text = endpoint.addresses.first()?;
    match text.parse() {
        Ok(ip) => Some(Endpoint {
            ip,
            port,
            ready,
            serving,
            terminating,
            pod,
        }),
        Err(_) => {
            findings.push(Finding::error(
                reference,
                format!("endpoints[{index}].addresses[0]"),
                "Invalid",
                format!("{text:?} is no IP address"),
            ));
            None
        }
    }
}
