//! Memo tables: equal inputs share one value, which is made once.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::finding::ObjectRef;
use crate::resource::{Part, Resource, ResourceKey, RuleOrigins};

/// All inputs of a resource, and the way to make the resource from them.
pub(crate) trait Recipe: PartialEq {
    fn make(&self) -> Arc<Resource>;
}

/// A resource that is made on first use. Equal recipes make equal resources, so a comparison needs no bytes.
#[derive(Debug)]
pub(crate) struct Lazy<R> {
    recipe: R,
    made: OnceLock<Arc<Resource>>,
}

impl<R: Recipe> Lazy<R> {
    pub(crate) const fn new(recipe: R) -> Self {
        Self {
            recipe,
            made: OnceLock::new(),
        }
    }

    pub(crate) const fn recipe(&self) -> &R {
        &self.recipe
    }

    pub(crate) fn resource(&self) -> Arc<Resource> {
        Arc::clone(self.made.get_or_init(|| self.recipe.make()))
    }
}

impl<R: PartialEq> PartialEq for Lazy<R> {
    fn eq(&self, other: &Self) -> bool {
        #[cfg(test)]
        tests::count();
        self.recipe == other.recipe
    }
}

impl<R: Eq> Eq for Lazy<R> {}

impl<R: Ord> PartialOrd for Lazy<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Ord> Ord for Lazy<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        #[cfg(test)]
        tests::count();
        self.recipe.cmp(&other.recipe)
    }
}

/// The values of one unit, those of its last run and those that this run has made: equal values are one shared value. A search compares with few
/// of them, however many there are.
#[derive(Debug)]
pub(crate) struct Shared<T>(BTreeSet<Arc<T>>);

impl<T: Ord> Shared<T> {
    /// Adds a value of the last run.
    pub(crate) fn add(&mut self, old: &Arc<T>) {
        if !self.0.contains(old) {
            self.0.insert(Arc::clone(old));
        }
    }

