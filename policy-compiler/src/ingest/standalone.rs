//! The annotations of pods that nothing captures (the directory source).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::finding::{Finding, ObjectRef};
use crate::world::{NamespacedName, Port, Standalone};

const APP: &str = "heddle.dev/standalone-app";
const UPSTREAMS: &str = "heddle.dev/standalone-upstreams";

/// Returns whether nothing captures the pod's traffic.
pub(super) fn is_standalone(metadata: &ObjectMeta) -> bool {
    metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(APP))
}

/// None if the pod is not standalone.
pub(super) fn standalone(
    metadata: &ObjectMeta,
    pod: &ObjectRef,
    binds: &[IpAddr],
    findings: &mut Vec<Finding>,
) -> Option<Standalone> {
    let annotations = metadata.annotations.as_ref()?;
    let text = annotations.get(APP)?.trim();
    let Ok(app) = text.parse() else {
        let field = format!("metadata.annotations[{APP}]");
        let message = format!("{text:?} is not an IP address");
        let finding = Finding::error(pod, field, "Invalid", message);
        findings.push(finding.fix("write for example 127.0.1.1"));
        return None;
    };
    let mut upstreams = BTreeMap::new();
    for entry in annotations
        .get(UPSTREAMS)
        .map(String::as_str)
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty())
    {
        if let Some((key, address)) = upstream(entry) {
            upstreams.insert(key, address);
        } else {
            let field = format!("metadata.annotations[{UPSTREAMS}]");
            findings.push(
                Finding::error(pod, field, "Invalid", format!("{entry:?} cannot be read"))
                    .fix("write <namespace>/<service>:<port>=<ip:port>"),
            );
        }
    }
    Some(Standalone {
        app,
        binds: binds.to_vec(),
        upstreams,
    })
}

fn upstream(entry: &str) -> Option<((NamespacedName, Port), std::net::SocketAddr)> {
    let (service, address) = entry.split_once('=')?;
    let (name, port) = service.trim().rsplit_once(':')?;
    let (namespace, name) = name.split_once('/')?;
    let port = Port::try_from(port.parse::<i32>().ok()?).ok()?;
    Some((
        (NamespacedName::new(namespace, name), port),
        address.trim().parse().ok()?,
    ))
}
