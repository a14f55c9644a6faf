//! The rate limit service, as the sidecars that keep shared limits call it.

use std::sync::Arc;

use heddle_crds::reason;

use super::Compiled;
use super::inbound::{InboundInput, InboundPort};
use super::telemetry::{CalledHost, called_host, missing_server, plain_server};
use crate::called_server::CalledServer;
use crate::envoy::{cluster, shared_limits::LIMITER};
use crate::finding::Finding;
use crate::kinds::mesh::Settings;
use crate::resource::{Part, ResourceKey, ResourceKind};
use crate::world::{NamespacedName, Port, World};

/// Whether pods with this input ask the service.
pub(super) fn asks(input: &InboundInput) -> bool {
    let mut ports = input.ports.values();
    ports.any(|port| port.traffic.questions.is_some())
}

/// The clusters that the routes of a port name: that of the application, and that in which the sidecar asks for shared limits.
pub(super) fn required(application: &str, inbound: &InboundPort) -> Vec<ResourceKey> {
    let limiter = inbound.traffic.questions.map(|_| LIMITER);
    let clusters = [application].into_iter().chain(limiter);
    let key = |name| ResourceKey::new(ResourceKind::Cluster, name);
    clusters.map(key).collect()
}

/// The findings about a service that is named as rate limit service and answers no question, and about one in plain text.
pub(super) fn limiter_findings(settings: &Settings, world: &World) -> Vec<Finding> {
    let consequence = match settings.questions.closed {
        true => "requests with a shared limit are answered 503",
        false => "no shared limit is kept",
    };
    let named = (
        "spec.rateLimits.server.service",
        reason::RATE_LIMIT_SERVER_NOT_FOUND,
    );
    let server = settings.limiter.as_ref();
    let missing = missing_server(settings, world, server, named, consequence);
    let plain = plain_server(settings, server, "spec.rateLimits.server.address");
    missing.into_iter().chain(plain).collect()
}

impl Compiled {
    /// The rate limit service, if it is a service of the cluster.
    pub(super) fn limiter_service(&self) -> Option<(&NamespacedName, Port)> {
        self.settings.limiter.as_ref()?.service()
    }

    /// The cluster of a rate limit service outside the mesh, or of one that is not there.
    pub(super) fn limiter_host(&self) -> Arc<Part> {
        let server = self.settings.limiter.as_ref();
        let host = server.and_then(CalledServer::outside).cloned();
        let origins = self.settings.origin.iter().cloned().collect();
        let of = |called: &CalledHost| called_host(LIMITER, called, cluster::questions_to);
        self.shared.limiters.of((host, origins), of)
    }
}
