//! Runs the readers of the inputs that differ, kind by kind, and then the readers of their outputs that differ.

mod egress;
mod objects;
mod pods;
mod reach;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Compiled;
use super::callers_reach::namespace_findings;
use super::changes::{Changes, Recompiled, Replaced};
use super::differences::Differences;
use super::limiter::limiter_findings;
use super::reports::Source;
use super::telemetry::collector_findings;
use super::units::{Queue, UnitId};
use crate::dependency::Dependency;
use crate::validation::Recorder;
use crate::validation::inputs::UnitInput;
use crate::world::{PodTemplate, WorkloadRef, World};

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
        queue: Queue::default(),
        touched: BTreeSet::new(),
        replaced: Vec::new(),
        recompiled: Recompiled::default(),
    };
    update.settings();
    update.namespaces();
    update.pods();
    update.services();
    update.declared();
    while let Some(units) = update.queue.next() {
        update.run(&units);
        debug_assert!(
            update.queue.is_after(&units),
            "the readers of the outputs of {units:?} are not of later kinds; change the order of UnitId"
        );
    }
    update.proxies();
    update.finish()
}

struct Update<'a> {
    old: &'a Compiled,
    world: &'a World,
    /// The settings differ, and every unit is compiled.
    all: bool,
    differs: Differences<'a>,
    new: Compiled,
    /// The units that read a changed input and are not compiled yet.
    queue: Queue,
    touched: BTreeSet<Dependency>,
    replaced: Vec<Replaced>,
    recompiled: Recompiled,
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

    /// Queues every unit that reads a changed input.
    fn changed(&mut self, input: &UnitInput) {
        self.queue.add_readers(input, &self.new.readers);
    }

    /// Runs the function of a unit, and indexes its recorded reads.
    fn recorded<T>(&mut self, unit: &UnitId, run: impl FnOnce(&Recorder<'_>, &Compiled) -> T) -> T {
        let addresses = &self.new.addresses;
        let recorder = match unit.service() {
            Some(service) => Recorder::of_service(self.world, addresses, service),
            None => Recorder::new(self.world, addresses),
        };
        let output = run(&recorder, &self.new);
        let reads = recorder.into_reads();
        self.new.readers.set(unit, reads);
        output
    }

    /// Compiles units of one kind and namespace. Their readers are of later kinds.
    fn run(&mut self, units: &[UnitId]) {
        let mut templates: BTreeMap<WorkloadRef, BTreeSet<Arc<PodTemplate>>> = BTreeMap::new();
        let mut admitting = BTreeSet::new();
        for unit in units {
            match unit {
                UnitId::Policies(kind, namespace) => self.policies(*kind, namespace),
                UnitId::Template(template) => {
                    let templates = templates.entry(template.workload()).or_default();
                    templates.insert(Arc::clone(template));
                }
                UnitId::Reach(namespace) => self.reach(namespace),
                UnitId::Statuses(namespace) => self.statuses(namespace),
                UnitId::Admission(service) => _ = admitting.insert(service.clone()),
                UnitId::Clusters(service) => self.clusters(service),
                UnitId::Client(service) => self.client(service),
                UnitId::Callers(service) => self.callers(service),
                UnitId::Egress(namespace) => self.egress(namespace.as_ref()),
            }
        }
        self.templates(&templates);
        self.caller_filters(&admitting);
    }

    /// Queues the readers of the namespaces that came or went.
    fn namespaces(&mut self) {
        let names = std::mem::take(&mut self.differs.namespaces);
        if !names.is_empty() {
            self.changed(&UnitInput::Namespaces);
        }
        for name in names {
            self.changed(&UnitInput::Namespace(name));
        }
    }

    fn statuses(&mut self, namespace: &str) {
        let statuses = self.new.policy_statuses(namespace);
        let old = self.old.validated.before_feedback(namespace);
        self.new.set_statuses(old.keys(), statuses);
    }

    fn finish(mut self) -> Compiled {
        self.new
            .set_findings(Source::Injection, &self.world.injection);
        let findings = collector_findings(&self.new.settings, self.world);
        self.new.set_findings(Source::Collector, &findings);
        let findings = limiter_findings(&self.new.settings, self.world);
        self.new.set_findings(Source::Limiter, &findings);
        let findings = namespace_findings(&self.new.settings, self.world);
        self.new.set_findings(Source::Namespaces, &findings);
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
