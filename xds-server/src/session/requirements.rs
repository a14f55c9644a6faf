//! Whether a resource may be sent yet.

use crate::resource::{Resource, ResourceKey, ResourceKind};

use super::Session;

impl Session {
    /// The first requirement of `resource` that the client does not fulfil yet.
    pub(super) fn waits_for<'r>(&self, resource: &'r Resource) -> Option<&'r ResourceKey> {
        resource
            .requires
            .iter()
            .find(|required| !self.fulfilled(&resource.key, required))
    }

    fn fulfilled(&self, by: &ResourceKey, required: &ResourceKey) -> bool {
        let channel = self.channels.get(required.kind);
        if channel.current(&required.name).is_none() {
            return true;
        }
        // Envoy holds the ACK of a cluster back until the cluster is warm, that is, until it has its endpoints. They follow in the stream's order.
        if (by.kind, required.kind) == (ResourceKind::Endpoints, ResourceKind::Cluster) {
            return true;
        }
        let of_cluster = matches!(
            required.kind,
            ResourceKind::Cluster | ResourceKind::Endpoints
        );
        if of_cluster && self.is_emptied(&required.name) {
            return true;
        }
        let leaving = channel.in_flight.as_ref();
        if leaving.is_some_and(|response| response.removed.contains(&required.name)) {
            return false;
        }
        if channel.in_sync(&required.name) {
            return !self.is_warming(required);
        }
        if channel.subscription.covers(&required.name) {
            return false;
        }
        // The client has not subscribed to it. Will it, before it has the resource of the key `by`?
        match required.kind {
            ResourceKind::Cluster | ResourceKind::Runtime => true,
            ResourceKind::Endpoints => {
                let clusters = self.channels.get(ResourceKind::Cluster);
                let comes = clusters.current(&required.name).is_some()
                    && clusters.subscription.covers(&required.name);
                !comes || (by.kind, &by.name) == (ResourceKind::Cluster, &required.name)
            }
            // Listeners are asked for after clusters, so that none was asked for yet is not an answer.
            ResourceKind::Listener => channel.opened,
            ResourceKind::Route | ResourceKind::Extension => {
                let listeners = self.channels.get(ResourceKind::Listener);
                by.kind == ResourceKind::Listener
                    || (listeners.opened && !listeners.subscription.wildcard)
            }
        }
    }

    /// An updated cluster is not in use before its endpoints have been sent and acknowledged once more.
    fn is_warming(&self, key: &ResourceKey) -> bool {
        let channel = self.channels.get(key.kind);
        let sent = channel
            .in_flight
            .as_ref()
            .is_some_and(|response| response.updates.contains_key(&key.name));
        match key.kind {
            ResourceKind::Endpoints => sent || channel.warm.contains(&key.name),
            ResourceKind::Cluster
            | ResourceKind::Listener
            | ResourceKind::Route
            | ResourceKind::Extension
            | ResourceKind::Runtime => false,
        }
    }
}
