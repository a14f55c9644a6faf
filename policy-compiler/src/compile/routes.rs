//! Route tables: the rules of a service port, attached, merged and sorted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::upstreams::ClusterAndEndpoints;
use crate::finding::ObjectRef;
use crate::kinds::policies::traffic_policy::PortPolicy;
use crate::traffic::{
    Action, Backend, Edits, Forward, Origins, Otherwise, RequestMatcher, RouteEntry, RoutePolicy,
    RouteRule, RouteTable, RuleId, TableUpstream, VirtualHost, WeightedBackend,
};
use crate::world::{NamespacedName, Port};

/// The table of a port: its rules, and the answer to all other requests.
pub(super) fn table(
    (service, port): (&NamespacedName, Port),
    own: &ClusterAndEndpoints,
    (rules, otherwise): (&[&RouteEntry], Otherwise),
    mut upstreams: BTreeMap<Backend, TableUpstream>,
) -> RouteTable {
    let mut entries: Vec<RouteEntry> = rules
        .iter()
        .map(|entry| without_odd_weight(entry))
        .collect();
    let all = rules.iter().any(|entry| entry.matcher.is_any());
    if !all && otherwise == Otherwise::WholeService {
        let backend = Backend::Service(service.clone(), port);
        upstreams
            .entry(backend.clone())
            .or_insert_with(|| own.as_upstream());
        entries.push(whole_service(backend));
    }
    let objects: BTreeSet<ObjectRef> = rules
        .iter()
        .flat_map(|entry| entry.rule.origins.iter().cloned())
        .collect();
    RouteTable {
        name: Arc::clone(own.name()),
        hosts: vec![VirtualHost::any(entries)],
        upstreams,
        mirrors: BTreeMap::new(),
        origins: Origins {
            service: service.clone(),
            rules: objects,
        },
    }
}

/// Sets the policy of the port in every rule of its table. The timeouts of a rule itself stay.
pub(super) fn with_policy(mut table: RouteTable, policy: &PortPolicy<'_>) -> RouteTable {
    let entries = table.hosts.iter_mut().flat_map(|host| &mut host.entries);
    for entry in entries {
        let rule = Arc::make_mut(&mut entry.rule);
        let own = rule.policy.timeouts.clone();
        policy.set_in(&mut rule.policy);
        rule.policy.timeouts = own.or(&rule.policy.timeouts);
        rule.origins.extend(policy.objects().cloned());
    }
    table.origins.rules.extend(policy.objects().cloned());
    table
}

fn whole_service(backend: Backend) -> RouteEntry {
    let rule = RouteRule {
        id: RuleId::WholeService,
        action: Action::Forward(Forward::to(vec![WeightedBackend::new(backend, 1)])),
        edits: Edits::default(),
        policy: RoutePolicy::default(),
        origins: BTreeSet::new(),
    };
    RouteEntry {
        matcher: RequestMatcher::default(),
        alternative: 0,
        rule: Arc::new(rule),
    }
}

/// The weight of the only backend that has one says nothing: tables that differ in it alone are equal.
fn without_odd_weight(entry: &RouteEntry) -> RouteEntry {
    let Action::Forward(forward) = &entry.rule.action else {
        return entry.clone();
    };
    let weighted = forward.weighted();
    if weighted.clone().count() != 1 || weighted.clone().all(|backend| backend.weight == 1) {
        return entry.clone();
    }
    let backends = forward.backends.iter().map(|backend| WeightedBackend {
        weight: backend.weight.min(1),
        ..backend.clone()
    });
    let rule = RouteRule {
        action: Action::Forward(Forward {
            backends: backends.collect(),
            ..forward.clone()
        }),
        ..(*entry.rule).clone()
    };
    RouteEntry {
        rule: Arc::new(rule),
        ..entry.clone()
    }
}