    /// Returns the shared value that equals the new one.
    pub(crate) fn of(&mut self, new: T) -> Arc<T> {
        if let Some(same) = self.0.get(&new) {
            return Arc::clone(same);
        }
        let new = Arc::new(new);
        self.0.insert(Arc::clone(&new));
        new
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

/// Below this many entries nothing is swept.
const SMALL: usize = 64;

/// Parts (or other shared values) by all of their inputs, for as long as they are referenced elsewhere.
pub(crate) struct Memo<I, T = Part>(Mutex<MemoTable<I, T>>);

struct MemoTable<I, T> {
    all: BTreeMap<I, Weak<T>>,
    /// The number of entries after the last sweep.
    after_sweep: usize,
}

impl<I: Ord, T> Memo<I, T> {
    /// Returns the value for this input, and makes it if there is none.
    pub(crate) fn of(&self, input: I, make: impl FnOnce(&I) -> T) -> Arc<T> {
        // Making is pure, so a panic elsewhere cannot have left half of it behind.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.all.get(&input).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(make(&input));
        known.all.insert(input, Arc::downgrade(&made));
        if known.all.len() >= SMALL.max(known.after_sweep.saturating_mul(2)) {
            known.all.retain(|_, made| made.strong_count() > 0);
            known.after_sweep = known.all.len();
        }
        made
    }
}

impl<I, T> Default for Memo<I, T> {
    fn default() -> Self {
        Self(Mutex::new(MemoTable {
            all: BTreeMap::new(),
            after_sweep: 0,
        }))
    }
}

impl<I, T> fmt::Debug for Memo<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}

/// The content of a resource. The version, a hash, stands for the bytes.
type ContentKey = (
    ResourceKey,
    Arc<str>,
    Vec<ResourceKey>,
    BTreeSet<ObjectRef>,
    Vec<RuleOrigins>,
);

/// Parts and resources by content: equal content is one shared value, even from different inputs.
#[derive(Debug, Default)]
pub(crate) struct ContentInterner {
    parts: Memo<Vec<ContentKey>>,
    resources: Memo<ContentKey, Resource>,
}

impl ContentInterner {
    pub(crate) fn part(&self, part: &Part) -> Arc<Part> {
        let all: Vec<ContentKey> = part.resources.iter().map(|r| content_key(r)).collect();
        let resource =
            |r: &Arc<Resource>| self.resources.of(content_key(r), |_| Resource::clone(r));
        self.parts.of(all, |_| Part {
            resources: part.resources.iter().map(resource).collect(),
        })
    }
}

fn content_key(resource: &Resource) -> ContentKey {
    (
        resource.key.clone(),
        Arc::clone(&resource.version),
        resource.requires.clone(),
        resource.origins.clone(),
        resource.rules.clone(),
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Value, json};

    use super::*;
    use crate::compile::compile;
    use crate::ingest::{WorldBuilder, parse_json};
    use crate::world::{NamespacedName, World};

    thread_local! {
        /// The comparisons of recipes by the thread.
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        COMPARED.set(COMPARED.get() + 1);
    }

    fn compared<T>(run: impl FnOnce() -> T) -> (T, usize) {
        COMPARED.set(0);
        (run(), COMPARED.get())
    }

    fn apply(builder: &mut WorldBuilder, value: Value) {
        for object in parse_json("test", value).0 {
            builder.apply(object);
        }
    }

    /// A service, with policies and routes of so many other namespaces for their own calls.
    fn consumed(namespaces: usize) -> WorldBuilder {
        let mut builder = World::builder();
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "tcp-x", "port": 81, "protocol": "TCP"}]);
        let metadata = |name: &str, namespace: &str| json!({"name": name, "namespace": namespace});
        apply(
            &mut builder,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("a", "shop"), "spec": {"clusterIP": "10.96.0.1", "ports": ports}}),
        );
        let parent = |port: u16| json!([{"group": "", "kind": "Service", "name": "a", "namespace": "shop", "port": port}]);
        let rules = |port: u16| json!([{"backendRefs": [{"name": "a", "namespace": "shop", "port": port}]}]);
        for index in 0..namespaces {
            let namespace = format!("team-{index}");
            let target = json!({"service": "a", "namespace": "shop"});
            let spec = match index % 2 {
                0 => json!({"target": target, "timeouts": {"request": "3s"}}),
                _ => json!({"target": target, "limits": {"requests": 7}}),
            };
            let metadata = || metadata("own", &namespace);
            apply(
                &mut builder,
                json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": metadata(), "spec": spec}),
            );
            let routes = [("HTTPRoute", 80), ("TCPRoute", 81)];
            // A third has routes for requests, too.
            let some = routes.into_iter().skip(usize::from(index % 3 > 0));
            for (kind, port) in some {
                let version = "gateway.networking.k8s.io/v1";
                let spec = json!({"parentRefs": parent(port), "rules": rules(port)});
                apply(
                    &mut builder,
                    json!({"apiVersion": version, "kind": kind, "metadata": metadata(), "spec": spec}),
                );
            }
        }
        builder
    }

    /// The endpoint of both ports.
    fn endpoint(builder: &mut WorldBuilder) {
        let metadata = json!({"name": "a-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "a"}});
        let ports = json!([{"name": "http", "port": 80}, {"name": "tcp-x", "port": 81}]);
        apply(
            builder,
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": metadata, "ports": ports, "endpoints": [{"addresses": ["192.0.2.1"]}]}),
        );
    }

    #[test]
    fn the_cost_of_a_service_grows_with_the_namespaces_of_its_consumers_and_not_with_their_square()
    {
        let costs = |namespaces: usize| {
            let mut builder = consumed(namespaces);
            let (before, cold) = compared(|| compile(&builder.world()));
            let name = NamespacedName::new("shop", "a");
            let sides = before.clients.get(&name).map(|sides| sides.len());
            assert!(
                sides.is_some_and(|sides| sides > 2 * namespaces),
                "{sides:?}"
            );
            endpoint(&mut builder);
            let (_, update) = compared(|| before.update(&builder.world()));
            [cold, update]
        };
        let (few, many) = (costs(40), costs(160));
        for (few, many) in few.into_iter().zip(many) {
            assert!(few > 0);
            // Four times as many cost four times as much, and some more for the search; their square would cost 16 times as much.
            assert!(many < 8 * few, "{few} comparisons for 40, {many} for 160");
        }
    }

    #[test]
    fn unreferenced_entries_are_swept() {
        let memo = Memo::<_, Part>::default();
        let held = memo.of(0, |_| Part::default());
        for input in 1..10 * SMALL {
            memo.of(input, |_| Part::default());
        }
        let again = memo.of(0, |_| Part::default());
        assert!(Arc::ptr_eq(&held, &again));
        let known = memo.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(known.all.len() <= 2 * SMALL);
    }
}
