//! The service that a policy names: its clients call it, and the policy applies to their side.

use heddle_crds::reason;

use super::ValidationError;
use super::policy::Candidate;
use crate::validation::Recorder;
use crate::world::{NamespacedName, Service};

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
