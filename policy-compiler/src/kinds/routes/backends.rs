//! The backends of a route.

use heddle_crds::reason;
use serde::Deserialize;

use super::Routed;
use super::notes::Notes;
use crate::kinds::called_service::absent;
use crate::kinds::policy::Candidate;
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::traffic::Backend;
use crate::world::{NamespacedName, Port, Protocol, ServicePort};

/// A reference to a backend.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    /// The field.
    pub(super) field: String,
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<Port>,
}

/// The fields of a reference: those of all kinds of routes, and of mirrors, are the same.
#[derive(Deserialize)]
pub(super) struct ReferenceFields {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i32>,
}

impl ReferenceFields {
    pub(super) fn read(self, field: String, notes: &mut Notes) -> Reference {
        Reference {
            group: self.group,
            kind: self.kind,
            namespace: self.namespace,
            name: self.name,
            port: port(&field, self.port, notes),
            field,
        }
    }
}

/// Finds the backend of a reference.
///
/// # Errors
/// There is none that requests or bytes may be sent to. In its place the caller's sidecar answers the share of requests, or refuses that of
/// connections.
pub(super) fn resolve<S>(
    policy: &Candidate<'_, S>,
    of: &Reference,
    routed: Routed,
) -> Result<Backend, ValidationError> {
    let error = |reason: &'static str, message: String, fix: &'static str| {
        Err(ValidationError::unresolved(
            reason, &*of.field, message, fix,
        ))
    };
    let (group, kind) = (of.group.as_deref(), of.kind.as_deref());
    if !matches!(group, None | Some("" | "core")) || !matches!(kind, None | Some("Service")) {
        let kind = kind.unwrap_or("Service");
        let message = match group {
            None | Some("") => format!("{kind} is not a kind of backend"),
            Some(group) => format!("{kind} of {group} is not a kind of backend"),
        };
        return error(reason::INVALID_KIND, message, "name a Service");
    }
    // Of any namespace: Gateway API asks for a grant only where a route exposes a service to other callers (GEP-1294). The servers decide
    // about the caller itself.
    let namespace = of.namespace.as_deref().unwrap_or(policy.namespace());
    let name = NamespacedName::new(namespace, &of.name);
    let Some(service) = policy.lookup.service(&name) else {
        let (message, fix) = absent(policy.lookup, &name);
        return error(reason::BACKEND_NOT_FOUND, message, fix);
    };
    let port = of.port.and_then(|port| service.ports.get(&port));
    match port {
        None => {
            let unnamed = || format!("the port of service {name} is missing");
            let message = of
                .port
                .map_or_else(unnamed, |port| service.not_a_port(port));
            error(reason::BACKEND_NOT_FOUND, message, "name one of its ports")
        }
        Some(port) => match unsuitable(port, routed) {
            None => Ok(Backend::Service(name, port.port)),
            Some((verb, fix)) => {
                let message = format!("port {} of service {name} {verb}", port.port);
                error(reason::UNSUPPORTED_PROTOCOL, message, fix)
            }
        },
    }
}

/// Why a port of a backend does not take some traffic, and the fix.
const fn unsuitable(port: &ServicePort, routed: Routed) -> Option<(&'static str, &'static str)> {
    match (routed, port.protocol) {
        (Routed::Requests(_), Protocol::Tcp) => Some(("does not carry HTTP", DECLARE_HTTP)),
        (Routed::Tls | Routed::Bytes, Protocol::Http) => Some((
            "declares HTTP, so its servers read nothing else",
            "name a port that does not declare HTTP",
        )),
        (Routed::Requests(_), Protocol::Http | Protocol::Detect)
        | (Routed::Tls | Routed::Bytes, Protocol::Tcp | Protocol::Detect) => None,
    }
}

/// The port of a reference. Only kinds of other groups need none, and they are not backends.
pub(super) fn port(field: &str, port: Option<i32>, notes: &mut Notes) -> Option<Port> {
    let port = port?;
    let found = Port::try_from(port).ok();
    if found.is_none() {
        let message = format!("{port} is not a port");
        notes.unsupported(
            format!("{field}.port"),
            message,
            "use a number from 1 to 65535",
        );
    }
    found
}
