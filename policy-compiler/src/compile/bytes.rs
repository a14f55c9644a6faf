//! The filters of the ports that accept bytes.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::Filter;

use crate::authz::PortAuthz;
use crate::envoy::network::{discovered, tcp_proxy, tcp_proxy_gated};
use crate::envoy::reporting::Reporting;
use crate::envoy::{extension, gate, rbac};

/// Whether the peer of a filter chain has an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// mTLS: it has an identity.
    Identified,
    /// Plain text: it has none.
    Anonymous,
}

/// The two filters that decide, by the policies of a port. The service is that of refused connections in metrics.
pub(crate) fn filters(
    cluster: &str,
    authz: &PortAuthz,
    service: &str,
) -> [TypedExtensionConfig; 2] {
    let gate = gate::of_bytes(authz, cluster, service);
    [
        extension(&gate_name(cluster), gate),
        extension(&authz_name(cluster), rbac::of_bytes(authz)),
    ]
}

/// The filters of a chain: those that decide, by name, and the way to the application.
pub(crate) fn chain(cluster: &str, peer: Peer, reporting: &Reporting<'_>) -> Vec<Filter> {
    let proxy = match peer {
        Peer::Identified => tcp_proxy_gated("inbound", cluster, reporting),
        Peer::Anonymous => tcp_proxy("inbound", cluster, Some(reporting)),
    };
    vec![
        discovered(&gate_name(cluster), &gate::type_url()),
        discovered(&authz_name(cluster), &rbac::type_url_of_bytes()),
        proxy,
    ]
}

fn gate_name(cluster: &str) -> String {
    format!("{cluster} gate")
}

fn authz_name(cluster: &str) -> String {
    format!("{cluster} authz")
}
