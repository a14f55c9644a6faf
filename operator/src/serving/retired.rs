//! Retires on-demand clusters that are no longer used.
//!
//! A proxy requests an on-demand cluster when it calls a destination for the first time. The cluster forwards that first
//! connection to the destination's listener. The listener accepts every later connection directly, so the cluster is not
//! used again, and it costs the sidecar a third of the memory of the destination. Hence a name is *retired* some
//! time after the proxy has acknowledged cluster and listener: its cluster leaves the view, as long as the listener stays
//! in the view. The compiler ensures that, because Envoy requests a name only once: the view that removes the listener
//! contains the cluster again, and additions to a view are sent before removals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_policy_compiler::{View, external_routes_port, listener_address, on_demand_address};
use heddle_xds_server::{
    Name, OnDemandRequests, Progress, Registry, ResourceKey, ResourceKind, SubscriberId,
};

use super::{MeshSource, ServedView};

/// So long after its listener was acknowledged a cluster may still be requested, by connections that were accepted
/// before: twice as long as a connection waits for its cluster before the sidecar gives it up (5 s).
const RETIRE_AFTER: Duration = Duration::from_secs(10);

/// The retired names of a proxy, and the acknowledged names that will be retired.
#[derive(Debug, Default)]
pub(super) struct RetiredNames {
    names: Arc<BTreeSet<Name>>,
    /// Since when cluster and listener are known to be acknowledged.
    acknowledged: BTreeMap<Name, Instant>,
}

impl RetiredNames {
    pub(super) const fn names(&self) -> &Arc<BTreeSet<Name>> {
        &self.names
    }

    /// Takes new requests of the proxy, or further listeners reported on reconnect. Names of reported listeners are
    /// retired: their connections have reached the listener, and a proxy with hundreds of destinations must not receive
    /// their clusters once more only to have them removed again.
    pub(super) fn asks(&mut self, before: &OnDemandRequests, now: &OnDemandRequests) {
        self.acknowledged
            .retain(|name, _| now.clusters.contains(name));
        let reported: BTreeSet<_> = now
            .reported_listeners
            .difference(&before.reported_listeners)
            .filter_map(|listener| listener_address(listener))
            .collect();
        let came_with = |name: &Name| {
            !reported.is_empty() && on_demand_address(name).is_some_and(|at| reported.contains(&at))
        };
        let retired = |name: &&Name| self.names.contains(*name) || came_with(name);
        let retired: BTreeSet<Name> = now.clusters.iter().filter(retired).cloned().collect();
        if retired != *self.names {
            self.names = Arc::new(retired);
        }
    }

    /// Takes a view that was computed with these retired names. If a retired name has its cluster in the view, its listener
    /// has left the view: the name is no longer retired, and its time starts again.
    pub(super) fn seen(&mut self, seen: &ServedView, retired: &BTreeSet<Name>) {
        self.acknowledged
            .retain(|name, _| seen.retirable.contains(name));
        let mut back = retired.difference(&seen.wire.absent).peekable();
        if back.peek().is_some() {
            let names = Arc::make_mut(&mut self.names);
            back.for_each(|name| {
                names.remove(name);
            });
        }
    }

    /// The proxy has acknowledged the clusters of these names and their listeners, and no others. Returns whether any
    /// of them is retired now.
    pub(super) fn acknowledged(&mut self, names: &BTreeSet<&Name>, now: Instant) -> bool {
        self.acknowledged.retain(|name, _| names.contains(name));
        let mut some = false;
        for name in names {
            let since = self.acknowledged.entry(Name::clone(name));
            let since = *since.or_insert(now);
            if now.saturating_duration_since(since) >= RETIRE_AFTER {
                self.acknowledged.remove(*name);
                some |= Arc::make_mut(&mut self.names).insert(Name::clone(name));
            }
        }
        some
    }
}

/// Returns the granted names with a cluster that only forwards to a listener of the same view.
pub(super) fn retirable(view: &View, granted: &BTreeSet<Name>) -> BTreeSet<Name> {
    // Mostly none is left.
    if granted.is_subset(&view.absent) {
        return BTreeSet::new();
    }
    let resources = || view.parts.iter().flat_map(|part| &part.resources);
    // Requests by a listener of hosts outside the mesh name the cluster for as long as their connection lives.
    let external: BTreeSet<u16> = resources()
        .filter(|resource| resource.key.kind == ResourceKind::Route)
        .filter_map(|resource| external_routes_port(&resource.key.name))
        .collect();
    let takes_requests =
        |name: &Name| on_demand_address(name).is_some_and(|at| external.contains(&at.port()));
    resources()
        .filter(|resource| granted.contains(&resource.key.name))
        .filter(|resource| !takes_requests(&resource.key.name))
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
            !progress.unacknowledged.contains_key(&key)
        };
        let both = |name: &&Name| {
            let listener = name.rsplit_once('|').map_or("", |(listener, _)| listener);
            has(ResourceKind::Cluster, name) && has(ResourceKind::Listener, listener)
        };
        seen.retirable.iter().filter(both).collect()
    })
}

