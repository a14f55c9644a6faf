//! `spec.rateLimits.server` of a `Mesh`.

use crate::called_server::{CalledServer, Host};
use crate::world::{NamespacedName, Port};

/// Reads the rate limit service. None: it names neither a service nor an address, which the schema refuses.
pub(super) fn rate_limit_server(spec: &heddle_crds::RateLimitServer) -> Option<CalledServer> {
    if let Some(service) = &spec.service {
        let name = NamespacedName::new(&service.namespace, &service.name);
        return Some(CalledServer::Service(name, Port::from(service.port)));
    }
    let address = spec.address.as_ref()?;
    let host = Host::of(&address.host);
    Some(CalledServer::Address(host, Port::from(address.port)))
}
