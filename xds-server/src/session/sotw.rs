//! State-of-the-world xDS: requests in, responses out.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;

use crate::resource::{Name, ResourceKind};

use super::{Fault, Heard, Note, Push, Sent, Session};

const WILDCARD: &str = "*";

impl Session {
    /// Takes a request of the state-of-the-world protocol.
    ///
    /// # Errors
    /// A fault ends the stream.
    pub fn sotw_request(&mut self, request: &DiscoveryRequest) -> Result<Heard, Fault> {
        let fresh = !self.heard_any && request.version_info.is_empty();
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
        if !std::mem::replace(&mut channel.opened, true) {
            channel.answer_due = kind.is_complete();
            self.notes.push(Note::Opened {
                kind,
                fresh,
                held: BTreeMap::new(),
            });
        }
        let refusal = request
            .error_detail
            .as_ref()
            .map(|status| status.message.as_str());
        let refused = self.answered(kind, nonce, refusal);
        let wanted_changed = self.take_names(kind, &request.resource_names);
        Ok(Heard {
            wanted_changed,
            kind: Some(kind),
            refused,
        })
    }

    fn take_names(&mut self, kind: ResourceKind, listed: &[String]) -> bool {
        let channel = self.channels.get_mut(kind);
        let subscription = &mut channel.subscription;
        let names: BTreeSet<Name> = listed
            .iter()
            .filter(|n| *n != WILDCARD)
            .map(|n| n.as_str().into())
            .collect();
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
        let mut wanted_changed = false;
        for name in &dropped {
            wanted_changed |= self.unsubscribe(kind, name);
        }
        for name in &added {
            wanted_changed |= self.subscribe(kind, name);
        }
        if narrowed {
            let channel = self.channels.get(kind);
            let left: Vec<Name> = channel
                .held
                .keys()
                .filter(|n| !channel.subscription.covers(n))
                .cloned()
                .collect();
            for name in &left {
                self.drop_held(kind, name);
            }
        }
        wanted_changed
    }
}

impl Push {
    /// The response of the state-of-the-world protocol.
    #[must_use]
    pub fn into_sotw(self) -> DiscoveryResponse {
        let type_url = self.kind.type_url();
        let wire = |sent: Sent| Any {
            type_url: type_url.to_owned(),
            value: sent.resource.body.to_vec(),
        };
        DiscoveryResponse {
            // Versions are per resource here; the protocol only wants one that differs from the last.
            version_info: self.nonce.clone(),
            type_url: type_url.to_owned(),
            nonce: self.nonce,
            resources: self.resources.into_iter().map(wire).collect(),
            ..DiscoveryResponse::default()
        }
    }
}
