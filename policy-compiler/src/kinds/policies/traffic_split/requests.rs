//! The fields of a `TrafficSplit` that concern requests only, on ports that do not carry HTTP.

use heddle_crds::{TrafficSplitSpec, reason};

use super::backends::claimed;
use crate::finding::{Finding, ObjectRef};
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::world::{Protocol, Service};

/// The fields that are set. A split with `matches` claims no other ports, so that none of them is in vain.
fn fields(spec: &TrafficSplitSpec) -> Vec<&'static str> {
    // All fields are named, so that a new one is either below or has a meaning for connections, too.
    let TrafficSplitSpec {
        service: _,
        port: _,
        matches,
        backends: _,
        mirrors,
        sticky,
    } = spec;
    let all = [
        ("mirrors", !mirrors.is_empty()),
        ("sticky", sticky.is_some()),
    ];
    let set = all
        .into_iter()
        .filter(|(_, set)| *set && matches.is_empty());
    set.map(|(name, _)| name).collect()
}

/// The fault of a split of which no port carries HTTP.
pub(super) fn check(spec: &TrafficSplitSpec, service: Option<&Service>) -> Option<ValidationError> {
    let ports = claimed(spec, service);
    let field = fields(spec).first().copied()?;
    if ports.is_empty() || ports.iter().any(|port| port.protocol == Protocol::Http) {
        return None;
    }
    let service = service.map_or_else(String::new, |service| service.name.to_string());
    let which = match spec.port {
        Some(port) => format!("port {port} of service {service}"),
        None => format!("service {service}"),
    };
    Some(ValidationError::invalid(
        format!("spec.{field}"),
        format!("{which} does not carry HTTP, and the field is about requests"),
        "remove it, or declare HTTP by appProtocol or the name of the port",
    ))
}

/// Reports the ports of bytes beside those that carry HTTP.
pub(super) fn finding(
    object: &ObjectRef,
    spec: &TrafficSplitSpec,
    service: Option<&Service>,
) -> Option<Finding> {
    let fields = fields(spec);
    let field = fields.first()?;
    let mut ports = claimed(spec, service);
    ports.retain(|port| port.protocol != Protocol::Http);
    let numbers: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
    let message = format!(
        "port {} of service {} does not carry HTTP and has no {}",
        numbers.join(", "),
        spec.service,
        fields.join(", ")
    );
    let finding = Finding::info(object, format!("spec.{field}"), reason::NOT_HTTP, message);
    (!ports.is_empty()).then(|| finding.fix(DECLARE_HTTP))
}
