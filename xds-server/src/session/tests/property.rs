//! Random worlds, random edits, random delays, disconnections and rejections: in every case, a client never receives a
//! resource that refers to one it does not have, nothing waits forever, and in the end both sides agree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use proptest::prelude::*;

use super::super::*;
use super::model::{Client, body};
use crate::resource::Part;
use crate::transport::reference;

const SERVICES: usize = 4;

/// One service: a cluster with endpoints, and if it is exposed a listener, a route and an on-demand cluster.
#[derive(Clone, Debug, Default)]
struct Service {
    exists: bool,
    exposed: bool,
    tcp: bool,
    cluster: u8,
    endpoints: u8,
    listener: u8,
    /// The services that its route sends to, besides itself.
    backends: BTreeSet<usize>,
    bad: Option<ResourceKind>,
}

type World = [Service; SERVICES];

#[derive(Clone, Debug)]
enum Step {
    Edit(usize, Edit),
    Want(usize),
    ToServer,
    ToClient,
    Settle,
    Late,
    Drain,
    Reconnect,
    Restart,
    Regroup(Grouping),
}

/// How the resources of a view are put into parts.
#[derive(Clone, Copy, Debug, Default)]
struct Grouping {
    /// Each resource goes to one part of these many, or for some to two.
    parts: u8,
    seed: u8,
    /// Nothing is shared with the views of before, though the content is the same.
    anew: bool,
}

#[derive(Clone, Debug)]
enum Edit {
    Exists(bool),
    Exposed(bool, bool),
    Version(ResourceKind),
    Backends(BTreeSet<usize>),
    Bad(Option<ResourceKind>),
}

fn kinds() -> impl Strategy<Value = ResourceKind> {
    // The compiled services have no runtime layer.
    let mut kinds = ResourceKind::ALL.to_vec();
    kinds.retain(|kind| *kind != ResourceKind::Runtime);
    prop::sample::select(kinds)
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => any::<bool>().prop_map(Edit::Exists),
        2 => any::<(bool, bool)>().prop_map(|(exposed, tcp)| Edit::Exposed(exposed, tcp)),
        4 => kinds().prop_map(Edit::Version),
        3 => prop::collection::btree_set(0..SERVICES, 0..3).prop_map(Edit::Backends),
        1 => prop::option::of(kinds()).prop_map(Edit::Bad),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SERVICES, edit()).prop_map(|(at, edit)| Step::Edit(at, edit)),
        2 => (0..SERVICES).prop_map(Step::Want),
        10 => Just(Step::ToServer),
        10 => Just(Step::ToClient),
        2 => Just(Step::Settle),
        1 => Just(Step::Late),
        1 => Just(Step::Drain),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Restart),
        3 => (0_u8..6, any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(parts, seed, anew)| Step::Regroup(Grouping { parts, seed, anew })),
    ]
}

fn apply(world: &mut World, at: usize, edit: Edit) {
    let service = &mut world[at];
    match edit {
        Edit::Exists(exists) => service.exists = exists,
        Edit::Exposed(exposed, tcp) => (service.exposed, service.tcp) = (exposed, tcp),
        Edit::Version(ResourceKind::Cluster) => service.cluster = service.cluster.wrapping_add(1),
        Edit::Version(ResourceKind::Endpoints) => {
            service.endpoints = service.endpoints.wrapping_add(1)
        }
        Edit::Version(
            ResourceKind::Listener
            | ResourceKind::Route
            | ResourceKind::Extension
            | ResourceKind::Runtime,
        ) => {
            service.listener = service.listener.wrapping_add(1);
        }
        Edit::Backends(backends) => service.backends = backends,
        Edit::Bad(bad) => service.bad = bad,
    }
}

fn on_demand(i: usize) -> String {
    format!("dst|{i}")
}

fn key(kind: ResourceKind, i: usize) -> ResourceKey {
    ResourceKey::new(kind, format!("s{i}"))
}

/// A view in the making, as the compiler makes it: consistent in itself, and with requirements for all that is referred to.
#[derive(Default)]
struct Compiled(BTreeMap<ResourceKey, Arc<Resource>>);

impl Compiled {
    fn add(
        &mut self,
        key: ResourceKey,
        bad: Option<ResourceKind>,
        seed: u8,
        refers: &[ResourceKey],
        requires: &[ResourceKey],
    ) {
        let fixed = key.name.starts_with("dst|");
        let body = body(bad == Some(key.kind) && !fixed, fixed, refers);
        let version = format!("{seed}/{}", body.replace('\n', ",")).into();
        let (body, requires) = (body.into_bytes().into(), requires.to_vec());
        let empty = key.kind == ResourceKind::Endpoints && seed.is_multiple_of(3);
        let resource = Resource {
            key: key.clone(),
            version,
            body,
            requires,
            empty,
        };
        self.0.insert(key, Arc::new(resource));
    }

