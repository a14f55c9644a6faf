//! The rules that policies of a kind attach to a service.

use std::collections::BTreeMap;

use crate::traffic::{Backend, Otherwise, RouteEntry};
use crate::validation::inputs::UnitInput;
use crate::world::{NamespacedName, Port};

/// The rules of a service by port, in the order of the names of their objects.
pub(crate) type ServiceRules = BTreeMap<Port, Vec<RouteEntry>>;

/// The facts of the rules of a port that decide which callers may use it. Weights alone are none.
#[derive(PartialEq, Eq)]
struct Access<'a> {
    port: Port,
    backends: Vec<&'a Backend>,
    /// Whether requests that no rule takes go to the service as a whole.
    whole: bool,
    /// Whether the caller's sidecar answers some requests by itself.
    answers: bool,
}

/// Returns the inputs that differ with the rules of a service beside the rules themselves. `otherwise` is for requests that no rule takes.
pub(super) fn narrower_inputs(
    service: &NamespacedName,
    old: Option<&ServiceRules>,
    new: Option<&ServiceRules>,
    otherwise: Otherwise,
) -> Vec<UnitInput> {
    if of_service(old, otherwise) == of_service(new, otherwise) {
        return Vec::new();
    }
    vec![UnitInput::Backends(service.clone())]
}

fn of_service(rules: Option<&ServiceRules>, otherwise: Otherwise) -> Vec<Access<'_>> {
    let ports = rules.into_iter().flatten();
    ports
        .map(|(port, of)| access(*port, of, otherwise))
        .collect()
}

fn access(port: Port, rules: &[RouteEntry], otherwise: Otherwise) -> Access<'_> {
    let all = rules.iter().any(|entry| entry.matcher.is_any());
    Access {
        port,
        backends: rules
            .iter()
            .flat_map(|entry| entry.rule.backends())
            .collect(),
        whole: !all && otherwise == Otherwise::WholeService,
        answers: rules.iter().any(|entry| entry.rule.answers())
            || (!all && otherwise == Otherwise::NotFound),
    }
}
