//! Retires on-demand clusters that are no longer used.
//!
//! A proxy requests an on-demand cluster when it calls a destination for the first time. The cluster forwards that first
//! connection to the destination's listener. The listener accepts every later connection directly, so the cluster is not
//! used again, and it costs the sidecar a third of the memory of the destination. Hence a name is *settled* (retired) some
//! time after the proxy has acknowledged cluster and listener: its cluster leaves the view, as long as the listener stays
//! in the view. The compiler ensures that, because Envoy requests a name only once: the view that removes the listener
//! contains the cluster again, and additions to a view are sent before removals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_policy_compiler::{View, listener_address, on_demand_address};
use heddle_xds_server::{
    Name, OnDemandRequests, Progress, Registry, ResourceKey, ResourceKind, SubscriberId,
};

use super::{MeshSource, ServedView};

/// So long after its listener was acknowledged a cluster may still be requested, by connections that were accepted
/// before: twice as long as a connection waits for its cluster before the sidecar gives it up (5 s).
const LOOKED_FOR: Duration = Duration::from_secs(10);

/// Which of the names that a proxy asked for have settled, and which are about to.
#[derive(Debug, Default)]
pub(super) struct Settled {
    names: Arc<BTreeSet<Name>>,
    /// Since when cluster and listener are known to be acknowledged.
    acknowledged: BTreeMap<Name, Instant>,
}

impl Settled {
    pub(super) const fn names(&self) -> &Arc<BTreeSet<Name>> {
        &self.names
    }

    /// Takes new requests of the proxy, or further listeners reported on reconnect. Names of reported listeners are
    /// retired: their connections have reached the listener, and a proxy with hundreds of destinations must not receive
    /// their clusters once more only to have them removed again.
    pub(super) fn asks(&mut self, before: &OnDemandRequests, now: &OnDemandRequests) {
        self.acknowledged
            .retain(|name, _| now.clusters.contains(name));
        let brought: BTreeSet<_> = now
            .reported_listeners
            .difference(&before.reported_listeners)
            .filter_map(|listener| listener_address(listener))
            .collect();
        let came_with = |name: &Name| {
            !brought.is_empty() && on_demand_address(name).is_some_and(|at| brought.contains(&at))
        };
        let settled = |name: &&Name| self.names.contains(*name) || came_with(name);
        let settled: BTreeSet<Name> = now.clusters.iter().filter(settled).cloned().collect();
        if settled != *self.names {
            self.names = Arc::new(settled);
        }
    }

    /// Takes a view that was computed with these retired names. If a retired name has its cluster in the view, its listener
    /// has left the view: the name is no longer retired, and its time starts again.
    pub(super) fn seen(&mut self, seen: &ServedView, settled: &BTreeSet<Name>) {
        self.acknowledged
            .retain(|name, _| seen.settling.contains(name));
        let mut back = settled.difference(&seen.wire.absent).peekable();
        if back.peek().is_some() {
            let names = Arc::make_mut(&mut self.names);
            back.for_each(|name| {
                names.remove(name);
            });
        }
    }

    /// The proxy has acknowledged the clusters of these names and their listeners, and no others. Returns whether any
    /// has settled by that.
    pub(super) fn acknowledged(&mut self, names: &BTreeSet<&Name>, now: Instant) -> bool {
        self.acknowledged.retain(|name, _| names.contains(name));
        let mut some = false;
        for name in names {
            let since = self.acknowledged.entry(Name::clone(name));
            let since = *since.or_insert(now);
            if now.saturating_duration_since(since) >= LOOKED_FOR {
                self.acknowledged.remove(*name);
                some |= Arc::make_mut(&mut self.names).insert(Name::clone(name));
            }
        }
        some
    }
}

/// Returns the granted names with a cluster that only forwards to a listener of the same view.
pub(super) fn settling(view: &View, wanted: &BTreeSet<Name>) -> BTreeSet<Name> {
    // Mostly none is left.
    if wanted.is_subset(&view.absent) {
        return BTreeSet::new();
    }
    let resources = view.parts.iter().flat_map(|part| &part.resources);
    resources
        .filter(|resource| wanted.contains(&resource.key.name))
        .filter(|resource| {
            let mut requires = resource.requires.iter();
            requires.any(|key| key.kind == ResourceKind::Listener)
        })
        .map(|resource| Name::clone(&resource.key.name))
        .collect()
}

/// Returns the retirable names for which the proxy has acknowledged cluster and listener as they are in the view; `None` if
/// the proxy is not connected or its progress is about another view.
fn acknowledged<'s>(seen: &'s ServedView, progress: &Progress) -> Option<BTreeSet<&'s Name>> {
    let view = progress.view.as_ref().filter(|_| progress.connected)?;
    Arc::ptr_eq(view, &seen.wire).then(|| {
        let has = |kind, name: &str| {
            let key = ResourceKey::new(kind, name);
            !progress.behind.contains_key(&key)
        };
        let both = |name: &&Name| {
            let listener = name.rsplit_once('|').map_or("", |(listener, _)| listener);
            has(ResourceKind::Cluster, name) && has(ResourceKind::Listener, listener)
        };
        seen.settling.iter().filter(both).collect()
    })
}

