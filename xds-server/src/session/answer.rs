//! The effect of an ACK or a NACK on the resources in the response.
//!
//! A client rejects a response, not a resource. A response of one resource leaves no doubt. Of several, those that the
//! client's text names are sent again one by one, the others without them; a text that names none halves the group
//! until the culprit is alone. So every rejection that is recorded is certain, and has its own text.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_acceptor::clean;

use crate::resource::{Name, Resource, ResourceKey, ResourceKind};

use super::Session;
use super::channel::{InFlight, Suspects};
use super::plan::halves;
use super::rejection::{MAX_TEXT, Rejection};

impl Session {
    /// Takes the answer to a response. An answer to any other response than the one in flight has no effect.
    /// `nack` is the text of the client. Returns whether a response in flight was rejected.
    pub(super) fn answered(&mut self, kind: ResourceKind, nonce: &str, nack: Option<&str>) -> bool {
        let channel = self.channels.get_mut(kind);
        let Some(response) = channel
            .in_flight
            .take_if(|response| response.nonce == nonce)
        else {
            return false;
        };
        match nack {
            None => self.accepted(kind, response),
            Some(text) => self.nacked(kind, response, text),
        }
        nack.is_some()
    }

    fn accepted(&mut self, kind: ResourceKind, response: InFlight) {
        for (name, resource) in response.updates {
            let channel = self.channels.get_mut(kind);
            channel.doubtful.remove(&name);
            // The last good version may be accepted once more while a newer one stays rejected.
            let rejection = channel.rejected.get(&name);
            if rejection.is_some_and(|of| of.version == resource.version) {
                channel.rejected.remove(&name);
            }
            if channel.subscription.covers(&name) {
                let before = channel.holding(&name).and_then(|holding| holding.resource);
                self.removals_due |= before.is_none_or(|r| r.requires != resource.requires);
                channel.hold(resource);
            }
            self.touch(kind, &name);
            // If the name stays unacknowledged, the version came after this response.
            let key = ResourceKey { kind, name };
            if let Some(oldest) = self.unacknowledged.get_mut(&key) {
                *oldest = (*oldest).max(response.view + 1);
            }
        }
        for name in &response.removed {
            self.removed(kind, name);
        }
    }

    fn nacked(&mut self, kind: ResourceKind, response: InFlight, text: &str) {
        // There is nothing to reject in a removal; the same removal again would only be rejected again.
        for name in &response.removed {
            self.removed(kind, name);
        }
        for name in response.updates.keys() {
            let channel = self.channels.get_mut(kind);
            if channel.holding(name).is_none() {
                channel.doubtful.insert(Name::clone(name));
            }
            self.touch(kind, name);
        }
        if kind == ResourceKind::Endpoints {
            self.still_warm(&response);
        }
        if let (1, Some(culprit)) = (response.updates.len(), response.updates.values().next()) {
            self.reject(culprit, text);
            return;
        }
        let channel = self.channels.get_mut(kind);
        let named: Vec<&Name> = response
            .updates
            .keys()
            .filter(|name| mentions(text, name))
            .collect();
        let groups: Vec<Suspects> = if named.is_empty() {
            let (lower, upper) = halves(suspects(&response.updates));
            vec![lower, upper]
        } else {
            let version = |name: &&Name| {
                Some((
                    Name::clone(name),
                    Arc::clone(&response.updates.get(*name)?.version),
                ))
            };
            named
                .iter()
                .filter_map(version)
                .map(|pair| Suspects::from([pair]))
                .collect()
        };
        // A resource that was sent though unchanged has to be sent again, so that it gets its own answer.
        for (name, resource) in &response.updates {
            if channel.holds(resource) {
                channel.asked.insert(Name::clone(name));
            }
        }
        channel
            .apart
            .extend(groups.into_iter().filter(|group| !group.is_empty()));
    }

    /// The clusters of rejected endpoints still wait for endpoints. The exception is a version that the client holds and has
    /// now rejected: it can't be the one that they get.
    fn still_warm(&mut self, response: &InFlight) {
        for (name, resource) in &response.updates {
            if !self.channels.get(ResourceKind::Endpoints).holds(resource) {
                self.warm(name);
            }
        }
    }

    fn reject(&mut self, resource: &Resource, text: &str) {
        let ResourceKey { kind, name } = &resource.key;
        let rejection = Rejection {
            version: Arc::clone(&resource.version),
            text: clean(text, MAX_TEXT).into(),
        };
        let rejected = &mut self.channels.get_mut(*kind).rejected;
        rejected.insert(Name::clone(name), rejection);
    }
}

fn suspects(updates: &BTreeMap<Name, Arc<Resource>>) -> Suspects {
    updates
        .iter()
        .map(|(name, r)| (Name::clone(name), Arc::clone(&r.version)))
        .collect()
}

/// Whether the text has the name as a whole: `a|80` is not mentioned by `a|8080`.
fn mentions(text: &str, name: &str) -> bool {
    let of_name = |c: char| c.is_alphanumeric() || "|_-/".contains(c);
    !name.is_empty()
        && text.match_indices(name).any(|(at, found)| {
            let before = text.get(..at).and_then(|t| t.chars().next_back());
            let mut after = text.get(at + found.len()..).unwrap_or_default().chars();
            let goes_on = match after.next() {
                // Punctuation ends a name unless it goes on behind it: `a.b`, `1.2.3.4:80`.
                Some('.' | ':') => after.next().is_some_and(of_name),
                Some(c) => of_name(c),
                None => false,
            };
            !before.is_some_and(of_name) && !goes_on
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_mentioned_only_as_a_whole() {
        for (text, name, expected) in [
            ("Error adding/updating listener(s) a: bad", "a", true),
            ("cluster out|ns/a|80: bad", "out|ns/a|80", true),
            ("cluster out|ns/a|8080: bad", "out|ns/a|80", false),
            ("listener 'dst|1.2.3.4:80' is bad", "dst|1.2.3.4:80", true),
            ("dst|1.2.3.4:8080", "dst|1.2.3.4:80", false),
            ("see in|80.", "in|80", true),
            ("main|80", "in|80", false),
            ("nothing", "", false),
        ] {
            assert_eq!(mentions(text, name), expected, "{name:?} in {text:?}");
        }
    }
}
