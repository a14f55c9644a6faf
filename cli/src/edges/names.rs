//! The ends of edges in the names of clusters and identities.

use heddle_xds_types::account_of;
use serde::Serialize;

/// One end of an edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The namespace; empty outside the mesh.
    pub namespace: String,
    /// The workload or service; empty if it is not known.
    pub name: String,
}

impl End {
    /// An end with a namespace and a name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// `out|shop/reviews-v1|9080` is the service `reviews-v1` of namespace `shop`.
pub fn backend(cluster: &str) -> Option<End> {
    let (namespace, name) = cluster.split('|').nth(1)?.split_once('/')?;
    Some(End::new(namespace, name))
}

/// `out|shop/reviews-v1|9080` is port 9080 of a service.
pub fn port(cluster: &str) -> Option<u16> {
    let mut parts = cluster.split('|');
    let of_service = parts.next() == Some("out");
    parts.nth(1)?.parse().ok().filter(|_| of_service)
}

/// `spiffe://<trust domain>/ns/shop/sa/frontend` is the service account `frontend` of namespace `shop`. Of a caller that does
/// not report, no more is known.
pub fn caller(identity: &str) -> End {
    account_of(identity).map_or_else(
        || End::new("", identity),
        |(namespace, account)| End::new(namespace, account),
    )
}
