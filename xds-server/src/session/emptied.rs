//! Clusters that lose their last endpoint: when their resources may be sent, so that no request meets one without endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{Name, Resource, ResourceKey, ResourceKind};

use super::{Flavor, Session};

/// The clusters without endpoints that wait for routes, by the calls of [`Session::end_route_waits`].
#[derive(Debug, Default)]
pub(super) struct RouteWaits {
    /// Those that waited at the last call.
    marked: BTreeSet<Name>,
    /// Those that waited at two calls in a row, and wait no more.
    over: BTreeSet<Name>,
}

impl Session {
    /// Whether a cluster without endpoints waits for the client to acknowledge routes.
    #[must_use]
    pub fn awaits_routes(&self) -> bool {
        self.waiting_for_routes().next().is_some()
    }

    /// Ends the waits for routes that lasted since the call before; [`Session::poll`] then sends the clusters and endpoints. So at equal
    /// intervals a wait takes at least one of them, and at most two.
    pub fn end_route_waits(&mut self) {
        let waiting: BTreeSet<Name> = self.waiting_for_routes().cloned().collect();
        let marked = std::mem::take(&mut self.route_waits.marked);
        let (over, marked) = waiting.into_iter().partition(|name| marked.contains(name));
        self.route_waits.over.extend::<BTreeSet<Name>>(over);
        self.route_waits.marked = marked;
    }

    /// Forgets the waits of clusters that have endpoints again, or that the client has without any.
    pub(super) fn forget_route_waits(&mut self) {
        if self.route_waits.marked.is_empty() && self.route_waits.over.is_empty() {
            return;
        }
        let mut waits = std::mem::take(&mut self.route_waits);
        waits.over.retain(|name| self.is_emptied(name));
        waits.marked.retain(|name| self.is_emptied(name));
        self.route_waits = waits;
    }

    fn waiting_for_routes(&self) -> impl Iterator<Item = &Name> {
        let kinds = [ResourceKind::Cluster, ResourceKind::Endpoints];
        kinds.into_iter().flat_map(move |kind| {
            let pending = self.channels.get(kind).pending.iter();
            pending.filter(move |name| self.waits_for_routes(kind, name))
        })
    }

    /// Whether a resource has to wait, because routes of the client lead to a cluster that the view has no endpoint of any more, and newer
    /// versions of these routes are not acknowledged yet.
    pub(super) fn waits_for_routes(&self, kind: ResourceKind, name: &Name) -> bool {
        let of_cluster = match kind {
            ResourceKind::Cluster | ResourceKind::Endpoints => true,
            ResourceKind::Listener
            | ResourceKind::Route
            | ResourceKind::Extension
            | ResourceKind::Runtime => false,
        };
        of_cluster
            && self.is_emptied(name)
            && !self.route_waits.over.contains(name)
            && !self.is_replaced(kind, name)
            && self.is_led_to(name)
    }

    /// Whether the client warms the cluster that goes with the endpoints of the view: the old ones may be meant for another one.
    fn is_replaced(&self, kind: ResourceKind, name: &Name) -> bool {
        let endpoints = self.channels.get(ResourceKind::Endpoints);
        let cluster = self.channels.get(ResourceKind::Cluster).current(name);
        let of_view = cluster.map(|cluster| &cluster.version);
        kind == ResourceKind::Endpoints
            && endpoints.warm.contains(name)
            && self.cluster_version(name) == of_view
    }

    /// Whether the view has no endpoint of a cluster any more, and the client can still use those that it has.
    pub(super) fn is_emptied(&self, name: &Name) -> bool {
        let endpoints = self.channels.get(ResourceKind::Endpoints);
        if self.flavor != Flavor::Delta || !endpoints.current(name).is_some_and(|of| of.empty) {
            return false;
        }
        // Unknown endpoints of a client that has reconnected count as some, whether it has reported them yet or not.
        let unreported = self.resyncing && !endpoints.opened;
        let some = endpoints.holding(name).map_or(unreported, |held| {
            !held.gone && held.resource.is_none_or(|resource| !resource.empty)
        });
        let clusters = self.channels.get(ResourceKind::Cluster);
        let sent = endpoints.in_flight.as_ref();
        let sent = sent.is_some_and(|response| {
            let empty = response.updates.get(name).is_some_and(|of| of.empty);
            empty || response.removed.contains(name)
        });
        some && !sent && clusters.holding(name).is_some_and(|held| !held.gone)
    }

    /// Whether a route that the client holds leads to a cluster, and the client lacks the version of the view.
    fn is_led_to(&self, name: &Name) -> bool {
        // A client that has reconnected reports its endpoints before its routes.
        let unknown = self.resyncing && !self.channels.get(ResourceKind::Route).opened;
        unknown || self.routes_to(name).next().is_some()
    }

    /// The newer versions of the routes that the client holds and that lead to a cluster, but for rejected ones.
    pub(super) fn routes_to(&self, name: &Name) -> impl Iterator<Item = &Arc<Resource>> {
        let routes = self.channels.get(ResourceKind::Route);
        let leads = |required: &ResourceKey| {
            required.kind == ResourceKind::Endpoints && required.name == *name
        };
        // Those in sync have no newer version.
        routes.outdated().filter_map(move |(route, held)| {
            let current = routes.current(route)?;
            let rejection = routes.rejected.get(route);
            let comes = rejection.is_none_or(|rejection| rejection.version != current.version);
            let leads = || {
                let required = held.resource.map(|resource| &resource.requires);
                required.is_none_or(|requires| requires.iter().any(leads))
            };
            (comes && leads()).then_some(current)
        })
    }

    /// A route that a resource waits for, because it leads to the cluster that loses its endpoints.
    pub(super) fn awaited_route(&self, key: &ResourceKey) -> Option<ResourceKey> {
        if !self.waits_for_routes(key.kind, &key.name) {
            return None;
        }
        Some(self.routes_to(&key.name).next()?.key.clone())
    }
}
