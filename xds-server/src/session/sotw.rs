//! State-of-the-world xDS: requests in, responses out.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use crate::resource::{Name, ResourceKind};

use super::{Fault, Heard, Session};

const WILDCARD: &str = "*";

impl Session {
    /// Takes a request of the state-of-the-world protocol.
    ///
    /// # Errors
    /// A fault ends the stream.
    pub fn sotw_request(&mut self, request: &DiscoveryRequest) -> Result<Heard, Fault> {
        // A client that was connected before does not report the resources it holds; all of them are sent again.
        self.resyncing |= !self.has_opened && !request.version_info.is_empty();
        self.check_node(request.node.as_ref())?;
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            return Ok(Heard::default());
        };
        self.check_names(request.resource_names.iter())?;
        let nonce = request.response_nonce.as_str();
        let channel = self.channels.get_mut(kind);
        if !nonce.is_empty()
            && channel
                .last_nonce
                .as_deref()
                .is_some_and(|last| last != nonce)
        {
            // The client had not seen the newest response yet; the request that answers it will say all this again.
            return Ok(Heard {
                kind: Some(kind),
                ..Heard::default()
            });
        }
        if self.open(kind) {
            self.channels.get_mut(kind).answer_due = kind.is_complete();
        }
        let nack = request
            .error_detail
            .as_ref()
            .map(|status| status.message.as_str());
        let nacked = self.answered(kind, nonce, nack);
        self.take_names(kind, &request.resource_names);
        Ok(Heard {
            on_demand_changed: std::mem::take(&mut self.on_demand_changed),
            kind: Some(kind),
            nacked,
        })
    }

    fn take_names(&mut self, kind: ResourceKind, listed: &[String]) {
        let channel = self.channels.get_mut(kind);
        let names: BTreeSet<Name> = listed
            .iter()
            .filter(|n| *n != WILDCARD)
            .map(|n| channel.shared_name(n))
            .collect();
        let subscription = &mut channel.subscription;
        let everything = listed.is_empty() && kind.is_complete() && !subscription.named_once;
        let wildcard = everything || names.len() < listed.iter().collect::<BTreeSet<_>>().len();
        subscription.named_once |= !listed.is_empty();
        let widened = wildcard && !subscription.wildcard;
        let narrowed = std::mem::replace(&mut subscription.wildcard, wildcard) && !wildcard;
        let added: Vec<Name> = names.difference(&subscription.names).cloned().collect();
        let dropped: Vec<Name> = subscription.names.difference(&names).cloned().collect();
        if widened || !added.is_empty() {
            channel.answer_due |= kind.is_complete();
            channel.asked.extend(added.iter().cloned());
        }
        if widened {
            channel.look_at_all();
        }
        for name in &dropped {
            self.unsubscribe(kind, name);
        }
        for name in &added {
            self.subscribe(kind, name);
        }
        if narrowed {
            self.drop_uncovered(kind);
        }
    }
}
