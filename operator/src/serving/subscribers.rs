//! Reverse index of the views: finds the subscribers that a change concerns.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use heddle_policy_compiler::{Dependency, PodRef, WorkloadRef};
use heddle_xds_server::{Name, OnDemandRequests};
use tokio::sync::watch;

use super::retired::RetiredNames;
use super::{ServedView, pod_of};

/// An input of a view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ViewInput {
    /// Something compiled.
    Compiled(Dependency),
    /// The learned scope of the workload.
    Scope(WorkloadRef),
}

/// One proxy, whether it has a stream or not.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) pod: PodRef,
    pub(super) on_demand: Arc<OnDemandRequests>,
    /// The requests for which the current view was computed.
    answered: Arc<OnDemandRequests>,
    /// Set when a stream begins: the names of its first request are from earlier calls, and do not count as new.
    begins: bool,
    pub(super) retired: RetiredNames,
    pub(super) workload: Option<WorkloadRef>,
    /// The version of its bootstrap, as of its newest stream of resources; 0: before there were versions.
    pub(super) bootstrap: u32,
    pub(super) seen: Option<Arc<ServedView>>,
    /// Something that the view depends on has changed since.
    pub(super) stale: bool,
    /// When it last reported its loads.
    pub(super) reported: Option<Instant>,
    /// Ticks whenever the view has become stale.
    pub(super) tick: watch::Sender<u64>,
    inputs: Arc<BTreeSet<Dependency>>,
}

impl Subscriber {
    fn new(pod: PodRef) -> Self {
        Self {
            pod,
            on_demand: Arc::default(),
            answered: Arc::default(),
            begins: false,
            retired: RetiredNames::default(),
            workload: None,
            bootstrap: 0,
            seen: None,
            stale: true,
            reported: None,
            tick: watch::Sender::new(0),
            inputs: Arc::default(),
        }
    }

    /// A stream of the proxy begins; it ticks whenever the view has become stale.
    pub(super) fn begins(&mut self) -> watch::Receiver<u64> {
        self.begins = true;
        self.tick.subscribe()
    }

    /// Takes the on-demand requests of the proxy.
    pub(super) fn asks(&mut self, on_demand: &OnDemandRequests) {
        if std::mem::take(&mut self.begins) {
            let clusters = on_demand.clusters.clone();
            self.answered = Arc::new(OnDemandRequests {
                clusters,
                ..OnDemandRequests::default()
            });
        }
        if *self.on_demand != *on_demand {
            self.retired.asks(&self.on_demand, on_demand);
            self.on_demand = Arc::new(on_demand.clone());
            self.stale = true;
        }
    }

    /// Returns the inputs of the proxy's view.
    pub(super) fn request(&self) -> ViewRequest {
        ViewRequest {
            pod: self.pod.clone(),
            bootstrap: self.bootstrap,
            on_demand: Arc::clone(&self.on_demand),
            answered: Arc::clone(&self.answered),
            retired: Arc::clone(self.retired.names()),
            overflow: self
                .seen
                .as_ref()
                .map(|seen| Arc::clone(&seen.overflow))
                .unwrap_or_default(),
        }
    }
}

/// The inputs of a view that are specific to the proxy.
#[derive(Debug)]
pub(super) struct ViewRequest {
    pub(super) pod: PodRef,
    pub(super) bootstrap: u32,
    pub(super) on_demand: Arc<OnDemandRequests>,
    /// The requests at the last computation.
    pub(super) answered: Arc<OnDemandRequests>,
    /// The retired names among the requested ones.
    pub(super) retired: Arc<BTreeSet<Name>>,
    /// The names that the last view grants beyond the scope of the workload.
    pub(super) overflow: Arc<BTreeSet<Name>>,
}

/// All subscribers, and the dependencies of their views.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    pub(super) all: HashMap<Name, Subscriber>,
    by_input: HashMap<ViewInput, HashSet<Name>>,
    /// Subscribers with a view replaced or made stale since the last [`Subscribers::take_changed`].
    changed: BTreeSet<Name>,
}

impl Subscribers {
    /// The subscriber of that name, new if need be; `None` if it can be no pod's.
    pub(super) fn entry(&mut self, name: &Name) -> Option<&mut Subscriber> {
        if !self.all.contains_key(name) {
            self.all
                .insert(Name::clone(name), Subscriber::new(pod_of(name)?));
        }
        self.all.get_mut(name)
    }

    /// Starts the computation of a view. Returns the current view, and the tick that [`Subscribers::keep`] takes.
    pub(super) fn begin(
        &mut self,
        name: &Name,
        workload: &WorkloadRef,
    ) -> Option<(Option<Arc<ServedView>>, u64)> {
        let subscriber = self.all.get_mut(name)?;
        if subscriber.workload.as_ref() != Some(workload) {
            let before = subscriber.workload.replace(workload.clone());
            if let Some(before) = before {
                forget(&mut self.by_input, &ViewInput::Scope(before), name);
            }
            note(&mut self.by_input, ViewInput::Scope(workload.clone()), name);
        }
        Some((subscriber.seen.clone(), *subscriber.tick.borrow()))
    }