impl MeshSource {
    /// Looks after the names that are about to settle.
    pub(super) fn settle(&self, registry: &Registry) {
        let settling: Vec<(Name, Arc<ServedView>)> = self
            .lock()
            .all
            .iter()
            .filter_map(|(who, subscriber)| Some((who, subscriber.seen.as_ref()?)))
            .filter(|(_, seen)| !seen.settling.is_empty())
            .map(|(who, seen)| (Name::clone(who), Arc::clone(seen)))
            .collect();
        for (who, seen) in settling {
            let progress = registry.get(&SubscriberId(Name::clone(&who)));
            let names = progress.and_then(|progress| acknowledged(&seen, &progress));
            if let Some(names) = names {
                self.lock().acknowledged(&who, &names);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_xds_server as xds;

    use super::*;

    const AT: [&str; 2] = ["dst|10.96.0.1:80", "dst|[fd00::1]:80"];

    fn names(texts: &[String]) -> BTreeSet<Name> {
        texts.iter().map(|text| text.as_str().into()).collect()
    }

    fn requests(hours: &[u8], listeners: &[&str]) -> OnDemandRequests {
        let of_hour = |hour: &u8| AT.map(|at| format!("{at}|20261121{hour:02}"));
        let all: Vec<String> = hours.iter().flat_map(of_hour).collect();
        OnDemandRequests {
            clusters: names(&all),
            reported_listeners: listeners.iter().map(|name| (*name).into()).collect(),
        }
    }

    /// A view in which these names pass on to listeners, and those are absent.
    fn view(settling: &BTreeSet<Name>, absent: &BTreeSet<Name>) -> ServedView {
        let wire = xds::View {
            parts: Vec::new(),
            absent: absent.clone(),
            since: None,
        };
        ServedView {
            parts: Vec::new(),
            wire: Arc::new(wire),
            depends: Arc::default(),
            scope: 0,
            beyond: Arc::default(),
            settling: Arc::new(settling.clone()),
        }
    }

    fn settle(settled: &mut Settled, all: &BTreeSet<Name>, start: Instant) {
        assert!(!settled.acknowledged(&all.iter().collect(), start));
        assert!(settled.acknowledged(&all.iter().collect(), start + LOOKED_FOR));
        assert_eq!(**settled.names(), *all);
    }

    #[test]
    fn a_name_retires_a_while_after_its_acknowledgement() {
        let (mut settled, start) = (Settled::default(), Instant::now());
        let all = requests(&[7], &[]).clusters;
        let some = all.iter().take(1).collect();
        settled.asks(&OnDemandRequests::default(), &requests(&[7], &[]));
        let later = start + LOOKED_FOR / 2;
        assert!(!settled.acknowledged(&all.iter().collect(), start));
        assert!(!settled.acknowledged(&some, later), "too early");
        // The other name was unacknowledged in between, so its time starts again.
        assert!(settled.acknowledged(&all.iter().collect(), start + LOOKED_FOR));
        assert_eq!(settled.names().len(), 1);
        assert!(settled.acknowledged(&all.iter().collect(), start + 2 * LOOKED_FOR));
        assert_eq!(**settled.names(), all);
        settled.asks(&requests(&[7], &[]), &requests(&[8], &[]));
        assert!(settled.names().is_empty(), "they were given up");
    }

    #[test]
    fn a_name_without_its_listener_is_no_longer_retired() {
        let (mut settled, start) = (Settled::default(), Instant::now());
        let (all, none) = (requests(&[7], &[]).clusters, BTreeSet::new());
        settled.asks(&OnDemandRequests::default(), &requests(&[7], &[]));
        settle(&mut settled, &all, start);
        let before = Arc::clone(settled.names());
        settled.seen(&view(&none, &all), &before);
        assert_eq!(**settled.names(), all, "the listeners are there");
        settled.seen(&view(&none, &none), &before);
        assert!(settled.names().is_empty());
        // Nor does it count that it was acknowledged before its listener left.
        assert!(!settled.acknowledged(&all.iter().collect(), start));
        settled.seen(&view(&none, &none), &none);
        assert!(!settled.acknowledged(&all.iter().collect(), start + LOOKED_FOR));
    }

    #[test]
    fn a_name_retired_during_a_computation_stays_retired() {
        let (mut settled, start) = (Settled::default(), Instant::now());
        let (all, none) = (requests(&[7], &[]).clusters, BTreeSet::new());
        settled.asks(&OnDemandRequests::default(), &requests(&[7], &[]));
        settle(&mut settled, &all, start);
        settled.seen(&view(&all, &none), &none);
        assert_eq!(**settled.names(), all);
    }

    #[test]
    fn names_of_listeners_reported_on_reconnect_are_retired() {
        let mut settled = Settled::default();
        let (first, then) = (requests(&[7], &[]), requests(&[7], &AT));
        settled.asks(&OnDemandRequests::default(), &first);
        assert!(settled.names().is_empty());
        settled.asks(&first, &then);
        assert_eq!(**settled.names(), then.clusters);
        // Names requested after the reconnect are not retired.
        settled.asks(&then, &requests(&[7, 8], &AT));
        assert_eq!(**settled.names(), then.clusters);
    }
}
