//! Hosts outside, for people.

use std::collections::BTreeSet;

use heddle_policy_compiler::{CalledDestination, NamedBy, OutsideHost};

/// A host outside that an object names.
pub(super) fn named(of: &OutsideHost) -> String {
    let OutsideHost {
        name, port, object, ..
    } = of;
    let declared = match *name == *of.declared {
        true => String::new(),
        false => format!(" as {}", of.declared),
    };
    let way = match (of.tls, of.dialed_by_tls) {
        (true, _) => "TLS of the application".to_owned(),
        (false, Some(dialed)) => format!("HTTP, sent to port {dialed} by TLS of the sidecar"),
        (false, None) => "HTTP".to_owned(),
    };
    format!("{name} port {port}, outside, named by {object}{declared}: {way}")
}

/// An object that names a host for other calls.
fn named_by(of: &NamedBy) -> String {
    let NamedBy { object, port, .. } = of;
    let protocol = if of.tls { "TLS" } else { "HTTP" };
    match of.visible {
        true => format!("{object} names it at port {port} for {protocol}"),
        false => format!("{object} names it at port {port} for {protocol} of other namespaces"),
    }
}

/// A host outside that no object names for the call.
pub(super) fn unnamed(name: &str, port: u16, by: &BTreeSet<NamedBy>) -> String {
    let others: String = by.iter().map(|of| format!("; {}", named_by(of))).collect();
    format!("{name} port {port}, outside, which no ExternalService names for this call{others}")
}

/// The end of a call that leaves the mesh.
pub(super) fn leaves(request: &str, to: &CalledDestination) -> String {
    if let CalledDestination::External(of) = to {
        let (name, port) = (&of.name, of.dialed_by_tls.unwrap_or(of.port));
        return format!("{request} leaves the mesh, for port {port} of {name} as DNS has it");
    }
    format!("{request} leaves the mesh as it is")
}
