//! Core `Endpoints` as the cluster's mirroring controller reads them: one slice for each subset and family.

use std::net::IpAddr;

use serde_json::{Value, json};

/// The slices that the cluster would make of an `Endpoints` object; none if the object has the leader
/// annotation or the skip-mirror label.
pub(super) fn slices(endpoints: &Value) -> Vec<Value> {
    let metadata = |pointer: &str| endpoints.pointer(&format!("/metadata/{pointer}"));
    let skipped = metadata("labels/endpointslice.kubernetes.io~1skip-mirror");
    let leader = metadata("annotations/control-plane.alpha.kubernetes.io~1leader");
    let name = metadata("name").and_then(Value::as_str);
    let (Some(name), None) = (name, leader) else {
        return Vec::new();
    };
    if skipped.and_then(Value::as_str) == Some("true") {
        return Vec::new();
    }
    let namespace = metadata("namespace").cloned().unwrap_or(json!("default"));
    let subsets = endpoints.get("subsets").and_then(Value::as_array);
    let mut slices = Vec::new();
    for (index, subset) in subsets.into_iter().flatten().enumerate() {
        let mut families = [("IPv4", Vec::new()), ("IPv6", Vec::new())];
        for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            let addresses = subset.get(field).and_then(Value::as_array);
            for address in addresses.into_iter().flatten() {
                let ip = address.get("ip").and_then(Value::as_str);
                // An invalid address stays, so that reading the slice reports it.
                let six = ip.is_some_and(|ip| ip.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6()));
                let [(_, four), (_, of_six)] = &mut families;
                if six { of_six } else { four }.push(endpoint(address, ready));
            }
        }
        for (family, endpoints) in families.into_iter().filter(|(_, all)| !all.is_empty()) {
            slices.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"name": format!("{name}-{index}-{}", family.to_lowercase()), "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name}},
                "ports": subset.get("ports").cloned().unwrap_or_default(),
                "endpoints": endpoints,
            }));
        }
    }
    slices
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({
        "addresses": [address.get("ip").cloned().unwrap_or_default()],
        "conditions": {"ready": ready},
    });
    if let Some(map) = endpoint.as_object_mut() {
        for field in ["nodeName", "targetRef", "hostname"] {
            map.extend(address.get(field).map(|v| (field.to_owned(), v.clone())));
        }
    }
    endpoint
}
