//! Compiles what differs. Each step says what the next ones must look at.

mod objects;
mod pods;
mod reach;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Compiled;
use super::changes::{Changes, Recompiled, Replaced};
use super::differences::Differences;
use super::reports::Source;
use crate::dependency::Dependency;
use crate::kinds::traffic_split::NamespaceSplits;
use crate::world::{NamespacedName, Shape, WorkloadRef, World};

/// Compiles a world, given the compile of another.
pub(super) fn update(old: &Compiled, world: &World) -> Compiled {
    if old.is_compiled() && old.world.is_same(world) {
        return Compiled {
            changes: Arc::default(),
            ..old.clone()
        };
    }
    let mut update = Update {
        old,
        world,
        all: false,
        differs: Differences::between(&old.world, world),
        new: Compiled {
            world: world.clone(),
            ..old.clone()
        },
        touched: BTreeSet::new(),
        replaced: Vec::new(),
        recompiled: Recompiled::default(),
        definitions: BTreeSet::new(),
        endpoints: BTreeSet::new(),
        divided: BTreeSet::new(),
        shapes: BTreeMap::new(),
        admitted: BTreeSet::new(),
        remarked: BTreeSet::new(),
        reach: BTreeSet::new(),
        gated: BTreeSet::new(),
    };
    // The kinds, in the order in which they need each other.
    update.settings();
    update.pods();
    update.services();
    update.splits();
    update.policies();
    update.inbound();
    update.reach();
    update.proxies();
    update.admissions();
    update.clients();
    update.finish()
}

struct Update<'a> {
    old: &'a Compiled,
    world: &'a World,
    /// Settings differ that everything depends on.
    all: bool,
    differs: Differences<'a>,
    new: Compiled,
    touched: BTreeSet<Dependency>,
    replaced: Vec<Replaced>,
    recompiled: Recompiled,
    /// Services with another definition.
    definitions: BTreeSet<NamespacedName>,
    /// Services with other endpoints, or other pods behind them.
    endpoints: BTreeSet<NamespacedName>,
    /// Services with another split in force.
    divided: BTreeSet<NamespacedName>,
    /// Workloads with shapes to compile. An empty set: a shape may be gone.
    shapes: BTreeMap<WorkloadRef, BTreeSet<Arc<Shape>>>,
    /// Services whose pods, or what these let in, differ.
    admitted: BTreeSet<NamespacedName>,
    /// Namespaces whose pods have something else to say about policies.
    remarked: BTreeSet<Arc<str>>,
    /// Namespaces with other shapes of pods.
    reach: BTreeSet<Arc<str>>,
    /// Services that let in others than before.
    gated: BTreeSet<NamespacedName>,
}

impl Update<'_> {
    fn touch(&mut self, dependency: Dependency) {
        if !self.all {
            self.touched.insert(dependency);
        }
    }

    fn touch_addresses<'i>(&mut self, ips: impl Iterator<Item = &'i IpAddr>) {
        for ip in ips {
            self.touch(Dependency::Address(ip.to_canonical()));
        }
    }

    /// The services whose split has one of these among its backends.
    fn with_backend(&self, backends: &BTreeSet<NamespacedName>) -> BTreeSet<NamespacedName> {
        let namespaces: BTreeSet<&Arc<str>> = backends.iter().map(|s| &s.namespace).collect();
        let splits = namespaces
            .into_iter()
            .filter_map(|ns| self.new.splits.get(ns));
        splits
            .flat_map(|splits: &Arc<NamespaceSplits>| splits.with_backend(backends))
            .cloned()
            .collect()
    }

    fn finish(mut self) -> Compiled {
        for namespace in std::mem::take(&mut self.remarked) {
            let statuses = self.new.policy_statuses(&namespace);
            let old = self.old.policies.get(&namespace);
            let old = old.into_iter().flat_map(|old| old.outcome.statuses.keys());
            self.new.set_statuses(old, statuses);
        }
        self.new
            .set_findings(Source::Injection, &self.world.injection);
        if !self.new.reported.ptr_eq(&self.old.reported) {
            self.new.findings = self.new.all_findings();
        }
        self.new.changes = Arc::new(Changes {
            all: self.all,
            touched: self.touched,
            replaced: if self.all { Vec::new() } else { self.replaced },
            recompiled: self.recompiled,
        });
        self.new
    }
}
