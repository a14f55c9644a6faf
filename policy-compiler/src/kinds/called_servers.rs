//! The servers that a `Mesh` names for itself: the collector of telemetry, the rate limit service.

use std::num::NonZeroU16;

use heddle_crds::MeshSpec;

use crate::called_server::{CalledServer, Host, HostTls, Outside};
use crate::kinds::ValidationError;
use crate::kinds::authorities::unusable;
use crate::world::{NamespacedName, Port};

/// The fields of a `MeshSpec` with them.
pub(super) const FIELDS: [[&str; 2]; 2] = [["telemetry", "collector"], ["rateLimits", "server"]];

/// Reads a collector. None: it names neither a service nor an address, which the schema refuses.
pub(super) fn collector(spec: &heddle_crds::Collector) -> Option<CalledServer> {
    if let Some(service) = &spec.service {
        return Some(service_at(&service.namespace, &service.name, service.port));
    }
    let address = spec.address.as_ref()?;
    Some(outside(&address.host, address.port, address.tls.as_ref()))
}

/// Reads a rate limit service. None: it names neither a service nor an address, which the schema refuses.
pub(super) fn rate_limit_server(spec: &heddle_crds::RateLimitServer) -> Option<CalledServer> {
    if let Some(service) = &spec.service {
        return Some(service_at(&service.namespace, &service.name, service.port));
    }
    let address = spec.address.as_ref()?;
    Some(outside(&address.host, address.port, address.tls.as_ref()))
}

fn service_at(namespace: &str, name: &str, port: NonZeroU16) -> CalledServer {
    CalledServer::Service(NamespacedName::new(namespace, name), Port::from(port))
}

fn outside(host: &str, port: NonZeroU16, tls: Option<&heddle_crds::HostTls>) -> CalledServer {
    CalledServer::Outside(Outside {
        host: Host::of(host),
        port: Port::from(port),
        tls: tls.map(|tls| HostTls {
            authorities: tls.ca_certificates.as_deref().map(Into::into),
        }),
    })
}

/// The faults of the certificates of authorities.
pub(super) fn faults(spec: &MeshSpec) -> impl Iterator<Item = ValidationError> {
    let collector = spec.telemetry.collector.as_ref();
    let collector = collector.and_then(|of| of.address.as_ref()?.tls.as_ref());
    let limiter = spec.rate_limits.server.as_ref();
    let limiter = limiter.and_then(|of| of.address.as_ref()?.tls.as_ref());
    let all = FIELDS.into_iter().zip([collector, limiter]);
    all.filter_map(|(field, tls)| {
        let (message, fix) = unusable(tls?.ca_certificates.as_deref()?)?;
        let field = format!("spec.{}.address.tls.caCertificates", field.join("."));
        Some(ValidationError::invalid(field, message, fix))
    })
}
