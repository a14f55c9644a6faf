//! Incremental xDS: requests in, responses out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire,
};
use envoy_types::pb::google::protobuf::Any;

use crate::resource::{Name, ResourceKey, ResourceKind};

use super::channel::Held;
use super::{Fault, Heard, Note, Push, Sent, Session};

const WILDCARD: &str = "*";

impl Session {
    /// Takes a request of the incremental protocol.
    ///
    /// # Errors
    /// A fault ends the stream.
    pub fn delta_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Heard, Fault> {
        let fresh = !self.heard_any && request.initial_resource_versions.is_empty();
        self.unsettled |= !self.heard_any && !fresh;
        self.check_node(request.node.as_ref())?;
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            return Ok(Heard::default());
        };
        self.check_names(request.resource_names_subscribe.iter())?;
        self.check_names(request.initial_resource_versions.keys())?;
        let refusal = request
            .error_detail
            .as_ref()
            .map(|status| status.message.as_str());
        let refused = self.answered(kind, &request.response_nonce, refusal);
        let first = !std::mem::replace(&mut self.channels.get_mut(kind).opened, true);
        // Subscriptions are changes, not a state: they count even in a request that answers something outdated.
        let mut wanted_changed =
            self.take_unsubscriptions(kind, &request.resource_names_unsubscribe);
        wanted_changed |= self.take_subscriptions(kind, &request.resource_names_subscribe, first);
        if first {
            self.take_holdings(kind, &request.initial_resource_versions, fresh);
        }
        if self.channels.get(kind).subscription.names.len() > self.limits.max_names {
            return Err(Fault::Names);
        }
        Ok(Heard {
            wanted_changed,
            kind: Some(kind),
            refused,
        })
    }

    fn take_subscriptions(&mut self, kind: ResourceKind, names: &[String], first: bool) -> bool {
        let channel = self.channels.get_mut(kind);
        if first && names.is_empty() && kind.is_complete() {
            channel.subscription.wildcard = true;
            channel.answer_due = true;
        }
        let mut wanted_changed = false;
        for name in names {
            let channel = self.channels.get_mut(kind);
            if name == WILDCARD {
                channel.answer_due |= !std::mem::replace(&mut channel.subscription.wildcard, true);
                continue;
            }
            let name: Name = name.as_str().into();
            // Asking again for a name is how a client says that it has lost it.
            channel.asked.insert(Name::clone(&name));
            wanted_changed |= self.subscribe(kind, &name);
        }
        wanted_changed
    }

    fn take_unsubscriptions(&mut self, kind: ResourceKind, names: &[String]) -> bool {
        let mut wanted_changed = false;
        for name in names {
            if name == WILDCARD {
                self.end_wildcard(kind);
                continue;
            }
            let name: Name = name.as_str().into();
            wanted_changed |= self.unsubscribe(kind, &name);
            let channel = self.channels.get_mut(kind);
            if channel.subscription.wildcard {
                // The client can't know whether `*` still covers the name, and waits to be told.
                channel.asked.insert(name);
            }
        }
        wanted_changed
    }

    fn end_wildcard(&mut self, kind: ResourceKind) {
        let channel = self.channels.get_mut(kind);
        channel.subscription.wildcard = false;
        let uncovered = |name: &&Name| !channel.subscription.covers(name);
        let dropped: Vec<Name> = channel
            .held
            .keys()
            .chain(&channel.doubtful)
            .filter(uncovered)
            .cloned()
            .collect();
        for name in dropped {
            self.drop_held(kind, &name);
        }
    }

    /// What the client kept from an earlier stream: it need not be sent, and may have to be removed.
    fn take_holdings(
        &mut self,
        kind: ResourceKind,
        versions: &HashMap<String, String>,
        fresh: bool,
    ) {
        let view = self.view.clone();
        let mut noted = BTreeMap::new();
        for (name, version) in versions {
            let (name, version): (Name, Arc<str>) = (name.as_str().into(), version.as_str().into());
            if !self.channels.get(kind).subscription.covers(&name) {
                continue;
            }
            let version = match kind {
                ResourceKind::Endpoints => self.take_endpoints_version(&name, &version),
                ResourceKind::Cluster | ResourceKind::Listener | ResourceKind::Route => version,
            };
            let channel = self.channels.get_mut(kind);
            let mut held = Held {
                version: Arc::clone(&version),
                resource: None,
                gone: false,
            };
            held.recognise(view.as_ref().and_then(|view| view.get(kind, &name)));
            channel.asked.remove(&name);
            channel.held.insert(Name::clone(&name), held);
            noted.insert(ResourceKey { kind, name }, version);
        }
        self.channels.get_mut(kind).answer_due &= noted.is_empty();
        self.notes.push(Note::Opened {
            kind,
            fresh,
            held: noted,
        });
    }

    /// Endpoints that were sent for another version of their cluster than the client has leave it in warming.
    fn take_endpoints_version(&mut self, name: &Name, wire: &Arc<str>) -> Arc<str> {
        let (version, cluster) = match wire.rsplit_once('@') {
            Some((version, cluster)) => (version.into(), Some(cluster)),
            None => (Arc::clone(wire), None),
        };
        if self.cluster_version(name).map(|v| &**v) != cluster {
            let endpoints = self.channels.get_mut(ResourceKind::Endpoints);
            endpoints.warm.insert(Name::clone(name));
        }
        version
    }
}

impl Push {
    /// The response of the incremental protocol.
    #[must_use]
    pub fn into_delta(self) -> DeltaDiscoveryResponse {
        let type_url = self.kind.type_url();
        let wire = |sent: Sent| Wire {
            name: sent.resource.key.name.to_string(),
            version: sent.version.to_string(),
            resource: Some(Any {
                type_url: type_url.to_owned(),
                value: sent.resource.body.to_vec(),
            }),
            ..Wire::default()
        };
        DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: self.nonce,
            resources: self.resources.into_iter().map(wire).collect(),
            removed_resources: self.removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}