    /// Stores a view with its dependencies. The view is stale already if the subscriber was touched since
    /// [`Subscribers::begin`].
    pub(super) fn keep(
        &mut self,
        name: &Name,
        request: &ViewRequest,
        seen: Arc<ServedView>,
        begun: u64,
    ) {
        let Some(subscriber) = self.all.get_mut(name) else {
            return;
        };
        // The requests changed in between. The call that changed them computes the view, too.
        if !Arc::ptr_eq(&subscriber.on_demand, &request.on_demand) {
            return;
        }
        subscriber.answered = Arc::clone(&request.on_demand);
        subscriber.retired.seen(&seen, &request.retired);
        // Mostly the inputs are the same, and nothing is to be done.
        if subscriber.inputs != seen.depends {
            let before = std::mem::replace(&mut subscriber.inputs, Arc::clone(&seen.depends));
            for gone in before.difference(&seen.depends) {
                forget(&mut self.by_input, &ViewInput::Compiled(gone.clone()), name);
            }
            for new in seen.depends.difference(&before) {
                note(&mut self.by_input, ViewInput::Compiled(new.clone()), name);
            }
        }
        subscriber.seen = Some(seen);
        subscriber.stale = *subscriber.tick.borrow() != begun;
    }

    /// Something changed: the views that depend on it are stale, and their streams are told.
    pub(super) fn touch(&mut self, input: &ViewInput) {
        for name in self.by_input.get(input).into_iter().flatten() {
            if let Some(subscriber) = self.all.get_mut(name) {
                wake(subscriber);
                self.changed.insert(Name::clone(name));
            }
        }
    }

    /// Handles a change that determines the new views: `with` returns the new view, or `None` if the change does not
    /// concern it. Streams are woken if their view is replaced.
    pub(super) fn replace(
        &mut self,
        input: &ViewInput,
        with: impl Fn(&ServedView) -> Option<ServedView>,
    ) {
        for name in self.by_input.get(input).into_iter().flatten() {
            let Some(subscriber) = self.all.get_mut(name) else {
                continue;
            };
            let seen = subscriber.seen.as_ref().filter(|_| !subscriber.stale);
            if let Some(seen) = seen.and_then(|seen| with(seen)) {
                subscriber.seen = Some(Arc::new(seen));
                subscriber.tick.send_modify(|tick| *tick += 1);
                self.changed.insert(Name::clone(name));
            }
        }
    }

    /// The same as [`Subscribers::touch`] for one.
    pub(super) fn touch_one(&mut self, name: &Name) {
        if let Some(subscriber) = self.all.get_mut(name) {
            wake(subscriber);
            self.changed.insert(Name::clone(name));
        }
    }

    /// A proxy has acknowledged the clusters of these names, and their listeners; see [`RetiredNames::acknowledged`].
    pub(super) fn acknowledged(&mut self, name: &Name, names: &BTreeSet<&Name>) {
        if let Some(subscriber) = self.all.get_mut(name)
            && subscriber.retired.acknowledged(names, Instant::now())
        {
            self.touch_one(name);
        }
    }

    /// Everything changed.
    pub(super) fn touch_all(&mut self) {
        for (name, subscriber) in &mut self.all {
            wake(subscriber);
            self.changed.insert(Name::clone(name));
        }
    }

    /// Returns the subscribers with a view that may have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets a subscriber that has no stream and will not come back.
    pub(super) fn remove(&mut self, name: &Name) {
        if self
            .all
            .get(name)
            .is_none_or(|subscriber| subscriber.tick.receiver_count() > 0)
        {
            return;
        }
        if let Some(subscriber) = self.all.remove(name) {
            for input in &*subscriber.inputs {
                forget(
                    &mut self.by_input,
                    &ViewInput::Compiled(input.clone()),
                    name,
                );
            }
            if let Some(workload) = subscriber.workload {
                forget(&mut self.by_input, &ViewInput::Scope(workload), name);
            }
        }
        self.changed.remove(name);
    }

    /// The subscribers with a view that depends on something compiled.
    pub(super) fn depending(&self, on: Dependency) -> impl Iterator<Item = &Name> {
        let names = self.by_input.get(&ViewInput::Compiled(on));
        names.into_iter().flatten()
    }

    /// The subscribers of a workload.
    pub(super) fn of_workload(&self, workload: &WorkloadRef) -> impl Iterator<Item = &Subscriber> {
        let names = self.by_input.get(&ViewInput::Scope(workload.clone()));
        names
            .into_iter()
            .flatten()
            .filter_map(|name| self.all.get(name))
    }
}

fn wake(subscriber: &mut Subscriber) {
    subscriber.stale = true;
    subscriber.tick.send_modify(|tick| *tick += 1);
}

fn note(by_input: &mut HashMap<ViewInput, HashSet<Name>>, input: ViewInput, name: &Name) {
    by_input.entry(input).or_default().insert(Name::clone(name));
}

fn forget(by_input: &mut HashMap<ViewInput, HashSet<Name>>, input: &ViewInput, name: &Name) {
    if let Some(names) = by_input.get_mut(input) {
        names.remove(name);
        if names.is_empty() {
            by_input.remove(input);
        }
    }
}
