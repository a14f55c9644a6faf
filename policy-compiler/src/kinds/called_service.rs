//! The service that a policy names: its clients call it, and the policy applies to their side.

use heddle_crds::reason;

use super::policy::Candidate;
use super::{DECLARE_HTTP, ValidationError};
use crate::validation::Recorder;
use crate::world::{NamespacedName, Protocol, Service};

/// Returns the service that a field names.
///
/// # Errors
/// The service does not exist, has no endpoints, or has no address that clients call.
pub(super) fn called_service<'a, S>(
    policy: &Candidate<'a, S>,
    field: &str,
    name: &NamespacedName,
) -> Result<&'a Service, ValidationError> {
    match policy.lookup.service(name) {
        None => {
            let (message, fix) = absent(policy.lookup, name);
            Err(match policy.lookup.is_external(name) {
                true => ValidationError::invalid(field, message, fix),
                false => {
                    ValidationError::unresolved(reason::SERVICE_NOT_FOUND, field, message, fix)
                }
            })
        }
        Some(service) if service.headless => Err(ValidationError::invalid(
            field,
            format!("service {name} is headless: its callers choose the pod themselves"),
            "name a service with a cluster IP",
        )),
        Some(service) => Ok(service),
    }
}

/// Why a port of this protocol, as a backend, does not take requests or else connections, and the fix.
pub(super) const fn unsuitable(
    protocol: Protocol,
    requests: bool,
) -> Option<(&'static str, &'static str)> {
    match (requests, protocol) {
        (true, Protocol::Tcp) => Some(("does not carry HTTP", DECLARE_HTTP)),
        (false, Protocol::Http) => Some((
            "declares HTTP, so its servers read nothing else",
            "name a port that does not declare HTTP",
        )),
        (true, Protocol::Http | Protocol::Detect) | (false, Protocol::Tcp | Protocol::Detect) => {
            None
        }
    }
}

/// Why there is no service with endpoints of this name, and the fix.
pub(super) fn absent(lookup: &Recorder<'_>, name: &NamespacedName) -> (String, &'static str) {
    match lookup.is_external(name) {
        true => (
            format!("service {name} is of type ExternalName, which has no endpoints"),
            "name a service with a selector or with EndpointSlices",
        ),
        false => (
            format!("service {name} does not exist"),
            "create it, or correct the name",
        ),
    }
}
