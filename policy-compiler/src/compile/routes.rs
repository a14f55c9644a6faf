//! Route tables: the rules of a service port, attached, merged and sorted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::upstreams::ClusterAndEndpoints;
use crate::finding::ObjectRef;
use crate::kinds::policies::traffic_policy::{PortPolicy, RulePolicies};
use crate::traffic::{
    Action, Backend, Forward, HeaderPolicy, Mirror, Origins, Otherwise, RequestMatcher, Retries,
    RouteEntry, RoutePolicy, RouteRule, RouteTable, RuleId, TableUpstream, VirtualHost, Weight,
    WeightedBackend,
};
use crate::world::{NamespacedName, Port};

/// The table of a port: its rules, and the answer to all other requests. `ready`: the backends with a ready endpoint.
pub(super) fn table(
    (service, port): (&NamespacedName, Port),
    own: &ClusterAndEndpoints,
    (rules, otherwise): (&[&RouteEntry], Otherwise),
    mut upstreams: BTreeMap<Backend, TableUpstream>,
    ready: &BTreeSet<Backend>,
) -> RouteTable {
    let entries = rules.iter().map(|entry| canonical(entry, ready));
    let mut entries: Vec<RouteEntry> = entries.collect();
    if leaves_some(rules, otherwise) {
        let backend = Backend::Service(service.clone(), port);
        upstreams
            .entry(backend.clone())
            .or_insert_with(|| own.as_upstream());
        entries.push(whole_service(backend));
    }
    // No other tables differ with the endpoints.
    if rules.iter().all(|entry| entry.rule.session().is_none()) {
        upstreams
            .values_mut()
            .for_each(|upstream| upstream.ready = true);
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

/// Whether requests go to the service as a whole, because no rule takes them.
pub(super) fn leaves_some(rules: &[&RouteEntry], otherwise: Otherwise) -> bool {
    let all = rules.iter().any(|entry| entry.matcher.is_any());
    !all && otherwise == Otherwise::WholeService
}

/// Sets the policy of the port in every rule of its table, or that of the rule where policies name the route or the rule. The timeouts and
/// retries of a rule itself stay, faults of the policy take the place of its own, and its changes of headers come after those of the policy.
pub(super) fn with_policy<'a>(
    mut table: RouteTable,
    of_port: &PortPolicy<'a>,
    rules: &RulePolicies<'a>,
) -> RouteTable {
    let origins = &mut table.origins.rules;
    origins.extend(of_port.objects().cloned());
    let entries = table.hosts.iter_mut().flat_map(|host| &mut host.entries);
    for entry in entries {
        let of_rule = rules.policy(&entry.rule.id, of_port);
        let policy = of_rule.as_ref().unwrap_or(of_port);
        // No `..`: a new part has to be merged too, or to be named here as one that the policy replaces or does not have.
        let RoutePolicy {
            timeouts,
            retries,
            faults: _,
            cors: _,
        } = &entry.rule.policy;
        let mut merged = entry.rule.policy.clone();
        policy.set_in(&mut merged);
        merged.timeouts = timeouts.or(&merged.timeouts).without_zeros();
        if *retries != Retries::default() {
            merged.retries = retries.clone();
        }
        // Most ports have no policy, and share the rules of their objects.
        if policy.objects().next().is_none() && merged == entry.rule.policy {
            continue;
        }
        let rule = Arc::make_mut(&mut entry.rule);
        rule.policy = merged;
        rule.headers = policy.headers(&rule.headers);
        rule.origins.extend(policy.objects().cloned());
        if of_rule.is_some() {
            origins.extend(policy.objects().cloned());
        }
    }
    table
}

fn whole_service(backend: Backend) -> RouteEntry {
    let rule = RouteRule {
        id: RuleId::WholeService,
        action: Action::Forward(Forward::to(vec![WeightedBackend::new(backend, 1)])),
        headers: HeaderPolicy::default(),
        policy: RoutePolicy::default(),
        origins: BTreeSet::new(),
    };
    RouteEntry {
        matcher: RequestMatcher::default(),
        alternative: 0,
        rule: Arc::new(rule),
    }
}

/// The entry with the weights in force, and without properties that change no byte, so that tables of equal bytes are equal. The declared
/// weight of a backend stays where another one is in force.
fn canonical(entry: &RouteEntry, ready: &BTreeSet<Backend>) -> RouteEntry {
    let Action::Forward(forward) = &entry.rule.action else {
        return entry.clone();
    };
    let weights = forward.weights_in_force(|backend| ready.contains(backend));
    let takers = weights.iter().filter(|weight| weight.in_force > 0).count();
    let alone = takers == 1 && !weights.iter().any(|weight| weight.is_held());
    let backends = forward.backends.iter().zip(weights);
    let backends = backends.map(|(of, weight)| WeightedBackend {
        backend: without_reason(&of.backend),
        // Alone, it gets all requests by any weight.
        weight: match alone {
            true => Weight::of(weight.in_force.min(1)),
            false => weight,
        },
        headers: match weight.in_force {
            0 if forward.session.is_none() => HeaderPolicy::default(),
            _ => of.headers.clone(),
        },
    });
    let mirrors = forward.mirrors.iter();
    let valid = |of: &&Mirror| !matches!(of.backend, Backend::Invalid(_));
    let least = Forward {
        backends: backends.collect(),
        mirrors: mirrors.filter(valid).cloned().collect(),
        sticky: forward.sticky.clone().filter(|_| takers > 1),
        ..forward.clone()
    };
    if least == *forward {
        return entry.clone();
    }
    let rule = RouteRule {
        action: Action::Forward(least),
        ..(*entry.rule).clone()
    };
    RouteEntry {
        rule: Arc::new(rule),
        ..entry.clone()
    }
}

fn without_reason(backend: &Backend) -> Backend {
    match backend {
        Backend::Invalid(_) => Backend::Invalid(None),
        Backend::Service(..) | Backend::Subset(..) => backend.clone(),
    }
}