    fn expose(&mut self, i: usize, world: &World, wanted: &BTreeSet<Name>) {
        use ResourceKind::{Cluster, Endpoints, Extension, Listener, Route};
        let (service, bad) = (&world[i], world[i].bad);
        let backends = service.backends.iter().copied();
        let backends: BTreeSet<usize> = backends.filter(|b| world[*b].exists).chain([i]).collect();
        let clusters: Vec<_> = backends.iter().map(|b| key(Cluster, *b)).collect();
        let endpoints = backends.iter().map(|b| key(Endpoints, *b));
        let targets: Vec<_> = clusters.iter().cloned().chain(endpoints).collect();
        let mut ready = targets.clone();
        ready.push(key(Listener, i));
        if service.tcp {
            let seed = service.listener;
            let extension = key(Extension, i);
            let refers: Vec<_> = clusters.iter().chain([&extension]).cloned().collect();
            self.add(key(Listener, i), bad, 0, &refers, &targets);
            self.add(extension, bad, seed, &clusters, &targets);
        } else {
            let route = [key(Route, i)];
            self.add(key(Listener, i), bad, 0, &route, &route);
            self.add(key(Route, i), bad, service.listener, &clusters, &targets);
            ready.extend(route);
        }
        if wanted.contains(&*on_demand(i)) {
            let on_demand = ResourceKey::new(Cluster, on_demand(i));
            self.add(on_demand, None, 0, &ready, &ready);
        }
    }
}

type Resources = BTreeMap<ResourceKey, Arc<Resource>>;

fn compile(world: &World, wanted: &BTreeSet<Name>) -> Resources {
    use ResourceKind::{Cluster, Endpoints};
    let mut compiled = Compiled::default();
    for (i, service) in world.iter().enumerate().filter(|(_, s)| s.exists) {
        compiled.add(key(Cluster, i), service.bad, service.cluster, &[], &[]);
        compiled.add(key(Endpoints, i), service.bad, service.endpoints, &[], &[]);
        if service.exposed {
            compiled.expose(i, world, wanted);
        }
    }
    compiled.0
}

type Identity = (ResourceKey, Arc<str>);

/// The resources and parts served before, so that an unchanged one is the same `Arc` again.
#[derive(Default)]
struct Memory {
    resources: BTreeMap<Identity, Arc<Resource>>,
    parts: BTreeMap<(usize, Vec<Identity>), Arc<Part>>,
}

impl Memory {
    /// A view with its resources in parts, in any order.
    fn view(
        &mut self,
        resources: &Resources,
        grouping: Grouping,
        on_demand: &OnDemandRequests,
    ) -> View {
        let count = usize::from(grouping.parts) + 1;
        let mut groups = vec![Vec::new(); count];
        for (i, (key, resource)) in resources.iter().enumerate() {
            let identity = (key.clone(), Arc::clone(&resource.version));
            let shared = self.resources.entry(identity);
            let resource = shared.or_insert_with(|| Arc::clone(resource));
            let mixed = key.name.len() + key.kind as usize * 7 + i + usize::from(grouping.seed);
            groups[mixed % count].push(Arc::clone(resource));
            if mixed.is_multiple_of(3) && count > 1 {
                groups[(mixed + 1) % count].push(Arc::clone(resource));
            }
        }
        let parts = groups.into_iter().enumerate().map(|(at, group)| {
            let identity = |r: &Arc<Resource>| (r.key.clone(), Arc::clone(&r.version));
            // Every part is as one compiled alone would be: sharing goes by content, and now and then by place as well.
            let place = if at.is_multiple_of(2) { 0 } else { at };
            let identity = (place, group.iter().map(identity).collect());
            let part = self.parts.entry(identity).or_insert_with(|| {
                let resources = group.into();
                Arc::new(Part { resources })
            });
            Arc::clone(part)
        });
        let mut parts: Vec<_> = parts.collect();
        parts.rotate_left(usize::from(grouping.seed) % count);
        let cluster = |name: &Name| ResourceKey::new(ResourceKind::Cluster, Name::clone(name));
        let absent = on_demand.clusters.iter();
        let absent = absent.filter(|name| !resources.contains_key(&cluster(name)));
        View {
            parts,
            absent: absent.cloned().collect(),
            since: None,
        }
    }
}

