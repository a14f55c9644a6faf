//! Incremental xDS: requests in, responses out.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use crate::resource::{Name, ResourceKind};

use super::{Fault, Heard, Session};

const WILDCARD: &str = "*";

impl Session {
    /// Takes a request of the incremental protocol.
    ///
    /// # Errors
    /// A fault ends the stream.
    pub fn delta_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Heard, Fault> {
        let fresh = !self.has_opened && request.initial_resource_versions.is_empty();
        self.resyncing |= !self.has_opened && !fresh;
        self.check_node(request.node.as_ref())?;
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            return Ok(Heard::default());
        };
        self.check_names(request.resource_names_subscribe.iter())?;
        self.check_names(request.initial_resource_versions.keys())?;
        let nack = request
            .error_detail
            .as_ref()
            .map(|status| status.message.as_str());
        let nacked = self.answered(kind, &request.response_nonce, nack);
        let first = self.open(kind);
        // Subscriptions are changes, not a state: they count even in a request that answers something outdated.
        self.take_unsubscriptions(kind, &request.resource_names_unsubscribe);
        self.take_subscriptions(kind, &request.resource_names_subscribe, first);
        if first {
            self.take_holdings(kind, &request.initial_resource_versions);
        }
        if self.channels.get(kind).subscription.names.len() > self.limits.max_names {
            return Err(Fault::Names);
        }
        Ok(Heard {
            on_demand_changed: std::mem::take(&mut self.on_demand_changed),
            kind: Some(kind),
            nacked,
        })
    }

    fn take_subscriptions(&mut self, kind: ResourceKind, names: &[String], first: bool) {
        let channel = self.channels.get_mut(kind);
        if first && names.is_empty() && kind.is_complete() {
            channel.subscription.wildcard = true;
            channel.answer_due = true;
        }
        for name in names {
            let channel = self.channels.get_mut(kind);
            if name == WILDCARD {
                channel.answer_due |= !std::mem::replace(&mut channel.subscription.wildcard, true);
                channel.look_at_all();
                continue;
            }
            let name = channel.shared_name(name);
            // A client that asks again for a name has lost its resource.
            channel.asked.insert(Name::clone(&name));
            self.subscribe(kind, &name);
        }
    }

    fn take_unsubscriptions(&mut self, kind: ResourceKind, names: &[String]) {
        for name in names {
            let channel = self.channels.get_mut(kind);
            if name == WILDCARD {
                channel.subscription.wildcard = false;
                self.drop_uncovered(kind);
                continue;
            }
            let name = channel.shared_name(name);
            self.unsubscribe(kind, &name);
            let channel = self.channels.get_mut(kind);
            if channel.subscription.wildcard {
                // The client can't know whether `*` still covers the name, and waits to be told.
                channel.asked.insert(name);
            }
        }
    }

    /// After `*` was given up.
    pub(super) fn drop_uncovered(&mut self, kind: ResourceKind) {
        let channel = self.channels.get(kind);
        let names = channel.holdings().map(|(name, _)| name);
        let names = names.chain(&channel.doubtful);
        let uncovered = names.filter(|name| !channel.subscription.covers(name));
        let dropped: Vec<Name> = uncovered.cloned().collect();
        for name in dropped {
            self.drop_held(kind, &name);
        }
    }

    /// Takes the resources that the client kept from an earlier stream: they need not be sent, but perhaps removed.
    fn take_holdings(&mut self, kind: ResourceKind, versions: &HashMap<String, String>) {
        for (name, version) in versions {
            let channel = self.channels.get(kind);
            let name = channel.shared_name(name);
            if !channel.subscription.covers(&name) {
                continue;
            }
            let version = match kind {
                ResourceKind::Endpoints => self.take_endpoints_version(&name, version),
                ResourceKind::Cluster
                | ResourceKind::Listener
                | ResourceKind::Route
                | ResourceKind::Extension
                | ResourceKind::Runtime => version,
            };
            let channel = self.channels.get_mut(kind);
            let current = channel.current(&name).map(|r| &r.version);
            let version = match current.filter(|current| ***current == *version) {
                Some(current) => Arc::clone(current),
                None => version.into(),
            };
            channel.answer_due = false;
            channel.asked.remove(&name);
            channel.hold_version(Name::clone(&name), version);
            self.removals_due = true;
            self.touch(kind, &name);
            if kind == ResourceKind::Listener {
                self.take_learned(name);
            }
        }
    }

    /// Passes on a listener that the client learned by use: it shows the source which destinations the client uses.
    fn take_learned(&mut self, name: Name) {
        let room = self.on_demand.reported_listeners.len() < self.limits.max_on_demand;
        if room && name.starts_with(&*self.limits.on_demand_prefix) {
            let listeners = &mut Arc::make_mut(&mut self.on_demand).reported_listeners;
            self.on_demand_changed |= listeners.insert(name);
        }
    }

    /// Endpoints that were sent for another version of their cluster than the client has leave it in warming.
    fn take_endpoints_version<'v>(&mut self, name: &Name, wire: &'v str) -> &'v str {
        let (version, cluster) = match wire.rsplit_once('@') {
            Some((version, cluster)) => (version, Some(cluster)),
            None => (wire, None),
        };
        if self.cluster_version(name).map(|v| &**v) != cluster {
            self.warm(name);
        }
        version
    }
}
