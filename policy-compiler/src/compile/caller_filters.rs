//! Caller filters: the callers that every pod behind a service port denies. The port is then left out of these callers' scope.

use std::collections::{BTreeMap, BTreeSet};

use super::service_targets::target;
use super::templates::CompiledTemplate;
use super::validated::Validated;
use crate::authz::Admission;
use crate::traffic::Backend;
use crate::world::{Labels, PodTemplate, Port, Service, SpiffeId, selects};

/// The admissions of all templates of pods behind a port, none of them open to everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallerFilter(BTreeSet<Admission>);

impl CallerFilter {
    /// Returns whether every pod behind the port denies all requests of the caller.
    pub(crate) fn refuses(&self, caller: &SpiffeId) -> bool {
        !self.0.is_empty() && self.0.iter().all(|admission| !admission.admits(caller))
    }
}

/// The caller filters of a service. A port has no filter if one of its pods is open to all callers, or if it has no pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallerFilters {
    pub(crate) ports: BTreeMap<Port, CallerFilter>,
    /// Of the pods with labels that a split names.
    pub(crate) subsets: BTreeMap<(Port, Labels), CallerFilter>,
}

impl CallerFilters {
    pub(crate) fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.subsets.is_empty()
    }
}

/// Sums up the admissions of a service, given the templates that it selects.
pub(crate) fn caller_filters(
    service: &Service,
    validated: &Validated,
    pods: &[(&PodTemplate, &CompiledTemplate)],
) -> CallerFilters {
    let mut caller_filters = CallerFilters::default();
    for port in service.ports.values() {
        let of = |subset: Option<&Labels>| {
            let mut filter = CallerFilter::default();
            let chosen = pods.iter().filter(|(template, _)| {
                subset.is_none_or(|labels| selects(labels, &template.labels))
            });
            for (template, served) in chosen {
                // A caller cannot reach pods without the port.
                let Some(target) = target(&port.target, template) else {
                    continue;
                };
                let admission = Admission::of(served.config.input.authz(target));
                if admission.open() {
                    return None;
                }
                filter.0.insert(admission);
            }
            (!filter.0.is_empty()).then_some(filter)
        };
        caller_filters
            .ports
            .extend(of(None).map(|filter| (port.port, filter)));
        // Only splits name subsets.
        let rules = validated.rules(&service.name, port.port, None);
        for backend in rules.flat_map(|entry| entry.rule.backends()) {
            if let Backend::Subset(_, _, labels) = backend {
                let filter = of(Some(labels));
                let key = (port.port, labels.clone());
                caller_filters
                    .subsets
                    .extend(filter.map(|filter| (key, filter)));
            }
        }
    }
    caller_filters
}
