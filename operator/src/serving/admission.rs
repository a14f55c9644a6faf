//! Admission of streams: a client speaks for the pod that its node id names if it has the identity of that pod.

use heddle_identity::holder_of;
use heddle_policy_compiler::{NamespacedName, PodRef};
use heddle_xds_server::{NodeInfo, Peer, StreamRefusal, SubscriberId};

use super::MeshSource;
use crate::certificates::times_of;
use crate::certs::{holder_in, identity_of};

impl MeshSource {
    /// Returns the id of the subscriber.
    ///
    /// # Errors
    /// The reason in one word, for the counter, and the refusal for the client.
    pub(super) fn decide(
        &self,
        peer: &Peer,
        node: &NodeInfo,
    ) -> Result<SubscriberId, (&'static str, StreamRefusal)> {
        let id = identity_of(&peer.certificates, &self.trust_domain).map_err(|error| {
            (
                "certificate",
                StreamRefusal::Unauthenticated(error.to_string()),
            )
        })?;
        let denied = |reason, why: String| Err((reason, StreamRefusal::Denied(why)));
        let Some(pod) = pod_of(&node.id) else {
            return denied(
                "node_id",
                "the node id is not of the form <namespace>/<pod>".to_owned(),
            );
        };
        // Checked before the pod is looked up, so that a refusal does not reveal the pods of other namespaces.
        if &*pod.namespace != id.namespace() {
            return denied(
                "namespace",
                format!("`{id}` may not speak for a pod of another namespace"),
            );
        }
        // Pods of one service account have one identity, and each speaks for itself alone.
        if holder_in(&peer.certificates).is_some_and(|holder| holder != holder_of(&pod.name)) {
            return denied(
                "pod",
                format!("the certificate is not that of `{}`", node.id),
            );
        }
        let unavailable = |why: &str| Err(("not_yet", StreamRefusal::Unavailable(why.to_owned())));
        let Some(snapshot) = self.newest() else {
            return unavailable("the cluster has not been read yet");
        };
        let Some(account) = snapshot.service_account(&pod) else {
            return unavailable("the pod is not known yet");
        };
        if &*account != id.service_account() {
            return denied(
                "service_account",
                format!("`{id}` is not the identity of that pod"),
            );
        }
        if !snapshot.compiled.proxies.contains_key(&pod) {
            return unavailable("the pod is not one with a sidecar, or is over");
        }
        if let Some(times) = peer.certificates.first().and_then(times_of) {
            self.certificates.record(&pod, times);
        }
        Ok(SubscriberId::from(node.id.as_str()))
    }
}

/// The pod that a node id names.
#[must_use]
pub fn pod_of(node_id: &str) -> Option<PodRef> {
    let (namespace, name) = node_id.split_once('/')?;
    let plain = |part: &str| !part.is_empty() && part.len() <= 253 && !part.contains('/');
    (plain(namespace) && plain(name)).then(|| NamespacedName::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_a_namespace_and_a_pod() {
        assert_eq!(
            pod_of("shop/cart-1"),
            Some(NamespacedName::new("shop", "cart-1"))
        );
        for text in ["", "/", "shop", "shop/", "/cart", "a/b/c"] {
            assert_eq!(pod_of(text), None, "{text}");
        }
    }
}
