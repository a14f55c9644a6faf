//! The service that a policy names: its clients call it, and the policy applies to their side.

use heddle_crds::reason;

use super::policy::Candidate;
use super::{DECLARE_HTTP, ValidationError};
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
        None if policy.lookup.is_external(name) => Err(without_endpoints(field, name)),
        None => Err(ValidationError::unresolved(
            reason::SERVICE_NOT_FOUND,
            field,
            format!("service {name} does not exist"),
            "create it, or correct the name",
        )),
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

/// The fault of a service of type `ExternalName`.
fn without_endpoints(field: &str, name: &NamespacedName) -> ValidationError {
    ValidationError::invalid(
        field,
        format!("service {name} is of type ExternalName, which has no endpoints"),
        "name a service with a selector or with EndpointSlices",
    )
}
