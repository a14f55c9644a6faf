//! The configuration of sidecars before and after a change.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heddle_policy_compiler::{
    Compiled, Destination, DestinationKind, Family, NamespacedName, PodRef, Scope, View,
    WorkloadRef, World,
};

use super::report::{Sidecars, Size};
use crate::flows::Flows;
use crate::sources::Outcome;

/// So many changes are listed.
const LISTED: usize = 10;

/// Compares the sidecars: one of each workload stands for the others. Its scope are the observed destinations.
pub fn compare(before: &Outcome, after: &Outcome, flows: &Flows) -> Sidecars {
    let mut sidecars = Sidecars {
        before: before.compiled.proxies.len(),
        after: after.compiled.proxies.len(),
        ..Sidecars::default()
    };
    let (old, new) = (by_workload(&before.compiled), by_workload(&after.compiled));
    let workloads: BTreeSet<&WorkloadRef> = old.keys().chain(new.keys()).collect();
    for workload in workloads {
        let side = |outcome: &Outcome, pods: &BTreeMap<WorkloadRef, Vec<PodRef>>| {
            let pods = pods.get(workload)?;
            let active = observed(&outcome.world, workload, flows);
            let view = view(&outcome.compiled, pods.first()?, &active)?;
            Some((pods.len(), view))
        };
        let (one, other) = (side(before, &old), side(after, &new));
        let size = |side: &Option<(usize, View)>| side.as_ref().map_or(0, |(_, view)| bytes(view));
        let count = |side: &Option<(usize, View)>| side.as_ref().map_or(0, |(count, _)| *count);
        let (bytes_before, bytes_after) = (size(&one), size(&other));
        sidecars.bytes_before += bytes_before * count(&one);
        sidecars.bytes_after += bytes_after * count(&other);
        let resources = different(one.as_ref().map(|of| &of.1), other.as_ref().map(|of| &of.1));
        if resources == 0 {
            continue;
        }
        let count = count(&one).max(count(&other));
        sidecars.changed += count;
        sidecars.largest.push(Size {
            workload: workload.to_string(),
            sidecars: count,
            before: bytes_before,
            after: bytes_after,
            resources,
        });
    }
    let weight = |size: &Size| Reverse(size.before.abs_diff(size.after));
    sidecars.largest.sort_by_key(weight);
    sidecars.largest.truncate(LISTED);
    sidecars
}

fn by_workload(compiled: &Compiled) -> BTreeMap<WorkloadRef, Vec<PodRef>> {
    let mut pods = BTreeMap::<_, Vec<_>>::new();
    for proxy in compiled.proxies.values() {
        let of_workload = pods.entry(proxy.workload()).or_default();
        of_workload.push(proxy.pod.clone());
    }
    pods
}

/// The destinations that a workload has called.
fn observed(world: &World, workload: &WorkloadRef, flows: &Flows) -> BTreeSet<Destination> {
    let own = flows.all.iter().filter(|flow| {
        *flow.source.namespace == *workload.namespace && *flow.source.name == *workload.name
    });
    let services = own.filter_map(|flow| {
        let to = &flow.destination;
        let name = NamespacedName::new(&to.namespace, &to.name);
        world.services().get(&name)
    });
    let destinations = services.flat_map(|service| {
        let first = service.cluster_ips.first();
        let family = match first {
            Some(IpAddr::V6(_)) => Family::V6,
            Some(IpAddr::V4(_)) | None => Family::V4,
        };
        service.ports.keys().map(move |port| Destination {
            kind: DestinationKind::Service,
            name: service.name.clone(),
            port: *port,
            family,
        })
    });
    destinations.collect()
}

fn view(compiled: &Compiled, pod: &PodRef, active: &BTreeSet<Destination>) -> Option<View> {
    let scope = Scope {
        active,
        draining: &BTreeSet::new(),
        granted: &BTreeSet::new(),
        retired: &BTreeSet::new(),
        denied: &BTreeSet::new(),
        tapped: false,
    };
    compiled.view(pod, &scope)
}

fn bytes(view: &View) -> usize {
    let resources = view.resources();
    resources.values().map(|resource| resource.body.len()).sum()
}

/// How many resources are on one side only, or differ.
fn different(one: Option<&View>, other: Option<&View>) -> usize {
    let resources = |view: Option<&View>| view.map(View::resources).unwrap_or_default();
    let (one, other) = (resources(one), resources(other));
    let changed = one.iter().filter(|(key, resource)| {
        let now = other.get(*key);
        now.is_none_or(|now| now.version != resource.version)
    });
    let added = other.keys().filter(|key| !one.contains_key(*key));
    changed.count() + added.count()
}
