//! The application behind the sidecar, as the clusters of its ports.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use prost::Message;

use super::inbound::InboundInput;
use crate::envoy::{cluster, metrics, tls};
use crate::finding::ObjectRef;
use crate::resource::{Part, Resource, ResourceKind};
use crate::world::{Capture, Port};

/// `in|<port>`, and `in|*` for the rest.
pub(crate) fn in_name(port: Option<Port>) -> String {
    port.map_or_else(|| "in|*".to_owned(), |port| format!("in|{port}"))
}

/// All that decides the cluster of a port of the application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Application {
    pub(crate) port: Port,
    /// Without capture: where it listens.
    at: Option<SocketAddr>,
    /// The service that leads here, for metrics.
    service: Option<Arc<str>>,
    origins: BTreeSet<ObjectRef>,
}

impl Application {
    pub(crate) fn new(input: &InboundInput, port: Port, service: Option<&Arc<str>>) -> Self {
        let at = match &input.capture {
            Capture::Standalone(standalone) => Some(SocketAddr::new(standalone.app, port.get())),
            Capture::Redirect => None,
        };
        Self {
            port,
            at,
            service: service.cloned(),
            origins: input.origins.clone(),
        }
    }
}

/// Makes the cluster of a port. It differs between services, so it is not part of the server's side that pods share.
pub(crate) fn application(input: &Application) -> Part {
    let name = in_name(Some(input.port));
    let cluster = match input.at {
        Some(at) => cluster::fixed(&name, at),
        None => cluster::application(&name),
    };
    Part {
        resources: vec![resource(cluster, input.service.as_deref(), &input.origins)],
    }
}

/// Makes the cluster of all other ports: no pod, service or policy names them.
pub(crate) fn rest(origins: &BTreeSet<ObjectRef>) -> Arc<Resource> {
    resource(cluster::application(&in_name(None)), None, origins)
}

/// The cluster that opens TLS to a port of the application, for the kubelet's requests.
pub(crate) fn tls_application(name: &str, origins: &BTreeSet<ObjectRef>) -> Arc<Resource> {
    let cluster = Cluster {
        transport_socket: Some(tls::unverified()),
        ..cluster::application(name)
    };
    resource(cluster, None, origins)
}

fn resource(
    mut cluster: Cluster,
    service: Option<&str>,
    origins: &BTreeSet<ObjectRef>,
) -> Arc<Resource> {
    cluster.metadata = Some(metrics::of_service(service));
    cluster.alt_stat_name = metrics::stat_name(service);
    let body = cluster.encode_to_vec();
    let kind = ResourceKind::Cluster;
    Resource::new(kind, &cluster.name, body, Vec::new(), origins.clone())
}