impl MeshSource {
    /// Retires the names that all proxies acknowledged long enough ago.
    pub(super) fn retire(&self, registry: &Registry) {
        let retirable: Vec<(Name, Arc<ServedView>)> = self
            .lock()
            .all
            .iter()
            .filter_map(|(who, subscriber)| Some((who, subscriber.seen.as_ref()?)))
            .filter(|(_, seen)| !seen.retirable.is_empty())
            .map(|(who, seen)| (Name::clone(who), Arc::clone(seen)))
            .collect();
        for (who, seen) in retirable {
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
    fn view(retirable: &BTreeSet<Name>, absent: &BTreeSet<Name>) -> ServedView {
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
            overflow: Arc::default(),
            retirable: Arc::new(retirable.clone()),
        }
    }

    #[test]
    fn clusters_that_carry_requests_are_not_retired() {
        let name = |port: u16| Name::from(format!("dst|10.96.0.1:{port}|2026112107"));
        let resource = |kind, name: &str, requires| {
            let body = [].as_slice().into();
            Arc::new(heddle_policy_compiler::Resource {
                key: ResourceKey::new(kind, name),
                version: "1".into(),
                body,
                requires,
                empty: false,
                origins: BTreeSet::new(),
                rules: Vec::new(),
            })
        };
        let forwards = |port: u16| {
            let listener =
                ResourceKey::new(ResourceKind::Listener, format!("dst|10.96.0.1:{port}"));
            resource(ResourceKind::Cluster, &name(port), vec![listener])
        };
        let routes = resource(ResourceKind::Route, "external|80", Vec::new());
        let part = heddle_policy_compiler::Part {
            resources: vec![forwards(80), forwards(81), routes],
        };
        let view = View {
            parts: vec![Arc::new(part)],
            ..View::default()
        };
        let granted = [80, 81].map(name).into();
        assert_eq!(retirable(&view, &granted), [name(81)].into());
    }

    fn retire(retired: &mut RetiredNames, all: &BTreeSet<Name>, start: Instant) {
        assert!(!retired.acknowledged(&all.iter().collect(), start));
        assert!(retired.acknowledged(&all.iter().collect(), start + RETIRE_AFTER));
        assert_eq!(**retired.names(), *all);
    }

    #[test]
    fn a_name_retires_a_while_after_its_acknowledgment() {
        let (mut retired, start) = (RetiredNames::default(), Instant::now());
        let all = requests(&[7], &[]).clusters;
        let some = all.iter().take(1).collect();
        retired.asks(&OnDemandRequests::default(), &requests(&[7], &[]));
        let later = start + RETIRE_AFTER / 2;
        assert!(!retired.acknowledged(&all.iter().collect(), start));
        assert!(!retired.acknowledged(&some, later), "too early");
        // The other name was unacknowledged in between, so its time starts again.
        assert!(retired.acknowledged(&all.iter().collect(), start + RETIRE_AFTER));
        assert_eq!(retired.names().len(), 1);
        assert!(retired.acknowledged(&all.iter().collect(), start + 2 * RETIRE_AFTER));
        assert_eq!(**retired.names(), all);
        retired.asks(&requests(&[7], &[]), &requests(&[8], &[]));
        assert!(retired.names().is_empty(), "they were given up");
    }

    #[test]
    fn a_name_without_its_listener_is_no_longer_retired() {
        let (mut retired, start) = (RetiredNames::default(), Instant::now());
        let (all, none) = (requests(&[7], &[]).clusters, BTreeSet::new());
        retired.asks(&OnDemandRequests::default(), &requests(&[7], &[]));
        retire(&mut retired, &all, start);
        let before = Arc::clone(retired.names());
        retired.seen(&view(&none, &all), &before);
        assert_eq!(**retired.names(), all, "the listeners are there");
        retired.seen(&view(&none, &none), &before);
        assert!(retired.names().is_empty());
        // Nor does it count that it was acknowledged before its listener left.
        assert!(!retired.acknowledged(&all.iter().collect(), start));
        retired.seen(&view(&none, &none), &none);
        assert!(!retired.acknowledged(&all.iter().collect(), start + RETIRE_AFTER));
    }

    #[test]
    fn a_name_retired_during_a_computation_stays_retired() {
        let (mut retired, start) = (RetiredNames::default(), Instant::now());
        let (all, none) = (requests(&[7], &[]).clusters, BTreeSet::new());
        retired.asks(&OnDemandRequests::default(), &requests(&[7], &[]));
        retire(&mut retired, &all, start);
        retired.seen(&view(&all, &none), &none);
        assert_eq!(**retired.names(), all);
    }

    #[test]
    fn names_of_listeners_reported_on_reconnect_are_retired() {
        let mut retired = RetiredNames::default();
        let (first, then) = (requests(&[7], &[]), requests(&[7], &AT));
        retired.asks(&OnDemandRequests::default(), &first);
        assert!(retired.names().is_empty());
        retired.asks(&first, &then);
        assert_eq!(**retired.names(), then.clusters);
        // Names requested after the reconnect are not retired.
        retired.asks(&then, &requests(&[7, 8], &AT));
        assert_eq!(**retired.names(), then.clusters);
    }
}