struct Pair {
    world: World,
    client: Client,
    session: Session,
    memory: Memory,
    grouping: Grouping,
    to_client: VecDeque<DeltaDiscoveryResponse>,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            world: World::default(),
            client: Client::default(),
            session: Session::new(Flavor::Delta, Limits::default()),
            memory: Memory::default(),
            grouping: Grouping::default(),
            to_client: VecDeque::new(),
        };
        pair.reconnect();
        pair
    }

    fn reconnect(&mut self) {
        self.session = Session::new(Flavor::Delta, Limits::default());
        self.to_client.clear();
        self.client.connect();
        self.refresh();
    }

    fn refresh(&mut self) {
        let on_demand = Arc::clone(self.session.on_demand());
        let resources = compile(&self.world, &on_demand.clusters);
        let view = self.memory.view(&resources, self.grouping, &on_demand);
        self.session.set_view(Arc::new(view));
        self.poll();
    }

    fn poll(&mut self) {
        let pushes = self.session.poll();
        self.to_client.extend(pushes.iter().map(reference::delta));
        self.session.take_sync_states();
        // As the whole view has it.
        let resources = self.session.view().unwrap().resources();
        let lacks = |r: &&Arc<Resource>| !self.session.channels.get(r.key.kind).holds(r);
        let lacking: Vec<_> = resources.values().filter(lacks).map(|r| &r.key).collect();
        let unacknowledged = self.session.unacknowledged();
        assert_eq!(unacknowledged.keys().collect::<Vec<_>>(), lacking);
    }

    fn forward(&mut self) -> bool {
        let Some(request) = self.client.out.pop_front() else {
            return false;
        };
        if self
            .session
            .delta_request(&request)
            .unwrap()
            .on_demand_changed
        {
            self.refresh();
        }
        self.poll();
        true
    }

    fn deliver(&mut self) -> bool {
        let Some(response) = self.to_client.pop_front() else {
            return false;
        };
        self.client.receive(&response);
        true
    }

    /// Exchanges all there is to say. Not ending is a fault too.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.forward() || self.deliver() {
                continue;
            }
            if !self.session.is_resyncing() {
                return;
            }
            self.session.end_resync();
            self.poll();
        }
        panic!("the two never come to rest");
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Edit(at, edit) => {
                apply(&mut self.world, at, edit);
                self.refresh();
            }
            Step::Want(i) => self.client.want(&on_demand(i)),
            Step::ToServer => drop(self.forward()),
            Step::ToClient => drop(self.deliver()),
            Step::Settle => self.settle(),
            Step::Late => {
                self.session.end_route_waits();
                self.poll();
            }
            Step::Drain => self.client.drain(),
            Step::Regroup(grouping) => {
                self.grouping = grouping;
                if grouping.anew {
                    self.memory = Memory::default();
                }
                self.refresh();
            }
            Step::Reconnect => self.reconnect(),
            Step::Restart => {
                let faults = std::mem::take(&mut self.client.faults);
                self.client = Client::default();
                self.client.faults = faults;
                self.reconnect();
            }
        }
    }

    /// After all has been said: everything that nothing bad stands in the way of is there, and nothing else.
    fn check(&self, healthy: bool) {
        let view = compile(&self.world, &self.session.on_demand().clusters);
        for (key, resource) in &view {
            let held = self
                .client
                .held
                .get(key)
                .map(|h| h.version.split('@').next().unwrap());
            if reachable(&view, key) {
                assert_eq!(
                    held,
                    Some(&*resource.version),
                    "{key} is not in sync; waiting: {:?}",
                    self.session.waiting()
                );
            }
        }
        if healthy {
            let surplus: Vec<_> = self
                .client
                .held
                .keys()
                .filter(|key| !view.contains_key(key))
                .collect();
            assert!(surplus.is_empty(), "the client still holds {surplus:?}");
            let cold: Vec<_> = self.client.held.iter().filter(|(_, h)| !h.warm).collect();
            assert!(cold.is_empty(), "clusters left in warming: {cold:?}");
            assert_eq!(self.session.answered_views(), self.session.views());
        }
    }
}

fn is_bad(resource: &Resource) -> bool {
    resource.body.starts_with(b"!")
}

/// Whether nothing that the resource needs, or that has to ask for it, is bad.
fn reachable(view: &Resources, key: &ResourceKey) -> bool {
    use ResourceKind::{Cluster, Endpoints, Extension, Listener, Route, Runtime};
    let Some(resource) = view.get(key) else {
        return true;
    };
    let asked_by = match key.kind {
        Endpoints => Some(ResourceKey::new(Cluster, key.name.clone())),
        Route | Extension => Some(ResourceKey::new(Listener, key.name.clone())),
        Cluster | Listener | Runtime => None,
    };
    let asker_is_bad = asked_by
        .and_then(|by| view.get(&by))
        .is_some_and(|by| is_bad(by));
    // A listener waits for a bad route or not, depending on whether the client has one already: the test claims nothing.
    !is_bad(resource)
        && !asker_is_bad
        && resource
            .requires
            .iter()
            .all(|required| reachable(view, required))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_agree_in_the_end(steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.take(step);
            prop_assert_eq!(&pair.client.faults, &Vec::<String>::new());
        }
        pair.settle();
        pair.check(false);
        // And once nothing is bad any more, all is as in the view.
        for service in &mut pair.world {
            service.bad = None;
        }
        pair.refresh();
        for _ in 0..3 {
            pair.settle();
            pair.client.drain();
        }
        pair.settle();
        pair.check(true);
        prop_assert_eq!(&pair.client.faults, &Vec::<String>::new());
    }
}
